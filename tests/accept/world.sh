# What large, matrix, prefetch, thin and faults have in common: parts of the outside world, a machine of pacman's, two lanes. (Sourced by them.)

# serve NAME ARGS...: runs the lab in the background; its address in ADDR, orders to FD and NAME.ctl.
serve() {
  local name=$1; shift
  : >"$name.out"; mkfifo "$name.ctl"; "$LAB" "$@" <"$name.ctl" >"$name.out" 2>"$name.err" & pids+=($!)
  exec {FD}>"$name.ctl"
  for ((i = 0; i < 100; i++)); do ADDR=$(head -1 "$name.out" 2>/dev/null); [ -n "$ADDR" ] && return; sleep 0.1; done
  no "$name does not start"
}
# ask NAME FD: the answer to `log`.
ask() { local lines; lines=$(wc -l <"$1.out"); echo log >&"$2"; for ((i = 0; i < 100; i++)); do [ "$(tail -1 "$1.out")" = end ] && break; sleep 0.1; done; tail -n +$((lines + 1)) "$1.out"; }
# base HOME PEER: a client that knows one peer or none, and nobody else in the world.
base() {
  mkdir -p "$1"; chmod 700 "$1"
  cat >"$1/pacstore.toml" <<T
[gateway]
listen = "127.0.0.1:0"
[swarm]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = []
mdns = false
dht = "off"
peers = [${2:+\"$2\"}]
T
}
# solo HOME REPO FOLDER [PEER]: with a repository of no importer.
solo() { base "$1" "${4:-}"; printf '[[repository]]\nname = "%s"\nupstreams = ["%s"]\npublic = true\n' "$2" "$3" >>"$1/pacstore.toml"; }
# led HOME KEY PEER [UPSTREAM]: with a mirror of an importer.
led() { base "$1" "$3"; printf '[[mirror]]\nname = "%s"\nimporters = ["%s"]\nlayout = "plain"\nupstreams = [%s]\n' "$name" "$2" "${4:+\"$4\"}" >>"$1/pacstore.toml"; }
# giver FROM: an importer that has published it, behind a relay of RATE bytes a second; its address in PEER, orders to RELAY.
giver() {
  importer giver "$name" "$1"; sed -i 's/^mdns = false/mdns = false\ndht = "off"/' giver/pacstore.toml
  start giver; giver=$PID
  "$bin" --home giver import "$name" --once >/dev/null 2>giver.err || no "$what: import"
  relay "${2:-0}"
}
# relay RATE: a line to the giver.
relay() {
  local direct port; direct=$(addresses giver); port=$(echo "$direct" | sed -n 's,.*/tcp/\([0-9]*\)/.*,\1,p')
  serve relay relay "127.0.0.1:$port" "$1"; RELAY=$FD; PEER=${direct/tcp\/$port/tcp\/${ADDR##*:}}
}
connected() { for ((i = 0; i < 300; i++)); do [ "$("$bin" --home "$1" status --json | field peers)" = 1 ] && return; sleep 0.1; done; no "$what: $1 does not connect"; }
has_head() { for ((i = 0; i < 600; i++)); do [ "$(tree "$1" "$name" 2>/dev/null)" = "$2" ] && return; sleep 0.1; done; no "$what: $1 has no head"; }
# machine KEY LINES...: an empty system with one repository `lab`, signed by the key; pm ARGS... runs pacman in it.
machine() {
  rm -rf r; mkdir -p r/root r/db r/cache r/g; chmod 755 r/g; touch r/g/pubring.gpg
  { printf '[options]\nArchitecture = x86_64\nSigLevel = Required TrustedOnly\nParallelDownloads = 5\nDBPath = %s/r/db/\nCacheDir = %s/r/cache/\n[lab]\n' "$PWD" "$PWD"; printf '%s\n' "${@:2}"; } >r/pacman.conf
  printf 'lock-never\nno-autostart\nno-permission-warning\n' >r/g/gpg.conf
  gpg --homedir r/g --batch -q --import "$1" 2>/dev/null
  gpg --homedir r/g --batch --with-colons --list-keys 2>/dev/null | awk -F: '$1=="fpr"{print $10":6:"}' | gpg --homedir r/g --batch -q --import-ownertrust 2>/dev/null
}
pm() { "$pacman" --noconfirm --noprogressbar --noscriptlet --color never --config r/pacman.conf --root r/root --dbpath r/db --gpgdir r/g --logfile r/log "$@" </dev/null >r/out 2>&1; }
# went WORDS: pacman's last run ended well; else what it said.
went() { local code=$?; is "$1" "$code" 0; [ "$code" = 0 ] || sed 's/^/     /' r/out; }
knows_cache_server() { [ "$(printf '6.1\n%s\n' "$("$1" --version | sed -n 's/.*Pacman v\([0-9.]*\).*/\1/p')" | sort -V | head -1)" = 6.1 ]; }

# lanes N COMMAND...: runs each command in a shell of its own, N at a time; counts what they print.
lanes() {
  local count=$1 lane one line started=(); shift; local all=("$@")
  for ((lane = 0; lane < count; lane++)); do
    for ((i = lane; i < ${#all[@]}; i += count)); do
      read -r -a one <<<"${all[i]}"
      (pids=(); trap 'kill "${pids[@]}" 2>/dev/null; wait 2>/dev/null' EXIT; "${one[@]}")
    done >"lane$lane" 2>&1 &
    started+=($!)
  done
  pids+=("${started[@]}"); wait "${started[@]}"
  while IFS= read -r line; do
    case $line in 'ok   '*) passed=$((passed + 1)) ;; 'FAIL '*) failed=$((failed + 1)) ;; esac; echo "$line"
  done < <(for ((lane = 0; lane < count; lane++)); do cat "lane$lane"; done)
}
