//! Fsck: one damage each, named and mended.

use std::path::Path;

use cid::Cid;
use pacstore_store::{Damage, FsckReport, Intake, Origin, Sha256, Store};
use redb::{Database, TableDefinition};

use crate::kit::{
    Home, OLD, OTHER, TINY, TestResult, add, assert_sound, bytes, dag, only_file, put, read, tree,
};

struct Built {
    home: Home,
    small: Cid,
    large: Cid,
    root: Cid,
}

/// A closed store with a small and a large file in a retained tree, and a loose file.
fn build() -> Built {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (small, large) = (bytes(1, 700), bytes(2, 6000));
    let dags = [dag(&TINY, &small), dag(&TINY, &large)];
    let (root, nodes) = tree(&[("s", &dags[0]), ("d/l", &dags[1])]);
    store.put_nodes(&nodes).unwrap();
    store.retain("x", &root).unwrap();
    let (small, large) = (put(&store, &home, &small), put(&store, &home, &large));
    put(&store, &home, &bytes(3, 2000));
    Built {
        home,
        small,
        large,
        root,
    }
}

impl Built {
    /// Runs fsck without and with repair; the second run after a repair must find nothing.
    fn check(&self) -> (Store, FsckReport) {
        let store = self.home.open();
        let found = store.fsck(false, &mut |_| {}).unwrap();
        assert!(!found.repaired);
        let repaired = store.fsck(true, &mut |_| {}).unwrap();
        assert!(repaired.repaired);
        assert_eq!(repaired.damages, found.damages, "looking changes nothing");
        assert_sound(&store, &self.home);
        (store, found)
    }

    fn file(&self, root: &Cid) -> std::path::PathBuf {
        let id = self.home.open().file(root).unwrap().unwrap().id;
        self.home
            .on_disk()
            .into_iter()
            .find(|path| path.ends_with(format!("{id:016x}")))
            .unwrap()
    }

    fn edit<K: redb::Key + 'static, V: redb::Value + 'static>(
        &self,
        table: TableDefinition<'_, K, V>,
        edit: impl FnOnce(&mut redb::Table<'_, K, V>),
    ) {
        let db = Database::open(self.home.path().join("index.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        edit(&mut txn.open_table(table).unwrap());
        txn.commit().unwrap();
    }
}

#[test]
fn a_sound_store_has_no_damage_and_all_of_it_was_read() -> TestResult {
    let built = build();
    let store = built.home.open();
    let mut seen = Vec::new();
    let report = store.fsck(true, &mut |progress| seen.push(progress))?;
    assert_eq!(report.damages, vec![]);
    assert_eq!(
        (report.files, report.bytes, report.nodes),
        (3, 8700, store.stats().nodes)
    );
    assert_eq!(
        seen.last().map(|last| (last.files, last.of_files, last.bytes)),
        Some((3, 3, 8700))
    );
    assert!(
        seen.iter().all(|now| 8700 <= now.of_bytes),
        "how much there is is known from the start"
    );
    Ok(())
}

#[test]
fn a_missing_file_is_named_and_leaves_the_index() -> TestResult {
    let built = build();
    let path = built.file(&built.large);
    std::fs::remove_file(&path)?;
    let (store, report) = built.check();
    assert_eq!(
        report.damages,
        vec![Damage::FileMissing {
            root: built.large,
            path
        }]
    );
    assert_eq!(store.file(&built.large)?, None);
    assert!(store.file(&built.small)?.is_some());
    // The tree still wants it: it stays when it comes again.
    put(&store, &built.home, &bytes(2, 6000));
    store.gc(Some(0))?;
    assert_eq!(read(&store, &built.large), Some(bytes(2, 6000)));
    assert_sound(&store, &built.home);
    Ok(())
}

#[test]
fn a_file_of_another_length_is_named() -> TestResult {
    let built = build();
    let path = built.file(&built.large);
    std::fs::File::options().write(true).open(&path)?.set_len(5999)?;
    let (_, report) = built.check();
    let root = built.large;
    assert_eq!(
        report.damages,
        vec![Damage::FileSize {
            root,
            path,
            expected: 6000,
            found: 5999
        }]
    );
    Ok(())
}

/// A pipe is not waited at, a link is not followed, and a folder is nobody's to remove; the store opens with either.
#[test]
fn what_is_no_file_in_the_place_of_one_is_named_and_harms_nothing() -> TestResult {
    for what in ["a pipe", "a link", "a folder"] {
        let built = build();
        let path = built.file(&built.large);
        std::fs::remove_file(&path)?;
        match what {
            "a pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR)?,
            "a link" => std::os::unix::fs::symlink("/nowhere/at/all", &path)?,
            _ => std::fs::create_dir(&path)?,
        }
        let store = built.home.open();
        let found = store.fsck(false, &mut |_| {})?.damages;
        let root = built.large;
        let named = |damage: &Damage| match damage {
            Damage::FileMissing { root: is, .. } | Damage::FileSize { root: is, .. } => *is == root,
            _ => false,
        };
        assert!(found.iter().any(named), "{what}: {found:?}");
        store.fsck(true, &mut |_| {})?;
        let left = store.fsck(true, &mut |_| {})?.damages;
        let foreign = Damage::Foreign { path: path.clone() };
        let expected = if what == "a folder" {
            vec![foreign]
        } else {
            Vec::new()
        };
        assert_eq!(left, expected, "{what}");
        drop(store);
        let store = built.home.open();
        put(&store, &built.home, &bytes(2, 6000));
        assert_eq!(read(&store, &built.large), Some(bytes(2, 6000)), "{what}");
    }
    Ok(())
}

#[test]
fn one_wrong_bit_is_found() -> TestResult {
    let built = build();
    for root in [built.small, built.large] {
        let path = built.file(&root);
        let mut data = std::fs::read(&path)?;
        data[600] ^= 0x10;
        std::fs::write(&path, data)?;
        let (store, report) = built.check();
        assert_eq!(
            report.damages,
            vec![Damage::FileBytes {
                root,
                path: path.clone()
            }]
        );
        assert!(!path.exists());
        assert_eq!(store.file(&root)?, None);
    }
    Ok(())
}

#[test]
fn a_file_without_sha256_is_checked_leaf_by_leaf() -> TestResult {
    let built = build();
    let data = bytes(9, 5000);
    let file = dag(&TINY, &data);
    {
        let store = built.home.open();
        let partial = store.begin_partial(&file)?;
        for (index, leaf) in data.chunks(1000).enumerate() {
            partial.write_leaf(index, leaf, Origin::Lan)?;
        }
        partial.finish(Sha256::Skip)?;
    }
    let path = built.file(&file.root);
    let mut other = data;
    other[4999] ^= 1;
    std::fs::write(&path, other)?;
    let (_, report) = built.check();
    assert_eq!(
        report.damages,
        vec![Damage::FileBytes {
            root: file.root,
            path
        }]
    );
    Ok(())
}

#[test]
fn a_stray_file_is_removed_and_a_foreign_one_named() -> TestResult {
    let built = build();
    let folder = built.file(&built.small).parent().ok_or("folder")?.to_owned();
    let (stray, foreign) = (folder.join("00000000000003ff"), folder.join("README"));
    std::fs::write(&stray, b"stray")?;
    let store = built.home.open();
    let report = store.fsck(true, &mut |_| {})?;
    assert_eq!(report.damages, vec![Damage::Stray { path: stray.clone() }]);
    assert!(!stray.exists());
    assert_sound(&store, &built.home);
    std::fs::write(&foreign, b"mine")?;
    let report = store.fsck(true, &mut |_| {})?;
    assert_eq!(
        report.damages,
        vec![Damage::Foreign {
            path: foreign.clone()
        }]
    );
    assert!(foreign.exists());
    Ok(())
}

#[test]
fn a_node_with_other_bytes_is_dropped() -> TestResult {
    let built = build();
    let mut key = [1; 33];
    key[1..].copy_from_slice(built.root.hash().digest());
    built.edit(NODES, |nodes| {
        let mut row = nodes.remove(&key).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        nodes.insert(&key, row.as_slice()).unwrap();
    });
    let store = built.home.open();
    let report = store.fsck(true, &mut |_| {})?;
    let cid = Cid::new_v1(0x55, *built.root.hash());
    assert!(report.damages.contains(&Damage::NodeBytes { cid }), "{report:?}");
    assert_sound(&store, &built.home);
    assert_eq!(store.node(&built.root)?, None);
    // It comes again, and the tree is held again.
    let dags = [dag(&TINY, &bytes(1, 700)), dag(&TINY, &bytes(2, 6000))];
    store.put_nodes(&tree(&[("s", &dags[0]), ("d/l", &dags[1])]).1)?;
    store.gc(Some(0))?;
    assert!(store.file(&built.large)?.is_some());
    assert_sound(&store, &built.home);
    Ok(())
}

#[test]
fn an_inner_node_of_a_file_with_other_bytes_takes_the_file_with_it() -> TestResult {
    let built = build();
    let mut key = [1; 33];
    key[1..].copy_from_slice(built.large.hash().digest());
    built.edit(NODES, |nodes| {
        let mut row = nodes.remove(&key).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        nodes.insert(&key, row.as_slice()).unwrap();
    });
    let store = built.home.open();
    store.fsck(true, &mut |_| {})?;
    assert_sound(&store, &built.home);
    assert_eq!(store.file(&built.large)?, None);
    assert!(store.file(&built.small)?.is_some());
    Ok(())
}

/// Damages one table, and expects it named and mended.
fn table<K: redb::Key + 'static, V: redb::Value + 'static>(
    name: &'static str,
    definition: TableDefinition<'_, K, V>,
    edit: impl FnOnce(&mut redb::Table<'_, K, V>),
) -> TestResult {
    let built = build();
    built.edit(definition, edit);
    let (store, report) = built.check();
    assert_eq!(report.damages, vec![Damage::Table { table: name, rows: 1 }]);
    assert!(store.file(&built.small)?.is_some() && store.file(&built.large)?.is_some());
    store.gc(Some(0))?;
    assert!(store.file(&built.small)?.is_some() && store.file(&built.large)?.is_some());
    assert_sound(&store, &built.home);
    store.release("x")?;
    store.gc(Some(0))?;
    assert_eq!((store.stats().files, store.stats().nodes), (0, 0));
    Ok(())
}

const NODES: TableDefinition<'_, &[u8; 33], &[u8]> = TableDefinition::new("nodes");
const BLOCKS: TableDefinition<'_, &[u8; 33], &[u8; 16]> = TableDefinition::new("blocks");
const REFS: TableDefinition<'_, &[u8; 34], u64> = TableDefinition::new("refs");
const ROOTS: TableDefinition<'_, &[u8; 34], u64> = TableDefinition::new("roots");
const LRU: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("lru");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

#[test]
fn a_lost_block_row_is_written_again() -> TestResult {
    table("blocks", BLOCKS, |blocks| drop(blocks.pop_first().unwrap()))
}

#[test]
fn a_block_row_that_points_nowhere_goes() -> TestResult {
    table("blocks", BLOCKS, |blocks| {
        drop(blocks.insert(&[1; 33], &[9; 16]).unwrap());
    })
}

#[test]
fn a_lost_root_is_written_again() -> TestResult {
    table("roots", ROOTS, |roots| drop(roots.pop_last().unwrap()))
}

#[test]
fn a_wrong_count_of_references_is_mended() -> TestResult {
    table("refs", REFS, |refs| {
        let key = *redb::ReadableTable::first(refs).unwrap().unwrap().0.value();
        refs.insert(&key, 7).unwrap();
    })?;
    table("refs", REFS, |refs| drop(refs.insert(&[1; 34], 1).unwrap()))
}

#[test]
fn a_wrong_order_of_use_and_wrong_sums_are_mended() -> TestResult {
    table("lru", LRU, |lru| drop(lru.insert((5, 5), ()).unwrap()))?;
    table("counters", META, |meta| {
        drop(meta.insert("counters", [3; 80].as_slice()).unwrap());
    })
}

#[test]
fn a_row_that_makes_no_sense_takes_its_file_with_it() -> TestResult {
    const FILES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("files");
    let built = build();
    let id = built.home.open().file(&built.large)?.ok_or("here")?.id;
    built.edit(FILES, |files| {
        drop(files.insert(id, [1, 2, 3].as_slice()).unwrap());
    });
    let store = built.home.open();
    let report = store.fsck(true, &mut |_| {})?;
    assert!(report.damages.contains(&Damage::FileRow { id }), "{report:?}");
    assert_sound(&store, &built.home);
    assert_eq!(store.file(&built.large)?, None);
    put(&store, &built.home, &bytes(2, 6000));
    assert_eq!(read(&store, &built.large), Some(bytes(2, 6000)));
    Ok(())
}

#[test]
fn a_changed_reference_is_found_and_its_owner_left_alone() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 2000);
    let file = dag(&TINY, &data);
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &file, Intake::Reference)?;
    batch.commit()?;
    let path = home
        .path()
        .parent()
        .map(|dir| dir.join(format!("in-{}", file.root)))
        .ok_or("path")?;
    std::fs::write(&path, bytes(2, 2000))?;
    let report = store.fsck(true, &mut |_| {})?;
    assert_eq!(
        report.damages,
        vec![Damage::FileBytes {
            root: file.root,
            path: path.clone()
        }]
    );
    assert!(Path::new(&path).exists());
    assert_eq!(store.stats().files, 0);
    Ok(())
}

/// Whose SHA-256 nobody knows is checked by what stands in its DAG, whatever that is made of: raw leaves, leaves that
/// are nodes, or one raw block.
#[test]
fn a_file_without_a_sha256_is_read_and_checked_by_its_leaves() -> TestResult {
    for (profile, len) in [
        (&TINY, 3500),
        (&OLD, 3500),
        (&OLD, 700),
        (&TINY, 700),
        (&OTHER, 300),
    ] {
        let home = Home::new(1 << 20);
        let store = home.open();
        let data = bytes(4, len);
        let file = dag(profile, &data);
        let partial = store.begin_partial(&file)?;
        for (index, leaf) in file.leaves.iter().enumerate() {
            let range = leaf.offset as usize..(leaf.offset + leaf.len) as usize;
            partial.write_leaf(index, &data[range], Origin::Peer)?;
        }
        let id = partial.finish(Sha256::Skip)?.id;
        drop(partial);
        assert_sound(&store, &home);
        assert_eq!(
            store.scrub_next(0)?.map(|read| (read.id, read.damage)),
            Some((id, None))
        );
        let path = only_file(&home);
        let mut broken = data.clone();
        broken[len - 1] ^= 1;
        std::fs::write(&path, broken)?;
        let root = file.root;
        let damage = Damage::FileBytes { root, path };
        assert_eq!(
            store.fsck(false, &mut |_| {})?.damages,
            vec![damage.clone()],
            "{root}"
        );
        assert_eq!(
            store.scrub_next(0)?.and_then(|read| read.damage),
            Some(damage),
            "{root}"
        );
        assert_eq!(store.file(&root)?, None);
        assert_sound(&store, &home);
    }
    Ok(())
}
