//! The leaves of a file and the nodes over them, as the index keeps them.
//!
//! A leaf whose bytes stand in its CID (Kubo's `--inline`) is kept as the raw block over these bytes that it would be
//! otherwise: the file holds them, and the nodes say how it is linked.
//!
//! - Invariant: the leaves touch and cover the file; offsets follow from lengths and are not kept.
//! - Not here: building and reading DAGs (`pacstore_dag`), finding a file by a leaf (`crate::files`).

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::{self as dag, HashKind};

use crate::error::{IndexError, WriteError};
use crate::keys::{self, BlockKey, CidVersion, RAW, RefKey};
use crate::record::Layout;
use crate::row::{Row, put_varint};

/// The leaves of one layout, and the nodes over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaves {
    /// Version of the leaves that are dag-pb; raw ones always have version 1.
    pub(crate) version: CidVersion,
    /// Offset, length and key of each, in file order.
    pub(crate) list: Vec<LeafAt>,
    /// Keys of the nodes, children before parents.
    pub(crate) nodes: Vec<BlockKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafAt {
    pub(crate) key: RefKey,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl LeafAt {
    /// True if the leaf's block is a range of the file itself.
    pub(crate) fn is_raw(&self) -> bool {
        keys::codec_of(&self.key) == RAW
    }
}

const FIXED: u8 = 0b010;
const MIXED: u8 = 0b100;

impl Leaves {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let first = self.list.first().map_or([0; 34], |leaf| leaf.key);
        let chunk = self.list.first().map_or(0, |leaf| leaf.len);
        let (last, rest) = self
            .list
            .split_last()
            .map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
        let fixed = rest.iter().all(|leaf| leaf.len == chunk) && last.is_none_or(|leaf| leaf.len <= chunk);
        let kind = |key: &RefKey| (key[0], keys::codec_of(key));
        let mixed = self.list.iter().any(|leaf| kind(&leaf.key) != kind(&first));
        let mut out = Vec::with_capacity(32 * (self.list.len() + self.nodes.len()) + 64);
        let version = u8::from(self.version == CidVersion::V0);
        out.push(version | if fixed { FIXED } else { 0 } | if mixed { MIXED } else { 0 });
        out.extend_from_slice(&[first[0], keys::codec_of(&first)]);
        put_varint(&mut out, self.list.len() as u64);
        put_varint(&mut out, u64::from(chunk));
        put_varint(&mut out, u64::from(last.map_or(0, |leaf| leaf.len)));
        for leaf in &self.list {
            out.extend_from_slice(&leaf.key[1..33]);
            if mixed {
                out.extend_from_slice(&[leaf.key[0], keys::codec_of(&leaf.key)]);
            }
            if !fixed {
                put_varint(&mut out, u64::from(leaf.len));
            }
        }
        put_varint(&mut out, self.nodes.len() as u64);
        self.nodes.iter().for_each(|key| out.extend_from_slice(key));
        out
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, IndexError> {
        Self::read(&mut Row(row)).ok_or_else(|| IndexError::malformed("row of leaves"))
    }

    fn read(row: &mut Row<'_>) -> Option<Self> {
        let [flags, tag, codec] = row.array()?;
        let version = if flags & 1 == 0 {
            CidVersion::V1
        } else {
            CidVersion::V0
        };
        let count = row.varint()?;
        let (chunk, last) = (row.varint()?, row.varint()?);
        let mut leaves = Vec::new();
        let mut offset = 0u64;
        for i in 0..count {
            let mut key = [tag; 34];
            key[1..33].copy_from_slice(&row.array::<32>()?);
            key[33] = codec;
            if flags & MIXED != 0 {
                [key[0], key[33]] = row.array()?;
            }
            let len = match flags & FIXED {
                0 => row.varint()?,
                _ if i + 1 == count => last,
                _ => chunk,
            };
            leaves.push(LeafAt {
                key,
                offset,
                len: u32::try_from(len).ok()?,
            });
            offset = offset.checked_add(len)?;
        }
        let count = row.varint()?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(row.array()?);
        }
        row.0.is_empty().then_some(Self {
            version,
            list: leaves,
            nodes,
        })
    }

    /// The CID of a leaf.
    pub(crate) fn cid(&self, leaf: &LeafAt) -> Option<Cid> {
        let version = if leaf.is_raw() {
            CidVersion::V1
        } else {
            self.version
        };
        keys::cid_of(&leaf.key, version)
    }
}

/// What the index needs to know of a file's DAG, checked.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    pub(crate) leaves: Leaves,
    pub(crate) len: u64,
}

impl Shape {
    /// Checks that the leaves cover the file and takes what the index keeps.
    pub(crate) fn of(file: &dag::FileDag) -> Result<Self, WriteError> {
        let bad = |what| WriteError::Layout {
            root: file.root,
            what,
        };
        let root = keys::ref_key(&file.root).ok_or(WriteError::Unsupported(file.root))?;
        if file.leaves.is_empty() {
            return Err(bad("no leaves"));
        }
        let mut leaves = Vec::with_capacity(file.leaves.len());
        let mut version = CidVersion::V1;
        let mut offset = 0u64;
        for leaf in &file.leaves {
            if leaf.offset != offset {
                return Err(bad("the leaves do not touch"));
            }
            let key = match inline_leaf(leaf).map_err(bad)? {
                Some(data) => keys::with_codec(&keys::sha256_key(&HashKind::Sha2_256.digest(&data)), RAW),
                None => keys::ref_key(&leaf.cid).ok_or(WriteError::Unsupported(leaf.cid))?,
            };
            if keys::version_of(&leaf.cid) == CidVersion::V0 {
                version = CidVersion::V0;
            }
            let len = u32::try_from(leaf.len).map_err(|_| bad("a leaf is too large"))?;
            leaves.push(LeafAt { key, offset, len });
            offset = offset
                .checked_add(leaf.len)
                .ok_or_else(|| bad("the leaves are too long"))?;
        }
        if offset != file.len {
            return Err(bad("the leaves do not cover the file"));
        }
        let single = keys::codec_of(&root) == RAW && file.leaves.len() == 1 && leaves[0].key == root;
        let mut nodes = Vec::with_capacity(file.nodes.len());
        for node in &file.nodes {
            nodes.push(keys::block_key(&node.cid).ok_or(WriteError::Unsupported(node.cid))?);
        }
        if !single && !nodes.contains(&keys::block_of(&root)) {
            return Err(bad("the root node is missing"));
        }
        let leaves = Leaves {
            version,
            list: leaves,
            nodes,
        };
        let layout = Layout {
            root,
            version: keys::version_of(&file.root),
            tsize: file.tsize,
            single,
        };
        Ok(Self {
            layout,
            leaves,
            len: file.len,
        })
    }
}

/// The bytes of the file that a leaf carries in its CID; `None` for a leaf that is a block of its own.
pub(crate) fn inline_leaf(leaf: &dag::Leaf) -> Result<Option<Bytes>, &'static str> {
    let Some(block) = keys::inline_bytes(&leaf.cid) else {
        return Ok(None);
    };
    dag::leaf_data(&leaf.cid, &Bytes::copy_from_slice(block))
        .ok()
        .filter(|data| data.len() as u64 == leaf.len)
        .map(Some)
        .ok_or("a leaf that its CID carries is not as long as it should be")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_of_one_length_take_32_bytes_each() {
        let leaf = |i: u64, len| LeafAt {
            key: [3; 34],
            offset: i * 100,
            len,
        };
        let fixed = Leaves {
            version: CidVersion::V1,
            list: (0..50).map(|i| leaf(i, if i == 49 { 7 } else { 100 })).collect(),
            nodes: vec![[1; 33]],
        };
        let row = fixed.encode();
        assert!(row.len() < 50 * 32 + 33 + 16, "{} bytes", row.len());
        assert_eq!(Leaves::decode(&row).unwrap(), fixed);
        let mut odd = fixed.clone();
        odd.list.truncate(3);
        odd.list[2].len = 101;
        odd.list[1].key = [4; 34];
        assert_eq!(Leaves::decode(&odd.encode()).unwrap(), odd);
    }
}
