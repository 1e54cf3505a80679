//! Follows a path from a root.
//!
//! - Invariant: reads only the nodes on the way, at most one shard a HAMT level.
//! - Not here: following symlinks; the caller decides whether and how far.

use cid::Cid;

use crate::hamt::{self, Shard};
use crate::hash::DAG_PB;
use crate::node::{Kind, RawNode, node_kind};
use crate::pb::Flaw;
use crate::source::{BlockSource, Entry, ReadError, require};
use crate::unixfs::DataType;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What stands at the end, or where the path cannot go on.
    pub cid: Cid,
    /// What that is.
    pub kind: Kind,
    /// Bytes of all blocks below, as the directory that links it says: for a raw block its length. Nothing
    /// where the root itself is meant.
    pub tsize: Option<u64>,
    /// The root and the CID of each segment that was followed; the last is `cid`.
    pub roots: Vec<Cid>,
    /// Segments not followed: those behind a symlink or into a block that is no UnixFS.
    pub rest: Vec<Vec<u8>>,
}

/// Follows `path` from `root`, segment by segment.
///
/// A symlink on the way ends it: `kind` is then [`Kind::Symlink`], `rest` holds the segments behind it. So
/// does a block of another codec ([`Kind::Other`]). A raw block at the end is not read: [`Kind::Raw`].
///
/// # Errors
/// [`ReadError::NotFound`], [`ReadError::NotADirectory`] name the segment; [`ReadError::Missing`] the one
/// block to fetch before calling again; [`ReadError::Malformed`], [`ReadError::TooDeep`] for hostile nodes.
pub fn resolve(root: &Cid, path: &[&[u8]], source: &dyn BlockSource) -> Result<Resolved, ReadError> {
    let mut cid = *root;
    let mut tsize = None;
    let mut roots = vec![cid];
    for (segment, name) in path.iter().enumerate() {
        let rest = || path[segment..].iter().map(|name| name.to_vec()).collect();
        match step(&cid, name, segment, source)? {
            Step::Entry(entry) => {
                cid = entry.cid;
                tsize = Some(entry.tsize);
            }
            Step::End(kind) => {
                return Ok(Resolved {
                    cid,
                    kind,
                    tsize,
                    roots,
                    rest: rest(),
                });
            }
        }
        roots.push(cid);
    }
    let kind = match cid.codec() {
        DAG_PB => crate::node::kind(&cid, &require(source, &cid)?)?,
        crate::hash::RAW => Kind::Raw,
        codec => Kind::Other { codec },
    };
    Ok(Resolved {
        cid,
        kind,
        tsize,
        roots,
        rest: Vec::new(),
    })
}

enum Step {
    Entry(Entry),
    End(Kind),
}

fn step(cid: &Cid, name: &[u8], segment: usize, source: &dyn BlockSource) -> Result<Step, ReadError> {
    match cid.codec() {
        DAG_PB => {}
        crate::hash::RAW => return Err(ReadError::NotADirectory { cid: *cid, segment }),
        codec => return Ok(Step::End(Kind::Other { codec })),
    }
    let block = require(source, cid)?;
    let found = match open(cid, &block)? {
        Opened::Flat(node) => find_flat(&node, name).map_err(|flaw| flaw.at(cid))?,
        Opened::Shard(shard) => find_sharded(cid, &shard, name, source)?,
        Opened::End(kind @ Kind::Symlink(_)) => return Ok(Step::End(kind)),
        Opened::End(_) => return Err(ReadError::NotADirectory { cid: *cid, segment }),
    };
    found.map(Step::Entry).ok_or(ReadError::NotFound { segment })
}

/// A dag-pb block, ready to be looked into.
pub(crate) enum Opened<'a> {
    Flat(RawNode<'a>),
    Shard(Shard<'a>),
    End(Kind),
}

pub(crate) fn open<'a>(cid: &Cid, block: &'a [u8]) -> Result<Opened<'a>, ReadError> {
    let parse = || {
        let node = RawNode::decode(block)?;
        let unixfs = node.unixfs()?;
        Ok(match unixfs.kind {
            DataType::Directory => Opened::Flat(node),
            DataType::Shard => Opened::Shard(Shard::parse(&node, &unixfs)?),
            _ => Opened::End(node_kind(&node)?),
        })
    };
    parse().map_err(|flaw: Flaw| flaw.at(cid))
}

fn find_flat(node: &RawNode<'_>, name: &[u8]) -> Result<Option<Entry>, Flaw> {
    let mut found = node.links.iter().filter(|link| link.name == name);
    let Some(link) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(Flaw("two entries of one name"));
    }
    Ok(Some(Entry {
        cid: link.parse_cid()?,
        tsize: link.tsize,
    }))
}

fn find_sharded(
    cid: &Cid,
    root: &Shard<'_>,
    name: &[u8],
    source: &dyn BlockSource,
) -> Result<Option<Entry>, ReadError> {
    if name.is_empty() {
        return Ok(None);
    }
    let (fanout, hash) = (root.fanout, hamt::hash(name));
    let mut found = find_in(cid, root, name, hash, 0)?;
    for depth in 1..=fanout.levels() {
        let next = match found {
            Found::Nothing => return Ok(None),
            Found::Value(entry) => return Ok(Some(entry)),
            Found::Shard(next) => next,
        };
        if depth == fanout.levels() {
            return Err(ReadError::TooDeep(next));
        }
        let block = require(source, &next)?;
        let shard = Shard::decode_below(&block, fanout).map_err(|flaw| flaw.at(&next))?;
        found = find_in(&next, &shard, name, hash, depth)?;
    }
    Ok(None)
}

enum Found {
    Nothing,
    Value(Entry),
    Shard(Cid),
}

fn find_in(cid: &Cid, shard: &Shard<'_>, name: &[u8], hash: u64, depth: u32) -> Result<Found, ReadError> {
    let Some(link) = shard.fanout.slot(hash, depth).and_then(|slot| shard.find(slot)) else {
        return Ok(Found::Nothing);
    };
    let target = link.link.parse_cid().map_err(|flaw| flaw.at(cid))?;
    Ok(match link.name {
        b"" => Found::Shard(target),
        found if found == name => Found::Value(Entry {
            cid: target,
            tsize: link.link.tsize,
        }),
        _ => Found::Nothing,
    })
}

/// The entry of that name in a directory; `None` too if `cid` is no directory.
pub(crate) fn find(cid: &Cid, name: &[u8], source: &dyn BlockSource) -> Result<Option<Entry>, ReadError> {
    match step(cid, name, 0, source) {
        Ok(Step::Entry(entry)) => Ok(Some(entry)),
        Ok(Step::End(_)) | Err(ReadError::NotFound { .. } | ReadError::NotADirectory { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
