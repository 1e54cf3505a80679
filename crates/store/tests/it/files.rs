//! Whole files in and out.

use pacstore_store::{ByOrigin, Facts, Intake, NewFile, Origin, WriteError};

use crate::kit::{Home, OLD, OTHER, TINY, TestResult, add, assert_sound, bytes, dag, put, read, sha256};

#[test]
fn a_file_comes_back_by_root_and_by_sha256_with_its_facts() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    for len in [0, 1, 999, 1000, 1001, 4000, 4001, 17_000] {
        let data = bytes(len as u64, len);
        let dag = dag(&TINY, &data);
        let path = home.outside("in", &data);
        let origin = ByOrigin {
            disk: 0,
            lan: len as u64,
            peer: 0,
            upstream: 0,
        };
        let mut batch = store.batch();
        batch.add_file(NewFile {
            path: &path,
            how: Intake::Copy,
            dag: &dag,
            sha256: Some(sha256(&data)),
            origin,
        })?;
        assert_eq!(store.file(&dag.root)?, None, "not visible before the commit");
        batch.commit()?;
        let info = store.file(&dag.root)?.ok_or("by root")?;
        assert_eq!(
            (info.len, info.by_origin, info.sha256),
            (len as u64, origin, Some(sha256(&data)))
        );
        assert_eq!(store.file_by_sha256(&sha256(&data))?, Some(info));
        assert_eq!(store.dag_of(&dag.root)?.as_ref(), Some(&dag), "{len} bytes");
        assert_eq!(read(&store, &dag.root), Some(data));
    }
    assert_sound(&store, &home);
    drop(store);
    let store = home.open();
    assert_eq!(
        read(&store, &dag(&TINY, &bytes(4001, 4001)).root),
        Some(bytes(4001, 4001))
    );
    Ok(())
}

#[test]
fn adding_a_file_again_costs_no_disk_and_keeps_the_first_origin() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 5000);
    let root = put(&store, &home, &data);
    let before = store.stats();
    let dag = dag(&TINY, &data);
    let path = home.outside("again", &data);
    let mut batch = store.batch();
    for _ in 0..3 {
        let origin = ByOrigin::all(Origin::Upstream, 5000);
        let info = batch.add_file(NewFile {
            path: &path,
            how: Intake::Copy,
            dag: &dag,
            sha256: Some(sha256(&data)),
            origin,
        })?;
        assert_eq!(info.by_origin, ByOrigin::all(Origin::Disk, 5000));
    }
    batch.commit()?;
    assert_eq!(
        (store.stats().files, store.stats().bytes),
        (before.files, before.bytes)
    );
    assert_eq!(store.file(&root)?.map(|info| info.len), Some(5000));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn one_file_has_a_root_for_each_profile_and_is_kept_once() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(2, 9000);
    let dags = [dag(&TINY, &data), dag(&OTHER, &data), dag(&OLD, &data)];
    // Two in one batch, the third later.
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &dags[0], Intake::Copy)?;
    add(&mut batch, &home, &data, &dags[1], Intake::Copy)?;
    batch.commit()?;
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &dags[2], Intake::Copy)?;
    batch.commit()?;
    assert_eq!((store.stats().files, store.stats().bytes), (1, 9000));
    for dag in &dags {
        assert_eq!(store.dag_of(&dag.root)?.as_ref(), Some(dag));
        assert_eq!(read(&store, &dag.root).as_deref(), Some(&data[..]));
        for leaf in &dag.leaves {
            assert!(store.block(&leaf.cid)?.is_some(), "{}", leaf.cid);
        }
    }
    assert_sound(&store, &home);
    store.gc(Some(0))?;
    for dag in &dags {
        assert_eq!(store.file(&dag.root)?, None);
    }
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_batch_that_is_dropped_leaves_nothing() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(3, 5000);
    let mut batch = store.batch();
    add(&mut batch, &home, &data, &dag(&TINY, &data), Intake::Copy)?;
    assert_eq!(home.on_disk().len(), 1);
    drop(batch);
    assert_eq!(home.on_disk().len(), 0);
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_moved_file_is_gone_from_where_it_was_after_the_commit_and_not_before() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(4, 5000);
    let dag = dag(&TINY, &data);
    let path = home.outside("given", &data);
    let origin = ByOrigin::all(Origin::Upstream, 5000);
    let file = NewFile {
        path: &path,
        how: Intake::Move,
        dag: &dag,
        sha256: Some(sha256(&data)),
        origin,
    };
    let mut batch = store.batch();
    batch.add_file(file)?;
    drop(batch);
    assert_eq!(
        std::fs::read(&path)?,
        data,
        "a batch that failed gives the file back"
    );
    let mut batch = store.batch();
    batch.add_file(file)?;
    batch.commit()?;
    assert!(!path.exists());
    assert_eq!(read(&store, &dag.root), Some(data));
    Ok(())
}

#[test]
fn a_file_that_is_not_what_was_hashed_is_refused() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(5, 5000);
    let dag = dag(&TINY, &data);
    let origin = ByOrigin::all(Origin::Disk, 5000);
    for how in [Intake::Copy, Intake::Link, Intake::Reference, Intake::Move] {
        for len in [4999, 5001] {
            let path = home.outside("other", &data[..].repeat(2)[..len]);
            let mut batch = store.batch();
            let file = NewFile {
                path: &path,
                how,
                dag: &dag,
                sha256: Some(sha256(&data)),
                origin,
            };
            let error = batch.add_file(file).err().ok_or("refused")?;
            assert!(matches!(error, WriteError::SourceChanged(_)), "{how:?} {error}");
        }
        let path = home.outside("touched", &data);
        let seen = Facts {
            mtime_ns: 5,
            ..Facts::of(&std::fs::metadata(&path)?)
        };
        let file = NewFile {
            path: &path,
            how,
            dag: &dag,
            sha256: Some(sha256(&data)),
            origin,
        };
        let error = store.batch().add_file_seen(file, &seen).err().ok_or("refused")?;
        assert!(matches!(error, WriteError::SourceChanged(_)), "{how:?} {error}");
    }
    let path = home.outside("gone", b"");
    std::fs::remove_file(&path)?;
    let file = NewFile {
        path: &path,
        how: Intake::Link,
        dag: &dag,
        sha256: Some(sha256(&data)),
        origin,
    };
    let error = store.batch().add_file(file).err().ok_or("refused")?;
    assert!(matches!(error, WriteError::Source(..)), "{error}");
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_dag_that_does_not_cover_its_file_is_refused() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(6, 5000);
    let good = dag(&TINY, &data);
    let mut short = good.clone();
    short.leaves.pop();
    let mut gap = good.clone();
    gap.leaves[1].offset += 1;
    let mut rootless = good.clone();
    rootless.nodes.pop();
    let mut empty = good;
    empty.leaves.clear();
    for bad in [short, gap, rootless, empty] {
        let error = add(&mut store.batch(), &home, &data, &bad, Intake::Copy)
            .err()
            .ok_or("refused")?;
        assert!(matches!(error, WriteError::Layout { .. }), "{error}");
    }
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_file_whose_bytes_were_lost_is_taken_in_again() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(7, 5000);
    let root = put(&store, &home, &data);
    std::fs::remove_file(crate::kit::only_file(&home))?;
    assert_eq!(put(&store, &home, &data), root);
    assert_eq!(read(&store, &root), Some(data));
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn two_batches_with_the_same_new_file_keep_it_once() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(8, 5000);
    let dag = dag(&TINY, &data);
    let (mut first, mut second) = (store.batch(), store.batch());
    add(&mut first, &home, &data, &dag, Intake::Copy)?;
    add(&mut second, &home, &data, &dag, Intake::Copy)?;
    first.commit()?;
    second.commit()?;
    assert_eq!((store.stats().files, store.stats().bytes), (1, 5000));
    assert_sound(&store, &home);
    Ok(())
}

/// A daemon that runs for years gives out millions of names.
#[test]
fn folders_that_gc_emptied_go_while_the_store_is_open() -> TestResult {
    let home = Home::new(1 << 30);
    let store = home.open();
    let mut batch = store.batch();
    let stays = bytes(0, 100);
    for n in 0..3_100_u64 {
        let data = bytes(n, 100);
        add(&mut batch, &home, &data, &dag(&TINY, &data), Intake::Move)?;
    }
    batch.commit()?;
    let kept = dag(&TINY, &stays).root;
    store.pin(&kept)?;
    let folders = || -> Result<Vec<String>, std::io::Error> {
        let entries = fs_err::read_dir(home.path().join("files"))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<String>, std::io::Error>>()?;
        names.sort();
        Ok(names)
    };
    assert_eq!(folders()?, ["00000", "00001", "00002", "00003"]);
    store.gc(Some(0))?;
    assert_eq!(
        folders()?,
        ["00000", "00002", "00003"],
        "one has a file, two may get some"
    );
    assert_eq!(read(&store, &kept), Some(stays));
    let next = put(&store, &home, &bytes(9_999, 100));
    store.unpin(&kept)?;
    store.pin(&next)?;
    store.gc(Some(0))?;
    assert_eq!(folders()?, ["00002", "00003"]);
    assert_sound(&store, &home);
    drop(store);
    assert_sound(&home.open(), &home);
    Ok(())
}
