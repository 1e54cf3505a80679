//! The store as its users see it: open, state, labels, pins, sums.
//!
//! - Invariant: one process has a store open; within it, all handles share one state and any thread may call.
//! - Invariant: locks are taken in the order admission, registry of partial files, busy files, index.
//! - Not here: reading (`crate::read`), taking in (`crate::batch`, `crate::partial`), freeing (`crate::gc`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cid::Cid;
use pacstore_dag as dag;
use pacstore_runtime::Clock;
use redb::ReadableTable;
use tracing::{info, warn};

use crate::disk::Disk;
use crate::error::{IndexError, OpenError, ReadError, WriteError};
use crate::files::{self, Lookup};
use crate::group::Group;
use crate::handles::Handles;
use crate::index::{FILES, Index, LABELS, STATE, Settings, Tables};
use crate::intake::Taker;
use crate::keys::{self, RefKey};
use crate::nodes::{self, Put};
use crate::partials::Partials;
use crate::refs;
use crate::steps::{Hook, Steps};
use crate::work;

const MIB: u64 = 1024 * 1024;
/// Labels and keys may be this long, in bytes.
const MAX_LABEL: usize = 4096;
/// Uses are kept in memory up to this many before they are written down.
const MAX_TOUCHED: usize = 16_384;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cap on the bytes of disk of files that nothing retains or pins, partial files included.
    pub max_size: u64,
    /// Says when files were used.
    pub clock: Clock,
}

impl Options {
    /// This cap in bytes, and the machine's clock.
    pub fn new(max_size: u64) -> Self {
        Self {
            max_size,
            clock: Clock::system(),
        }
    }
}

/// What only tests and unusual machines change.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Memory for pages of the index, in bytes.
    pub cache_bytes: usize,
    /// Cap on the bytes of nodes that nothing holds; by default 1/64 of `max_size`, from 64 MiB to 1 GiB.
    pub max_free_node_bytes: Option<u64>,
    /// How many references one transaction counts; what is left is done in further ones.
    pub refs_at_once: usize,
    /// The disk gives whole blocks of so many bytes: what files take of it, and of the cap, is counted in these.
    pub block: u64,
    /// The crash seam.
    pub steps: Option<Arc<dyn Steps>>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cache_bytes: 12 << 20,
            max_free_node_bytes: None,
            refs_at_once: 4096,
            // What ext4, xfs, btrfs and tmpfs have.
            block: 4096,
            steps: None,
        }
    }
}

/// Sums over the store. Cheap to get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of disk that files and partial files take; files left in place count 0.
    pub bytes: u64,
    /// Of these, bytes that gc may free.
    pub evictable: u64,
    /// Cap on `evictable`.
    pub max_bytes: u64,
    /// Whole files.
    pub files: u64,
    /// Blocks that are no range of a file.
    pub nodes: u64,
    /// Bytes of disk that the index takes, nodes included.
    pub index_bytes: u64,
    /// Partial files.
    pub partials: u64,
}

/// A store, open. Clones share it; it is closed when the last clone and all that came from it are dropped.
#[derive(Clone, Debug)]
pub struct Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) index: Index,
    pub(crate) clock: Clock,
    pub(crate) max_size: u64,
    pub(crate) max_free_nodes: u64,
    pub(crate) next_id: AtomicU64,
    /// The first id that this process gave out.
    pub(crate) opened_at_id: u64,
    pub(crate) taker: Taker,
    pub(crate) admission: Mutex<()>,
    /// Bytes promised to writers that have not written them yet.
    pub(crate) reserved: AtomicU64,
    /// Files that a batch counts on; gc passes them over.
    pub(crate) busy: Mutex<HashMap<u64, u32>>,
    touched: Mutex<HashMap<RefKey, u64>>,
    /// When uses were last written down by gc, in seconds since 1970.
    pub(crate) uses_written: AtomicU64,
    pub(crate) handles: Handles,
    pub(crate) recheck: Mutex<()>,
    pub(crate) partials: Partials,
    pub(crate) group: Group,
    /// Something may lie in the folder that the index does not know: the next open has to look.
    unclean: AtomicBool,
    // Last, so that the folder's lock goes last.
    pub(crate) disk: Disk,
}

impl Store {
    /// Opens the store in `dir`, or makes it there.
    ///
    /// After a crash, what was never acknowledged is swept, and partial files are resumed.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if somebody has it open, [`OpenError::Format`] if another version wrote it,
    /// [`OpenError::Index`] if the index is damaged, or lost while files are here.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_with(dir, options, Tuning::default())
    }

    /// As [`Self::open`], with what is rarely changed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(dir: &Path, options: Options, tuning: Tuning) -> Result<Self, OpenError> {
        let hook = Hook::new(tuning.steps);
        let disk = Disk::open(dir, hook.clone())?;
        refuse_lost_index(&disk)?;
        let clean = disk.take_clean_mark();
        let settings = Settings {
            cache_bytes: tuning.cache_bytes,
            refs_at_once: tuning.refs_at_once,
            block: tuning.block,
        };
        let index = Index::open(&disk.index(), settings, &hook)?;
        disk.sync_root()
            .map_err(|error| OpenError::File(disk.dir().to_owned(), error))?;
        let default_nodes = (options.max_size / 64).clamp(64 * MIB, 1024 * MIB);
        let mut inner = Inner {
            next_id: AtomicU64::new(index.counters().next_id),
            opened_at_id: 0,
            index,
            uses_written: AtomicU64::new(options.clock.unix_seconds()),
            clock: options.clock,
            max_size: options.max_size,
            max_free_nodes: tuning.max_free_node_bytes.unwrap_or(default_nodes),
            taker: Taker::default(),
            admission: Mutex::default(),
            reserved: AtomicU64::new(0),
            busy: Mutex::default(),
            touched: Mutex::default(),
            handles: Handles::default(),
            recheck: Mutex::default(),
            partials: Partials::default(),
            group: Group::default(),
            unclean: AtomicBool::new(!clean),
            disk,
        };
        if let Err(error) = inner.settle() {
            // A full disk, say: gc has room kept for it.
            warn!(
                error = &error as &dyn std::error::Error,
                "references are still to be counted"
            );
        }
        inner.load_partials()?;
        if !clean {
            let swept = inner.sweep()?;
            if swept > 0 {
                info!(files = swept, "removed files that were never finished");
            }
            inner.unclean.store(false, Ordering::Relaxed);
        }
        inner.disk.make_ballast();
        inner.opened_at_id = inner.next_id.load(Ordering::Relaxed);
        inner.disk.remove_empty_folders(inner.opened_at_id);
        Ok(Self(Arc::new(inner)))
    }

    /// Adds blocks that are no range of a file. Durable when it returns; several callers share one sync.
    ///
    /// The caller has verified them.
    ///
    /// # Errors
    /// [`WriteError::Unsupported`], [`WriteError::BlockSize`], [`WriteError::StorageFull`].
    pub fn put_nodes(&self, blocks: &[dag::Block]) -> Result<(), WriteError> {
        let mut rows = blocks.iter().map(node_row).collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_unstable_by_key(|(key, _)| *key);
        let cap = self.0.max_free_nodes;
        self.0.group_commit(Vec::new(), move |t| {
            for (key, data) in &rows {
                nodes::put(t, key, data, Put::Loose)?;
            }
            if t.counters.free_node_bytes > cap && !work::is_raising(t)? {
                // A little more than needed, so that not every call has to.
                nodes::evict(t, cap - cap / 16, 4096)?;
            }
            Ok(())
        })
    }

    /// Holds the tree under `root` for `label`, and lets go of what the label held before.
    ///
    /// What of the tree is not here yet is held as soon as it comes. Costs what is new and what is gone, not
    /// the size of the tree. What batches staged under the label is let go of too: the tree holds it now.
    ///
    /// Done in transactions of a few thousand references each, so that other writers go on meanwhile. Once the
    /// first of them is durable the tree is retained: what is left is done by the next open after a crash, and
    /// before anything is evicted.
    ///
    /// A label that begins with [`NODES_ONLY`](crate::NODES_ONLY) holds the directories of the tree and the inner
    /// nodes of its files; the files themselves stay evictable.
    ///
    /// # Errors
    /// [`WriteError::Unsupported`], [`WriteError::Label`], [`WriteError::StorageFull`]; the tree may be retained
    /// all the same.
    pub fn retain(&self, label: &str, root: &Cid) -> Result<(), WriteError> {
        check_label(label)?;
        let key = keys::label_key(label, root).ok_or(WriteError::Unsupported(*root))?;
        self.0.write("retain", |t| {
            let old = t
                .labels
                .insert(label, root.to_bytes().as_slice())?
                .and_then(|row| row_key(label, row.value()));
            if old != Some(key) {
                refs::add(t, vec![key])?;
                refs::remove(t, old.into_iter().collect())?;
            }
            work::let_go_of_staged(t, label)
        })?;
        Ok(self.0.settle()?)
    }

    /// Lets go of what `label` holds, staged files included. No error if it holds nothing.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::Index`].
    pub fn release(&self, label: &str) -> Result<(), WriteError> {
        self.0.write_to_free("release", |t| {
            let old = t
                .labels
                .remove(label)?
                .and_then(|row| row_key(label, row.value()));
            refs::remove(t, old.into_iter().collect())?;
            work::let_go_of_staged(t, label)
        })?;
        self.0.settle_to_free()
    }

    /// The labels and the trees that they hold, by label.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn retained(&self) -> Result<Vec<(String, Cid)>, IndexError> {
        self.0.index.read(|txn| {
            let mut found = Vec::new();
            for row in txn.open_table(LABELS)?.iter()? {
                let (label, root) = row?;
                let root =
                    Cid::try_from(root.value()).map_err(|_| IndexError::malformed("CID of a label"))?;
                found.push((label.value().to_owned(), root));
            }
            Ok(found)
        })
    }

    /// Holds a file, block or tree until [`Self::unpin`]. Pinning twice is pinning once.
    ///
    /// # Errors
    /// [`WriteError::Unsupported`], [`WriteError::StorageFull`].
    pub fn pin(&self, cid: &Cid) -> Result<(), WriteError> {
        let key = keys::ref_key(cid).ok_or(WriteError::Unsupported(*cid))?;
        self.0.write("pin", |t| {
            if t.pins.insert(&key, ())?.is_some() {
                return Ok(());
            }
            refs::add(t, vec![key])
        })?;
        Ok(self.0.settle()?)
    }

    /// Undoes [`Self::pin`]; no error if there was no pin.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::Index`].
    pub fn unpin(&self, cid: &Cid) -> Result<(), WriteError> {
        let Some(key) = keys::ref_key(cid) else {
            return Ok(());
        };
        self.0.write_to_free("unpin", |t| {
            if t.pins.remove(&key)?.is_none() {
                return Ok(());
            }
            refs::remove(t, vec![key])
        })?;
        self.0.settle_to_free()
    }

    /// Notes that a file was used now. Kept in memory; written down by gc and when the store is closed.
    pub fn touch(&self, root: &Cid) {
        if let Some(key) = keys::ref_key(root) {
            self.0.touch(key);
        }
    }

    /// What the layers above keep under `key`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn state_get(&self, key: &str) -> Result<Option<Vec<u8>>, IndexError> {
        self.0
            .index
            .read(|txn| Ok(txn.open_table(STATE)?.get(key)?.map(|row| row.value().to_vec())))
    }

    /// Sets (`Some`) and removes (`None`) entries, all in one durable transaction.
    ///
    /// # Errors
    /// [`WriteError::Label`] for a key that is empty or too long, [`WriteError::StorageFull`].
    pub fn state_put(&self, entries: &[(&str, Option<&[u8]>)]) -> Result<(), WriteError> {
        entries.iter().try_for_each(|(key, _)| check_label(key))?;
        self.0.write("state", |t| {
            for (key, value) in entries {
                match value {
                    Some(value) => t.state.insert(*key, *value)?,
                    None => t.state.remove(*key)?,
                };
            }
            Ok(())
        })
    }

    /// All entries whose key begins with `prefix`, by key.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn state_list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, IndexError> {
        self.0.index.read(|txn| {
            let mut found = Vec::new();
            for row in txn.open_table(STATE)?.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    /// Sums over the store.
    pub fn stats(&self) -> Stats {
        let counters = self.0.index.counters();
        let partial = self.0.partials.sums();
        Stats {
            bytes: counters.file_bytes + partial.bytes,
            evictable: counters.free_file_bytes + partial.capped,
            max_bytes: self.0.max_size,
            files: counters.files,
            nodes: counters.nodes,
            index_bytes: self.0.index.file_len(),
            partials: partial.count,
        }
    }

    /// The store's folder, absolute.
    pub fn dir(&self) -> &Path {
        self.0.disk.dir()
    }
}

/// Nodes, and blocks of files where somebody asks for one.
impl dag::BlockSource for Store {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, dag::SourceError> {
        self.block(cid).map_err(dag::SourceError::new)
    }
}

impl Inner {
    /// One durable transaction, with the crash seam in front of it.
    pub(crate) fn write<T>(
        &self,
        step: &'static str,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, IndexError>,
    ) -> Result<T, WriteError> {
        self.disk.hook.before(step).map_err(IndexError::from)?;
        Ok(self.index.write(change)?)
    }

    /// The next open looks for files that the index does not know.
    pub(crate) fn leave_unclean(&self) {
        self.unclean.store(true, Ordering::Relaxed);
    }

    /// Removes the bytes of a file that is not in the index (any more).
    pub(crate) fn unlink(&self, id: u64) {
        self.handles.forget(id);
        if let Err(error) = self.disk.remove_file(id) {
            self.leave_unclean();
            warn!(
                id,
                error = &error as &dyn std::error::Error,
                "a file that is no longer needed stays"
            );
        }
    }

    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.clock.unix_seconds()
    }

    pub(crate) fn touch(&self, key: RefKey) {
        let now = self.now();
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.insert(key, now);
        if touched.len() < MAX_TOUCHED {
            return;
        }
        let uses = std::mem::take(&mut *touched);
        drop(touched);
        if let Err(error) = self.index.write_lazily(|t| write_touched(t, &uses)) {
            warn!(
                error = &error as &dyn std::error::Error,
                "cannot write down which files were used"
            );
        }
    }

    /// Uses that are not written down yet.
    pub(crate) fn take_touched(&self) -> HashMap<RefKey, u64> {
        std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes files that are neither in the index nor partial. Gives how many.
    fn sweep(&self) -> Result<u64, OpenError> {
        let failed = |error| OpenError::File(self.disk.dir().to_owned(), error);
        let mut stray = Vec::new();
        let mut highest = 0;
        let mut listed = Ok(());
        let partials = self.partials.ids();
        self.index.read(|txn| {
            let table = txn.open_table(FILES)?;
            listed = self.disk.list_files(|id, path| match id {
                None => {
                    warn!(path = %path.display(), "a file that the store did not make lies in its folder");
                }
                Some(id) => {
                    highest = highest.max(id + 1);
                    if !partials.contains(&id) && !matches!(table.get(id), Ok(Some(_)) | Err(_)) {
                        stray.push(id);
                    }
                }
            });
            Ok(())
        })?;
        listed.map_err(failed)?;
        // A crash may have lost the highest id; what lies there under it must not be mistaken for a new file.
        self.next_id.fetch_max(highest, Ordering::Relaxed);
        for id in &stray {
            self.disk.remove_file(*id).map_err(failed)?;
        }
        Ok(stray.len() as u64)
    }
}

/// A store without an index is a new one, and so is one whose index is cut to nothing; with files it is neither:
/// they would be swept as strays. No crash of ours leaves that: the index is durable before the first file is made.
fn refuse_lost_index(disk: &Disk) -> Result<(), OpenError> {
    let has_files = || {
        disk.has_files()
            .map_err(|error| OpenError::File(disk.dir().to_owned(), error))
    };
    if Index::is_at(&disk.index()) || !has_files()? {
        return Ok(());
    }
    Err(IndexError::malformed("it is gone, empty or cut off, and there are files").into())
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.flush_partials();
        let uses = self.take_touched();
        if !uses.is_empty()
            && let Err(error) = self.write("close", |t| write_touched(t, &uses))
        {
            warn!(
                error = &error as &dyn std::error::Error,
                "cannot write down which files were used"
            );
        }
        if self.unclean.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.disk.put_clean_mark() {
            warn!(
                error = &error as &dyn std::error::Error,
                "the store was not closed in order"
            );
        }
    }
}

/// Writes down uses; those of files that are not here are dropped.
pub(crate) fn write_touched(t: &mut Tables<'_>, uses: &HashMap<RefKey, u64>) -> Result<(), IndexError> {
    for (key, used) in uses {
        if let Some((id, _)) = t.find_root(key)? {
            files::touch(t, id, *used)?;
        }
    }
    Ok(())
}

pub(crate) fn node_row(block: &dag::Block) -> Result<(keys::BlockKey, Bytes), WriteError> {
    if block.data.len() > dag::MAX_BLOCK {
        return Err(WriteError::BlockSize {
            cid: block.cid,
            len: block.data.len(),
        });
    }
    let key = keys::block_key(&block.cid).ok_or(WriteError::Unsupported(block.cid))?;
    Ok((key, block.data.clone()))
}

pub(crate) fn check_label(label: &str) -> Result<(), WriteError> {
    let good = (1..=MAX_LABEL).contains(&label.len()) && !label.contains('\0');
    if good {
        Ok(())
    } else {
        Err(WriteError::Label(label.len()))
    }
}

/// The key under which `key` is staged for `label`.
pub(crate) fn staged_key(label: &str, key: &[u8]) -> Vec<u8> {
    [label.as_bytes(), &[0], key].concat()
}

fn row_key(label: &str, row: &[u8]) -> Option<RefKey> {
    keys::label_key(label, &Cid::try_from(row).ok()?)
}

impl From<IndexError> for dag::SourceError {
    fn from(error: IndexError) -> Self {
        Self::new(error)
    }
}

impl From<ReadError> for dag::SourceError {
    fn from(error: ReadError) -> Self {
        Self::new(error)
    }
}
