//! The bytes of a partial file: which leaves are there, how they become durable, the hash kept up with them.
//!
//! - Invariant: a leaf counts as here only after all its bytes were written.
//! - Invariant: each leaf is counted once, whoever writes it how often.
//! - Not here: turning it into a whole file (`crate::partial`), which partial files there are (`crate::partials`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pacstore_dag as dag;
use ring::digest::{Context, SHA256};
use tracing::warn;

use crate::bitmap::{Bitmap, State};
use crate::disk::Disk;
use crate::error::{PartialError, WriteError};
use crate::keys::{self, BlockKey, RAW, TAG_SHA2_256};
use crate::leaves::{LeafAt, Shape};
use crate::read::digest;
use crate::record::{ByOrigin, FileInfo, Origin};
use crate::store::Inner;

/// How many leaves one write hashes at most, to catch up with leaves that came out of order.
const HASH_AHEAD: usize = 2;

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
    /// Bytes of disk that it takes when it is whole.
    pub(crate) on_disk: u64,
    /// Bytes that count against the cap: none while something refers to the root.
    pub(crate) capped: AtomicU64,
    /// Last use, in seconds since 1970.
    pub(crate) used: AtomicU64,
    pub(crate) file: File,
    states: Vec<AtomicU8>,
    missing: AtomicUsize,
    /// `None` for a file of one leaf.
    pub(crate) bitmap: Option<Bitmap>,
    pub(crate) nodes: Mutex<Vec<(BlockKey, Bytes)>>,
    /// Leaves written since the last sync.
    claimed: Mutex<Vec<usize>>,
    hashed: Mutex<Hashed>,
    /// The SHA-256 of the whole is not kept up while leaves arrive.
    unhashed: AtomicBool,
    pub(crate) gone: AtomicBool,
    pub(crate) finished: Mutex<Option<FileInfo>>,
}

impl Body {
    /// Makes the files of a new partial one.
    pub(crate) fn create(inner: &Inner, id: u64, shape: Shape, capped: u64) -> Result<Self, WriteError> {
        let disk = &inner.disk;
        let spot = disk
            .new_file(id)
            .map_err(|error| WriteError::file(disk.dir(), error))?;
        let path = &spot.path;
        let made = || -> io::Result<(File, Option<Bitmap>)> {
            disk.hook.before("make partial")?;
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?;
            file.set_len(shape.len)?;
            let bitmap = if shape.leaves.list.len() > 1 {
                Some(Bitmap::create(disk, id, &shape)?)
            } else {
                None
            };
            Ok((file, bitmap))
        };
        let (file, bitmap) = made().map_err(|error| {
            inner.remove_partial_files(id);
            WriteError::file(path, error)
        })?;
        let states = vec![State::Missing; shape.leaves.list.len()];
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
            let leaf = body.shape.leaves.list[index];
            let cid = body.shape.leaves.cid(&leaf).filter(|_| leaf.is_raw());
            let read = body.read_leaf_into(index, &mut data);
            if read.is_err() || cid.is_none_or(|cid| dag::verify(&cid, &data).is_err()) {
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
            on_disk: inner.index.on_disk(shape.len),
            shape,
            capped: AtomicU64::new(capped),
            used: AtomicU64::new(inner.now()),
            file,
            missing: AtomicUsize::new(states.iter().filter(|state| **state == State::Missing).count()),
            states: states.iter().map(|state| AtomicU8::new(state.byte())).collect(),
            bitmap,
            nodes: Mutex::default(),
            claimed: Mutex::default(),
            hashed: Mutex::new(Hashed {
                context: Context::new(&SHA256),
                leaves: 0,
            }),
            unhashed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            finished: Mutex::default(),
        }
    }

    /// Leaves the SHA-256 of the whole for later.
    pub(crate) fn leave_unhashed(&self) {
        self.unhashed.store(true, Ordering::Relaxed);
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

    pub(crate) fn need(&self, index: usize) -> Result<(), PartialError> {
        if self.has(index) {
            Ok(())
        } else {
            Err(PartialError::Missing(index))
        }
    }

    pub(crate) fn leaf(&self, index: usize) -> Result<LeafAt, PartialError> {
        let leaf = self.shape.leaves.list.get(index).copied();
        leaf.ok_or(PartialError::NoSuchLeaf {
            index,
            count: self.count(),
        })
    }

    pub(crate) fn by_origin(&self) -> ByOrigin {
        let mut counts = [0; 4];
        for (index, leaf) in self.shape.leaves.list.iter().enumerate() {
            if let Some(origin) = self.state(index).origin() {
                counts[origin.index()] += u64::from(leaf.len);
            }
        }
        ByOrigin::from_counts(counts)
    }

    pub(crate) fn read_leaf_into(&self, index: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let leaf = self.shape.leaves.list[index];
        let start = out.len();
        out.resize(start + leaf.len as usize, 0);
        self.file.read_exact_at(&mut out[start..], leaf.offset)
    }

    /// Marks a leaf as written; `false` if another writer was first.
    pub(crate) fn claim(&self, index: usize, origin: Origin) -> bool {
        let (from, to) = (State::Missing.byte(), State::Claimed(origin));
        let won = self.states[index]
            .compare_exchange(from, to.byte(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if won {
            self.missing.fetch_sub(1, Ordering::AcqRel);
            self.set_bitmap(index, to);
            lock(&self.claimed).push(index);
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
    pub(crate) fn flush(&self, disk: &Disk) -> io::Result<()> {
        let Some(bitmap) = &self.bitmap else { return Ok(()) };
        let claimed = std::mem::take(&mut *lock(&self.claimed));
        if claimed.is_empty() || self.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Err(error) = self.sync_data(disk) {
            lock(&self.claimed).extend(claimed);
            return Err(error);
        }
        disk.hook.before("mark leaves")?;
        for index in claimed {
            if let State::Claimed(origin) = self.state(index) {
                self.states[index].store(State::Kept(origin).byte(), Ordering::Release);
                self.set_bitmap(index, State::Kept(origin));
            }
        }
        bitmap.sync(disk, self.id)
    }

    fn sync_data(&self, disk: &Disk) -> io::Result<()> {
        disk.hook.before("sync partial")?;
        let path = disk.file(self.id);
        disk.hook.sync_bytes(&self.file, &path)?;
        path.parent().map_or(Ok(()), |folder| disk.hook.sync_dir(folder))
    }

    /// Hashes a leaf that was just written, if it is the next one, and a few that wait behind it.
    pub(crate) fn hash_along(&self, index: usize, data: &[u8]) {
        if self.unhashed.load(Ordering::Relaxed) || self.sha256_of_root().is_some() {
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
    pub(crate) fn sha256(&self) -> io::Result<[u8; 32]> {
        if let Some(sha256) = self.sha256_of_root() {
            return Ok(sha256);
        }
        let mut hashed = lock(&self.hashed);
        self.hash_on(&mut hashed, usize::MAX)?;
        Ok(digest(hashed.context.clone()))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
