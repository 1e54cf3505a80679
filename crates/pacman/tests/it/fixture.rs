//! Real updates of a real repository: each is read and checked as an importer would.

use crate::skip;
use data_encoding::HEXLOWER;
use pacstore_pacman::{Database, FileFacts, Limits, PkgFileName, RepoFiles, What, check, read_file_lists};
use std::collections::HashMap;
use std::path::Path;

const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/fixtures/arcolinux-testing"
);
const REPO: &str = "arcolinux_repo_testing";

/// One snapshot's manifest: file name -> (SHA-256 in hex, size, whether upstream had it).
fn manifest(folder: &Path) -> HashMap<String, (String, u64, bool)> {
    let text = std::fs::read_to_string(folder.join("manifest")).unwrap();
    text.lines()
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let name = columns[0].rsplit('/').next().unwrap().to_owned();
            (
                name,
                (
                    columns[1].to_owned(),
                    columns[2].parse().unwrap(),
                    columns[5] == "present",
                ),
            )
        })
        .collect()
}

fn database(manifest: &HashMap<String, (String, u64, bool)>, ending: &str) -> (Vec<u8>, Database) {
    let (digest, ..) = &manifest[&format!("{REPO}.{ending}")];
    let bytes = std::fs::read(Path::new(FIXTURE).join("blobs").join(digest)).unwrap();
    let database = Database::read(&bytes, &Limits::FILES).unwrap();
    (bytes, database)
}

#[test]
fn all_real_updates_are_coherent_save_for_what_upstream_lacked() {
    if !Path::new(FIXTURE).is_dir() {
        return skip("../shared/fixtures/arcolinux-testing is not there");
    }
    let (mut snapshots, mut packages, mut missing) = (0, 0, 0);
    for folder in std::fs::read_dir(Path::new(FIXTURE).join("snapshots")).unwrap() {
        let folder = folder.unwrap().path();
        let manifest = manifest(&folder);
        let ((_, db), (files_bytes, files)) = (database(&manifest, "db"), database(&manifest, "files"));
        let facts = |name: &str| {
            let (digest, len, present) = manifest.get(name)?;
            let sha256 = HEXLOWER
                .decode(digest.as_bytes())
                .ok()
                .and_then(|d| d.try_into().ok());
            present.then_some(FileFacts { len: *len, sha256 })
        };
        let files_name = format!("{REPO}.files");
        let problems = check(&RepoFiles {
            db_name: &format!("{REPO}.db"),
            db: &db,
            others: &[(&files_name, &files)],
            facts: &facts,
            upstream_has: &|name| manifest.contains_key(name),
        });
        let absent = manifest
            .iter()
            .filter(|(_, (.., present))| !present)
            .map(|(name, _)| name.clone());
        let (mut absent, mut found): (Vec<String>, Vec<String>) = (
            absent.collect(),
            problems.iter().map(|p| p.file.clone()).collect(),
        );
        absent.sort();
        found.sort();
        assert_eq!(found, absent, "{}", folder.display());
        assert!(problems.iter().all(|p| p.what == What::Missing), "{problems:?}");
        for entry in &db.entries {
            assert!(entry.sha256.is_some() && entry.csize.is_some() && entry.pgpsig.is_none());
            let name = PkgFileName::parse(&entry.filename).unwrap();
            assert_eq!(
                (name.name(), name.version_str(), name.arch()),
                (&*entry.name, entry.version.as_str(), &*entry.arch)
            );
        }
        let mut lists = 0;
        read_file_lists(&files_bytes, &Limits::FILES, |_, _| lists += 1).unwrap();
        assert_eq!(lists, db.entries.len());
        snapshots += 1;
        packages += db.entries.len();
        missing += found.len();
    }
    assert_eq!(snapshots, 45);
    eprintln!(
        "{snapshots} real updates with {packages} packages are coherent; {missing} files were absent upstream"
    );
}

#[test]
fn a_database_beside_packages_of_another_update_is_torn() {
    if !Path::new(FIXTURE).is_dir() {
        return skip("../shared/fixtures/arcolinux-testing is not there");
    }
    let snapshot = |n: &str| manifest(&Path::new(FIXTURE).join("snapshots").join(n));
    let (old, new) = (snapshot("029"), snapshot("045"));
    let ((_, db), (_, files)) = (database(&new, "db"), database(&old, "files"));
    let facts = |name: &str| {
        old.get(name).map(|(_, len, _)| FileFacts {
            len: *len,
            sha256: None,
        })
    };
    let problems = check(&RepoFiles {
        db_name: "x.db",
        db: &db,
        others: &[("x.files", &files)],
        facts: &facts,
        upstream_has: &|_| false,
    });
    assert!(problems.iter().any(|p| p.what == What::Missing), "{problems:?}");
    assert!(
        problems.last().is_some_and(|p| p.file == "x.files"),
        "{problems:?}"
    );
}
