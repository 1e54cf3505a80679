//! Blocks by CID.

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use pacstore_dag::{Block, BlockSource, HashKind, RAW, cid_of, raw_cid};
use pacstore_store::WriteError;

use crate::kit::{Home, OLD, OTHER, TINY, TestResult, add, assert_sound, bytes, dag, put};
use pacstore_store::Intake;

#[test]
fn every_block_of_a_file_is_found_whatever_the_codec_of_the_cid() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 9500);
    for profile in [TINY, OTHER, OLD] {
        let dag = dag(&profile, &data);
        let mut batch = store.batch();
        add(&mut batch, &home, &data, &dag, Intake::Copy)?;
        batch.commit()?;
        for node in &dag.nodes {
            assert_eq!(store.block(&node.cid)?, Some(node.data.clone()));
            assert_eq!(store.node(&node.cid)?, Some(node.data.clone()));
            assert_eq!(store.get(&node.cid)?, Some(node.data.clone()));
        }
        for leaf in dag.leaves.iter().filter(|leaf| leaf.is_raw()) {
            let expected = &data[leaf.offset as usize..(leaf.offset + leaf.len) as usize];
            assert_eq!(store.block(&leaf.cid)?.as_deref(), Some(expected));
            assert_eq!(store.block_len(&leaf.cid)?, Some(leaf.len));
            assert_eq!(store.node(&leaf.cid)?, None, "a range of a file is no node");
            let mut out = b"before".to_vec();
            let other_codec = Cid::new_v1(0x70, *leaf.cid.hash());
            assert!(store.block_into(&other_codec, &mut out)?);
            assert_eq!(out, [b"before", expected].concat());
        }
    }
    Ok(())
}

#[test]
fn what_is_not_here_is_none_and_an_identity_cid_is_its_own_block() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let missing = raw_cid(HashKind::Sha2_256, b"missing");
    assert_eq!(store.block(&missing)?, None);
    assert_eq!(store.block_len(&missing)?, None);
    let mut out = vec![1];
    assert!(!store.block_into(&missing, &mut out)?);
    assert_eq!(out, [1]);
    let sha512 = Cid::new_v1(RAW, Multihash::wrap(0x13, &[5; 64])?);
    assert_eq!(store.block(&sha512)?, None);
    let inline = Cid::new_v1(RAW, Multihash::wrap(0, b"inline")?);
    assert_eq!(store.block(&inline)?.as_deref(), Some(&b"inline"[..]));
    assert_eq!(store.block_len(&inline)?, Some(6));
    Ok(())
}

#[test]
fn nodes_of_all_hashes_are_kept_and_others_refused() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    for hash in [HashKind::Sha2_256, HashKind::Blake2b256, HashKind::Blake3] {
        let data = Bytes::from(bytes(3, 500));
        let cid = cid_of(0x71, hash, &data);
        store.put_nodes(&[
            Block {
                cid,
                data: data.clone(),
            },
            Block {
                cid,
                data: data.clone(),
            },
        ])?;
        assert_eq!(store.node(&cid)?, Some(data));
    }
    assert_eq!(store.stats().nodes, 3);
    let cid = Cid::new_v1(RAW, Multihash::wrap(0x13, &[5; 64])?);
    let error = store
        .put_nodes(&[Block {
            cid,
            data: Bytes::new(),
        }])
        .err()
        .ok_or("refused")?;
    assert!(matches!(error, WriteError::Unsupported(_)), "{error}");
    let data = Bytes::from(vec![0; (2 << 20) + 1]);
    let cid = raw_cid(HashKind::Sha2_256, &data);
    let error = store.put_nodes(&[Block { cid, data }]).err().ok_or("refused")?;
    assert!(matches!(error, WriteError::BlockSize { .. }), "{error}");
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_block_that_two_files_hold_outlives_either() -> TestResult {
    for keep_first in [true, false] {
        let home = Home::new(1 << 20);
        let store = home.open();
        let shared = bytes(1, 1000);
        // The shared block is the begin of one file, stands twice in another, and is a third one alone.
        let first = [shared.clone(), bytes(2, 1500)].concat();
        let second = [bytes(3, 1000), shared.clone(), shared.clone(), bytes(4, 10)].concat();
        let roots = [
            put(&store, &home, &first),
            put(&store, &home, &second),
            put(&store, &home, &shared),
        ];
        let block = raw_cid(HashKind::Sha2_256, &shared);
        assert_eq!(roots[2], block);
        assert_eq!(
            store.file(&block)?.map(|info| info.len),
            Some(1000),
            "the small file is found as a file"
        );
        let kept = if keep_first { roots[0] } else { roots[1] };
        store.pin(&kept)?;
        store.gc(Some(0))?;
        assert_eq!(
            store.stats().files,
            2,
            "the pinned one, and the one that is its leaf"
        );
        assert_eq!(store.block(&block)?.as_deref(), Some(&shared[..]));
        assert_sound(&store, &home);
        store.unpin(&kept)?;
        store.gc(Some(0))?;
        assert_eq!((store.stats().files, store.block(&block)?), (0, None));
        assert_sound(&store, &home);
    }
    Ok(())
}

#[test]
fn a_file_of_repeated_leaves_is_found_once_and_goes_as_a_whole() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let zeros = vec![0; 10_000];
    let root = put(&store, &home, &zeros);
    let leaf = raw_cid(HashKind::Sha2_256, &zeros[..1000]);
    assert_eq!(store.block_len(&leaf)?, Some(1000));
    assert_eq!(store.dag_of(&root)?, Some(dag(&TINY, &zeros)));
    assert_sound(&store, &home);
    store.gc(Some(0))?;
    assert_eq!(store.block_len(&leaf)?, None);
    assert_eq!(store.stats().nodes, 0, "its nodes went with it");
    assert_sound(&store, &home);
    Ok(())
}
