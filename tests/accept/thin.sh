# A line of 4 Mbit/s and five downloads at once, from 100 KiB to 8 MiB: pacman never runs into its ten seconds without a byte, with
# an importer (two fifths of the line to the peer, three to the mirror) and without. It has no other server to go to. (Sourced by run.sh.)
mkdir "$work/thin"; cd "$work/thin" || exit 1
# shellcheck source=/dev/null
. "$here/world.sh"
kib=1024
"$LAB" repo up lab.gpg a=$((8192 * kib)) b=$((2000 * kib)) c=$((1500 * kib)) d=$((1000 * kib)) e=$((800 * kib)) f=$((300 * kib)) g=$((100 * kib)) || no 'thin: repository'
thin() {
  local who=$1 pacman=$2 what keys=$PWD/lab.gpg up=$PWD/up mirror url begun
  what="$("$pacman" --version | grep -o 'Pacman v[0-9.]*'), 4 Mbit/s, $who"
  mkdir "$who-${what//[^0-9.]/}"; cd "$who-${what//[^0-9.]/}" || exit 1
  serve mirror upstream "$up" 0; mirror=$FD; url=$ADDR
  if [ "$who" = importer ]; then giver "$up"; led cli "$(cat giver.key)" "$PEER" "$url"; else solo cli lab "$url"; fi
  start cli
  [ "$who" = solo ] || has_head cli "$(tree giver "$name")"
  machine "$keys" "Server = $GATEWAY/pacman/lab/x86_64"
  if [ "$who" = importer ]; then echo 'rate 300000' >&"$mirror"; echo 'rate 200000' >&"$RELAY"; else echo 'rate 500000' >&"$mirror"; fi
  pm -Sy; went "$what: -Sy"; begun=$SECONDS
  pm -Sw a b c d e f g; went "$what: -Sw of seven packages in $((SECONDS - begun)) s"
  is "$what: complaints of pacman" "$(grep -ciE 'too slow|error|warning|failed' r/out)" 0
  local f wrong=0; for f in "$up"/*.pkg.tar.zst; do cmp -s "$f" "r/cache/$(basename "$f")" || wrong=$((wrong + 1)); done
  is "$what: packages that are not the mirror's" "$wrong" 0
}
cells=()
for pacman in "$@"; do cells+=("thin importer $pacman" "thin solo $pacman"); done
lanes 4 "${cells[@]}"
