//! Include and exclude rules, from the configuration (patterns) and from data (exact names).
//!
//! - Invariant: an exact name matches that name only, whatever bytes it has.
//! - Read first: rsync(1), "PATTERN MATCHING RULES".

use std::ffi::OsString;

use super::option;

/// One rule; the first that matches a name decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    include: bool,
    pattern: Vec<u8>,
}

impl Rule {
    /// Takes what matches rsync's `pattern` (`/x` anchored at the source, `*.db`, `dir/`).
    pub fn include(pattern: impl Into<Vec<u8>>) -> Self {
        Self {
            include: true,
            pattern: plain(pattern.into()),
        }
    }

    /// Leaves out what matches rsync's `pattern`.
    pub fn exclude(pattern: impl Into<Vec<u8>>) -> Self {
        Self {
            include: false,
            pattern: plain(pattern.into()),
        }
    }

    /// Takes exactly the entry at `path` below the source (raw bytes, no leading slash).
    pub fn include_exactly(path: &[u8]) -> Self {
        Self {
            include: true,
            pattern: exact(path),
        }
    }

    /// Leaves out exactly the entry at `path` and what is below it.
    pub fn exclude_exactly(path: &[u8]) -> Self {
        Self {
            include: false,
            pattern: exact(path),
        }
    }

    pub(crate) fn argument(&self) -> OsString {
        option(
            if self.include { "--include=" } else { "--exclude=" },
            &self.pattern,
        )
    }
}

/// rsync reads `+ x`, `- x` and `!` in an include or exclude as another rule; `[+] x` is the same name without that.
fn plain(pattern: Vec<u8>) -> Vec<u8> {
    let special = pattern.starts_with(b"+ ") || pattern.starts_with(b"- ") || pattern == b"!";
    if !special {
        return pattern;
    }
    // `[!]` would begin a negated class, so the sign is escaped inside of it.
    let mut quoted = vec![b'[', b'\\', pattern[0], b']'];
    quoted.extend_from_slice(&pattern[1..]);
    quoted
}

/// Anchored; wildcards escaped. A backslash is an escape only where wildcards are.
fn exact(path: &[u8]) -> Vec<u8> {
    let wild = path.iter().any(|b| matches!(b, b'*' | b'?' | b'['));
    let mut pattern = vec![b'/'];
    for &b in path {
        if wild && matches!(b, b'*' | b'?' | b'[' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(b);
    }
    pattern
}
