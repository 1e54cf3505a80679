//! Why a file could not be fetched.
//!
//! - Invariant: each way to go on (another source, without keeping, a mirror) is a variant of its own.
//! - Not here: what pacman is told then (`pacstore-http`).

use std::io;
use std::sync::Arc;

use cid::Cid;
use pacstore_dag as dag;
use url::Url;

use crate::error::StoreError;

/// Why a file could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// No source had it, or none went on giving.
    #[error("no source gives {cid}: {why}")]
    NoSource {
        /// The file's root.
        cid: Cid,
        /// What the last source said.
        why: String,
    },
    /// A mirror has other bytes than the tree says, and nobody else gives it.
    #[error("a mirror has other bytes for {cid} and no other source gives it: {why}")]
    Wrong {
        /// The file's root.
        cid: Cid,
        /// What the last source said.
        why: String,
    },
    /// It does not come from here, or not in time; this mirror may give it.
    #[error("{cid} does not come from here: {why}")]
    Elsewhere {
        /// The file's root, or what stands for it.
        cid: Cid,
        /// Where it may be.
        url: Box<Url>,
        /// What kept it from coming.
        why: Box<str>,
    },
    /// The blocks that say how the file is made up are no file's.
    #[error("the DAG of {cid} is not that of a file")]
    Dag {
        /// The file's root.
        cid: Cid,
        /// What is wrong with it.
        #[source]
        source: Arc<dag::ReadError>,
    },
    /// The disk failed.
    #[error("cannot keep {cid}")]
    Store {
        /// The file's root.
        cid: Cid,
        /// What the store said.
        #[source]
        source: Arc<StoreError>,
    },
    /// Reading back failed.
    #[error("cannot read {cid} back")]
    Read {
        /// The file's root.
        cid: Cid,
        /// What the disk said.
        #[source]
        source: Arc<io::Error>,
    },
    /// A mirror may give it, but not through us in time.
    #[error("the first bytes of {cid} would come too late")]
    Late {
        /// The file's root.
        cid: Cid,
    },
    /// Neighbours want it, too, and it is coming: who asks is to ask again.
    #[error("{cid} is still coming")]
    NotYet {
        /// What stands for it.
        cid: Cid,
        /// How many times it has been asked for then.
        held: u8,
    },
    /// The node is stopping.
    #[error("stopping")]
    Stopping,
}

impl FetchError {
    /// The cap leaves no room now, but could.
    pub(crate) fn is_for_room(&self) -> bool {
        let Self::Store { source, .. } = self else {
            return false;
        };
        source.full().is_some_and(|(needed, max)| needed <= max)
    }

    /// It cannot be kept, but perhaps it can be given.
    pub(crate) fn is_about_keeping(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_about_writing())
    }
}
