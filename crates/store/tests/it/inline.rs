//! Leaves and directories whose bytes stand in their CIDs, as Kubo's `--inline` makes them.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use pacstore_dag::{
    self as dag, Block, Change, DAG_PB, Entry, FileDag, HashKind, IDENTITY, Parameters, Profile, RAW,
    edit_tree, from_leaves, raw_cid,
};
use pacstore_store::{ByOrigin, Intake, Origin, Partial, Sha256, Store};

use crate::kit::{Home, Hook, TINY, TestResult, add, assert_sound, bytes, put, read, sha256};

fn inline(codec: u64, block: &[u8]) -> Cid {
    Cid::new_v1(codec, Multihash::wrap(IDENTITY, block).unwrap())
}

/// A dag-pb leaf over fewer than 100 bytes.
fn wrapped(data: &[u8]) -> Vec<u8> {
    let len = u8::try_from(data.len()).unwrap();
    let message = [&[0x08, 0x02, 0x12, len], data, &[0x18, len]].concat();
    [&[0x0a, len + 6], &message[..]].concat()
}

/// A directory with one entry of a name of one letter.
fn directory(name: u8, root: &Cid) -> Vec<u8> {
    let cid = root.to_bytes();
    let len = u8::try_from(cid.len()).unwrap();
    let link = [&[0x0a, len][..], &cid, &[0x12, 1, name, 0x18, 9]].concat();
    [&[0x12, len + 7][..], &link, &[0x0a, 2, 0x08, 1]].concat()
}

/// Leaves of 20 bytes, four to a node.
fn short_leaves() -> Profile {
    Profile::custom(Parameters {
        chunker: dag::Chunker::Fixed(20),
        ..*TINY.parameters()
    })
    .unwrap()
}

/// A file of which some leaves are inline, one as a raw block and one as a node, and as what it reads.
fn mixed() -> (FileDag, Vec<u8>) {
    let data = bytes(1, 107);
    let leaf = |index: usize| {
        let piece = &data[20 * index..data.len().min(20 * index + 20)];
        let cid = match index {
            1 | 5 => inline(RAW, piece),
            3 => inline(DAG_PB, &wrapped(piece)),
            _ => raw_cid(HashKind::Sha2_256, piece),
        };
        (cid, piece.len() as u64)
    };
    (
        from_leaves(&short_leaves(), (0..6).map(leaf).collect()).unwrap(),
        data,
    )
}

fn write(partial: &Partial, data: &[u8], index: usize) -> TestResult {
    let range = 20 * index..data.len().min(20 * index + 20);
    Ok(partial.write_leaf(index, &data[range], Origin::Peer)?)
}

/// What the store says of a whole [`mixed`] file.
fn assert_whole(store: &Store, home: &Home, file: &FileDag, data: &[u8]) -> TestResult {
    assert_eq!(read(store, &file.root).as_deref(), Some(data));
    for (index, leaf) in file.leaves.iter().enumerate() {
        let block = store.block(&leaf.cid)?.ok_or("a leaf")?;
        let range = 20 * index..data.len().min(20 * index + 20);
        assert_eq!(dag::leaf_data(&leaf.cid, &block)?, data[range.clone()]);
        // Whoever asks for the same bytes by their digest gets them, too.
        let by_digest = raw_cid(HashKind::Sha2_256, &data[range]);
        assert_eq!(
            store.block(&by_digest)?.map(|block| block.len() as u64),
            Some(leaf.len)
        );
    }
    for node in &file.nodes {
        assert_eq!(store.block(&node.cid)?.as_ref(), Some(&node.data));
    }
    assert_eq!(
        dag::describe(&file.root, store)?.leaves,
        file.leaves,
        "by its nodes"
    );
    let known = store.dag_of(&file.root)?.ok_or("its DAG")?;
    assert_eq!((known.len, known.nodes.len()), (file.len, file.nodes.len()));
    for leaf in &known.leaves {
        dag::verify(&leaf.cid, &store.block(&leaf.cid)?.ok_or("a leaf")?)?;
    }
    assert_sound(store, home);
    Ok(())
}

#[test]
fn leaves_that_their_cids_carry_are_here_at_once_and_the_others_arrive() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (file, data) = mixed();
    let partial = store.begin_partial(&file)?;
    assert_eq!(partial.missing(), [0, 2, 4]);
    assert_eq!(partial.read_leaf(3)?, data[60..80]);
    for index in [4, 0, 2] {
        write(&partial, &data, index)?;
    }
    let info = partial.finish(Sha256::Expect(sha256(&data)))?;
    let by_origin = ByOrigin {
        disk: 47,
        peer: 60,
        ..ByOrigin::default()
    };
    assert_eq!(info.by_origin, by_origin);
    assert_whole(&store, &home, &file, &data)?;
    drop((partial, store));
    let store = home.open();
    assert_whole(&store, &home, &file, &data)
}

#[test]
fn a_process_that_is_killed_loses_none_of_them() -> TestResult {
    let home = Home::new(1 << 20);
    let (file, data) = mixed();
    let hook = Hook::never();
    let store = home.open_hooked(&hook)?;
    let partial = store.begin_partial(&file)?;
    write(&partial, &data, 2)?;
    hook.kill.store(true, Ordering::SeqCst);
    drop((partial, store));
    let store = home.open();
    assert_eq!(store.stats().partials, 1);
    let partial = store.begin_partial(&file)?;
    assert_eq!(partial.missing(), [0, 4]);
    for index in [0, 4] {
        write(&partial, &data, index)?;
    }
    // Whose digest nobody knows is checked by its leaves.
    partial.finish(Sha256::Skip)?;
    assert_whole(&store, &home, &file, &data)?;
    let path = crate::kit::only_file(&home);
    let mut broken = data.clone();
    broken[65] ^= 1;
    std::fs::write(path, broken)?;
    let report = store.fsck(true, &mut |_| {})?;
    assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
    assert_eq!(store.file(&file.root)?, None);
    Ok(())
}

#[test]
fn a_file_with_them_is_taken_in_by_a_batch() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (file, data) = mixed();
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &file, Intake::Copy)?;
    batch.commit()?;
    assert_whole(&store, &home, &file, &data)
}

#[test]
fn a_leaf_that_its_cid_contradicts_is_refused() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (mut file, _) = mixed();
    let twenty = file.leaves[3].cid;
    for cid in [
        inline(RAW, b"short"),
        inline(DAG_PB, b"\x0a\x03no\x01"),
        inline(dag::DAG_CBOR, &[1; 20]),
    ] {
        file.leaves[3].cid = cid;
        let refused = store.begin_partial(&file).err().ok_or("refused")?;
        assert!(refused.to_string().contains("its CID carries"), "{refused}");
    }
    file.leaves[3].cid = twenty;
    store.begin_partial(&file)?;
    Ok(())
}

/// A retained tree holds what hangs below directories that are no blocks, however many stand in each other.
#[test]
fn what_hangs_below_an_inline_directory_is_held_and_let_go_of() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (kept, other) = (
        put(&store, &home, &bytes(2, 500)),
        put(&store, &home, &bytes(3, 500)),
    );
    let below = inline(DAG_PB, &directory(b'f', &kept));
    let nothing: std::collections::BTreeMap<Cid, Bytes> = std::collections::BTreeMap::new();
    let mut nodes: Vec<Block> = Vec::new();
    let entry = Entry { cid: below, tsize: 9 };
    let tree = edit_tree(
        &TINY,
        None,
        [(b"d".to_vec(), Change::Set(entry))],
        &nothing,
        &mut nodes,
    )?;
    store.put_nodes(&nodes)?;
    store.retain("tree", &tree.root.cid)?;
    store.gc(Some(0))?;
    assert_eq!(
        (read(&store, &kept).map(|data| data.len()), read(&store, &other)),
        (Some(500), None)
    );
    assert_sound(&store, &home);
    store.release("tree")?;
    store.gc(Some(0))?;
    assert_eq!(read(&store, &kept), None);
    assert_sound(&store, &home);
    Ok(())
}
