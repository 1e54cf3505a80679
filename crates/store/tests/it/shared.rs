//! Files that somebody else can write to: hard links and references.

use std::os::unix::fs::MetadataExt;

use cid::Cid;
use pacstore_store::{ByOrigin, Intake, NewFile, Origin, ReadError, Store};

use crate::kit::{Home, TINY, TestResult, assert_sound, bytes, dag, only_file, put, read, set_times, sha256};

fn share(store: &Store, home: &Home, data: &[u8], how: Intake) -> (Cid, std::path::PathBuf) {
    let path = home.outside("shared", data);
    set_times(&path, 1_000_000);
    let dag = dag(&TINY, data);
    let origin = ByOrigin::all(Origin::Disk, data.len() as u64);
    let mut batch = store.batch();
    batch
        .add_file(NewFile {
            path: &path,
            how,
            dag: &dag,
            sha256: Some(sha256(data)),
            origin,
        })
        .unwrap();
    batch.commit().unwrap();
    (dag.root, path)
}

/// True where the test's disk has reflinks: then a link is a copy that nobody can touch.
fn is_linked(path: &std::path::Path) -> bool {
    std::fs::metadata(path).unwrap().nlink() == 2
}

#[test]
fn a_linked_file_takes_no_disk_and_a_referenced_one_stays_where_it_is() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 5000);
    let (root, path) = share(&store, &home, &data, Intake::Link);
    if is_linked(&path) {
        assert_eq!(
            std::fs::metadata(&path)?.ino(),
            std::fs::metadata(only_file(&home))?.ino()
        );
    }
    // Its owner replaces it by rename: ours stays.
    std::fs::rename(home.outside("new", b"other bytes"), &path)?;
    assert_eq!(read(&store, &root), Some(data));
    store.gc(Some(0))?;
    let data = bytes(2, 5000);
    let (root, path) = share(&store, &home, &data, Intake::Reference);
    assert_eq!(home.on_disk().len(), 0);
    assert_eq!(
        (store.stats().bytes, store.stats().evictable, store.stats().files),
        (0, 0, 1)
    );
    assert_eq!(read(&store, &root).as_ref(), Some(&data));
    store.gc(Some(0))?;
    assert_eq!(read(&store, &root), Some(data));
    assert!(path.exists());
    Ok(())
}

#[test]
fn a_shared_file_that_was_only_touched_is_hashed_again_and_kept() -> TestResult {
    for how in [Intake::Link, Intake::Reference] {
        let home = Home::new(1 << 20);
        let store = home.open();
        let data = bytes(1, 5000);
        let (root, path) = share(&store, &home, &data, how);
        set_times(&path, 2_000_000);
        assert_eq!(read(&store, &root).as_ref(), Some(&data));
        assert_eq!(read(&store, &root).as_ref(), Some(&data));
        let copy = home.outside("copy", &data);
        std::fs::rename(copy, &path)?;
        assert_eq!(read(&store, &root), Some(data), "another inode, the same bytes");
    }
    Ok(())
}

#[test]
fn no_byte_of_a_changed_shared_file_leaves() -> TestResult {
    for how in [Intake::Link, Intake::Reference] {
        for by_block in [false, true] {
            let home = Home::new(1 << 20);
            let store = home.open();
            let data = bytes(1, 5000);
            let leaf = dag(&TINY, &data).leaves[4].cid;
            let (root, path) = share(&store, &home, &data, how);
            if how == Intake::Link && !is_linked(&path) {
                continue;
            }
            assert_eq!(
                store.block(&leaf)?.as_deref(),
                Some(&data[4000..]),
                "and its file stays open for reading"
            );
            let mut other = data.clone();
            other[4500] ^= 1;
            std::fs::write(&path, &other)?;
            set_times(&path, 2_000_000);
            if by_block {
                let mut out = vec![7];
                assert!(!store.block_into(&leaf, &mut out)?);
                assert_eq!(out, [7]);
            } else {
                let error = store.open_file(&root).err().ok_or("refused")?;
                assert!(matches!(error, ReadError::Changed(_)), "{error}");
            }
            assert!(store.open_file(&root)?.is_none());
            assert_eq!(store.stats().files, 0);
            assert_sound(&store, &home);
            assert_eq!(std::fs::read(&path)?, other, "the owner's file is left alone");
        }
    }
    Ok(())
}

/// What was opened lately is given again without a look at the index, so each way to lose it is tried.
#[test]
fn a_file_kept_open_is_not_given_once_it_changed_or_went() -> TestResult {
    for how in [Intake::Reference, Intake::Link] {
        let home = Home::new(1 << 20);
        let store = home.open();
        let data = bytes(1, 5000);
        let (root, path) = share(&store, &home, &data, how);
        assert!(store.opened(&root).is_none(), "nobody opened it yet");
        let open = store.open_shared(&root)?.ok_or("here")?;
        match (how, store.opened(&root)) {
            (Intake::Reference, kept) => assert!(kept.is_none(), "somebody else's"),
            (_, kept) => {
                let kept = kept.ok_or("kept open")?;
                assert_eq!((kept.info.len, kept.info.id), (5000, open.info.id));
            }
        }
        if how == Intake::Link && !is_linked(&path) {
            continue;
        }
        std::fs::write(&path, bytes(2, 5000))?;
        set_times(&path, 2_000_000);
        assert!(store.opened(&root).is_none());
        let error = store.open_shared(&root).err().ok_or("refused")?;
        assert!(matches!(error, ReadError::Changed(_)), "{error}");
        assert!(store.open_shared(&root)?.is_none());
    }
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 5000);
    let (root, path) = share(&store, &home, &data, Intake::Reference);
    store.open_shared(&root)?.ok_or("here")?;
    std::fs::remove_file(&path)?;
    assert!(store.opened(&root).is_none());
    assert!(store.open_shared(&root)?.is_none());
    let root = put(&store, &home, &data);
    let open = store.open_shared(&root)?.ok_or("here")?;
    store.gc(Some(0))?;
    assert!(store.opened(&root).is_none(), "evicted");
    assert!(store.open_shared(&root)?.is_none());
    assert_eq!(home.on_disk().len(), 0);
    assert_eq!(open.file.metadata()?.len(), 5000, "whoever has it reads on");
    Ok(())
}

#[test]
fn a_referenced_file_that_is_gone_is_no_longer_here() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 5000);
    let (root, path) = share(&store, &home, &data, Intake::Reference);
    std::fs::remove_file(&path)?;
    assert!(store.open_file(&root)?.is_none());
    assert_eq!(store.file(&root)?, None);
    // It may come back another way.
    assert_eq!(put(&store, &home, &data), root);
    assert_eq!(read(&store, &root), Some(data));
    Ok(())
}

#[test]
fn a_pipe_in_place_of_a_referenced_file_does_not_hang_the_reader() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (root, path) = share(&store, &home, &bytes(1, 5000), Intake::Reference);
    std::fs::remove_file(&path)?;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )?;
    assert!(matches!(store.open_file(&root), Err(ReadError::Changed(_))));
    Ok(())
}

#[test]
fn a_file_taken_in_place_has_no_second_copy_and_is_noticed_when_it_changes() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 5000);
    let (root, path) = share(&store, &home, &data, Intake::InPlace);
    assert_eq!(read(&store, &root).as_ref(), Some(&data));
    assert_eq!(store.fsck(false, &mut |_| {})?.damages, vec![]);
    if home.on_disk().is_empty() {
        // No reflinks here: it stays where it is. A bit flips there; nothing of it leaves.
        assert_eq!(store.stats().bytes, 0);
        let mut other = data.clone();
        other[77] ^= 1;
        std::fs::write(&path, &other)?;
        assert!(matches!(store.open_file(&root), Err(ReadError::Changed(_))));
        assert!(store.open_file(&root)?.is_none());
    } else {
        std::fs::remove_file(&path)?;
        assert_eq!(read(&store, &root), Some(data));
    }
    assert_sound(&store, &home);
    Ok(())
}

/// Reading on in a file that its owner writes to tells so, whatever was read of it before.
#[test]
fn whoever_reads_a_shared_file_can_tell_that_it_was_written_to() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 5000);
    let (root, path) = share(&store, &home, &data, Intake::Reference);
    let open = store.open_shared(&root)?.ok_or("here")?;
    assert!(open.is_unchanged());
    let mut other = data.clone();
    other[4500] ^= 1;
    std::fs::write(&path, &other)?;
    set_times(&path, 2_000_000);
    assert!(!open.is_unchanged());
    // Touched only: what is opened now is right, and known to be.
    std::fs::write(&path, &data)?;
    set_times(&path, 3_000_000);
    let open = store.open_shared(&root)?.ok_or("hashed again")?;
    assert!(open.is_unchanged());
    // A removed file is still readable for who has it open.
    std::fs::remove_file(&path)?;
    assert!(open.is_unchanged());
    assert!(store.open_shared(&root)?.is_none());
    // Files of the store are nobody else's.
    let own = put(&store, &home, &data);
    assert!(store.open_shared(&own)?.ok_or("here")?.is_unchanged());
    Ok(())
}

#[test]
fn a_referenced_file_that_may_not_be_read_any_more_is_let_go_of() -> TestResult {
    use std::os::unix::fs::symlink;
    for by_block in [false, true] {
        let home = Home::new(1 << 20);
        let store = home.open();
        let data = bytes(1, 5000);
        let leaf = dag(&TINY, &data).leaves[4].cid;
        let (root, path) = share(&store, &home, &data, Intake::Reference);
        // A link to itself can be opened by nobody, not even by root.
        std::fs::remove_file(&path)?;
        symlink(&path, &path)?;
        if by_block {
            assert!(!store.block_into(&leaf, &mut Vec::new())?);
        } else {
            assert!(store.open_file(&root)?.is_none());
        }
        assert_eq!(store.stats().files, 0);
        assert_eq!(put(&store, &home, &data), root, "it comes another way");
        assert_eq!(read(&store, &root), Some(data));
    }
    Ok(())
}

#[test]
fn a_file_is_here_by_its_sha256_only_while_its_bytes_are() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 5000);
    let digest = sha256(&data);
    assert!(!store.has_sha256(&digest)?);
    let (_, path) = share(&store, &home, &data, Intake::Reference);
    assert!(store.has_sha256(&digest)?);
    set_times(&path, 2_000_000);
    assert!(store.has_sha256(&digest)?, "only touched");
    std::fs::write(&path, bytes(2, 5000))?;
    set_times(&path, 3_000_000);
    assert!(!store.has_sha256(&digest)?);
    assert_eq!(store.stats().files, 0);
    let (_, path) = share(&store, &home, &data, Intake::Reference);
    std::fs::remove_file(&path)?;
    assert!(!store.has_sha256(&digest)?);
    assert_eq!(store.stats().files, 0);
    Ok(())
}

/// `paccache -r` removes packages all the time: that is neither damage nor a reason to fetch them again.
#[test]
fn what_the_owner_removes_or_replaces_is_no_damage_and_a_flipped_bit_is() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (_, path) = share(&store, &home, &bytes(1, 5000), Intake::Reference);
    std::fs::remove_file(&path)?;
    assert_eq!(store.scrub_next(0)?, None);
    assert_eq!(store.stats().files, 0);
    let (_, path) = share(&store, &home, &bytes(1, 5000), Intake::Reference);
    std::fs::remove_file(&path)?;
    assert_eq!(store.fsck(false, &mut |_| {})?.damages, vec![]);
    assert_eq!(store.stats().files, 0);
    let (_, path) = share(&store, &home, &bytes(1, 5000), Intake::Reference);
    std::fs::write(&path, b"another package")?;
    assert_eq!(store.scrub_next(0)?, None);
    assert_eq!(store.stats().files, 0);
    // Touched: still right.
    let (root, path) = share(&store, &home, &bytes(1, 5000), Intake::Reference);
    set_times(&path, 2_000_000);
    assert_eq!(store.scrub_next(0)?, None, "looked at, and kept");
    let scrubbed = store.scrub_next(0)?.ok_or("read again")?;
    assert_eq!((scrubbed.root, scrubbed.damage), (root, None));
    // The disk flips a bit, which changes no times.
    let mut data = bytes(1, 5000);
    data[77] ^= 1;
    std::fs::write(&path, &data)?;
    set_times(&path, 2_000_000);
    let scrubbed = store.scrub_next(0)?.ok_or("read again")?;
    assert!(scrubbed.damage.is_some(), "{scrubbed:?}");
    assert_eq!(store.stats().files, 0);
    Ok(())
}

/// What its owner removes is then gone from the disk, and its file system can be unmounted.
#[test]
fn a_file_that_is_shared_in_place_is_open_only_while_it_is_read() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let (data, other) = (bytes(1, 5000), bytes(2, 5000));
    let (root, path) = share(&store, &home, &data, Intake::Reference);
    let own = put(&store, &home, &other);
    for (root, data) in [(&root, &data), (&own, &other)] {
        store.open_shared(root)?.ok_or("here")?;
        for leaf in &dag(&TINY, data).leaves {
            store.block(&leaf.cid)?.ok_or("here")?;
        }
    }
    let open: Vec<_> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|one| std::fs::read_link(one.ok()?.path()).ok())
        .collect();
    assert!(!open.contains(&path), "{open:?}");
    assert!(store.opened(&root).is_none());
    assert!(
        store.opened(&own).is_some() && open.contains(&only_file(&home)),
        "{open:?}"
    );
    Ok(())
}
