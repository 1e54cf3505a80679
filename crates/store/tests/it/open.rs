//! Opening, closing, locks, formats, state.

use std::sync::Arc;

use pacstore_store::{OpenError, Origin, Steps, Store};

use crate::kit::{Home, TINY, TestResult, assert_sound, bytes, dag, put, read};

#[test]
fn a_second_opener_is_told_who_has_the_store() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let error = Store::open(&home.path(), home.options()).err().ok_or("refused")?;
    assert!(matches!(error, OpenError::Locked { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    drop(store);
    home.open();
    Ok(())
}

#[test]
fn a_store_stays_locked_until_the_last_handle_is_dropped() {
    let home = Home::new(1 << 20);
    let store = home.open();
    let batch = store.batch();
    drop(store);
    assert!(Store::open(&home.path(), home.options()).is_err());
    drop(batch);
    home.open();
}

#[test]
fn an_unknown_format_is_refused_with_its_number_and_left_alone() -> TestResult {
    let home = Home::new(1 << 20);
    put(&home.open(), &home, b"x");
    let path = home.path().join("format");
    for (text, said) in [
        ("pacstore store 2\n", "2"),
        ("something else", "something else"),
        ("", ""),
        ("\0\0\0", ""),
    ] {
        std::fs::write(&path, text)?;
        let error = Store::open(&home.path(), home.options()).err().ok_or("refused")?;
        assert!(
            matches!(&error, OpenError::Format { found, known: 1, .. } if found == said),
            "{error}"
        );
        assert!(error.hint().is_some());
        assert_eq!(std::fs::read_to_string(&path)?, text);
    }
    std::fs::write(&path, b"\xff\xfe")?;
    let error = Store::open(&home.path(), home.options()).err().ok_or("refused")?;
    assert!(
        error.hint().unwrap_or_default().contains("`pacstore store 1`"),
        "{error}"
    );
    std::fs::remove_file(&path)?;
    let error = Store::open(&home.path(), home.options()).err().ok_or("refused")?;
    assert!(
        error.hint().unwrap_or_default().contains("`pacstore store 1`"),
        "{error}"
    );
    std::fs::write(&path, "pacstore store 1\n")?;
    assert_eq!(home.open().stats().files, 1);
    Ok(())
}

fn refused_with_a_way_out(home: &Home) -> TestResult {
    let error = Store::open(&home.path(), home.options()).err().ok_or("refused")?;
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("move the store"), "{error}: {hint}");
    Ok(())
}

#[test]
fn a_damaged_index_is_refused_with_a_way_out_and_left_alone() -> TestResult {
    let home = Home::new(1 << 20);
    put(&home.open(), &home, b"x");
    let path = home.path().join("index.redb");
    let mut index = std::fs::read(&path)?;
    let lengths = [0, 1, 319, 320, 4095, 4096, index.len() / 2];
    let cut = lengths.map(|len| index[..len].to_vec());
    index[..4096].fill(b'?');
    for damaged in cut.into_iter().chain([index]) {
        std::fs::write(&path, &damaged)?;
        refused_with_a_way_out(&home)?;
        assert_eq!(std::fs::read(&path)?, damaged);
    }
    std::fs::remove_file(&path)?;
    refused_with_a_way_out(&home)?;
    assert!(!path.exists());
    assert_eq!(home.on_disk().len(), 1, "nothing was swept");
    // The way out.
    std::fs::rename(home.path(), home.path().with_extension("away"))?;
    assert_eq!(home.open().stats().files, 0);
    Ok(())
}

/// Of some damages the database panics; whoever opens the store gets an error all the same.
#[test]
fn an_index_with_other_bytes_anywhere_is_opened_or_refused_with_a_way_out() -> TestResult {
    let home = Home::new(1 << 20);
    put(&home.open(), &home, &bytes(7, 20_000));
    let path = home.path().join("index.redb");
    let index = std::fs::read(&path)?;
    let mut refused = 0;
    for seed in 0..60 {
        let mut damaged = index.clone();
        for place in bytes(seed, 400).chunks(4) {
            let place = u32::from_le_bytes(place.try_into()?) as usize % damaged.len();
            damaged[place] ^= 0xff;
        }
        std::fs::write(&path, &damaged)?;
        if let Err(error) = Store::open(&home.path(), home.options()) {
            assert!(
                error.hint().unwrap_or_default().contains("move the store"),
                "{error}"
            );
            refused += 1;
        }
    }
    assert!(0 < refused);
    Ok(())
}

#[test]
fn a_partial_file_without_an_index_is_damage_too() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    let data = bytes(1, 3000);
    let partial = store.begin_partial(&dag(&TINY, &data))?;
    partial.write_leaf(0, &data[..1000], Origin::Lan)?;
    partial.flush()?;
    drop((partial, store));
    std::fs::write(home.path().join("index.redb"), b"")?;
    refused_with_a_way_out(&home)
}

#[test]
fn an_empty_index_where_no_file_is_starts_as_new() -> TestResult {
    let home = Home::new(1 << 20);
    drop(home.open());
    std::fs::write(home.path().join("index.redb"), b"")?;
    let store = home.open();
    let root = put(&store, &home, b"x");
    assert_sound(&store, &home);
    drop(store);
    assert_eq!(read(&home.open(), &root).as_deref(), Some(&b"x"[..]));
    Ok(())
}

#[test]
fn strays_are_swept_after_a_crash_and_files_of_others_left_alone() -> TestResult {
    let home = Home::new(1 << 20);
    let data = bytes(1, 3000);
    let root = put(&home.open(), &home, &data);
    let folder = home.on_disk()[0].parent().ok_or("folder")?.to_owned();
    std::fs::write(folder.join("0000000000000123"), b"stray")?;
    std::fs::write(folder.join("notes.txt"), b"somebody's")?;
    std::fs::write(home.path().join("partial/0000000000000123.new"), b"half a bitmap")?;
    // As after a crash: the mark of an orderly close is missing.
    std::fs::remove_file(home.path().join("clean"))?;
    let store = home.open();
    let names: Vec<_> = home
        .on_disk()
        .iter()
        .filter_map(|path| path.file_name().map(std::ffi::OsStr::to_owned))
        .collect();
    assert_eq!(names, ["0000000000000000", "notes.txt"]);
    assert_eq!(std::fs::read_dir(home.path().join("partial"))?.count(), 0);
    assert_eq!(read(&store, &root), Some(data));
    std::fs::remove_file(folder.join("notes.txt"))?;
    let next = put(&store, &home, b"next");
    assert_eq!(
        store.file(&next)?.map(|info| info.id),
        Some(0x124),
        "no number is used twice"
    );
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn state_is_kept_listed_by_prefix_and_changed_in_one_go() -> TestResult {
    let home = Home::new(1 << 20);
    let store = home.open();
    store.state_put(&[
        ("head/a", Some(b"1")),
        ("head/b", Some(b"2")),
        ("other", Some(b"3")),
    ])?;
    store.state_put(&[("head/a", None), ("head/c", Some(b""))])?;
    drop(store);
    let store = home.open();
    assert_eq!(store.state_get("head/a")?, None);
    assert_eq!(store.state_get("other")?.as_deref(), Some(&b"3"[..]));
    let heads = store.state_list("head/")?;
    assert_eq!(
        heads,
        vec![
            ("head/b".to_owned(), b"2".to_vec()),
            ("head/c".to_owned(), vec![])
        ]
    );
    assert_eq!(store.state_list("")?.len(), 3);
    assert!(store.state_put(&[("", Some(b"x"))]).is_err());
    Ok(())
}

/// The next hint would be to move it away.
#[test]
fn an_index_that_may_not_be_written_is_not_called_damaged() -> TestResult {
    #[derive(Debug)]
    struct Refuse(i32);
    impl Steps for Refuse {
        fn before(&self, step: &'static str) -> std::io::Result<()> {
            match step {
                "index open" => Err(std::io::Error::from_raw_os_error(self.0)),
                _ => Ok(()),
            }
        }
    }
    for (code, is_refused) in [(1, true), (13, true), (30, true), (5, false)] {
        let home = Home::new(1 << 20);
        put(&home.open(), &home, b"x");
        let refused = home.open_hooked(&Arc::new(Refuse(code))).err().ok_or("refused")?;
        let hint = refused.hint().ok_or("a hint")?;
        assert_eq!(hint.contains("damaged"), !is_refused, "{code}: {hint}");
    }
    Ok(())
}
