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
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cid::Cid;
use pacstore_dag as dag;
use ring::digest::{Context, SHA256};
use tracing::{debug, warn};

use crate::bitmap::{Bitmap, State};
use crate::error::{IndexError, PartialError, WriteError};
use crate::files::{self, Lookup, NewRow};
use crate::index::Tables;
use crate::keys::{self, BlockKey, RAW, TAG_SHA2_256};
use crate::read::digest;
use crate::record::{ByOrigin, FileInfo, FileRecord, Origin, Place, Shape};
use crate::steps::Hook;
use crate::store::{Inner, Store};

/// This many bytes are written before they are synced and their leaves marked as durable.
const FLUSH_BYTES: u64 = 32 << 20;
/// How many leaves one write hashes at most, to catch up with leaves that came out of order.
const HASH_AHEAD: usize = 2;

/// What to do about the SHA-256 of the whole file when it is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sha256 {
    /// Compute it.
    Compute,
    /// Compute it; another one is an error.
    Expect([u8; 32]),
    /// It is this: whoever vouches for the root vouches for it too.
    Known([u8; 32]),
    /// Do without: the leaves were checked, and nobody will look for the file by it.
    Skip,
}

/// A partial file, open. Clones share it. While a handle is there gc leaves it alone; without, it stays
/// for later until its room is needed.
#[derive(Clone, Debug)]
pub struct Partial {
    pub(crate) store: Store,
    pub(crate) body: Arc<Body>,
}

/// The SHA-256 over the first leaves, kept up while they arrive.
struct Hashed {
    context: Context,
    leaves: usize,
}

impl std::fmt::Debug for Hashed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashed")
            .field("leaves", &self.leaves)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) id: u64,
    pub(crate) shape: Shape,
    /// Bytes that count against the cap.
    pub(crate) capped: u64,
    /// Last use, in seconds since 1970.
    pub(crate) used: AtomicU64,
    file: File,
    states: Vec<AtomicU8>,
    missing: AtomicUsize,
    /// `None` for a file of one leaf.
    bitmap: Option<Bitmap>,
    nodes: Mutex<Vec<(BlockKey, Bytes)>>,
    /// Leaves written since the last sync.
    claimed: Mutex<Vec<usize>>,
    unsynced: AtomicU64,
    hashed: Mutex<Hashed>,
    gone: AtomicBool,
    finished: Mutex<Option<FileInfo>>,
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
            return Err(PartialError::Gone);
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
            if body.unsynced.load(Ordering::Acquire) >= FLUSH_BYTES
                && let Err(error) = body.flush(hook)
            {
                // Nothing is lost: the leaves stay claimed, and are hashed again after a restart.
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot sync a partial file"
                );
            }
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
        let leaves = &self.body.shape.leaves.leaves;
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

    /// Makes what is here durable. Done by itself every 32 MiB and when the store is closed.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::File`].
    pub fn flush(&self) -> Result<(), WriteError> {
        let path = self.store.0.disk.file(self.body.id);
        self.body
            .flush(&self.store.0.disk.hook)
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

impl Body {
    /// Makes the files of a new partial one.
    pub(crate) fn create(inner: &Inner, id: u64, shape: Shape, capped: u64) -> Result<Self, WriteError> {
        let disk = &inner.disk;
        let path = disk
            .new_file(id)
            .map_err(|error| WriteError::file(disk.dir(), error))?;
        let made = || -> io::Result<(File, Option<Bitmap>)> {
            disk.hook.before("make partial")?;
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            file.set_len(shape.len)?;
            let bitmap = if shape.leaves.leaves.len() > 1 {
                Some(Bitmap::create(disk, id, &shape)?)
            } else {
                None
            };
            Ok((file, bitmap))
        };
        let (file, bitmap) = made().map_err(|error| {
            inner.remove_partial_files(id);
            WriteError::file(&path, error)
        })?;
        let states = vec![State::Missing; shape.leaves.leaves.len()];
        Ok(Self::with_states(inner, id, shape, capped, file, bitmap, &states))
    }

    /// Takes up what an earlier process left: leaves that it only claimed are hashed.
    pub(crate) fn resume(
        inner: &Inner,
        id: u64,
        shape: Shape,
        capped: u64,
        bitmap: Bitmap,
        states: &[State],
    ) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(inner.disk.file(id))?;
        if file.metadata()?.len() != shape.len {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the data has another length",
            ));
        }
        let body = Self::with_states(inner, id, shape, capped, file, Some(bitmap), states);
        let mut data = Vec::new();
        for (index, state) in states.iter().enumerate() {
            if !matches!(state, State::Claimed(_)) {
                continue;
            }
            data.clear();
            let leaf = body.shape.leaves.leaves[index];
            let cid = body.shape.leaves.cid(&leaf).filter(|_| leaf.is_raw());
            let read = body.read_leaf_into(index, &mut data);
            if read.is_err() || !cid.is_some_and(|cid| dag::verify(&cid, &data).is_ok()) {
                body.states[index].store(State::Missing.byte(), Ordering::Release);
                body.missing.fetch_add(1, Ordering::AcqRel);
                body.set_bitmap(index, State::Missing);
            } else {
                lock(&body.claimed).push(index);
            }
        }
        Ok(body)
    }

    fn with_states(
        inner: &Inner,
        id: u64,
        shape: Shape,
        capped: u64,
        file: File,
        bitmap: Option<Bitmap>,
        states: &[State],
    ) -> Self {
        Self {
            id,
            shape,
            capped,
            used: AtomicU64::new(inner.now()),
            file,
            missing: AtomicUsize::new(states.iter().filter(|state| **state == State::Missing).count()),
            states: states.iter().map(|state| AtomicU8::new(state.byte())).collect(),
            bitmap,
            nodes: Mutex::default(),
            claimed: Mutex::default(),
            unsynced: AtomicU64::new(0),
            hashed: Mutex::new(Hashed {
                context: Context::new(&SHA256),
                leaves: 0,
            }),
            gone: AtomicBool::new(false),
            finished: Mutex::default(),
        }
    }

    pub(crate) fn set_nodes(&self, nodes: Vec<(BlockKey, Bytes)>) {
        *lock(&self.nodes) = nodes;
    }

    pub(crate) fn count(&self) -> usize {
        self.states.len()
    }

    pub(crate) fn missing(&self) -> usize {
        self.missing.load(Ordering::Acquire)
    }

    /// True if the partial file outlives the process.
    pub(crate) fn is_kept(&self) -> bool {
        self.bitmap.is_some()
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.state(index) != State::Missing
    }

    fn state(&self, index: usize) -> State {
        self.states.get(index).map_or(State::Missing, |byte| {
            State::from_byte(byte.load(Ordering::Acquire))
        })
    }

    fn need(&self, index: usize) -> Result<(), PartialError> {
        if self.has(index) {
            Ok(())
        } else {
            Err(PartialError::Missing(index))
        }
    }

    fn leaf(&self, index: usize) -> Result<crate::record::LeafAt, PartialError> {
        let leaf = self.shape.leaves.leaves.get(index).copied();
        leaf.ok_or(PartialError::NoSuchLeaf {
            index,
            count: self.count(),
        })
    }

    fn by_origin(&self) -> ByOrigin {
        let mut counts = [0; 4];
        for (index, leaf) in self.shape.leaves.leaves.iter().enumerate() {
            if let Some(origin) = self.state(index).origin() {
                counts[origin.index()] += u64::from(leaf.len);
            }
        }
        ByOrigin::from_counts(counts)
    }

    pub(crate) fn read_leaf_into(&self, index: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let leaf = self.shape.leaves.leaves[index];
        let start = out.len();
        out.resize(start + leaf.len as usize, 0);
        self.file.read_exact_at(&mut out[start..], leaf.offset)
    }

    /// Marks a leaf as written; `false` if another writer was first.
    fn claim(&self, index: usize, origin: Origin) -> bool {
        let (from, to) = (State::Missing.byte(), State::Claimed(origin));
        let won = self.states[index]
            .compare_exchange(from, to.byte(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if won {
            self.missing.fetch_sub(1, Ordering::AcqRel);
            self.set_bitmap(index, to);
            lock(&self.claimed).push(index);
            self.unsynced
                .fetch_add(u64::from(self.shape.leaves.leaves[index].len), Ordering::AcqRel);
        }
        won
    }

    fn set_bitmap(&self, index: usize, state: State) {
        if let Some(bitmap) = &self.bitmap
            && let Err(error) = bitmap.set(index, state)
        {
            // After a restart the leaf will be asked for again, nothing worse.
            warn!(
                error = &error as &dyn std::error::Error,
                "cannot write the bitmap of a partial file"
            );
        }
    }

    /// Syncs the data, then marks as durable what was written before the sync.
    pub(crate) fn flush(&self, hook: &Hook) -> io::Result<()> {
        let Some(bitmap) = &self.bitmap else { return Ok(()) };
        let claimed = std::mem::take(&mut *lock(&self.claimed));
        if claimed.is_empty() || self.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        self.unsynced.store(0, Ordering::Release);
        let synced = hook.before("sync partial").and_then(|()| self.file.sync_data());
        if let Err(error) = synced {
            lock(&self.claimed).extend(claimed);
            return Err(error);
        }
        hook.before("mark leaves")?;
        for index in claimed {
            if let State::Claimed(origin) = self.state(index) {
                self.states[index].store(State::Kept(origin).byte(), Ordering::Release);
                self.set_bitmap(index, State::Kept(origin));
            }
        }
        bitmap.sync()
    }

    /// Hashes a leaf that was just written, if it is the next one, and a few that wait behind it.
    fn hash_along(&self, index: usize, data: &[u8]) {
        if self.sha256_of_root().is_some() {
            return;
        }
        let Ok(mut hashed) = self.hashed.try_lock() else {
            return;
        };
        if hashed.leaves != index {
            return;
        }
        hashed.context.update(data);
        hashed.leaves += 1;
        // A failed read is met again when the file is finished.
        let _ = self.hash_on(&mut hashed, HASH_AHEAD);
    }

    /// Hashes up to `limit` of the leaves that come next, as long as they are here.
    fn hash_on(&self, hashed: &mut Hashed, limit: usize) -> io::Result<()> {
        let mut data = Vec::new();
        for _ in 0..limit {
            if hashed.leaves == self.count() || !self.has(hashed.leaves) {
                return Ok(());
            }
            data.clear();
            self.read_leaf_into(hashed.leaves, &mut data)?;
            hashed.context.update(&data);
            hashed.leaves += 1;
        }
        Ok(())
    }

    /// The SHA-256 that the root of a one-leaf file already says.
    fn sha256_of_root(&self) -> Option<[u8; 32]> {
        let root = &self.shape.layout.root;
        let says = self.shape.layout.single && root[0] == TAG_SHA2_256 && keys::codec_of(root) == RAW;
        if says { root[1..33].try_into().ok() } else { None }
    }

    /// The SHA-256 of the whole file; all leaves are here.
    fn sha256(&self) -> io::Result<[u8; 32]> {
        if let Some(sha256) = self.sha256_of_root() {
            return Ok(sha256);
        }
        let mut hashed = lock(&self.hashed);
        self.hash_on(&mut hashed, usize::MAX)?;
        Ok(digest(hashed.context.clone()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
