//! A file that arrives leaf by leaf, from many writers at once, while others read what is there.
//!
//! The data lies from the start where the whole file will be, so finishing is one index transaction and
//! nothing moves under a reader. Files of one leaf have no bitmap: half of them is nothing.
//!
//! - Invariant: a leaf counts as here only after all its bytes were written.
//! - Invariant: a finished file was synced before the index names it.
//! - Not here: checking leaves against their CIDs; the caller has done so. What survives a crash: `crate::bitmap`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cid::Cid;
use tracing::debug;

use crate::body::{Body, lock};
use crate::class::Class;
use crate::error::{IndexError, PartialError, WriteError};
use crate::files::{self, Lookup, NewRow};
use crate::index::Tables;
use crate::leaves::Shape;
use crate::record::{ByOrigin, FileInfo, FileRecord, Origin, Place};
use crate::store::Store;

/// What to do about the SHA-256 of the whole file when it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sha256 {
    /// Compute it.
    Compute,
    /// Compute it; another one is an error.
    Expect([u8; 32]),
    /// It is this: whoever vouches for the root vouches for it too.
    Known([u8; 32]),
    /// Do without: the leaves were checked. [`Store::learn_sha256`] may add it later.
    Skip,
}

/// A partial file, open. Clones share it. While a handle is there gc leaves it alone; without, it stays
/// for later until its room is needed.
#[derive(Clone, Debug)]
pub struct Partial {
    pub(crate) store: Store,
    pub(crate) body: Arc<Body>,
}

impl Partial {
    /// The root of the file.
    pub fn root(&self) -> Option<Cid> {
        self.body.shape.layout.root_cid().ok()
    }

    /// Length of the whole file in bytes.
    pub fn len(&self) -> u64 {
        self.body.shape.len
    }

    /// True for a file of no bytes.
    pub fn is_empty(&self) -> bool {
        self.body.shape.len == 0
    }

    /// How many leaves the file has; at least 1.
    pub fn leaf_count(&self) -> usize {
        self.body.count()
    }

    /// True if leaf `index` is here.
    pub fn has(&self, index: usize) -> bool {
        self.body.has(index)
    }

    /// Says that the file will be finished with [`Sha256::Skip`] or [`Sha256::Known`]: nothing is hashed beside
    /// the leaves, by any handle. [`Sha256::Compute`] is still right, and reads the file again.
    pub fn leave_unhashed(&self) {
        self.body.leave_unhashed();
    }

    /// The leaves that are not here, in file order.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.body.count())
            .filter(|index| !self.body.has(*index))
            .collect()
    }

    /// True if every leaf is here.
    pub fn is_complete(&self) -> bool {
        self.body.missing() == 0
    }

    /// Bytes that are here, by where they came from.
    pub fn by_origin(&self) -> ByOrigin {
        self.body.by_origin()
    }

    /// Writes a leaf that the caller has checked against its CID. A leaf that is here already is left alone.
    ///
    /// # Errors
    /// [`PartialError::NoSuchLeaf`], [`PartialError::Length`], [`PartialError::Gone`], and
    /// [`WriteError::StorageFull`]: the leaf is not here then, all others stay.
    pub fn write_leaf(&self, index: usize, data: &[u8], origin: Origin) -> Result<(), PartialError> {
        let body = &self.body;
        let leaf = body.leaf(index)?;
        if data.len() as u64 != u64::from(leaf.len) {
            let (expected, found) = (u64::from(leaf.len), data.len() as u64);
            return Err(PartialError::Length {
                index,
                expected,
                found,
            });
        }
        if body.gone.load(Ordering::Acquire) {
            // Another handle finished the file, or threw it away.
            let whole = lock(&body.finished).is_some();
            return if whole { Ok(()) } else { Err(PartialError::Gone) };
        }
        if body.has(index) {
            return Ok(());
        }
        let hook = &self.store.0.disk.hook;
        let failed = |error| WriteError::file(&self.store.0.disk.file(body.id), error);
        hook.before("write leaf").map_err(failed)?;
        body.file.write_all_at(data, leaf.offset).map_err(failed)?;
        body.used.store(self.store.0.now(), Ordering::Relaxed);
        if body.claim(index, origin) {
            body.hash_along(index, data);
        }
        Ok(())
    }

    /// The bytes of a leaf that is here.
    ///
    /// # Errors
    /// [`PartialError::Missing`], [`PartialError::NoSuchLeaf`], [`WriteError::File`].
    pub fn read_leaf(&self, index: usize) -> Result<Bytes, PartialError> {
        let leaf = self.body.leaf(index)?;
        let mut out = Vec::with_capacity(leaf.len as usize);
        self.body.need(index)?;
        self.body
            .read_leaf_into(index, &mut out)
            .map_err(|error| self.read_error(error))?;
        Ok(out.into())
    }

    /// Fills `out` from `offset` of the file; all leaves that it touches must be here.
    ///
    /// # Errors
    /// [`PartialError::Missing`] names the first leaf that is not here; [`PartialError::Length`] past the end.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), PartialError> {
        let len = out.len() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= self.len());
        let Some(end) = end else {
            return Err(PartialError::Length {
                index: 0,
                expected: self.len(),
                found: offset.saturating_add(len),
            });
        };
        let leaves = &self.body.shape.leaves.list;
        let first = leaves.partition_point(|leaf| leaf.offset + u64::from(leaf.len) <= offset);
        for (index, leaf) in leaves.iter().enumerate().skip(first) {
            if leaf.offset >= end {
                break;
            }
            self.body.need(index)?;
        }
        self.body
            .file
            .read_exact_at(out, offset)
            .map_err(|error| self.read_error(error))
    }

    /// Another handle to the file's bytes, for whoever streams them out; only leaves that are here may be read.
    ///
    /// # Errors
    /// [`WriteError::File`].
    pub fn file(&self) -> Result<File, WriteError> {
        let path = self.store.0.disk.file(self.body.id);
        self.body
            .file
            .try_clone()
            .map_err(|error| WriteError::file(&path, error))
    }

    /// Makes what is here durable. Done by itself when the store is closed, not while leaves arrive: a sync waits
    /// for the whole disk's journal, a killed process loses nothing, and after a power cut the leaves that the
    /// system had written by then are found by their hash.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::File`].
    pub fn flush(&self) -> Result<(), WriteError> {
        let path = self.store.0.disk.file(self.body.id);
        self.body
            .flush(&self.store.0.disk)
            .map_err(|error| WriteError::file(&path, error))
    }

    /// Makes the file a whole one, durably. Called again, by any handle, it gives the same answer.
    ///
    /// # Errors
    /// [`PartialError::Incomplete`]; [`PartialError::Sha256`], after which the caller decides whether to
    /// [`Self::discard`]; [`WriteError::StorageFull`], after which it can be tried again.
    pub fn finish(&self, sha256: Sha256) -> Result<FileInfo, PartialError> {
        let body = &self.body;
        let mut finished = lock(&body.finished);
        if let Some(info) = &*finished {
            return Ok(info.clone());
        }
        if body.gone.load(Ordering::Acquire) {
            return Err(PartialError::Gone);
        }
        if body.missing() > 0 {
            return Err(PartialError::Incomplete(body.missing()));
        }
        let sha256 = self.whole_sha256(sha256)?;
        let inner = &self.store.0;
        let root = body.shape.layout.root_cid().map_err(WriteError::from)?;
        let record = FileRecord {
            used: inner.now(),
            len: body.shape.len,
            by_origin: body.by_origin(),
            sha256,
            place: Place::Own,
            class: Class::Plain,
            layouts: vec![body.shape.layout.clone()],
        };
        let nodes = lock(&body.nodes).clone();
        let row = NewRow {
            id: body.id,
            record,
            leaves: vec![body.shape.leaves.clone()],
            nodes,
        };
        let shape = body.shape.clone();
        let outcome = Arc::new(Mutex::new(None));
        let answer = Arc::clone(&outcome);
        inner
            .disk
            .hook
            .before("finish")
            .map_err(|error| WriteError::file(inner.disk.dir(), error))?;
        inner.group_commit(vec![inner.disk.file(body.id)], move |t| {
            *lock(&answer) = Some(adopt(t, row, &shape)?);
            Ok(())
        })?;
        let (id, record) = lock(&outcome).take().ok_or(PartialError::Gone)?;
        let info = record.info(id, root);
        body.gone.store(true, Ordering::Release);
        inner.partials.remove(&body.shape.layout.root);
        if body.bitmap.is_some()
            && let Err(error) = inner.disk.remove_bitmap(body.id)
        {
            // The next open sees that the file is whole.
            debug!(
                error = &error as &dyn std::error::Error,
                "the bitmap of a finished file stays"
            );
        }
        if id != body.id {
            inner.unlink(body.id);
        }
        *finished = Some(info.clone());
        Ok(info)
    }

    /// Throws the partial file away. Other handles get [`PartialError::Gone`] when they write.
    pub fn discard(self) {
        let body = &self.body;
        if lock(&body.finished).is_some() || body.gone.swap(true, Ordering::AcqRel) {
            return;
        }
        self.store.0.partials.remove(&body.shape.layout.root);
        self.store.0.remove_partial_files(body.id);
    }

    fn whole_sha256(&self, wanted: Sha256) -> Result<Option<[u8; 32]>, PartialError> {
        let expected = match wanted {
            Sha256::Known(sha256) => return Ok(Some(sha256)),
            Sha256::Skip => return Ok(None),
            Sha256::Expect(sha256) => Some(sha256),
            Sha256::Compute => None,
        };
        let found = self.body.sha256().map_err(|error| self.read_error(error))?;
        match expected {
            Some(expected) if expected != found => Err(PartialError::Sha256 { expected, found }),
            _ => Ok(Some(found)),
        }
    }

    fn read_error(&self, error: io::Error) -> PartialError {
        WriteError::File(self.store.0.disk.file(self.body.id), error).into()
    }
}

/// Puts the finished file into the tables, unless somebody else brought the same one.
fn adopt(t: &mut Tables<'_>, mut row: NewRow, shape: &Shape) -> Result<(u64, FileRecord), IndexError> {
    if let Some(found) = t.find_root(&shape.layout.root)? {
        return Ok(found);
    }
    let twin = match &row.record.sha256 {
        Some(sha256) => t.find_sha256(sha256)?,
        None => None,
    };
    if let Some((id, record)) = twin {
        files::add_layout(t, id, record.clone(), shape, &std::mem::take(&mut row.nodes))?;
        return Ok((id, record));
    }
    files::insert(t, std::slice::from_ref(&row))?;
    Ok((row.id, row.record))
}
