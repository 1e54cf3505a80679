//! The UnixFS message inside a dag-pb node.
//!
//! - Invariant: a length that [`UnixFs::checked_len`] gives is the sum of what the node says it consists of.
//! - Not here: mode and mtime; they are skipped when read and never written.
//! - Read first: <https://specs.ipfs.tech/unixfs/>, boxo `ipld/unixfs/pb/unixfs.proto`.

use crate::pb::{Fields, Flaw, Value, put_bytes, put_uint};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    Raw,
    Directory,
    File,
    Metadata,
    Symlink,
    Shard,
}

/// Multihash code of murmur3-x64-64, the only HAMT hash.
const MURMUR3: u64 = 0x22;

/// A UnixFS message, read.
#[derive(Debug)]
pub(crate) struct UnixFs<'a> {
    pub(crate) kind: DataType,
    pub(crate) data: &'a [u8],
    pub(crate) file_size: Option<u64>,
    pub(crate) block_sizes: Vec<u64>,
    pub(crate) hash_type: Option<u64>,
    pub(crate) fanout: Option<u64>,
}

impl<'a> UnixFs<'a> {
    /// Reads a message as protobuf does: unknown fields skipped, the last of a repeated one wins.
    pub(crate) fn decode(message: &'a [u8]) -> Result<Self, Flaw> {
        let mut fields = Fields(message);
        let mut kind = None;
        let mut out = Self {
            kind: DataType::Raw,
            data: &[],
            file_size: None,
            block_sizes: Vec::new(),
            hash_type: None,
            fanout: None,
        };
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (1, Value::Varint(code)) => kind = Some(data_type(code)?),
                (2, Value::Bytes(data)) => out.data = data,
                (3, Value::Varint(size)) => out.file_size = Some(size),
                (4, Value::Varint(size)) => out.block_sizes.push(size),
                (4, Value::Bytes(packed)) => {
                    let mut packed = Fields(packed);
                    while !packed.0.is_empty() {
                        out.block_sizes.push(packed.varint()?);
                    }
                }
                (5, Value::Varint(code)) => out.hash_type = Some(code),
                (6, Value::Varint(fanout)) => out.fanout = Some(fanout),
                (1..=6, _) => return Err(Flaw("UnixFS field of the wrong type")),
                _ => {}
            }
        }
        out.kind = kind.ok_or(Flaw("UnixFS message without a type"))?;
        Ok(out)
    }

    /// The length of the file below a node with this many links: its own bytes and its block sizes.
    ///
    /// A node that contradicts itself is a flaw.
    pub(crate) fn checked_len(&self, links: usize) -> Result<u64, Flaw> {
        if self.block_sizes.len() != links {
            return Err(Flaw("number of block sizes is not that of links"));
        }
        let mut len = self.data.len() as u64;
        for size in &self.block_sizes {
            len = len.checked_add(*size).ok_or(Flaw("block sizes overflow"))?;
        }
        if self.file_size.is_some_and(|size| size != len) {
            return Err(Flaw("file size is not the sum of its parts"));
        }
        Ok(len)
    }

    /// The fanout of a shard, with the hash function checked.
    pub(crate) fn shard_fanout(&self) -> Result<u64, Flaw> {
        if self.hash_type != Some(MURMUR3) {
            return Err(Flaw("HAMT with another hash than murmur3-x64-64"));
        }
        self.fanout.ok_or(Flaw("HAMT without a fanout"))
    }
}

fn data_type(code: u64) -> Result<DataType, Flaw> {
    Ok(match code {
        0 => DataType::Raw,
        1 => DataType::Directory,
        2 => DataType::File,
        3 => DataType::Metadata,
        4 => DataType::Symlink,
        5 => DataType::Shard,
        _ => return Err(Flaw("unknown UnixFS type")),
    })
}

/// The message of a flat directory.
pub(crate) const DIRECTORY: [u8; 2] = [0x08, 0x01];

/// The message of a file node over children of these sizes.
pub(crate) fn encode_file(block_sizes: impl Iterator<Item = u64> + Clone) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + 5 * block_sizes.size_hint().0);
    put_uint(&mut out, 1, 2);
    put_uint(&mut out, 3, block_sizes.clone().sum());
    for size in block_sizes {
        put_uint(&mut out, 4, size);
    }
    out
}

/// The message of a dag-pb leaf.
pub(crate) fn encode_leaf(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 16);
    put_uint(&mut out, 1, 2);
    if !data.is_empty() {
        put_bytes(&mut out, 2, data);
    }
    put_uint(&mut out, 3, data.len() as u64);
    out
}

/// The message of a symlink.
pub(crate) fn encode_symlink(target: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(target.len() + 8);
    put_uint(&mut out, 1, 4);
    put_bytes(&mut out, 2, target);
    out
}

/// The message of a HAMT shard; `bitfield` is big-endian without leading zero bytes.
pub(crate) fn encode_shard(bitfield: &[u8], fanout: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bitfield.len() + 12);
    put_uint(&mut out, 1, 5);
    put_bytes(&mut out, 2, bitfield);
    put_uint(&mut out, 5, MURMUR3);
    put_uint(&mut out, 6, fanout as u64);
    out
}
