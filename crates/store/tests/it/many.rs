//! Size and cost with many files. The large run is `cargo test --release -- --ignored`.

use std::time::Instant;

use pacstore_dag::{Change, Entry, Profile, edit_tree};
use pacstore_store::{ByOrigin, Intake, NewFile, Origin, Store};

use crate::kit::{Home, TestResult, bytes, dag, sha256};

/// Processor time of this process in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let ticks: Vec<f64> = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse().ok())
        .collect();
    ticks.iter().sum::<f64>() / 100.0
}

/// Imports `count` files of 256 bytes, retains their tree, then changes 10 of them. Gives the CPU seconds of
/// taking in, retaining, and the change.
fn import(count: usize) -> Result<[f64; 4], Box<dyn std::error::Error>> {
    let home = Home::new(0);
    let store = home.open();
    let profile = Profile::UNIXFS_V1_2025;
    let source = tempfile::tempdir()?;
    let files: Vec<_> = (0..count + 10)
        .map(|index| {
            let data = bytes(index as u64, 256);
            let path = source.path().join(format!("f{index}"));
            std::fs::write(&path, &data).unwrap();
            (path, dag(&profile, &data), sha256(&data))
        })
        .collect();
    let take = |store: &Store, range: std::ops::Range<usize>| -> Result<(), Box<dyn std::error::Error>> {
        let mut batch = store.batch();
        batch.stage("import")?;
        for (path, dag, sha256) in &files[range] {
            let origin = ByOrigin::all(Origin::Disk, 256);
            batch.add_file(NewFile {
                path,
                how: Intake::Copy,
                dag,
                sha256: Some(*sha256),
                origin,
            })?;
        }
        Ok(batch.commit()?)
    };
    let entry = |index: usize, as_name: usize| {
        let dag = &files[index].1;
        let name = format!("dir/package-{as_name}.pkg.tar.zst").into_bytes();
        (
            name,
            Change::Set(Entry {
                cid: dag.root,
                tsize: dag.tsize,
            }),
        )
    };
    let start = cpu_seconds();
    for from in (0..count).step_by(20_000) {
        take(&store, from..(from + 20_000).min(count))?;
    }
    let taken = cpu_seconds();
    let mut nodes = Vec::new();
    let old = edit_tree(
        &profile,
        None,
        (0..count).map(|index| entry(index, index)),
        &(),
        &mut nodes,
    )?;
    let built = cpu_seconds();
    store.put_nodes(&nodes)?;
    store.retain("import", &old.root.cid)?;
    let retained = cpu_seconds();
    assert_eq!(store.stats().evictable, 0);
    take(&store, count..count + 10)?;
    let mut nodes = Vec::new();
    let changes = (0..10).map(|index| entry(count + index, index * (count / 10)));
    let new = edit_tree(&profile, Some(&old.root.cid), changes, &store, &mut nodes)?;
    store.put_nodes(&nodes)?;
    store.retain("import", &new.root.cid)?;
    store.gc(None)?;
    let changed = cpu_seconds();
    assert_eq!(store.stats().files, count as u64);
    let per_file = store.stats().index_bytes as f64 / count as f64;
    Ok([taken - start, retained - built, changed - retained, per_file])
}

#[test]
fn many_small_files_come_in_and_change_at_small_cost() -> TestResult {
    let [_, _, _, per_file] = import(2000)?;
    assert!(per_file < 4096.0, "{per_file} bytes of index a file");
    Ok(())
}

#[test]
#[ignore = "minutes in a debug build; `cargo xtask soak large` runs it"]
fn measure_a_hundred_thousand_small_files() -> TestResult {
    for count in [10_000, 100_000] {
        let begin = Instant::now();
        let [taken, retained, changed, per_file] = import(count)?;
        let status = std::fs::read_to_string("/proc/self/status")?;
        let peak = status.lines().find(|line| line.starts_with("VmHWM"));
        println!("{}", peak.unwrap_or_default());
        println!(
            "{count} files: taken in {taken:.2} CPU-s, retained {retained:.2} CPU-s, 10 changed {changed:.3} CPU-s, \
             {per_file:.0} bytes of index a file, {:.1} s in all",
            begin.elapsed().as_secs_f64()
        );
        assert!(per_file < 4096.0, "{per_file} bytes of index a file");
    }
    Ok(())
}

#[test]
fn the_index_of_large_files_is_far_below_one_percent() -> TestResult {
    let home = Home::new(0);
    let store = home.open();
    let profile = Profile::KUBO_CIDV1;
    let mut batch = store.batch();
    batch.stage("x")?;
    for seed in 0..8 {
        let data = bytes(seed, 4 << 20);
        crate::kit::add(&mut batch, &home, &data, &dag(&profile, &data), Intake::Copy)?;
    }
    batch.commit()?;
    let stats = store.stats();
    assert_eq!(stats.bytes, 32 << 20);
    assert!(stats.index_bytes <= stats.bytes / 100 + (4 << 20), "{stats:?}");
    Ok(())
}
