//! Where blocks come from and go to, and what reading them can say.
//!
//! - Invariant: whoever implements [`BlockSource`] has checked each block against its CID.
//! - Not here: any storage beyond the maps that tests and small tools use.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

use crate::hash::inline_data;
use crate::limits::{MAX_BLOCK, MAX_MISSING};
use crate::pb::Flaw;

/// Bytes under their CID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The name.
    pub cid: Cid,
    /// The bytes.
    pub data: Bytes,
}

/// A link to a file, directory or symlink, as a directory holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Root of what is linked.
    pub cid: Cid,
    /// Bytes of all its blocks, counted once per link ("Tsize").
    pub tsize: u64,
}

/// The failure of whatever holds the blocks.
#[derive(Debug, thiserror::Error)]
#[error("block store failed")]
pub struct SourceError(#[source] Box<dyn Error + Send + Sync>);

impl SourceError {
    /// Wraps the store's own error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }

    /// The store's own error.
    pub fn into_inner(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

/// Gives blocks by CID. What it gives must already be verified.
pub trait BlockSource {
    /// The block, or `None` if it is not here.
    ///
    /// # Errors
    /// [`SourceError`] if the holder cannot say.
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError>;
}

/// Takes new blocks, children before parents.
pub trait BlockSink {
    /// Takes one block.
    ///
    /// # Errors
    /// [`SourceError`] if the holder cannot take it.
    fn put(&mut self, block: Block) -> Result<(), SourceError>;
}

impl<S: BuildHasher> BlockSource for HashMap<Cid, Bytes, S> {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError> {
        Ok(Self::get(self, cid).cloned())
    }
}

impl<S: BuildHasher> BlockSink for HashMap<Cid, Bytes, S> {
    fn put(&mut self, block: Block) -> Result<(), SourceError> {
        self.insert(block.cid, block.data);
        Ok(())
    }
}

impl BlockSource for BTreeMap<Cid, Bytes> {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError> {
        Ok(Self::get(self, cid).cloned())
    }
}

impl BlockSink for BTreeMap<Cid, Bytes> {
    fn put(&mut self, block: Block) -> Result<(), SourceError> {
        self.insert(block.cid, block.data);
        Ok(())
    }
}

impl BlockSink for Vec<Block> {
    fn put(&mut self, block: Block) -> Result<(), SourceError> {
        self.push(block);
        Ok(())
    }
}

/// Holds nothing; for building from nothing.
impl BlockSource for () {
    fn get(&self, _: &Cid) -> Result<Option<Bytes>, SourceError> {
        Ok(None)
    }
}

impl<S: BlockSource + ?Sized> BlockSource for &S {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError> {
        (**self).get(cid)
    }
}

impl<S: BlockSource + ?Sized> BlockSource for Arc<S> {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError> {
        (**self).get(cid)
    }
}

/// Why a DAG could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Blocks are not here. Fetch these, then ask again; there may be more behind them.
    #[error("{} blocks are not here, first {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Missing(Vec<Cid>),
    /// A directory has no entry of that name.
    #[error("segment {segment} of the path does not exist")]
    NotFound {
        /// Which segment of the path, from 0.
        segment: usize,
    },
    /// A path goes on below something that is no directory, or a listing was asked of a file.
    #[error("{cid} at segment {segment} of the path is no directory")]
    NotADirectory {
        /// The file or foreign block.
        cid: Cid,
        /// Which segment of the path was to be looked up in it, from 0.
        segment: usize,
    },
    /// A file was asked for, and this is none.
    #[error("{0} is no file")]
    NotAFile(Cid),
    /// The node breaks the rules of dag-pb, UnixFS or HAMT.
    #[error("malformed node {cid}: {what}")]
    Malformed {
        /// The node.
        cid: Cid,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The DAG is deeper than any honest one.
    #[error("DAG is too deep at {0}")]
    TooDeep(Cid),
    /// The DAG is larger than we are ready to look at.
    #[error("too large at {cid}: {what}")]
    TooLarge {
        /// The node where the limit was reached.
        cid: Cid,
        /// Which limit.
        what: &'static str,
    },
    /// The holder of the blocks failed.
    #[error("cannot read blocks")]
    Source(#[from] SourceError),
}

impl Flaw {
    /// Says which node has the flaw.
    pub(crate) fn at(self, cid: &Cid) -> ReadError {
        ReadError::Malformed {
            cid: *cid,
            what: self.0,
        }
    }
}

/// Gets a block, from the CID itself if it is inline, and checks its length.
pub(crate) fn load(source: &dyn BlockSource, cid: &Cid) -> Result<Option<Bytes>, ReadError> {
    if let Some(data) = inline_data(cid) {
        return Ok(Some(Bytes::copy_from_slice(data)));
    }
    let data = source.get(cid)?;
    if data.as_ref().is_some_and(|data| data.len() > MAX_BLOCK) {
        return Err(ReadError::TooLarge {
            cid: *cid,
            what: "block over 2 MiB",
        });
    }
    Ok(data)
}

/// As [`load`], for callers that cannot go on without the block.
pub(crate) fn require(source: &dyn BlockSource, cid: &Cid) -> Result<Bytes, ReadError> {
    load(source, cid)?.ok_or_else(|| ReadError::Missing(vec![*cid]))
}

/// The blocks found missing in one pass; each once.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    order: Vec<Cid>,
    seen: std::collections::HashSet<Cid>,
}

impl Missing {
    /// Notes one; `true` when no more should be looked for.
    pub(crate) fn add(&mut self, cid: &Cid) -> bool {
        if self.seen.insert(*cid) {
            self.order.push(*cid);
        }
        self.order.len() >= MAX_MISSING
    }

    /// An error if anything is missing.
    pub(crate) fn check(self) -> Result<(), ReadError> {
        if self.order.is_empty() {
            Ok(())
        } else {
            Err(ReadError::Missing(self.order))
        }
    }
}
