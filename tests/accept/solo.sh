# No importer: update 029 and then 045 of a real repository through a client that knows only the mirror, as Server and as
# CacheServer; then through one that has a peer, which gives the packages. (Sourced by run.sh.)
mkdir "$work/solo"; cd "$work/solo" || exit 1
repo=arcolinux_repo_testing
# solo HOME PUBLIC PEER: a client with the repository on the mirror at $port.
solo() {
  mkdir -p "$1"; chmod 700 "$1"
  cat >"$1/pacstore.toml" <<T
[gateway]
listen = "127.0.0.1:0"
[swarm]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = []
mdns = false
dht = "off"
peers = [${3:+\"$3\"}]
[[repository]]
name = "$repo"
upstreams = ["http://127.0.0.1:$port/x86_64/"]
public = $2
T
}
packages() { grep -c 'GET [^ ]*\.pkg\.tar\.zst HTTP' http.out; }
again() { rm -rf up; materialize 029 up; }
again
(cd "$work/solo" && exec python3 -m http.server --bind 127.0.0.1 --directory up 0) >http.out 2>&1 & http=$!; pids+=("$http")
for ((i = 0; i < 100; i++)); do port=$(ss -Hltnp 2>/dev/null | grep "pid=$http," | sed -n 's/.*127.0.0.1:\([0-9]*\).*/\1/p' | head -1); [ -n "$port" ] && break; sleep 0.1; done
update="sh $fixture/materialize.sh $fixture 045 $PWD/up copy"
count=0
for pm in "$@"; do
  count=$((count + 1)); version=$("$pm" --version | grep -o 'Pacman v[0-9.]*')
  again; solo "one$count" true ''; start "one$count"; one=$PID; gateway=$GATEWAY
  PACMAN_BIN=$pm bash "$accept" -b "$gateway/pacman/$repo/x86_64" -r "$repo" -k "$fixture/keys/arcolinux.gpg" -n 27 -U "$update" \
    -E hyprland-protocols-git=0.6.4.r0.3a5c2bd-1 -w "$PWD/one$count.d" >"one$count.acc" 2>&1; code=$?
  is "$version: no importer, Server, mirror only ($(tail -1 "one$count.acc"))" "$code" 0
  "$bin" --home "one$count" status --json >"one$count.json"
  is "$version: the repository is current" "$(field repositories.0.state <"one$count.json")" current

  again; before=$(packages); solo "two$count" true "$(addresses "one$count")"; start "two$count"; two=$PID
  for ((i = 0; i < 100; i++)); do [ "$("$bin" --home "two$count" status --json | field peers)" = 1 ] && break; sleep 0.1; done
  PACMAN_BIN=$pm bash "$accept" -b "$GATEWAY/pacman/$repo/x86_64" -r "$repo" -k "$fixture/keys/arcolinux.gpg" -n 27 -U "$update" \
    -E hyprland-protocols-git=0.6.4.r0.3a5c2bd-1 -w "$PWD/two$count.d" >"two$count.acc" 2>&1; code=$?
  is "$version: no importer, Server, a peer ($(tail -1 "two$count.acc"))" "$code" 0
  "$bin" --home "two$count" status --json >"two$count.json"
  asked=$(($(packages) - before))
  if [ "$(field bytes.lan <"two$count.json")" -gt 0 ] && [ "$asked" -le 3 ]; then ok "$version: packages came from the peer ($(field bytes.lan <"two$count.json") bytes; $asked were asked of the mirror)"; else no "$version: $asked packages were asked of the mirror; $(cat "two$count.json")"; fi
  stop "$two"

  if [ "$(printf '6.1\n%s\n' "${version#* v}" | sort -V | head -1)" = 6.1 ]; then
    again; solo "three$count" false ''; start "three$count"; three=$PID
    PACMAN_BIN=$pm bash "$accept" -b "http://127.0.0.1:$port/x86_64" -H "$GATEWAY/pacman/\$repo/\$arch" -C -r "$repo" -k "$fixture/keys/arcolinux.gpg" -n 27 -U "$update" \
      -E hyprland-protocols-git=0.6.4.r0.3a5c2bd-1 -w "$PWD/three$count.d" >"three$count.acc" 2>&1; code=$?
    is "$version: no importer, CacheServer ($(tail -1 "three$count.acc"))" "$code" 0
    stop "$three"
  fi
  stop "$one"
done
stop "$http"
