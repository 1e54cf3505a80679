//! Reads whole directories.
//!
//! - Invariant: each name once; a name stands where its hash puts it, so a shard cannot be shown twice.
//! - Not here: finding one name (`crate::resolve`).

use cid::Cid;

use crate::flat;
use crate::hamt::{self, Fanout, Shard};
use crate::hash::DAG_PB;
use crate::limits::MAX_DIRECTORY_LINKS;
use crate::name;
use crate::node::RawNode;
use crate::pb::Flaw;
use crate::source::{BlockSource, Entry, Missing, ReadError, load, require};
use crate::unixfs::DataType;

/// All entries of a directory, flat or sharded, sorted by the bytes of their names.
///
/// # Errors
/// [`ReadError::Missing`] names shards to fetch before calling again, [`ReadError::NotADirectory`] for what
/// is none (with `segment` 0), the others as in [`crate::describe`].
pub fn list(root: &Cid, source: &dyn BlockSource) -> Result<Vec<(Vec<u8>, Entry)>, ReadError> {
    let not_a_directory = || ReadError::NotADirectory {
        cid: *root,
        segment: 0,
    };
    if root.codec() != DAG_PB {
        return Err(not_a_directory());
    }
    let block = require(source, root)?;
    let node = RawNode::decode(&block).map_err(|flaw| flaw.at(root))?;
    let unixfs = node.unixfs().map_err(|flaw| flaw.at(root))?;
    match unixfs.kind {
        DataType::Directory => list_flat(&node).map_err(|flaw| flaw.at(root)),
        DataType::Shard => {
            let shard = Shard::parse(&node, &unixfs).map_err(|flaw| flaw.at(root))?;
            list_shards(root, &shard, source)
        }
        _ => Err(not_a_directory()),
    }
}

fn list_flat(node: &RawNode<'_>) -> Result<Vec<(Vec<u8>, Entry)>, Flaw> {
    flat::items(node)?; // names checked, each once
    let mut entries = Vec::with_capacity(node.links.len());
    for link in &node.links {
        entries.push((
            link.name.to_vec(),
            Entry {
                cid: link.parse_cid()?,
                tsize: link.tsize,
            },
        ));
    }
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

/// A sub-shard still to be read.
struct Todo {
    cid: Cid,
    depth: u32,
    path: u64,
}

/// Walks a HAMT, deepest first, so that a shard that leads to itself ends at the depth limit at once.
pub(crate) fn list_shards(
    root: &Cid,
    shard: &Shard<'_>,
    source: &dyn BlockSource,
) -> Result<Vec<(Vec<u8>, Entry)>, ReadError> {
    let mut walk = Walk {
        fanout: shard.fanout,
        entries: Vec::new(),
        stack: Vec::new(),
        links: 0,
    };
    walk.take(root, shard, 0, 0)?;
    let mut missing = Missing::default();
    while let Some(todo) = walk.stack.pop() {
        if todo.depth >= walk.fanout.levels() {
            return Err(ReadError::TooDeep(todo.cid));
        }
        let Some(block) = load(source, &todo.cid)? else {
            if missing.add(&todo.cid) {
                break;
            }
            continue;
        };
        let shard = Shard::decode_below(&block, walk.fanout).map_err(|flaw| flaw.at(&todo.cid))?;
        walk.take(&todo.cid, &shard, todo.depth, todo.path)?;
    }
    missing.check()?;
    walk.entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(walk.entries)
}

struct Walk {
    fanout: Fanout,
    entries: Vec<(Vec<u8>, Entry)>,
    stack: Vec<Todo>,
    links: usize,
}

impl Walk {
    /// Takes the values of a shard and notes its sub-shards.
    fn take(&mut self, cid: &Cid, shard: &Shard<'_>, depth: u32, path: u64) -> Result<(), ReadError> {
        self.links += shard.links.len();
        if self.links > MAX_DIRECTORY_LINKS {
            return Err(ReadError::TooLarge {
                cid: *cid,
                what: "directory of too many links",
            });
        }
        for link in &shard.links {
            let child = link.link.parse_cid().map_err(|flaw| flaw.at(cid))?;
            let path = self.fanout.child_path(path, depth, link.slot);
            if link.name.is_empty() {
                self.stack.push(Todo {
                    cid: child,
                    depth: depth + 1,
                    path,
                });
                continue;
            }
            name::check_foreign(link.name).map_err(|_| Flaw("entry whose name is no file name").at(cid))?;
            if !self.fanout.is_on_path(hamt::hash(link.name), depth, path) {
                return Err(Flaw("entry in a slot that is not its own").at(cid));
            }
            self.entries.push((
                link.name.to_vec(),
                Entry {
                    cid: child,
                    tsize: link.link.tsize,
                },
            ));
        }
        Ok(())
    }
}
