#!/bin/bash
# The whole way with the real pacman: importer, client, peers only; then a large file whose importer dies.
#
#   run.sh PACSTORE [PACMAN ...]     PACSTORE is the binary; each PACMAN is a pacman to test with (default: the one in PATH)
#
# PACSTORE_ACCEPT: which parts, of small large updates torn matrix prefetch thin faults stops live (default: all).
# LAB: the testkit's `lab` example (default: examples/lab beside PACSTORE; `cargo test --no-run` builds it).
# Needs ../shared (fixture and pacman-accept.sh), root, pacman, gpg, python3, curl. Everything happens on 127.0.0.1 and in a
# throw-away directory. Prints one line a step; the last line is `accept: N passed, 0 failed`. Exit 0 or 1.
set -u
here=$(cd "$(dirname "$0")" && pwd); shared=${PACSTORE_SHARED:-$here/../../../shared}
bin=$1; shift; [ $# -gt 0 ] || set -- pacman
bin=$(cd "$(dirname "$bin")" && pwd)/$(basename "$bin"); LAB=${LAB:-$(dirname "$bin")/examples/lab}
fixture=$shared/fixtures/arcolinux-testing; accept=$shared/accept/pacman-accept.sh
work=$(mktemp -d "${TMPDIR:-/tmp}/pacstore-accept.XXXXXX"); pids=(); passed=0; failed=0
cleanup() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done; wait 2>/dev/null; [ "$failed" = 0 ] && rm -rf "$work" || echo "accept: work directory kept: $work"; }
trap cleanup EXIT
ok() { passed=$((passed + 1)); echo "ok   $*"; }
no() { failed=$((failed + 1)); echo "FAIL $*"; }
is() { if [ "$2" = "$3" ]; then ok "$1"; else no "$1: got '$2', wanted '$3'"; fi; }

# start HOME: runs a daemon, sets PID, GATEWAY, waits for its ready line.
start() {
  local home=$1 i line
  : >"$home.out" # what an earlier one said must not be taken for its answer
  "$bin" --home "$home" daemon >"$home.out" 2>"$home.log" & PID=$!; pids+=("$PID")
  for ((i = 0; i < 300; i++)); do
    line=$(grep -m1 "^ready " "$home.out" 2>/dev/null) && { GATEWAY=${line#ready gateway=}; GATEWAY=${GATEWAY%% *}; return 0; }
    kill -0 "$PID" 2>/dev/null || break
    sleep 0.1
  done
  echo "daemon of $home did not start:"; tail -5 "$home.log"; exit 1
}
stop() { kill "$1" 2>/dev/null; wait "$1" 2>/dev/null; }
addresses() { "$bin" --home "$1" id --json | python3 -c 'import json,sys; print([a for a in json.load(sys.stdin)["addresses"] if "/tcp/" in a and "127.0.0.1" in a][0])'; }
field() { python3 -c 'import json,sys; d=json.load(sys.stdin)
for k in sys.argv[1].split("."): d=d[int(k)] if k.isdigit() else d[k]
print(d)' "$1"; }
tree() { "$bin" --home "$1" resolve "$2" --json | field tree; }

# importer HOME NAME FROM [more lines]: a configuration without any peer of the world.
importer() {
  local home=$1 name=$2 from=$3 more=${4:-}
  "$bin" --home "$home" key new key >"$home.key" || exit 1
  cat >"$home/pacstore.toml" <<T
[gateway]
listen = "127.0.0.1:0"
[swarm]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = []
mdns = false
[[import]]
mirror = "$name"
from = "$from"
key = "key"
every = "manual"
$more
T
}
client() {
  local home=$1 name=$2 key=$3 peer=$4 more=${5:-}
  mkdir -p "$home"; chmod 700 "$home"
  cat >"$home/pacstore.toml" <<T
[gateway]
listen = "127.0.0.1:0"
[swarm]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = []
mdns = false
peers = ["$peer"]
[[mirror]]
name = "$name"
importers = ["$key"]
layout = "plain"
$more
T
}
materialize() { sh "$fixture/materialize.sh" "$fixture" "$1" "$2" copy >/dev/null; }

name=arco.test
for part in ${PACSTORE_ACCEPT:-small large updates torn matrix prefetch thin faults stops live}; do
  # shellcheck source=/dev/null
  . "$here/$part.sh"
done
echo "accept: $passed passed, $failed failed"
[ "$failed" = 0 ]
