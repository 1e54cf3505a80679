//! Names and paths as bytes: hidden ones, folder and last part, how they are shown.
//!
//! - Invariant: any bytes are a name, save `/` and NUL.
//! - Not here: names of packages and databases (crate `pacman`), globs (`crate::globs`).
//! - Read first: design.md, "Tree".

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
    match path.iter().rposition(|b| *b == b'/') {
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
    fn a_path_is_split_and_joined() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
        assert_eq!(join(b"", b"c"), b"c");
        assert_eq!(join(b"a/b", b"c"), b"a/b/c");
    }
}
