//! dag-pb nodes: links and data, and what kind of thing a block is.
//!
//! - Invariant: what [`write_link`] and [`write_data`] write is byte for byte what Kubo writes.
//! - Not here: UnixFS inside the data (`crate::unixfs`), HAMT prefixes in names (`crate::hamt`).
//! - Read first: <https://ipld.io/specs/codecs/dag-pb/spec/>.

use cid::Cid;

use crate::hash::{DAG_PB, RAW};
use crate::limits::{MAX_BLOCK, MAX_LINKS};
use crate::pb::{Fields, Flaw, Value, put_bytes, put_uint, put_varint, varint_len};
use crate::source::ReadError;
use crate::unixfs::{DataType, UnixFs};

/// A link with its parts still in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawLink<'a> {
    pub(crate) cid: &'a [u8],
    pub(crate) name: &'a [u8],
    pub(crate) tsize: u64,
}

impl RawLink<'_> {
    /// The CID, checked.
    pub(crate) fn parse_cid(&self) -> Result<Cid, Flaw> {
        let mut rest = self.cid;
        let cid = Cid::read_bytes(&mut rest).map_err(|_| Flaw("link without a valid CID"))?;
        if rest.is_empty() {
            Ok(cid)
        } else {
            Err(Flaw("bytes after the CID of a link"))
        }
    }
}

/// A dag-pb node with its parts still in the block.
#[derive(Debug)]
pub(crate) struct RawNode<'a> {
    pub(crate) links: Vec<RawLink<'a>>,
    pub(crate) data: Option<&'a [u8]>,
}

impl<'a> RawNode<'a> {
    /// Reads a block as strictly as go-codec-dagpb: no unknown or repeated fields, links in one run.
    pub(crate) fn decode(block: &'a [u8]) -> Result<Self, Flaw> {
        let mut fields = Fields(block);
        let mut node = Self {
            links: Vec::new(),
            data: None,
        };
        let mut links_closed = false;
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (1, Value::Bytes(data)) => {
                    if node.data.replace(data).is_some() {
                        return Err(Flaw("two data fields"));
                    }
                    links_closed = !node.links.is_empty();
                }
                (2, Value::Bytes(link)) => {
                    if links_closed {
                        return Err(Flaw("links before and after the data"));
                    }
                    if node.links.len() == MAX_LINKS {
                        return Err(Flaw("too many links"));
                    }
                    node.links.push(decode_link(link)?);
                }
                _ => return Err(Flaw("unknown field in a dag-pb node")),
            }
        }
        Ok(node)
    }

    /// The UnixFS message in the data.
    pub(crate) fn unixfs(&self) -> Result<UnixFs<'a>, Flaw> {
        UnixFs::decode(self.data.ok_or(Flaw("dag-pb node without UnixFS data"))?)
    }
}

/// Shows each link of a block without keeping any; for blocks that were checked when they came in.
pub(crate) fn for_each_link<'a>(block: &'a [u8], mut show: impl FnMut(RawLink<'a>)) -> Result<(), Flaw> {
    let mut fields = Fields(block);
    loop {
        while let Some((link, rest)) = short_bytes(0x12, fields.0) {
            show(decode_link(link)?);
            fields.0 = rest;
        }
        match fields.next()? {
            Some((2, Value::Bytes(link))) => show(decode_link(link)?),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

/// Reads a link; most of what an edit costs is reading links, so the usual form has a way of its own.
fn decode_link(link: &[u8]) -> Result<RawLink<'_>, Flaw> {
    match usual_link(link) {
        Some(link) => Ok(link),
        None => any_link(link),
    }
}

/// The form that everybody writes: CID, name and size, each there, each length in one byte.
fn usual_link(link: &[u8]) -> Option<RawLink<'_>> {
    let (cid, rest) = short_bytes(0x0a, link)?;
    let (name, rest) = short_bytes(0x12, rest)?;
    let mut size = Fields(rest.strip_prefix(&[0x18])?);
    let tsize = size.varint().ok()?;
    size.0.is_empty().then_some(RawLink { cid, name, tsize })
}

/// A field of up to 127 bytes under this key, and what follows it.
fn short_bytes(key: u8, from: &[u8]) -> Option<(&[u8], &[u8])> {
    match from {
        [first, len @ ..0x80, rest @ ..] if *first == key => rest.split_at_checked(usize::from(*len)),
        _ => None,
    }
}

/// Any link that go-codec-dagpb reads.
fn any_link(link: &[u8]) -> Result<RawLink<'_>, Flaw> {
    let mut fields = Fields(link);
    let (mut cid, mut name, mut tsize) = (None, None, None);
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(bytes)) if cid.is_none() && name.is_none() && tsize.is_none() => {
                cid = Some(bytes);
            }
            (2, Value::Bytes(bytes)) if name.is_none() && tsize.is_none() => name = Some(bytes),
            (3, Value::Varint(size)) if tsize.is_none() => tsize = Some(size),
            _ => return Err(Flaw("unknown, repeated or misplaced field in a link")),
        }
    }
    let cid = cid.ok_or(Flaw("link without a CID"))?;
    Ok(RawLink {
        cid,
        name: name.unwrap_or_default(),
        tsize: tsize.unwrap_or(0),
    })
}

/// A CID to be written: bytes of a block that is copied from, or one of our own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CidRef<'a> {
    Bytes(&'a [u8]),
    Cid(&'a Cid),
}

impl CidRef<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Cid(cid) => cid.encoded_len(),
        }
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Cid(cid) => {
                cid.write_bytes(out).expect("writing into memory does not fail");
            }
        }
    }
}

fn link_body_len(cid_len: usize, name_len: usize, tsize: u64) -> usize {
    3 + varint_len(cid_len as u64) + cid_len + varint_len(name_len as u64) + name_len + varint_len(tsize)
}

/// How many bytes a link takes in its node.
pub(crate) fn link_len(cid_len: usize, name_len: usize, tsize: u64) -> usize {
    let body = link_body_len(cid_len, name_len, tsize);
    1 + varint_len(body as u64) + body
}

/// Appends a link whose name is `prefix` and `name` together.
pub(crate) fn write_link(out: &mut Vec<u8>, cid: CidRef<'_>, prefix: &[u8], name: &[u8], tsize: u64) {
    let name_len = prefix.len() + name.len();
    out.push(0x12);
    put_varint(out, link_body_len(cid.len(), name_len, tsize) as u64);
    out.push(0x0a);
    put_varint(out, cid.len() as u64);
    cid.write(out);
    out.push(0x12);
    put_varint(out, name_len as u64);
    out.extend_from_slice(prefix);
    out.extend_from_slice(name);
    put_uint(out, 3, tsize);
}

/// Appends the data field, which comes after all links.
pub(crate) fn write_data(out: &mut Vec<u8>, data: &[u8]) {
    put_bytes(out, 1, data);
}

/// A link of a node, as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What is linked.
    pub cid: Cid,
    /// The name in the node: empty in files, with a hexadecimal prefix in HAMT shards.
    pub name: Vec<u8>,
    /// Bytes of all blocks below, as the node's maker claims.
    pub tsize: u64,
}

/// All links of one block, in the order they stand there.
///
/// Blocks of other codecs than dag-pb have none here: raw ones by nature, dag-cbor because nothing of a
/// mirror's tree hangs below it.
///
/// # Errors
/// [`ReadError::Malformed`], [`ReadError::TooLarge`].
pub fn links(cid: &Cid, data: &[u8]) -> Result<Vec<Link>, ReadError> {
    if data.len() > MAX_BLOCK {
        return Err(ReadError::TooLarge {
            cid: *cid,
            what: "block over 2 MiB",
        });
    }
    if cid.codec() != DAG_PB {
        return Ok(Vec::new());
    }
    parse_links(data).map_err(|flaw| flaw.at(cid))
}

fn parse_links(data: &[u8]) -> Result<Vec<Link>, Flaw> {
    let node = RawNode::decode(data)?;
    let link = |raw: &RawLink<'_>| {
        Ok(Link {
            cid: raw.parse_cid()?,
            name: raw.name.to_vec(),
            tsize: raw.tsize,
        })
    };
    node.links.iter().map(link).collect()
}

/// What a block is the root of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of one raw block; it is as long as the block, which was not looked at.
    Raw,
    /// A file of this many bytes, as its root node says.
    File {
        /// Length in bytes.
        len: u64,
    },
    /// A directory, flat or sharded.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// No UnixFS: a block of another codec, such as dag-cbor.
    Other {
        /// The codec.
        codec: u64,
    },
}

/// Says what the block `data` with this CID is the root of.
///
/// A raw block is a [`Kind::File`] here, since its length is at hand.
///
/// # Errors
/// [`ReadError::Malformed`] for a dag-pb node that is no UnixFS, [`ReadError::TooLarge`].
pub fn kind(cid: &Cid, data: &[u8]) -> Result<Kind, ReadError> {
    if data.len() > MAX_BLOCK {
        return Err(ReadError::TooLarge {
            cid: *cid,
            what: "block over 2 MiB",
        });
    }
    match cid.codec() {
        RAW => Ok(Kind::File {
            len: data.len() as u64,
        }),
        DAG_PB => {
            node_kind(&RawNode::decode(data).map_err(|flaw| flaw.at(cid))?).map_err(|flaw| flaw.at(cid))
        }
        codec => Ok(Kind::Other { codec }),
    }
}

pub(crate) fn node_kind(node: &RawNode<'_>) -> Result<Kind, Flaw> {
    let unixfs = node.unixfs()?;
    Ok(match unixfs.kind {
        DataType::Raw | DataType::File => Kind::File {
            len: unixfs.checked_len(node.links.len())?,
        },
        DataType::Directory | DataType::Shard => Kind::Directory,
        DataType::Symlink => Kind::Symlink(unixfs.data.to_vec()),
        DataType::Metadata => return Err(Flaw("UnixFS metadata nodes are not supported")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_ways_of_reading_a_link_agree(
            cid in prop::collection::vec(any::<u8>(), 0..200),
            name in prop::collection::vec(any::<u8>(), 0..200),
            tsize: u64,
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut node = Vec::new();
            write_link(&mut node, CidRef::Bytes(&cid), b"", &name, tsize);
            let mut fields = Fields(&node);
            let Ok(Some((2, Value::Bytes(link)))) = fields.next() else { panic!("no link in {node:?}") };
            let mut link = link.to_vec();
            prop_assert_eq!(usual_link(&link).is_some(), cid.len() < 128 && name.len() < 128);
            if let Some((at, byte)) = damage {
                let at = at.index(link.len());
                link[at] = byte;
            }
            if let Some(usual) = usual_link(&link) {
                prop_assert_eq!(Ok(usual), any_link(&link));
            }
        }
    }
}
