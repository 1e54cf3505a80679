//! What was seen of ordinary mirrors, remembered over restarts.
//!
//! - Invariant: a record that cannot be read is forgotten; the ranking then begins anew.
//! - Invariant: at most one write in [`EVERY_S`] seconds, and one at the stop.
//! - Not here: what is seen and how it orders (`pacstore_upstream::Mirrors`).

use std::sync::atomic::{AtomicU64, Ordering};

use pacstore_runtime::Clock;
use pacstore_store::Store;
use pacstore_upstream::{MirrorRecord, Mirrors};

use crate::error::StoreError;

/// Where it is kept.
const KEY: &str = "mirrors seen";

/// Latencies change with each request; written down they are seldom, in seconds.
const EVERY_S: u64 = 900;

/// Which of the things that are kept in memory are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remember {
    /// Those whose time has come.
    WhatIsDue,
    /// All: the node stops.
    Everything,
}

/// The measurements, and when they were written down last.
#[derive(Debug)]
pub(crate) struct Ranking {
    mirrors: Mirrors,
    clock: Clock,
    saved: AtomicU64,
}

impl Ranking {
    /// As they were saved last.
    pub(crate) fn load(store: &Store, clock: Clock) -> Result<Self, StoreError> {
        let mirrors = Mirrors::new(clock.clone());
        let saved = store.state_get(KEY)?;
        let records: Vec<MirrorRecord> = saved
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        mirrors.restore(records);
        let saved = clock.unix_seconds().into();
        Ok(Self {
            mirrors,
            clock,
            saved,
        })
    }

    pub(crate) fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    pub(crate) fn save(&self, store: &Store, what: Remember) -> Result<(), StoreError> {
        let now = self.clock.unix_seconds();
        let due = now.abs_diff(self.saved.load(Ordering::Relaxed)) >= EVERY_S;
        if what == Remember::WhatIsDue && !due {
            return Ok(());
        }
        if let Some(records) = self.mirrors.changes() {
            let bytes = serde_json::to_vec(&records).unwrap_or_default();
            store.state_put(&[(KEY, Some(&bytes))])?;
        }
        self.saved.store(now, Ordering::Relaxed);
        Ok(())
    }
}
