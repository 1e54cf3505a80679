//! Changes directories: some entries in, the new root out, with as few nodes as possible.
//!
//! Whether a directory is flat or a HAMT is decided anew at each edit, over exactly the estimate that a build
//! from nothing would use. A HAMT that may have shrunk is looked through only until its size is known to be
//! over the threshold.
//!
//! - Invariant: the bytes are those of a build from nothing with the same final entries, whatever the edits before.
//! - Not here: changing shards (`crate::shard_edit`), whole trees (`crate::tree`).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::iter::Peekable;

use bytes::Bytes;
use cid::{Cid, Version};

use crate::flat::{self, Item, ItemCid};
use crate::hamt::{Fanout, Shard};
use crate::hash::DAG_PB;
use crate::limits::MAX_BLOCK;
use crate::list::{list, list_shards};
use crate::name::{self, NameError};
use crate::profile::Profile;
use crate::resolve::{Opened, open};
use crate::shard_edit::{Change, ShardEditor, Value};
use crate::short::{ShortCid, ShortEntry};
use crate::size::{self, is_over_threshold};
use crate::source::{Block, BlockSink, BlockSource, Entry, ReadError, SourceError, require};

/// Why a directory could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The old nodes could not be read; [`ReadError::Missing`] names those to fetch before calling again.
    #[error("cannot read the old directory")]
    Read(#[from] ReadError),
    /// The sink did not take a new node.
    #[error("cannot write a node")]
    Write(#[source] SourceError),
    /// A name that no file can have.
    #[error("`{}` cannot be an entry", .path.escape_ascii())]
    Name {
        /// The name, or the path it stands in.
        path: Vec<u8>,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// A path is deeper than [`crate::MAX_TREE_DEPTH`].
    #[error("path `{}` has too many segments", .path.escape_ascii())]
    TooDeep {
        /// The path.
        path: Vec<u8>,
    },
    /// A change lies below something that is no directory and is not removed by the same edit.
    #[error("`{}` is no directory", .path.escape_ascii())]
    NotADirectory {
        /// The path of that thing.
        path: Vec<u8>,
    },
    /// One path is set, and another below it too.
    #[error("`{}` is set as a whole and below at once", .path.escape_ascii())]
    Conflict {
        /// The upper path.
        path: Vec<u8>,
    },
    /// Two names have the same 64-bit hash, which a HAMT cannot hold.
    #[error("`{}` collides with another name in the hash of HAMT directories", .name.escape_ascii())]
    HashCollision {
        /// One of the names.
        name: Vec<u8>,
    },
    /// The profile keeps the directory flat, but its node would be over [`MAX_BLOCK`].
    #[error("flat directory node of {len} bytes is over {MAX_BLOCK}")]
    TooLarge {
        /// Length of the node in bytes.
        len: usize,
    },
}

/// Changes entries of a directory and gives its new root; new nodes go to `sink`, children before parents.
///
/// `root` is the directory before, `None` for one that does not exist yet. `Some(entry)` adds or replaces,
/// `None` removes; removing what is not there does nothing, of a name given twice the last counts. Costs
/// O(k log n) for k changes in a HAMT of n entries, one node in a flat directory, and one rebuild where the
/// directory crosses the threshold. A `root` made under another hash or fanout is rebuilt as well.
///
/// # Errors
/// [`EditError`]. Nodes that `sink` got before an error belong to no root; they do no harm.
pub fn edit_directory(
    profile: &Profile,
    root: Option<&Cid>,
    changes: impl IntoIterator<Item = (Vec<u8>, Option<Entry>)>,
    source: &dyn BlockSource,
    sink: &mut dyn BlockSink,
) -> Result<Entry, EditError> {
    let changes: BTreeMap<_, _> = changes.into_iter().collect();
    for name in changes.keys() {
        name::check(name).map_err(|source| EditError::Name {
            path: name.clone(),
            source,
        })?;
    }
    let changes = changes
        .into_iter()
        .map(|(name, entry)| (name, entry.map(ShortEntry::from)))
        .collect();
    edit_checked(profile, root, changes, source, &mut Output::new(sink))
}

/// What becomes of entries, in the order of their names; each name once.
pub(crate) type Changes = Vec<(Vec<u8>, Option<ShortEntry>)>;

/// As [`edit_directory`], with names already checked. The changes go as their links come: there may be 100,000.
pub(crate) fn edit_checked(
    profile: &Profile,
    root: Option<&Cid>,
    changes: Changes,
    source: &dyn BlockSource,
    out: &mut Output<'_>,
) -> Result<Entry, EditError> {
    let Some(root) = root else {
        return write_all(profile, None, merge(Vec::new(), changes), out);
    };
    if root.codec() != DAG_PB {
        return Err(ReadError::NotADirectory {
            cid: *root,
            segment: 0,
        }
        .into());
    }
    let block = require(source, root)?;
    match open(root, &block)? {
        Opened::End(_) => Err(ReadError::NotADirectory {
            cid: *root,
            segment: 0,
        }
        .into()),
        Opened::Flat(node) => {
            let items = flat::items(&node).map_err(|flaw| flaw.at(root))?;
            write_all(profile, Some(root), merge(items, changes), out)
        }
        Opened::Shard(shard) if is_of(profile, root, &shard) => {
            edit_shards(profile, root, &shard, &changes, source, out)
        }
        Opened::Shard(_) => {
            let items = list(root, source)?
                .into_iter()
                .map(|(name, entry)| item(Cow::Owned(name), entry.into()));
            write_all(profile, Some(root), merge(items.collect(), changes), out)
        }
    }
}

/// Whether unchanged shards of this HAMT are what the profile would write.
fn is_of(profile: &Profile, root: &Cid, shard: &Shard<'_>) -> bool {
    let parameters = profile.parameters();
    root.version() == parameters.cid_version
        && (root.version() == Version::V0 || root.hash().code() == parameters.hash.code())
        && root.hash().digest().len() == 32
        && shard.fanout.slots() == parameters.fanout
}

fn item(name: Cow<'_, [u8]>, entry: ShortEntry) -> Item<'_> {
    Item {
        name,
        cid: ItemCid::Own(entry.cid),
        tsize: entry.tsize,
    }
}

/// Old sorted items with the changes applied.
fn merge(old: Vec<Item<'_>>, changes: Changes) -> Vec<Item<'_>> {
    if old.is_empty() {
        let new = changes.into_iter();
        return new
            .filter_map(|(name, change)| Some(item(Cow::Owned(name), change?)))
            .collect();
    }
    let mut merged = Vec::with_capacity(old.len() + changes.len());
    let mut old: Peekable<_> = old.into_iter().peekable();
    for (name, change) in changes {
        while let Some(item) = old.next_if(|item| *item.name < *name) {
            merged.push(item);
        }
        old.next_if(|item| *item.name == *name);
        merged.extend(change.map(|entry| item(Cow::Owned(name), entry)));
    }
    merged.extend(old);
    merged
}

/// Writes a directory of which all entries are at hand, flat or sharded as the profile has it.
fn write_all(
    profile: &Profile,
    old: Option<&Cid>,
    items: Vec<Item<'_>>,
    out: &mut Output<'_>,
) -> Result<Entry, EditError> {
    let threshold = profile.parameters().threshold;
    let by = threshold.estimate;
    let sizes = items
        .iter()
        .map(|i| size::of_link(by, i.name.len(), i.cid.as_ref().len(), i.tsize));
    let estimate = size::of_empty(by) + sizes.sum::<u64>();
    if items.is_empty() || !threshold.is_over(estimate) {
        let (entry, block) = flat::encode(profile, &items);
        if block.data.len() > MAX_BLOCK {
            return Err(EditError::TooLarge {
                len: block.data.len(),
            });
        }
        out.put_unless(old, block)?;
        return Ok(entry);
    }
    let mut values = Vec::with_capacity(items.len());
    for item in items {
        let cid = match item.cid {
            ItemCid::Own(cid) => cid,
            ItemCid::Bytes(bytes) => {
                let link = crate::node::RawLink {
                    cid: bytes,
                    name: b"",
                    tsize: 0,
                };
                let cid = link
                    .parse_cid()
                    .map_err(|flaw| flaw.at(&old.copied().unwrap_or_default()))?;
                ShortCid::from(&cid)
            }
        };
        let tsize = item.tsize;
        values.push(Value::new(item.name, ShortEntry { cid, tsize }));
    }
    values.sort_unstable_by_key(|value| value.hash);
    ShardEditor::new(profile, &(), out).build_root(&values)
}

/// Changes a HAMT, and makes it flat if it has become small.
fn edit_shards(
    profile: &Profile,
    root: &Cid,
    shard: &Shard<'_>,
    changes: &[(Vec<u8>, Option<ShortEntry>)],
    source: &dyn BlockSource,
    out: &mut Output<'_>,
) -> Result<Entry, EditError> {
    let mut changes: Vec<Change<'_>> = changes
        .iter()
        .map(|(name, entry)| Change::new(name, entry.as_ref()))
        .collect();
    changes.sort_unstable_by_key(|change| change.hash);
    out.hold();
    let edited = ShardEditor::new(profile, source, out).edit_root(root, shard, &changes);
    let overlay = Overlay {
        held: out.held(),
        source,
    };
    let decided = edited.and_then(|entry| {
        let is_over = is_over_threshold(profile, (&entry.cid, fanout(profile)), &overlay)?;
        Ok((entry, is_over))
    });
    match decided {
        Ok((entry, true)) => {
            out.release()?;
            Ok(entry)
        }
        Ok((entry, false)) => {
            let items = flatten(&entry.cid, &overlay)?;
            out.discard();
            write_all(profile, Some(root), items, out)
        }
        Err(error) => {
            out.discard();
            Err(error)
        }
    }
}

/// All entries of a HAMT; at most as many as fit below the threshold, which the caller has made sure of.
fn flatten(root: &Cid, source: &Overlay<'_>) -> Result<Vec<Item<'static>>, ReadError> {
    let block = require(source, root)?;
    let shard = Shard::decode(&block).map_err(|flaw| flaw.at(root))?;
    let entries = list_shards(root, &shard, source)?;
    Ok(entries
        .into_iter()
        .map(|(name, entry)| item(Cow::Owned(name), entry.into()))
        .collect())
}

/// Nodes not yet written, before those of the source.
struct Overlay<'s> {
    held: HashMap<Cid, Bytes>,
    source: &'s dyn BlockSource,
}

impl BlockSource for Overlay<'_> {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError> {
        match self.held.get(cid) {
            Some(data) => Ok(Some(data.clone())),
            None => self.source.get(cid),
        }
    }
}

/// Where new nodes go: straight to the sink, or held back while it is open whether they will stay.
pub(crate) struct Output<'s> {
    sink: &'s mut dyn BlockSink,
    held: Option<Vec<Block>>,
    pub(crate) nodes: usize,
    pub(crate) bytes: u64,
}

impl<'s> Output<'s> {
    pub(crate) fn new(sink: &'s mut dyn BlockSink) -> Self {
        Self {
            sink,
            held: None,
            nodes: 0,
            bytes: 0,
        }
    }

    /// Takes a node, unless it is the old one.
    pub(crate) fn put_unless(&mut self, old: Option<&Cid>, block: Block) -> Result<(), EditError> {
        if old == Some(&block.cid) {
            return Ok(());
        }
        match &mut self.held {
            Some(held) => held.push(block),
            None => self.write(block)?,
        }
        Ok(())
    }

    fn write(&mut self, block: Block) -> Result<(), EditError> {
        self.nodes += 1;
        self.bytes += block.data.len() as u64;
        self.sink.put(block).map_err(EditError::Write)
    }

    fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    fn release(&mut self) -> Result<(), EditError> {
        self.held
            .take()
            .unwrap_or_default()
            .into_iter()
            .try_for_each(|block| self.write(block))
    }

    fn discard(&mut self) {
        self.held = None;
    }

    /// The nodes held back.
    fn held(&self) -> HashMap<Cid, Bytes> {
        let held = self.held.iter().flatten();
        held.map(|block| (block.cid, block.data.clone())).collect()
    }
}

/// The fanout of a profile, which is valid by its invariant.
pub(crate) fn fanout(profile: &Profile) -> Fanout {
    Fanout::new(profile.parameters().fanout as u64)
        .expect("a profile's fanout is a power of two from 8 to 1024")
}
