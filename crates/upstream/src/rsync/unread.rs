//! What the sender could not read while it listed, out of rsync's last words.
//!
//! A folder that may not be opened is listed as one without names, and a name that may not be looked at is not listed
//! at all. Only stderr tells them from what is empty and what is not there.
//!
//! - Invariant: the source itself is never among them; that it cannot be read is an error.
//! - Not here: the listing (`super::list`).

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use super::list::{Listed, ListedKind, unescape};
use super::source::split_module;

/// The paths below `source` that `stderr` says could not be read; nothing for the source itself.
///
/// A line is `rsync: [sender] opendir "/folder/name" (in module) failed: Permission denied (13)`; the call may be
/// another one, and `[sender]` and the module may be missing. Paths are those of the module.
pub(super) fn unread(stderr: &[u8], source: &str) -> Vec<Option<Vec<u8>>> {
    let folder = unescape(split_module(source).1.as_bytes());
    let lines = stderr.split(|b| *b == b'\n');
    let paths = lines.filter_map(path_of);
    let below = paths.filter_map(|path| {
        let rest = path.strip_prefix(folder.as_slice())?;
        match rest {
            [] | b"." | b"/." => Some(None),
            [b'/', name @ ..] => Some(Some(name.to_vec())),
            name if folder.is_empty() => Some(Some(name.to_vec())),
            _ => None,
        }
    });
    below.collect()
}

/// Whether `stderr` names what is missing: what could not be read, vanished meanwhile, or is a link that dangles.
pub(super) fn is_explained(stderr: &[u8]) -> bool {
    let known = [&b"symlink has no referent: "[..], b"file has vanished: "];
    let mut lines = stderr.split(|b| *b == b'\n');
    lines.any(|line| path_of(line).is_some() || known.iter().any(|begin| line.starts_with(begin)))
}

/// Marks what could not be read among what was listed, and adds what was not.
pub(super) fn mark(listed: &mut Vec<Listed>, unread: Vec<Vec<u8>>) {
    let mut unread: BTreeSet<Vec<u8>> = unread.into_iter().collect();
    for entry in listed.iter_mut() {
        if unread.remove(&entry.path) {
            entry.kind = ListedKind::Unread;
        }
    }
    listed.extend(unread.into_iter().map(|path| Listed {
        path,
        kind: ListedKind::Unread,
        len: 0,
        mtime: UNIX_EPOCH,
        target: Vec::new(),
    }));
}

/// The path that a line of rsync's says it failed with, without a slash before or behind it.
fn path_of(line: &[u8]) -> Option<Vec<u8>> {
    let rest = line.strip_prefix(b"rsync: ")?;
    let begin = find(rest, b"\"")? + 1;
    let end = [&b"\" (in "[..], b"\" failed", b"\")"]
        .iter()
        .find_map(|mark| rest.windows(mark.len()).rposition(|at| at == *mark))?;
    let path = unescape(rest.get(begin..end)?);
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    Some(path.strip_suffix(b"/").unwrap_or(path).to_vec())
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|at| at == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What rsync 3.1 to 3.5 write.
    const SAID: &[u8] = b"rsync: [sender] opendir \"/pub/core/os\" (in m) failed: Permission denied (13)\n\
        rsync: opendir \"/pub/a \"b\" c\" (in m) failed: Permission denied (13)\n\
        rsync: [sender] readlink_stat(\"/pub/\\#303\\#244/x.db\" (in m)) failed: Permission denied (13)\n\
        rsync: [sender] opendir \"/public\" (in m) failed: Permission denied (13)\n\
        rsync: readdir(\"/pub/z\"): Input/output error (5)\n\
        file has vanished: \"/pub/v\" (in m)\n\
        rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1956)\n";

    fn shown(source: &str, said: &[u8]) -> Vec<String> {
        let show =
            |path: Option<Vec<u8>>| path.map_or("-".into(), |p| String::from_utf8_lossy(&p).into_owned());
        unread(said, source).into_iter().map(show).collect()
    }

    #[test]
    fn paths_are_told_below_the_source() {
        let below = ["core/os", "a \"b\" c", "ä/x.db", "z"];
        assert_eq!(shown("rsync://h/m/pub/", SAID), below);
        let all = ["pub/core/os", "pub/a \"b\" c", "pub/ä/x.db", "public", "pub/z"];
        assert_eq!(shown("rsync://h/m/", SAID), all);
    }

    #[test]
    fn the_source_itself_is_told_apart() {
        for said in [
            &b"rsync: [sender] change_dir \"/pub\" (in m) failed: Permission denied (13)\n"[..],
            b"rsync: [sender] opendir \"pub/.\" (in m) failed: Permission denied (13)\n",
        ] {
            assert_eq!(shown("rsync://h/m/pub/", said), ["-"]);
        }
    }

    #[test]
    fn a_folder_that_was_listed_changes_its_kind_and_another_name_is_added() {
        let entry = |path: &[u8], kind| Listed {
            path: path.to_vec(),
            kind,
            len: 0,
            mtime: UNIX_EPOCH,
            target: Vec::new(),
        };
        let mut listed = vec![entry(b"core", ListedKind::Dir)];
        mark(&mut listed, vec![b"core".to_vec(), b"x".to_vec()]);
        let both = [
            entry(b"core", ListedKind::Unread),
            entry(b"x", ListedKind::Unread),
        ];
        assert_eq!(listed, both);
    }
}
