//! The power fails before each step of each multi-step write, and after what was acknowledged.
//!
//! Other than in `crate::crash`, what was not synced is gone, all of it or by the coin of a seed. The store that
//! is opened then must be sound, hold all that was acknowledged, and no file besides.

use std::fmt::Debug;
use std::sync::Arc;

use pacstore_store::{Intake, Origin, PartialError, Sha256, Store};
use pacstore_testkit::{Loss, Power};

use crate::crash::World;
use crate::kit::{Home, TINY, add, assert_sound, bytes, dag, put, read};

/// What was acknowledged before the power failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Written,
}

/// Runs `write` over what `prepare` made and cuts the power before step 0, 1, 2... until none meets the cut: then
/// it is cut with the store open, and once more after an orderly close. `check` sees the store that a restart finds.
fn cut_at_each_step<E: Debug>(
    prepare: impl Fn(&Home),
    write: impl Fn(&Store, &Home) -> Result<(), E>,
    check: impl Fn(&Store, Told),
) {
    let mut closes_first = false;
    for at in 0.. {
        let home = Home::new(100_000);
        prepare(&home);
        let power = Power::watch(home.root()).unwrap();
        power.cut_after(at);
        let mut told = Told::Nothing;
        if let Ok(store) = home.open_hooked(&power) {
            if write(&store, &home).is_ok() {
                told = Told::Written;
            }
            if !closes_first {
                power.cut();
            }
        }
        power.cut();
        for loss in [Loss::Unsynced, Loss::Some(2 * at), Loss::Some(2 * at + 1)] {
            power.restore(loss).unwrap();
            let store = Store::open(&home.path(), home.options())
                .unwrap_or_else(|error| panic!("step {at}, {loss:?}: {error:?}"));
            assert_sound(&store, &home);
            check(&store, told);
        }
        if !power.was_cut_by_step() {
            assert_eq!(told, Told::Written, "nothing stopped it");
            if closes_first {
                assert!(5 < at, "only {at} steps were seen");
                return;
            }
            closes_first = true;
        }
    }
}

fn opened(home: &Home) -> Store {
    home.open()
}

/// The first import of all: even the folder is new.
#[test]
fn a_batch_into_a_new_store_survives_the_power_or_was_not_acknowledged() {
    let world = World::new();
    cut_at_each_step(
        |_| {},
        |store, home| world.import(store, home),
        |store, told| assert!(world.is_whole(store) || (told == Told::Nothing && world.is_absent(store))),
    );
}

/// More files than are synced one by one.
#[test]
fn a_batch_of_many_files_survives_the_power() {
    let files: Vec<_> = (0..12)
        .map(|seed| bytes(seed, 500 + 300 * seed as usize))
        .collect();
    cut_at_each_step(
        |home| drop(opened(home)),
        |store, home| {
            let mut batch = store.batch();
            for data in &files {
                add(&mut batch, home, data, &dag(&TINY, data), Intake::Move)?;
            }
            batch.commit()
        },
        |store, told| {
            for data in &files {
                let here = read(store, &dag(&TINY, data).root);
                assert!(here.as_ref() == Some(data) || (told == Told::Nothing && here.is_none()));
            }
        },
    );
}

#[test]
fn a_retained_tree_survives_the_power() {
    let world = World::new();
    cut_at_each_step(
        |home| world.import(&opened(home), home).unwrap(),
        |store, _| store.retain("x", &world.root),
        |store, told| {
            let retained = !store.retained().unwrap().is_empty();
            assert!(retained || told == Told::Nothing);
            store.gc(Some(0)).unwrap();
            assert!(if retained {
                world.is_whole(store)
            } else {
                world.is_absent(store)
            });
        },
    );
}

/// What gc removed does not come back as a file that nobody knows, not even after an orderly close.
#[test]
fn gc_leaves_no_file_that_the_index_does_not_know_when_the_power_fails() {
    let world = World::new();
    cut_at_each_step(
        |home| {
            let store = opened(home);
            world.import(&store, home).unwrap();
            store.retain("x", &world.root).unwrap();
            put(&store, home, &bytes(77, 3000));
            put(&store, home, &bytes(78, 300));
        },
        |store, _| store.gc(Some(0)).map(|_| ()),
        |store, told| {
            assert!(world.is_whole(store));
            if told == Told::Written {
                assert_eq!(store.stats().evictable, 0);
            }
        },
    );
}

#[test]
fn a_key_is_put_durably() {
    cut_at_each_step(
        |home| opened(home).state_put(&[("a", Some(b"old"))]).unwrap(),
        |store, _| store.state_put(&[("a", Some(b"new")), ("b", Some(b"too"))]),
        |store, told| {
            let found = (store.state_get("a").unwrap(), store.state_get("b").unwrap());
            let new = (Some(b"new".to_vec()), Some(b"too".to_vec()));
            assert!(found == new || (told == Told::Nothing && found == (Some(b"old".to_vec()), None)));
        },
    );
}

#[test]
fn a_partial_file_keeps_what_was_flushed_and_a_finished_one_all() {
    let data = bytes(5, 5500);
    let file = dag(&TINY, &data);
    let leaf = |index: usize| &data[1000 * index..(1000 * index + 1000).min(data.len())];
    cut_at_each_step(
        |home| {
            let store = opened(home);
            let partial = store.begin_partial(&file).unwrap();
            (0..3).for_each(|index| partial.write_leaf(index, leaf(index), Origin::Lan).unwrap());
            partial.flush().unwrap();
        },
        |store, _| -> Result<(), PartialError> {
            let partial = store.begin_partial(&file)?;
            for index in partial.missing() {
                partial.write_leaf(index, leaf(index), Origin::Peer)?;
            }
            partial.finish(Sha256::Compute).map(|_| ())
        },
        |store, told| {
            if read(store, &file.root).as_ref() == Some(&data) {
                return;
            }
            assert_eq!(told, Told::Nothing);
            let partial = store.begin_partial(&file).unwrap();
            assert!((0..3).all(|index| partial.read_leaf(index).unwrap() == leaf(index)));
        },
    );
}

/// A flush is a promise of its own: the file is not finished, and what was flushed is there.
#[test]
fn what_was_flushed_of_a_new_partial_file_survives_the_power() {
    let data = bytes(6, 3500);
    let file = dag(&TINY, &data);
    cut_at_each_step(
        |home| drop(opened(home)),
        |store, _| -> Result<(), PartialError> {
            let partial = store.begin_partial(&file)?;
            partial.write_leaf(1, &data[1000..2000], Origin::Peer)?;
            Ok(partial.flush()?)
        },
        |store, told| {
            if told == Told::Written {
                let partial = store.begin_partial(&file).unwrap();
                assert_eq!(partial.missing(), [0, 2, 3]);
                assert_eq!(partial.read_leaf(1).unwrap(), &data[1000..2000]);
            }
        },
    );
}

/// The cut is a real one: without it nothing is lost, and with it what was only written is.
#[test]
fn a_file_that_is_only_written_is_lost() {
    let home = Home::new(100_000);
    let power = Power::watch(home.root()).unwrap();
    let store = home.open_hooked(&power).unwrap();
    let data = bytes(1, 2000);
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &dag(&TINY, &data), Intake::Copy).unwrap();
    assert_eq!(home.on_disk().len(), 1, "it lies there");
    power.cut();
    drop(batch);
    drop(store);
    power.restore(Loss::Unsynced).unwrap();
    let store = Store::open(&home.path(), home.options()).unwrap();
    assert_eq!(home.on_disk().len(), 0);
    assert_sound(&store, &home);
    assert_eq!(Arc::strong_count(&power), 1);
}
