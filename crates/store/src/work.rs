//! Counting references a few thousand at a time: what one transaction leaves is written down and done by the next.
//!
//! Retaining a tree of 100,000 files changes as many counts. In one transaction all other writers would wait for it,
//! and the changed pages of the index would fill the memory. So what is still to be counted stands in `WORK`, is
//! durable with what was counted, and is done before the call returns; after a crash by the next open.
//!
//! - Invariant: counts plus what `WORK` still asks for are what labels, pins, staged files and nodes ask for.
//! - Invariant: nothing is counted down while something is still to be counted up, so what is held before and after
//!   is held all the time; and nothing is evicted while something is still to be counted up.
//! - Not here: what a count means (`crate::refs`).

use redb::ReadableTable;

use crate::error::{IndexError, WriteError};
use crate::index::Tables;
use crate::keys::{self, BlockKey, DAG_PB, NODES_ONLY, RefKey};
use crate::refs;
use crate::store::{Inner, staged_key};

/// First byte of a row's key; a reference follows, or a label.
///
/// Rows are done in this order, so what is counted up comes first.
mod kind {
    /// Count the reference up.
    pub(super) const UP: u8 = 0;
    /// Count up what its node links to.
    pub(super) const UP_BELOW: u8 = 1;
    /// Count the reference down.
    pub(super) const DOWN: u8 = 2;
    /// Count down what its node linked to.
    pub(super) const DOWN_BELOW: u8 = 3;
    /// Let go of what is staged under the label.
    pub(super) const STAGED: u8 = 4;
}

/// How many links are looked at before they are counted in key order; bounds memory at a few MB.
const READ_AHEAD: usize = 65_536;

/// Counts `todo` and what hangs below up, `limit` references at most; writes down what is left.
pub(crate) fn raise(t: &mut Tables<'_>, todo: Vec<RefKey>, limit: usize) -> Result<(), IndexError> {
    count(t, todo, limit, (kind::UP, kind::UP_BELOW), refs::count_up)
}

/// Counts `todo` and what hangs below down, `limit` references at most; writes down what is left. All is left
/// while something is still to be counted up.
pub(crate) fn lower(t: &mut Tables<'_>, todo: Vec<RefKey>, limit: usize) -> Result<(), IndexError> {
    if is_raising(t)? {
        return leave(t, &todo, kind::DOWN);
    }
    count(t, todo, limit, (kind::DOWN, kind::DOWN_BELOW), refs::count_down)
}

/// Counts the references of a list, and puts the nodes whose links are next on the other.
type Count = fn(&mut Tables<'_>, &mut Vec<RefKey>, &mut Vec<RefKey>) -> Result<(), IndexError>;

/// What is left over is written down under the kinds `here` (to be counted) and `below` (its links are).
fn count(
    t: &mut Tables<'_>,
    mut todo: Vec<RefKey>,
    limit: usize,
    (here, below): (u8, u8),
    step: Count,
) -> Result<(), IndexError> {
    let (mut next, mut done) = (Vec::new(), 0usize);
    while done < limit {
        while todo.len() < READ_AHEAD.min(limit.saturating_sub(done)) {
            let key = match next.pop() {
                Some(key) => key,
                None => match take(t, below, 1)?.pop() {
                    Some(key) => key,
                    None => break,
                },
            };
            done += 1;
            refs::links(t, &key, &mut todo)?;
        }
        if todo.is_empty() {
            break;
        }
        let mut now = todo.split_off(todo.len() - todo.len().min(limit.saturating_sub(done).max(1)));
        done += now.len();
        step(t, &mut now, &mut next)?;
    }
    leave(t, &todo, here)?;
    leave(t, &next, below)
}

/// Notes that what is staged under `label` is to be let go of.
pub(crate) fn let_go_of_staged(t: &mut Tables<'_>, label: &str) -> Result<(), IndexError> {
    if staged(t, label, 1)?.is_empty() {
        return Ok(());
    }
    add_row(t, &[&[kind::STAGED], label.as_bytes()].concat(), 1)
}

/// Lets go of what an earlier round staged under `label`, if that is not done yet.
pub(crate) fn finish_staged(t: &mut Tables<'_>, label: &str) -> Result<(), IndexError> {
    let row = [&[kind::STAGED], label.as_bytes()].concat();
    if t.counters.pending == 0 || t.work.get(row.as_slice())?.is_none() {
        return Ok(());
    }
    finish_raising(t)?;
    take_staged(t, label, usize::MAX)?;
    remove_row(t, &row)?;
    Ok(())
}

/// True if something is still to be counted up.
pub(crate) fn is_raising(t: &Tables<'_>) -> Result<bool, IndexError> {
    if t.counters.pending == 0 {
        return Ok(false);
    }
    let up: &[u8] = &[kind::DOWN];
    Ok(t.work.range(..up)?.next().is_some())
}

/// Counts up all that is still to be counted up.
pub(crate) fn finish_raising(t: &mut Tables<'_>) -> Result<(), IndexError> {
    while is_raising(t)? {
        step(t, usize::MAX)?;
    }
    Ok(())
}

/// Does all that is left.
pub(crate) fn finish(t: &mut Tables<'_>) -> Result<(), IndexError> {
    while t.counters.pending > 0 {
        if !step(t, usize::MAX)? {
            break;
        }
    }
    Ok(())
}

/// A node leaves the index: what it links to is written down where it was still to be counted down.
pub(crate) fn before_node_goes(t: &mut Tables<'_>, key: &BlockKey, data: &[u8]) -> Result<(), IndexError> {
    if t.counters.pending == 0 {
        return Ok(());
    }
    for codec in [DAG_PB, NODES_ONLY] {
        let view = keys::with_codec(key, codec);
        let Some(times) = remove_row(t, &[&[kind::DOWN_BELOW], &view[..]].concat())? else {
            continue;
        };
        let mut links = Vec::new();
        refs::links_of(&view, data, &mut links);
        for link in &links {
            add_row(t, &[&[kind::DOWN], &link[..]].concat(), times)?;
        }
    }
    Ok(())
}

/// Does some of what is left. `false` if there was nothing.
fn step(t: &mut Tables<'_>, limit: usize) -> Result<bool, IndexError> {
    let before = t.counters.pending;
    let up = take(t, kind::UP, limit)?;
    raise(t, up, limit)?;
    if t.counters.pending != before || is_raising(t)? {
        return Ok(true);
    }
    let down = take(t, kind::DOWN, limit)?;
    lower(t, down, limit)?;
    if t.counters.pending != before {
        return Ok(true);
    }
    let Some(row) = t.work.first()?.map(|(row, _)| row.value().to_vec()) else {
        return Ok(false);
    };
    if row.first().is_some_and(|kind| *kind < kind::STAGED) {
        return Ok(true);
    }
    let label = row.get(1..).and_then(|label| std::str::from_utf8(label).ok());
    let left = match label {
        Some(label) if row[0] == kind::STAGED => take_staged(t, label, limit)? == limit,
        // A row that makes no sense must not be met for ever.
        _ => false,
    };
    if !left {
        remove_row(t, &row)?;
    }
    Ok(true)
}

/// Lets go of up to `limit` references that are staged under `label`; gives how many.
fn take_staged(t: &mut Tables<'_>, label: &str, limit: usize) -> Result<usize, IndexError> {
    let taken = staged(t, label, limit)?;
    let count = taken.len();
    for key in &taken {
        t.staged.remove(staged_key(label, key).as_slice())?;
    }
    lower(t, taken, limit)?;
    Ok(count)
}

/// Up to `limit` of the references that are staged under `label`.
fn staged(t: &Tables<'_>, label: &str, limit: usize) -> Result<Vec<RefKey>, IndexError> {
    let prefix = staged_key(label, &[]);
    let mut found = Vec::new();
    for row in t.staged.range(prefix.as_slice()..)?.take(limit) {
        let row = row?;
        let Some(key) = row.0.value().strip_prefix(prefix.as_slice()) else {
            break;
        };
        let key = key
            .try_into()
            .map_err(|_| IndexError::malformed("staged reference"))?;
        found.push(key);
    }
    Ok(found)
}

/// Takes up to `limit` references out of the rows of one kind, each as often as it stands there.
fn take(t: &mut Tables<'_>, kind: u8, limit: usize) -> Result<Vec<RefKey>, IndexError> {
    let mut found = Vec::new();
    if t.counters.pending == 0 {
        return Ok(found);
    }
    let mut rows = Vec::new();
    let (from, to): (&[u8], &[u8]) = (&[kind], &[kind + 1]);
    let mut left = limit;
    for row in t.work.range(from..to)? {
        if left == 0 {
            break;
        }
        let (row, times) = row?;
        let key: RefKey = row.value()[1..]
            .try_into()
            .map_err(|_| IndexError::malformed("reference that is still to be counted"))?;
        let now = times.value().min(left as u64);
        left -= now as usize;
        found.extend(std::iter::repeat_n(key, now as usize));
        rows.push((row.value().to_vec(), times.value() - now));
    }
    for (row, times) in rows {
        if times == 0 {
            remove_row(t, &row)?;
        } else {
            t.work.insert(row.as_slice(), times)?;
        }
    }
    Ok(found)
}

fn leave(t: &mut Tables<'_>, keys: &[RefKey], kind: u8) -> Result<(), IndexError> {
    for key in keys {
        add_row(t, &[&[kind], &key[..]].concat(), 1)?;
    }
    Ok(())
}

fn add_row(t: &mut Tables<'_>, row: &[u8], times: u64) -> Result<(), IndexError> {
    let before = t.work.insert(row, times)?.map(|before| before.value());
    match before {
        None => t.counters.pending += 1,
        Some(_) if row.first() == Some(&kind::STAGED) => {}
        Some(before) => {
            t.work.insert(row, before + times)?;
        }
    }
    Ok(())
}

fn remove_row(t: &mut Tables<'_>, row: &[u8]) -> Result<Option<u64>, IndexError> {
    let times = t.work.remove(row)?.map(|times| times.value());
    if times.is_some() {
        t.counters.pending = t.counters.pending.saturating_sub(1);
    }
    Ok(times)
}

impl Inner {
    /// Does what earlier transactions left, one transaction after the other.
    pub(crate) fn settle(&self) -> Result<(), IndexError> {
        while self.index.counters().pending > 0 {
            self.disk.hook.before("settle")?;
            if !self.index.write(|t| step(t, t.refs_at_once))? {
                break;
            }
        }
        Ok(())
    }

    /// As [`Self::settle`], with the room that is kept for freeing.
    pub(crate) fn settle_to_free(&self) -> Result<(), WriteError> {
        while self.index.counters().pending > 0 {
            if !self.write_to_free("settle", |t| step(t, t.refs_at_once))? {
                break;
            }
        }
        Ok(())
    }
}
