//! The times pacman is told: Last-Modified of databases, and when one is too old to give.
//!
//! pacman throws away, silently, a database whose Last-Modified did not grow, and one
//! whose signature's grew alone breaks its next `-Sy` (facts measured with 6.0.2 and
//! 7.1). So a pair has one time, upstream's own newest, raised to one second past the
//! last one served only when bytes changed and it would not have grown.
//!
//! - Invariant: what was told to a client is on disk before it is told.
//! - Invariant: the time never comes from an import and is in the future only where
//!   growth demands it.
//! - Not here: ages of repositories (`pacstore-names`, `Head`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cid::Cid;
use pacstore_store::Store;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// What was last told about one pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// Roots of the database and its signature.
    pair: String,
    /// Seconds since the epoch.
    time: u64,
}

/// The times told so far, kept in the store.
#[derive(Debug)]
pub(crate) struct Times {
    store: Store,
    told: Mutex<HashMap<String, Told>>,
}

impl Times {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            told: Mutex::new(HashMap::new()),
        }
    }

    /// Last-Modified of the pair at `path` of `mirror`: `database` with `signature`,
    /// whose newest time upstream is `upstream`.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be kept; then nothing may be told.
    pub(crate) fn told(
        &self,
        mirror: &str,
        path: &str,
        database: &Cid,
        signature: Option<&Cid>,
        upstream: SystemTime,
    ) -> Result<SystemTime, StoreError> {
        let (key, pair) = (key(mirror, path), pair(database, signature));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match told.get(&key) {
            Some(last) => Some(last.clone()),
            None => self.saved(&key)?,
        };
        let next = next(last.as_ref(), pair, upstream);
        if last.as_ref() != Some(&next) {
            let bytes = serde_json::to_vec(&next).unwrap_or_default();
            self.store.state_put(&[(&key, Some(&bytes))])?;
        }
        let time = next.time;
        told.insert(key, next);
        Ok(UNIX_EPOCH + Duration::from_secs(time))
    }

    /// This pair was the last that somebody got there, also before this node started. Blocks on the disk.
    pub(crate) fn was_told(
        &self,
        mirror: &str,
        path: &str,
        database: &Cid,
        signature: Option<&Cid>,
    ) -> Result<bool, StoreError> {
        if self.known(mirror, path, database, signature).is_some() {
            return Ok(true);
        }
        let saved = self.saved(&key(mirror, path))?;
        Ok(saved.is_some_and(|last| last.pair == pair(database, signature)))
    }

    fn saved(&self, key: &str) -> Result<Option<Told>, StoreError> {
        let saved = self.store.state_get(key)?;
        Ok(saved.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The time of the pair if it was told since this node started, so that there is nothing to write.
    pub(crate) fn known(
        &self,
        mirror: &str,
        path: &str,
        database: &Cid,
        signature: Option<&Cid>,
    ) -> Option<SystemTime> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.get(&key(mirror, path))?;
        (last.pair == pair(database, signature)).then(|| UNIX_EPOCH + Duration::from_secs(last.time))
    }
}

fn key(mirror: &str, path: &str) -> String {
    format!("told/{mirror}/{path}")
}

fn pair(database: &Cid, signature: Option<&Cid>) -> String {
    format!("{database} {}", signature.map(Cid::to_string).unwrap_or_default())
}

fn next(last: Option<&Told>, pair: String, upstream: SystemTime) -> Told {
    let upstream = upstream
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    match last {
        Some(last) if last.pair == pair => last.clone(),
        Some(last) => Told {
            pair,
            time: upstream.max(last.time + 1),
        },
        None => Told { pair, time: upstream },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_time_is_upstreams_own_and_grows_with_every_change_of_bytes() {
        let first = next(None, "a".into(), at(100));
        assert_eq!(first.time, 100);
        assert_eq!(
            next(Some(&first), "a".into(), at(500)),
            first,
            "same bytes, same time"
        );
        let second = next(Some(&first), "b".into(), at(200));
        assert_eq!(second.time, 200);
        let back = next(Some(&second), "a".into(), at(100));
        assert_eq!(back.time, 201, "other bytes with an older time still grow");
    }
}
