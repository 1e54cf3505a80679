//! Content addressing for pacstore: from bytes to CIDs and back.
//!
//! Files become balanced UnixFS DAGs, directories become flat or HAMT-sharded nodes, and both get exactly the
//! CIDs that Kubo and Helia give them under the same [`Profile`]. Everything here is a pure function over
//! bytes, a [`BlockSource`] and a [`BlockSink`].
//!
//! - Invariant: the same content under the same profile has the same root CID, however it was built or edited.
//! - Not here: disk, clock, network, threads, async. Whoever calls brings the blocks.
//! - Read first: `profile.rs`, then `file.rs` and `edit.rs`.
//!
//! ```
//! use std::collections::BTreeMap;
//! use pacstore_dag::{self as dag, Cid, Entry, FileBuilder, Profile};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let profile = &Profile::UNIXFS_V1_2025;
//! let mut file = FileBuilder::new(profile);
//! file.push(b"hello world");
//! let file = file.finish();
//! assert_eq!(file.root.to_string(), "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
//!
//! let mut blocks: BTreeMap<Cid, bytes::Bytes> = BTreeMap::new();
//! let entry = Entry { cid: file.root, tsize: file.tsize };
//! let nothing: BTreeMap<Cid, bytes::Bytes> = BTreeMap::new();
//! let root = dag::edit_directory(profile, None, [(b"hello.txt".to_vec(), Some(entry))], &nothing, &mut blocks)?;
//! assert_eq!(dag::list(&root.cid, &blocks)?, vec![(b"hello.txt".to_vec(), entry)]);
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

pub mod car;
mod chunk;
mod describe;
mod edit;
mod file;
mod flat;
mod hamt;
mod hash;
mod limits;
mod list;
mod name;
mod node;
mod pb;
mod plan;
mod profile;
mod resolve;
mod shard_edit;
mod short;
mod size;
mod source;
mod tree;
mod unixfs;

pub use cid::{Cid, Version};

pub use chunk::{MAX_CHUNK, leaves};
pub use describe::{describe, leaf_data};
pub use edit::{EditError, edit_directory};
pub use file::{FileBuilder, FileDag, LayoutError, Leaf, from_leaves};
pub use hash::{
    DAG_CBOR, DAG_PB, HashKind, Hasher, IDENTITY, LIBP2P_KEY, RAW, VerifyError, cid_from_sha256, cid_of,
    inline_data, raw_cid, verify,
};
pub use limits::{
    MAX_BLOCK, MAX_DIRECTORY_LINKS, MAX_FILE_DEPTH, MAX_FILE_LINKS, MAX_FILE_NODE_BYTES, MAX_LINKS,
    MAX_MISSING, MAX_NAME, MAX_TREE_DEPTH,
};
pub use list::list;
pub use name::NameError;
pub use node::{Kind, Link, kind, links};
pub use plan::{Piece, read_plan};
pub use profile::{Chunker, Over, Parameters, Profile, ProfileError, SizeEstimate, Threshold};
pub use resolve::{Resolved, resolve};
pub use short::ShortCid;
pub use source::{Block, BlockSink, BlockSource, Entry, ReadError, SourceError};
pub use tree::{Change, TreeEdit, edit_tree};

pub use flat::{empty_directory, symlink};
