//! The repositories of a source: which there are, what their databases say, whether they are coherent.
//!
//! - Invariant: what is checked here is read from the store, so it is what a snapshot would hold.
//! - Not here: what a coherent repository is (crate `pacman`), how files come in (`crate::intake`).
//! - Read first: design.md, "Head"; `pacstore_pacman::check`.

use std::collections::BTreeSet;
use std::io::Read;

use pacstore_pacman::{self as pacman, Database, DbError, DbFileName, DbKind, Limits, RepoFiles};
use pacstore_store::Store;

use crate::error::IntakeError;
use crate::facts::FileFacts;
use crate::names;
use crate::spec::Wanted;
use crate::state::{DatabaseTimes, State};
use crate::trouble::Trouble;
use crate::view::{Item, NoFile, View};

/// The most bytes of a packed database that are read.
const MAX_DATABASE: u64 = 1 << 30;

/// The longest description of what is wrong with a database, in characters.
const MAX_WORDS: usize = 300;

/// A repository, before anything is known of its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Repo {
    /// In the upstream.
    pub(crate) folder: Vec<u8>,
    pub(crate) name: String,
}

impl Repo {
    /// The path of one of its files in the upstream.
    pub(crate) fn path(&self, file: &str) -> Vec<u8> {
        names::join(&self.folder, file.as_bytes())
    }

    /// `FOLDER/NAME`, for people.
    pub(crate) fn shown(&self) -> String {
        names::show(&self.path(&self.name))
    }

    /// Whether the configuration means this one by `text`.
    pub(crate) fn is_called(&self, text: &str) -> bool {
        text == self.name || text.trim_start_matches('/').as_bytes() == self.path(&self.name)
    }
}

/// Finds the repositories of a view: the wanted ones, else all that have a database.
///
/// One that the last tree holds stays one as long as packages are in its folder, database or not, or nobody can say what
/// is there. Gives those that are gone as well.
pub(crate) fn discover(
    view: &View,
    wanted: Option<&[Wanted]>,
    state: Option<&State>,
) -> (Vec<Repo>, Vec<Repo>) {
    let mut found: Vec<Repo> = Vec::new();
    let mut gone = Vec::new();
    if let Some(wanted) = wanted {
        found.extend(wanted.iter().map(|w| Repo {
            folder: w.folder.clone(),
            name: w.name.clone(),
        }));
    } else {
        for (path, _) in &view.files {
            let (folder, name) = names::split(path);
            if let Some(name) = names::repository_of(name) {
                found.push(Repo {
                    folder: folder.to_vec(),
                    name: name.to_owned(),
                });
            }
        }
        for repo in state.map(State::known).unwrap_or_default() {
            if found.contains(&repo) {
                continue;
            }
            if has_packages(view, &repo.folder) || unread(view, &repo.folder).is_some() {
                found.push(repo);
            } else {
                gone.push(repo);
            }
        }
    }
    found.sort();
    found.dedup();
    (found, gone)
}

fn has_packages(view: &View, folder: &[u8]) -> bool {
    packages(view, folder).next().is_some()
}

/// The packages of a folder and their signatures, by their names.
pub(crate) fn packages<'a>(view: &'a View, folder: &'a [u8]) -> impl Iterator<Item = &'a str> {
    let below = view.files.get(view.below(folder)).unwrap_or_default();
    let split = below.iter().map(|(path, _)| names::split(path));
    let direct = split.filter(move |(above, _)| *above == folder);
    let names = direct.filter_map(|(_, name)| std::str::from_utf8(name).ok());
    names.filter(|name| pacman::is_package_file(name))
}

/// The same, as a web server's listing names them, if it was read.
pub(crate) fn left<'a>(view: &'a View, folder: &[u8]) -> Option<Vec<&'a str>> {
    let names = view.left.get(folder)?.iter();
    Some(names.filter_map(|name| std::str::from_utf8(name).ok()).collect())
}

/// The folder, or the nearest one above it, that the source names without saying what is in it.
fn unread<'a>(view: &View, folder: &'a [u8]) -> Option<(&'a [u8], NoFile)> {
    let mut here = folder;
    while !here.is_empty() {
        if let Some(Item::None(why)) = view.get(here) {
            return Some((here, *why));
        }
        here = names::split(here).0;
    }
    None
}

/// The databases of a repository, read.
#[derive(Debug)]
pub(crate) struct Databases {
    pub(crate) main: Database,
    /// `REPO.files`, and twins that are not the same bytes as theirs.
    pub(crate) others: Vec<(String, Database)>,
    pub(crate) times: DatabaseTimes,
    /// Root of the main one, as text: what tells its bytes from others.
    pub(crate) root: String,
}

impl Databases {
    /// When the newest package was built.
    pub(crate) fn built(&self) -> Option<u64> {
        self.main.entries.iter().filter_map(|desc| desc.build_date).max()
    }
}

/// The files of a repository's own that the view has, with their places in it.
pub(crate) fn own_files(view: &View, repo: &Repo) -> Vec<(String, usize)> {
    pacman::database_names(&repo.name)
        .filter_map(|name| view.position(&repo.path(&name)).map(|at| (name, at)))
        .collect()
}

/// Whether nothing of its own is there.
pub(crate) fn has_nothing(view: &View, repo: &Repo) -> bool {
    let item = |at: usize| view.files.get(at).map(|(_, item)| item);
    let mut own = own_files(view, repo).into_iter();
    own.all(|(_, at)| matches!(item(at), Some(Item::None(NoFile::Absent))))
}

/// What reading a repository's databases gave.
pub(crate) enum Opened {
    Databases(Box<Databases>),
    Torn(Vec<Trouble>),
    /// A file that is called like a database, but is something else.
    NoRepository,
}

/// Reads the databases out of the store. `facts` gives what was taken in, by place in the view.
///
/// `known`: whether it was a repository before; then a file of another kind is trouble, not a mistake of ours.
pub(crate) fn open(
    store: &Store,
    view: &View,
    repo: &Repo,
    facts: &dyn Fn(usize) -> Result<FileFacts, Trouble>,
    known: bool,
) -> Result<Opened, IntakeError> {
    let files = own_files(view, repo);
    let main_name = format!("{}.db", repo.name);
    if !files.iter().any(|(name, _)| *name == main_name) {
        let path = names::show(&repo.path(&main_name));
        let trouble = if let Some((folder, why)) = unread(view, &repo.folder) {
            let path = names::show(folder);
            Trouble::NoFile { path, why }
        } else if has_packages(view, &repo.folder) {
            Trouble::NoDatabase { path }
        } else {
            Trouble::NoFile {
                path,
                why: NoFile::Absent,
            }
        };
        return Ok(Opened::Torn(vec![trouble]));
    }
    let mut troubles = Vec::new();
    let mut times = DatabaseTimes::default();
    let mut read: BTreeSet<[u8; 32]> = BTreeSet::new();
    let mut main = None;
    let mut others = Vec::new();
    for (name, at) in files {
        let facts = match facts(at) {
            Ok(facts) => facts,
            Err(trouble) => {
                troubles.push(trouble);
                continue;
            }
        };
        let Some(parsed) = DbFileName::parse(&name) else {
            continue;
        };
        if parsed.ending.is_empty() {
            let slot = match (parsed.kind, parsed.signature) {
                (DbKind::Db, false) => &mut times.db,
                (DbKind::Db, true) => &mut times.db_sig,
                (DbKind::Files, false) => &mut times.files,
                (DbKind::Files, true) => &mut times.files_sig,
            };
            *slot = seconds(view, at);
        }
        if parsed.signature || facts.sha256.is_some_and(|sha256| !read.insert(sha256)) {
            continue;
        }
        let limits = if parsed.kind == DbKind::Files {
            Limits::FILES
        } else {
            Limits::DB
        };
        let Some(bytes) = bytes(store, &facts)? else {
            troubles.push(Trouble::Moving {
                path: names::show(&repo.path(&name)),
            });
            continue;
        };
        match Database::read(&bytes, &limits) {
            Ok(database) if name == main_name => main = Some((database, facts.root().to_string())),
            Ok(database) => others.push((name, database)),
            Err(DbError::Format) if name == main_name && !known && !is_web_page(&bytes) => {
                return Ok(Opened::NoRepository);
            }
            Err(e) => troubles.push(Trouble::Database {
                path: names::show(&repo.path(&name)),
                why: chain(&e),
            }),
        }
    }
    match main {
        Some((main, root)) if troubles.is_empty() => Ok(Opened::Databases(Box::new(Databases {
            main,
            others,
            times,
            root,
        }))),
        _ => Ok(Opened::Torn(troubles)),
    }
}

/// An error and its causes in one line, which may quote a little of the upstream's bytes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(plain).take(MAX_WORDS).collect()
}

/// What stands where a database should, if a server or a portal is in trouble.
fn is_web_page(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .find(|b| !b.is_ascii_whitespace())
        .is_none_or(|b| *b == b'<')
}

/// When the upstream changed a file.
fn seconds(view: &View, at: usize) -> Option<u64> {
    match view.files.get(at) {
        Some((_, Item::File { stamp, .. })) => stamp.seconds().and_then(|s| u64::try_from(s).ok()),
        _ => None,
    }
}

/// The whole of a file in the store; nothing if it is not there or too large for a database.
fn bytes(store: &Store, facts: &FileFacts) -> Result<Option<Vec<u8>>, IntakeError> {
    let Some(open) = store.open_file(&facts.root())? else {
        return Ok(None);
    };
    if MAX_DATABASE < facts.len {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(facts.len as usize);
    let mut file = open.file.take(MAX_DATABASE);
    match file.read_to_end(&mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) => Err(IntakeError::Read(facts.root().to_string(), e)),
    }
}

/// What keeps a repository from being whole. `facts` gives the file at a place in the view.
pub(crate) fn check(
    view: &View,
    repo: &Repo,
    databases: &Databases,
    facts: &dyn Fn(usize) -> Result<FileFacts, Trouble>,
) -> Vec<Trouble> {
    let at = |file: &str| view.position(&repo.path(file));
    let lookup = |file: &str| {
        let facts = facts(at(file)?).ok()?;
        Some(pacman::FileFacts {
            len: facts.len,
            sha256: facts.sha256,
        })
    };
    let has = |file: &str| at(file).is_some();
    let others: Vec<(&str, &Database)> = databases.others.iter().map(|(n, d)| (&**n, d)).collect();
    let db_name = format!("{}.db", repo.name);
    let problems = pacman::check(&RepoFiles {
        db_name: &db_name,
        db: &databases.main,
        others: &others,
        facts: &lookup,
        upstream_has: &has,
    });
    let folder = names::show(&repo.folder);
    let file = |problem| Trouble::File {
        folder: folder.clone(),
        problem,
    };
    // A name that is there without bytes says more than "missing".
    let better = |problem: pacman::Problem| match (&problem.what, at(&problem.file)) {
        (pacman::What::Missing, Some(at)) => facts(at).err().unwrap_or_else(|| file(problem.clone())),
        _ => file(problem),
    };
    problems.into_iter().map(better).collect()
}

/// The architecture that a repository serves: the part of its folder that is one, else the one that its packages have.
pub(crate) fn architecture(folder: &[u8], main: &Database) -> Option<String> {
    let parts = folder
        .split(|b| *b == b'/')
        .filter_map(|part| std::str::from_utf8(part).ok());
    if let Some(part) = parts.rev().find(|part| is_architecture(part)) {
        return Some(part.to_owned());
    }
    let all = main.architectures();
    let mut own = all.into_iter().filter(|arch| *arch != "any");
    match (own.next(), own.next()) {
        (Some(arch), None) => Some(arch.to_owned()),
        _ => None,
    }
}

/// The names that pacman's `$arch` takes in the distributions there are.
fn is_architecture(part: &str) -> bool {
    const KNOWN: [&str; 16] = [
        "x86_64",
        "x86_64_v2",
        "x86_64_v3",
        "x86_64_v4",
        "aarch64",
        "arm",
        "armv5",
        "armv6h",
        "armv7h",
        "i486",
        "i686",
        "pentium4",
        "loong64",
        "riscv64",
        "ppc64le",
        "ppc64",
    ];
    KNOWN.contains(&part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(names: &[&str]) -> View {
        let mut view = View::default();
        view.files.extend(
            names
                .iter()
                .map(|n| (n.as_bytes().into(), Item::None(NoFile::Absent))),
        );
        view.sort();
        view
    }

    #[test]
    fn every_database_makes_a_repository() {
        let view = view(&[
            "core/os/x86_64/core.db",
            "core/os/x86_64/core.db.sig",
            "a.db.tar.gz",
            "b.db",
            "c.files",
        ]);
        let (found, gone) = discover(&view, None, None);
        let shown: Vec<_> = found.iter().map(Repo::shown).collect();
        assert_eq!(shown, ["b", "core/os/x86_64/core"]);
        assert_eq!(gone, []);
    }

    #[test]
    fn the_folder_says_the_architecture_before_the_packages_do() {
        let none = Database::default();
        assert_eq!(
            architecture(b"core-x86-64-v3/os/x86_64", &none).as_deref(),
            Some("x86_64")
        );
        assert_eq!(architecture(b"repo", &none), None);
    }
}
