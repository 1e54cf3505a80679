//! Targets of crate `dag`: nodes, HAMT shards, CAR streams.
//!
//! - Not here: several hostile blocks that link each other (`crates/dag/tests/it/hostile.rs`).

use std::collections::BTreeMap;

use bytes::Bytes;
use pacstore_dag::{self as dag, Cid, DAG_PB, Entry, FileBuilder, HashKind, Profile, SizeEstimate};

type Blocks = BTreeMap<Cid, Bytes>;

/// The CID of a dag-pb node of these bytes, whatever they are.
fn node_cid(bytes: &[u8]) -> Cid {
    dag::cid_of(DAG_PB, HashKind::Sha2_256, bytes)
}

/// A block read as each thing that a dag-pb node can be.
pub(crate) fn node(bytes: &[u8]) {
    let cid = node_cid(bytes);
    let block = Bytes::copy_from_slice(bytes);
    let blocks = Blocks::from([(cid, block.clone())]);
    let links = dag::links(&cid, bytes);
    if let Ok(links) = &links {
        assert!(links.len() * 2 <= bytes.len(), "a link takes bytes");
    }
    let _ = dag::kind(&cid, bytes);
    if let Ok(data) = dag::leaf_data(&cid, &block) {
        assert!(data.len() <= bytes.len());
    }
    if let Ok(file) = dag::describe(&cid, &blocks) {
        assert!(file.leaves.len() <= bytes.len().max(1), "a leaf takes bytes");
    }
    let _ = dag::resolve(&cid, &[b"a", b"b"], &blocks);
    let _ = dag::resolve(&cid, &[], &blocks);
    edit(&cid, &blocks);
}

/// Adds an entry to whatever this is; if that goes, the entry is there, and the same edit again changes nothing.
fn edit(cid: &Cid, blocks: &Blocks) {
    let profile = Profile::UNIXFS_V1_2025;
    let entry = Entry {
        cid: dag::raw_cid(HashKind::Sha2_256, b"new"),
        tsize: 3,
    };
    let change = || [(b"new".to_vec(), Some(entry))];
    let mut new = Blocks::new();
    let Ok(edited) = dag::edit_directory(&profile, Some(cid), change(), blocks, &mut new) else {
        return;
    };
    new.extend(blocks.iter().map(|(cid, block)| (*cid, block.clone())));
    let listed = dag::list(&edited.cid, &new);
    if let Ok(listed) = listed {
        assert!(
            listed.contains(&(b"new".to_vec(), entry)),
            "the new entry is not there"
        );
    }
    let again = dag::edit_directory(&profile, Some(&edited.cid), change(), &new, &mut Blocks::new());
    assert_eq!(
        again.ok(),
        Some(edited),
        "the same edit again is another directory"
    );
}

/// Files, directories and a symlink.
pub(crate) fn node_seeds() -> Vec<Vec<u8>> {
    let profile = Profile::UNIXFS_V1_2025;
    let mut seeds = vec![
        dag::empty_directory(&profile).1.data.to_vec(),
        dag::symlink(&profile, b"../pool/a.pkg.tar.zst").1.data.to_vec(),
    ];
    let mut parameters = *profile.parameters();
    (parameters.chunker, parameters.width, parameters.raw_leaves) = (dag::Chunker::Fixed(100), 3, false);
    let small = Profile::custom(parameters).expect("possible parameters");
    let mut file = FileBuilder::new(&small);
    file.push(&[7; 1000]);
    seeds.extend(file.finish().nodes.iter().map(|node| node.data.to_vec()));
    let mut blocks = Blocks::new();
    dag::edit_directory(&profile, None, names(9), &(), &mut blocks).expect("good names");
    seeds.extend(blocks.values().map(|block| block.to_vec()));
    seeds
}

/// As [`node`]: a shard is a node. Its seeds are shards.
pub(crate) fn hamt(bytes: &[u8]) {
    node(bytes);
}

/// The shards of HAMTs with wide and narrow nodes.
pub(crate) fn hamt_seeds() -> Vec<Vec<u8>> {
    let shards = |fanout: usize| {
        let mut parameters = *Profile::UNIXFS_V1_2025.parameters();
        parameters.fanout = fanout;
        (parameters.threshold.bytes, parameters.threshold.estimate) = (1, SizeEstimate::LinksBytes);
        let profile = Profile::custom(parameters).expect("possible parameters");
        let mut blocks = Blocks::new();
        dag::edit_directory(&profile, None, names(12), &(), &mut blocks).expect("good names");
        blocks.into_values().map(|block| block.to_vec())
    };
    [256, 8, 1024].into_iter().flat_map(shards).collect()
}

fn names(n: u8) -> impl Iterator<Item = (Vec<u8>, Option<Entry>)> {
    (0..n).map(|i| {
        let cid = dag::raw_cid(HashKind::Sha2_256, &[i]);
        let tsize = u64::from(i) << (i * 3);
        (
            format!("package-{i}-1.0-1-any.pkg.tar.zst").into_bytes(),
            Some(Entry { cid, tsize }),
        )
    })
}

/// A CAR stream: each block that comes out is the one its CID names.
pub(crate) fn car(bytes: &[u8]) {
    let Ok(mut reader) = dag::car::Reader::new(bytes) else {
        return;
    };
    assert!(reader.roots().len() <= bytes.len());
    // Every section takes a byte at least, so this many steps reach the end.
    for _ in 0..=bytes.len() {
        match reader.next_block() {
            Ok(Some(block)) => dag::verify(&block.cid, &block.data).expect("a block that was verified"),
            Ok(None) => return,
            Err(_) => {}
        }
    }
}

/// A stream of some blocks, and one without any.
pub(crate) fn car_seeds() -> Vec<Vec<u8>> {
    let profile = Profile::UNIXFS_V1_2025;
    let mut blocks = Blocks::new();
    let root = dag::edit_directory(&profile, None, names(3), &(), &mut blocks).expect("good names");
    let mut full = dag::car::Writer::new(Vec::new(), &[root.cid]).expect("memory takes everything");
    for (cid, data) in &blocks {
        full.write(cid, data).expect("memory takes everything");
    }
    let leaf = b"a package";
    full.write(&dag::raw_cid(HashKind::Blake2b256, leaf), leaf)
        .expect("memory takes everything");
    let empty = dag::car::Writer::new(Vec::new(), &[]).expect("memory takes everything");
    [full, empty]
        .map(|writer| writer.finish().expect("memory takes everything"))
        .into()
}
