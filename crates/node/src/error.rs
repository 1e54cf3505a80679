//! What the store can say to us, in one type.

use std::io;

use cid::Cid;
use pacstore_store::{IndexError, PartialError, ReadError, WriteError};

/// Why something could not be read from or kept in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The index.
    #[error("the index of the store cannot be read")]
    Index(#[from] IndexError),
    /// A file or block.
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
    /// Writing.
    #[error("the store cannot be written")]
    Write(#[from] WriteError),
    /// A file on its way in.
    #[error("a file on its way in cannot be kept")]
    Partial(#[from] PartialError),
    /// What the store remembers for us is damaged.
    #[error("what the store remembers under `{0}` is damaged")]
    State(String),
    /// A file cannot be read or written.
    #[error("cannot read or write {0} on the disk")]
    Disk(Cid, #[source] io::Error),
    /// The node is stopping.
    #[error("stopping")]
    Stopping,
}

impl StoreError {
    /// Bytes that did not fit under the cap, and the cap.
    pub(crate) fn full(&self) -> Option<(u64, u64)> {
        match self {
            Self::Write(WriteError::Full { needed, max })
            | Self::Partial(PartialError::Write(WriteError::Full { needed, max })) => Some((*needed, *max)),
            _ => None,
        }
    }

    /// Something could not be written: the cap, the disk, its rights.
    pub(crate) fn is_about_writing(&self) -> bool {
        match self {
            Self::Write(_) => true,
            Self::Partial(error) => matches!(error, PartialError::Write(_)),
            _ => false,
        }
    }

    /// One sentence on what to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Write(error) => error.hint(),
            Self::State(_) => Some("run `pacstore fsck`"),
            _ => None,
        }
    }
}
