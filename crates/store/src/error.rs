//! Why the store could not do a thing: one enum for opening, reading, writing and partial files.
//!
//! - Invariant: a full disk is always `StorageFull`, wherever it was met, and a full cache is always `Full`.
//! - Invariant: after any error the store is as it was before the call, or as it is after a crash: consistent.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cid::Cid;

/// The index refused or failed. Shared by all who waited for the same transaction.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the index of the store failed")]
pub struct IndexError(#[source] Arc<redb::Error>);

impl IndexError {
    /// True if the disk that holds the index has no room.
    pub fn is_storage_full(&self) -> bool {
        matches!(&*self.0, redb::Error::Io(error) if is_full(error))
    }

    /// True if the system does not let us write the disk that holds the index: no sign of a damage.
    pub fn is_refused(&self) -> bool {
        let refused = |kind| {
            matches!(
                kind,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            )
        };
        matches!(&*self.0, redb::Error::Io(error) if refused(error.kind()))
    }

    /// True if the database must be opened anew before it can be used again.
    pub(crate) fn needs_reopen(&self) -> bool {
        matches!(
            &*self.0,
            redb::Error::Io(_)
                | redb::Error::PreviousIo
                | redb::Error::DatabaseClosed
                | redb::Error::LockPoisoned(_)
                | redb::Error::Backend(_)
        )
    }

    pub(crate) fn closed() -> Self {
        Self(Arc::new(redb::Error::DatabaseClosed))
    }

    pub(crate) fn malformed(what: &'static str) -> Self {
        Self(Arc::new(redb::Error::Corrupted(what.to_owned())))
    }
}

macro_rules! from_redb {
    ($($from:ty),*) => {$(
        impl From<$from> for IndexError {
            fn from(error: $from) -> Self {
                Self(Arc::new(error.into()))
            }
        }
    )*};
}
from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(redb::Error::Io(error)))
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has the store open.
    #[error("`{}` is in use by {holder}", .dir.display())]
    Locked {
        /// The store's folder.
        dir: PathBuf,
        /// Process id and command of who holds it, as it wrote them.
        holder: String,
    },
    /// The store was written by a version whose format this one does not know.
    #[error("`{}` has store format `{found}`, this version knows `{known}`", .dir.display())]
    Format {
        /// The store's folder.
        dir: PathBuf,
        /// What the store says.
        found: String,
        /// What this version reads and writes.
        known: u32,
    },
    /// A file or folder of the store could not be read or made.
    #[error("cannot open `{}`", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The index could not be opened.
    #[error("cannot open the index of the store")]
    Index(#[from] IndexError),
}

impl OpenError {
    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Locked { .. } => Some("stop that process, or let the command go through its daemon"),
            Self::Format { .. } => Some(
                "use the version that wrote the store, or give it another folder; if its file `format` is damaged, write the line `pacstore store 1` into it",
            ),
            Self::File(_, error) if is_full(error) => Some("make room on the disk of the store"),
            Self::Index(error) if error.is_storage_full() => Some("make room on the disk of the store"),
            Self::Index(error) if error.is_refused() => Some(
                "the store must be writable for who runs the daemon: see its owner, and whether its file system is read-only",
            ),
            Self::Index(_) => Some(
                "if it is damaged, move the store (`store.dir`; by default `store` in the state directory) away: what it held comes again from mirrors and peers, and keys lie elsewhere",
            ),
            Self::File(..) => None,
        }
    }
}

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file that the store shares was changed by somebody else; it is no longer in the index.
    #[error("`{}` was changed by somebody else", .0.display())]
    Changed(PathBuf),
    /// A file could not be read, although it is in the index.
    #[error("cannot read `{}`", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Why something could not be taken in, retained or removed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The cap on evictable bytes leaves no room, even after everything evictable went.
    #[error("{needed} bytes do not fit under the store's cap of {max} bytes")]
    Full {
        /// How many bytes were asked for.
        needed: u64,
        /// `max_size` of the store.
        max: u64,
    },
    /// The disk has no room.
    #[error("no room on the disk of `{}`", .0.display())]
    StorageFull(PathBuf),
    /// The file to take in could not be read.
    #[error("cannot read `{}`", .0.display())]
    Source(PathBuf, #[source] io::Error),
    /// The file to take in is not what it was when it was hashed.
    #[error("`{}` changed while it was taken in", .0.display())]
    SourceChanged(PathBuf),
    /// A file of the store could not be written.
    #[error("cannot write `{}`", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// The CID's hash or codec is none that the store keeps.
    #[error("the store keeps no blocks like {0}")]
    Unsupported(Cid),
    /// The block is larger than any that goes over the network.
    #[error("block {cid} has {len} bytes, more than a block may have")]
    BlockSize {
        /// The block.
        cid: Cid,
        /// Its length in bytes.
        len: usize,
    },
    /// The leaves of a file do not cover it, or its nodes are missing.
    #[error("the layout of {root} is wrong: {what}")]
    Layout {
        /// Root of the file.
        root: Cid,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A label or key that the store cannot keep: empty, or longer than 4096 bytes.
    #[error("a label of {0} bytes is too long or empty")]
    Label(usize),
    /// The index failed.
    #[error(transparent)]
    Index(IndexError),
}

impl From<IndexError> for WriteError {
    fn from(error: IndexError) -> Self {
        if error.is_storage_full() {
            Self::StorageFull(PathBuf::from("index"))
        } else {
            Self::Index(error)
        }
    }
}

impl WriteError {
    /// The error of writing `path`: a full disk is told apart.
    pub(crate) fn file(path: &Path, error: io::Error) -> Self {
        if is_full(&error) {
            Self::StorageFull(path.to_owned())
        } else {
            Self::File(path.to_owned(), error)
        }
    }

    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Full { .. } => Some("raise `store.max_size`"),
            Self::StorageFull(_) => Some("make room on the disk, or run `pacstore gc`"),
            _ => None,
        }
    }
}

/// Why a partial file could not be written or finished.
#[derive(Debug, thiserror::Error)]
pub enum PartialError {
    /// There is no such leaf.
    #[error("leaf {index} of a file with {count} leaves")]
    NoSuchLeaf {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The leaf is not here yet.
    #[error("leaf {0} is not here yet")]
    Missing(usize),
    /// The bytes do not have the leaf's length.
    #[error("leaf {index} has {expected} bytes, got {found}")]
    Length {
        /// Which leaf.
        index: usize,
        /// Its length in bytes.
        expected: u64,
        /// The length of what was given, in bytes.
        found: u64,
    },
    /// Leaves are missing.
    #[error("{0} leaves are missing")]
    Incomplete(usize),
    /// The whole file has another SHA-256 than it should have; the partial file stays as it is.
    #[error("the finished file has SHA-256 {}, expected {}", Hex(.found), Hex(.expected))]
    Sha256 {
        /// What the caller expected.
        expected: [u8; 32],
        /// What the bytes have.
        found: [u8; 32],
    },
    /// The partial file was finished or discarded meanwhile.
    #[error("the partial file is gone")]
    Gone,
    /// Reading or writing failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Lower-case hexadecimal.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// True for the errors that say that a disk, or a user's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
