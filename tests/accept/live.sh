# The 45 updates as a live upstream over rsync, an importer that follows it, and pacman that upgrades from the importer's own
# gateway all the while (live.py says what must hold). (Sourced by run.sh.)
#
# PACSTORE_LIVE=whole gives each update twelve seconds instead of two (nine minutes), PACSTORE_LIVE=N gives it N.
[ -d "$fixture/snapshots" ] || { echo "skip live: $fixture is not there"; return 0; }
mkdir "$work/live"; cd "$work/live" || exit 1
case ${PACSTORE_LIVE:-2} in whole) pace=12 ;; *) pace=${PACSTORE_LIVE:-2} ;; esac
mkdir up
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
rport=$(free)
printf 'use chroot = no\npid file = %s/rsyncd.pid\nport = %s\naddress = 127.0.0.1\n[repo]\npath = %s/up\nread only = yes\nuid = 0\ngid = 0\n' "$PWD" "$rport" "$PWD" >rsyncd.conf
rsync --daemon --no-detach --config=rsyncd.conf >rsyncd.log 2>&1 & rsyncd=$!; pids+=("$rsyncd")
for ((i = 0; i < 100; i++)); do rsync "rsync://127.0.0.1:$rport/" >/dev/null 2>&1 && break; sleep 0.1; done
hport=$(free)
python3 -m http.server --bind 127.0.0.1 --directory up "$hport" >http.out 2>&1 & http=$!; pids+=("$http")
importer imp "$name" "rsync://127.0.0.1:$rport/repo/"; sed -i 's/^every = "manual"/every = "1s"/; s/^mdns = false/mdns = false\ndht = "off"/' imp/pacstore.toml
start imp; imp=$PID
mkdir pacman
while IFS= read -r line; do
  case $line in
    'ok   '*) ok "${line#ok   }" ;;
    'no   '*) no "${line#no   }" ;;
    *) echo "  $line" ;;
  esac
done < <(python3 "$here/live.py" "$fixture" "$PWD/up" "$GATEWAY/ipns/$name/x86_64" "http://127.0.0.1:$hport/x86_64" "$PWD/pacman" "$pace" "$@" 2>live.err; echo "exit $?" >live.code)
is 'live: it ran to its end' "$(cat live.code) $(tail -1 live.err)" 'exit 0 '
for ((i = 0; i < 300; i++)); do [ "$(tree imp "$name")" = "$("$bin" cid up | cut -f1)" ] && break; sleep 0.1; done
is 'live: the tree is what cid says of the last update' "$(tree imp "$name")" "$("$bin" cid up | cut -f1)"
"$bin" --home imp status --json >status.json
echo "  $(python3 -c 'import json; print("rounds:", json.load(open("status.json"))["imports"][0].get("outcomes"))')"
stop "$imp"; stop "$rsyncd"; stop "$http"
