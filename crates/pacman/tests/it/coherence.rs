//! What a coherent repository is: each way to be torn is named with the file.

use crate::samples::{package, repository};
use pacstore_pacman::build::RepoBuilder;
use pacstore_pacman::{Database, DbKind, FileFacts, Limits, Problem, RepoFiles, Side, What, check};
use std::collections::BTreeMap;

/// A repository as an importer sees it; tests take it apart.
struct Seen {
    db: Database,
    files: Database,
    facts: BTreeMap<String, FileFacts>,
    upstream: Vec<String>,
}

fn read(repo: &RepoBuilder, kind: DbKind) -> Database {
    Database::read(&repo.database(kind).unwrap(), &Limits::DB).unwrap()
}

fn seen() -> Seen {
    let (repo, _) = repository();
    let mut facts = BTreeMap::new();
    let signature = FileFacts {
        len: 119,
        sha256: None,
    };
    for package in repo.packages() {
        let file = FileFacts {
            len: package.csize,
            sha256: Some(package.sha256),
        };
        facts.insert(package.file_name.clone(), file);
        facts.insert(format!("{}.sig", package.file_name), signature);
    }
    facts.insert("sample.db.sig".into(), signature);
    facts.insert("sample.files.sig".into(), signature);
    let upstream = facts.keys().cloned().collect();
    Seen {
        db: read(&repo, DbKind::Db),
        files: read(&repo, DbKind::Files),
        facts,
        upstream,
    }
}

impl Seen {
    fn problems(&self) -> Vec<Problem> {
        check(&RepoFiles {
            db_name: "sample.db",
            db: &self.db,
            others: &[("sample.files", &self.files)],
            facts: &|name| self.facts.get(name).copied(),
            upstream_has: &|name| {
                assert!(name.strip_suffix(".sig").is_some(), "{name}");
                self.upstream.iter().any(|n| n == name)
            },
        })
    }

    fn only_problem(&self) -> Problem {
        let mut problems = self.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }
}

const ZOO: &str = "zoo-1:2.0-1-any.pkg.tar.zst";

#[test]
fn a_whole_repository_has_no_problem() {
    assert_eq!(seen().problems(), []);
}

#[test]
fn a_missing_package_is_named() {
    let mut seen = seen();
    seen.facts.remove(ZOO);
    let problem = seen.only_problem();
    assert_eq!(
        problem,
        Problem {
            file: ZOO.into(),
            what: What::Missing
        }
    );
    assert_eq!(problem.to_string(), format!("{ZOO} is missing"));
}

#[test]
fn a_package_of_another_size_is_named_once() {
    let mut seen = seen();
    let facts = seen.facts.get_mut(ZOO).unwrap();
    facts.len += 1;
    facts.sha256 = Some([1; 32]);
    let expected = facts.len - 1;
    assert_eq!(
        seen.only_problem().what,
        What::Size {
            expected,
            found: expected + 1
        }
    );
}

#[test]
fn a_package_with_other_bytes_of_the_same_size_is_named() {
    let mut seen = seen();
    seen.facts.get_mut(ZOO).unwrap().sha256 = Some([1; 32]);
    let expected = seen.db.get("zoo").unwrap().sha256.unwrap();
    assert_eq!(
        seen.only_problem(),
        Problem {
            file: ZOO.into(),
            what: What::Sha256 {
                expected,
                found: [1; 32]
            }
        }
    );
}

#[test]
fn a_file_that_nobody_hashed_is_held_to_its_size() {
    let mut seen = seen();
    seen.facts.get_mut(ZOO).unwrap().sha256 = None;
    assert_eq!(seen.problems(), []);
}

#[test]
fn a_signature_is_wanted_where_upstream_has_it() {
    let mut torn = seen();
    for file in [ZOO, "sample.db", "sample.files"] {
        torn.facts.remove(&format!("{file}.sig"));
    }
    let files: Vec<String> = torn.problems().into_iter().map(|p| p.file).collect();
    assert_eq!(
        files,
        [&format!("{ZOO}.sig"), "sample.db.sig", "sample.files.sig"]
    );
    torn.upstream.clear();
    assert_eq!(torn.problems(), []);
}

#[test]
fn databases_of_two_states_are_noticed() {
    let (mut repo, _) = repository();
    let (mut upgraded, _) = package("zoo", "1:2.1-1");
    repo.add(upgraded.clone());
    let mut torn = seen();
    torn.files = read(&repo, DbKind::Files);
    let problem = torn.only_problem();
    assert_eq!(problem.file, "sample.files");
    assert_eq!(
        problem.what,
        What::OtherState {
            package: "zoo-1:2.0-1".into(),
            side: Side::OnlyInDb,
            count: 2
        }
    );

    // Removed from .db only.
    repo.remove("zoo");
    (torn.db, torn.files) = (read(&repo, DbKind::Db), seen().files);
    let what = What::OtherState {
        package: "zoo-1:2.0-1".into(),
        side: Side::OnlyInOther,
        count: 1,
    };
    assert_eq!(torn.only_problem().what, what);

    // Same name and version, other bytes: it happens upstream.
    upgraded.spec.version = "1:2.0-1".parse().unwrap();
    upgraded.file_name = ZOO.into();
    upgraded.sha256 = [5; 32];
    repo.add(upgraded);
    (torn.db, torn.files) = (seen().db, read(&repo, DbKind::Files));
    let what = What::OtherState {
        package: "zoo-1:2.0-1".into(),
        side: Side::Differs,
        count: 1,
    };
    assert_eq!(torn.only_problem().what, what);
}

#[test]
fn databases_without_digests_are_held_to_what_they_have() {
    let (mut repo, _) = repository();
    repo.with_sha256 = false;
    let mut seen = seen();
    seen.db = read(&repo, DbKind::Db);
    assert_eq!(seen.problems(), []);
}
