//! Files: layout from the length alone, streaming, leaves hashed elsewhere, reading back, ranges.

use bytes::Bytes;
use cid::multihash::Multihash;
use dag::{
    Chunker, Cid, FileBuilder, HashKind, LayoutError, Leaf, Parameters, Profile, ProfileError, ReadError,
};
use pacstore_dag as dag;
use proptest::prelude::*;

use crate::support::{Blocks, custom, file, prng, store_file};

#[test]
fn leaves_cover_the_length_in_order() {
    let of = |len, chunk| dag::leaves(len, chunk).unwrap().collect::<Vec<_>>();
    assert_eq!(of(0, 4), vec![0..0]);
    assert_eq!(of(1, 4), vec![0..1]);
    assert_eq!(of(4, 4), vec![0..4]);
    assert_eq!(of(9, 4), vec![0..4, 4..8, 8..9]);
    assert_eq!(
        dag::leaves(u64::MAX, dag::MAX_CHUNK).unwrap().next(),
        Some(0..dag::MAX_CHUNK)
    );
    assert!(matches!(dag::leaves(1, 0), Err(LayoutError::ChunkSize(0))));
    assert!(dag::leaves(1, dag::MAX_CHUNK + 1).is_err());
}

#[test]
fn a_lone_trailing_leaf_gets_a_node_of_its_own() {
    let profile = custom(|p| (p.chunker, p.width) = (Chunker::Fixed(1), 2));
    let dag = file(&profile, b"abc");
    assert_eq!(dag.leaves.len(), 3);
    // Two nodes over the leaves and the root; children before parents.
    assert_eq!(dag.nodes.len(), 3);
    assert_eq!(dag.nodes.last().map(|node| node.cid), Some(dag.root));
    let second = dag::links(&dag.root, &dag.nodes[2].data).unwrap()[1].cid;
    assert_eq!(dag::links(&second, &dag.nodes[1].data).unwrap().len(), 1);
}

#[test]
fn a_file_of_one_chunk_is_its_leaf_and_its_cid_is_the_sha256() {
    let data = prng(1_048_576, "one chunk");
    let dag = file(&Profile::UNIXFS_V1_2025, &data);
    assert_eq!(dag.root, dag::cid_from_sha256(HashKind::Sha2_256.digest(&data)));
    assert_eq!(dag.nodes, vec![]);
    assert_eq!(
        dag.leaves,
        vec![Leaf {
            cid: dag.root,
            offset: 0,
            len: 1_048_576
        }]
    );
    assert_eq!(dag.tsize, 1_048_576);
}

fn small_profiles() -> Vec<Profile> {
    let mut profiles = vec![
        Profile::PACMAN_STORE_2023,
        custom(|p| (p.chunker, p.raw_leaves) = (Chunker::Buzhash, false)),
    ];
    for raw_leaves in [true, false] {
        for version in [dag::Version::V0, dag::Version::V1] {
            profiles.push(custom(|p| {
                (p.chunker, p.width) = (Chunker::Fixed(64), 3);
                (p.raw_leaves, p.cid_version) = (raw_leaves, version);
            }));
        }
    }
    profiles
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_the_bytes_arrive_and_wherever_leaves_are_hashed_the_dag_is_one(
        len in prop_oneof![0..700usize, 100_000..1_200_000usize],
        pieces in prop::collection::vec(1..600_000usize, 1..5),
    ) {
        let data = prng(len, "pieces");
        for profile in small_profiles() {
            if len > 10_000 && profile.parameters().chunker == Chunker::Fixed(64) {
                continue;
            }
            let whole = file(&profile, &data);
            let mut builder = FileBuilder::new(&profile);
            let mut rest = &data[..];
            for piece in pieces.iter().cycle() {
                let (head, tail) = rest.split_at(rest.len().min(*piece));
                builder.push(head);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&builder.finish(), &whole);
            let leaves = whole.leaves.iter().map(|leaf| (leaf.cid, leaf.len)).collect();
            let again = dag::from_leaves(&profile, leaves).unwrap();
            prop_assert_eq!((again.root, again.len, again.tsize), (whole.root, whole.len, whole.tsize));
            prop_assert_eq!(&again.leaves, &whole.leaves);
        }
    }

    #[test]
    fn described_files_read_back_byte_by_byte(len in 0..3000usize, from in 0..3200u64, count in 0..3200u64) {
        let data = prng(len, "read back");
        for profile in &small_profiles() {
            let mut blocks = Blocks::new();
            let root = store_file(profile, &data, &mut blocks);
            let dag = dag::describe(&root.cid, &blocks).unwrap();
            prop_assert_eq!((dag.len, dag.tsize), (len as u64, root.tsize));
            let mut read = Vec::new();
            for piece in dag::read_plan(&dag, from..from + count) {
                prop_assert!(!piece.range.is_empty());
                let leaf = &dag.leaves[piece.leaf];
                let bytes = dag::leaf_data(&leaf.cid, &blocks[&leaf.cid]).unwrap();
                prop_assert_eq!(bytes.len() as u64, leaf.len);
                read.extend_from_slice(&bytes[piece.range.start as usize..piece.range.end as usize]);
            }
            let from = (from as usize).min(len);
            let to = (from + count as usize).min(len);
            prop_assert_eq!(&read[..], &data[from..to]);
        }
    }
}

#[test]
fn a_file_of_few_different_blocks_lists_each_node_once() {
    let profile = custom(|p| (p.chunker, p.width) = (Chunker::Fixed(1), 2));
    let dag = file(&profile, &[0; 64]);
    assert_eq!((dag.leaves.len(), dag.nodes.len()), (64, 6));
    let blocks: Blocks = dag
        .nodes
        .iter()
        .map(|node| (node.cid, node.data.clone()))
        .collect();
    let described = dag::describe(&dag.root, &blocks).unwrap();
    assert_eq!((described.leaves, described.nodes), (dag.leaves, dag.nodes));
}

#[test]
fn describe_names_all_missing_nodes_of_one_level_at_once() {
    let profile = custom(|p| (p.chunker, p.width) = (Chunker::Fixed(10), 2));
    let dag = file(&profile, &prng(80, "missing"));
    let all: Blocks = dag
        .nodes
        .iter()
        .map(|node| (node.cid, node.data.clone()))
        .collect();
    let (mut here, mut rounds) = (Blocks::new(), Vec::new());
    let described = loop {
        match dag::describe(&dag.root, &here) {
            Err(ReadError::Missing(cids)) => {
                rounds.push(cids.len());
                here.extend(cids.into_iter().map(|cid| (cid, all[&cid].clone())));
            }
            done => break done.unwrap(),
        }
    };
    assert_eq!(rounds, [1, 2, 4]);
    assert_eq!(described.leaves, dag.leaves);
    assert_eq!(
        described
            .nodes
            .first()
            .map(|node| dag::links(&node.cid, &node.data).unwrap().len()),
        Some(2)
    );
    assert_eq!(described.nodes.last().map(|node| node.cid), Some(dag.root));
}

#[test]
fn a_raw_root_is_described_by_its_block_and_an_identity_cid_by_itself() {
    let cid = dag::raw_cid(HashKind::Sha2_256, b"hello");
    let blocks = Blocks::from([(cid, Bytes::from_static(b"hello"))]);
    assert_eq!(dag::describe(&cid, &blocks).unwrap().len, 5);
    assert!(matches!(dag::describe(&cid, &()), Err(ReadError::Missing(cids)) if cids == [cid]));
    let inline = Cid::new_v1(dag::RAW, Multihash::wrap(dag::IDENTITY, b"hi").unwrap());
    assert_eq!(dag::describe(&inline, &()).unwrap().len, 2);
    assert_eq!(dag::inline_data(&inline), Some(&b"hi"[..]));
}

#[test]
fn leaves_that_no_chunker_gives_are_refused() {
    let cid = dag::raw_cid(HashKind::Sha2_256, b"");
    let with =
        |lens: &[u64]| dag::from_leaves(&Profile::KUBO_CIDV1, lens.iter().map(|len| (cid, *len)).collect());
    assert_eq!(with(&[]), Err(LayoutError::NoLeaves));
    assert_eq!(with(&[5, 5]), Err(LayoutError::LeafLength { index: 0, len: 5 }));
    assert_eq!(
        with(&[262_144, 0]),
        Err(LayoutError::LeafLength { index: 1, len: 0 })
    );
    assert_eq!(
        with(&[262_145]),
        Err(LayoutError::LeafLength {
            index: 0,
            len: 262_145
        })
    );
    assert!(with(&[0]).is_ok() && with(&[262_144, 262_144, 1]).is_ok());
}

#[test]
fn profiles_are_found_by_name_and_impossible_ones_refused() {
    for profile in Profile::ALL {
        assert_eq!(Profile::by_name(profile.name()), Some(profile));
    }
    assert_eq!(
        Profile::ALL.iter().map(Profile::name).collect::<Vec<_>>(),
        ["unixfs-v1-2025", "kubo-cidv1", "pacman.store-2023"]
    );
    assert_eq!(Profile::by_name("other"), None);
    let with = |change: fn(&mut Parameters)| {
        let mut parameters = *Profile::default().parameters();
        change(&mut parameters);
        Profile::custom(parameters).unwrap_err()
    };
    assert_eq!(with(|p| p.chunker = Chunker::Fixed(0)), ProfileError::Chunk(0));
    assert_eq!(with(|p| p.width = 1), ProfileError::Width(1));
    assert_eq!(with(|p| p.fanout = 100), ProfileError::Fanout(100));
    assert_eq!(
        with(|p| (p.cid_version, p.hash) = (dag::Version::V0, HashKind::Blake3)),
        ProfileError::Version0Hash
    );
}
