//! Reads the inner nodes of a file that somebody published, whatever its width, depth or leaf form.
//!
//! - Invariant: in the answer the leaves touch and cover the file, and each inner node agrees with its children.
//! - Not here: the bytes of raw leaves; whoever fetches one checks its CID and its length.
//! - Read first: `file.rs` for [`FileDag`], `limits.rs` for what a hostile DAG can cost.

use std::collections::HashMap;

use bytes::Bytes;
use cid::Cid;

use crate::file::{FileDag, Leaf};
use crate::hash::{DAG_PB, RAW, inline_data};
use crate::limits::{MAX_BLOCK, MAX_FILE_DEPTH, MAX_FILE_LINKS, MAX_FILE_NODE_BYTES};
use crate::node::RawNode;
use crate::pb::Flaw;
use crate::source::{Block, BlockSource, Missing, ReadError, load, require};
use crate::unixfs::{DataType, UnixFs};

/// Reads the DAG of a file: where each leaf lies, and the nodes above them.
///
/// Needs every dag-pb node of the file to be here, no raw leaf (save a root that is one, whose length
/// nothing else tells). Bytes inside inner nodes and dag-pb leaves appear as leaves under the node's CID;
/// [`leaf_data`] gets them out.
///
/// # Errors
/// [`ReadError::Missing`] names the blocks to fetch before calling again. [`ReadError::Malformed`] where a
/// node contradicts its parent, its children or itself; [`ReadError::TooDeep`] and [`ReadError::TooLarge`]
/// beyond the limits of this crate; [`ReadError::NotAFile`] for directories, symlinks and other codecs.
pub fn describe(root: &Cid, source: &dyn BlockSource) -> Result<FileDag, ReadError> {
    match root.codec() {
        RAW => {
            let len = require(source, root)?.len() as u64;
            let leaves = vec![Leaf {
                cid: *root,
                offset: 0,
                len,
            }];
            Ok(FileDag {
                root: *root,
                len,
                tsize: len,
                leaves,
                nodes: Vec::new(),
            })
        }
        DAG_PB => Reader::new(source).read(root),
        _ => Err(ReadError::NotAFile(*root)),
    }
}

/// The bytes of the file that a block holds: all of a raw one, the inline data of a dag-pb node.
///
/// # Errors
/// [`ReadError::Malformed`] if a dag-pb block is no node, [`ReadError::NotAFile`] if it is none of a file.
pub fn leaf_data(cid: &Cid, block: &Bytes) -> Result<Bytes, ReadError> {
    match cid.codec() {
        RAW => Ok(block.clone()),
        DAG_PB => {
            let node = RawNode::decode(block).map_err(|flaw| flaw.at(cid))?;
            let unixfs = file_message(&node, cid)?;
            Ok(block.slice_ref(unixfs.data))
        }
        _ => Err(ReadError::NotAFile(*cid)),
    }
}

fn file_message<'a>(node: &RawNode<'a>, cid: &Cid) -> Result<UnixFs<'a>, ReadError> {
    let unixfs = node.unixfs().map_err(|flaw| flaw.at(cid))?;
    match unixfs.kind {
        DataType::File | DataType::Raw => Ok(unixfs),
        _ => Err(ReadError::NotAFile(*cid)),
    }
}

/// A child still to be read.
struct Todo {
    cid: Cid,
    /// What the parent says of its length; `None` for the root.
    claimed: Option<u64>,
    depth: usize,
}

struct Reader<'s> {
    source: &'s dyn BlockSource,
    stack: Vec<Todo>,
    missing: Missing,
    file_len: u64,
    offset: u64,
    tsize: u64,
    links: usize,
    node_bytes: usize,
    leaves: Vec<Leaf>,
    /// Parents before children while reading, turned round at the end.
    nodes: Vec<Block>,
    /// The same, by their CIDs: a node that stands in many places is got once.
    seen: HashMap<Cid, Bytes>,
}

impl<'s> Reader<'s> {
    fn new(source: &'s dyn BlockSource) -> Self {
        Self {
            source,
            stack: Vec::new(),
            missing: Missing::default(),
            file_len: 0,
            offset: 0,
            tsize: 0,
            links: 0,
            node_bytes: 0,
            leaves: Vec::new(),
            nodes: Vec::new(),
            seen: HashMap::new(),
        }
    }

    fn read(mut self, root: &Cid) -> Result<FileDag, ReadError> {
        self.stack.push(Todo {
            cid: *root,
            claimed: None,
            depth: 0,
        });
        while let Some(todo) = self.stack.pop() {
            let full = match (todo.cid.codec(), todo.claimed) {
                (RAW, Some(len)) => self.raw_leaf(&todo.cid, len)?,
                (DAG_PB, _) => self.node(&todo)?,
                _ => return Err(Flaw("child of a file is neither raw nor dag-pb").at(&todo.cid)),
            };
            if full {
                break;
            }
        }
        self.missing.check()?;
        self.nodes.reverse();
        Ok(FileDag {
            root: *root,
            len: self.file_len,
            tsize: self.tsize,
            leaves: self.leaves,
            nodes: self.nodes,
        })
    }

    fn raw_leaf(&mut self, cid: &Cid, len: u64) -> Result<bool, ReadError> {
        if len > MAX_BLOCK as u64 {
            return Err(Flaw("raw leaf over 2 MiB").at(cid));
        }
        if inline_data(cid).is_some_and(|data| data.len() as u64 != len) {
            return Err(Flaw("leaf is not as long as its parent says").at(cid));
        }
        self.push_leaf(cid, len, len);
        Ok(false)
    }

    fn push_leaf(&mut self, cid: &Cid, len: u64, block_len: u64) {
        self.leaves.push(Leaf {
            cid: *cid,
            offset: self.offset,
            len,
        });
        self.offset = self.offset.saturating_add(len);
        self.tsize = self.tsize.saturating_add(block_len);
    }

    /// Reads one dag-pb node; `true` when enough blocks are known to be missing.
    fn node(&mut self, todo: &Todo) -> Result<bool, ReadError> {
        let cid = &todo.cid;
        if todo.depth > MAX_FILE_DEPTH {
            return Err(ReadError::TooDeep(*cid));
        }
        let known = self.seen.get(cid).cloned();
        let Some(block) = known.map_or_else(|| load(self.source, cid), |block| Ok(Some(block)))? else {
            return Ok(self.missing.add(cid));
        };
        let node = RawNode::decode(&block).map_err(|flaw| flaw.at(cid))?;
        let unixfs = file_message(&node, cid)?;
        let len = unixfs
            .checked_len(node.links.len())
            .map_err(|flaw| flaw.at(cid))?;
        match todo.claimed {
            // No file of so many links can be so long: said at once, not after all of them were read.
            None if len > MAX_FILE_LINKS as u64 * MAX_BLOCK as u64 => {
                let what = "file longer than its links can hold";
                return Err(ReadError::TooLarge { cid: *cid, what });
            }
            None => self.file_len = len,
            Some(claimed) if claimed != len => {
                return Err(Flaw("child is not as long as its parent says").at(cid));
            }
            Some(_) => {}
        }
        self.links += node.links.len();
        if self.links > MAX_FILE_LINKS {
            return Err(ReadError::TooLarge {
                cid: *cid,
                what: "file of too many links",
            });
        }
        if unixfs.data.is_empty() && !node.links.is_empty() {
            self.tsize = self.tsize.saturating_add(block.len() as u64);
        } else {
            self.push_leaf(cid, unixfs.data.len() as u64, block.len() as u64);
        }
        for (link, &claimed) in node.links.iter().zip(&unixfs.block_sizes).rev() {
            let cid = link.parse_cid().map_err(|flaw| flaw.at(cid))?;
            self.stack.push(Todo {
                cid,
                claimed: Some(claimed),
                depth: todo.depth + 1,
            });
        }
        self.keep(*cid, block)?;
        Ok(false)
    }

    fn keep(&mut self, cid: Cid, data: Bytes) -> Result<(), ReadError> {
        if inline_data(&cid).is_some() || self.seen.insert(cid, data.clone()).is_some() {
            return Ok(());
        }
        self.node_bytes += data.len();
        if self.node_bytes > MAX_FILE_NODE_BYTES {
            return Err(ReadError::TooLarge {
                cid,
                what: "file with too many bytes in nodes",
            });
        }
        self.nodes.push(Block { cid, data });
        Ok(())
    }
}
