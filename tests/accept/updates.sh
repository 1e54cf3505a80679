# All 45 updates in a row, incrementally: after each the tree is that of an import from nothing and of `cid`; only three
# snapshots stay. (Sourced by run.sh.)
mkdir "$work/updates"; cd "$work/updates" || exit 1
importer inc "$name" "$PWD/up" 'keep = { age = "0s", count = 3 }'
wrong=0; codes=
for n in $(cut -f1 "$fixture/SNAPSHOTS.tsv" | tail -n +2); do
  materialize "$n" up
  "$bin" --home inc import "$name" --once >/dev/null 2>inc.log; code=$?
  codes="$codes $code"
  got=$(tree inc "$name"); cid=$("$bin" cid up | cut -f1)
  [ "$got" = "$cid" ] || { wrong=$((wrong + 1)); echo "  update $n: tree $got, cid $cid (exit $code)"; }
  rm -rf fresh fresh.key; importer fresh "$name" "$PWD/up"
  "$bin" --home fresh import "$name" --once >/dev/null 2>&1
  fresh=$(tree fresh "$name"); [ "$got" = "$fresh" ] || { wrong=$((wrong + 1)); echo "  update $n: tree $got, from nothing $fresh"; }
done
is "45 updates: each tree is that of cid and of an import from nothing (exits$codes)" "$wrong" 0
"$bin" --home inc gc --json >gc.json 2>gc.log; is 'gc runs' $? 0
"$bin" --home inc gc --target 0 >/dev/null 2>&1
start inc; "$bin" --home inc status --json >inc.json; stop "$PID"
is 'three snapshots stay' "$(field mirrors.0.heads <inc.json)" 3
# What is left is what the three trees hold: import them anew elsewhere and compare the bytes.
need=$(for n in 043 044 045; do materialize "$n" last >/dev/null; (cd last && find . -type f ! -name .materialized -exec sha256sum {} +); done | sort -u -k1,1 | wc -l)
is 'gc leaves exactly the files of the three newest snapshots' "$(field store.files <inc.json)" "$need"
