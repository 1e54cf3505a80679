# Updates ahead of time: fetched by the daemon, then mirrors and peers are gone, and `pacman -Syu` completes from the store. With an
# importer and without; killed in the middle; as CacheServer only. (Sourced by run.sh.)
mkdir "$work/prefetch"; cd "$work/prefetch" || exit 1
# shellcheck source=/dev/null
. "$here/world.sh"
mib=1048576
packages=(a=$((5 * mib)) b=$((3 * mib)) c=$((2 * mib)) d=700000 e=40000 f=10000)
"$LAB" repo old lab.gpg "${packages[@]}" && "$LAB" repo new lab.gpg "${packages[@]}" +a +b +c +d +e || no 'prefetch: repository'

# ahead WHO WAY PACMAN: importer|solo server|cache.
ahead() {
  local who=$1 way=$2 pacman=$3 what path=pacman/lab/x86_64 cli mirror giver='' up code
  what="$("$pacman" --version | grep -o 'Pacman v[0-9.]*'), $who, $way"
  local keys=$PWD/lab.gpg old=$PWD/old new=$PWD/new dir=$who-$way-${what//[^0-9.]/}
  mkdir "$dir"; cd "$dir" || exit 1
  cp -a "$old" up; serve mirror upstream up 0; mirror=$FD; up=$ADDR
  if [ "$who" = importer ]; then giver "$PWD/up"; led cli "$(cat giver.key)" "$PEER" "$up"; else solo cli lab "$up"; fi
  printf '[pacman]\nconfig = "%s/r/pacman.conf"\n[prefetch]\nenable = true\nmetered = true\nbattery = true\n' "$PWD" >>cli/pacstore.toml
  start cli; cli=$PID
  [ "$who" = solo ] || has_head cli "$(tree giver "$name")"
  # The port is another one after each start.
  server() { if [ "$way" = cache ]; then machine_lines=("CacheServer = $GATEWAY/$path" "Server = ${up%/}"); else machine_lines=("Server = $GATEWAY/$path"); fi; }
  moved() { sed -i "s,http://[0-9.:]*/$path,$GATEWAY/$path," r/pacman.conf; }
  server; machine "$keys" "${machine_lines[@]}"
  pm -Sy; went "$what: -Sy"
  pm -S a b c d e f; went "$what: installed"

  # The next state of the mirror; killed while it is fetched, and started again.
  echo "rate $mib" >&"$mirror"; [ -z "$giver" ] || echo "rate $mib" >&"$RELAY"
  rsync -a --exclude '*.db*' --exclude '*.files*' "$new/" up/; rsync -a --delete-after "$new/" up/
  if [ -n "$giver" ]; then
    "$bin" --home giver import "$name" --once >/dev/null 2>giver.err || no "$what: import of the update"
    has_head cli "$(tree giver "$name")"
  fi
  "$bin" --home cli prefetch >first.out 2>&1 & local first=$!
  for ((i = 0; i < 300; i++)); do
    "$bin" --home cli status --json >cli.json 2>/dev/null
    [ "$(field prefetch.ready <cli.json)" -gt 0 ] && break; sleep 0.05
  done
  kill -9 "$cli"; wait "$cli" 2>/dev/null; wait "$first" 2>/dev/null
  local before; before=$(field prefetch.missing <cli.json)
  if [ "$before" -gt 0 ]; then ok "$what: killed while $before of 5 updates were missing"; else no "$what: nothing was missing when it was killed"; fi
  start cli; cli=$PID; moved
  echo 'rate 0' >&"$mirror"; [ -z "$giver" ] || { echo 'rate 0' >&"$RELAY"; connected cli; }
  # The daemon does it by itself; this waits for it.
  "$bin" --home cli prefetch >second.out 2>&1; is "$what: all updates are ready ($(tail -1 second.out))" $? 0

  # Nobody is there any more, and the daemon starts anew without them. Databases of a CacheServer are the mirror's.
  if [ "$way" = cache ]; then echo 'refuse *.pkg.tar*' >&"$mirror"; else exec {mirror}>&-; fi
  [ -z "$giver" ] || { exec {RELAY}>&-; kill -9 "$giver"; wait "$giver" 2>/dev/null; }
  stop "$cli"; start cli; cli=$PID; moved
  pm -Syu; went "$what: -Syu with nobody there"
  is "$what: what was upgraded" "$(grep -c '^upgrading ' r/out)" 5
  local f wrong=0; for f in "$new"/[a-e]-*.pkg.tar.zst; do cmp -s "$f" "r/cache/$(basename "$f")" || wrong=$((wrong + 1)); done
  is "$what: packages that are not the mirror's" "$wrong" 0
  pm -Su; grep -q 'there is nothing to do' r/out; is "$what: then nothing is to be done" $? 0
  stop "$cli"
}
cells=()
for pacman in "$@"; do
  cells+=("ahead importer server $pacman" "ahead solo server $pacman")
  knows_cache_server "$pacman" && cells+=("ahead importer cache $pacman" "ahead solo cache $pacman")
done
lanes 2 "${cells[@]}"
