# Files of many leaves over a thin line, with a slow upstream beside it; the importer dies in the middle of the largest.
# (Sourced by run.sh.)
mkdir "$work/large"; cd "$work/large" || exit 1
mib=1048576
"$LAB" repo repo lab.gpg small=$((3 * mib)) middle=$((64 * mib)) big=$((300 * mib)) || no 'large: repository'
folder=$(cd repo && dirname "$(find . -name lab.db -o -type l -name lab.db | head -1)"); folder=${folder#.}; folder=${folder#/}
. "$here/world.sh"
pm=$1; version=$("$pm" --version | grep -o 'Pacman v[0-9.]*')
importer imp large.test "$PWD/repo"; sed -i 's/^mdns = false/mdns = false\ndht = "off"/' imp/pacstore.toml
start imp; imp=$PID
"$bin" --home imp import large.test --once >/dev/null 2>imp.err; is 'large: import' $? 0
direct=$(addresses imp); port=$(echo "$direct" | sed -n 's,.*/tcp/\([0-9]*\)/.*,\1,p')
serve relay relay "127.0.0.1:$port" $((5 * 1000 * 1000)); relay=$FD; thin=${direct/tcp\/$port/tcp\/${ADDR##*:}}
serve mirror upstream repo $((1000 * 1000)); mirror=$FD
client cli large.test "$(cat imp.key)" "$thin" "upstreams = [\"$ADDR\"]"; sed -i 's/^mdns = false/mdns = false\ndht = "off"/' cli/pacstore.toml
start cli; cli=$PID
for ((i = 0; i < 300; i++)); do [ "$(tree cli large.test 2>/dev/null)" = "$(tree imp large.test)" ] && break; sleep 0.1; done
is 'large: the client has the head' "$(tree cli large.test)" "$(tree imp large.test)"
( cd / && PACMAN_BIN=$pm exec bash "$accept" -b "$GATEWAY/ipns/large.test${folder:+/$folder}" -r lab -k "$work/large/lab.gpg" -m 400000000 -n 3 -w "$work/large/pacman" ) >accept.out 2>&1 & judge=$!
killed=no
for ((i = 0; i < 1200; i++)); do
  part=$(find pacman -name 'big-*.part' -size +30720k 2>/dev/null | head -1)
  [ -n "$part" ] && { kill -9 "$imp"; killed=yes; at=$(stat -c %s "$part"); echo 'rate 0' >&"$mirror"; break; }
  kill -0 "$judge" 2>/dev/null || break
  sleep 0.1
done
is "large: the importer was killed after ${at:-0} bytes of the big file" "$killed" yes
before=$(ask relay "$relay" | sed -n 's/^down //p')
wait "$judge"; code=$?; is "large: $version ($(tail -1 accept.out))" "$code" 0
ask mirror "$mirror" >mirror.log; down=$(ask relay "$relay" | sed -n 's/^down //p')
"$bin" --home cli status --json >status.json
python3 - "$down" <<'P' >overlap.out
import sys,re
down=int(sys.argv[1]); files={}
for line in open('mirror.log'):
    p=line.split()
    if len(p)!=3 or not p[0].split('/')[-1].startswith('big-') or p[0].endswith('.sig'): continue
    files.setdefault(p[0],[]).append((int(p[1]),int(p[2])))
MIB=1<<20
ranges=[r for l in files.values() for r in l if r[1]>r[0]]
twice=0; seen=set()
for a,b in sorted(ranges):
    for leaf in range(a//MIB,(b-1)//MIB+1):
        whole = a<=leaf*MIB and (leaf+1)*MIB<=b
        if leaf in seen and whole: twice+=1
        if whole: seen.add(leaf)
print(twice, len(seen))
P
read -r twice upstream_leaves <overlap.out
is 'large: no leaf was asked of the upstream twice' "$twice" 0
# What crossed the thin line and what the upstream sent, against the sizes of the files: the rest came twice.
sent=$(awk '{s += $3 - $2} END {print s}' mirror.log); total=$(find repo -name '*.pkg.tar.*' ! -name '*.sig' -printf '%s\n' | awk '{s += $1} END {print s}')
extra=$(((down + sent - total) / mib))
if [ "$extra" -le 10 ]; then ok "large: peer and upstream overlap by $extra MiB of $((total / mib)) (framing and databases counted; $upstream_leaves leaves of the big file from upstream)"; else no "large: $extra MiB came twice (line $down, upstream $sent, files $total)"; fi
exec {relay}>&- {mirror}>&-
stop "$cli"
