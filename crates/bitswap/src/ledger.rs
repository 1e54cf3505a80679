//! What went between us and each peer, in bytes and blocks.
//!
//! - Invariant: counters only grow; those of peers long gone are forgotten when there are many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

/// Peers whose counters are kept after they went away.
const KEPT: usize = 4096;

/// One peer's counters since this node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of blocks that we sent.
    pub sent: u64,
    /// Blocks that we sent.
    pub blocks_sent: u64,
    /// Bytes of asked blocks that arrived and verified.
    pub received: u64,
    /// Blocks that arrived and verified.
    pub blocks_received: u64,
    /// Blocks that arrived although we already had them from another.
    pub duplicates: u64,
    /// Blocks that nobody asked for, wrong bytes among them.
    pub unwanted: u64,
    /// Breaches of the protocol: unwanted blocks, oversized or malformed messages, floods.
    pub strikes: u64,
}

/// Counters that several tasks write.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) sent: AtomicU64,
    pub(crate) blocks_sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) blocks_received: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) unwanted: AtomicU64,
    pub(crate) strikes: AtomicU64,
}

impl Ledger {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Traffic {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            sent: get(&self.sent),
            blocks_sent: get(&self.blocks_sent),
            received: get(&self.received),
            blocks_received: get(&self.blocks_received),
            duplicates: get(&self.duplicates),
            unwanted: get(&self.unwanted),
            strikes: get(&self.strikes),
        }
    }
}

/// All peers' counters.
#[derive(Debug, Default)]
pub(crate) struct Ledgers(Mutex<HashMap<PeerId, Arc<Ledger>>>);

impl Ledgers {
    pub(crate) fn of(&self, peer: PeerId) -> Arc<Ledger> {
        let mut all = self.lock();
        if all.len() >= KEPT && !all.contains_key(&peer) {
            // Nobody connected holds those; order of forgetting does not matter.
            all.retain(|_, ledger| Arc::strong_count(ledger) > 1);
        }
        Arc::clone(all.entry(peer).or_default())
    }

    pub(crate) fn read(&self, peer: &PeerId) -> Traffic {
        self.lock()
            .get(peer)
            .map(|ledger| ledger.read())
            .unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Arc<Ledger>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
