//! How many bytes left the gateway, by the source this node first got them from.
//!
//! - Invariant: survives a restart (saved at each stop and every few minutes; a kill loses
//!   at most what left since).
//! - Not here: who got them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pacstore_store::{ByOrigin, Origin, Store};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

const KEY: &str = "bytes";

/// Bytes by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesOut {
    /// Imported here, or taken from pacman's cache.
    pub disk: u64,
    /// From peers with loopback, private or link-local addresses.
    pub lan: u64,
    /// From other peers.
    pub peer: u64,
    /// From ordinary mirrors.
    pub upstream: u64,
}

impl BytesOut {
    /// Of all sources together.
    pub fn total(&self) -> u64 {
        self.disk + self.lan + self.peer + self.upstream
    }
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    disk: AtomicU64,
    lan: AtomicU64,
    peer: AtomicU64,
    upstream: AtomicU64,
    /// As they stand on disk.
    saved: Mutex<BytesOut>,
}

impl Counters {
    /// As they were saved last.
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let saved: BytesOut = store
            .state_get(KEY)?
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Ok(Self {
            disk: saved.disk.into(),
            lan: saved.lan.into(),
            peer: saved.peer.into(),
            upstream: saved.upstream.into(),
            saved: Mutex::new(saved),
        })
    }

    pub(crate) fn save(&self, store: &Store) -> Result<(), StoreError> {
        let now = self.get();
        // Nothing is written where nothing was given.
        if *self.saved.lock().unwrap_or_else(PoisonError::into_inner) == now {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&now).unwrap_or_default();
        store.state_put(&[(KEY, Some(&bytes))])?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    pub(crate) fn get(&self) -> BytesOut {
        BytesOut {
            disk: self.disk.load(Ordering::Relaxed),
            lan: self.lan.load(Ordering::Relaxed),
            peer: self.peer.load(Ordering::Relaxed),
            upstream: self.upstream.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn add(&self, origin: Origin, bytes: u64) {
        let counter = match origin {
            Origin::Disk => &self.disk,
            Origin::Lan => &self.lan,
            Origin::Peer => &self.peer,
            Origin::Upstream => &self.upstream,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of a stored file that came from several sources are counted in their shares.
    pub(crate) fn add_shared(&self, by: &ByOrigin, bytes: u64) {
        let total = by.disk + by.lan + by.peer + by.upstream;
        if total == 0 {
            self.add(Origin::Disk, bytes);
            return;
        }
        let share = |part: u64| (u128::from(bytes) * u128::from(part) / u128::from(total)) as u64;
        let (lan, peer, upstream) = (share(by.lan), share(by.peer), share(by.upstream));
        let disk = if by.disk == 0 { 0 } else { share(by.disk) };
        self.add(Origin::Lan, lan);
        self.add(Origin::Peer, peer);
        self.add(Origin::Upstream, upstream);
        self.add(Origin::Disk, disk);
        // What rounding left over goes to the largest share.
        let rest = bytes - lan - peer - upstream - disk;
        let largest = [
            (by.disk, Origin::Disk),
            (by.lan, Origin::Lan),
            (by.peer, Origin::Peer),
            (by.upstream, Origin::Upstream),
        ]
        .into_iter()
        .max_by_key(|(part, _)| *part)
        .map_or(Origin::Disk, |(_, origin)| origin);
        self.add(largest, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_file_is_counted_in_its_shares_and_nothing_is_lost() {
        let counters = Counters::default();
        counters.add_shared(
            &ByOrigin {
                disk: 0,
                lan: 1,
                peer: 2,
                upstream: 0,
            },
            10,
        );
        let got = counters.get();
        assert_eq!(
            got,
            BytesOut {
                disk: 0,
                lan: 3,
                peer: 7,
                upstream: 0
            }
        );
    }
}
