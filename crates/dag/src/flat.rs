//! Directories of one node, empty directories, and symlinks.
//!
//! - Invariant: entries stand in the order of their names' bytes, each name once.
//! - Not here: when a directory is flat (`crate::edit`), sharded ones (`crate::hamt`).
//! - Read first: boxo `ipld/unixfs/io/directory.go`.

use std::borrow::Cow;

use bytes::Bytes;

use crate::name;
use crate::node::{CidRef, RawNode, link_len, write_data, write_link};
use crate::pb::Flaw;
use crate::profile::Profile;
use crate::short::ShortCid;
use crate::source::{Block, Entry};
use crate::unixfs;

/// An entry on its way into a node: a link copied from another node, or a new one.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) name: Cow<'a, [u8]>,
    pub(crate) cid: ItemCid<'a>,
    pub(crate) tsize: u64,
}

/// Its CID.
#[derive(Clone, Debug)]
pub(crate) enum ItemCid<'a> {
    Bytes(&'a [u8]),
    Own(ShortCid),
}

impl ItemCid<'_> {
    pub(crate) fn as_ref(&self) -> CidRef<'_> {
        match self {
            Self::Bytes(bytes) => CidRef::Bytes(bytes),
            Self::Own(cid) => CidRef::Bytes(cid.as_bytes()),
        }
    }
}

/// The entries of a flat directory, sorted by name; a name that stands twice is a flaw.
pub(crate) fn items<'a>(node: &RawNode<'a>) -> Result<Vec<Item<'a>>, Flaw> {
    let mut items: Vec<Item<'a>> = Vec::with_capacity(node.links.len());
    for link in &node.links {
        name::check_foreign(link.name).map_err(|_| Flaw("entry whose name is no file name"))?;
        items.push(Item {
            name: Cow::Borrowed(link.name),
            cid: ItemCid::Bytes(link.cid),
            tsize: link.tsize,
        });
    }
    if !items.is_sorted_by(|a, b| a.name < b.name) {
        items.sort_by(|a, b| a.name.cmp(&b.name));
        if items.windows(2).any(|pair| pair[0].name == pair[1].name) {
            return Err(Flaw("two entries of one name"));
        }
    }
    Ok(items)
}

/// The node of a flat directory over sorted items.
pub(crate) fn encode(profile: &Profile, items: &[Item<'_>]) -> (Entry, Block) {
    let len: usize = items
        .iter()
        .map(|item| link_len(item.cid.as_ref().len(), item.name.len(), item.tsize))
        .sum();
    let mut out = Vec::with_capacity(len + 4);
    let mut tsize = 0u64;
    for item in items {
        write_link(&mut out, item.cid.as_ref(), b"", &item.name, item.tsize);
        tsize = tsize.saturating_add(item.tsize);
    }
    write_data(&mut out, &unixfs::DIRECTORY);
    finish(profile, out, tsize)
}

/// Names a finished node and sums its size.
pub(crate) fn finish(profile: &Profile, node: Vec<u8>, below: u64) -> (Entry, Block) {
    let data = Bytes::from(node);
    let cid = profile.node_cid(&data);
    (
        Entry {
            cid,
            tsize: below.saturating_add(data.len() as u64),
        },
        Block { cid, data },
    )
}

/// A directory without entries.
pub fn empty_directory(profile: &Profile) -> (Entry, Block) {
    encode(profile, &[])
}

/// A symbolic link to `target`, which may be any bytes.
pub fn symlink(profile: &Profile, target: &[u8]) -> (Entry, Block) {
    let mut out = Vec::with_capacity(target.len() + 16);
    write_data(&mut out, &unixfs::encode_symlink(target));
    finish(profile, out, 0)
}
