# The real pacman while the daemon is told to stop between two of many signed packages: it asks nobody else for the signature
# of a package that it has from us. (Sourced by run.sh.)
mkdir "$work/stops"; cd "$work/stops" || exit 1
what=stops; names=$(printf 'p%s ' {1..60})
"$LAB" repo repo lab.gpg $(for i in {1..60}; do echo "p$i=$((4000 + i * 300))"; done) || no 'stops: repository'
. "$here/world.sh"
serve mirror upstream repo 0; mirror=$FD
folder=$(cd repo && dirname "$(find . -name lab.db | head -1)"); folder=${folder#.}; folder=${folder#/}; up=${ADDR%/}${folder:+/$folder}
solo cli lab "$up/"; start cli; cli=$PID
sed -i "0,/127.0.0.1:0/s,127.0.0.1:0,${GATEWAY#http://}," cli/pacstore.toml
for pacman in "$@"; do
  version=$("$pacman" --version | grep -o 'Pacman v[0-9.]*'); cut=0
  for after in 0.03 0.06 0.09 0.12 0.15 0.20 0.25 0.30; do
    machine lab.gpg "Server = $GATEWAY/pacman/lab/x86_64" "Server = $up"; pm -Sy
    # shellcheck disable=SC2086
    pm -Swdd $names & run=$!
    sleep "$after"; stop "$cli"; start cli; cli=$PID
    wait "$run" || { cut=$((cut + 1)); grep -m3 error r/out; }
  done
  is "$version: updates that failed because the daemon was told to stop, of eight" "$cut" 0
done
stop "$cli"; exec {mirror}>&-
