//! The cap: what goes first, what never goes, what is refused.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use pacstore_dag::{Block, DAG_PB, HashKind, cid_of};
use pacstore_store::{Intake, Origin, Store, Tuning, WriteError};

use crate::kit::{Home, TINY, TestResult, add, assert_sound, bytes, dag, put, read, tree};

#[test]
fn the_least_recently_used_goes_first() {
    let home = Home::new(10_000);
    let store = home.open();
    let mut roots = Vec::new();
    for seed in 0..5 {
        roots.push(put(&store, &home, &bytes(seed, 2000)));
        home.hand.advance(Duration::from_secs(1));
    }
    assert!(read(&store, &roots[0]).is_some(), "a use");
    home.hand.advance(Duration::from_secs(1));
    store.touch(&roots[2]);
    put(&store, &home, &bytes(9, 3000));
    let here: Vec<_> = roots
        .iter()
        .map(|root| store.file(root).unwrap().is_some())
        .collect();
    assert_eq!(here, [true, false, true, false, true]);
    assert!(store.stats().evictable <= 10_000);
    assert_sound(&store, &home);
}

#[test]
fn uses_outlive_a_restart() -> TestResult {
    let home = Home::new(10_000);
    let store = home.open();
    let (a, b) = (
        put(&store, &home, &bytes(1, 4000)),
        put(&store, &home, &bytes(2, 4000)),
    );
    home.hand.advance(Duration::from_secs(5));
    store.touch(&a);
    drop(store);
    let store = home.open();
    assert_sound(&store, &home);
    store.gc(Some(4000))?;
    assert_eq!(
        (store.file(&a)?.is_some(), store.file(&b)?.is_some()),
        (true, false)
    );
    Ok(())
}

/// A node that gives the same small file every minute does not wake the disk every minute.
#[test]
fn gc_writes_uses_down_four_times_an_hour() -> TestResult {
    let home = Home::new(10_000);
    let store = home.open();
    let root = put(&store, &home, &bytes(1, 4000));
    store.gc(None)?;
    let index = home.path().join("index.redb");
    let (mut last, mut writes) = (std::fs::read(&index)?, 0);
    for _ in 0..60 {
        home.hand.advance(Duration::from_mins(1));
        store.touch(&root);
        store.gc(None)?;
        let now = std::fs::read(&index)?;
        writes += usize::from(now != last);
        last = now;
    }
    assert_eq!(writes, 4);
    Ok(())
}

#[test]
fn the_cap_is_never_passed_and_what_cannot_fit_is_refused() -> TestResult {
    let home = Home::new(20_000);
    let store = home.open();
    for seed in 0..60 {
        put(&store, &home, &bytes(seed, 100 + 90 * seed as usize));
        let stats = store.stats();
        assert!(stats.evictable <= 20_000, "{stats:?}");
    }
    assert!(
        store.stats().evictable > 14_000,
        "no more goes than has to: {:?}",
        store.stats()
    );
    let data = bytes(99, 20_001);
    let error = add(&mut store.batch(), &home, &data, &dag(&TINY, &data), Intake::Copy)
        .err()
        .ok_or("refused")?;
    assert!(
        matches!(
            error,
            WriteError::Full {
                needed: 20_001,
                max: 20_000
            }
        ),
        "{error}"
    );
    assert!(store.stats().files > 0, "nothing was evicted for it");
    let error = store.begin_partial(&dag(&TINY, &data)).err().ok_or("refused")?;
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn promised_room_is_not_given_twice() -> TestResult {
    let home = Home::new(10_000);
    let store = home.open();
    let first = store.reserve(6000)?;
    assert!(matches!(store.reserve(6000), Err(WriteError::Full { .. })));
    let second = store.reserve(4000)?;
    drop(first);
    assert_eq!(store.reserve(6000)?.len(), 6000);
    drop(second);
    Ok(())
}

#[test]
fn retained_files_do_not_count_and_what_is_released_goes() -> TestResult {
    let home = Home::new(5000);
    let store = home.open();
    let big = bytes(1, 50_000);
    let file = dag(&TINY, &big);
    let (root, nodes) = tree(&[("big", &file)]);
    store.put_nodes(&nodes)?;
    store.retain("x", &root)?;
    put(&store, &home, &big);
    let small = put(&store, &home, &bytes(2, 4000));
    assert_eq!((store.stats().bytes, store.stats().evictable), (54_000, 4000));
    store.release("x")?;
    assert_eq!(store.stats().evictable, 54_000);
    home.hand.advance(Duration::from_secs(1));
    store.touch(&small);
    store.gc(None)?;
    assert_eq!((store.stats().bytes, store.stats().evictable), (4000, 4000));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn partial_files_count_and_idle_ones_go_while_open_ones_stay() -> TestResult {
    let home = Home::new(10_000);
    let store = home.open();
    let (idle, open) = (bytes(1, 4000), bytes(2, 4000));
    store
        .begin_partial(&dag(&TINY, &idle))?
        .write_leaf(0, &idle[..1000], Origin::Lan)?;
    home.hand.advance(Duration::from_secs(1));
    let open = store.begin_partial(&dag(&TINY, &open))?;
    assert_eq!(store.stats().evictable, 8000);
    put(&store, &home, &bytes(3, 5000));
    assert_eq!((store.stats().partials, store.stats().evictable), (1, 9000));
    let error = store.reserve(6001).err().ok_or("refused")?;
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    drop(open);
    store.gc(Some(0))?;
    assert_eq!((store.stats().partials, store.stats().bytes), (0, 0));
    assert_eq!(std::fs::read_dir(home.path().join("partial"))?.count(), 0);
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn an_open_file_is_read_to_its_end_after_it_was_evicted() -> TestResult {
    let home = Home::new(10_000);
    let store = home.open();
    let data = bytes(1, 5000);
    let root = put(&store, &home, &data);
    let mut open = store.open_file(&root)?.ok_or("here")?;
    assert_eq!(
        store
            .block(&dag(&TINY, &data).leaves[0].cid)?
            .map(|data| data.len()),
        Some(1000)
    );
    store.gc(Some(0))?;
    assert_eq!(home.on_disk().len(), 0);
    let mut read = Vec::new();
    open.file.read_to_end(&mut read)?;
    assert_eq!(read, data);
    assert!(store.open_file(&root)?.is_none());
    assert_eq!(store.block(&dag(&TINY, &data).leaves[0].cid)?, None);
    Ok(())
}

#[test]
fn a_file_that_a_batch_counts_on_is_not_evicted_under_it() -> TestResult {
    let home = Home::new(10_000);
    let store = home.open();
    let data = bytes(1, 5000);
    let file = dag(&TINY, &data);
    put(&store, &home, &data);
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &file, Intake::Copy)?;
    store.gc(Some(0))?;
    assert_eq!(store.stats().files, 1);
    batch.commit()?;
    store.gc(Some(0))?;
    assert_eq!(store.stats().files, 0);
    Ok(())
}

#[test]
fn nodes_that_nothing_holds_go_oldest_first_at_their_own_cap() -> TestResult {
    let home = Home::new(10_000);
    let tuning = Tuning {
        max_free_node_bytes: Some(10_000),
        ..Tuning::default()
    };
    let store = Store::open_with(&home.path(), home.options(), tuning)?;
    let blocks: Vec<_> = (0..30)
        .map(|seed| {
            let data = Bytes::from(bytes(seed, 1000));
            Block {
                cid: cid_of(DAG_PB, HashKind::Sha2_256, &data),
                data,
            }
        })
        .collect();
    store.pin(&blocks[0].cid)?;
    for block in &blocks {
        store.put_nodes(std::slice::from_ref(block))?;
    }
    assert!(store.stats().nodes <= 11, "{:?}", store.stats());
    assert!(store.node(&blocks[0].cid)?.is_some());
    assert!(store.node(&blocks[1].cid)?.is_none());
    assert!(store.node(&blocks[29].cid)?.is_some());
    assert_sound(&store, &home);
    let report = store.gc(Some(0))?;
    assert!(report.nodes >= 8, "{report:?}");
    assert_eq!(store.stats().nodes, 1);
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn readers_and_writers_go_on_while_gc_runs() -> TestResult {
    let home = Home::new(50_000);
    let store = home.open();
    let pinned = bytes(1000, 5000);
    let root = put(&store, &home, &pinned);
    store.pin(&root)?;
    std::thread::scope(|scope| {
        for worker in 0..3u64 {
            let (store, home) = (&store, &home);
            scope.spawn(move || {
                for round in 0..15 {
                    let data = bytes(worker * 100 + round, 3000);
                    let root = put(store, home, &data);
                    if let Some(read) = read(store, &root) {
                        assert_eq!(read, data);
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                store.gc(Some(10_000)).unwrap();
                assert_eq!(read(&store, &root).as_ref(), Some(&pinned));
            }
        });
    });
    assert!(store.stats().evictable <= 50_000);
    assert_sound(&store, &home);
    Ok(())
}

/// Signatures have some 300 bytes, and the disk gives each of them 4 KiB: both count.
#[test]
fn the_cap_counts_whole_blocks_of_the_disk_whatever_an_earlier_version_counted() -> TestResult {
    let mut home = Home::new(200_000);
    // As before there were blocks.
    let store = home.open();
    for seed in 0..60 {
        put(&store, &home, &bytes(seed, 310));
    }
    assert_eq!(store.stats().evictable, 60 * 310);
    drop(store);
    home.block = 4096;
    let store = home.open();
    assert_eq!(store.stats().evictable, 60 * 4096);
    assert_sound(&store, &home);
    store.gc(None)?;
    for seed in 60..120 {
        put(&store, &home, &bytes(seed, 310 + seed as usize * 90));
        let on_disk: u64 = home
            .on_disk()
            .iter()
            .map(|path| std::fs::metadata(path).unwrap().len().next_multiple_of(4096))
            .sum();
        let stats = store.stats();
        assert!(
            on_disk <= 200_000 && stats.evictable == on_disk,
            "{on_disk}: {stats:?}"
        );
    }
    let part = dag(&TINY, &bytes(500, 4097));
    let partial = store.begin_partial(&part)?;
    assert_eq!(store.stats().evictable % 4096, 0);
    assert!(store.stats().evictable <= 200_000);
    partial.discard();
    assert_sound(&store, &home);
    drop(store);
    home.block = 1;
    let store = home.open();
    assert_sound(&store, &home);
    Ok(())
}

/// For a day this machine believed that it was a year later.
#[test]
fn what_was_used_by_a_clock_that_ran_ahead_does_not_stay_for_it() -> TestResult {
    let home = Home::new(10_000);
    let store = home.open();
    let right = home.clock.now();
    home.hand.advance(Duration::from_hours(24 * 365));
    let old = put(&store, &home, &bytes(1, 4000));
    let needed = put(&store, &home, &bytes(2, 2000));
    store.classify(&mut |info, _| {
        if info.root == needed {
            pacstore_store::Class::Needed
        } else {
            pacstore_store::Class::Plain
        }
    })?;
    drop(store);
    home.hand.set(right);
    let store = home.open();
    store.gc(None)?;
    assert_sound(&store, &home);
    home.hand.advance(Duration::from_mins(1));
    let new = put(&store, &home, &bytes(3, 4000));
    put(&store, &home, &bytes(4, 3000));
    let here = [old, needed, new].map(|root| store.file(&root).unwrap().is_some());
    assert_eq!(here, [false, true, true]);
    assert_sound(&store, &home);
    Ok(())
}
