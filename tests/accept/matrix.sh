# The matrix: update 029 and then 045 of a real repository, in each way that a pacman may be connected. (Sourced by run.sh.)
#
#               with an importer                       without
#               peers     mirror only  peers dying     peers  mirror only  peers dying
#   Server      small.sh  here         here, large.sh  here   here         here          every pacman
#   CacheServer here      here         here            here   here         here          pacman 6.1 and later
#
# "Mirror only": the head is here, who published it is not. "Dying": the line to the peers breaks after 900 kB.
mkdir "$work/matrix"; cd "$work/matrix" || exit 1
# shellcheck source=/dev/null
. "$here/world.sh"
repo=arcolinux_repo_testing

# cell WHO WAY FROM PACMAN: importer|solo server|cache peers|mirror|dying.
cell() {
  local who=$1 way=$2 from=$3 pm=$4 version what code lan upstream mirror up path
  version=$("$pm" --version | grep -o 'Pacman v[0-9.]*'); what="$version, $who, $way, $from"
  # Short: sockets of gpg's agent lie below it.
  local dir=${who:0:1}${way:0:1}${from:0:1}${version#* v}; mkdir "$dir"; cd "$dir" || exit 1
  materialize 029 up; serve mirror upstream up 0; mirror=$FD; up=$ADDR
  echo "set -e; sh $fixture/materialize.sh $fixture 045 $PWD/up copy" >update.sh
  if [ "$who" = importer ]; then
    path=ipns/$name/x86_64; giver "$PWD/up"
    led cli "$(cat giver.key)" "$PEER" "$up"; start cli; has_head cli "$(tree giver "$name")"
    # The update comes when the importer is back; then it stays, or goes again.
    cat >>update.sh <<T
echo heal >$PWD/relay.ctl
$bin --home $PWD/giver import $name --once
want=\$($bin --home $PWD/giver resolve $name --json | grep -o '"tree": *"[^"]*"' | head -1)
for i in \$(seq 600); do $bin --home $PWD/cli resolve $name --json | grep -qF "\$want" && break; sleep 0.1; done
T
    [ "$from" = mirror ] && { echo stop >&"$RELAY"; echo "echo stop >$PWD/relay.ctl" >>update.sh; }
  else
    path=pacman/$repo/x86_64; PEER=
    if [ "$from" != mirror ]; then
      # Another client, which has all packages.
      solo giver "$repo" "${up}x86_64/"; start giver
      cat >warm.sh <<T
cd $PWD/up/x86_64; curl -sSf -o /dev/null $GATEWAY/$path/$repo.db
for file in *.pkg.tar.zst; do curl -sSfL -o /dev/null $GATEWAY/$path/\$file || exit 1; done
T
      sh warm.sh || no "$what: the peer does not get the packages"
      relay 0
    fi
    solo cli "$repo" "${up}x86_64/" "$PEER"; start cli
    [ -z "$PEER" ] || connected cli
  fi
  # One after the other then, so that some are whole before it breaks.
  local parallel=5; [ "$from" = dying ] && { parallel=1; echo 'cut 900000' >&"$RELAY"; }
  local base=$GATEWAY/$path more=()
  [ "$way" = cache ] && { base=${up}x86_64; more=(-H "$GATEWAY/$path" -C); }
  PACMAN_BIN=$pm bash "$accept" -b "$base" "${more[@]}" -r "$repo" -k "$fixture/keys/arcolinux.gpg" -n 10 -P $parallel -U "sh $PWD/update.sh" \
    -E hyprland-protocols-git=0.6.4.r0.3a5c2bd-1 -w "$PWD/p" >accept.out 2>&1; code=$?
  is "$what ($(tail -1 accept.out))" "$code" 0
  "$bin" --home cli status --json >cli.json
  lan=$(field bytes.lan <cli.json); upstream=$(field bytes.upstream <cli.json)
  local told="$what: $lan bytes from peers, $upstream from the mirror"
  case $from in
    peers) if [ "$lan" -gt "$upstream" ]; then ok "$told"; else no "$told"; fi ;;
    mirror) if [ "$lan" -lt 100000 ] && [ "$upstream" -gt 1000000 ]; then ok "$told"; else no "$told"; fi ;;
    dying) if [ "$lan" -gt 300000 ] && [ "$upstream" -gt 300000 ]; then ok "$told"; else no "$told"; fi ;;
  esac
  [ "$who" = importer ] || is "$what: the repository is current" "$(field repositories.0.state <cli.json)" current
}

cells=()
for pm in "$@"; do
  for way in server cache; do
    [ $way = server ] || knows_cache_server "$pm" || continue
    for who in importer solo; do
      for from in peers mirror dying; do
        [ "$who $way $from" = 'importer server peers' ] || cells+=("cell $who $way $from $pm")
      done
    done
  done
done
lanes 2 "${cells[@]}"
is 'the matrix has all its cells' "$(cat lane? | grep -c 'ACCEPT OK')" "${#cells[@]}"
