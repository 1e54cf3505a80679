//! How much of a stranger's DAG we are ready to look at.
//!
//! Every loop over foreign nodes ends at one of these numbers, so a hostile DAG costs a bounded
//! amount of time and memory and ends in an error.
//!
//! - Invariant: each limit lies far above what a real mirror holds and what we write ourselves.
//! - Not here: the checks themselves; each stands where the nodes are read.

/// The largest block in bytes that is taken, sent, or written: 2 MiB, as Bitswap peers agree on.
pub const MAX_BLOCK: usize = 2 * 1024 * 1024;

/// The most links that one node may have. A 2 MiB node of ordinary links holds about 45,000.
pub const MAX_LINKS: usize = 1 << 16;

/// The most links that the nodes of one file may have together; with 1 MiB leaves this is a file of 1 TiB.
pub const MAX_FILE_LINKS: usize = 1 << 20;

/// The deepest file DAG. A balanced one needs 5 levels for a TiB; trickle DAGs go a little deeper.
pub const MAX_FILE_DEPTH: usize = 32;

/// The most bytes of inner nodes and dag-pb leaves that [`crate::describe`] holds for one file: 256 MiB.
pub const MAX_FILE_NODE_BYTES: usize = 256 * 1024 * 1024;

/// The most links, entries and shards together, that are read of one directory.
pub const MAX_DIRECTORY_LINKS: usize = 1 << 20;

/// The most CIDs that one [`crate::ReadError::Missing`] names; ask again once these are here.
pub const MAX_MISSING: usize = 4096;

/// The longest name in bytes that is written into a directory: `NAME_MAX` of Linux.
pub const MAX_NAME: usize = 255;

/// The most segments in a path of a tree that is edited.
pub const MAX_TREE_DEPTH: usize = 128;
