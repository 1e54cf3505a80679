//! What clients use of a mirror: its databases are kept, whatever else is evicted, and its heads while they are served.
//!
//! - Invariant: a database that somebody asked for is held with its newest root, while the newest tree has it.
//! - Not here: heads and their trees (`super`), how a new root comes in (`crate::follow`).

use std::sync::PoisonError;
use std::time::SystemTime;

use cid::Cid;

use super::{Accepted, Mirror, unix_seconds};
use crate::error::StoreError;

/// Before the NAME and the path of each database that is held: a label of the store.
pub(crate) const USED: &str = "used/";
/// Paths remembered.
const MAX_USED: usize = 4096;

impl Mirror {
    /// Notes that clients use the database at `path`, which is `root` now.
    pub(crate) fn use_database(&self, path: &str, root: &Cid) -> Result<(), StoreError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.iter().any(|known| known == path) || used.len() >= MAX_USED {
            return Ok(());
        }
        used.push(path.to_owned());
        drop(used);
        self.hold_database(path, root)?;
        self.change(|_| ())
    }

    /// It is noted that clients use the database at `path`, or as many are as may be.
    pub(crate) fn uses_database(&self, path: &str) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.iter().any(|known| known == path) || used.len() >= MAX_USED
    }

    /// The database at `path` is in the newest tree no more, nor its signature: no client can use them.
    pub(crate) fn drop_database(&self, path: &str) -> Result<(), StoreError> {
        for path in [path, &format!("{path}.sig")] {
            self.store
                .release(&format!("{USED}{}/{path}", self.config.name))?;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|known| known != path);
        drop(used);
        self.change(|_| ())
    }

    /// Notes that `head` is served to somebody.
    pub(crate) fn served(&self, head: &Accepted, now: SystemTime) -> Result<(), StoreError> {
        let seconds = unix_seconds(now);
        if head.touch(seconds) {
            self.change(|_| ())
        } else {
            Ok(())
        }
    }

    /// Paths of databases that clients asked for.
    pub(crate) fn used_databases(&self) -> Vec<String> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether what clients use is held by itself: where trees are kept whole it is part of them.
    pub(crate) fn holds_databases(&self) -> bool {
        self.keep.is_none()
    }

    /// Keeps the database at `path`, with its newest root, from being evicted.
    pub(crate) fn hold_database(&self, path: &str, root: &Cid) -> Result<(), StoreError> {
        if self.holds_databases() {
            self.store
                .retain(&format!("{USED}{}/{path}", self.config.name), root)?;
        }
        Ok(())
    }
}
