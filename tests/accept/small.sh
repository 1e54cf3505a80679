# Update 029 of a real repository by directory, HTTP and rsync: one tree. Then pacman takes it from a client that has peers
# only, and update 045 after it. (Sourced by run.sh.)
mkdir "$work/small"; cd "$work/small" || exit 1
materialize 029 up
importer dir "$name" "$work/small/up"
"$bin" --home dir import "$name" --once >/dev/null 2>&1; is 'import by directory publishes' $? 0
"$bin" --home dir import "$name" --once >/dev/null 2>&1; is 'nothing changed: exit 3' $? 3
want=$(tree dir "$name")
is 'the tree is what cid says of the directory' "$("$bin" cid up | cut -f1)" "$want"

python3 -m http.server --bind 127.0.0.1 --directory up 0 >http.out 2>&1 & http=$!; pids+=("$http")
for ((i = 0; i < 100; i++)); do port=$(ss -Hltnp 2>/dev/null | grep "pid=$http," | sed -n 's/.*127.0.0.1:\([0-9]*\).*/\1/p' | head -1); [ -n "$port" ] && break; sleep 0.1; done
importer http "$name" "http://127.0.0.1:$port/"
"$bin" --home http import "$name" --once >/dev/null 2>http.log; is 'import by HTTP publishes' $? 0
is 'HTTP gives the same tree' "$(tree http "$name")" "$want"
stop "$http"

rport=$((20000 + RANDOM % 20000))
printf 'use chroot = no\npid file = %s/rsyncd.pid\nport = %s\naddress = 127.0.0.1\n[repo]\npath = %s/up\nread only = yes\nuid = 0\ngid = 0\n' "$PWD" "$rport" "$PWD" >rsyncd.conf
rsync --daemon --no-detach --config=rsyncd.conf >rsyncd.log 2>&1 & rsyncd=$!; pids+=("$rsyncd")
for ((i = 0; i < 100; i++)); do rsync "rsync://127.0.0.1:$rport/" >/dev/null 2>&1 && break; sleep 0.1; done
importer rsync "$name" "rsync://127.0.0.1:$rport/repo/"
"$bin" --home rsync import "$name" --once >/dev/null 2>rsync.log; is 'import by rsync publishes' $? 0
is 'rsync gives the same tree' "$(tree rsync "$name")" "$want"
stop "$rsyncd"

count=0
for pm in "$@"; do
  count=$((count + 1)); version=$("$pm" --version | grep -o 'Pacman v[0-9.]*')
  rm -rf up; materialize 029 up
  importer "imp$count" "$name" "$work/small/up"
  start "imp$count"; imp=$PID
  "$bin" --home "imp$count" import "$name" --once >/dev/null 2>&1; is "$version: import through the daemon" $? 0
  client "cli$count" "$name" "$(cat "imp$count.key")" "$(addresses "imp$count")"
  start "cli$count"; cli=$PID
  for ((i = 0; i < 300; i++)); do [ "$(tree "cli$count" "$name" 2>/dev/null)" = "$want" ] && break; sleep 0.1; done
  is "$version: the client has the head" "$(tree "cli$count" "$name")" "$want"
  PACMAN_BIN=$pm bash "$accept" -b "$GATEWAY/ipns/$name" -r arcolinux_repo_testing -k "$fixture/keys/arcolinux.gpg" -n 27 \
    -U "sh $fixture/materialize.sh $fixture 045 $PWD/up copy && $bin --home $PWD/imp$count import $name --once" \
    -E hyprland-protocols-git=0.6.4.r0.3a5c2bd-1 -w "$PWD/pacman$count" >"accept$count.out" 2>&1; code=$?
  is "$version: pacman-accept over peers only ($(tail -1 "accept$count.out"))" "$code" 0
  "$bin" --home "cli$count" status --json >"status$count.json"
  is "$version: nothing from upstream" "$(field bytes.upstream <"status$count.json")" 0
  is "$version: nothing from disk" "$(field bytes.disk <"status$count.json")" 0
  stop "$cli"; stop "$imp"
done
