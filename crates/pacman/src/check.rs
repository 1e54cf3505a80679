//! What a coherent repository is, and what is wrong with one that is not.
//!
//! A repository is coherent when each file that its databases name is there with the size and SHA-256 they give,
//! each signature is there that upstream has, and `.db`, `.files` and their twins are of one state. Only then may a
//! snapshot hold it: pacman takes a database at its word, and a missing package fails a whole upgrade.
//!
//! - Invariant: pure; the caller supplies what it knows of the files.
//! - Invariant: no problem found means pacman can install everything that the database names.
//! - Not here: OpenPGP, deciding what to do with a torn repository (crate `import`).

use crate::Sha256;
use crate::database::Database;
use crate::desc::Desc;
use data_encoding::HEXLOWER;
use std::collections::HashMap;
use std::fmt;

/// What is known of one file in the repository's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its size in bytes.
    pub len: u64,
    /// Its SHA-256; `None` if nobody has hashed it yet: then its size alone is compared.
    pub sha256: Option<Sha256>,
}

/// One repository: its databases, and what lies in its folder.
#[derive(Clone, Copy)]
pub struct RepoFiles<'a> {
    /// The file name of the database that pacman asks for, `REPO.db`.
    pub db_name: &'a str,
    /// That database.
    pub db: &'a Database,
    /// The other databases by file name: `REPO.files`, and twins of either that are not the same bytes.
    pub others: &'a [(&'a str, &'a Database)],
    /// What lies in the folder, by file name.
    pub facts: &'a dyn Fn(&str) -> Option<FileFacts>,
    /// Whether upstream has a file of this name. Asked for names that end in `.sig` only.
    pub upstream_has: &'a dyn Fn(&str) -> bool,
}

impl fmt::Debug for RepoFiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: Vec<&str> = self.others.iter().map(|(name, _)| *name).collect();
        f.debug_struct("RepoFiles")
            .field("db_name", &self.db_name)
            .field("others", &others)
            .finish_non_exhaustive()
    }
}

/// One thing that keeps a repository from being coherent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file that is missing or wrong.
    pub file: String,
    /// What is wrong.
    pub what: What,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The database names it, or upstream has this signature, but it is not there.
    Missing,
    /// It has another size than the database says.
    Size {
        /// In the database, in bytes.
        expected: u64,
        /// Of the file, in bytes.
        found: u64,
    },
    /// It has another SHA-256 than the database says.
    Sha256 {
        /// In the database.
        expected: Sha256,
        /// Of the file.
        found: Sha256,
    },
    /// This database is of another state than `REPO.db`.
    OtherState {
        /// The first package, `NAME-VERSION`, that tells them apart.
        package: String,
        /// How it does.
        side: Side,
        /// How many packages differ in all.
        count: usize,
    },
}

/// In which of two databases a package stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Only in `REPO.db`.
    OnlyInDb,
    /// Only in the other database.
    OnlyInOther,
    /// In both, with another file name, size or digest.
    Differs,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.what {
            What::Missing => write!(f, "{file} is missing"),
            What::Size { expected, found } => {
                write!(f, "{file} has {found} bytes, the database says {expected}")
            }
            What::Sha256 { expected, found } => {
                let (expected, found) = (HEXLOWER.encode(expected), HEXLOWER.encode(found));
                write!(f, "{file} has SHA-256 {found}, the database says {expected}")
            }
            What::OtherState { package, side, count } => {
                let how = match side {
                    Side::OnlyInDb => "is not in it",
                    Side::OnlyInOther => "is only in it",
                    Side::Differs => "is another file in it",
                };
                write!(
                    f,
                    "{file} is of another state: {package} {how} ({count} such packages)"
                )
            }
        }
    }
}

/// Names everything that keeps this repository from being coherent; nothing, if it is.
///
/// Each wrong file is named once, in the order of the database; databases come last. A database whose entry has no `%CSIZE%` or
/// `%SHA256SUM%` is held to what it has.
pub fn check(repo: &RepoFiles<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for desc in &repo.db.entries {
        problems.extend(wrong_with(desc, repo.facts).map(|what| Problem {
            file: desc.filename.to_string(),
            what,
        }));
        problems.extend(missing_signature(&desc.filename, repo));
    }
    let databases = std::iter::once(repo.db_name).chain(repo.others.iter().map(|(name, _)| *name));
    problems.extend(databases.filter_map(|name| missing_signature(name, repo)));
    for (name, other) in repo.others {
        let mut different = differences(repo.db, other);
        if let Some((package, side)) = different.next() {
            let count = 1 + different.count();
            problems.push(Problem {
                file: (*name).to_owned(),
                what: What::OtherState { package, side, count },
            });
        }
    }
    problems
}

fn wrong_with(desc: &Desc, facts: &dyn Fn(&str) -> Option<FileFacts>) -> Option<What> {
    let Some(found) = facts(&desc.filename) else {
        return Some(What::Missing);
    };
    match desc.csize {
        Some(expected) if expected != found.len => {
            return Some(What::Size {
                expected,
                found: found.len,
            });
        }
        _ => {}
    }
    match (desc.sha256, found.sha256) {
        (Some(expected), Some(found)) if expected != found => Some(What::Sha256 { expected, found }),
        _ => None,
    }
}

fn missing_signature(file: &str, repo: &RepoFiles<'_>) -> Option<Problem> {
    let signature = format!("{file}.sig");
    let missing = (repo.upstream_has)(&signature) && (repo.facts)(&signature).is_none();
    missing.then_some(Problem {
        file: signature,
        what: What::Missing,
    })
}

/// The packages by which two databases are not of one state, as `NAME-VERSION`.
///
/// Two databases are of one state when they name the same files: same packages, versions, file names, sizes and digests.
/// Where one of them does not give a size or digest, that is not compared (`repo-add` can leave digests out).
pub fn differences<'a>(db: &'a Database, other: &'a Database) -> impl Iterator<Item = (String, Side)> + 'a {
    let key = |desc: &'a Desc| (&*desc.name, desc.version.as_str());
    let here: HashMap<_, &Desc> = db.entries.iter().map(|desc| (key(desc), desc)).collect();
    let there: HashMap<_, &Desc> = other.entries.iter().map(|desc| (key(desc), desc)).collect();
    let mine = db
        .entries
        .iter()
        .filter_map(move |desc| match there.get(&key(desc)) {
            None => Some((desc.folder(), Side::OnlyInDb)),
            Some(same) if !same_file(desc, same) => Some((desc.folder(), Side::Differs)),
            Some(_) => None,
        });
    let theirs = other
        .entries
        .iter()
        .filter(move |desc| !here.contains_key(&key(desc)));
    mine.chain(theirs.map(|desc| (desc.folder(), Side::OnlyInOther)))
}

fn same_file(a: &Desc, b: &Desc) -> bool {
    fn agree<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
        a.zip(b).is_none_or(|(a, b)| a == b)
    }
    a.filename == b.filename
        && agree(a.csize.as_ref(), b.csize.as_ref())
        && agree(a.sha256.as_ref(), b.sha256.as_ref())
        && agree(a.md5.as_ref(), b.md5.as_ref())
}
