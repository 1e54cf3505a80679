//! Leaves that nobody has to be asked for: their CID carries them, the layout of their file or the disk has their
//! block, or another leaf of the file is the same.
//!
//! - Invariant: what is given here is as good as what was verified: it was, or it is what the CID says.
//! - Not here: files that are whole on disk (`super::Fetcher::open`), leaves of a partial file (`super::job`).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::{self as dag, FileDag};
use pacstore_runtime::Pool;
use pacstore_store::Origin;
use tracing::debug;

use super::Inner;
use super::small::{Got, Wanted};

/// The bytes of the file in a leaf whose CID carries them.
pub(super) fn carried(cid: &Cid) -> Option<Got> {
    let block = Bytes::copy_from_slice(dag::inline_data(cid)?);
    let data = dag::leaf_data(cid, &block).ok()?;
    let origin = Origin::Disk;
    Some(Got { data, origin })
}

/// Whether `root` may be a whole file on disk. The index says so, which is read from memory, mostly: to hand that to another
/// thread costs more.
pub(super) fn may_be_file(inner: &Inner, root: &Cid) -> bool {
    // What cannot be told is met again where it is read.
    !matches!(inner.store.file(root), Ok(None))
}

/// Whether the block `cid` may be on disk, told in the same way.
pub(super) fn may_be_block(inner: &Inner, cid: &Cid) -> bool {
    !matches!(inner.store.block_len(cid), Ok(None))
}

/// A leaf that is carried by its CID, or on disk: as a block of its own, or in another file.
pub(super) async fn leaf(inner: &Arc<Inner>, wanted: &Wanted) -> Option<Got> {
    if let Some(got) = carried(&wanted.cid) {
        return Some(got);
    }
    if !may_be_block(inner, &wanted.cid) {
        return None;
    }
    let (store, cid) = (inner.store.clone(), wanted.cid);
    let read = inner.tasks.blocking(Pool::Disk, move || store.block(&cid)).await;
    let block = read.ok()?.unwrap_or_else(|error| {
        debug!(%cid, error = &error as &dyn std::error::Error, "a block cannot be read; it is asked for outside");
        None
    })?;
    let data = dag::leaf_data(&cid, &block).ok()?;
    let origin = Origin::Disk;
    let fits = wanted.len.is_none_or(|len| len == data.len() as u64);
    fits.then_some(Got { data, origin })
}

/// The leaves whose blocks are nodes, which came with the layout of their file, and their bytes of the file.
pub(super) fn in_nodes(file: &FileDag) -> impl Iterator<Item = (usize, Bytes)> {
    let nodes: HashMap<&Cid, &Bytes> = file.nodes.iter().map(|node| (&node.cid, &node.data)).collect();
    let wrapped = file.leaves.iter().enumerate().filter(|(_, leaf)| !leaf.is_raw());
    wrapped.filter_map(move |(index, leaf)| {
        let data = dag::leaf_data(&leaf.cid, nodes.get(&leaf.cid)?).ok()?;
        (data.len() as u64 == leaf.len).then_some((index, data))
    })
}

/// Which leaves of a file are the same.
#[derive(Debug)]
pub(super) struct Same {
    /// The leaves by what they are; none where all differ.
    order: Vec<usize>,
}

impl Same {
    pub(super) fn of(file: &FileDag) -> Self {
        let what = |index: &usize| (file.leaves[*index].cid, file.leaves[*index].len);
        let mut order: Vec<usize> = (0..file.leaves.len()).collect();
        order.sort_by_cached_key(what);
        if order.windows(2).all(|two| what(&two[0]) != what(&two[1])) {
            order = Vec::new();
        }
        Self { order }
    }

    /// The leaves that are the same as `leaf`, without it.
    pub(super) fn others<'s>(&'s self, file: &FileDag, leaf: usize) -> impl Iterator<Item = usize> + 's {
        let what = |index: &usize| (file.leaves[*index].cid, file.leaves[*index].len);
        let wanted = what(&leaf);
        let from = self.order.partition_point(|index| what(index) < wanted);
        let to = self.order.partition_point(|index| what(index) <= wanted);
        let same = self.order.get(from..to).unwrap_or_default().iter();
        same.copied().filter(move |other| *other != leaf)
    }
}
