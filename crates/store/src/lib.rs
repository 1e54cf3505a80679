//! Whole files on disk, blocks as ranges of them.
//!
//! A file is kept once, as it is, immutable, under an internal number; an index says which bytes of it are
//! the block of which CID. So disk use is the size of the files, serving is a plain read, and freeing is an
//! unlink. Blocks that are no range of a file (directories, inner nodes, heads) stand in the index itself.
//! What retained trees and pins refer to stays; the rest is a cache under a hard cap.
//!
//! - Invariant: what a call acknowledged survives a crash; what it did not is there as a whole or not at all.
//! - Invariant: bytes of a file that somebody else may write to are checked, and re-hashed where in doubt,
//!   before any of them leaves.
//! - Not here: network, async, which trees to retain, checking leaves that arrive (the caller has done so).
//! - Read first: `store.rs`, then `index.rs`; what survives a crash and why: `disk.rs`, `partial.rs`.
//!
//! Everything blocks on the disk: async callers go through the disk pool of `pacstore_runtime::Tasks`.
//!
//! Two profiles give one file two roots: it is kept once, and both find it.
//!
//! ```
//! use pacstore_dag::{FileBuilder, Profile};
//! use pacstore_store::{ByOrigin, Intake, NewFile, Options, Origin, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("core.db");
//! std::fs::write(&path, b"hello")?;
//! let mut dag = FileBuilder::new(&Profile::UNIXFS_V1_2025);
//! dag.push(b"hello");
//! let dag = dag.finish();
//! let sha256 = Some(ring::digest::digest(&ring::digest::SHA256, b"hello").as_ref().try_into()?);
//!
//! let store = Store::open(&dir.path().join("store"), Options::new(1 << 30))?;
//! let mut batch = store.batch();
//! let origin = ByOrigin::all(Origin::Disk, 5);
//! batch.add_file(NewFile { path: &path, how: Intake::Copy, dag: &dag, sha256, origin })?;
//! batch.commit()?;
//! assert_eq!(store.block(&dag.root)?.as_deref(), Some(&b"hello"[..]));
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

mod batch;
mod bitmap;
mod body;
mod class;
mod derived;
mod digests;
mod disk;
mod error;
mod files;
mod frozen;
mod fsck;
mod gc;
mod group;
mod handles;
mod index;
mod intake;
mod keys;
mod leaves;
mod nodes;
mod partial;
mod partials;
mod read;
mod record;
mod refs;
mod row;
mod scrub;
mod steps;
mod store;
mod work;

/// Labels that begin so hold the nodes of a tree, but none of its files.
pub const NODES_ONLY: &str = "nodes/";

pub use batch::{Batch, NewFile};
pub use class::Class;
pub use error::{IndexError, OpenError, PartialError, ReadError, WriteError};
pub use fsck::{Damage, FsckProgress, FsckReport};
pub use gc::{GcReport, Reservation};
pub use intake::Intake;
pub use partial::{Partial, Sha256};
pub use read::OpenFile;
pub use record::{ByOrigin, Facts, FileInfo, Origin};
pub use scrub::Scrubbed;
pub use steps::Steps;
pub use store::{Options, Stats, Store, Tuning};
