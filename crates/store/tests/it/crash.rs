//! Stopping after each step of each multi-step write, and a disk that is full at each step.
//!
//! A crash is simulated by failing every step from one on, and dropping the store: nothing more is written, as
//! if the process had been killed there. Then the store is opened again and must be sound, hold all that was
//! acknowledged, and no file besides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cid::Cid;
use pacstore_dag::{Block, FileDag};
use pacstore_store::{Intake, Origin, PartialError, Sha256, Steps, Store, WriteError};

use crate::kit::{Home, Hook, TINY, TestResult, add, assert_sound, bytes, dag, put, read, tree};

/// Three small files, one of several leaves, the tree over them.
pub(crate) struct World {
    pub(crate) files: Vec<(Vec<u8>, FileDag)>,
    pub(crate) root: Cid,
    nodes: Vec<Block>,
}

impl World {
    pub(crate) fn new() -> Self {
        let files: Vec<_> = [10usize, 900, 5500]
            .iter()
            .map(|len| {
                let data = bytes(*len as u64, *len);
                let dag = dag(&TINY, &data);
                (data, dag)
            })
            .collect();
        let (root, nodes) = tree(&[("a/x", &files[0].1), ("a/y", &files[1].1), ("b", &files[2].1)]);
        Self { files, root, nodes }
    }

    pub(crate) fn import(&self, store: &Store, home: &Home) -> Result<(), WriteError> {
        let mut batch = store.batch();
        for (data, dag) in &self.files {
            add(&mut batch, home, data, dag, Intake::Copy)?;
        }
        self.nodes.iter().try_for_each(|node| batch.put_node(node))?;
        batch.commit()
    }

    pub(crate) fn is_whole(&self, store: &Store) -> bool {
        self.files
            .iter()
            .all(|(data, dag)| read(store, &dag.root).as_ref() == Some(data))
            && self
                .nodes
                .iter()
                .all(|node| store.node(&node.cid).unwrap().is_some())
    }

    pub(crate) fn is_absent(&self, store: &Store) -> bool {
        self.files
            .iter()
            .all(|(_, dag)| store.file(&dag.root).unwrap().is_none())
    }
}

/// Runs `write` over a store that `prepare` made, stopping at step 0, 1, 2... until it is not stopped any more.
/// `check` sees the store after a restart, and whether `write` had returned `Ok`.
fn stop_at_each_step<E: std::fmt::Debug>(
    prepare: impl Fn(&Store, &Home),
    write: impl Fn(&Store, &Home) -> Result<(), E>,
    check: impl Fn(&Store, bool),
) {
    stop_at_each_step_of(&|| Home::new(100_000), prepare, write, check);
}

/// As [`stop_at_each_step`], with stores in homes of the caller's.
fn stop_at_each_step_of<E: std::fmt::Debug>(
    new_home: &dyn Fn() -> Home,
    prepare: impl Fn(&Store, &Home),
    write: impl Fn(&Store, &Home) -> Result<(), E>,
    check: impl Fn(&Store, bool),
) {
    let mut stopped = 0;
    for at in 0.. {
        let home = new_home();
        prepare(&home.open(), &home);
        let hook = Hook::crash_at(at);
        let mut acknowledged = false;
        if let Ok(store) = home.open_hooked(&hook) {
            acknowledged = write(&store, &home).is_ok();
        }
        let store = home.open();
        assert_sound(&store, &home);
        check(&store, acknowledged);
        if !hook.has_fired() {
            assert!(acknowledged, "nothing stopped it");
            break;
        }
        stopped += 1;
    }
    assert!(stopped > 5, "only {stopped} steps were seen");
}

/// As [`stop_at_each_step`], but only one step fails, with a full disk, and the work is tried again.
fn fill_the_disk_at_each_step<E: std::fmt::Debug>(
    prepare: impl Fn(&Store, &Home),
    write: impl Fn(&Store, &Home) -> Result<(), E>,
    is_full: impl Fn(&E) -> bool,
    check: impl Fn(&Store, bool),
) -> TestResult {
    for at in 0.. {
        let home = Home::new(100_000);
        prepare(&home.open(), &home);
        let hook = Hook::full_at(at);
        let Ok(store) = home.open_hooked(&hook) else {
            continue;
        };
        if let Err(error) = write(&store, &home) {
            assert!(is_full(&error), "step {at}: {error:?}");
            assert!(hook.has_fired(), "step {at}: {error:?}");
            write(&store, &home).map_err(|error| format!("step {at}, again: {error:?}"))?;
        }
        drop(store);
        let store = home.open();
        assert_sound(&store, &home);
        check(&store, true);
        if !hook.has_fired() {
            return Ok(());
        }
    }
    Ok(())
}

fn is_full(error: &WriteError) -> bool {
    matches!(error, WriteError::StorageFull(_))
}

fn nothing(_: &Store, _: &Home) {}

#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all() -> TestResult {
    let world = World::new();
    let check = |store: &Store, acknowledged: bool| {
        assert!(world.is_whole(store) || (!acknowledged && world.is_absent(store)));
    };
    stop_at_each_step(nothing, |store, home| world.import(store, home), check);
    fill_the_disk_at_each_step(nothing, |store, home| world.import(store, home), is_full, check)
}

#[test]
fn retaining_is_done_or_not_begun() -> TestResult {
    let world = World::new();
    let prepare = |store: &Store, home: &Home| world.import(store, home).unwrap();
    let write = |store: &Store, _: &Home| store.retain("x", &world.root);
    let check = |store: &Store, acknowledged: bool| {
        let retained = !store.retained().unwrap().is_empty();
        assert!(retained || !acknowledged);
        store.gc(Some(0)).unwrap();
        assert!(if retained {
            world.is_whole(store)
        } else {
            world.is_absent(store)
        });
    };
    stop_at_each_step(prepare, write, check);
    fill_the_disk_at_each_step(prepare, write, is_full, check)
}

#[test]
fn releasing_is_done_or_not_begun() -> TestResult {
    let world = World::new();
    let prepare = |store: &Store, home: &Home| {
        world.import(store, home).unwrap();
        store.retain("x", &world.root).unwrap();
    };
    let write = |store: &Store, _: &Home| store.release("x");
    let check = |store: &Store, acknowledged: bool| {
        let retained = !store.retained().unwrap().is_empty();
        assert!(!(retained && acknowledged));
        store.gc(Some(0)).unwrap();
        assert!(if retained {
            world.is_whole(store)
        } else {
            world.is_absent(store)
        });
    };
    stop_at_each_step(prepare, write, check);
    fill_the_disk_at_each_step(prepare, write, is_full, check)
}

/// Stores that count two references in a transaction, so that these worlds need many.
fn few_at_once() -> Home {
    let mut home = Home::new(100_000);
    home.refs_at_once = 2;
    home
}

/// The label moves from one tree to another, staged files become the tree's, and all that in many transactions.
#[test]
fn retaining_in_many_transactions_is_finished_after_a_stop_at_any_of_them() {
    let world = World::new();
    let old = World {
        root: tree(&[("a/x", &world.files[0].1), ("old", &world.files[2].1)]).0,
        nodes: tree(&[("a/x", &world.files[0].1), ("old", &world.files[2].1)]).1,
        files: Vec::new(),
    };
    let prepare = |store: &Store, home: &Home| {
        old.import(store, home).unwrap();
        store.retain("x", &old.root).unwrap();
        let mut batch = store.batch();
        batch.stage("x").unwrap();
        for (data, dag) in &world.files {
            add(&mut batch, home, data, dag, Intake::Copy).unwrap();
        }
        world.nodes.iter().for_each(|node| batch.put_node(node).unwrap());
        batch.commit().unwrap();
    };
    let write = |store: &Store, _: &Home| store.retain("x", &world.root);
    let check = |store: &Store, acknowledged: bool| {
        let retained = store.retained().unwrap();
        let moved = retained == [("x".to_owned(), world.root)];
        assert!(moved || (!acknowledged && retained == [("x".to_owned(), old.root)]));
        store.gc(Some(0)).unwrap();
        // Until it has moved the files are staged.
        assert!(
            world
                .files
                .iter()
                .all(|(data, dag)| read(store, &dag.root).as_ref() == Some(data))
        );
        if moved {
            assert!(world.is_whole(store));
            assert!(
                store.node(&old.root).unwrap().is_none(),
                "the old tree is let go of"
            );
            store.release("x").unwrap();
            store.gc(Some(0)).unwrap();
            assert!(world.is_absent(store));
            assert_eq!(store.stats().nodes, 0);
        }
    };
    stop_at_each_step_of(&few_at_once, prepare, write, check);
}

#[test]
fn releasing_in_many_transactions_is_finished_after_a_stop_at_any_of_them() {
    let world = World::new();
    let prepare = |store: &Store, home: &Home| {
        world.import(store, home).unwrap();
        store.retain("x", &world.root).unwrap();
    };
    let write = |store: &Store, _: &Home| store.release("x");
    let check = |store: &Store, acknowledged: bool| {
        let retained = !store.retained().unwrap().is_empty();
        assert!(!(retained && acknowledged));
        store.gc(Some(0)).unwrap();
        assert!(if retained {
            world.is_whole(store)
        } else {
            world.is_absent(store)
        });
    };
    stop_at_each_step_of(&few_at_once, prepare, write, check);
}

#[test]
fn gc_removes_a_file_from_index_and_disk_or_leaves_it_in_both() -> TestResult {
    let world = World::new();
    let prepare = |store: &Store, home: &Home| {
        world.import(store, home).unwrap();
        put(store, home, &bytes(77, 3000));
        let partial = store.begin_partial(&dag(&TINY, &bytes(78, 3000))).unwrap();
        partial
            .write_leaf(0, &bytes(78, 3000)[..1000], Origin::Lan)
            .unwrap();
        store.retain("x", &world.root).unwrap();
    };
    let write = |store: &Store, _: &Home| store.gc(Some(0)).map(|_| ());
    let check = |store: &Store, acknowledged: bool| {
        assert!(world.is_whole(store));
        if acknowledged {
            assert_eq!(store.stats().evictable, 0);
        }
    };
    stop_at_each_step(prepare, write, check);
    fill_the_disk_at_each_step(prepare, write, is_full, check)
}

#[test]
fn a_partial_file_that_is_finished_is_whole_or_still_partial() -> TestResult {
    let data = bytes(5, 5500);
    let file = dag(&TINY, &data);
    let leaf = |index: usize| &data[1000 * index..(1000 * index + 1000).min(data.len())];
    let prepare = |store: &Store, _: &Home| {
        let partial = store.begin_partial(&file).unwrap();
        (0..3).for_each(|index| partial.write_leaf(index, leaf(index), Origin::Lan).unwrap());
    };
    let write = |store: &Store, _: &Home| -> Result<(), PartialError> {
        let partial = store.begin_partial(&file)?;
        for index in partial.missing() {
            partial.write_leaf(index, leaf(index), Origin::Peer)?;
        }
        partial.flush()?;
        partial.finish(Sha256::Compute).map(|_| ())
    };
    let check = |store: &Store, acknowledged: bool| {
        if read(store, &file.root).as_ref() == Some(&data) {
            return;
        }
        assert!(!acknowledged);
        // What was acknowledged before is still there.
        let partial = store.begin_partial(&file).unwrap();
        assert!((0..3).all(|index| partial.read_leaf(index).unwrap() == leaf(index)));
    };
    stop_at_each_step(prepare, write, check);
    let is_full = |error: &PartialError| matches!(error, PartialError::Write(WriteError::StorageFull(_)));
    fill_the_disk_at_each_step(prepare, write, is_full, check)
}

#[test]
fn a_finish_that_failed_and_is_given_up_loses_nothing_that_became_whole() -> TestResult {
    let data = bytes(5, 2500);
    let file = dag(&TINY, &data);
    let write = |store: &Store, _: &Home| -> Result<(), PartialError> {
        let partial = store.begin_partial(&file)?;
        for index in 0..3 {
            partial.write_leaf(
                index,
                &data[1000 * index..(1000 * index + 1000).min(2500)],
                Origin::Peer,
            )?;
        }
        if partial.finish(Sha256::Compute).is_err() {
            partial.discard();
            store.gc(None)?;
        }
        Ok(())
    };
    let is_full = |error: &PartialError| matches!(error, PartialError::Write(WriteError::StorageFull(_)));
    fill_the_disk_at_each_step(nothing, write, is_full, |store, _| {
        if store.file(&file.root).unwrap().is_some() {
            assert_eq!(read(store, &file.root).as_ref(), Some(&data));
        }
    })
}

#[test]
fn a_partial_file_that_is_begun_is_there_or_leaves_nothing() {
    let data = bytes(5, 5500);
    let file = dag(&TINY, &data);
    let write = |store: &Store, _: &Home| -> Result<(), PartialError> {
        store
            .begin_partial(&file)?
            .write_leaf(1, &data[1000..2000], Origin::Lan)
    };
    let check = |store: &Store, acknowledged: bool| {
        if acknowledged {
            assert_eq!(store.begin_partial(&file).unwrap().missing(), [0, 2, 3, 4, 5]);
        }
    };
    stop_at_each_step(nothing, write, check);
}

#[test]
fn making_room_loses_neither_the_new_nor_the_held() {
    let world = World::new();
    let prepare = |store: &Store, home: &Home| {
        world.import(store, home).unwrap();
        store.retain("x", &world.root).unwrap();
        for seed in 0..3 {
            put(store, home, &bytes(50 + seed, 33_000));
            home.hand.advance(Duration::from_secs(1));
        }
    };
    let new = bytes(60, 40_000);
    let write = |store: &Store, home: &Home| {
        let mut batch = store.batch();
        add(&mut batch, home, &new, &dag(&TINY, &new), Intake::Copy)?;
        batch.commit()
    };
    let check = |store: &Store, acknowledged: bool| {
        assert!(world.is_whole(store));
        assert!(store.stats().evictable <= 100_000);
        let here = read(store, &dag(&TINY, &new).root).as_ref() == Some(&new);
        assert!(here || !acknowledged);
    };
    stop_at_each_step(prepare, write, check);
}

#[test]
fn a_repair_that_is_cut_off_is_done_again() -> TestResult {
    let world = World::new();
    let prepare = |store: &Store, home: &Home| {
        world.import(store, home).unwrap();
        store.retain("x", &world.root).unwrap();
        put(store, home, &bytes(70, 3000));
        let path = home.on_disk().pop().unwrap();
        std::fs::write(path, bytes(71, 3000)).unwrap();
    };
    for at in 0.. {
        let home = Home::new(100_000);
        prepare(&home.open(), &home);
        let hook = Hook::crash_at(at);
        if let Ok(store) = home.open_hooked(&hook) {
            let _ = store.fsck(true, &mut |_| {});
        }
        let store = home.open();
        store.fsck(true, &mut |_| {})?;
        assert_sound(&store, &home);
        assert!(world.is_whole(&store));
        if !hook.has_fired() {
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn files_are_synced_before_the_index_names_them() -> TestResult {
    let world = World::new();
    let home = Home::new(100_000);
    let hook = Hook::never();
    let store = home.open_hooked(&hook)?;
    hook.log.lock().unwrap().clear();
    world.import(&store, &home)?;
    let log = Arc::clone(&hook);
    let log = log.log.lock().unwrap();
    let at = |step| log.iter().position(|other| *other == step).ok_or(step);
    assert!(at("take file")? < at("sync files")?);
    assert!(at("sync files")? < at("index commit")?);
    assert!(at("index commit")? < at("index sync")?);
    assert_eq!(
        log.iter().filter(|step| **step == "sync files").count(),
        1,
        "one sync for all files"
    );
    assert_eq!(log.iter().filter(|step| **step == "index commit").count(), 1);
    Ok(())
}

/// Lets so many steps through, and no more: the file system became read-only.
#[derive(Debug)]
struct Gate(AtomicU64);

impl Steps for Gate {
    fn before(&self, _: &'static str) -> std::io::Result<()> {
        let through = |left: u64| left.checked_sub(1);
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, through) {
            Ok(_) => Ok(()),
            Err(_) => Err(std::io::Error::from_raw_os_error(30)),
        }
    }
}

/// A failed write leaves an index that has to be opened anew, which writes as well.
#[test]
fn what_is_here_is_read_while_nothing_can_be_written_and_writing_goes_on_when_it_can() -> TestResult {
    let world = World::new();
    for steps in 0.. {
        let home = Home::new(100_000);
        let gate = Arc::new(Gate(AtomicU64::new(u64::MAX)));
        let store = home.open_hooked(&gate)?;
        world.import(&store, &home)?;
        store.state_put(&[("before", Some(b"1"))])?;
        gate.0.store(steps, Ordering::SeqCst);
        let mut taken = 0;
        for _ in 0..3 {
            taken += usize::from(store.state_put(&[("meanwhile", Some(b"2"))]).is_ok());
            assert!(world.is_whole(&store), "after {steps} steps");
            assert_eq!(store.state_get("before")?.as_deref(), Some(&b"1"[..]));
            let meanwhile = store.state_get("meanwhile")?;
            assert!(taken == 0 || meanwhile.is_some(), "after {steps} steps");
        }
        gate.0.store(u64::MAX, Ordering::SeqCst);
        store.state_put(&[("after", Some(b"3"))])?;
        drop(store);
        let store = home.open();
        assert_sound(&store, &home);
        assert!(world.is_whole(&store));
        let mut kept = store.state_list("")?.into_iter().map(|(key, _)| key);
        assert_eq!(kept.next().as_deref(), Some("after"));
        assert_eq!(kept.next().as_deref(), Some("before"));
        assert!(taken == 0 || kept.next().is_some(), "after {steps} steps");
        if taken == 3 {
            assert!(steps > 5, "only {steps} steps were seen");
            break;
        }
    }
    Ok(())
}
