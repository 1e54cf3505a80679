//! Why a round, or a part of it, failed.
//!
//! - Invariant: a full disk is told apart wherever it is met.
//! - Not here: torn repositories of a round that moved others (`crate::trouble`).

use std::io;
use std::path::PathBuf;

use pacstore_dag::EditError;
use pacstore_runtime::{DeadlineExceeded, Stopped};
use pacstore_store::{IndexError, ReadError, WriteError};
use pacstore_upstream::{FetchError, HttpError, RsyncError};

use crate::keyring::KeyringReadError;
use crate::manifest::ManifestError;
use crate::scan::ScanError;
use crate::spec::{Source, SpecError};
use crate::state::RepoFacts;

/// Why a round gave no tree.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The configuration cannot be imported.
    #[error("the import is not configured right")]
    Spec(#[from] SpecError),
    /// No source could be read.
    #[error("no source of `{mirror}` could be read")]
    NoSource {
        /// Which mirror.
        mirror: String,
        /// Each source and what happened, in the order of trying.
        attempts: Vec<(Source, SourceError)>,
    },
    /// `files = "listed"`, but there is no database.
    #[error("`{source_shown}` has no database of a repository")]
    NoDatabase {
        /// Where was looked.
        source_shown: String,
    },
    /// `files = "all"`, and all that the tree has, or each of its repositories, is gone at once.
    #[error("`{source_shown}` has nothing left of what is published")]
    Emptied {
        /// Where was looked.
        source_shown: String,
    },
    /// Nothing is whole, and there is no earlier tree.
    #[error("no repository of `{mirror}` is whole")]
    Torn {
        /// Which mirror.
        mirror: String,
        /// All of its repositories, with what is wrong.
        repositories: Vec<RepoFacts>,
    },
    /// The keys to check signatures with. Nothing is published unchecked.
    #[error("the keyring cannot be used")]
    Keyring(#[from] KeyringReadError),
    /// Files could not be taken into the store.
    #[error("files could not be taken into the store")]
    Intake(#[from] IntakeError),
    /// The importer's own folder.
    #[error("cannot use `{}`", .0.display())]
    WorkDir(PathBuf, #[source] io::Error),
    /// What was taken in is not in the store any more.
    #[error("{0} files vanished from the store while the tree was built")]
    Lost(usize),
}

impl RoundError {
    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Spec(e) => e.hint(),
            Self::NoSource { attempts, .. } => attempts.iter().find_map(|(_, e)| e.hint()),
            Self::NoDatabase { .. } => Some(
                "check that `from` leads to the mirror's root, and `layout`; over HTTP name them in `repositories` where \
                     a page stands in the place of listings; or use `files = \"all\"`",
            ),
            Self::Emptied { .. } => Some(
                "a disk that is not mounted looks like this; if it is meant, `pacstore import NAME --accept`",
            ),
            Self::Torn { .. } => Some("the upstream may be mid-sync; wait, or list another one first"),
            Self::Keyring(e) => e.hint(),
            Self::Intake(e) => e.hint(),
            Self::WorkDir(_, e) if is_full(e) => Some("make room on the disk"),
            Self::WorkDir(..) => None,
            Self::Lost(_) => Some("raise `store.max_size`"),
        }
    }

    /// Whether a disk of ours is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Intake(e) => e.is_disk_full(),
            Self::WorkDir(_, e) => is_full(e),
            Self::NoSource { attempts, .. } => attempts.iter().any(|(_, e)| e.is_disk_full()),
            _ => false,
        }
    }
}

/// Why one source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A directory, or our own copy of an rsync module.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// An HTTP request that is not for a single file.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A file over HTTP.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The rsync child.
    #[error(transparent)]
    Rsync(#[from] RsyncError),
    /// It took too long in all.
    #[error(transparent)]
    Deadline(#[from] DeadlineExceeded),
    /// Over HTTP without listings the repositories must be named.
    #[error("`{0}` gives no listing, so its repositories cannot be found")]
    NoListing(String),
    /// Repositories could be in what was not looked at.
    #[error("`{0}` has more than {1} folders to look for repositories in")]
    TooManyFolders(String, usize),
    /// The same, or its links lead back and forth.
    #[error("`{0}` has folders in folders, more than {1} deep")]
    TooDeep(String, usize),
    /// What is published is newer than what this source has, while there are others.
    #[error("it is behind what is published: {sign}")]
    Older {
        /// By what that is seen.
        sign: String,
    },
    /// Our own side.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The importer's own folder.
    #[error("cannot use `{}`", .0.display())]
    WorkDir(PathBuf, #[source] io::Error),
    /// The importer's memory.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store.
    #[error(transparent)]
    Store(#[from] IndexError),
}

impl SourceError {
    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Http(e) | Self::Fetch(FetchError::Http(e)) => e.hint(),
            Self::Older { .. } => Some(
                "wait until it has caught up (at most a day, half an hour where all upstreams are behind), or take it with \
                 `pacstore import NAME --accept`",
            ),
            Self::NoListing(_) => Some("name them: `repositories = [\"core/os/x86_64/core\"]`"),
            Self::TooManyFolders(..) | Self::TooDeep(..) => Some(
                "leave folders out by `exclude`, or name its repositories: `repositories = [\"core/os/x86_64/core\"]`",
            ),
            Self::Deadline(_) => Some("the mirror may be too slow; list another one first"),
            Self::Scan(ScanError::Read(_, e)) if e.kind() == io::ErrorKind::NotFound => {
                Some("check the directory in `from`")
            }
            Self::Scan(ScanError::Read(_, e)) if e.kind() == io::ErrorKind::PermissionDenied => {
                Some("let the daemon's user read it")
            }
            _ if self.is_disk_full() => Some("make room on the disk"),
            Self::Rsync(e) => e.hint(),
            _ => None,
        }
    }

    /// Whether a disk of ours is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Fetch(e) => e.is_disk_full(),
            Self::Rsync(e) => e.is_disk_full(),
            Self::WorkDir(_, e) => is_full(e),
            _ => false,
        }
    }

    /// Whether this is our own end, not the source's fault: another source would not help.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Stopped(_)
                | Self::WorkDir(..)
                | Self::Manifest(_)
                | Self::Store(_)
                | Self::Scan(ScanError::Stopped(_))
                | Self::Fetch(FetchError::Stopped(_) | FetchError::Disk { .. })
        )
    }
}

/// Why files did not come into the store.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The source's disk failed.
    #[error("cannot read `{0}`")]
    Read(String, #[source] io::Error),
    /// The disk is full.
    #[error("no room on the disk of `{}`", .0.display())]
    DiskFull(PathBuf),
    /// The disk refused.
    #[error("cannot write `{}`", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] WriteError),
    /// The store cannot be read.
    #[error(transparent)]
    StoreRead(#[from] ReadError),
    /// The store's index cannot be read.
    #[error(transparent)]
    StoreIndex(#[from] IndexError),
    /// The directories of the tree.
    #[error("the tree cannot be built")]
    Tree(#[from] EditError),
    /// The importer's memory.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// We are stopping.
    #[error("the import was stopped")]
    Stopped,
    /// The pools are closed, or work in them panicked.
    #[error(transparent)]
    Pool(#[from] Stopped),
}

impl IntakeError {
    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(e) => e.hint(),
            Self::Manifest(e) => e.hint(),
            Self::DiskFull(_) => Some("make room on the disk, or run `pacstore gc`"),
            _ => None,
        }
    }

    /// Whether a disk of ours is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull(_) | Self::Store(WriteError::StorageFull(_)))
    }
}

/// Whether an error says that a disk, or a user's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
