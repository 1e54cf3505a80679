//! The rows of whole files: adding, finding and removing them in the index.
//!
//! A raw block is found as (file, offset, length). Where two files hold the same block, one place stands in
//! `BLOCKS` and the others in `TWINS`, so that the block outlives either file.
//!
//! - Invariant: a file is in `LRU` if and only if it takes disk of ours and no root of it is referenced.
//! - Invariant: every raw leaf of every file is in `BLOCKS`, or in `TWINS` beside another file's.
//! - Not here: the files themselves (`crate::disk`, `crate::intake`).

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};

use crate::class::Class;
use crate::error::IndexError;
use crate::index::{BLOCKS, FILES, LEAVES, ROOTS, SHA256, TWINS, Tables};
use crate::keys::{self, BlockKey, RAW, RefKey};
use crate::leaves::{Leaves, Shape};
use crate::nodes::{self, Put};
use crate::record::{FileRecord, Place};
use crate::refs;

/// Where a raw block is: a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) id: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl At {
    /// Ids and offsets have 48 bits: 256 TiB a file, and 89 years of 100,000 files a second.
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut row = [0; 16];
        row[..6].copy_from_slice(&self.id.to_le_bytes()[..6]);
        row[6..12].copy_from_slice(&self.offset.to_le_bytes()[..6]);
        row[12..].copy_from_slice(&self.len.to_le_bytes());
        row
    }

    pub(crate) fn decode(row: &[u8; 16]) -> Self {
        let six = |at: usize| {
            let mut wide = [0; 8];
            wide[..6].copy_from_slice(&row[at..at + 6]);
            u64::from_le_bytes(wide)
        };
        let len = u32::from_le_bytes([row[12], row[13], row[14], row[15]]);
        Self {
            id: six(0),
            offset: six(6),
            len,
        }
    }
}

/// The row of `key` in the table of second places.
pub(crate) fn twin_key(key: &BlockKey, id: u64) -> [u8; 41] {
    let mut twin = [0; 41];
    twin[..33].copy_from_slice(key);
    twin[33..].copy_from_slice(&id.to_be_bytes());
    twin
}

/// Finding files and blocks, in a snapshot or inside a write transaction.
pub(crate) trait Lookup {
    fn file(&self, id: u64) -> Result<Option<FileRecord>, IndexError>;
    fn leaves(&self, id: u64, layout: usize) -> Result<Option<Leaves>, IndexError>;
    fn block(&self, key: &BlockKey) -> Result<Option<At>, IndexError>;
    fn twins(&self, key: &BlockKey) -> Result<Vec<At>, IndexError>;
    fn root_row(&self, key: &RefKey) -> Result<Option<u64>, IndexError>;
    fn sha256_row(&self, sha256: &[u8; 32]) -> Result<Option<u64>, IndexError>;

    /// The file with this root.
    fn find_root(&self, key: &RefKey) -> Result<Option<(u64, FileRecord)>, IndexError> {
        if let Some(id) = self.root_row(key)? {
            return Ok(self.file(id)?.map(|record| (id, record)));
        }
        if keys::codec_of(key) != RAW {
            return Ok(None);
        }
        let block = keys::block_of(key);
        let Some(first) = self.block(&block)? else {
            return Ok(None);
        };
        if let Some(found) = self.whole(key, first)? {
            return Ok(Some(found));
        }
        for at in self.twins(&block)? {
            if let Some(found) = self.whole(key, at)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The file at `at`, if the block there is all of it and its root.
    fn whole(&self, key: &RefKey, at: At) -> Result<Option<(u64, FileRecord)>, IndexError> {
        if at.offset != 0 {
            return Ok(None);
        }
        let record = self.file(at.id)?;
        Ok(record
            .filter(|record| {
                record
                    .layouts
                    .iter()
                    .any(|layout| layout.single && layout.root == *key)
            })
            .map(|record| (at.id, record)))
    }

    /// The file with this SHA-256.
    fn find_sha256(&self, sha256: &[u8; 32]) -> Result<Option<(u64, FileRecord)>, IndexError> {
        if let Some(id) = self.sha256_row(sha256)? {
            return Ok(self.file(id)?.map(|record| (id, record)));
        }
        self.find_root(&keys::with_codec(&keys::sha256_key(sha256), RAW))
    }
}

fn collect_twins(
    table: &impl ReadableTable<&'static [u8; 41], &'static [u8; 16]>,
    key: &BlockKey,
) -> Result<Vec<At>, IndexError> {
    let mut found = Vec::new();
    for row in table.range::<&[u8; 41]>(&twin_key(key, 0)..=&twin_key(key, u64::MAX))? {
        found.push(At::decode(row?.1.value()));
    }
    Ok(found)
}

impl Lookup for Tables<'_> {
    fn file(&self, id: u64) -> Result<Option<FileRecord>, IndexError> {
        self.files
            .get(id)?
            .map(|row| FileRecord::decode(row.value()))
            .transpose()
    }

    fn leaves(&self, id: u64, layout: usize) -> Result<Option<Leaves>, IndexError> {
        self.leaves
            .get((id, layout as u32))?
            .map(|row| Leaves::decode(row.value()))
            .transpose()
    }

    fn block(&self, key: &BlockKey) -> Result<Option<At>, IndexError> {
        Ok(self.blocks.get(key)?.map(|row| At::decode(row.value())))
    }

    fn twins(&self, key: &BlockKey) -> Result<Vec<At>, IndexError> {
        collect_twins(&self.twins, key)
    }

    fn root_row(&self, key: &RefKey) -> Result<Option<u64>, IndexError> {
        Ok(self.roots.get(key)?.map(|row| row.value()))
    }

    fn sha256_row(&self, sha256: &[u8; 32]) -> Result<Option<u64>, IndexError> {
        Ok(self.sha256.get(sha256)?.map(|row| row.value()))
    }
}

impl Lookup for ReadTransaction {
    fn file(&self, id: u64) -> Result<Option<FileRecord>, IndexError> {
        self.open_table(FILES)?
            .get(id)?
            .map(|row| FileRecord::decode(row.value()))
            .transpose()
    }

    fn leaves(&self, id: u64, layout: usize) -> Result<Option<Leaves>, IndexError> {
        self.open_table(LEAVES)?
            .get((id, layout as u32))?
            .map(|row| Leaves::decode(row.value()))
            .transpose()
    }

    fn block(&self, key: &BlockKey) -> Result<Option<At>, IndexError> {
        Ok(self
            .open_table(BLOCKS)?
            .get(key)?
            .map(|row| At::decode(row.value())))
    }

    fn twins(&self, key: &BlockKey) -> Result<Vec<At>, IndexError> {
        collect_twins(&self.open_table(TWINS)?, key)
    }

    fn root_row(&self, key: &RefKey) -> Result<Option<u64>, IndexError> {
        Ok(self.open_table(ROOTS)?.get(key)?.map(|row| row.value()))
    }

    fn sha256_row(&self, sha256: &[u8; 32]) -> Result<Option<u64>, IndexError> {
        Ok(self.open_table(SHA256)?.get(sha256)?.map(|row| row.value()))
    }
}

/// A file to add: its record, and for each of its layouts the leaves and the nodes over them.
#[derive(Debug)]
pub(crate) struct NewRow {
    pub(crate) id: u64,
    pub(crate) record: FileRecord,
    pub(crate) leaves: Vec<Leaves>,
    pub(crate) nodes: Vec<(BlockKey, Bytes)>,
}

/// Adds files that are not here yet. Each table is filled in key order, which is several times faster.
pub(crate) fn insert(t: &mut Tables<'_>, rows: &[NewRow]) -> Result<(), IndexError> {
    let mut blocks = Vec::with_capacity(rows.len());
    let (mut roots, mut digests) = (Vec::new(), Vec::new());
    for row in rows {
        t.files.insert(row.id, row.record.encode().as_slice())?;
        for (number, (layout, leaves)) in row.record.layouts.iter().zip(&row.leaves).enumerate() {
            collect_blocks(row.id, leaves, &mut blocks);
            if !layout.single {
                t.leaves
                    .insert((row.id, number as u32), leaves.encode().as_slice())?;
                roots.push((layout.root, row.id));
            }
        }
        digests.extend(row.record.sha256_row().map(|sha256| (sha256, row.id)));
        t.counters.files += 1;
        t.counters.file_bytes += row.record.disk_len(t.block);
        t.counters.next_id = t.counters.next_id.max(row.id + 1);
    }
    insert_blocks(t, &mut blocks)?;
    roots.sort_unstable();
    for (root, id) in &roots {
        t.roots.insert(root, id)?;
    }
    digests.sort_unstable();
    for (sha256, id) in &digests {
        t.sha256.insert(sha256, id)?;
    }
    for row in rows {
        for (key, data) in &row.nodes {
            nodes::put(t, key, data, Put::Owned)?;
        }
        if !is_held(t, &row.record)? {
            free(t, row.id, &row.record)?;
        }
    }
    Ok(())
}

/// Gives a file that is here one more root.
pub(crate) fn add_layout(
    t: &mut Tables<'_>,
    id: u64,
    mut record: FileRecord,
    shape: &Shape,
    nodes: &[(BlockKey, Bytes)],
) -> Result<(), IndexError> {
    let number = record.layouts.len() as u32;
    let was_held = is_held(t, &record)?;
    let digest = record.sha256_row();
    record.layouts.push(shape.layout.clone());
    t.files.insert(id, record.encode().as_slice())?;
    if let Some(digest) = digest
        && record.sha256_row().is_none()
    {
        // The new root says it.
        t.sha256.remove(&digest)?;
    }
    let mut blocks = Vec::new();
    collect_blocks(id, &shape.leaves, &mut blocks);
    insert_blocks(t, &mut blocks)?;
    if !shape.layout.single {
        t.leaves.insert((id, number), shape.leaves.encode().as_slice())?;
        t.roots.insert(&shape.layout.root, id)?;
    }
    for (key, data) in nodes {
        nodes::put(t, key, data, Put::Owned)?;
    }
    if !was_held && is_held(t, &record)? {
        unfree(t, id, &record)?;
    }
    Ok(())
}

/// Takes a file out of the index. Its bytes on disk are the caller's to remove.
pub(crate) fn remove(t: &mut Tables<'_>, id: u64) -> Result<Option<FileRecord>, IndexError> {
    let Some(record) = t.file(id)? else {
        return Ok(None);
    };
    unfree(t, id, &record)?;
    t.files.remove(id)?;
    for (number, layout) in record.layouts.iter().enumerate() {
        if layout.single {
            remove_block(t, &keys::block_of(&layout.root), id)?;
            continue;
        }
        if t.roots.get(&layout.root)?.is_some_and(|row| row.value() == id) {
            t.roots.remove(&layout.root)?;
        }
        if let Some(leaves) = t.leaves(id, number)? {
            let mut blocks: Vec<_> = leaves.list.iter().filter(|leaf| leaf.is_raw()).collect();
            blocks.sort_unstable_by_key(|leaf| leaf.key);
            for leaf in blocks {
                remove_block(t, &keys::block_of(&leaf.key), id)?;
            }
            for node in &leaves.nodes {
                nodes::disown(t, node)?;
            }
            t.leaves.remove((id, number as u32))?;
        }
    }
    if let Some(sha256) = record.sha256
        && t.sha256.get(&sha256)?.is_some_and(|row| row.value() == id)
    {
        t.sha256.remove(&sha256)?;
    }
    t.counters.files = t.counters.files.saturating_sub(1);
    t.counters.file_bytes = t.counters.file_bytes.saturating_sub(record.disk_len(t.block));
    Ok(Some(record))
}

/// Takes the rows of a file out, and nothing that follows from them: for fsck, which writes that anew.
pub(crate) fn forget(t: &mut Tables<'_>, id: u64) -> Result<(), IndexError> {
    t.files.remove(id)?;
    t.leaves.retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    Ok(())
}

/// True if a label, pin or held node refers to one of the file's roots.
pub(crate) fn is_held(t: &Tables<'_>, record: &FileRecord) -> Result<bool, IndexError> {
    for layout in &record.layouts {
        if refs::count(t, &layout.root)? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A root got its first reference: its file, if here, can no longer be evicted.
pub(crate) fn on_held(t: &mut Tables<'_>, key: &RefKey) -> Result<(), IndexError> {
    if t.counters.files == 0 {
        return Ok(());
    }
    match t.find_root(key)? {
        Some((id, record)) => unfree(t, id, &record),
        None => Ok(()),
    }
}

/// A root lost its last reference: its file, if here and held by no other root, can be evicted.
pub(crate) fn on_released(t: &mut Tables<'_>, key: &RefKey) -> Result<(), IndexError> {
    match t.find_root(key)? {
        Some((id, record)) if !is_held(t, &record)? => free(t, id, &record),
        _ => Ok(()),
    }
}

/// Notes that a file was used at `now` (seconds since 1970).
pub(crate) fn touch(t: &mut Tables<'_>, id: u64, now: u64) -> Result<(), IndexError> {
    let Some(mut record) = t.file(id)? else {
        return Ok(());
    };
    if record.used == now {
        return Ok(());
    }
    let free = t.lru.remove(record.lru_key(id))?.is_some();
    record.used = now;
    t.files.insert(id, record.encode().as_slice())?;
    if free {
        t.lru.insert(record.lru_key(id), ())?;
    }
    Ok(())
}

/// Writes down which files go before it and which after it.
pub(crate) fn set_class(t: &mut Tables<'_>, id: u64, class: Class) -> Result<(), IndexError> {
    let Some(mut record) = t.file(id)? else {
        return Ok(());
    };
    let free = t.lru.remove(record.lru_key(id))?.is_some();
    record.class = class;
    t.files.insert(id, record.encode().as_slice())?;
    if free {
        t.lru.insert(record.lru_key(id), ())?;
    }
    Ok(())
}

/// Writes down where a file is now.
pub(crate) fn set_place(t: &mut Tables<'_>, id: u64, place: Place) -> Result<(), IndexError> {
    let Some(mut record) = t.file(id)? else {
        return Ok(());
    };
    record.place = place;
    t.files.insert(id, record.encode().as_slice())?;
    Ok(())
}

/// Counts the disk anew that files take, where it was counted by another block.
pub(crate) fn recount(t: &mut Tables<'_>) -> Result<(), IndexError> {
    let (mut all, mut free) = (0, 0);
    for row in t.files.iter()? {
        let (id, row) = row?;
        // A row that makes no sense is fsck's.
        let Ok(record) = FileRecord::decode(row.value()) else {
            continue;
        };
        let len = record.disk_len(t.block);
        all += len;
        if t.lru.get(record.lru_key(id.value()))?.is_some() {
            free += len;
        }
    }
    t.counters.file_bytes = all;
    t.counters.free_file_bytes = free;
    t.counters.block = t.block;
    Ok(())
}

fn free(t: &mut Tables<'_>, id: u64, record: &FileRecord) -> Result<(), IndexError> {
    if matches!(record.place, Place::Reference(..)) {
        return Ok(());
    }
    if t.lru.insert(record.lru_key(id), ())?.is_none() {
        t.counters.free_file_bytes += record.disk_len(t.block);
    }
    Ok(())
}

fn unfree(t: &mut Tables<'_>, id: u64, record: &FileRecord) -> Result<(), IndexError> {
    if t.lru.remove(record.lru_key(id))?.is_some() {
        t.counters.free_file_bytes = t
            .counters
            .free_file_bytes
            .saturating_sub(record.disk_len(t.block));
    }
    Ok(())
}

fn collect_blocks(id: u64, leaves: &Leaves, blocks: &mut Vec<(BlockKey, At)>) {
    for leaf in leaves.list.iter().filter(|leaf| leaf.is_raw()) {
        blocks.push((
            keys::block_of(&leaf.key),
            At {
                id,
                offset: leaf.offset,
                len: leaf.len,
            },
        ));
    }
}

fn insert_blocks(t: &mut Tables<'_>, blocks: &mut [(BlockKey, At)]) -> Result<(), IndexError> {
    blocks.sort_unstable_by_key(|(key, at)| (*key, at.id, at.offset));
    for (key, at) in blocks.iter() {
        let old = t.blocks.insert(key, &at.encode())?.map(|row| *row.value());
        let Some(old) = old else { continue };
        t.blocks.insert(key, &old)?;
        if At::decode(&old).id != at.id {
            let twin = twin_key(key, at.id);
            if t.twins.get(&twin)?.is_none() {
                t.twins.insert(&twin, &at.encode())?;
            }
        }
    }
    Ok(())
}

fn remove_block(t: &mut Tables<'_>, key: &BlockKey, id: u64) -> Result<(), IndexError> {
    let Some(at) = t.block(key)? else { return Ok(()) };
    if at.id != id {
        t.twins.remove(&twin_key(key, id))?;
        return Ok(());
    }
    match t.twins(key)?.first() {
        None => {
            t.blocks.remove(key)?;
        }
        Some(twin) => {
            t.blocks.insert(key, &twin.encode())?;
            t.twins.remove(&twin_key(key, twin.id))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_was_written() {
        let at = At {
            id: (1 << 48) - 1,
            offset: 1 << 47,
            len: u32::MAX,
        };
        assert_eq!(At::decode(&at.encode()), at);
    }
}
