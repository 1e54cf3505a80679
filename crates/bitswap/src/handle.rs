//! The handle: what the rest of the node sees of Bitswap.
//!
//! - Not here: sessions' methods (`crate::session`).

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;
use tokio::time::Instant;

use crate::client::BanReason;
use crate::config::LocalPeers;
use crate::ledger::Traffic;
use crate::session::{Session, SessionOptions};
use crate::shared::Shared;

/// A peer that is not asked for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banned {
    /// Who.
    pub peer: PeerId,
    /// For what.
    pub reason: BanReason,
    /// For how much longer.
    pub left: Duration,
}

/// Asks the network for blocks. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Bitswap {
    shared: Arc<Shared>,
}

impl Bitswap {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Starts a session.
    pub fn session(&self, options: SessionOptions) -> Session {
        Session::new(Arc::clone(&self.shared), options)
    }

    /// Connected peers that are known to speak Bitswap: by identify, by a stream that they opened,
    /// or by one that we did. A peer not listed yet can be asked all the same.
    pub fn connected(&self) -> Vec<PeerId> {
        self.shared.client().speakers()
    }

    /// Whether a connection to a peer is up, whatever it speaks.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.shared.client().is_connected(peer)
    }

    /// What went between us and a peer since this node started.
    pub fn ledger(&self, peer: &PeerId) -> Traffic {
        self.shared.ledgers.read(peer)
    }

    /// Tells how long a round trip to a connected peer took: one that owes blocks and is silent for several of them
    /// loses its wants to others. Until this is told it is waited for as long as [`Config::stall`](crate::Config::stall).
    pub fn round_trip(&self, peer: &PeerId, took: Duration) {
        self.shared.client().round_trip(peer, took);
    }

    /// What those of `peers` that can be asked now (connected, not banned, not stalled) give together, in bytes a second.
    /// `None` while one of them was not measured, and where there is none.
    pub fn rate(&self, peers: &[PeerId]) -> Option<f64> {
        self.shared.client().rate_of(peers)
    }

    /// Bytes so far of a block that arrives now, as far as can be told: a peer's bytes are
    /// counted for the block that it was asked first. `None` if the block is not wanted.
    pub fn progress(&self, cid: &Cid) -> Option<u64> {
        self.shared.client().progress(cid.hash())
    }

    /// Peers that are not asked now, and why.
    pub fn banned(&self) -> Vec<Banned> {
        let client = self.shared.client();
        let bans = client.bans(Instant::now());
        bans.map(|(peer, reason, left)| Banned { peer, reason, left })
            .collect()
    }

    /// Ends a ban.
    pub fn unban(&self, peer: &PeerId) {
        self.shared.client().unban(peer, Instant::now());
    }

    /// Says anew which peers are local, and so not limited by `Config::upload`.
    pub fn set_local(&self, local: LocalPeers) {
        self.shared.set_local(local);
    }

    /// Bytes of received messages and of built answers that are held now.
    pub fn held(&self) -> (u64, u64) {
        let received = self.shared.receiving.in_use() + self.shared.unasked.in_use();
        let sending = [&self.shared.sending, &self.shared.limited, &self.shared.slow];
        (
            received,
            sending.map(pacstore_runtime::ByteBudget::in_use).iter().sum(),
        )
    }
}
