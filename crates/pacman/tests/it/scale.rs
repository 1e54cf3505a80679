//! A database as large as Arch's `extra`: 15,000 packages.

use crate::samples::{TIME, package};
use pacstore_pacman::build::{Compression, RepoBuilder};
use pacstore_pacman::{Database, DbKind, FileFacts, Limits, RepoFiles, Version, check};
use std::time::Instant;

/// Debug builds on a busy machine get this factor on top of what a release build needs.
const SLACK: f64 = if cfg!(debug_assertions) { 20.0 } else { 3.0 };

fn timed<T>(what: &str, seconds: f64, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    let took = begin.elapsed().as_secs_f64();
    eprintln!("{what}: {took:.3} s");
    assert!(
        took < seconds * SLACK,
        "{what} took {took} s, more than {SLACK} x {seconds} s"
    );
    result
}

#[test]
fn fifteen_thousand_packages_are_read_compared_and_checked_in_no_time() {
    let (mut built, _) = package("sample", "1-1");
    built.signature = Some(vec![7; 310]);
    built.paths = (0..100)
        .map(|n| format!("usr/share/sample/some/folder/file-{n}"))
        .collect();
    let mut repo = RepoBuilder::new("large", TIME);
    (repo.embed_signatures, repo.compression) = (true, Compression::Gzip);
    for number in 0..15_000_u32 {
        let mut one = built.clone();
        one.spec.name = format!("package-{number:05}");
        one.spec.version = Version::new(&format!("{}.{}.r{number}-1", number % 50, number % 7)).unwrap();
        one.file_name = one.spec.file_name();
        one.sha256[..4].copy_from_slice(&number.to_le_bytes());
        one.spec.depends = (0..6).map(|n| format!("package-{n:05}>={number}")).collect();
        repo.add(one);
    }
    let (db, files) = (
        repo.database(DbKind::Db).unwrap(),
        repo.database(DbKind::Files).unwrap(),
    );
    eprintln!("db {} bytes, files {} bytes", db.len(), files.len());
    let db = timed("read .db", 0.5, || Database::read(&db, &Limits::DB)).unwrap();
    let files = timed("read .files", 1.0, || Database::read(&files, &Limits::FILES)).unwrap();
    assert_eq!(db.entries.len(), 15_000);
    let problems = timed("check", 0.5, || {
        check(&RepoFiles {
            db_name: "large.db",
            db: &db,
            others: &[("large.files", &files)],
            facts: &|_| {
                Some(FileFacts {
                    len: built.csize,
                    sha256: None,
                })
            },
            upstream_has: &|_| true,
        })
    });
    assert_eq!(problems, []);
    let mut versions: Vec<&Version> = db.entries.iter().map(|entry| &entry.version).collect();
    timed("sort the versions", 0.1, || versions.sort());
    let theirs: Vec<alpm_types::Version> = timed("parse the versions with alpm-types", 5.0, || {
        versions.iter().map(|v| v.as_str().parse().unwrap()).collect()
    });
    let mut sorted = theirs.clone();
    timed("sort the versions with alpm-types", 5.0, || sorted.sort());
    assert_eq!(sorted, theirs);
}
