//! The index: which tables there are, and how one transaction over all of them runs.
//!
//! Two tables are what we know (`FILES` with `LEAVES`, and `NODES`), three what was asked of us (`LABELS`,
//! `STAGED`, `PINS`), one is what of that is still to be counted (`WORK`), and one belongs to the layers above
//! (`STATE`). All others follow from these and can be
//! built anew: fsck does.
//!
//! - Invariant: the counters change in the transaction that changes what they count.
//! - Invariant: after a failed transaction the database is opened anew before the next one; where its file cannot be
//!   written, it is read as it is, and each write tries again.
//! - Not here: what is done in a transaction (`crate::files`, `crate::nodes`, `crate::refs`).

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, Table,
    TableDefinition, WriteTransaction,
};

use tracing::{info, warn};

use crate::error::IndexError;
use crate::files;
use crate::frozen::Frozen;
use crate::record::in_blocks;
use crate::steps::Hook;

/// File id -> [`crate::record::FileRecord`].
pub(crate) const FILES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("files");
/// (File id, number of the layout) -> [`crate::leaves::Leaves`]; none for a file of one raw leaf.
pub(crate) const LEAVES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("leaves");
/// Root -> file id, for roots that are not a raw block over the whole file.
pub(crate) const ROOTS: TableDefinition<'_, &[u8; 34], u64> = TableDefinition::new("roots");
/// SHA-256 -> file id, where no raw root says it.
pub(crate) const SHA256: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("sha256");
/// Raw block -> [`crate::files::At`]: a range of a file.
pub(crate) const BLOCKS: TableDefinition<'_, &[u8; 33], &[u8; 16]> = TableDefinition::new("blocks");
/// (Raw block, file id) -> where else the same block is.
pub(crate) const TWINS: TableDefinition<'_, &[u8; 41], &[u8; 16]> = TableDefinition::new("twins");
/// Block -> [`crate::nodes::Node`]: blocks that are no range of a file.
pub(crate) const NODES: TableDefinition<'_, &[u8; 33], &[u8]> = TableDefinition::new("nodes");
/// Order of arrival -> block, for nodes that nothing holds.
pub(crate) const FREE_NODES: TableDefinition<'_, u64, &[u8; 33]> = TableDefinition::new("free_nodes");
/// Reference -> how many labels, pins and held nodes link to it.
pub(crate) const REFS: TableDefinition<'_, &[u8; 34], u64> = TableDefinition::new("refs");
/// Label -> CID of the tree that it retains.
pub(crate) const LABELS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("labels");
/// Label, NUL, reference: held under the label until it retains a tree.
pub(crate) const STAGED: TableDefinition<'_, &[u8], ()> = TableDefinition::new("staged");
/// Pinned references.
pub(crate) const PINS: TableDefinition<'_, &[u8; 34], ()> = TableDefinition::new("pins");
/// What references are still to be counted, see [`crate::work`].
pub(crate) const WORK: TableDefinition<'_, &[u8], u64> = TableDefinition::new("work");
/// Order of eviction ([`crate::record::FileRecord::lru_key`]) of files that nothing holds.
pub(crate) const LRU: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("lru");
/// What the layers above keep.
pub(crate) const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
/// [`Counters`].
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

const COUNTERS: &str = "counters";
/// A database's header has a page to itself, so that no database is shorter, in bytes.
const SHORTEST: u64 = 4096;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Sums over the tables, so that nobody has to walk them.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Counters { $($(#[$doc])* pub(crate) $name: u64,)* }

        impl Counters {
            fn encode(&self) -> Vec<u8> {
                [$(self.$name),*].iter().flat_map(|n| n.to_le_bytes()).collect()
            }

            fn decode(row: &[u8]) -> Option<Self> {
                let mut numbers = row.chunks_exact(8).filter_map(|n| n.try_into().ok()).map(u64::from_le_bytes);
                // A row that an earlier version wrote has fewer numbers.
                (row.len() >= 8).then_some(())?;
                Some(Self { $($name: numbers.next().unwrap_or(0)),* })
            }
        }
    };
}
counters! {
    /// Counts transactions, so that a newer state is told from an older one.
    transactions,
    /// No file has this id or a higher one.
    next_id,
    /// No node has this order of arrival or a higher one.
    next_node,
    files,
    /// Bytes of disk that the files take.
    file_bytes,
    /// Of these, bytes of files that nothing holds.
    free_file_bytes,
    nodes,
    node_bytes,
    free_nodes,
    free_node_bytes,
    /// Rows of `WORK`.
    pending,
    /// The block of the disk, in bytes, by which `file_bytes` and `free_file_bytes` were counted; 0 says 1.
    block,
}

/// All tables in one write transaction.
#[derive(Debug)]
pub(crate) struct Tables<'t> {
    pub(crate) files: Table<'t, u64, &'static [u8]>,
    pub(crate) leaves: Table<'t, (u64, u32), &'static [u8]>,
    pub(crate) roots: Table<'t, &'static [u8; 34], u64>,
    pub(crate) sha256: Table<'t, &'static [u8; 32], u64>,
    pub(crate) blocks: Table<'t, &'static [u8; 33], &'static [u8; 16]>,
    pub(crate) twins: Table<'t, &'static [u8; 41], &'static [u8; 16]>,
    pub(crate) nodes: Table<'t, &'static [u8; 33], &'static [u8]>,
    pub(crate) free_nodes: Table<'t, u64, &'static [u8; 33]>,
    pub(crate) refs: Table<'t, &'static [u8; 34], u64>,
    pub(crate) labels: Table<'t, &'static str, &'static [u8]>,
    pub(crate) staged: Table<'t, &'static [u8], ()>,
    pub(crate) pins: Table<'t, &'static [u8; 34], ()>,
    pub(crate) work: Table<'t, &'static [u8], u64>,
    pub(crate) lru: Table<'t, (u64, u64), ()>,
    pub(crate) state: Table<'t, &'static str, &'static [u8]>,
    meta: Table<'t, &'static str, &'static [u8]>,
    pub(crate) counters: Counters,
    /// How many references one transaction counts before the rest is left as work.
    pub(crate) refs_at_once: usize,
    /// The disk gives whole blocks of so many bytes.
    pub(crate) block: u64,
}

/// What only tests and unusual machines change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Memory for pages, in bytes.
    pub(crate) cache_bytes: usize,
    /// As [`Tables::refs_at_once`].
    pub(crate) refs_at_once: usize,
    /// As [`Tables::block`].
    pub(crate) block: u64,
}

impl<'t> Tables<'t> {
    fn open(txn: &'t WriteTransaction, settings: &Settings) -> Result<Self, IndexError> {
        let meta = txn.open_table(META)?;
        let counters = meta
            .get(COUNTERS)?
            .and_then(|row| Counters::decode(row.value()))
            .unwrap_or_default();
        Ok(Self {
            files: txn.open_table(FILES)?,
            leaves: txn.open_table(LEAVES)?,
            roots: txn.open_table(ROOTS)?,
            sha256: txn.open_table(SHA256)?,
            blocks: txn.open_table(BLOCKS)?,
            twins: txn.open_table(TWINS)?,
            nodes: txn.open_table(NODES)?,
            free_nodes: txn.open_table(FREE_NODES)?,
            refs: txn.open_table(REFS)?,
            labels: txn.open_table(LABELS)?,
            staged: txn.open_table(STAGED)?,
            pins: txn.open_table(PINS)?,
            work: txn.open_table(WORK)?,
            lru: txn.open_table(LRU)?,
            state: txn.open_table(STATE)?,
            meta,
            counters,
            refs_at_once: settings.refs_at_once,
            block: settings.block,
        })
    }

    fn save(mut self) -> Result<Counters, IndexError> {
        self.counters.transactions += 1;
        self.meta.insert(COUNTERS, self.counters.encode().as_slice())?;
        Ok(self.counters)
    }
}

/// The database and the last committed counters.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    settings: Settings,
    hook: Hook,
    db: RwLock<Option<Opened>>,
    /// It failed: it refuses all work until it is opened anew.
    broken: AtomicBool,
    counters: Mutex<Counters>,
}

#[derive(Debug)]
struct Opened {
    db: Database,
    /// Over [`Frozen`]: nothing that is written here is kept.
    is_frozen: bool,
}

impl Opened {
    fn does(&self, want: Want) -> bool {
        want == Want::Read || !self.is_frozen
    }
}

/// What somebody wants of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Read,
    Write,
}

impl Index {
    /// False if `path` is not there, or too short to be a database. One that is being made is never either under
    /// this name: it gets the name when it is whole.
    pub(crate) fn is_at(path: &Path) -> bool {
        fs_err::metadata(path).is_ok_and(|meta| meta.len() >= SHORTEST)
    }

    /// Opens the database in `path`, or makes it where none [`is_at`](Self::is_at) that path.
    pub(crate) fn open(path: &Path, settings: Settings, hook: &Hook) -> Result<Self, IndexError> {
        let over = |path: &Path| Self {
            path: path.to_owned(),
            settings: Settings {
                refs_at_once: settings.refs_at_once.max(1),
                block: settings.block.max(1),
                ..settings
            },
            hook: hook.clone(),
            db: RwLock::new(None),
            broken: AtomicBool::new(true),
            counters: Mutex::default(),
        };
        if !Self::is_at(path) {
            // Under its name only once it is whole: a database of which a power cut took the head opens no more.
            let new = path.with_extension("new");
            match fs_err::remove_file(&new) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            over(&new).write(|t| {
                t.counters.block = t.block;
                Ok(())
            })?;
            hook.before("rename index")?;
            fs_err::rename(&new, path)?;
        }
        let index = over(path);
        // All tables exist from the first transaction on, so that reading never meets a missing one. Of some damages the
        // database only panics, and it is gone then.
        catch_unwind(AssertUnwindSafe(|| index.write(|_| Ok(()))))
            .map_err(|_| IndexError::malformed("what it says of itself cannot be"))??;
        if index.counters().block.max(1) != index.settings.block
            && let Err(error) = index.write(files::recount)
        {
            // A full disk, say: the next open tries again.
            warn!(
                error = &error as &dyn std::error::Error,
                "bytes on disk are still counted as an earlier version did"
            );
        }
        Ok(index)
    }

    /// The disk that `len` bytes take, in bytes.
    pub(crate) fn on_disk(&self, len: u64) -> u64 {
        in_blocks(len, self.settings.block)
    }

    /// The counters as the last transaction left them.
    pub(crate) fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the database takes on disk.
    pub(crate) fn file_len(&self) -> u64 {
        fs_err::metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// Runs `read` over one snapshot.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.with(Want::Read, |db| read(&db.begin_read()?))
    }

    /// Runs `change` in one durable transaction: all of it is visible afterwards, or nothing.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.write_with(Durability::Immediate, change)
    }

    /// As [`Self::write`], but durable only with the next durable transaction.
    pub(crate) fn write_lazily<T>(
        &self,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.write_with(Durability::None, change)
    }

    fn write_with<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.with(Want::Write, |db| {
            let mut txn = db.begin_write()?;
            txn.set_durability(durability)?;
            let mut tables = Tables::open(&txn, &self.settings)?;
            let answer = change(&mut tables)?;
            let counters = tables.save()?;
            self.hook.before("index commit")?;
            txn.commit()?;
            let mut newest = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
            if newest.transactions < counters.transactions {
                *newest = counters;
            }
            Ok(answer)
        })
    }

    fn with<T>(
        &self,
        want: Want,
        run: impl FnOnce(&Database) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        if self.must_reopen(want, self.opened().as_ref()) {
            self.reopen(want)?;
        }
        let opened = self.opened();
        // Looked at again where it is used: a write over a frozen file would be told as done.
        let fit = opened.as_ref().filter(|opened| opened.does(want));
        let answer = run(&fit.ok_or_else(IndexError::closed)?.db);
        if answer.as_ref().is_err_and(IndexError::needs_reopen) {
            self.broken.store(true, Ordering::Release);
        }
        answer
    }

    fn opened(&self) -> RwLockReadGuard<'_, Option<Opened>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn must_reopen(&self, want: Want, opened: Option<&Opened>) -> bool {
        self.broken.load(Ordering::Acquire) || !opened.is_some_and(|opened| opened.does(want))
    }

    /// Opens the database after a failed write: it refuses all work until then. Where its file cannot be written any
    /// more, what it says can still be read.
    fn reopen(&self, want: Want) -> Result<(), IndexError> {
        let mut opened = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if !self.must_reopen(want, opened.as_ref()) {
            return Ok(());
        }
        let was_frozen = opened.as_ref().is_some_and(|opened| opened.is_frozen);
        if !was_frozen || self.broken.load(Ordering::Acquire) {
            // The lock on the file goes with it. What is frozen has none, and is read until the file can be written.
            drop(opened.take());
        }
        let now = match self.open_file() {
            Err(error) if want == Want::Read && error.needs_reopen() => {
                let frozen = self.open_frozen().map_err(|_| error.clone())?;
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the index of the store cannot be written; what is here is read all the same"
                );
                frozen
            }
            db => Opened {
                db: db?,
                is_frozen: false,
            },
        };
        if was_frozen && !now.is_frozen {
            info!("the index of the store can be written again");
        }
        *opened = Some(now);
        self.broken.store(false, Ordering::Release);
        Ok(())
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder.set_cache_size(self.settings.cache_bytes);
        builder
    }

    fn open_file(&self) -> Result<Database, IndexError> {
        Ok(if self.hook.is_set() {
            let file = Hooked::open(&self.path, self.hook.clone())?;
            self.builder().create_with_backend(file)?
        } else {
            self.builder().create(&self.path)?
        })
    }

    fn open_frozen(&self) -> Result<Opened, IndexError> {
        let file = Frozen::open(&self.path)?;
        Ok(Opened {
            db: self.builder().create_with_backend(file)?,
            is_frozen: true,
        })
    }

    /// Lets the database check the checksum of every page; true if all are right.
    pub(crate) fn check_pages(&self) -> Result<bool, IndexError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let opened = db.as_mut().ok_or_else(IndexError::closed)?;
        Ok(opened.db.check_integrity()?)
    }
}

/// The database's file with the crash seam in front of what it writes.
#[derive(Debug)]
struct Hooked {
    path: PathBuf,
    file: FileBackend,
    hook: Hook,
}

impl Hooked {
    fn open(path: &Path, hook: Hook) -> Result<Self, IndexError> {
        hook.before("index open")?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file: FileBackend::new(file)?,
            hook,
        })
    }
}

impl StorageBackend for Hooked {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.hook.before("index grow")?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.hook.before("index sync")?;
        self.file.sync_data()?;
        self.hook.tell(|steps| steps.synced(&self.path));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.hook.before("index write")?;
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), std::io::Error> {
        self.file.close()
    }
}
