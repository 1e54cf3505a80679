//! Taking in whole files, many at a time.
//!
//! The files come into the store's folder first, under new numbers that nobody knows. `commit` syncs them and
//! names them in the index, all in one transaction. Whatever lies there without being named is swept.
//!
//! - Invariant: after a crash all files of a batch are here, or none.
//! - Invariant: a file that is here already is not taken in again; gc leaves it alone until the batch is done.
//! - Not here: how bytes come in (`crate::intake`), files that arrive in pieces (`crate::partial`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use bytes::Bytes;
use pacstore_dag as dag;
use tracing::warn;

use crate::class::Class;
use crate::error::WriteError;
use crate::files::{self, Lookup, NewRow};
use crate::gc::Reservation;
use crate::index::Tables;
use crate::intake::Intake;
use crate::keys::{self, BlockKey, RefKey};
use crate::leaves::Shape;
use crate::nodes::{self, Put};
use crate::record::{ByOrigin, Facts, FileInfo, FileRecord, Place, absolute};
use crate::refs;
use crate::store::{Store, check_label, node_row, staged_key};
use crate::work;

/// A file to take in. The caller has hashed it: `dag` and `sha256` are what its bytes have.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// How it may be taken in.
    pub how: Intake,
    /// Its leaves and nodes.
    pub dag: &'a dag::FileDag,
    /// SHA-256 of the whole file; without it nobody finds the file by it.
    pub sha256: Option<[u8; 32]>,
    /// Where this node first got its bytes from.
    pub origin: ByOrigin,
}

/// A file of the batch that was here before.
#[derive(Debug)]
struct Known {
    id: u64,
    root: RefKey,
    /// A root that is new for it.
    shape: Option<(Shape, Vec<(BlockKey, Bytes)>)>,
}

/// Files and nodes that become visible together. Dropped without [`Batch::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    stage: Option<String>,
    new: Vec<NewRow>,
    known: Vec<Known>,
    by_root: HashMap<RefKey, FileInfo>,
    by_sha256: HashMap<[u8; 32], usize>,
    nodes: Vec<(BlockKey, Bytes)>,
    /// Files that the store made for this batch, to be synced.
    made: Vec<PathBuf>,
    /// Names to remove after the commit.
    given: Vec<PathBuf>,
    room: Vec<Reservation>,
    /// Bytes of it that no file has taken yet.
    left: u64,
}

impl Store {
    /// Begins a batch.
    pub fn batch(&self) -> Batch {
        Batch {
            store: self.clone(),
            stage: None,
            new: Vec::new(),
            known: Vec::new(),
            by_root: HashMap::new(),
            by_sha256: HashMap::new(),
            nodes: Vec::new(),
            made: Vec::new(),
            given: Vec::new(),
            room: Vec::new(),
            left: 0,
        }
    }
}

impl Batch {
    /// Holds every file of this batch under `label`, as a retained tree would, until
    /// [`Store::retain`] or [`Store::release`] is called with it. For importers, who know the tree last:
    /// the files do not count against the cap meanwhile, and survive gc and crashes.
    ///
    /// # Errors
    /// [`WriteError::Label`].
    pub fn stage(&mut self, label: &str) -> Result<(), WriteError> {
        check_label(label)?;
        self.stage = Some(label.to_owned());
        Ok(())
    }

    /// Takes files in within `room` that was made before, as long as it lasts: of bytes that lie on the disk already.
    pub fn within(&mut self, room: Reservation) {
        self.left += room.len();
        self.room.push(room);
    }

    /// How many files the batch takes in or has found here.
    pub fn len(&self) -> usize {
        self.by_root.len()
    }

    /// True if the batch would change nothing.
    pub fn is_empty(&self) -> bool {
        self.by_root.is_empty() && self.nodes.is_empty()
    }

    /// Takes a file in. Cheap if a file with this root or SHA-256 is here.
    ///
    /// # Errors
    /// [`WriteError::Source`] and [`WriteError::SourceChanged`] are the file's fault and leave the batch as it
    /// was; [`WriteError::Full`] says that the cap leaves no room, [`WriteError::StorageFull`] the disk.
    pub fn add_file(&mut self, file: NewFile<'_>) -> Result<FileInfo, WriteError> {
        self.add(file, None)
    }

    /// As [`Self::add_file`], for a file whose facts were read before it was hashed: if they are others
    /// now, it was changed since, and is not taken in.
    ///
    /// # Errors
    /// As [`Self::add_file`].
    pub fn add_file_seen(&mut self, file: NewFile<'_>, seen: &Facts) -> Result<FileInfo, WriteError> {
        self.add(file, Some(seen))
    }

    fn add(&mut self, file: NewFile<'_>, seen: Option<&Facts>) -> Result<FileInfo, WriteError> {
        let root = keys::ref_key(&file.dag.root).ok_or(WriteError::Unsupported(file.dag.root))?;
        if let Some(info) = self.by_root.get(&root).cloned() {
            self.give(&file);
            return Ok(info);
        }
        let shape = Shape::of(file.dag)?;
        let nodes = file
            .dag
            .nodes
            .iter()
            .map(node_row)
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(info) = self.add_known(&file, &shape, &nodes)? {
            self.give(&file);
            return Ok(info);
        }
        if let Some(at) = file.sha256.and_then(|sha256| self.by_sha256.get(&sha256)) {
            let row = &mut self.new[*at];
            let info = row.record.info(row.id, file.dag.root);
            row.record.layouts.push(shape.layout);
            row.leaves.push(shape.leaves);
            row.nodes.extend(nodes);
            self.by_root.insert(root, info.clone());
            self.give(&file);
            return Ok(info);
        }
        self.add_new(file, seen, shape, nodes)
    }

    fn add_new(
        &mut self,
        file: NewFile<'_>,
        seen: Option<&Facts>,
        shape: Shape,
        nodes: Vec<(BlockKey, Bytes)>,
    ) -> Result<FileInfo, WriteError> {
        let inner = &self.store.0;
        let len = shape.len;
        let needs_room = self.stage.is_none() && !inner.is_referenced(&shape.layout.root)?;
        let id = inner.new_id();
        let place = match file.how {
            Intake::Reference => reference(file.path, len, seen)?,
            Intake::InPlace => match self.reflink(id, file.path, len, seen, needs_room)? {
                Some(place) => place,
                None => reference(file.path, len, seen)?,
            },
            how => {
                let disk = inner.index.on_disk(len);
                if needs_room && disk <= self.left {
                    self.left -= disk;
                } else if needs_room {
                    self.room.push(self.store.reserve(len)?);
                }
                let inner = &self.store.0;
                let target = inner
                    .disk
                    .new_file(id)
                    .map_err(|error| WriteError::file(inner.disk.dir(), error))?;
                let taken = inner
                    .taker
                    .take(&inner.disk.hook, how, file.path, &target.path, len, seen);
                let place = taken.inspect_err(|_| {
                    let _ = inner.disk.remove_file(id);
                })?;
                self.made.push(target.path.clone());
                place
            }
        };
        self.give(&file);
        let record = FileRecord {
            used: self.store.0.now(),
            len,
            by_origin: file.origin,
            sha256: file.sha256,
            place,
            class: Class::Plain,
            layouts: vec![shape.layout],
        };
        let info = record.info(id, file.dag.root);
        self.by_root.insert(record.layouts[0].root, info.clone());
        if let Some(sha256) = file.sha256 {
            self.by_sha256.insert(sha256, self.new.len());
        }
        self.new.push(NewRow {
            id,
            record,
            leaves: vec![shape.leaves],
            nodes,
        });
        Ok(info)
    }

    /// Reflinks a file that may also stay where it is; `None` where the file system cannot, or the cap has no room left.
    fn reflink(
        &mut self,
        id: u64,
        path: &Path,
        len: u64,
        seen: Option<&Facts>,
        needs_room: bool,
    ) -> Result<Option<Place>, WriteError> {
        let inner = &self.store.0;
        if !inner.taker.may_reflink() {
            return Ok(None);
        }
        // It costs nothing where it is: nothing has to go for it.
        let room = if needs_room {
            let Some(room) = self.store.reserve_spare(len) else {
                return Ok(None);
            };
            Some(room)
        } else {
            None
        };
        let target = inner
            .disk
            .new_file(id)
            .map_err(|error| WriteError::file(inner.disk.dir(), error))?;
        let taken = inner
            .taker
            .take_reflink(&inner.disk.hook, path, &target.path, len, seen);
        let Some(place) = taken.inspect_err(|_| {
            let _ = inner.disk.remove_file(id);
        })?
        else {
            return Ok(None);
        };
        self.room.extend(room);
        self.made.push(target.path.clone());
        Ok(Some(place))
    }

    /// Finds the file in the store by root or SHA-256 and keeps gc off it. A record whose bytes are gone
    /// from the disk does not count: it is dropped, and the file is taken in again.
    fn add_known(
        &mut self,
        file: &NewFile<'_>,
        shape: &Shape,
        nodes: &[(BlockKey, Bytes)],
    ) -> Result<Option<FileInfo>, WriteError> {
        let inner = &self.store.0;
        if inner.index.counters().files == 0 {
            return Ok(None);
        }
        let root = shape.layout.root;
        let find = || {
            inner
                .index
                .read(|txn| match (txn.find_root(&root)?, file.sha256) {
                    (Some((id, record)), _) => Ok(Some((id, record, true))),
                    (None, Some(sha256)) => {
                        Ok(txn.find_sha256(&sha256)?.map(|(id, record)| (id, record, false)))
                    }
                    (None, None) => Ok(None),
                })
        };
        let Some((id, ..)) = find()? else { return Ok(None) };
        inner.mark_busy(id);
        // Looked up again: gc may have been between, and it takes no file that is busy.
        let (record, has_root) = match find() {
            Ok(Some((again, record, has_root))) if again == id => (record, has_root),
            other => {
                inner.unmark_busy(id);
                other?;
                return Ok(None);
            }
        };
        if !inner.is_on_disk(id, &record) {
            inner.unmark_busy(id);
            inner.drop_file(id, &record.place, "its bytes are not on the disk")?;
            return Ok(None);
        }
        let info = record.info(id, file.dag.root);
        let shape = (!has_root).then(|| (shape.clone(), nodes.to_vec()));
        self.by_root.insert(root, info.clone());
        self.known.push(Known { id, root, shape });
        Ok(Some(info))
    }

    fn give(&mut self, file: &NewFile<'_>) {
        if file.how == Intake::Move {
            self.given.push(file.path.to_owned());
        }
    }

    /// Adds a block that is no range of a file.
    ///
    /// # Errors
    /// [`WriteError::Unsupported`], [`WriteError::BlockSize`].
    pub fn put_node(&mut self, block: &dag::Block) -> Result<(), WriteError> {
        self.nodes.push(node_row(block)?);
        Ok(())
    }

    /// Makes everything durable and visible at once.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::File`], [`WriteError::Index`]: nothing was added.
    pub fn commit(mut self) -> Result<(), WriteError> {
        if self.is_empty() {
            return Ok(());
        }
        let inner = &self.store.0;
        inner
            .disk
            .sync(&self.made)
            .map_err(|error| WriteError::file(inner.disk.dir(), error))?;
        self.nodes.sort_unstable_by_key(|(key, _)| *key);
        let (new, known) = (std::mem::take(&mut self.new), std::mem::take(&mut self.known));
        let doubles = self.store.0.write("batch", |t| {
            let doubles = self.apply(t, &new, &known)?;
            let cap = self.store.0.max_free_nodes;
            if t.counters.free_node_bytes > cap && !work::is_raising(t)? {
                nodes::evict(t, cap - cap / 16, 4096)?;
            }
            Ok(doubles)
        });
        for known in &known {
            self.store.0.unmark_busy(known.id);
        }
        let doubles = match doubles {
            Ok(doubles) => doubles,
            Err(error) => {
                self.new = new;
                return Err(error);
            }
        };
        self.made.clear();
        for id in doubles {
            self.store.0.unlink(id);
        }
        for path in &self.given {
            if let Err(error) = fs_err::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "a file that was given to the store stays"
                );
            }
        }
        Ok(())
    }

    /// Fills the tables. Gives the ids of files that somebody else added meanwhile.
    fn apply(
        &self,
        t: &mut Tables<'_>,
        new: &[NewRow],
        known: &[Known],
    ) -> Result<Vec<u64>, crate::error::IndexError> {
        // Staged first: then no file enters the LRU only to leave it again.
        if let Some(label) = &self.stage {
            // What an earlier round staged is not mistaken for this one's.
            work::finish_staged(t, label)?;
            let mut held = Vec::new();
            for root in self.by_root.keys() {
                if t.staged.insert(staged_key(label, root).as_slice(), ())?.is_none() {
                    held.push(*root);
                }
            }
            refs::add_at_once(t, held)?;
        }
        for (key, data) in &self.nodes {
            nodes::put(t, key, data, Put::Loose)?;
        }
        let mut doubles = Vec::new();
        for row in new {
            for layout in &row.record.layouts {
                if t.find_root(&layout.root)?.is_some() {
                    doubles.push(row.id);
                    break;
                }
            }
        }
        if doubles.is_empty() {
            files::insert(t, new)?;
        } else {
            for row in new.iter().filter(|row| !doubles.contains(&row.id)) {
                files::insert(t, std::slice::from_ref(row))?;
            }
        }
        for known in known {
            files::touch(t, known.id, self.store.0.now())?;
            if let Some((shape, nodes)) = &known.shape
                && t.find_root(&known.root)?.is_none()
                && let Some(record) = t.file(known.id)?
            {
                files::add_layout(t, known.id, record, shape, nodes)?;
            }
        }
        Ok(doubles)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for known in &self.known {
            self.store.0.unmark_busy(known.id);
        }
        if self.made.is_empty() {
            return;
        }
        for row in &self.new {
            if matches!(row.record.place, Place::Reference(..)) {
                continue;
            }
            // A commit that failed at its very end may have become durable all the same.
            match self.store.0.index.read(|txn| txn.file(row.id)) {
                Ok(None) => self.store.0.unlink(row.id),
                Ok(Some(_)) => {}
                Err(_) => self.store.0.leave_unclean(),
            }
        }
    }
}

impl crate::store::Inner {
    pub(crate) fn mark_busy(&self, id: u64) {
        *self
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id)
            .or_default() += 1;
    }

    pub(crate) fn unmark_busy(&self, id: u64) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = busy.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&id);
            }
        }
    }

    /// True if a label, pin or held node refers to this root.
    pub(crate) fn is_referenced(&self, root: &RefKey) -> Result<bool, crate::error::IndexError> {
        self.index
            .read(|txn| Ok(txn.open_table(crate::index::REFS)?.get(root)?.is_some()))
    }
}

/// The place of a file that stays where it is.
fn reference(path: &Path, len: u64, seen: Option<&Facts>) -> Result<Place, WriteError> {
    let failed = |error| WriteError::Source(path.to_owned(), error);
    let path = absolute(path).map_err(failed)?;
    let meta = fs_err::metadata(&path).map_err(failed)?;
    let facts = Facts::of(&meta);
    if !meta.is_file() || facts.len != len || seen.is_some_and(|seen| *seen != facts) {
        return Err(WriteError::SourceChanged(path));
    }
    Ok(Place::Reference(path, facts))
}
