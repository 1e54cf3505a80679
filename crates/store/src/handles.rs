//! Files that stay open for a while: for block reads by id, for whole reads by root.
//!
//! Opening a file costs a look at the index and one at the folder, more than reading a small one. What many
//! peers or pacmans ask for at one time is opened once.
//!
//! - Invariant: whoever removes a file from the store calls [`Handles::forget`], so that no handle kept here
//!   holds the disk space of an evicted file, and nobody gets one to it any more.
//! - Invariant: a file that is shared in place is not kept: its owner may remove it, or unmount what it lies on.
//! - Not here: whether the file is the one that was hashed (`crate::read`).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::keys::RefKey;
use crate::read::OpenFile;

/// Files kept open of each kind.
const OPEN_FILES: usize = 32;

/// Files that are kept open, most recently used last.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: Mutex<Vec<(u64, Arc<File>)>>,
    whole: Mutex<Vec<Whole>>,
    /// Counts removals, so that nobody keeps what was removed while they opened it.
    removals: AtomicU64,
}

#[derive(Clone, Debug)]
struct Whole {
    root: RefKey,
    file: Arc<OpenFile>,
}

impl Whole {
    /// Nothing was done to the file since, as far as can be told without reading it.
    fn is_sound(&self) -> bool {
        let Ok(meta) = self.file.file.metadata() else {
            return false;
        };
        meta.len() == self.file.info.len && meta.nlink() > 0 && self.file.is_unchanged()
    }
}

impl Handles {
    pub(crate) fn get(&self, id: u64) -> Option<Arc<File>> {
        let mut open = lock(&self.open);
        let at = open.iter().rposition(|(other, _)| *other == id)?;
        open[at..].rotate_left(1);
        open.last().map(|(_, file)| Arc::clone(file))
    }

    pub(crate) fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Keeps a file, unless any was removed since `removals` were counted.
    pub(crate) fn put(&self, id: u64, file: &Arc<File>, removals: u64) {
        let mut open = lock(&self.open);
        if self.removals() != removals || open.iter().any(|(other, _)| *other == id) {
            return;
        }
        if open.len() >= OPEN_FILES {
            open.remove(0);
        }
        open.push((id, Arc::clone(file)));
    }

    /// The file that was opened for `root`, if it is still what it was.
    pub(crate) fn whole(&self, root: &RefKey) -> Option<Arc<OpenFile>> {
        let found = {
            let mut whole = lock(&self.whole);
            let at = whole.iter().rposition(|one| one.root == *root)?;
            whole[at..].rotate_left(1);
            whole.last()?.clone()
        };
        if found.is_sound() {
            return Some(found.file);
        }
        self.forget(found.file.info.id);
        None
    }

    /// As [`Self::put`], for a whole file.
    pub(crate) fn put_whole(&self, root: RefKey, file: &Arc<OpenFile>, removals: u64) {
        let mut whole = lock(&self.whole);
        if self.removals() != removals || whole.iter().any(|one| one.root == root) {
            return;
        }
        if whole.len() >= OPEN_FILES {
            whole.remove(0);
        }
        let file = Arc::clone(file);
        whole.push(Whole { root, file });
    }

    /// Closes a file that is about to go.
    pub(crate) fn forget(&self, id: u64) {
        let mut open = lock(&self.open);
        let mut whole = lock(&self.whole);
        self.removals.fetch_add(1, Ordering::AcqRel);
        open.retain(|(other, _)| *other != id);
        whole.retain(|one| one.file.info.id != id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
