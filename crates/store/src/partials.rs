//! The partial files of a store: which there are, what they count for, and how they come back after a restart.
//!
//! - Invariant: one partial file a root; whoever begins the same one again shares it.
//! - Invariant: gc takes only those that nobody has a handle to.
//! - Not here: their bytes and bitmaps (`crate::partial`, `crate::bitmap`).

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pacstore_dag as dag;
use tracing::{info, warn};

use crate::bitmap::Bitmap;
use crate::body::Body;
use crate::error::{IndexError, OpenError, PartialError, WriteError};
use crate::files::Lookup;
use crate::index::REFS;
use crate::keys::{self, BlockKey, RefKey};
use crate::leaves::{Shape, inline_leaf};
use crate::partial::Partial;
use crate::record::Origin;
use crate::store::{Inner, Store, node_row};

/// Sums over the partial files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// Of these, what counts against the cap.
    pub(crate) capped: u64,
}

/// A partial file that nobody has open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    pub(crate) root: RefKey,
    pub(crate) used: u64,
    pub(crate) len: u64,
}

#[derive(Debug, Default)]
struct Registry {
    by_root: HashMap<RefKey, Arc<Body>>,
    /// Raw leaf -> the partial file that has it, and its number there.
    leaves: HashMap<BlockKey, (RefKey, u32)>,
    sums: Sums,
}

impl Registry {
    fn add(&mut self, body: Arc<Body>) {
        let root = body.shape.layout.root;
        for (number, leaf) in body.shape.leaves.list.iter().enumerate() {
            if leaf.is_raw() {
                self.leaves
                    .entry(keys::block_of(&leaf.key))
                    .or_insert((root, number as u32));
            }
        }
        self.sums.count += 1;
        self.sums.bytes += body.on_disk;
        self.sums.capped += body.capped.load(Ordering::Relaxed);
        self.by_root.insert(root, body);
    }

    fn remove(&mut self, root: &RefKey) -> Option<Arc<Body>> {
        let body = self.by_root.remove(root)?;
        for leaf in &body.shape.leaves.list {
            let key = keys::block_of(&leaf.key);
            if self.leaves.get(&key).is_some_and(|(other, _)| other == root) {
                self.leaves.remove(&key);
            }
        }
        self.sums.count -= 1;
        self.sums.bytes -= body.on_disk;
        self.sums.capped -= body.capped.load(Ordering::Relaxed);
        Some(body)
    }
}

/// The partial files of one store.
#[derive(Debug, Default)]
pub(crate) struct Partials(Mutex<Registry>);

impl Partials {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sums(&self) -> Sums {
        self.lock().sums
    }

    /// True if `id` is the file of a partial one.
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.lock().by_root.values().any(|body| body.id == id)
    }

    /// The files of all partial ones.
    pub(crate) fn ids(&self) -> HashSet<u64> {
        self.lock().by_root.values().map(|body| body.id).collect()
    }

    /// Those that nobody has open, least recently used first.
    pub(crate) fn idle(&self) -> Vec<Idle> {
        let registry = self.lock();
        let mut idle: Vec<_> = registry
            .by_root
            .iter()
            .filter(|(_, body)| Arc::strong_count(body) == 1 && body.capped.load(Ordering::Relaxed) > 0)
            .map(|(root, body)| Idle {
                root: *root,
                used: body.used.load(Ordering::Relaxed),
                len: body.capped.load(Ordering::Relaxed),
            })
            .collect();
        idle.sort_unstable_by_key(|idle| (idle.used, idle.root));
        idle
    }

    fn find_leaf(&self, key: &BlockKey) -> Option<(Arc<Body>, usize)> {
        let registry = self.lock();
        let (root, number) = registry.leaves.get(key)?;
        Some((Arc::clone(registry.by_root.get(root)?), *number as usize))
    }

    /// Length of a finished leaf.
    pub(crate) fn block_len(&self, key: &BlockKey) -> Option<u64> {
        let (body, number) = self.find_leaf(key)?;
        body.has(number)
            .then(|| u64::from(body.shape.leaves.list[number].len))
    }

    /// Appends a finished leaf; `false`, and `out` as it was, if there is none.
    pub(crate) fn block_into(&self, key: &BlockKey, out: &mut Vec<u8>) -> bool {
        let Some((body, number)) = self.find_leaf(key) else {
            return false;
        };
        if !body.has(number) {
            return false;
        }
        let start = out.len();
        let read = body.read_leaf_into(number, out);
        if read.is_err() {
            out.truncate(start);
        }
        read.is_ok()
    }

    /// Takes a partial file out. Its files on disk are the caller's to remove.
    pub(crate) fn remove(&self, root: &RefKey) -> Option<Arc<Body>> {
        self.lock().remove(root)
    }
}

impl Store {
    /// Begins a file that arrives leaf by leaf, or goes on with one that was begun before, by anybody or
    /// before a restart. Room for all of it is made under the cap, unless something refers to its root. Leaves whose
    /// bytes stand in their CIDs are here at once.
    ///
    /// # Errors
    /// [`WriteError::Layout`], [`WriteError::Unsupported`], [`WriteError::Full`], [`WriteError::StorageFull`].
    pub fn begin_partial(&self, file: &dag::FileDag) -> Result<Partial, WriteError> {
        let partial = self.begun(file)?;
        for (index, leaf) in file.leaves.iter().enumerate() {
            if let Ok(Some(data)) = inline_leaf(leaf) {
                let written = partial.write_leaf(index, &data, Origin::Disk);
                // Of the other errors only `Gone` can be: the caller's next write says so.
                if let Err(PartialError::Write(error)) = written {
                    return Err(error);
                }
            }
        }
        Ok(partial)
    }

    fn begun(&self, file: &dag::FileDag) -> Result<Partial, WriteError> {
        let shape = Shape::of(file)?;
        let nodes = file.nodes.iter().map(node_row).collect::<Result<Vec<_>, _>>()?;
        let root = shape.layout.root;
        let shared = |body: &Arc<Body>| {
            body.set_nodes(nodes.clone());
            body.used.store(self.0.now(), Ordering::Relaxed);
            Partial {
                store: self.clone(),
                body: Arc::clone(body),
            }
        };
        if let Some(body) = self.0.partials.lock().by_root.get(&root) {
            return Ok(shared(body));
        }
        let capped = if self.0.is_referenced(&root)? {
            0
        } else {
            self.0.index.on_disk(shape.len)
        };
        let room = self.reserve(capped)?;
        let body = Arc::new(Body::create(&self.0, self.0.new_id(), shape, capped)?);
        body.set_nodes(nodes.clone());
        let mut registry = self.0.partials.lock();
        if let Some(other) = registry.by_root.get(&root) {
            // Somebody else began it meanwhile.
            let other = shared(other);
            drop(registry);
            self.0.remove_partial_files(body.id);
            return Ok(other);
        }
        registry.add(Arc::clone(&body));
        drop(registry);
        // The registry counts it now.
        drop(room);
        Ok(Partial {
            store: self.clone(),
            body,
        })
    }
}

impl Inner {
    /// Reads the bitmaps that an earlier process left.
    pub(crate) fn load_partials(&self) -> Result<(), OpenError> {
        let failed = |error| OpenError::File(self.disk.dir().join("partial"), error);
        for (id, path) in self.disk.list_bitmaps().map_err(failed)? {
            let Some(id) = id else {
                // What was not renamed yet was not there yet.
                if path.extension().is_some_and(|extension| extension == "new") {
                    fs_err::remove_file(&path).map_err(failed)?;
                } else {
                    warn!(path = %path.display(), "a file that the store did not make lies in its folder");
                }
                continue;
            };
            self.next_id.fetch_max(id + 1, Ordering::Relaxed);
            let whole = self.index.read(|txn| Ok(txn.file(id)?.is_some()))?;
            let body = if whole { None } else { self.load_partial(id) };
            match body {
                Some(body) => {
                    let mut registry = self.partials.lock();
                    if !registry.by_root.contains_key(&body.shape.layout.root) {
                        info!(
                            id,
                            leaves = body.count(),
                            missing = body.missing(),
                            "a partial file is resumed"
                        );
                        registry.add(Arc::new(body));
                        continue;
                    }
                    drop(registry);
                    self.disk.remove_file(id).map_err(failed)?;
                }
                None if !whole => self.disk.remove_file(id).map_err(failed)?,
                None => {}
            }
            self.disk.remove_bitmap(id).map_err(failed)?;
        }
        Ok(())
    }

    fn load_partial(&self, id: u64) -> Option<Body> {
        let (bitmap, shape, states) = match Bitmap::load(&self.disk, id) {
            Ok(loaded) => loaded,
            Err(error) => {
                warn!(
                    id,
                    error = &error as &dyn std::error::Error,
                    "a partial file cannot be resumed"
                );
                return None;
            }
        };
        let referenced = self.is_referenced(&shape.layout.root).unwrap_or(false);
        let capped = if referenced {
            0
        } else {
            self.index.on_disk(shape.len)
        };
        let body = Body::resume(self, id, shape, capped, bitmap, &states);
        body.inspect_err(|error| {
            warn!(
                id,
                error = error as &dyn std::error::Error,
                "a partial file cannot be resumed"
            );
        })
        .ok()
    }

    /// Looks again which partial files count against the cap, and removes those that came whole another way.
    pub(crate) fn refresh_partials(&self) -> Result<(), WriteError> {
        let roots: Vec<_> = self.partials.lock().by_root.keys().copied().collect();
        if roots.is_empty() {
            return Ok(());
        }
        let known = self.index.read(|txn| {
            let refs = txn.open_table(REFS)?;
            let look = |root: &RefKey| Ok((refs.get(root)?.is_some(), txn.find_root(root)?.is_some()));
            roots.iter().map(look).collect::<Result<Vec<_>, IndexError>>()
        })?;
        for (root, (referenced, whole)) in roots.iter().zip(known) {
            if whole {
                self.discard_idle(root)
                    .map_err(|error| WriteError::file(self.disk.dir(), error))?;
            }
            let mut registry = self.partials.lock();
            let Some(body) = registry.by_root.get(root) else {
                continue;
            };
            let now = if referenced { 0 } else { body.on_disk };
            let before = body.capped.swap(now, Ordering::Relaxed);
            registry.sums.capped = registry.sums.capped + now - before;
        }
        Ok(())
    }

    /// Removes a partial file if nobody has it open.
    pub(crate) fn discard_idle(&self, root: &RefKey) -> io::Result<bool> {
        let mut registry = self.partials.lock();
        let idle = registry
            .by_root
            .get(root)
            .filter(|body| Arc::strong_count(body) == 1);
        let Some(id) = idle.map(|body| body.id) else {
            return Ok(false);
        };
        // The bitmap goes first: without it the file is a stray that is swept.
        self.disk.remove_bitmap(id)?;
        registry.remove(root);
        drop(registry);
        self.unlink_partial(id);
        Ok(true)
    }

    /// Removes the data, unless it is a whole file by now: a finish that failed at its very end may have
    /// become durable all the same.
    fn unlink_partial(&self, id: u64) {
        match self.index.read(|txn| txn.file(id)) {
            Ok(None) => self.unlink(id),
            Ok(Some(_)) => {}
            Err(_) => self.leave_unclean(),
        }
    }

    /// The bitmap goes first: without it the file is a stray that is swept.
    pub(crate) fn remove_partial_files(&self, id: u64) {
        if let Err(error) = self.disk.remove_bitmap(id) {
            warn!(
                id,
                error = &error as &dyn std::error::Error,
                "the bitmap of a partial file stays"
            );
            self.leave_unclean();
        }
        self.unlink_partial(id);
    }

    /// Makes what the partial files have durable; called when the store is closed.
    pub(crate) fn flush_partials(&self) {
        let bodies: Vec<_> = self.partials.lock().by_root.values().cloned().collect();
        for body in bodies {
            if let Err(error) = body.flush(&self.disk) {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "leaves of a partial file will be checked again"
                );
            }
            if !body.is_kept() {
                // Swept at the next open, which must not be skipped.
                self.leave_unclean();
            }
        }
    }
}
