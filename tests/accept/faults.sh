# The real pacman while things go wrong, no importer: killed in the middle, `.part` over a change of Servers, many at once,
# the mirror away, the daemon stopped and hung. (Sourced by run.sh.)
mkdir "$work/faults"; cd "$work/faults" || exit 1
mib=1048576
"$LAB" repo repo lab.gpg a=$((9 * mib)) b=$((5 * mib)) c=$((2 * mib)) d=700000 e=40000 f=30000 g=20000 h=10000 || no 'faults: repository'
. "$here/world.sh"
serve mirror upstream repo 0; mirror=$FD; up=$ADDR
folder=$(cd repo && dirname "$(find . -name lab.db | head -1)"); folder=${folder#.}; folder=${folder#/}; up=${up%/}${folder:+/$folder}
mkdir -p cli; chmod 700 cli
cat >cli/pacstore.toml <<T
[gateway]
listen = "127.0.0.1:0"
[swarm]
listen = ["/ip4/127.0.0.1/tcp/0"]
bootstrap = []
mdns = false
dht = "off"
[[repository]]
name = "lab"
upstreams = ["$up/"]
T
export PACSTORE_LOG=info,pacstore_http=debug
start cli; cli=$PID; server=$GATEWAY/pacman/lab/x86_64
# fresh PARALLEL SERVER...: a new root; pm runs pacman in it.
fresh() {
  rm -rf r; mkdir -p r/root r/db r/cache r/g; chmod 755 r/g; touch r/g/pubring.gpg
  { printf '[options]\nArchitecture = x86_64\nSigLevel = Required TrustedOnly\nParallelDownloads = %s\nCacheDir = %s/r/cache/\n[lab]\n' "$1" "$PWD"; shift; for s in "$@"; do echo "Server = $s"; done; } >r/pacman.conf
  printf 'lock-never\nno-autostart\nno-permission-warning\n' >r/g/gpg.conf
  gpg --homedir r/g --batch -q --import lab.gpg 2>/dev/null
  gpg --homedir r/g --batch --with-colons --list-keys 2>/dev/null | awk -F: '$1=="fpr"{print $10":6:"}' | gpg --homedir r/g --batch -q --import-ownertrust 2>/dev/null
}
# pm ARGS...: what pacman said stays in r/out.
pm() { "$pacman" --noconfirm --noprogressbar --color never --config r/pacman.conf --root r/root --dbpath r/db --gpgdir r/g --logfile r/log "$@" </dev/null >r/out 2>&1; }
# went WORDS: pacman's last run ended well; else what it said.
went() { local code=$?; is "$1" "$code" 0; [ "$code" = 0 ] || sed 's/^/     /' r/out; }
whole() { # the cache has exactly the repository's packages, byte by byte
  local f n=0; for f in repo/${folder:+$folder/}*.pkg.tar.zst; do cmp -s "$f" "r/cache/$(basename "$f")" || { echo "$(basename "$f")"; return; }; n=$((n + 1)); done; echo "$n"
}
count=0
for pacman in "$@"; do
  count=$((count + 1)); version=$("$pacman" --version | grep -o 'Pacman v[0-9.]*')
  for parallel in 1 5 20; do
    fresh "$parallel" "$server"; pm -Sy; went "$version, $parallel at once: -Sy"
    pm -Swdd a b c d e f g h; went "$version, $parallel at once: -Sw"
    is "$version, $parallel at once: all packages right" "$(whole)" 8
  done
  pm -Syy; went "$version: -Syy"
  pm -Fy; went "$version: -Fy"
  before=$(grep -c 'lab.db" status=304' cli.log); pm -Sy; went "$version: a second -Sy"
  is "$version: ... is not modified" "$(($(grep -c 'lab.db" status=304' cli.log) - before))" 1

  # Killed in the middle of a download, then again: it goes on with its .part. The mirror is made slow enough to be caught, and
  # what the store has goes first.
  fresh 1 "$server"; pm -Sy; stop "$cli"; rm -rf cli/state/store; start cli; cli=$PID; server=$GATEWAY/pacman/lab/x86_64; sed -i "s,^Server = .*,Server = $server," r/pacman.conf
  echo "rate $((3 * mib))" >&"$mirror"
  "$pacman" --noconfirm --noprogressbar --config r/pacman.conf --root r/root --dbpath r/db --gpgdir r/g --logfile r/log -Swdd a </dev/null >r/out 2>&1 & victim=$!; pids+=("$victim")
  for ((i = 0; i < 300; i++)); do [ -n "$(find r/cache -name '*.part' -size +100k 2>/dev/null)" ] && break; kill -0 "$victim" 2>/dev/null || break; sleep 0.02; done
  kill -9 "$victim" 2>/dev/null; wait "$victim" 2>/dev/null; rm -f r/db/db.lck
  echo "rate 0" >&"$mirror"
  pm -Swdd a b c d e f g h; went "$version: killed in the middle, then -Sw"
  is "$version: killed in the middle: all packages right" "$(whole)" 8

  # A .part of another Server is gone on with here.
  fresh 1 "$server"; pm -Sy; big=$(basename repo/${folder:+$folder/}a-*.zst); head -c 3000000 "repo/${folder:+$folder/}$big" >"r/cache/$big.part"
  pm -Swdd a; went "$version: a .part begun elsewhere"
  if cmp -s "repo/${folder:+$folder/}$big" "r/cache/$big"; then ok "$version: the .part is completed right"; else no "$version: the .part is spoiled"; fi

  # The daemon hangs, then is stopped: pacman goes on to its next Server.
  fresh 5 "$server" "$up"; kill -STOP "$cli"
  pm -Sy && pm -Swdd e f; code=$?; kill -CONT "$cli"
  (exit $code); went "$version: the daemon hangs, pacman goes on to the mirror"
  stop "$cli"; fresh 5 "$server" "$up"
  pm -Sy && pm -Swdd e f; went "$version: the daemon is stopped, pacman goes on to the mirror"
  start cli; cli=$PID; server=$GATEWAY/pacman/lab/x86_64
done
# Off-line, everything is here.
exec {mirror}>&-
for pacman in "$@"; do
  fresh 5 "$server"; pm -Sy && pm -Swdd a b c d e f g h; is "$("$pacman" --version | grep -o 'Pacman v[0-9.]*'): the mirror is gone, all comes from the store" $? 0
  is "off-line: all packages right" "$(whole)" 8
done
stop "$cli"
