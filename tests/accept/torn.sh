# A torn upstream changes nothing and is named. (Sourced by run.sh.)
mkdir "$work/torn"; cd "$work/torn" || exit 1
package=$(cd "$fixture/snapshots/029" && awk -F'\t' '$1 ~ /pkg\.tar\.zst$/ && $6 == "present" {print $1}' manifest | head -1)
for how in missing truncated other newer; do
  rm -rf up "$how"; materialize 029 up
  importer "$how" "$name" "$PWD/up"
  "$bin" --home "$how" import "$name" --once >/dev/null 2>&1 || no "torn: first import"
  before=$(tree "$how" "$name")
  case $how in
    missing) rm "up/$package" ;;
    truncated) cp "up/$package" p.new; truncate -s -100 p.new; mv p.new "up/$package" ;;
    other) python3 - "up/$package" <<'P'
import os,sys
p=sys.argv[1]; b=bytearray(open(p,'rb').read()); b[len(b)//2]^=1; open(p+'.n','wb').write(b); os.rename(p+'.n',p)
P
    ;;
    newer) materialize 030 next; cp next/x86_64/*.db next/x86_64/*.db.sig next/x86_64/*.files next/x86_64/*.files.sig up/x86_64/ 2>/dev/null; find up -name '*pkg.tar.zst' | sort | tail -1 >/dev/null
      materialize 045 next; cp next/x86_64/*.db next/x86_64/*.db.sig next/x86_64/*.files next/x86_64/*.files.sig up/x86_64/ ;;
  esac
  "$bin" --home "$how" import "$name" --once >"$how.out" 2>"$how.err"; is "torn ($how): exit 1" $? 1
  is "torn ($how): the tree did not move" "$(tree "$how" "$name")" "$before"
  is "torn ($how): the state says so" "$("$bin" --home "$how" resolve "$name" --json | field state)" torn
  wanted=$(basename "$package"); [ "$how" = newer ] && wanted=pkg.tar
  if grep -q "$wanted" "$how.err"; then ok "torn ($how): named: $(grep -m1 "$wanted" "$how.err" | cut -c1-150)"; else no "torn ($how): not named: $(head -3 "$how.err")"; fi
done
