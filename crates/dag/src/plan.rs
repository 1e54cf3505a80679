//! Which leaves hold a byte range of a file.
//!
//! - Invariant: the pieces touch, in file order, and are the asked range cut to the file.
//! - Not here: reading the bytes.

use std::ops::Range;

use crate::file::FileDag;

/// A part of one leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index into [`FileDag::leaves`].
    pub leaf: usize,
    /// Which bytes of the leaf, counted from its begin; never empty.
    pub range: Range<u64>,
}

/// The pieces that make up `range` of the file, in order; `range` is cut to the file's length.
pub fn read_plan(file: &FileDag, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
    let end = range.end.min(file.len);
    let start = range.start;
    let first = file
        .leaves
        .partition_point(|leaf| leaf.offset.saturating_add(leaf.len) <= start);
    let leaves = file.leaves[first..]
        .iter()
        .take_while(move |leaf| start < end && leaf.offset < end);
    leaves.enumerate().filter_map(move |(i, leaf)| {
        let from = start.max(leaf.offset) - leaf.offset;
        let to = end.min(leaf.offset + leaf.len) - leaf.offset;
        (from < to).then(|| Piece {
            leaf: first + i,
            range: from..to,
        })
    })
}
