//! Which names a list of globs takes: `exclude` and `also` of an import.
//!
//! The patterns mean what rsync's mean, because every mirror operator knows those:
//! a leading `/` ties a pattern to the root, without it any tail of a path may match;
//! a trailing `/` asks for a folder; `*` and `?` stop at `/`, `**` does not. A folder
//! that matches takes all below it with it.
//!
//! - Invariant: names are bytes; a name that is not UTF-8 can match `*`.
//! - Not here: hidden names (`crate::names`), link targets (never matched at all).
//! - Read first: design.md, "Tree".

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A glob that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is no glob")]
pub struct GlobError {
    /// As it stands in the configuration.
    pub pattern: String,
    /// What the parser says about it.
    #[source]
    pub source: globset::Error,
}

/// A compiled list of globs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globs {
    any: GlobSet,
    folders: GlobSet,
    /// The folders below which every match lies, longest literal start of each pattern.
    starts: Vec<Vec<u8>>,
}

impl Globs {
    /// Compiles `patterns`; an empty list matches nothing.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, GlobError> {
        let mut any = GlobSetBuilder::new();
        let mut folders = GlobSetBuilder::new();
        let mut starts = Vec::new();
        for pattern in patterns {
            let fail = |source| GlobError {
                pattern: pattern.clone(),
                source,
            };
            let text = pattern.strip_suffix("/***").unwrap_or(pattern);
            let bare = text.trim_end_matches('/');
            let only_folders = bare.len() < text.len();
            let anchored = bare.strip_prefix('/');
            let full = anchored.map_or_else(|| format!("**/{bare}"), str::to_owned);
            let glob = GlobBuilder::new(&full)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(fail)?;
            if only_folders {
                folders.add(glob);
            } else {
                any.add(glob);
            }
            starts.push(literal_start(anchored.unwrap_or_default()));
        }
        let all = || patterns.join(", ");
        Ok(Self {
            any: any.build().map_err(|source| GlobError {
                pattern: all(),
                source,
            })?,
            folders: folders.build().map_err(|source| GlobError {
                pattern: all(),
                source,
            })?,
            starts,
        })
    }

    /// Whether there is no pattern at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.any.is_empty() && self.folders.is_empty()
    }

    /// Whether the file `path` itself matches; folders above it are not looked at.
    pub(crate) fn takes_file(&self, path: &[u8]) -> bool {
        self.any.is_match(as_path(path))
    }

    /// Whether the folder `path` itself matches.
    pub(crate) fn takes_folder(&self, path: &[u8]) -> bool {
        let path = as_path(path);
        self.any.is_match(path) || self.folders.is_match(path)
    }

    /// Whether the file `path` or any folder above it matches.
    pub(crate) fn covers_file(&self, path: &[u8]) -> bool {
        !self.is_empty() && (self.takes_file(path) || self.above(path))
    }

    /// The folders below which all matches lie (`""`: anywhere).
    pub(crate) fn starts(&self) -> &[Vec<u8>] {
        &self.starts
    }

    /// Whether a match may lie below the folder `path`.
    pub(crate) fn may_take_below(&self, path: &[u8]) -> bool {
        let is_above = |a: &[u8], b: &[u8]| {
            b.strip_prefix(a)
                .is_some_and(|rest| a.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
        };
        let mut starts = self.starts.iter();
        starts.any(|start| is_above(start, path) || is_above(path, start))
    }

    fn above(&self, path: &[u8]) -> bool {
        let cuts = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(i, _)| i);
        cuts.into_iter()
            .any(|cut| path.get(..cut).is_some_and(|folder| self.takes_folder(folder)))
    }
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// The folders at the start of an anchored pattern that hold no wildcard.
fn literal_start(pattern: &str) -> Vec<u8> {
    let wild = |part: &&str| !part.contains(['*', '?', '[', '{', '\\']);
    let mut parts: Vec<&str> = pattern.split('/').collect();
    parts.pop();
    let literal: Vec<&str> = parts.into_iter().take_while(wild).collect();
    literal.join("/").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(patterns: &[&str]) -> Globs {
        Globs::new(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_leading_slash_ties_a_pattern_to_the_root() {
        let g = globs(&["/pool"]);
        assert!(g.covers_file(b"pool/packages/a"));
        assert!(!g.covers_file(b"core/pool/a"));
        assert!(globs(&["pool"]).covers_file(b"core/pool/a"));
    }

    #[test]
    fn a_star_stops_at_a_slash_and_takes_bytes_that_are_no_text() {
        let g = globs(&["/x86_64/*.lck", "/x86_64/.*"]);
        assert!(g.takes_file(b"x86_64/\xff\xfe.lck"));
        assert!(g.takes_file(b"x86_64/.hidden"));
        assert!(!g.takes_file(b"x86_64/sub/a.lck"));
        assert!(!g.takes_file(b"a.lck"));
    }

    #[test]
    fn a_trailing_slash_asks_for_a_folder() {
        let g = globs(&["logs/"]);
        assert!(!g.takes_file(b"logs"));
        assert!(g.takes_folder(b"logs"));
        assert!(g.covers_file(b"a/logs/x"));
    }

    #[test]
    fn the_literal_start_of_a_pattern_is_known() {
        assert_eq!(
            globs(&["/iso/2026/*.iso", "*.iso"]).starts(),
            [b"iso/2026".to_vec(), Vec::new()]
        );
    }
}
