//! Files that arrive leaf by leaf.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use pacstore_store::{ByOrigin, Origin, Partial, PartialError, Sha256, Store};

use crate::kit::{Home, Hook, OTHER, TINY, TestResult, assert_sound, bytes, dag, put, read, sha256};

fn write(partial: &Partial, data: &[u8], index: usize) -> Result<(), PartialError> {
    let range = 1000 * index..(1000 * index + 1000).min(data.len());
    partial.write_leaf(index, &data[range], Origin::Peer)
}

/// Drops a store as a process does that is killed: nothing more is written.
fn kill(hook: &Hook, store: Store, partial: Partial) {
    hook.kill.store(true, Ordering::SeqCst);
    drop((store, partial));
}

#[test]
fn leaves_arrive_in_any_order_and_are_read_and_served_while_others_are_missing() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 9500);
    let dag = dag(&TINY, &data);
    let partial = store.begin_partial(&dag)?;
    assert_eq!(
        (partial.leaf_count(), partial.len(), partial.missing().len()),
        (10, 9500, 10)
    );
    for index in [3, 9, 4] {
        write(&partial, &data, index)?;
    }
    assert_eq!(partial.missing(), [0, 1, 2, 5, 6, 7, 8]);
    assert_eq!(partial.read_leaf(3)?, data[3000..4000]);
    let mut out = vec![0; 1500];
    partial.read_at(3400, &mut out)?;
    assert_eq!(out, data[3400..4900]);
    assert!(matches!(
        partial.read_at(4900, &mut out[..200]),
        Err(PartialError::Missing(5))
    ));
    assert!(matches!(
        partial.read_at(9000, &mut out[..501]),
        Err(PartialError::Length { .. })
    ));
    assert_eq!(store.block(&dag.leaves[9].cid)?.as_deref(), Some(&data[9000..]));
    assert_eq!(store.block_len(&dag.leaves[4].cid)?, Some(1000));
    assert_eq!(store.block(&dag.leaves[5].cid)?, None);
    assert!(matches!(
        partial.finish(Sha256::Compute),
        Err(PartialError::Incomplete(7))
    ));
    partial.write_leaf(0, &data[..1000], Origin::Lan)?;
    partial.write_leaf(0, &data[..1000], Origin::Upstream)?;
    for index in partial.missing() {
        write(&partial, &data, index)?;
    }
    let info = partial.finish(Sha256::Expect(sha256(&data)))?;
    assert_eq!(
        info.by_origin,
        ByOrigin {
            lan: 1000,
            peer: 8500,
            ..ByOrigin::default()
        }
    );
    assert_eq!((info.sha256, info.root), (Some(sha256(&data)), dag.root));
    assert_eq!(
        partial.finish(Sha256::Compute)?,
        info,
        "finishing twice is finishing once"
    );
    assert_eq!(partial.read_leaf(3)?, data[3000..4000], "who reads on may");
    assert_eq!(read(&store, &dag.root), Some(data));
    assert_eq!(store.dag_of(&dag.root)?, Some(dag));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn what_is_wrong_is_refused() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(2, 2500);
    let partial = store.begin_partial(&dag(&TINY, &data))?;
    assert!(matches!(
        partial.write_leaf(3, &data[..1000], Origin::Lan),
        Err(PartialError::NoSuchLeaf { index: 3, count: 3 })
    ));
    assert!(matches!(
        partial.write_leaf(2, &data[..1000], Origin::Lan),
        Err(PartialError::Length {
            index: 2,
            expected: 500,
            found: 1000
        })
    ));
    assert!(matches!(partial.read_leaf(0), Err(PartialError::Missing(0))));
    for index in 0..3 {
        write(&partial, &data, index)?;
    }
    let error = partial.finish(Sha256::Expect([1; 32])).err().ok_or("refused")?;
    assert!(
        matches!(error, PartialError::Sha256 { expected, found } if expected == [1; 32] && found == sha256(&data))
    );
    assert!(error.to_string().contains("0101"), "{error}");
    let other = partial.clone();
    partial.discard();
    assert!(matches!(
        other.write_leaf(0, &data[..1000], Origin::Lan),
        Err(PartialError::Gone)
    ));
    assert!(matches!(other.finish(Sha256::Compute), Err(PartialError::Gone)));
    assert_eq!(store.stats().partials, 0);
    assert_sound(&store, &home);
    Ok(())
}

/// Who began the file while another finished it finds all leaves there, and the whole file.
#[test]
fn a_leaf_of_a_file_that_another_handle_finished_is_there() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 2500);
    let (partial, other) = (
        store.begin_partial(&dag(&TINY, &data))?,
        store.begin_partial(&dag(&TINY, &data))?,
    );
    for index in 0..3 {
        write(&partial, &data, index)?;
    }
    let info = partial.finish(Sha256::Skip)?;
    for index in 0..3 {
        write(&other, &data, index)?;
    }
    assert_eq!(other.finish(Sha256::Skip)?, info);
    assert_eq!(read(&store, &info.root), Some(data));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_file_of_one_leaf_or_of_none_goes_the_same_way() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    for len in [0, 1, 1000] {
        let data = bytes(9, len);
        let dag = dag(&TINY, &data);
        let partial = store.begin_partial(&dag)?;
        write(&partial, &data, 0)?;
        assert_eq!(partial.finish(Sha256::Expect(sha256(&data)))?.len, len as u64);
        assert_eq!(read(&store, &dag.root), Some(data));
    }
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn many_writers_fill_one_file_at_once_and_share_it() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(3, 64_000);
    let dag = dag(&TINY, &data);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (store, data, dag) = (&store, &data, &dag);
            scope.spawn(move || {
                let partial = store.begin_partial(dag).unwrap();
                for index in (0..64).filter(|index| index % 4 == worker % 4) {
                    write(&partial, data, index).unwrap();
                    assert_eq!(
                        partial.read_leaf(index).unwrap(),
                        data[1000 * index..1000 * (index + 1)]
                    );
                }
            });
        }
    });
    let partial = store.begin_partial(&dag)?;
    assert!(partial.is_complete());
    let info = partial.finish(Sha256::Expect(sha256(&data)))?;
    assert_eq!(info.by_origin.total(), 64_000);
    assert_eq!(read(&store, &dag.root), Some(data));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn many_files_finish_at_once() {
    let home = Home::new(1 << 20);
    let store = home.open();
    std::thread::scope(|scope| {
        for worker in 0..8u64 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..8u64 {
                    let data = bytes(100 * worker + round, 1500);
                    let partial = store.begin_partial(&dag(&TINY, &data)).unwrap();
                    write(&partial, &data, 0).unwrap();
                    write(&partial, &data, 1).unwrap();
                    partial.finish(Sha256::Compute).unwrap();
                }
            });
        }
    });
    assert_eq!((store.stats().files, store.stats().partials), (64, 0));
    assert_sound(&store, &home);
}

#[test]
fn an_orderly_close_and_a_kill_both_lose_no_leaf() -> TestResult {
    for killed in [false, true] {
        let home = Home::new(1 << 20);
        let hook = Hook::never();
        let store = home.open_hooked(&hook)?;
        let data = bytes(4, 9500);
        let dag = dag(&TINY, &data);
        let partial = store.begin_partial(&dag)?;
        for index in [1, 2, 7] {
            write(&partial, &data, index)?;
        }
        if killed {
            kill(&hook, store, partial);
        } else {
            drop((store, partial));
        }
        let store = home.open();
        assert_eq!(store.stats().partials, 1);
        assert_eq!(
            store.block(&dag.leaves[7].cid)?.as_deref(),
            Some(&data[7000..8000])
        );
        let partial = store.begin_partial(&dag)?;
        assert_eq!(partial.missing(), [0, 3, 4, 5, 6, 8, 9], "killed: {killed}");
        assert_eq!(partial.by_origin(), ByOrigin::all(Origin::Peer, 3000));
        for index in partial.missing() {
            write(&partial, &data, index)?;
        }
        partial.finish(Sha256::Expect(sha256(&data)))?;
        assert_sound(&store, &home);
    }
    Ok(())
}

#[test]
fn a_leaf_that_was_only_claimed_and_did_not_reach_the_disk_is_missing_after_a_restart() -> TestResult {
    let home = Home::new(1 << 20);
    let hook = Hook::never();
    let store = home.open_hooked(&hook)?;
    let data = bytes(5, 5000);
    let dag = dag(&TINY, &data);
    let partial = store.begin_partial(&dag)?;
    for index in 0..3 {
        write(&partial, &data, index)?;
    }
    partial.flush()?;
    write(&partial, &data, 3)?;
    write(&partial, &data, 4)?;
    kill(&hook, store, partial);
    // As after a power cut: the unsynced leaf 3 never came to the disk.
    let file = std::fs::File::options()
        .write(true)
        .open(crate::kit::only_file(&home))?;
    file.write_all_at(&[0; 1000], 3000)?;
    let store = home.open();
    assert_eq!(store.begin_partial(&dag)?.missing(), [3]);
    Ok(())
}

#[test]
fn a_damaged_bitmap_or_lost_data_costs_that_partial_file_only() -> TestResult {
    for damage in ["bitmap", "data", "length"] {
        let home = Home::new(1 << 20);
        let data = bytes(6, 5000);
        let whole = {
            let store = home.open();
            let partial = store.begin_partial(&dag(&TINY, &data))?;
            write(&partial, &data, 1)?;
            drop(partial);
            put(&store, &home, b"whole")
        };
        let bitmap = std::fs::read_dir(home.path().join("partial"))?
            .next()
            .ok_or("bitmap")??
            .path();
        let file = home
            .path()
            .join("files/00000")
            .join(bitmap.file_name().ok_or("name")?);
        match damage {
            "bitmap" => {
                let mut bytes = std::fs::read(&bitmap)?;
                bytes[40] ^= 1;
                std::fs::write(&bitmap, bytes)?;
            }
            "data" => std::fs::remove_file(&file)?,
            _ => std::fs::File::options().write(true).open(&file)?.set_len(4999)?,
        }
        let store = home.open();
        assert_eq!(store.stats().partials, 0, "{damage}");
        assert_eq!(store.begin_partial(&dag(&TINY, &data))?.missing().len(), 5);
        assert_eq!(read(&store, &whole).as_deref(), Some(&b"whole"[..]));
        assert_sound(&store, &home);
    }
    Ok(())
}

#[test]
fn finishing_what_somebody_else_brought_meanwhile_keeps_one_file() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(7, 3000);
    let tiny = store.begin_partial(&dag(&TINY, &data))?;
    let other = store.begin_partial(&dag(&OTHER, &data))?;
    for index in 0..3 {
        write(&tiny, &data, index)?;
    }
    for (index, leaf) in data.chunks(400).enumerate() {
        other.write_leaf(index, leaf, Origin::Lan)?;
    }
    let root = put(&store, &home, &data);
    let info = tiny.finish(Sha256::Compute)?;
    assert_eq!(
        (info.root, info.by_origin),
        (root, ByOrigin::all(Origin::Disk, 3000))
    );
    other.finish(Sha256::Compute)?;
    assert_eq!((store.stats().files, store.stats().bytes), (1, 3000));
    assert!(store.dag_of(&dag(&OTHER, &data).root)?.is_some());
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn without_a_sha256_the_file_is_whole_all_the_same() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(8, 3000);
    let dag = dag(&TINY, &data);
    let partial = store.begin_partial(&dag)?;
    for index in 0..3 {
        write(&partial, &data, index)?;
    }
    assert_eq!(partial.finish(Sha256::Skip)?.sha256, None);
    assert_eq!(store.file_by_sha256(&sha256(&data))?, None);
    assert_eq!(read(&store, &dag.root), Some(data));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_sha256_that_is_learned_later_finds_the_file_also_after_a_restart() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (data, other) = (bytes(8, 3000), bytes(9, 2500));
    let mut infos = Vec::new();
    for data in [&data, &other] {
        let partial = store.begin_partial(&dag(&TINY, data))?;
        partial.leave_unhashed();
        for index in 0..3 {
            write(&partial, data, index)?;
        }
        infos.push(partial.finish(Sha256::Skip)?);
    }
    let wanted: Vec<_> = infos.iter().map(|info| (info.id, info.root)).collect();
    let left = |from, limit| {
        let files = store.files_without_sha256(from, limit)?;
        let files = files.into_iter().map(|info| (info.id, info.root));
        Ok::<Vec<_>, pacstore_store::IndexError>(files.collect())
    };
    assert_eq!(left(0, 10)?, wanted);
    assert_eq!(left(0, 1)?, wanted[..1]);
    assert_eq!(left(wanted[0].0 + 1, 10)?, wanted[1..]);

    let (id, root) = wanted[0];
    assert!(
        !store.learn_sha256(wanted[1].0, &root, sha256(&data))?,
        "another file's id"
    );
    assert!(store.learn_sha256(id, &root, sha256(&data))?);
    assert!(!store.learn_sha256(id, &root, sha256(&other))?, "it is known");
    assert!(
        !store.learn_sha256(wanted[1].0, &wanted[1].1, sha256(&data))?,
        "taken"
    );
    assert_eq!(left(0, 10)?, wanted[1..]);
    assert_sound(&store, &home);
    drop(store);

    let store = home.open();
    let found = store.file_by_sha256(&sha256(&data))?.ok_or("found")?;
    assert_eq!(
        (found.id, found.root, found.sha256),
        (id, root, Some(sha256(&data)))
    );
    assert_sound(&store, &home);
    Ok(())
}
