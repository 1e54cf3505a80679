//! Blocks that are no range of a file: inner nodes of files, directories, heads, blocks of CAR files.
//!
//! A node stays while a file here needs it ("owned") or a retained tree links to it (references). All
//! others wait in order of arrival and go first in, first out when they pass their own cap.
//!
//! - Invariant: a node is in `FREE_NODES` if and only if it is neither owned nor referenced.
//! - Not here: how references are counted (`crate::refs`).

use bytes::Bytes;
use redb::ReadableTable;

use crate::error::IndexError;
use crate::index::Tables;
use crate::keys::{self, BlockKey, RefKey};
use crate::refs;
use crate::work;

const HEADER: usize = 12;

/// One row of the node table: who needs it, when it came, and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node<'a> {
    /// How many files here have it as an inner node.
    pub(crate) owned: u32,
    /// Order of arrival.
    pub(crate) seq: u64,
    pub(crate) data: &'a [u8],
}

impl<'a> Node<'a> {
    pub(crate) fn decode(row: &'a [u8]) -> Result<Self, IndexError> {
        let bad = || IndexError::malformed("row of a node");
        let (owned, rest) = row.split_first_chunk().ok_or_else(bad)?;
        let (seq, data) = rest.split_first_chunk().ok_or_else(bad)?;
        Ok(Self {
            owned: u32::from_le_bytes(*owned),
            seq: u64::from_le_bytes(*seq),
            data,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEADER + self.data.len());
        row.extend_from_slice(&self.owned.to_le_bytes());
        row.extend_from_slice(&self.seq.to_le_bytes());
        row.extend_from_slice(self.data);
        row
    }
}

/// Who puts a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Nobody in particular: it may go when the cap is passed.
    Loose,
    /// A file, which takes it with it when it goes.
    Owned,
}

/// Adds a node, or counts one more owner of it.
pub(crate) fn put(t: &mut Tables<'_>, key: &BlockKey, data: &[u8], how: Put) -> Result<(), IndexError> {
    let owner = u32::from(how == Put::Owned);
    let old = match t.nodes.get(key)? {
        None => None,
        Some(row) => {
            let node = Node::decode(row.value())?;
            if owner == 0 {
                return Ok(());
            }
            Some((
                Node {
                    owned: node.owned.saturating_add(1),
                    ..node
                }
                .encode(),
                node.owned,
                node.seq,
            ))
        }
    };
    if let Some((row, owned, seq)) = old {
        t.nodes.insert(key, row.as_slice())?;
        if owned == 0 {
            unfree(t, seq, (row.len() - HEADER) as u64)?;
        }
        return Ok(());
    }
    let seq = t.counters.next_node;
    t.counters.next_node += 1;
    t.nodes.insert(
        key,
        Node {
            owned: owner,
            seq,
            data,
        }
        .encode()
        .as_slice(),
    )?;
    t.counters.nodes += 1;
    t.counters.node_bytes += data.len() as u64;
    let views = refs::views(t, key)?;
    if views.is_empty() && owner == 0 {
        free(t, key, seq, data.len() as u64)?;
    }
    // Somebody asked for it before it came: what it links to is held from now on.
    refs::add_children(t, views)
}

/// A file that owned the node is gone.
pub(crate) fn disown(t: &mut Tables<'_>, key: &BlockKey) -> Result<(), IndexError> {
    let Some((row, seq, last)) = (match t.nodes.get(key)? {
        None => None,
        Some(row) => {
            let node = Node::decode(row.value())?;
            let left = node.owned.saturating_sub(1);
            Some((Node { owned: left, ..node }.encode(), node.seq, node.owned == 1))
        }
    }) else {
        return Ok(());
    };
    let referenced = !refs::views(t, key)?.is_empty();
    let len = (row.len() - HEADER) as u64;
    if last && !referenced {
        // Nothing can need it without its file.
        work::before_node_goes(t, key, &row[HEADER..])?;
        t.nodes.remove(key)?;
        t.counters.nodes = t.counters.nodes.saturating_sub(1);
        t.counters.node_bytes = t.counters.node_bytes.saturating_sub(len);
        t.free_nodes.remove(seq)?;
        return Ok(());
    }
    t.nodes.insert(key, row.as_slice())?;
    Ok(())
}

/// A node got its first reference.
pub(crate) fn on_held(t: &mut Tables<'_>, key: &BlockKey) -> Result<(), IndexError> {
    if let Some((seq, len)) = loose(t, key)? {
        unfree(t, seq, len)?;
    }
    Ok(())
}

/// A node lost a reference: if it was the last, the node waits for the cap.
pub(crate) fn on_released(t: &mut Tables<'_>, key: &BlockKey) -> Result<(), IndexError> {
    if let Some((seq, len)) = loose(t, key)?
        && refs::views(t, key)?.is_empty()
    {
        free(t, key, seq, len)?;
    }
    Ok(())
}

/// Order and length of a node that no file owns.
fn loose(t: &Tables<'_>, key: &BlockKey) -> Result<Option<(u64, u64)>, IndexError> {
    let Some(row) = t.nodes.get(key)? else {
        return Ok(None);
    };
    let node = Node::decode(row.value())?;
    Ok((node.owned == 0).then_some((node.seq, node.data.len() as u64)))
}

fn free(t: &mut Tables<'_>, key: &BlockKey, seq: u64, len: u64) -> Result<(), IndexError> {
    if t.free_nodes.insert(seq, key)?.is_none() {
        t.counters.free_nodes += 1;
        t.counters.free_node_bytes += len;
    }
    Ok(())
}

fn unfree(t: &mut Tables<'_>, seq: u64, len: u64) -> Result<(), IndexError> {
    if t.free_nodes.remove(seq)?.is_some() {
        t.counters.free_nodes = t.counters.free_nodes.saturating_sub(1);
        t.counters.free_node_bytes = t.counters.free_node_bytes.saturating_sub(len);
    }
    Ok(())
}

/// Removes up to `limit` of the oldest nodes that nothing holds, until at most `target` bytes of them are left.
/// Gives how many went and their bytes.
pub(crate) fn evict(t: &mut Tables<'_>, target: u64, limit: u64) -> Result<(u64, u64), IndexError> {
    let (mut count, mut bytes) = (0, 0);
    while count < limit && t.counters.free_node_bytes > target {
        let Some((seq, key)) = t
            .free_nodes
            .pop_first()?
            .map(|(seq, key)| (seq.value(), *key.value()))
        else {
            break;
        };
        let data = match t.nodes.remove(&key)? {
            Some(row) => Node::decode(row.value())?.data.to_vec(),
            None => Vec::new(),
        };
        let _ = seq;
        let len = data.len() as u64;
        work::before_node_goes(t, &key, &data)?;
        t.counters.nodes = t.counters.nodes.saturating_sub(1);
        t.counters.node_bytes = t.counters.node_bytes.saturating_sub(len);
        t.counters.free_nodes = t.counters.free_nodes.saturating_sub(1);
        t.counters.free_node_bytes = t.counters.free_node_bytes.saturating_sub(len);
        count += 1;
        bytes += len;
    }
    Ok((count, bytes))
}

/// The bytes of a node, copied out.
pub(crate) fn data(t: &Tables<'_>, key: &RefKey) -> Result<Option<Bytes>, IndexError> {
    match t.nodes.get(&keys::block_of(key))? {
        None => Ok(None),
        Some(row) => Ok(Some(Bytes::copy_from_slice(Node::decode(row.value())?.data))),
    }
}
