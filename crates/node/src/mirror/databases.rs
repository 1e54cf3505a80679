//! Which databases of a mirror clients use: these are kept, whatever else is evicted.
//!
//! - Invariant: a database that somebody asked for is held with its newest root.
//! - Not here: heads and their trees (`super`), how a new root comes in (`crate::follow`).

use std::sync::PoisonError;

use cid::Cid;

use super::Mirror;
use crate::error::StoreError;

impl Mirror {
    /// Notes that clients use the database at `path`, which is `root` now.
    pub(crate) fn use_database(&self, path: &str, root: &Cid) -> Result<(), StoreError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.iter().any(|known| known == path) || used.len() >= 4096 {
            return Ok(());
        }
        used.push(path.to_owned());
        drop(used);
        self.hold_database(path, root)?;
        self.change(|_| ())
    }

    /// Paths of databases that clients asked for.
    pub(crate) fn used_databases(&self) -> Vec<String> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the database at `path`, with its newest root, from being evicted.
    pub(crate) fn hold_database(&self, path: &str, root: &Cid) -> Result<(), StoreError> {
        if self.keep.is_none() {
            self.store
                .retain(&format!("used/{}/{path}", self.config.name), root)?;
        }
        Ok(())
    }
}
