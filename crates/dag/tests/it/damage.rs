//! Damaged and random nodes: an answer or an error, never a panic.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use dag::{Cid, HashKind, Profile};
use pacstore_dag as dag;
use proptest::prelude::*;

use crate::hostile::Always;
use crate::support::{Blocks, build, custom, prng, store_file};

/// Some honest DAGs to be damaged.
static HONEST: LazyLock<(Vec<Cid>, Blocks)> = LazyLock::new(honest);

fn honest() -> (Vec<Cid>, Blocks) {
    let small = custom(|p| {
        (p.chunker, p.width, p.raw_leaves) = (dag::Chunker::Fixed(100), 3, false);
        p.threshold.bytes = 300;
    });
    let mut blocks = Blocks::new();
    let file = store_file(&small, &prng(2500, "file"), &mut blocks);
    let entries: BTreeMap<_, _> = (0..300)
        .map(|i| (format!("name {i}").into_bytes(), file))
        .collect();
    let (hamt, mut shards) = build(&small, entries.clone());
    let (flat, mut node) = build(&Profile::UNIXFS_V1_2025, entries.into_iter().take(4));
    let (link, symlink) = dag::symlink(&small, b"target");
    blocks.append(&mut shards);
    blocks.append(&mut node);
    blocks.insert(symlink.cid, symlink.data);
    (vec![file.cid, hamt.cid, flat.cid, link.cid], blocks)
}

/// Gives every block, one of them damaged.
struct Damaged<'b> {
    blocks: &'b Blocks,
    cid: Cid,
    data: Bytes,
}

impl dag::BlockSource for Damaged<'_> {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, dag::SourceError> {
        Ok(if *cid == self.cid {
            Some(self.data.clone())
        } else {
            self.blocks.get(cid).cloned()
        })
    }
}

fn read_in_every_way(root: &Cid, source: &dyn dag::BlockSource) {
    let _ = dag::describe(root, source).map(|file| dag::read_plan(&file, 0..u64::MAX).count());
    let _ = dag::list(root, source);
    let _ = dag::resolve(root, &[b"name 7"], source);
    let change = (b"name 7".to_vec(), None);
    let _ = dag::edit_directory(
        &Profile::KUBO_CIDV1,
        Some(root),
        [change],
        source,
        &mut Blocks::new(),
    );
    let below = (b"name 7/x".to_vec(), dag::Change::Remove);
    let _ = dag::edit_tree(
        &Profile::KUBO_CIDV1,
        Some(root),
        [below],
        source,
        &mut Blocks::new(),
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_nodes_never_panic(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let (roots, blocks) = &*HONEST;
        let (cid, data) = which.get(&blocks.iter().collect::<Vec<_>>()).to_owned();
        let mut data = data.to_vec();
        for (at, byte) in damage {
            let at = at.index(data.len());
            data[at] = byte;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        let _ = dag::links(cid, &data);
        let _ = dag::kind(cid, &data);
        let source = Damaged { blocks, cid: *cid, data: data.into() };
        for root in roots {
            read_in_every_way(root, &source);
        }
    }

    #[test]
    fn random_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        let cid = dag::cid_of(dag::DAG_PB, HashKind::Sha2_256, &data);
        let _ = dag::links(&cid, &data);
        let _ = dag::kind(&cid, &data);
        let _ = dag::car::Reader::new(&data[..]).map(Iterator::count);
        read_in_every_way(&cid, &Always(data.into()));
    }
}
