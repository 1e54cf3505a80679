//! The names of an rsync module as the tree sees them: links followed within what the module lists.
//!
//! A module is listed with its links as links, so a link that leads back cannot make the listing endless. What each
//! link leads to is worked out here by the rules of `crate::scan`, so that a directory and a module of one state give
//! the same names, and the same reasons for names without bytes.
//!
//! - Invariant: the walk ends: no folder is walked below itself, depth and number of names are bounded.
//! - Invariant: what is here said to be a file still has to come; only then it is one.
//! - Not here: running the child (crate `upstream`), bringing the files (`crate::module`).
//! - Read first: `crate::scan`.

use std::time::{SystemTime, UNIX_EPOCH};

use pacstore_upstream::{Listed, ListedKind};

use crate::names;
use crate::scan::{Filter, MAX_DEPTH, MAX_LINKS};
use crate::view::NoFile;

/// More names than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany(pub(crate) usize);

/// What stands under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// A file of this size, last changed then (seconds since 1970).
    File { size: u64, seconds: i64 },
    /// A link out of the listed folder, but not out of the module: only the sender can say what is there.
    Outside,
    /// Nothing.
    None(NoFile),
}

/// All names of a module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Sorted by path.
    pub(crate) files: Vec<(Box<[u8]>, Named)>,
    /// Sorted; the root is not among them.
    pub(crate) folders: Vec<Box<[u8]>>,
    /// Whether a link leads to a name that was not listed.
    pub(crate) unlisted: bool,
}

/// What a path leads to.
#[derive(Clone, Copy)]
enum Target {
    Root,
    Entry(usize),
}

/// Why a path leads to nothing that is listed.
enum Lost {
    Outside,
    Unlisted,
    None(NoFile),
}

struct Walk<'a> {
    /// Sorted by folder and name, so that a folder's own entries stand together.
    entries: Vec<Listed>,
    filter: &'a Filter,
    /// The folders of the module that lie above the listed one, from the module's root on.
    above_root: &'a [Vec<u8>],
    names: Names,
    count: usize,
    /// The folders that we stand in, without links: a link to one of them leads for ever.
    above: Vec<Vec<u8>>,
}

/// Works out the names of what was listed. `above_root`: the folders of the module that lie above it.
pub(crate) fn names_of(
    mut listed: Vec<Listed>,
    filter: &Filter,
    above_root: &[Vec<u8>],
) -> Result<Names, TooMany> {
    listed.retain(|entry| entry.path != b".");
    listed.sort_unstable_by(|a, b| names::split(&a.path).cmp(&names::split(&b.path)));
    listed.dedup_by(|b, a| a.path == b.path);
    let mut walk = Walk {
        entries: listed,
        filter,
        above_root,
        names: Names::default(),
        count: 0,
        above: Vec::new(),
    };
    walk.folder(b"", b"", 0)?;
    let mut found = walk.names;
    found.files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    found.folders.sort_unstable();
    Ok(found)
}

impl Walk<'_> {
    fn find(&self, path: &[u8]) -> Option<usize> {
        let key = names::split(path);
        self.entries
            .binary_search_by(|entry| names::split(&entry.path).cmp(&key))
            .ok()
    }

    /// `path` is where the names stand in the tree, `real` where the folder lies without links.
    fn folder(&mut self, real: &[u8], path: &[u8], depth: usize) -> Result<(), TooMany> {
        let start = self
            .entries
            .partition_point(|entry| names::split(&entry.path).0 < real);
        self.above.push(real.to_vec());
        for at in start..self.entries.len() {
            let Some(entry) = self.entries.get(at) else { break };
            let (folder, name) = names::split(&entry.path);
            if folder != real {
                break;
            }
            if !self.filter.hidden && names::is_hidden(name) {
                continue;
            }
            self.count += 1;
            if self.filter.limit < self.count {
                return Err(TooMany(self.filter.limit));
            }
            let path = names::join(path, name);
            if entry.kind != ListedKind::Link {
                self.take(Target::Entry(at), path, depth)?;
                continue;
            }
            match self.resolve(real, &entry.target) {
                Ok(target) => self.take(target, path, depth)?,
                Err(Lost::Outside) => self.file(path, Named::Outside),
                Err(Lost::None(why)) => self.file(path, Named::None(why)),
                Err(Lost::Unlisted) => {
                    self.names.unlisted = true;
                    self.file(path, Named::None(NoFile::Dangling));
                }
            }
        }
        self.above.pop();
        Ok(())
    }

    fn take(&mut self, target: Target, path: Vec<u8>, depth: usize) -> Result<(), TooMany> {
        let real = match target {
            Target::Root => Vec::new(),
            Target::Entry(at) => {
                let Some(entry) = self.entries.get(at) else {
                    return Ok(());
                };
                match entry.kind {
                    ListedKind::File => {
                        let (size, seconds) = (entry.len, seconds(entry.mtime));
                        self.file(path, Named::File { size, seconds });
                        return Ok(());
                    }
                    ListedKind::Dir => entry.path.clone(),
                    ListedKind::Unread => {
                        self.file(path, Named::None(NoFile::Denied));
                        return Ok(());
                    }
                    ListedKind::Link | ListedKind::Other => {
                        self.file(path, Named::None(NoFile::Special));
                        return Ok(());
                    }
                }
            }
        };
        if self.filter.exclude.takes_folder(&path) {
            return Ok(());
        }
        if self.above.contains(&real) {
            self.file(path, Named::None(NoFile::Loop));
            return Ok(());
        }
        if MAX_DEPTH <= depth {
            self.file(path, Named::None(NoFile::Deep));
            return Ok(());
        }
        self.names.folders.push(path.as_slice().into());
        self.folder(&real, &path, depth + 1)
    }

    fn file(&mut self, path: Vec<u8>, named: Named) {
        if !self.filter.exclude.takes_file(&path) {
            self.names.files.push((path.into(), named));
        }
    }

    /// Follows the link `target` that lies in `folder` (a path without links).
    fn resolve(&self, folder: &[u8], target: &[u8]) -> Result<Target, Lost> {
        let mut here = folder.to_vec();
        let mut todo: Vec<Vec<u8>> = Vec::new();
        self.turn(target, &mut here, &mut todo)?;
        let mut absolute = target.starts_with(b"/");
        let mut links = 1;
        while let Some(part) = todo.pop() {
            if part == b".." {
                if here.is_empty() {
                    todo.push(part);
                    return Err(self.leaves(&todo));
                }
                here = names::split(&here).0.to_vec();
                continue;
            }
            let path = names::join(&here, &part);
            let entry = self.find(&path).and_then(|at| self.entries.get(at));
            // A module that is no root of its own may have meant another folder of its machine.
            let lost = || {
                if absolute {
                    Lost::None(NoFile::Leaves)
                } else {
                    Lost::Unlisted
                }
            };
            let entry = entry.ok_or_else(lost)?;
            match entry.kind {
                ListedKind::Link => {
                    links += 1;
                    if MAX_LINKS < links {
                        return Err(Lost::None(NoFile::Loop));
                    }
                    absolute |= entry.target.starts_with(b"/");
                    self.turn(&entry.target, &mut here, &mut todo)?;
                }
                ListedKind::Dir => here = path,
                ListedKind::Unread if !todo.is_empty() => return Err(Lost::None(NoFile::Denied)),
                _ if todo.is_empty() => here = path,
                _ => return Err(Lost::None(NoFile::Dangling)),
            }
        }
        if here.is_empty() {
            return Ok(Target::Root);
        }
        self.find(&here).map(Target::Entry).ok_or(Lost::Unlisted)
    }

    /// Puts the parts of a link's target before what is still to be walked. An absolute target begins at the module's
    /// root, which is the daemon's own root as a rule (`use chroot`).
    fn turn(&self, target: &[u8], here: &mut Vec<u8>, todo: &mut Vec<Vec<u8>>) -> Result<(), Lost> {
        if 4096 < todo.len() + target.len() {
            return Err(Lost::None(NoFile::Loop));
        }
        let parts = target.split(|b| *b == b'/');
        let new: Vec<Vec<u8>> = parts
            .filter(|part| !part.is_empty() && *part != b".")
            .map(<[u8]>::to_vec)
            .collect();
        let mut new = &*new;
        if target.first() == Some(&b'/') {
            new = new
                .strip_prefix(self.above_root)
                .ok_or(Lost::None(NoFile::Leaves))?;
            here.clear();
        }
        todo.extend(new.iter().rev().cloned());
        Ok(())
    }

    /// Whether what is still to be walked from the root stays within the module.
    fn leaves(&self, todo: &[Vec<u8>]) -> Lost {
        let (mut up, mut highest) = (0_usize, 0_usize);
        let mut down = 0_usize;
        for part in todo.iter().rev() {
            if part != b".." {
                down += 1;
            } else if 0 < down {
                down -= 1;
            } else {
                up += 1;
                highest = highest.max(up);
            }
        }
        if self.above_root.len() < highest {
            Lost::None(NoFile::Leaves)
        } else {
            Lost::Outside
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::globs::Globs;

    fn entry(path: &str, kind: ListedKind, target: &str) -> Listed {
        Listed {
            path: path.into(),
            kind,
            len: 1,
            mtime: UNIX_EPOCH,
            target: target.into(),
        }
    }

    fn show(links: &[(&str, &str)], exclude: &[&str], above_root: usize, limit: usize) -> Vec<String> {
        let mut listed = vec![
            entry(".", ListedKind::Dir, ""),
            entry("core", ListedKind::Dir, ""),
            entry("pool", ListedKind::Dir, ""),
            entry("pool/a", ListedKind::File, ""),
            entry("pool/pipe", ListedKind::Other, ""),
        ];
        listed.extend(
            links
                .iter()
                .map(|(path, target)| entry(path, ListedKind::Link, target)),
        );
        let exclude = exclude.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>();
        let filter = Filter {
            exclude: Globs::new(&exclude).unwrap(),
            hidden: false,
            limit,
        };
        let above = vec![b"pub".to_vec(); above_root];
        let names = match names_of(listed, &filter, &above) {
            Ok(names) => names,
            Err(TooMany(limit)) => return vec![format!("more than {limit}")],
        };
        let files = names.files.iter().map(|(path, named)| match named {
            Named::File { .. } => names::show(path),
            Named::Outside => format!("{} outside", names::show(path)),
            Named::None(why) => format!("{}: {why}", names::show(path)),
        });
        let folders = names.folders.iter().map(|path| format!("{}/", names::show(path)));
        files.chain(folders).collect()
    }

    #[test]
    fn links_mean_what_they_mean_in_a_directory() {
        let links = [
            ("core/a", "../pool/a"),
            ("core/b", "./a"),
            ("core/c", "../pool//a/"),
            ("core/d", "../../secret"),
            ("core/e", "/etc/passwd"),
            ("core/f", "../pool/none"),
            ("core/g", "g"),
            ("core/h", "../pool"),
            ("core/i", ".."),
            ("core/j", "h/a"),
            ("core/k", "a/b"),
        ];
        let want = [
            "core/a",
            "core/b",
            "core/c",
            "core/d: a link that leaves the root",
            "core/e: a link that leaves the root",
            "core/f: a link that leads nowhere",
            "core/g: a link that leads back to itself",
            "core/h/a",
            "core/h/pipe: no regular file",
            "core/i: a link that leads back to itself",
            "core/j",
            "core/k: a link that leads nowhere",
            "core/",
            "core/h/",
        ];
        assert_eq!(show(&links, &["/pool"], 0, 100), want);
    }

    #[test]
    fn what_the_sender_could_not_read_is_a_name_without_bytes_and_so_is_what_a_link_has_below_it() {
        let mut listed = vec![
            entry("core", ListedKind::Unread, ""),
            entry("core/a", ListedKind::File, ""),
        ];
        listed.push(entry("x", ListedKind::Dir, ""));
        listed.push(entry("x/y", ListedKind::Unread, ""));
        listed.push(entry("z", ListedKind::Link, "core/a"));
        let filter = Filter {
            exclude: Globs::default(),
            hidden: false,
            limit: 100,
        };
        let names = names_of(listed, &filter, &[]).unwrap();
        let denied = |path: &str| (path.as_bytes().into(), Named::None(NoFile::Denied));
        assert_eq!(names.files, [denied("core"), denied("x/y"), denied("z")]);
        assert_eq!(names.folders, [Box::from(*b"x")]);
    }

    #[test]
    fn a_link_within_the_module_but_out_of_the_listed_folder_is_the_senders() {
        let links = [("core/a", "../../x"), ("core/b", "../../x/../../y")];
        let all = show(&links, &["/pool"], 1, 100);
        assert_eq!(
            all,
            ["core/a outside", "core/b: a link that leaves the root", "core/"]
        );
    }

    /// As the daemon itself takes them, which has the module for its root.
    #[test]
    fn an_absolute_link_begins_at_the_modules_root() {
        let links = [
            ("core/a", "/pool/a"),
            ("core/b", "/pool/../pool//a"),
            ("core/c", "/"),
            ("core/d", "/../x"),
            ("core/e", "/pool/none"),
            ("core/f", "/core/a"),
        ];
        let want = [
            "core/a",
            "core/b",
            "core/c: a link that leads back to itself",
            "core/d: a link that leaves the root",
            "core/e: a link that leaves the root",
            "core/f",
            "core/",
        ];
        assert_eq!(show(&links, &["/pool"], 0, 100), want);
        let below = [("core/a", "/pub/pool/a"), ("core/b", "/pool/a")];
        let want = ["core/a", "core/b: a link that leaves the root", "core/"];
        assert_eq!(show(&below, &["/pool"], 1, 100), want);
    }

    #[test]
    fn folder_links_that_lead_back_and_forth_end_and_names_are_bounded() {
        let links = [("core/x", "../pool"), ("pool/y", "../core"), ("pool/z", "..")];
        let all = show(&links, &[], 0, 100);
        assert_eq!(
            all.iter().filter(|name| name.ends_with("back to itself")).count(),
            4,
            "{all:?}"
        );
        assert_eq!(show(&links, &[], 0, 7), ["more than 7"]);
    }
}
