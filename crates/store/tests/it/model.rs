//! Random operations against a model that is a few maps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pacstore_dag::FileDag;
use pacstore_store::{Intake, Origin, Sha256, Store};
use proptest::prelude::*;

use crate::kit::{Home, OTHER, TINY, add, assert_sound, bytes, dag, read, tree};

/// How many different files there are.
const FILES: usize = 8;

#[derive(Clone, Debug)]
enum Op {
    Add(Vec<usize>, Way),
    Arrive(usize, usize),
    Retain(u8, BTreeSet<usize>),
    Release(u8),
    Pin(usize),
    Unpin(usize),
    Touch(usize),
    Gc(u64),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Copy,
    Link,
    Move,
    OtherProfile,
    Staged(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let file = || 0..FILES;
    let way = prop_oneof![
        Just(Way::Copy),
        Just(Way::Link),
        Just(Way::Move),
        Just(Way::OtherProfile),
        (0..3u8).prop_map(Way::Staged)
    ];
    prop_oneof![
        4 => (proptest::collection::vec(file(), 1..4), way).prop_map(|(files, way)| Op::Add(files, way)),
        2 => (file(), 1..10usize).prop_map(|(file, leaves)| Op::Arrive(file, leaves)),
        2 => (0..3u8, proptest::collection::btree_set(file(), 1..4)).prop_map(|(label, set)| Op::Retain(label, set)),
        1 => (0..3u8).prop_map(Op::Release),
        1 => file().prop_map(Op::Pin),
        1 => file().prop_map(Op::Unpin),
        1 => file().prop_map(Op::Touch),
        2 => (0..20_000u64).prop_map(Op::Gc),
        1 => Just(Op::Reopen),
    ]
}

struct Fixture {
    data: Vec<u8>,
    dag: FileDag,
    other: FileDag,
}

/// File 0 is the first leaf of file 1, so that blocks are shared, and may be held by it.
fn fixtures() -> Vec<Fixture> {
    (0..FILES)
        .map(|index| {
            let mut data = bytes(index as u64, [1000, 2500, 0, 1, 900, 4000, 9100, 5000][index]);
            if index == 1 {
                data[..1000].copy_from_slice(&bytes(0, 1000));
            }
            Fixture {
                dag: dag(&TINY, &data),
                other: dag(&OTHER, &data),
                data,
            }
        })
        .collect()
}

/// What should be: which files are held, and which may be here.
#[derive(Default)]
struct Model {
    labels: BTreeMap<u8, BTreeSet<usize>>,
    staged: BTreeMap<u8, BTreeSet<usize>>,
    pins: BTreeSet<usize>,
    /// Files that are here for certain: added and held ever since.
    here: BTreeSet<usize>,
}

impl Model {
    fn held(&self) -> BTreeSet<usize> {
        let labels = self.labels.values().chain(self.staged.values()).flatten();
        labels.chain(&self.pins).copied().collect()
    }
}

fn label(label: u8) -> String {
    format!("label {label}")
}

fn run(store: &Store, home: &Home, files: &[Fixture], model: &mut Model, op: &Op) {
    home.hand.advance(Duration::from_secs(1));
    match op {
        Op::Add(which, way) => {
            let mut batch = store.batch();
            if let Way::Staged(name) = way {
                batch.stage(&label(*name)).unwrap();
                model.staged.entry(*name).or_default().extend(which);
            }
            for index in which {
                let file = &files[*index];
                let (how, dag) = match way {
                    Way::Copy | Way::Staged(_) => (Intake::Copy, &file.dag),
                    Way::Link => (Intake::Link, &file.dag),
                    Way::Move => (Intake::Move, &file.dag),
                    Way::OtherProfile => (Intake::Copy, &file.other),
                };
                add(&mut batch, home, &file.data, dag, how).unwrap();
            }
            batch.commit().unwrap();
            let whole = which.iter().filter(|_| !matches!(way, Way::OtherProfile));
            model.here.extend(whole);
        }
        Op::Arrive(index, count) => {
            let file = &files[*index];
            let partial = store.begin_partial(&file.dag).unwrap();
            for missing in partial.missing().into_iter().take(*count) {
                let leaf = file.dag.leaves[missing];
                let range = leaf.offset as usize..(leaf.offset + leaf.len) as usize;
                partial
                    .write_leaf(missing, &file.data[range], Origin::Lan)
                    .unwrap();
            }
            if partial.is_complete() {
                partial.finish(Sha256::Compute).unwrap();
                model.here.insert(*index);
            }
        }
        Op::Retain(name, which) => {
            let named: Vec<_> = which
                .iter()
                .map(|index| (format!("d/{index}"), &files[*index].dag))
                .collect();
            let named: Vec<_> = named.iter().map(|(name, dag)| (name.as_str(), *dag)).collect();
            let (root, nodes) = tree(&named);
            store.put_nodes(&nodes).unwrap();
            store.retain(&label(*name), &root).unwrap();
            model.labels.insert(*name, which.clone());
            model.staged.remove(name);
        }
        Op::Release(name) => {
            store.release(&label(*name)).unwrap();
            model.labels.remove(name);
            model.staged.remove(name);
        }
        Op::Pin(index) => {
            store.pin(&files[*index].dag.root).unwrap();
            model.pins.insert(*index);
        }
        Op::Unpin(index) => {
            store.unpin(&files[*index].dag.root).unwrap();
            model.pins.remove(index);
        }
        Op::Touch(index) => store.touch(&files[*index].dag.root),
        Op::Gc(target) => {
            let report = store.gc(Some(*target)).unwrap();
            assert!(report.evictable <= *target);
        }
        Op::Reopen => {}
    }
    let held = model.held();
    model
        .here
        .retain(|index| held.contains(index) || store.file(&files[*index].dag.root).unwrap().is_some());
}

fn check(store: &Store, files: &[Fixture], model: &Model) {
    for index in &model.here {
        let file = &files[*index];
        assert_eq!(
            read(store, &file.dag.root).as_ref(),
            Some(&file.data),
            "file {index}"
        );
        for leaf in &file.dag.leaves {
            let range = leaf.offset as usize..(leaf.offset + leaf.len) as usize;
            assert_eq!(
                store.block(&leaf.cid).unwrap().as_deref(),
                Some(&file.data[range])
            );
        }
    }
    assert!(store.stats().evictable <= store.stats().max_bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_map_would_do(
        ops in proptest::collection::vec(op(), 1..40),
        refs_at_once in prop_oneof![1..5usize, Just(4096)],
    ) {
        let mut home = Home::new(200_000);
        home.refs_at_once = refs_at_once;
        let files = fixtures();
        let mut model = Model::default();
        let mut store = Some(home.open());
        for op in &ops {
            if matches!(op, Op::Reopen) {
                drop(store.take());
                store = Some(home.open());
            }
            let store = store.as_ref().expect("always open");
            run(store, &home, &files, &mut model, op);
            check(store, &files, &model);
        }
        let store = store.as_ref().expect("always open");
        assert_sound(store, &home);
        for name in 0..3 {
            store.release(&label(name)).unwrap();
        }
        for file in &files {
            store.unpin(&file.dag.root).unwrap();
        }
        store.gc(Some(0)).unwrap();
        assert_sound(store, &home);
        // A file of no bytes takes no room, so nothing evicts it.
        prop_assert!(store.stats().files <= 1);
        prop_assert_eq!((store.stats().nodes, store.stats().bytes), (0, 0));
    }
}
