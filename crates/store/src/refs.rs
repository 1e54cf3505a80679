//! Who holds what: references counted by CID, whether or not the block or file is here.
//!
//! A label, a pin and a staged file each count one on their root. A block with a count above 0 whose node is
//! here counts one on each of its links. So retaining a tree costs what is new in it, and a file that comes
//! later finds its count already there. A label of nodes only counts under a codec of its own
//! ([`keys::NODES_ONLY`]): such counts hold nodes, but no file.
//!
//! - Invariant: the links of a node are counted if and only if its own count is above 0 and its bytes are here,
//!   once the work that is left (`crate::work`) is done.
//! - Invariant: counts follow from `LABELS`, `PINS`, `STAGED` and `NODES`, and from nothing else.
//! - Not here: how much one transaction counts (`crate::work`), what becomes evictable (`crate::files::on_released`, `crate::nodes::on_released`).

use redb::ReadableTable;
use tracing::warn;

use pacstore_dag as dag;

use crate::error::IndexError;
use crate::files;
use crate::index::Tables;
use crate::keys::{self, BlockKey, CidVersion, DAG_PB, NODES_ONLY, RefKey};
use crate::nodes;
use crate::work;

/// All references to a block, one for each codec that somebody sees it under.
pub(crate) fn views(t: &Tables<'_>, key: &BlockKey) -> Result<Vec<RefKey>, IndexError> {
    let (from, to) = (keys::with_codec(key, 0), keys::with_codec(key, u8::MAX));
    let mut found = Vec::new();
    for row in t.refs.range::<&[u8; 34]>(&from..=&to)? {
        found.push(*row?.0.value());
    }
    Ok(found)
}

/// How often `key` is referenced.
pub(crate) fn count(t: &Tables<'_>, key: &RefKey) -> Result<u64, IndexError> {
    Ok(t.refs.get(key)?.map_or(0, |count| count.value()))
}

/// Counts one more on each of `roots`, and on what hangs below those that had none. What goes beyond
/// `t.refs_at_once` is left as work.
pub(crate) fn add(t: &mut Tables<'_>, roots: Vec<RefKey>) -> Result<(), IndexError> {
    work::raise(t, roots, t.refs_at_once)
}

/// As [`add`], with nothing left: for callers whose files must be held when they return.
pub(crate) fn add_at_once(t: &mut Tables<'_>, roots: Vec<RefKey>) -> Result<(), IndexError> {
    work::raise(t, roots, usize::MAX)
}

/// Takes one from each of `roots`, and from what hangs below those that have none left. What goes beyond
/// `t.refs_at_once`, or must wait for something to be counted up, is left as work.
pub(crate) fn remove(t: &mut Tables<'_>, roots: Vec<RefKey>) -> Result<(), IndexError> {
    work::lower(t, roots, t.refs_at_once)
}

/// A node came that was referenced before it was here.
pub(crate) fn add_children(t: &mut Tables<'_>, views: Vec<RefKey>) -> Result<(), IndexError> {
    let mut todo = Vec::new();
    for key in views {
        links(t, &key, &mut todo)?;
    }
    if todo.is_empty() { Ok(()) } else { add(t, todo) }
}

/// True if a node with links is here under this reference.
pub(crate) fn is_parent(t: &Tables<'_>, key: &RefKey) -> Result<bool, IndexError> {
    Ok(has_links(key) && t.nodes.get(&keys::block_of(key))?.is_some())
}

/// Adds what a node links to; nothing if it is not here or cannot be read.
pub(crate) fn links(t: &Tables<'_>, key: &RefKey, out: &mut Vec<RefKey>) -> Result<(), IndexError> {
    if has_links(key)
        && let Some(data) = nodes::data(t, key)?
    {
        links_of(key, &data, out);
    }
    Ok(())
}

/// The links that count, in a node with these bytes.
pub(crate) fn links_of(key: &RefKey, data: &[u8], out: &mut Vec<RefKey>) {
    if !has_links(key) {
        return;
    }
    let block = keys::block_of(key);
    let Some(cid) = keys::cid_of(&keys::with_codec(&block, DAG_PB), CidVersion::V1) else {
        return;
    };
    let Ok(mut links) = dag::links(&cid, data) else {
        return;
    };
    // A node that its link carries is no block: what it links to counts as linked from here. It is shorter than the
    // node around it, so this ends.
    let mut at = 0;
    while let Some(link) = links.get(at) {
        at += 1;
        if let Some(inline) = keys::inline_bytes(&link.cid)
            && let Ok(below) = dag::links(&link.cid, inline)
        {
            links.extend(below);
        }
    }
    let below = links.iter().filter_map(|link| keys::ref_key(&link.cid));
    if keys::codec_of(key) == NODES_ONLY {
        let nodes = below.filter(|key| keys::codec_of(key) == DAG_PB);
        out.extend(nodes.map(|key| keys::with_codec(&keys::block_of(&key), NODES_ONLY)));
    } else {
        out.extend(below);
    }
}

fn has_links(key: &RefKey) -> bool {
    matches!(keys::codec_of(key), DAG_PB | NODES_ONLY)
}

/// Calls `each` for every distinct key in `keys` with how often it stands there, in key order; empties `keys`.
fn runs(
    keys: &mut Vec<RefKey>,
    mut each: impl FnMut(&RefKey, u64) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    keys.sort_unstable();
    for run in keys.chunk_by(|a, b| a == b) {
        each(&run[0], run.len() as u64)?;
    }
    keys.clear();
    Ok(())
}

/// Counts `keys` up (empties them); those that had no reference and whose node is here go to `fresh`.
pub(crate) fn count_up(
    t: &mut Tables<'_>,
    keys: &mut Vec<RefKey>,
    fresh: &mut Vec<RefKey>,
) -> Result<(), IndexError> {
    runs(keys, |key, by| {
        let old = t.refs.insert(key, by)?.map_or(0, |old| old.value());
        if old > 0 {
            t.refs.insert(key, old + by)?;
            return Ok(());
        }
        files::on_held(t, key)?;
        nodes::on_held(t, &keys::block_of(key))?;
        if is_parent(t, key)? {
            fresh.push(*key);
        }
        Ok(())
    })
}

/// Counts `keys` down (empties them); those that have no reference left and whose node is here go to `gone`.
pub(crate) fn count_down(
    t: &mut Tables<'_>,
    keys: &mut Vec<RefKey>,
    gone: &mut Vec<RefKey>,
) -> Result<(), IndexError> {
    runs(keys, |key, by| {
        let old = count(t, key)?;
        if old > by {
            t.refs.insert(key, old - by)?;
            return Ok(());
        }
        if old < by {
            warn!(key = %crate::error::Hex(key), old, by, "a reference was counted too low; run fsck");
        }
        if old > 0 {
            t.refs.remove(key)?;
            files::on_released(t, key)?;
            nodes::on_released(t, &keys::block_of(key))?;
            if is_parent(t, key)? {
                gone.push(*key);
            }
        }
        Ok(())
    })
}
