//! How much each peer may ask within a minute: one counter a protocol.
//!
//! - Invariant: what is counted is bounded; a peer that is not counted is not answered.
//! - Not here: what is asked (`crate::lookups`, `crate::shares`).

use std::collections::HashMap;
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

/// Digests that peers asked for within the present minute.
#[derive(Debug)]
pub(crate) struct Askers {
    asked: HashMap<PeerId, usize>,
    minute: Instant,
    most_peers: usize,
    most: usize,
}

impl Askers {
    /// Counts `most_peers` peers, and lets each ask for `most` digests a minute.
    pub(crate) fn new(most_peers: usize, most: usize) -> Self {
        Self {
            asked: HashMap::new(),
            minute: Instant::now(),
            most_peers,
            most,
        }
    }

    /// Counts `digests` of `peer`; whether that is still within its minute.
    pub(crate) fn may_ask(&mut self, peer: PeerId, digests: usize) -> bool {
        if self.minute.elapsed() >= Duration::from_mins(1) {
            self.minute = Instant::now();
            self.asked.clear();
        }
        if self.asked.len() >= self.most_peers && !self.asked.contains_key(&peer) {
            return false;
        }
        let asked = self.asked.entry(peer).or_default();
        *asked = asked.saturating_add(digests);
        *asked <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_ask_so_much_within_a_minute_and_others_are_not_harmed() {
        let mut askers = Askers::new(10, 500);
        let (greedy, other) = (PeerId::random(), PeerId::random());
        assert!(askers.may_ask(greedy, 500));
        assert!(!askers.may_ask(greedy, 1));
        assert!(askers.may_ask(other, 1));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(askers.may_ask(greedy, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn peers_that_are_counted_are_bounded() {
        let mut askers = Askers::new(10, 500);
        let known = PeerId::random();
        assert!(askers.may_ask(known, 1));
        for _ in 1..10 {
            assert!(askers.may_ask(PeerId::random(), 1));
        }
        assert!(!askers.may_ask(PeerId::random(), 1));
        assert!(askers.may_ask(known, 1));
    }
}
