//! Files as balanced DAGs: bytes or leaves in, nodes and root CID out.
//!
//! All leaves hang at the same depth; each level groups the one below by the profile's width, so a lone
//! trailing leaf still gets its own node.
//!
//! - Invariant: root and nodes depend on the bytes and the profile only, not on how the bytes arrived.
//! - Not here: where files are cut (`crate::chunk`), reading DAGs of others (`crate::describe`).
//! - Read first: boxo `ipld/unixfs/importer/balanced/builder.go`. Pinned by `tests/it/vectors.rs`.

use bytes::Bytes;
use cid::Cid;

use crate::chunk::{BUZHASH_MAX, MAX_CHUNK, buzhash_cut};
use crate::hash::{DAG_PB, Hasher, RAW, cid_from_digest, raw_cid};
use crate::node::{CidRef, link_len, write_data, write_link};
use crate::pb::varint_len;
use crate::profile::{Chunker, Profile};
use crate::source::Block;
use crate::unixfs;

/// One piece of a file, as one block holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The block: raw, or a dag-pb node that [`crate::leaf_data`] unwraps.
    pub cid: Cid,
    /// Where the piece begins in the file, in bytes.
    pub offset: u64,
    /// How many bytes of the file it holds.
    pub len: u64,
}

impl Leaf {
    /// Whether the block is nothing but the bytes of the file.
    pub fn is_raw(&self) -> bool {
        self.cid.codec() == RAW
    }
}

/// The DAG of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDag {
    /// The CID of the file.
    pub root: Cid,
    /// Length of the file in bytes.
    pub len: u64,
    /// Bytes of all blocks, counted once per link.
    pub tsize: u64,
    /// The leaves in file order; they touch and cover the file. An empty file has one empty leaf.
    pub leaves: Vec<Leaf>,
    /// Inner nodes, and leaves that are dag-pb; children before parents, each once. Empty for a file of one
    /// raw leaf, which is its own root.
    pub nodes: Vec<Block>,
}

/// Why leaves make no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The chunk size is 0 or above [`MAX_CHUNK`].
    #[error("chunks of {0} bytes are not possible, at most {MAX_CHUNK} are")]
    ChunkSize(u64),
    /// There is no leaf at all; an empty file has one.
    #[error("file without leaves")]
    NoLeaves,
    /// This leaf has a length that the profile's chunker does not give.
    #[error("leaf {index} of {len} bytes does not fit the profile's chunker")]
    LeafLength {
        /// Which leaf, from 0.
        index: usize,
        /// Its length in bytes.
        len: u64,
    },
}

/// Builds a file's DAG from bytes that arrive in any pieces.
///
/// Holds at most one chunk and the leaves' CIDs; with dag-pb leaves, which are nodes of the result, all of them.
#[derive(Debug)]
pub struct FileBuilder {
    profile: Profile,
    cutter: Cutter,
    leaves: Vec<(Cid, u64)>,
    nodes: Vec<Block>,
}

#[derive(Debug)]
enum Cutter {
    /// Fixed raw leaves: nothing is buffered, the hash runs along.
    Running {
        chunk: u64,
        hasher: Option<Hasher>,
        filled: u64,
    },
    /// Fixed dag-pb leaves: the length stands before the bytes.
    Buffered { chunk: usize, buffer: Vec<u8> },
    /// A cut is known only once the longest chunk is there.
    Buzhash { buffer: Vec<u8> },
}

impl FileBuilder {
    /// Starts a file of no bytes.
    pub fn new(profile: &Profile) -> Self {
        let cutter = match profile.parameters().chunker {
            Chunker::Fixed(chunk) if profile.parameters().raw_leaves => Cutter::Running {
                chunk,
                hasher: None,
                filled: 0,
            },
            Chunker::Fixed(chunk) => Cutter::Buffered {
                chunk: chunk as usize,
                buffer: Vec::new(),
            },
            Chunker::Buzhash => Cutter::Buzhash { buffer: Vec::new() },
        };
        Self {
            profile: *profile,
            cutter,
            leaves: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let taken = match self.cutter {
                Cutter::Running { .. } => self.push_running(data),
                Cutter::Buffered { .. } => self.push_buffered(data),
                Cutter::Buzhash { .. } => self.push_buzhash(data),
            };
            data = &data[taken..];
        }
    }

    /// Ends the file.
    pub fn finish(mut self) -> FileDag {
        self.flush();
        layout(&self.profile, self.leaves, self.nodes)
    }

    fn push_running(&mut self, data: &[u8]) -> usize {
        let hash = self.profile.parameters().hash;
        let Cutter::Running {
            chunk,
            hasher,
            filled,
        } = &mut self.cutter
        else {
            return data.len();
        };
        let taken = data.len().min((*chunk - *filled) as usize);
        let piece = &data[..taken];
        hasher.get_or_insert_with(|| Hasher::new(hash)).update(piece);
        *filled += taken as u64;
        if filled == chunk
            && let Some(hasher) = hasher.take()
        {
            let len = std::mem::take(filled);
            self.leaves
                .push((cid_from_digest(RAW, hash, hasher.finish()), len));
        }
        taken
    }

    fn push_buffered(&mut self, data: &[u8]) -> usize {
        let Cutter::Buffered { chunk, buffer } = &mut self.cutter else {
            return data.len();
        };
        if buffer.is_empty() && data.len() >= *chunk {
            let chunk = *chunk;
            self.leaf(&data[..chunk]);
            return chunk;
        }
        let taken = data.len().min(*chunk - buffer.len());
        buffer.extend_from_slice(&data[..taken]);
        if buffer.len() == *chunk {
            let mut full = std::mem::take(buffer);
            self.leaf(&full);
            full.clear();
            if let Cutter::Buffered { buffer, .. } = &mut self.cutter {
                *buffer = full;
            }
        }
        taken
    }

    fn push_buzhash(&mut self, data: &[u8]) -> usize {
        let Cutter::Buzhash { buffer } = &mut self.cutter else {
            return data.len();
        };
        if buffer.is_empty() && data.len() >= BUZHASH_MAX {
            let cut = buzhash_cut(data);
            self.leaf(&data[..cut]);
            return cut;
        }
        let taken = data.len().min(BUZHASH_MAX - buffer.len());
        buffer.extend_from_slice(&data[..taken]);
        if buffer.len() == BUZHASH_MAX {
            self.cut_buffer();
        }
        taken
    }

    /// Cuts one buzhash chunk off the buffer.
    fn cut_buffer(&mut self) {
        let Cutter::Buzhash { buffer } = &mut self.cutter else {
            return;
        };
        let mut full = std::mem::take(buffer);
        let cut = buzhash_cut(&full);
        self.leaf(&full[..cut]);
        full.drain(..cut);
        self.cutter = Cutter::Buzhash { buffer: full };
    }

    /// Makes leaves of what is left; an empty file gets its one empty leaf.
    fn flush(&mut self) {
        let hash = self.profile.parameters().hash;
        match &mut self.cutter {
            Cutter::Running { hasher, filled, .. } => {
                if let Some(hasher) = hasher.take() {
                    let len = std::mem::take(filled);
                    self.leaves
                        .push((cid_from_digest(RAW, hash, hasher.finish()), len));
                }
            }
            Cutter::Buffered { buffer, .. } => {
                let rest = std::mem::take(buffer);
                if !rest.is_empty() {
                    self.leaf(&rest);
                }
            }
            Cutter::Buzhash { .. } => {
                while matches!(&self.cutter, Cutter::Buzhash { buffer } if !buffer.is_empty()) {
                    self.cut_buffer();
                }
            }
        }
        if self.leaves.is_empty() {
            self.leaf(&[]);
        }
    }

    fn leaf(&mut self, data: &[u8]) {
        let parameters = self.profile.parameters();
        let cid = if parameters.raw_leaves {
            raw_cid(parameters.hash, data)
        } else {
            let mut block = Vec::with_capacity(data.len() + 32);
            write_data(&mut block, &unixfs::encode_leaf(data));
            let cid = self.profile.node_cid(&block);
            self.nodes.push(Block {
                cid,
                data: block.into(),
            });
            cid
        };
        self.leaves.push((cid, data.len() as u64));
    }
}

/// Builds a file's DAG over leaves that were hashed elsewhere, each given by CID and length in bytes.
///
/// With dag-pb leaves the result lacks the leaf blocks; the caller has them.
///
/// # Errors
/// [`LayoutError`] if there is no leaf, or the lengths are not those the profile's chunker gives.
pub fn from_leaves(profile: &Profile, leaves: Vec<(Cid, u64)>) -> Result<FileDag, LayoutError> {
    let last = leaves.len().checked_sub(1).ok_or(LayoutError::NoLeaves)?;
    for (index, &(_, len)) in leaves.iter().enumerate() {
        let fits = match profile.parameters().chunker {
            Chunker::Fixed(chunk) if index < last => len == chunk,
            Chunker::Fixed(chunk) => len <= chunk && (len > 0 || last == 0),
            Chunker::Buzhash => len <= BUZHASH_MAX as u64 && (len > 0 || last == 0),
        };
        if !fits {
            return Err(LayoutError::LeafLength { index, len });
        }
    }
    Ok(layout(profile, leaves, Vec::new()))
}

/// A subtree on its way up.
struct Child {
    cid: Cid,
    len: u64,
    tsize: u64,
}

/// Groups the leaves by width, level by level, until one root is left.
fn layout(profile: &Profile, leaves: Vec<(Cid, u64)>, mut nodes: Vec<Block>) -> FileDag {
    let mut seen = std::collections::HashSet::new();
    nodes.retain(|block| seen.insert(block.cid));
    let mut level: Vec<Child> = leaves
        .iter()
        .map(|&(cid, len)| Child {
            cid,
            len,
            tsize: leaf_tsize(&cid, len),
        })
        .collect();
    while level.len() > 1 {
        let mut above = Vec::with_capacity(level.len().div_ceil(profile.parameters().width));
        for children in level.chunks(profile.parameters().width) {
            let (child, block) = inner_node(profile, children);
            above.push(child);
            if seen.insert(block.cid) {
                nodes.push(block);
            }
        }
        level = above;
    }
    let root = level.pop().expect("a file has at least one leaf");
    let mut offset = 0;
    let leaves = leaves.into_iter().map(|(cid, len)| {
        offset += len;
        Leaf {
            cid,
            offset: offset - len,
            len,
        }
    });
    FileDag {
        root: root.cid,
        len: root.len,
        tsize: root.tsize,
        leaves: leaves.collect(),
        nodes,
    }
}

/// How long the block of a leaf is.
fn leaf_tsize(cid: &Cid, len: u64) -> u64 {
    if cid.codec() != DAG_PB {
        return len;
    }
    let data = if len == 0 {
        0
    } else {
        1 + varint_len(len) as u64 + len
    };
    let message = 2 + data + 1 + varint_len(len) as u64;
    1 + varint_len(message) as u64 + message
}

fn inner_node(profile: &Profile, children: &[Child]) -> (Child, Block) {
    let message = unixfs::encode_file(children.iter().map(|child| child.len));
    let links: usize = children
        .iter()
        .map(|child| link_len(child.cid.encoded_len(), 0, child.tsize))
        .sum();
    let mut block = Vec::with_capacity(links + message.len() + 8);
    for child in children {
        write_link(&mut block, CidRef::Cid(&child.cid), b"", b"", child.tsize);
    }
    write_data(&mut block, &message);
    let data = Bytes::from(block);
    let cid = profile.node_cid(&data);
    let len = children.iter().map(|child| child.len).sum();
    let tsize = data.len() as u64 + children.iter().map(|child| child.tsize).sum::<u64>();
    (Child { cid, len, tsize }, Block { cid, data })
}
