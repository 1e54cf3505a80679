//! A sign of life of work that takes long: something came.
//!
//! - Invariant: a beat costs one atomic addition; nobody waits for who listens.
//! - Not here: how much came (`Progress` of rsync, lengths of files), what is done where nothing does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the moments at which something came. Clones count together.
///
/// ```
/// let pulse = pacstore_upstream::Pulse::default();
/// pulse.clone().beat();
/// assert_eq!(pulse.beats(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Something came.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often something has come so far.
    pub fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
