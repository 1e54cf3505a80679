//! The importer's own small memory: what each upstream file hashed to, and what the last tree holds.
//!
//! Nothing in it is a truth of its own: all of it can be had again by reading the source. It is written in the same
//! order as the store (files, then the tree, then this), each time in one transaction; so after a crash it is at
//! worst older than the store, and then a few files are hashed again.
//!
//! - Invariant: rows of `tree` are exactly the entries of the tree that `state` names.
//! - Invariant: a row of `facts` is only written once the file is in the store.
//! - Invariant: one that is found damaged, when it is opened or later, is removed, so that the next round begins anew.
//! - Invariant: one that the disk failed (no room) is opened anew before it is used again, as it was after its last commit.
//! - Not here: files, nodes, retained trees (crate `store`).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use tracing::warn;

use crate::doubt::{Known, Pair};
use crate::facts::FileFacts;
use crate::hold::Holds;
use crate::state::State;
use crate::survey::Print;
use crate::tree::Row;
use crate::view::Stamp;

/// Upstream path -> stamp, facts.
const FACTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("facts");
/// Tree path (a folder ends in `/`) -> facts, nothing for an empty folder.
const TREE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tree");
/// SHA-256 of a file and of its signature -> whether they belong together.
const SIGNED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("signed");
/// The rest, as JSON.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The form of the tables; any other is thrown away, since it can be had again.
const FORMAT: &[u8] = b"pacstore import 1";

/// Bytes of pages kept in memory, by each mirror: it is walked over in order, and the system has its pages too.
const CACHE: usize = 1 << 20;

/// Why the importer's memory failed.
#[derive(Debug, thiserror::Error)]
#[error("the importer's manifest `{}` failed", .path.display())]
pub struct ManifestError {
    /// Where it is.
    pub path: PathBuf,
    /// What failed.
    #[source]
    pub source: Box<redb::Error>,
}

impl ManifestError {
    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        is_damage(&self.source)
            .then_some("it is made anew in the next round, which reads all files once more")
    }
}

/// The manifest of one mirror.
#[derive(Debug)]
pub(crate) struct Manifest {
    path: PathBuf,
    /// There until this is dropped, or it cannot be opened anew.
    db: RwLock<Option<Database>>,
    damaged: AtomicBool,
    /// The disk failed it: the database refuses all work until it is opened anew.
    broken: AtomicBool,
}

impl Drop for Manifest {
    fn drop(&mut self) {
        // Of a damaged one the database may panic at its end, too.
        let db = self.db.get_mut().unwrap_or_else(PoisonError::into_inner);
        let db = AssertUnwindSafe(db.take());
        let _ = catch_unwind(move || drop(db));
    }
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// Facts that are new.
    pub(crate) facts: Vec<(Box<[u8]>, Stamp, FileFacts)>,
    /// Upstream paths that nobody asks for any more.
    pub(crate) forget: Vec<Box<[u8]>>,
    /// Rows of the tree: `None` removes.
    pub(crate) rows: Vec<(Box<[u8]>, Option<Row>)>,
    /// The new state, if a round ended.
    pub(crate) state: Option<State>,
}

impl Manifest {
    /// Opens it, or begins anew where there is none, or none that can be read.
    pub(crate) fn open(path: &Path) -> Result<Self, ManifestError> {
        let fail = |source: redb::Error| ManifestError {
            path: path.to_owned(),
            source: Box::new(source),
        };
        match guarded(|| Self::attempt(path)) {
            Ok(Some(manifest)) => return Ok(manifest),
            Ok(None) => {
                warn!(path = %path.display(), "the import manifest is of another format; starting anew");
            }
            Err(redb::Error::UpgradeRequired(_)) => {
                warn!(path = %path.display(), "the import manifest is of an old database; starting anew");
            }
            Err(e) if is_damage(&e) => {
                warn!(path = %path.display(), error = &e as &dyn std::error::Error, "the import manifest is damaged; starting anew");
            }
            Err(e) => return Err(fail(e)),
        }
        fs_err::remove_file(path).map_err(|e| fail(redb::Error::Io(e)))?;
        match Self::attempt(path) {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => Err(fail(redb::Error::Corrupted("a new manifest is not empty".into()))),
            Err(e) => Err(fail(e)),
        }
    }

    fn attempt(path: &Path) -> Result<Option<Self>, redb::Error> {
        let mut db = redb::Builder::new().set_cache_size(CACHE).create(path)?;
        // All pages, once a start: a wrong number in a row would go into the tree as it is.
        if !db.check_integrity()? {
            return Err(redb::Error::Corrupted("a page has other bytes".to_owned()));
        }
        let write = db.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let known = meta.get("format")?.map(|v| v.value() == FORMAT);
            match known {
                Some(true) => {}
                Some(false) => return Ok(None),
                None => drop(meta.insert("format", FORMAT)?),
            }
            write.open_table(FACTS)?;
            write.open_table(TREE)?;
            write.open_table(SIGNED)?;
        }
        write.commit()?;
        Ok(Some(Self {
            path: path.to_owned(),
            db: RwLock::new(Some(db)),
            damaged: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }))
    }

    fn reopen(&self) -> Result<(), redb::Error> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if !self.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        drop(db.take());
        let gone = || redb::Error::Corrupted("it is not there any more".to_owned());
        let is_there = self.path.try_exists().map_err(redb::Error::Io)?;
        let opened = if is_there {
            Self::attempt(&self.path)?
        } else {
            None
        };
        let mut opened = opened.ok_or_else(gone)?;
        *db = opened.db.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.broken.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Whether it was found damaged: it does not go on, and another one is to be opened.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::SeqCst)
    }

    /// Does something with the database. A damaged one is removed.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, ManifestError> {
        let done = guarded(|| {
            if self.is_damaged() {
                return Err(redb::Error::DatabaseClosed);
            }
            if self.broken.load(Ordering::SeqCst) {
                self.reopen()?;
            }
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            work(db.as_ref().ok_or(redb::Error::DatabaseClosed)?)
        });
        done.map_err(|source| {
            if is_failure(&source) && !self.is_damaged() {
                self.broken.store(true, Ordering::SeqCst);
            }
            if is_damage(&source) && !self.damaged.swap(true, Ordering::SeqCst) {
                warn!(path = %self.path.display(), error = &source as &dyn std::error::Error, "the import manifest is damaged; the next round makes another one");
                if let Err(error) = fs_err::remove_file(&self.path) {
                    warn!(error = &error as &dyn std::error::Error, "the damaged import manifest cannot be removed");
                }
            }
            ManifestError {
                path: self.path.clone(),
                source: Box::new(source),
            }
        })
    }

    /// What the last round left; nothing if it was none, or one of another kind.
    pub(crate) fn state(&self) -> Result<Option<State>, ManifestError> {
        self.with(|db| {
            let meta = db.begin_read()?.open_table(META)?;
            Ok(meta.get("state")?.and_then(|v| State::decode(v.value())))
        })
    }

    /// For each of `wanted`, `count` paths in order and their stamps, the facts if they still hold.
    pub(crate) fn facts<'a>(
        &self,
        (count, wanted): (usize, impl Iterator<Item = (&'a [u8], &'a Stamp)>),
        mut each: impl FnMut(Option<FileFacts>),
    ) -> Result<(), ManifestError> {
        let holds = |row: &[u8], stamp: &Stamp| {
            let (known, rest) = Stamp::decode(row)?;
            (known == *stamp).then(|| FileFacts::decode(rest)).flatten()
        };
        self.with(|db| {
            let table = db.begin_read()?.open_table(FACTS)?;
            // Many are found faster by walking over all.
            if (count as u64) < table.len()? / 8 {
                for (path, stamp) in wanted {
                    each(table.get(path)?.and_then(|row| holds(row.value(), stamp)));
                }
                return Ok(());
            }
            let mut rows = table.iter()?;
            let mut row = rows.next().transpose()?;
            for (path, stamp) in wanted {
                while row.as_ref().is_some_and(|(known, _)| known.value() < path) {
                    row = rows.next().transpose()?;
                }
                let same = row.as_ref().filter(|(known, _)| known.value() == path);
                each(same.and_then(|(_, row)| holds(row.value(), stamp)));
            }
            Ok(())
        })
    }

    /// What is remembered of one path, whatever its stamp.
    pub(crate) fn remembered(&self, path: &[u8]) -> Result<Option<(Stamp, FileFacts)>, ManifestError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(FACTS)?;
            let row = table.get(path)?;
            Ok(row.and_then(|row| {
                let (stamp, rest) = Stamp::decode(row.value())?;
                Some((stamp, FileFacts::decode(rest)?))
            }))
        })
    }

    /// All paths with facts that `gone` says are not there any more.
    pub(crate) fn stale(&self, mut gone: impl FnMut(&[u8]) -> bool) -> Result<Vec<Box<[u8]>>, ManifestError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(FACTS)?;
            let mut stale = Vec::new();
            for row in table.iter()? {
                let (path, _) = row?;
                if gone(path.value()) {
                    stale.push(path.value().into());
                }
            }
            Ok(stale)
        })
    }

    /// Walks the last tree in order.
    pub(crate) fn rows(&self, mut each: impl FnMut(&[u8], Row)) -> Result<(), ManifestError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(TREE)?;
            for row in table.iter()? {
                let (path, row) = row?;
                let row = Row::decode(row.value())
                    .ok_or_else(|| redb::Error::Corrupted("a row of the tree".into()))?;
                each(path.value(), row);
            }
            Ok(())
        })
    }

    /// Writes all of it, or, if this fails, nothing.
    pub(crate) fn commit(&self, update: &Update) -> Result<(), ManifestError> {
        self.with(|db| {
            let write = db.begin_write()?;
            {
                let mut facts = write.open_table(FACTS)?;
                let mut buffer = Vec::new();
                for (path, stamp, known) in &update.facts {
                    buffer.clear();
                    stamp.encode(&mut buffer);
                    known.encode(&mut buffer);
                    facts.insert(&**path, &*buffer)?;
                }
                for path in &update.forget {
                    facts.remove(&**path)?;
                }
                let mut tree = write.open_table(TREE)?;
                for (path, row) in &update.rows {
                    if let Some(row) = row {
                        buffer.clear();
                        row.encode(&mut buffer);
                        tree.insert(&**path, &*buffer)?;
                    } else {
                        tree.remove(&**path)?;
                    }
                }
                let mut meta = write.open_table(META)?;
                if let Some(state) = &update.state {
                    meta.insert("state", &*state.encode())?;
                }
                meta.remove("print")?;
            }
            write.commit()?;
            Ok(())
        })
    }

    /// Forgets the last tree, and with it every fact if they are of another profile.
    pub(crate) fn forget_tree(&self, profile: &str) -> Result<(), ManifestError> {
        self.with(|db| {
            let write = db.begin_write()?;
            {
                let mut meta = write.open_table(META)?;
                let same = meta
                    .get("profile")?
                    .is_some_and(|v| v.value() == profile.as_bytes());
                meta.remove("state")?;
                meta.remove("print")?;
                meta.insert("profile", profile.as_bytes())?;
                if !same {
                    write.delete_table(FACTS)?;
                    write.open_table(FACTS)?;
                }
            }
            write.delete_table(TREE)?;
            write.open_table(TREE)?;
            write.commit()?;
            Ok(())
        })
    }

    /// What is known of each of these files under their signatures.
    pub(crate) fn signatures<'a>(
        &self,
        pairs: impl Iterator<Item = &'a Pair>,
    ) -> Result<Vec<Option<Known>>, ManifestError> {
        self.with(|db| {
            let table = db.begin_read()?.open_table(SIGNED)?;
            let mut known = Vec::new();
            for pair in pairs {
                known.push(table.get(&pair[..])?.and_then(|row| Known::decode(row.value())));
            }
            Ok(known)
        })
    }

    /// Which repositories are held, and for how long.
    pub(crate) fn holds(&self) -> Result<Holds, ManifestError> {
        self.with(|db| {
            let meta = db.begin_read()?.open_table(META)?;
            let holds = meta.get("holds")?;
            Ok(holds
                .and_then(|v| serde_json::from_slice(v.value()).ok())
                .unwrap_or_default())
        })
    }

    /// What was seen of the sources, as `crate::upstreams` wrote it.
    pub(crate) fn upstreams(&self) -> Result<Option<Vec<u8>>, ManifestError> {
        self.with(|db| {
            let meta = db.begin_read()?.open_table(META)?;
            Ok(meta.get("upstreams")?.map(|v| v.value().to_vec()))
        })
    }

    /// Keeps what was seen of the sources.
    pub(crate) fn note_upstreams(&self, bytes: &[u8]) -> Result<(), ManifestError> {
        self.with(|db| {
            let write = db.begin_write()?;
            write.open_table(META)?.insert("upstreams", bytes)?;
            write.commit()?;
            Ok(())
        })
    }

    /// Remembers all of it, or nothing. Of a source of `files` files, four times as many are remembered before
    /// the table begins anew; what a person or time accepted stays.
    pub(crate) fn note_signatures(
        &self,
        notes: &[(Pair, Known)],
        accepted: &[(Pair, Known)],
        holds: Option<&Holds>,
        files: u64,
    ) -> Result<(), ManifestError> {
        if notes.is_empty() && accepted.is_empty() && holds.is_none() {
            return Ok(());
        }
        self.with(|db| {
            let write = db.begin_write()?;
            {
                let mut table = write.open_table(SIGNED)?;
                if 4 * files + 4096 < table.len()? {
                    let stays = |row: &[u8]| matches!(Known::decode(row), Some(Known::Accepted(..)));
                    table.retain(|_, row| stays(row))?;
                }
                for (pair, known) in notes.iter().chain(accepted) {
                    table.insert(&pair[..], &*known.encode())?;
                }
                if let Some(holds) = holds {
                    let text = serde_json::to_vec(holds).unwrap_or_default();
                    write.open_table(META)?.insert("holds", &*text)?;
                }
            }
            write.commit()?;
            Ok(())
        })
    }

    /// Forgets what files hash to: some of them are not in the store any more.
    pub(crate) fn forget_facts(&self) -> Result<(), ManifestError> {
        self.with(|db| {
            let write = db.begin_write()?;
            write.delete_table(FACTS)?;
            write.open_table(FACTS)?;
            write.open_table(META)?.remove("print")?;
            write.commit()?;
            Ok(())
        })
    }

    /// What the look is known by that last found the source to be as the state says.
    pub(crate) fn print(&self) -> Result<Option<Print>, ManifestError> {
        self.with(|db| {
            let meta = db.begin_read()?.open_table(META)?;
            Ok(meta.get("print")?.and_then(|v| v.value().try_into().ok()))
        })
    }

    /// Keeps it, until anything else is written of files or the tree.
    pub(crate) fn note_print(&self, print: Print) -> Result<(), ManifestError> {
        self.with(|db| {
            let write = db.begin_write()?;
            write.open_table(META)?.insert("print", &print[..])?;
            write.commit()?;
            Ok(())
        })
    }
}

/// Does what the database of damaged bytes may answer by a panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| {
        Err(redb::Error::Corrupted(
            "what it says of itself cannot be".to_owned(),
        ))
    })
}

/// Whether the disk failed, after which the database does nothing more.
fn is_failure(error: &redb::Error) -> bool {
    matches!(
        error,
        redb::Error::Io(_)
            | redb::Error::PreviousIo
            | redb::Error::DatabaseClosed
            | redb::Error::LockPoisoned(_)
            | redb::Error::Backend(_)
    )
}

/// Whether the file has not what was written into it. What the disk refuses is none of it.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(e) => matches!(
            e.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        ),
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::*;

    /// A file on a disk that is full at times.
    #[derive(Debug)]
    struct Disk {
        file: FileBackend,
        full: Arc<AtomicBool>,
    }

    impl Disk {
        fn room(&self) -> io::Result<()> {
            if self.full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.room()?;
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.room()?;
            self.file.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }

    #[test]
    fn a_look_is_known_until_anything_else_is_written() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("manifest.redb");
        let manifest = Manifest::open(&path)?;
        let writes: [&dyn Fn() -> Result<(), ManifestError>; 3] = [
            &|| manifest.commit(&Update::default()),
            &|| manifest.forget_tree("profile"),
            &|| manifest.forget_facts(),
        ];
        for write in writes {
            manifest.note_print([7; 32])?;
            assert_eq!(manifest.print()?, Some([7; 32]));
            write()?;
            assert_eq!(manifest.print()?, None);
        }
        Ok(())
    }

    #[test]
    fn after_a_full_disk_it_goes_on_with_what_it_had() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("manifest.redb");
        Manifest::open(&path)?.note_upstreams(b"first")?;
        let full = Arc::new(AtomicBool::new(false));
        let file = fs_err::File::options().read(true).write(true).open(&path)?;
        let disk = Disk {
            file: FileBackend::new(file.into_file())?,
            full: Arc::clone(&full),
        };
        let manifest = Manifest {
            path,
            db: RwLock::new(Some(redb::Builder::new().create_with_backend(disk)?)),
            damaged: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        };
        assert_eq!(manifest.upstreams()?.as_deref(), Some(&b"first"[..]));
        full.store(true, Ordering::SeqCst);
        assert!(manifest.note_upstreams(&vec![b'x'; 1 << 20]).is_err());
        full.store(false, Ordering::SeqCst);
        assert_eq!(manifest.upstreams()?.as_deref(), Some(&b"first"[..]));
        manifest.note_upstreams(b"second")?;
        assert_eq!(manifest.upstreams()?.as_deref(), Some(&b"second"[..]));
        assert!(!manifest.is_damaged());
        Ok(())
    }
}
