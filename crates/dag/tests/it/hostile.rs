//! Nodes made to mislead: each ends in an error, at once and without much memory.

use bytes::Bytes;
use cid::multihash::Multihash;
use dag::{Cid, Entry, HashKind, Profile, ReadError};
use pacstore_dag as dag;

use crate::support::Blocks;

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n > 127 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
}

fn bytes(field: u8, data: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    varint(&mut out, data.len() as u64);
    [out, data.to_vec()].concat()
}

fn number(field: u8, n: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    varint(&mut out, n);
    out
}

fn link(cid: &Cid, name: &[u8]) -> Vec<u8> {
    bytes(
        2,
        &[bytes(1, &cid.to_bytes()), bytes(2, name), number(3, 1)].concat(),
    )
}

fn node(links: &[(Cid, &[u8])], unixfs: &[Vec<u8>]) -> Vec<u8> {
    let mut out: Vec<u8> = links.iter().flat_map(|(cid, name)| link(cid, name)).collect();
    out.extend(bytes(1, &unixfs.concat()));
    out
}

fn file_node(children: &[(Cid, u64)], size: u64) -> Vec<u8> {
    let links: Vec<_> = children.iter().map(|(cid, _)| (*cid, &b""[..])).collect();
    let mut unixfs = vec![number(1, 2), number(3, size)];
    unixfs.extend(children.iter().map(|(_, len)| number(4, *len)));
    node(&links, &unixfs)
}

fn shard_node(links: &[(Cid, &[u8])], bitfield: &[u8]) -> Vec<u8> {
    node(
        links,
        &[number(1, 5), bytes(2, bitfield), number(5, 0x22), number(6, 256)],
    )
}

fn put(blocks: &mut Blocks, data: Vec<u8>) -> Cid {
    let cid = dag::cid_of(dag::DAG_PB, HashKind::Sha2_256, &data);
    blocks.insert(cid, data.into());
    cid
}

fn raw(content: u8) -> Cid {
    dag::raw_cid(HashKind::Sha2_256, &[content])
}

fn malformed<T: std::fmt::Debug>(result: Result<T, ReadError>) -> &'static str {
    match result {
        Err(ReadError::Malformed { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

fn describe_node(data: Vec<u8>) -> Result<dag::FileDag, ReadError> {
    let mut blocks = Blocks::new();
    let cid = put(&mut blocks, data);
    dag::describe(&cid, &blocks)
}

fn list_node(data: Vec<u8>) -> Result<Vec<(Vec<u8>, Entry)>, ReadError> {
    let mut blocks = Blocks::new();
    let cid = put(&mut blocks, data);
    dag::list(&cid, &blocks)
}

#[test]
fn sizes_that_lie_are_errors() {
    let one = raw(1);
    assert_eq!(
        malformed(describe_node(file_node(&[(one, 5)], 6))),
        "file size is not the sum of its parts"
    );
    let more = node(
        &[(one, b"")],
        &[number(1, 2), number(3, 5), number(4, 3), number(4, 2)],
    );
    assert_eq!(
        malformed(describe_node(more)),
        "number of block sizes is not that of links"
    );
    let none = node(&[(one, b"")], &[number(1, 2), number(3, 0)]);
    assert_eq!(
        malformed(describe_node(none)),
        "number of block sizes is not that of links"
    );
    let over = file_node(&[(one, u64::MAX), (one, 2)], 1);
    assert_eq!(malformed(describe_node(over)), "block sizes overflow");
    let long = file_node(&[(one, 3 << 20)], 3 << 20);
    assert_eq!(malformed(describe_node(long)), "raw leaf over 2 MiB");
    let inline = Cid::new_v1(dag::RAW, Multihash::wrap(dag::IDENTITY, b"abc").unwrap());
    assert_eq!(
        malformed(describe_node(file_node(&[(inline, 4)], 4))),
        "leaf is not as long as its parent says"
    );
    assert_eq!(describe_node(file_node(&[(inline, 3)], 3)).unwrap().len, 3);
}

#[test]
fn a_child_of_another_length_than_its_parent_says_is_an_error() {
    let mut blocks = Blocks::new();
    let child = put(&mut blocks, file_node(&[(raw(1), 1), (raw(2), 1)], 2));
    for (claimed, fits) in [(2, true), (1, false), (3, false)] {
        let root = put(
            &mut blocks,
            file_node(&[(child, claimed), (raw(3), 1)], claimed + 1),
        );
        match dag::describe(&root, &blocks) {
            Ok(file) => assert!(fits && file.len == 3),
            error => assert_eq!(
                (fits, malformed(error)),
                (false, "child is not as long as its parent says")
            ),
        }
    }
}

#[test]
fn children_that_are_no_part_of_a_file_are_errors() {
    let mut blocks = Blocks::new();
    let directory = put(&mut blocks, node(&[], &[number(1, 1)]));
    let root = put(&mut blocks, file_node(&[(directory, 0)], 0));
    assert!(matches!(dag::describe(&root, &blocks), Err(ReadError::NotAFile(cid)) if cid == directory));
    let cbor = dag::cid_of(dag::DAG_CBOR, HashKind::Sha2_256, b"x");
    assert_eq!(
        malformed(describe_node(file_node(&[(cbor, 1)], 1))),
        "child of a file is neither raw nor dag-pb"
    );
    assert!(matches!(
        dag::describe(&cbor, &blocks),
        Err(ReadError::NotAFile(_))
    ));
    assert!(matches!(
        dag::describe(&directory, &blocks),
        Err(ReadError::NotAFile(_))
    ));
}

/// A source that lies: whatever is asked, it gives the same node.
pub(crate) struct Always(pub(crate) Bytes);

impl dag::BlockSource for Always {
    fn get(&self, _: &Cid) -> Result<Option<Bytes>, dag::SourceError> {
        Ok(Some(self.0.clone()))
    }
}

#[test]
fn a_file_that_contains_itself_is_too_deep() {
    let me = dag::cid_of(dag::DAG_PB, HashKind::Sha2_256, b"me");
    let result = dag::describe(&me, &Always(file_node(&[(me, 0), (me, 0)], 0).into()));
    assert!(matches!(result, Err(ReadError::TooDeep(_))), "{result:?}");
}

#[test]
fn a_directory_that_contains_itself_ends_every_walk() {
    let me = dag::cid_of(dag::DAG_PB, HashKind::Sha2_256, b"me");
    let every_slot: Vec<String> = (0..256).map(|slot| format!("{slot:02X}")).collect();
    let links: Vec<(Cid, &[u8])> = every_slot.iter().map(|slot| (me, slot.as_bytes())).collect();
    let source = Always(shard_node(&links, &[0xff; 32]).into());
    assert!(matches!(dag::list(&me, &source), Err(ReadError::TooDeep(_))));
    assert!(matches!(
        dag::resolve(&me, &[b"name"], &source),
        Err(ReadError::TooDeep(_))
    ));
    let mut out = Blocks::new();
    let edit = |change| {
        dag::edit_directory(
            &Profile::KUBO_CIDV1,
            Some(&me),
            [change],
            &source,
            &mut Blocks::new(),
        )
    };
    let error = edit((b"name".to_vec(), None)).unwrap_err();
    assert!(
        matches!(
            error,
            dag::EditError::Read(ReadError::TooDeep(_) | ReadError::TooLarge { .. })
        ),
        "{error:?}"
    );
    let nothing = dag::edit_directory(&Profile::KUBO_CIDV1, Some(&me), [], &source, &mut out);
    assert!(
        matches!(nothing, Err(dag::EditError::Read(ReadError::TooLarge { .. }))),
        "{nothing:?}"
    );
}

#[test]
fn a_dag_whose_few_nodes_unfold_to_endlessly_many_leaves_is_too_large() {
    let mut blocks = Blocks::new();
    let (mut child, mut len) = (raw(1), 1);
    for _ in 0..6 {
        child = put(&mut blocks, file_node(&vec![(child, len); 1000], len * 1000));
        len *= 1000;
    }
    assert!(matches!(
        dag::describe(&child, &blocks),
        Err(ReadError::TooLarge { .. })
    ));
    // The same of empty parts, where no length gives it away.
    let mut child = put(&mut blocks, file_node(&[], 0));
    for _ in 0..6 {
        child = put(&mut blocks, file_node(&vec![(child, 0); 1000], 0));
    }
    assert!(matches!(
        dag::describe(&child, &blocks),
        Err(ReadError::TooLarge { .. })
    ));
    // And of shards: all lead to one that is not here.
    let mut child = dag::cid_of(dag::DAG_PB, HashKind::Sha2_256, b"not here");
    let every_slot: Vec<String> = (0..256).map(|slot| format!("{slot:02X}")).collect();
    for _ in 0..6 {
        let links: Vec<(Cid, &[u8])> = every_slot.iter().map(|slot| (child, slot.as_bytes())).collect();
        child = put(&mut blocks, shard_node(&links, &[0xff; 32]));
    }
    assert!(matches!(
        dag::list(&child, &blocks),
        Err(ReadError::TooLarge { .. })
    ));
}

#[test]
fn nodes_over_two_mebibytes_are_refused() {
    let mut blocks = Blocks::new();
    let leaf = node(
        &[],
        &[
            number(1, 2),
            bytes(2, &vec![7; dag::MAX_BLOCK]),
            number(3, dag::MAX_BLOCK as u64),
        ],
    );
    let cid = put(&mut blocks, leaf.clone());
    assert!(matches!(
        dag::describe(&cid, &blocks),
        Err(ReadError::TooLarge { .. })
    ));
    assert!(matches!(
        dag::resolve(&cid, &[], &blocks),
        Err(ReadError::TooLarge { .. })
    ));
    assert!(matches!(dag::kind(&cid, &leaf), Err(ReadError::TooLarge { .. })));
    assert!(matches!(dag::links(&cid, &leaf), Err(ReadError::TooLarge { .. })));
    assert!(matches!(
        dag::verify(&cid, &leaf),
        Err(dag::VerifyError::TooLong { .. })
    ));
}

#[test]
fn a_node_of_too_many_links_is_refused() {
    let inline = Cid::new_v1(dag::RAW, Multihash::wrap(dag::IDENTITY, b"").unwrap());
    let links = vec![(inline, &b""[..]); dag::MAX_LINKS + 1];
    assert_eq!(
        malformed(list_node(node(&links, &[number(1, 1)]))),
        "too many links"
    );
}

#[test]
fn names_that_stand_twice_are_errors() {
    let (a, b) = (raw(1), raw(2));
    assert_eq!(
        malformed(list_node(node(&[(a, b"x"), (b, b"x")], &[number(1, 1)]))),
        "two entries of one name"
    );
    let apart = node(&[(a, b"x"), (a, b"y"), (b, b"x")], &[number(1, 1)]);
    assert_eq!(malformed(list_node(apart.clone())), "two entries of one name");
    let mut blocks = Blocks::new();
    let root = put(&mut blocks, apart);
    assert_eq!(
        malformed(dag::resolve(&root, &[b"x"], &blocks)),
        "two entries of one name"
    );
    assert_eq!(dag::resolve(&root, &[b"y"], &blocks).unwrap().cid, a);
    // In another order than ours, but each once: as old writers did it.
    let unsorted = node(&[(a, b"y"), (b, b"x")], &[number(1, 1)]);
    let names: Vec<_> = list_node(unsorted)
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, [b"x", b"y"]);
}

#[test]
fn names_that_reach_out_of_their_directory_are_errors() {
    for name in [&b""[..], b".", b"..", b"../../etc/passwd", b"a/b", b"a\0"] {
        let what = malformed(list_node(node(&[(raw(1), name)], &[number(1, 1)])));
        assert_eq!(what, "entry whose name is no file name", "{name:?}");
    }
}

#[test]
fn shards_that_contradict_themselves_are_errors() {
    let a = raw(1);
    let bits = |slots: &[usize]| {
        let mut field = [0u8; 32];
        for slot in slots {
            field[31 - slot / 8] |= 1 << (slot % 8);
        }
        field
    };
    // The hash of `a` begins with 85, that of `b` with 7A.
    let fine = shard_node(&[(a, b"7Ab"), (a, b"85a")], &bits(&[0x7a, 0x85]));
    assert_eq!(list_node(fine).unwrap().len(), 2);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            shard_node(&[(a, b"85a")], &bits(&[0x85, 0x86])),
            "bitfield does not match the links",
        ),
        (
            shard_node(&[(a, b"85a")], &bits(&[0x86])),
            "bitfield does not match the links",
        ),
        (
            shard_node(&[(a, b"85a")], &[]),
            "bitfield does not match the links",
        ),
        (
            shard_node(&[(a, b"85a"), (a, b"7Ab")], &bits(&[0x7a, 0x85])),
            "slots repeated or out of order",
        ),
        (
            shard_node(&[(a, b"85a"), (a, b"85a")], &bits(&[0x7a, 0x85])),
            "slots repeated or out of order",
        ),
        (
            shard_node(&[(a, b"86a")], &bits(&[0x86])),
            "entry in a slot that is not its own",
        ),
        (
            shard_node(&[(a, b"8")], &bits(&[0x85])),
            "link without a slot prefix",
        ),
        (
            shard_node(&[(a, b"zza")], &bits(&[0x85])),
            "link without a slot prefix",
        ),
        (
            node(&[], &[number(1, 5), number(6, 256)]),
            "HAMT with another hash than murmur3-x64-64",
        ),
        (
            node(&[], &[number(1, 5), number(5, 0x22)]),
            "HAMT without a fanout",
        ),
        (
            node(&[], &[number(1, 5), number(5, 0x22), number(6, 0)]),
            "fanout is no power of two from 8 to 1024",
        ),
        (
            node(&[], &[number(1, 5), number(5, 0x22), number(6, 1 << 40)]),
            "fanout is no power of two from 8 to 1024",
        ),
    ];
    for (data, want) in cases {
        assert_eq!(malformed(list_node(data)), want);
    }
}

#[test]
fn sub_shards_that_are_none_are_errors() {
    let mut blocks = Blocks::new();
    let mut bits = [0u8; 32];
    bits[31 - 0x85 / 8] |= 1 << (0x85 % 8);
    let flat = put(&mut blocks, node(&[], &[number(1, 1)]));
    let empty = put(&mut blocks, shard_node(&[], &[]));
    let narrow = put(
        &mut blocks,
        node(
            &[(raw(1), b"5a")],
            &[number(1, 5), bytes(2, &[0, 32]), number(5, 0x22), number(6, 16)],
        ),
    );
    let root_of = |blocks: &mut Blocks, child| put(blocks, shard_node(&[(child, b"85")], &bits));
    for (child, want) in [
        (flat, "sub-shard is no HAMT shard"),
        (empty, "empty sub-shard"),
        (narrow, "sub-shard of another fanout"),
    ] {
        let root = root_of(&mut blocks, child);
        assert_eq!(malformed(dag::list(&root, &blocks)), want);
        assert_eq!(malformed(dag::resolve(&root, &[b"a"], &blocks)), want);
    }
    // One shard in two places: its entries are at home in one of them at most.
    let shard = put(
        &mut blocks,
        shard_node(&[(raw(1), b"55a")], &{
            let mut bits = [0u8; 32];
            bits[31 - 0x55 / 8] |= 1 << (0x55 % 8);
            bits
        }),
    );
    bits[31 - 0x86 / 8] |= 1 << (0x86 % 8);
    let root = put(&mut blocks, shard_node(&[(shard, b"85"), (shard, b"86")], &bits));
    assert_eq!(
        malformed(dag::list(&root, &blocks)),
        "entry in a slot that is not its own"
    );
}

#[test]
fn nodes_that_break_the_wire_format_are_errors() {
    let good_link = bytes(1, &raw(1).to_bytes());
    let wrap = |inner: Vec<u8>| bytes(2, &inner);
    let data = || bytes(1, &number(1, 1));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![0x0a, 0x05, 1], "protobuf message cut short"),
        (vec![0x0b], "unknown protobuf wire type"),
        (number(0, 1), "protobuf field number 0"),
        ([data(), data()].concat(), "two data fields"),
        ([data(), number(7, 1)].concat(), "unknown field in a dag-pb node"),
        (number(1, 1), "unknown field in a dag-pb node"),
        (
            [wrap(good_link.clone()), data(), wrap(good_link.clone())].concat(),
            "links before and after the data",
        ),
        (wrap(bytes(2, b"name")), "link without a CID"),
        (
            wrap([good_link.clone(), good_link.clone()].concat()),
            "unknown, repeated or misplaced field in a link",
        ),
        (
            wrap([number(3, 1), good_link.clone()].concat()),
            "unknown, repeated or misplaced field in a link",
        ),
        (
            [wrap(bytes(1, b"no cid")), data()].concat(),
            "link without a valid CID",
        ),
        (
            [wrap(bytes(1, &[&raw(1).to_bytes()[..], &[0]].concat())), data()].concat(),
            "bytes after the CID of a link",
        ),
    ];
    for (data, want) in cases {
        let cid = dag::cid_of(dag::DAG_PB, HashKind::Sha2_256, &data);
        assert_eq!(
            malformed(dag::links(&cid, &data).and_then(|_| dag::kind(&cid, &data))),
            want
        );
    }
    assert_eq!(
        malformed(list_node(Vec::new())),
        "dag-pb node without UnixFS data"
    );
    assert_eq!(
        malformed(list_node(bytes(1, &[]))),
        "UnixFS message without a type"
    );
    assert_eq!(
        malformed(list_node(bytes(1, &number(1, 9)))),
        "unknown UnixFS type"
    );
    assert_eq!(
        malformed(list_node(bytes(1, &bytes(1, b"")))),
        "UnixFS field of the wrong type"
    );
}

#[test]
fn forms_that_go_takes_are_taken() {
    // Data before links, no name, no Tsize, packed block sizes, unknown UnixFS fields, long varints.
    let links = [
        bytes(2, &bytes(1, &raw(1).to_bytes())),
        bytes(2, &bytes(1, &raw(2).to_bytes())),
    ]
    .concat();
    let unixfs = [
        vec![0x08, 0x82, 0x00],
        number(3, 2),
        bytes(4, &[1, 1]),
        number(15, 1),
    ]
    .concat();
    let file = describe_node([bytes(1, &unixfs), links].concat()).unwrap();
    assert_eq!((file.len, file.leaves.len()), (2, 2));
    // A file node that does not say its size.
    let silent = node(&[(raw(1), b"")], &[number(1, 2), number(4, 9)]);
    assert_eq!(describe_node(silent).unwrap().len, 9);
}

#[test]
fn bytes_in_inner_nodes_come_before_those_of_the_children() {
    let mut blocks = Blocks::new();
    let unixfs = [number(1, 2), bytes(2, b"head"), number(3, 7), number(4, 3)];
    let root = put(&mut blocks, node(&[(raw(1), b"")], &unixfs));
    let file = dag::describe(&root, &blocks).unwrap();
    let got: Vec<_> = file
        .leaves
        .iter()
        .map(|leaf| (leaf.cid, leaf.offset, leaf.len))
        .collect();
    assert_eq!(got, [(root, 0, 4), (raw(1), 4, 3)]);
    assert_eq!(&dag::leaf_data(&root, &blocks[&root]).unwrap()[..], b"head");
    assert_eq!(file.nodes.len(), 1);
}

/// Blocks that count how often they are asked for.
struct Counted {
    blocks: Blocks,
    asked: std::cell::Cell<usize>,
}

impl dag::BlockSource for Counted {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, dag::SourceError> {
        self.asked.set(self.asked.get() + 1);
        Ok(self.blocks.get(cid).cloned())
    }
}

/// A file of one leaf of `len` bytes, doubled so often.
fn doubled(times: u32, mut len: u64) -> (Cid, Counted) {
    let mut blocks = Blocks::new();
    let mut below = raw(1);
    for _ in 0..times {
        let twice = [(below, len), (below, len)];
        len *= 2;
        below = put(&mut blocks, file_node(&twice, len));
    }
    let asked = std::cell::Cell::new(0);
    (below, Counted { blocks, asked })
}

#[test]
fn a_file_of_the_same_few_nodes_again_and_again_is_read_once() {
    let (root, source) = doubled(12, 1);
    let file = dag::describe(&root, &source).unwrap();
    assert_eq!((file.len, file.leaves.len(), file.nodes.len()), (4096, 4096, 12));
    assert_eq!(source.asked.get(), 12);
}

#[test]
fn a_file_that_is_longer_than_any_is_refused_by_its_root() {
    let (root, source) = doubled(21, 2 << 20);
    let refused = dag::describe(&root, &source);
    assert!(
        matches!(refused, Err(ReadError::TooLarge { cid, .. }) if cid == root),
        "{refused:?}"
    );
    assert_eq!(source.asked.get(), 1);
}
