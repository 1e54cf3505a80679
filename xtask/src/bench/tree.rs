//! `bench tree`: changing 10 of 100,000 entries, beside building them from nothing.

use std::collections::HashMap;
use std::time::Instant;

use pacstore_dag::{BlockSink as _, Change, Entry, HashKind, Profile, edit_tree, raw_cid};

use super::table::Table;
use super::{Args, median};

/// Entries of the tree, and how many change.
const ENTRIES: usize = 100_000;
const CHANGED: usize = 10;

/// Builds and edits; prints the ratio.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut table = Table::default();
    let profile = &Profile::UNIXFS_V1_2025;
    for folders in [8, 1] {
        let (mut built, mut edited, mut nodes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..args.passes {
            let all = entries(0..ENTRIES, folders, 0);
            let start = Instant::now();
            let mut blocks = HashMap::new();
            let tree = edit_tree(profile, None, all, &(), &mut blocks)?;
            built.push(start.elapsed().as_secs_f64() * 1e3);
            let some = entries((0..CHANGED).map(|n| n * 9973 % ENTRIES), folders, 1);
            let start = Instant::now();
            let mut new = Vec::new();
            let edit = edit_tree(profile, Some(&tree.root.cid), some, &blocks, &mut new)?;
            edited.push(start.elapsed().as_secs_f64() * 1e3);
            nodes = edit.new_nodes;
            for block in new {
                blocks.put(block)?;
            }
        }
        let (built, edited) = (median(built), median(edited));
        let what = format!("replace {CHANGED} of {ENTRIES} entries, folders: {folders} ({nodes} new nodes)");
        table.at_most(&what, edited, built, "ms", 0.01);
        table.limit("  its time", edited, "ms", 50.0);
    }
    table.print();
    Ok(())
}

/// Paths and what they lead to; `version` makes other files of them.
fn entries(numbers: impl Iterator<Item = usize>, folders: usize, version: u8) -> Vec<(Vec<u8>, Change)> {
    let entry = |number: usize| {
        let data = [&number.to_le_bytes()[..], &[version]].concat();
        let path = format!(
            "repo{}/package{number:06}-1.0-1-x86_64.pkg.tar.zst",
            number % folders
        );
        let cid = raw_cid(HashKind::Sha2_256, &data);
        (path.into_bytes(), Change::Set(Entry { cid, tsize: 150_000 }))
    };
    numbers.map(entry).collect()
}
