//! Where an upstream's file lies in the tree: the layouts `plain` and `archlinux`.
//!
//! - Invariant: a mapping is a pure function of the layout and of the repositories found.
//! - Not here: which files are taken at all (`crate::work`).
//! - Read first: design.md, "Tree".

use std::collections::BTreeSet;

use crate::names;

/// How the tree's paths come from the upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// The upstream's paths as they are.
    #[default]
    Plain,
    /// `R/F` is the upstream's `R/os/x86_64/F` for each R with `R/os/x86_64/R.db`; all else as it is.
    Archlinux,
}

/// The folder below `R` that layout `archlinux` leaves out.
pub(crate) const ARCHLINUX: &[u8] = b"/os/x86_64";

impl Layout {
    /// The name in configuration and head.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Archlinux => "archlinux",
        }
    }

    /// The upstream folder of a repository that is given by its bare name.
    pub(crate) fn folder_of(self, repo: &str) -> Vec<u8> {
        match self {
            Self::Plain => Vec::new(),
            Self::Archlinux => [repo.as_bytes(), ARCHLINUX].concat(),
        }
    }
}

/// The layout applied to the repositories that were found.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    /// The repositories whose files move up.
    moved: BTreeSet<Vec<u8>>,
}

/// A path in the tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Without a slash at either end.
    pub(crate) path: Vec<u8>,
    /// Whether the layout moved it; such a name wins against one that merely stood there.
    pub(crate) moved: bool,
}

impl Mapping {
    /// A mapping for `repositories`, each an upstream folder and a name.
    pub(crate) fn new<'a>(layout: Layout, repositories: impl Iterator<Item = (&'a [u8], &'a str)>) -> Self {
        let moves = |(folder, name): &(&[u8], &str)| layout.folder_of(name) == *folder;
        let moved = match layout {
            Layout::Plain => BTreeSet::new(),
            Layout::Archlinux => repositories.filter(moves).map(|(_, name)| name.into()).collect(),
        };
        Self { moved }
    }

    /// Where the upstream's file or folder `path` lies in the tree.
    pub(crate) fn to_tree(&self, path: &[u8]) -> Mapped {
        let first = path.split(|b| *b == b'/').next().unwrap_or_default();
        if self.moved.contains(first) {
            let rest = path
                .get(first.len()..)
                .and_then(|rest| rest.strip_prefix(ARCHLINUX));
            match rest {
                Some([]) => {
                    return Mapped {
                        path: first.to_vec(),
                        moved: true,
                    };
                }
                Some([b'/', rest @ ..]) => {
                    return Mapped {
                        path: names::join(first, rest),
                        moved: true,
                    };
                }
                _ => {}
            }
        }
        Mapped {
            path: path.to_vec(),
            moved: false,
        }
    }

    /// Whether `folder` exists upstream only to hold what the layout moves away (`R/os`).
    pub(crate) fn is_passage(&self, folder: &[u8]) -> bool {
        let (above, last) = names::split(folder);
        last == b"os" && self.moved.contains(above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archlinux_moves_the_files_of_its_repositories_up() {
        let repos: [(&[u8], &str); 2] = [(b"core/os/x86_64", "core"), (b"iso/latest", "iso")];
        let m = Mapping::new(Layout::Archlinux, repos.into_iter());
        assert_eq!(m.to_tree(b"core/os/x86_64/core.db").path, b"core/core.db");
        assert_eq!(m.to_tree(b"core/os/x86_64").path, b"core");
        assert_eq!(
            m.to_tree(b"core/os/x86_64_v3/core.db").path,
            b"core/os/x86_64_v3/core.db"
        );
        assert_eq!(m.to_tree(b"iso/latest/iso.db").path, b"iso/latest/iso.db");
        assert!(m.is_passage(b"core/os") && !m.is_passage(b"iso/os"));
    }

    #[test]
    fn plain_moves_nothing() {
        let repos: [(&[u8], &str); 1] = [(b"core/os/x86_64", "core")];
        let m = Mapping::new(Layout::Plain, repos.into_iter());
        assert_eq!(
            m.to_tree(b"core/os/x86_64/core.db").path,
            b"core/os/x86_64/core.db"
        );
    }
}
