//! The tables that follow from others: computed anew, compared, written.
//!
//! From `FILES` and `LEAVES` follow `BLOCKS` with `TWINS`, `ROOTS` and `SHA256`; from `LABELS`, `PINS`, `STAGED`
//! and `NODES` follows `REFS`; from all of these `LRU`, `FREE_NODES`, the owners of nodes and the counters.
//!
//! - Invariant: `write` followed by `differences` gives none.
//! - Not here: whether files and nodes have the right bytes (`crate::fsck`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cid::Cid;
use redb::{ReadableTable, ReadableTableMetadata};

use crate::error::IndexError;
use crate::files::{At, Lookup, twin_key};
use crate::fsck::Damage;
use crate::index::{Counters, Tables};
use crate::keys::{self, BlockKey, RefKey};
use crate::nodes::Node;
use crate::record::{FileRecord, Place};
use crate::refs;

/// What the derived tables must hold.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    blocks: BTreeMap<(BlockKey, u64), At>,
    leaf_rows: BTreeSet<(u64, u32)>,
    roots: BTreeMap<RefKey, u64>,
    sha256: BTreeMap<[u8; 32], u64>,
    refs: HashMap<RefKey, u64>,
    lru: BTreeSet<(u64, u64)>,
    owned: HashMap<BlockKey, u32>,
    free_nodes: BTreeMap<u64, BlockKey>,
    counters: Counters,
}

impl Derived {
    /// Computes the tables. Also gives the files whose rows make no sense or whose nodes are gone.
    pub(crate) fn of(t: &Tables<'_>) -> Result<(Self, Vec<Damage>), IndexError> {
        let mut derived = Self {
            refs: count_refs(t)?,
            ..Self::default()
        };
        let mut lost = Vec::new();
        for row in t.files.iter()? {
            let (id, row) = row?;
            let id = id.value();
            derived.counters.next_id = derived.counters.next_id.max(id + 1);
            let record = FileRecord::decode(row.value());
            let Ok(record) = record else {
                lost.push(Damage::FileRow { id });
                continue;
            };
            if !derived.add_file(t, id, &record)? {
                lost.push(Damage::FileRow { id });
            }
        }
        derived.add_nodes(t)?;
        let kept = t.counters;
        derived.counters.transactions = kept.transactions;
        // By its own block these were counted, see `files::recount`.
        derived.counters.block = t.block;
        derived.counters.next_id = derived.counters.next_id.max(kept.next_id);
        derived.counters.next_node = derived.counters.next_node.max(kept.next_node);
        Ok((derived, lost))
    }

    /// Adds what follows from one file; `false` if its leaves or nodes are not there.
    fn add_file(&mut self, t: &Tables<'_>, id: u64, record: &FileRecord) -> Result<bool, IndexError> {
        let mut whole = !record.layouts.is_empty();
        for (number, layout) in record.layouts.iter().enumerate() {
            if layout.single {
                let at = At {
                    id,
                    offset: 0,
                    len: record.len as u32,
                };
                self.blocks
                    .entry((keys::block_of(&layout.root), id))
                    .or_insert(at);
                continue;
            }
            self.roots.insert(layout.root, id);
            self.leaf_rows.insert((id, number as u32));
            let Ok(Some(leaves)) = t.leaves(id, number) else {
                whole = false;
                continue;
            };
            for leaf in leaves.list.iter().filter(|leaf| leaf.is_raw()) {
                let at = At {
                    id,
                    offset: leaf.offset,
                    len: leaf.len,
                };
                self.blocks.entry((keys::block_of(&leaf.key), id)).or_insert(at);
            }
            for node in &leaves.nodes {
                whole &= t.nodes.get(node)?.is_some();
                *self.owned.entry(*node).or_default() += 1;
            }
        }
        if let Some(sha256) = record.sha256_row() {
            self.sha256.insert(sha256, id);
        }
        let held = record
            .layouts
            .iter()
            .any(|layout| self.refs.contains_key(&layout.root));
        self.counters.files += 1;
        self.counters.file_bytes += record.disk_len(t.block);
        if !held && !matches!(record.place, Place::Reference(..)) {
            self.lru.insert(record.lru_key(id));
            self.counters.free_file_bytes += record.disk_len(t.block);
        }
        Ok(whole)
    }

    fn add_nodes(&mut self, t: &Tables<'_>) -> Result<(), IndexError> {
        let referenced: HashSet<BlockKey> = self.refs.keys().map(keys::block_of).collect();
        for row in t.nodes.iter()? {
            let (key, row) = row?;
            let node = Node::decode(row.value())?;
            let len = node.data.len() as u64;
            self.counters.nodes += 1;
            self.counters.node_bytes += len;
            self.counters.next_node = self.counters.next_node.max(node.seq + 1);
            if !self.owned.contains_key(key.value()) && !referenced.contains(key.value()) {
                self.free_nodes.insert(node.seq, *key.value());
                self.counters.free_nodes += 1;
                self.counters.free_node_bytes += len;
            }
        }
        Ok(())
    }

    /// Which tables differ from what they must hold.
    pub(crate) fn differences(&self, t: &Tables<'_>) -> Result<Vec<Damage>, IndexError> {
        let mut found = Vec::new();
        let mut note = |table, rows| {
            if rows > 0 {
                found.push(Damage::Table { table, rows });
            }
        };
        note("blocks", self.blocks_that_differ(t)?);
        let mut leaves = 0;
        for row in t.leaves.iter()? {
            leaves += u64::from(!self.leaf_rows.contains(&row?.0.value()));
        }
        note("leaves", leaves);
        let mut roots = Compare::new(self.roots.len());
        for row in t.roots.iter()? {
            let (key, id) = row?;
            roots.row(self.roots.get(key.value()) == Some(&id.value()));
        }
        note("roots", roots.wrong());
        let mut digests = Compare::new(self.sha256.len());
        for row in t.sha256.iter()? {
            let (key, id) = row?;
            digests.row(self.sha256.get(key.value()) == Some(&id.value()));
        }
        note("sha256", digests.wrong());
        let mut refs = Compare::new(self.refs.len());
        for row in t.refs.iter()? {
            let (key, count) = row?;
            refs.row(self.refs.get(key.value()) == Some(&count.value()));
        }
        note("refs", refs.wrong());
        let mut lru = Compare::new(self.lru.len());
        for row in t.lru.iter()? {
            lru.row(self.lru.contains(&row?.0.value()));
        }
        note("lru", lru.wrong());
        let mut free = Compare::new(self.free_nodes.len());
        for row in t.free_nodes.iter()? {
            let (seq, key) = row?;
            free.row(self.free_nodes.get(&seq.value()) == Some(key.value()));
        }
        note("free_nodes", free.wrong());
        let mut owners = 0;
        for row in t.nodes.iter()? {
            let (key, row) = row?;
            let expected = self.owned.get(key.value()).copied().unwrap_or(0);
            owners += u64::from(Node::decode(row.value())?.owned != expected);
        }
        note("nodes", owners);
        note("counters", u64::from(self.counters != t.counters));
        Ok(found)
    }

    fn blocks_that_differ(&self, t: &Tables<'_>) -> Result<u64, IndexError> {
        let mut blocks = Compare::new(self.blocks.len());
        for row in t.blocks.iter()? {
            let (key, at) = row?;
            let at = At::decode(at.value());
            blocks.row(self.blocks.get(&(*key.value(), at.id)) == Some(&at));
        }
        for row in t.twins.iter()? {
            let (key, at) = row?;
            let (at, mut block) = (At::decode(at.value()), [0; 33]);
            block.copy_from_slice(&key.value()[..33]);
            // A twin without a first place would never be found.
            let first = t.block(&block)?.is_some_and(|first| first.id != at.id);
            blocks.row(first && self.blocks.get(&(block, at.id)) == Some(&at));
        }
        Ok(blocks.wrong())
    }

    /// Writes the tables anew.
    pub(crate) fn write(&self, t: &mut Tables<'_>) -> Result<(), IndexError> {
        t.leaves.retain(|key, _| self.leaf_rows.contains(&key))?;
        t.blocks.retain(|_, _| false)?;
        t.twins.retain(|_, _| false)?;
        t.roots.retain(|_, _| false)?;
        t.sha256.retain(|_, _| false)?;
        t.refs.retain(|_, _| false)?;
        t.lru.retain(|_, ()| false)?;
        t.free_nodes.retain(|_, _| false)?;
        t.work.retain(|_, _| false)?;
        let mut last = None;
        for ((key, id), at) in &self.blocks {
            if last == Some(key) {
                t.twins.insert(&twin_key(key, *id), &at.encode())?;
            } else {
                t.blocks.insert(key, &at.encode())?;
            }
            last = Some(key);
        }
        for (key, id) in &self.roots {
            t.roots.insert(key, id)?;
        }
        for (key, id) in &self.sha256 {
            t.sha256.insert(key, id)?;
        }
        for (key, count) in &self.refs {
            t.refs.insert(key, count)?;
        }
        for key in &self.lru {
            t.lru.insert(key, ())?;
        }
        for (seq, key) in &self.free_nodes {
            t.free_nodes.insert(seq, key)?;
        }
        self.write_owners(t)?;
        t.counters = self.counters;
        Ok(())
    }

    fn write_owners(&self, t: &mut Tables<'_>) -> Result<(), IndexError> {
        let mut wrong = Vec::new();
        for row in t.nodes.iter()? {
            let (key, row) = row?;
            let node = Node::decode(row.value())?;
            let owned = self.owned.get(key.value()).copied().unwrap_or(0);
            if node.owned != owned {
                wrong.push((*key.value(), Node { owned, ..node }.encode()));
            }
        }
        for (key, row) in wrong {
            t.nodes.insert(&key, row.as_slice())?;
        }
        Ok(())
    }
}

/// Counts rows that are wrong and rows that should be there.
struct Compare {
    expected: u64,
    right: u64,
    wrong: u64,
}

impl Compare {
    fn new(expected: usize) -> Self {
        Self {
            expected: expected as u64,
            right: 0,
            wrong: 0,
        }
    }

    fn row(&mut self, is_right: bool) {
        self.right += u64::from(is_right);
        self.wrong += u64::from(!is_right);
    }

    fn wrong(&self) -> u64 {
        self.wrong.max(self.expected.saturating_sub(self.right))
    }
}

/// Counts all references from their roots.
fn count_refs(t: &Tables<'_>) -> Result<HashMap<RefKey, u64>, IndexError> {
    let mut todo = Vec::new();
    for row in t.labels.iter()? {
        let (label, root) = row?;
        let root = Cid::try_from(root.value()).ok();
        todo.extend(root.and_then(|root| keys::label_key(label.value(), &root)));
    }
    for row in t.pins.iter()? {
        todo.push(*row?.0.value());
    }
    for row in t.staged.iter()? {
        let row = row?;
        let key = row.0.value();
        let tail = key.len().checked_sub(34).and_then(|at| key[at..].try_into().ok());
        todo.extend(tail.into_iter().map(|key: RefKey| key));
    }
    let mut counts: HashMap<RefKey, u64> = HashMap::with_capacity(t.refs.len()? as usize);
    while let Some(key) = todo.pop() {
        let count = counts.entry(key).or_default();
        *count += 1;
        if *count > 1 {
            continue;
        }
        if let Some(row) = t.nodes.get(&keys::block_of(&key))? {
            refs::links_of(&key, Node::decode(row.value())?.data, &mut todo);
        }
    }
    Ok(counts)
}
