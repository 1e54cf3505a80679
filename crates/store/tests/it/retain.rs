//! Retained trees, pins and staged files: what stays.

use pacstore_dag::{BlockSource, FileDag};
use pacstore_store::{Intake, NODES_ONLY, Store};

use crate::kit::{Home, OTHER, TINY, TestResult, add, assert_sound, bytes, dag, put, read, tree};

fn some_files() -> Vec<(Vec<u8>, FileDag)> {
    [10usize, 1000, 5000, 9000]
        .iter()
        .map(|len| {
            let data = bytes(*len as u64, *len);
            let dag = dag(&TINY, &data);
            (data, dag)
        })
        .collect()
}

fn take_in(store: &Store, home: &Home, files: &[(Vec<u8>, FileDag)]) -> TestResult {
    let mut batch = store.batch();
    for (data, dag) in files {
        add(&mut batch, home, data, dag, Intake::Copy)?;
    }
    batch.commit()?;
    Ok(())
}

#[test]
fn a_retained_tree_keeps_its_files_and_nodes_until_it_is_released() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let files = some_files();
    let (root, nodes) = tree(&[
        ("core/a", &files[0].1),
        ("core/b", &files[2].1),
        ("c", &files[3].1),
    ]);
    take_in(&store, &home, &files)?;
    store.put_nodes(&nodes)?;
    store.retain("x", &root)?;
    assert_eq!(store.retained()?, vec![("x".to_owned(), root)]);
    assert_eq!(store.stats().evictable, 1000);
    store.gc(Some(0))?;
    assert_sound(&store, &home);
    for (index, (data, dag)) in files.iter().enumerate() {
        assert_eq!(
            read(&store, &dag.root).as_ref(),
            (index != 1).then_some(data),
            "file {index}"
        );
    }
    assert!(
        nodes
            .iter()
            .all(|node| store.get(&node.cid).is_ok_and(|data| data.is_some()))
    );
    drop(store);
    let store = home.open();
    store.release("x")?;
    store.release("x")?;
    assert_eq!(store.stats().evictable, 14_010);
    assert_sound(&store, &home);
    let report = store.gc(Some(0))?;
    assert_eq!((report.files, report.bytes, report.evictable), (3, 14_010, 0));
    assert_eq!((store.stats().files, store.stats().nodes), (0, 0));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_label_of_nodes_only_keeps_directories_and_lets_files_go() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let files = some_files();
    let (root, mut nodes) = tree(&[
        ("core/a", &files[0].1),
        ("core/b", &files[2].1),
        ("c", &files[3].1),
    ]);
    nodes.extend(files[2].1.nodes.iter().cloned());
    let late = nodes.pop().ok_or("a node")?;
    store.put_nodes(&nodes)?;
    store.retain(&format!("{NODES_ONLY}x"), &root)?;
    take_in(&store, &home, &files)?;
    store.put_nodes(std::slice::from_ref(&late))?;
    nodes.push(late);
    assert_eq!(store.stats().evictable, 15_010, "no file is held");
    assert_sound(&store, &home);
    // Held in whole by another label, and let go of again.
    store.retain("y", &root)?;
    assert_eq!(store.stats().evictable, 1000);
    store.release("y")?;
    assert_eq!(store.stats().evictable, 15_010);
    let report = store.gc(Some(0))?;
    assert_eq!((report.files, report.evictable), (4, 0));
    assert_sound(&store, &home);
    let store = {
        drop(store);
        home.open()
    };
    for node in &nodes {
        assert!(store.get(&node.cid)?.is_some(), "{}", node.cid);
    }
    store.release(&format!("{NODES_ONLY}x"))?;
    store.gc(Some(0))?;
    assert_eq!((store.stats().files, store.stats().nodes), (0, 0));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn the_order_of_retaining_and_arriving_does_not_matter() -> TestResult {
    let files = some_files();
    let (root, nodes) = tree(&[
        ("core/a", &files[0].1),
        ("core/b", &files[2].1),
        ("c", &files[3].1),
    ]);
    for order in [
        "retain nodes files",
        "nodes retain files",
        "files retain nodes",
        "retain files nodes",
    ] {
        let home = Home::new(1 << 20);
        let store = home.open();
        for step in order.split(' ') {
            match step {
                "retain" => store.retain("x", &root)?,
                "files" => take_in(&store, &home, &files)?,
                // Parents before children, as a fetch gets them.
                _ => nodes
                    .iter()
                    .rev()
                    .try_for_each(|node| store.put_nodes(std::slice::from_ref(node)))?,
            }
            assert_sound(&store, &home);
        }
        store.gc(Some(0))?;
        assert_eq!(store.stats().files, 3, "{order}");
        assert_sound(&store, &home);
        store.release("x")?;
        store.gc(Some(0))?;
        assert_eq!((store.stats().files, store.stats().nodes), (0, 0), "{order}");
        assert_sound(&store, &home);
    }
    Ok(())
}

#[test]
fn a_label_moves_to_a_new_tree_and_keeps_what_both_share() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let files = some_files();
    take_in(&store, &home, &files)?;
    let (old, old_nodes) = tree(&[("a/x", &files[0].1), ("b/y", &files[2].1)]);
    let (new, new_nodes) = tree(&[("a/x", &files[0].1), ("b/y", &files[3].1)]);
    store.put_nodes(&old_nodes)?;
    store.retain("live", &old)?;
    store.put_nodes(&new_nodes)?;
    store.retain("live", &new)?;
    store.retain("live", &new)?;
    store.gc(Some(0))?;
    assert!(store.file(&files[0].1.root)?.is_some());
    assert!(store.file(&files[2].1.root)?.is_none());
    assert!(store.file(&files[3].1.root)?.is_some());
    assert!(store.node(&old)?.is_none());
    assert_sound(&store, &home);
    // Two labels on one tree: it goes with the last.
    store.retain("other", &new)?;
    store.release("live")?;
    store.gc(Some(0))?;
    assert!(store.file(&files[3].1.root)?.is_some());
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_pin_holds_a_file_or_a_tree_and_counts_once() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let files = some_files();
    take_in(&store, &home, &files)?;
    let (root, nodes) = tree(&[("a", &files[2].1)]);
    store.put_nodes(&nodes)?;
    for cid in [&root, &root, &files[0].1.root] {
        store.pin(cid)?;
    }
    store.gc(Some(0))?;
    assert_eq!(store.stats().files, 2);
    assert_sound(&store, &home);
    store.unpin(&root)?;
    store.unpin(&root)?;
    store.gc(Some(0))?;
    assert_eq!(store.stats().files, 1);
    store.unpin(&files[0].1.root)?;
    store.gc(Some(0))?;
    assert_eq!((store.stats().files, store.stats().nodes), (0, 0));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn either_root_of_a_file_holds_it() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 3000);
    let root = put(&store, &home, &data);
    let other = dag(&OTHER, &data);
    store.pin(&other.root)?;
    assert_eq!(store.stats().evictable, 3000);
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &other, Intake::Copy)?;
    batch.commit()?;
    assert_eq!(store.stats().evictable, 0);
    store.pin(&root)?;
    store.unpin(&other.root)?;
    assert_eq!(store.stats().evictable, 0);
    assert_sound(&store, &home);
    store.unpin(&root)?;
    assert_eq!(store.stats().evictable, 3000);
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn staged_files_stay_over_gc_and_restarts_until_their_tree_is_retained() -> TestResult {
    // The cap is far below the files: an import need not fit into it.
    let home = Home::new(100);
    let store = home.open();
    let files = some_files();
    let mut batch = store.batch();
    batch.stage("import")?;
    for (data, dag) in &files {
        add(&mut batch, &home, data, dag, Intake::Copy)?;
    }
    batch.commit()?;
    store.gc(None)?;
    assert_eq!((store.stats().files, store.stats().evictable), (4, 0));
    assert_sound(&store, &home);
    drop(store);
    let store = home.open();
    let (root, nodes) = tree(&[("a", &files[1].1), ("b", &files[2].1)]);
    store.put_nodes(&nodes)?;
    store.retain("import", &root)?;
    assert_eq!(store.stats().evictable, 9010);
    assert_sound(&store, &home);
    store.gc(None)?;
    assert_eq!((store.stats().files, store.stats().evictable), (2, 0));
    // An import that is given up.
    let mut batch = store.batch();
    batch.stage("given up")?;
    add(&mut batch, &home, &files[3].0, &files[3].1, Intake::Copy)?;
    batch.commit()?;
    store.release("given up")?;
    store.gc(None)?;
    assert_eq!(store.stats().files, 2);
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_block_under_two_codecs_has_its_links_counted_only_where_it_has_links() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 3000);
    put(&store, &home, &data);
    let file = dag(&TINY, &data);
    let (root, nodes) = tree(&[("a", &file)]);
    store.put_nodes(&nodes)?;
    // Somebody keeps the directory's bytes as a raw block: that holds no file.
    let raw = cid::Cid::new_v1(0x55, *root.hash());
    store.pin(&raw)?;
    assert_eq!(store.stats().evictable, 3000);
    store.pin(&root)?;
    assert_eq!(store.stats().evictable, 0);
    store.unpin(&root)?;
    assert_eq!(store.stats().evictable, 3000);
    store.gc(Some(0))?;
    assert!(store.node(&root)?.is_some());
    assert_sound(&store, &home);
    Ok(())
}

/// Writes something itself before each further transaction of a retain: it waits for none but the one before.
#[derive(Debug, Default)]
struct Meanwhile {
    store: std::sync::OnceLock<Store>,
    written: std::sync::atomic::AtomicU64,
}

impl pacstore_store::Steps for Meanwhile {
    fn before(&self, step: &'static str) -> std::io::Result<()> {
        if step == "settle"
            && let Some(store) = self.store.get()
        {
            let count = self.written.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let written = store.state_put(&[("meanwhile", Some(&count.to_le_bytes()))]);
            written.map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}

#[test]
fn others_write_between_the_transactions_of_one_retain() -> TestResult {
    let mut home = Home::new(1 << 20);
    home.refs_at_once = 16;
    let meanwhile = std::sync::Arc::new(Meanwhile::default());
    let tuning = pacstore_store::Tuning {
        refs_at_once: home.refs_at_once,
        block: home.block,
        steps: Some(std::sync::Arc::clone(&meanwhile) as _),
        ..pacstore_store::Tuning::default()
    };
    let store = Store::open_with(&home.path(), home.options(), tuning)?;
    let files: Vec<_> = (0..200)
        .map(|seed| (bytes(seed, 30), dag(&TINY, &bytes(seed, 30))))
        .collect();
    let mut batch = store.batch();
    batch.stage("x")?;
    for (data, dag) in &files {
        add(&mut batch, &home, data, dag, Intake::Copy)?;
    }
    batch.commit()?;
    let names: Vec<_> = (0..200).map(|n| format!("d/{n}")).collect();
    let named: Vec<_> = names
        .iter()
        .zip(&files)
        .map(|(name, file)| (name.as_str(), &file.1))
        .collect();
    let (root, nodes) = tree(&named);
    store.put_nodes(&nodes)?;
    assert!(meanwhile.store.set(store.clone()).is_ok());
    store.retain("x", &root)?;
    let written = meanwhile.written.load(std::sync::atomic::Ordering::SeqCst);
    // 200 files are counted up for the tree and down for the stage, 16 at once.
    assert!(written >= 2 * 200 / 16, "only {written} writes came between");
    assert_eq!(store.stats().evictable, 0);
    assert_sound(&store, &home);
    store.release("x")?;
    assert_eq!(store.stats().evictable, 200 * 30);
    assert_sound(&store, &home);
    // The store holds its hook, and the hook the store.
    std::mem::forget(store);
    Ok(())
}
