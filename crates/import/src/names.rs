//! Names and paths as bytes: hidden ones, folder and last part, how they are shown.
//!
//! - Invariant: any bytes are a name, save `/` and NUL.
//! - Not here: names of packages and databases (crate `pacman`), globs (`crate::globs`).
//! - Read first: design.md, "Tree".

use std::cmp::Ordering;
use std::fmt::Write;

use pacstore_pacman::{DbFileName, DbKind};

/// Whether a name is hidden: it begins with `.` or `~`.
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'.' | b'~'))
}

/// Whether any part of a path is hidden.
pub(crate) fn has_hidden_part(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').any(is_hidden)
}

/// The repository whose main database `name` would be: `core` for `core.db`.
pub(crate) fn repository_of(name: &[u8]) -> Option<&str> {
    let name = DbFileName::parse(std::str::from_utf8(name).ok()?)?;
    let main = name.kind == DbKind::Db && name.ending.is_empty() && !name.signature;
    main.then_some(name.repo)
}

/// The folder and the last part of a path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr(b'/', path) {
        Some(cut) => (
            path.get(..cut).unwrap_or_default(),
            path.get(cut + 1..).unwrap_or_default(),
        ),
        None => (&[], path),
    }
}

/// `folder/name`, or `name` in the root.
pub(crate) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    if !folder.is_empty() {
        path.extend_from_slice(folder);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Walks along a list that is sorted by path, for paths that are asked for in order.
pub(crate) struct Along<'a, T> {
    rest: &'a [(Box<[u8]>, T)],
}

impl<'a, T> Along<'a, T> {
    pub(crate) fn new(all: &'a [(Box<[u8]>, T)]) -> Self {
        Self { rest: all }
    }

    /// What stands at `path`, which is not before the one asked for last.
    pub(crate) fn get(&mut self, path: &[u8]) -> Option<&'a T> {
        while let Some(((name, item), rest)) = self.rest.split_first() {
            match (**name).cmp(path) {
                Ordering::Less => self.rest = rest,
                Ordering::Equal => return Some(item),
                Ordering::Greater => return None,
            }
        }
        None
    }
}

/// A path as text for people: bytes that are no UTF-8 and control characters are escaped.
pub(crate) fn show(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_shown_without_control_characters() {
        assert_eq!(show(b"a b\n\xff"), "a b\\n\\xff");
    }

    #[test]
    fn a_list_is_walked_along() {
        let all: Vec<(Box<[u8]>, u8)> = [(&b"a"[..], 1), (b"c", 2), (b"d", 3)]
            .map(|(path, n)| (path.into(), n))
            .into();
        let mut along = Along::new(&all);
        let got = [&b"A"[..], b"a", b"a", b"b", b"d", b"e"].map(|path| along.get(path).copied());
        assert_eq!(got, [None, Some(1), Some(1), None, Some(3), None]);
    }

    #[test]
    fn a_path_is_split_and_joined() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
        assert_eq!(join(b"", b"c"), b"c");
        assert_eq!(join(b"a/b", b"c"), b"a/b/c");
    }
}
