//! Which files go first when room is needed.

use std::time::Duration;

use pacstore_store::{Class, Damage};

use crate::kit::{Home, TestResult, assert_sound, bytes, put, sha256};

#[test]
fn superseded_files_go_first_and_needed_ones_last_whenever_they_were_used() -> TestResult {
    let home = Home::new(5000);
    let store = home.open();
    let data: Vec<_> = (0..5).map(|seed| bytes(seed, 1000)).collect();
    let roots: Vec<_> = data
        .iter()
        .map(|data| {
            home.hand.advance(Duration::from_secs(10));
            put(&store, &home, data)
        })
        .collect();
    // The oldest is needed, the newest superseded, one is listed.
    let digests: Vec<_> = data.iter().map(|data| sha256(data)).collect();
    let changed = store.classify(
        &mut |info, _| match digests.iter().position(|d| Some(*d) == info.sha256) {
            Some(0) => Class::Needed,
            Some(4) => Class::Spare,
            Some(2) => Class::Listed,
            _ => Class::Plain,
        },
    )?;
    assert_eq!(changed, 3);
    assert_sound(&store, &home);
    // Kept over a restart, and over a use.
    drop(store);
    let store = home.open();
    store.touch(&roots[4]);
    home.hand.advance(Duration::from_secs(10));
    assert_eq!(store.class_of_sha256(&digests[0])?, Some(Class::Needed));
    let left = |gone: &[usize]| {
        for (index, root) in roots.iter().enumerate() {
            assert_eq!(
                store.file(root).unwrap().is_none(),
                gone.contains(&index),
                "file {index}, gone {gone:?}"
            );
        }
    };
    for gone in [&[4][..], &[4, 1], &[4, 1, 2], &[4, 1, 2, 3], &[4, 1, 2, 3, 0]] {
        store.gc(Some(5000 - 1000 * gone.len() as u64))?;
        left(gone);
        assert_sound(&store, &home);
    }
    Ok(())
}

#[test]
fn a_class_that_nobody_changes_costs_no_transaction() -> TestResult {
    let home = Home::new(5000);
    let store = home.open();
    put(&store, &home, &bytes(1, 1000));
    assert_eq!(store.classify(&mut |_, _| Class::Listed)?, 1);
    assert_eq!(store.classify(&mut |_, old| old)?, 0);
    Ok(())
}

#[test]
fn scrubbing_finds_a_flipped_bit_and_drops_that_file_alone() -> TestResult {
    let home = Home::new(100_000);
    let store = home.open();
    let roots: Vec<_> = (0..4)
        .map(|seed| put(&store, &home, &bytes(seed, 3000)))
        .collect();
    let path = home.on_disk().remove(2);
    let mut data = std::fs::read(&path)?;
    data[1234] ^= 1;
    std::fs::write(&path, &data)?;
    let (mut from, mut seen, mut damaged) = (0, 0, Vec::new());
    while let Some(scrubbed) = store.scrub_next(from)? {
        assert!(scrubbed.id >= from && scrubbed.len == 3000);
        from = scrubbed.id + 1;
        seen += 1;
        damaged.extend(scrubbed.damage);
    }
    assert_eq!(seen, 4);
    assert_eq!(damaged, [Damage::FileBytes { root: roots[2], path }]);
    let here: Vec<_> = roots
        .iter()
        .map(|root| store.file(root).unwrap().is_some())
        .collect();
    assert_eq!(here, [true, true, false, true]);
    assert_sound(&store, &home);
    Ok(())
}

#[test]
fn a_file_that_is_read_again_because_it_cannot_be_right_is_dropped_only_if_it_is_not() -> TestResult {
    let home = Home::new(100_000);
    let store = home.open();
    let roots: Vec<_> = (0..2)
        .map(|seed| put(&store, &home, &bytes(seed, 3000)))
        .collect();
    let path = home.on_disk().remove(1);
    let mut data = std::fs::read(&path)?;
    data[1234] ^= 1;
    std::fs::write(&path, &data)?;
    assert_eq!(store.reread(&roots[0])?, None);
    let damage = Damage::FileBytes { root: roots[1], path };
    assert_eq!(store.reread(&roots[1])?, Some(damage));
    assert_eq!(store.reread(&roots[1])?, None, "not here any more");
    assert!(store.file(&roots[0])?.is_some() && store.file(&roots[1])?.is_none());
    assert_sound(&store, &home);
    Ok(())
}
