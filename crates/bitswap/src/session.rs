//! A session: some peers, and the blocks asked from them and from nobody else.
//!
//! - Invariant: bytes that [`Session::get`] returns hash to the CID that was asked.
//! - Not here: how wants are spread over peers (`crate::client`), where peers come from (crate `net`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use libp2p::PeerId;
use pacstore_dag::HashKind;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::client::{Key, SessionId};
use crate::shared::Shared;

/// How long [`Session::have`] waits for answers at most.
const HAVE_WAIT: Duration = Duration::from_secs(2);

/// How a session starts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// The first peers. They need not be connected yet.
    pub peers: Vec<PeerId>,
    /// How long a get waits while no peer makes progress on it: none connected, all stalled.
    pub patience: Duration,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            patience: Duration::from_secs(10),
        }
    }
}

impl SessionOptions {
    /// Options with these first peers.
    pub fn with_peers(peers: impl IntoIterator<Item = PeerId>) -> Self {
        Self {
            peers: peers.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The same with another patience.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// A verified block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Its bytes.
    pub data: Bytes,
    /// The peer that sent it.
    pub from: PeerId,
}

/// Why a block did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// Every peer of the session said that it does not have it, or speaks no Bitswap.
    #[error("no peer of the session has {cid}")]
    NotFound {
        /// What was asked.
        cid: Cid,
    },
    /// No peer of the session was connected in time.
    #[error("no peer to ask for {cid}")]
    NoPeers {
        /// What was asked.
        cid: Cid,
    },
    /// The peers that may have it stopped sending.
    #[error("peers stopped sending before {cid} came")]
    Stalled {
        /// What was asked.
        cid: Cid,
    },
    /// A peer sent other bytes, and nobody else has the block.
    #[error("{peer} sent wrong bytes for {cid}, and no other peer has it")]
    WrongBytes {
        /// What was asked.
        cid: Cid,
        /// Who sent them.
        peer: PeerId,
    },
    /// The CID's hash is not one that blocks can be verified with.
    #[error("hash of {cid} is not supported")]
    Unsupported {
        /// What was asked.
        cid: Cid,
    },
    /// Too many gets wait in this process.
    #[error("more than {limit} blocks are waited for")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// The node is stopping.
    #[error("node is stopping")]
    Closed,
}

/// What a session saw of one of its peers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerStats {
    /// Who.
    pub peer: PeerId,
    /// Whether a connection is up.
    pub connected: bool,
    /// Whether it is banned.
    pub banned: bool,
    /// Whether it owes blocks and sends nothing.
    pub stalled: bool,
    /// Bytes of blocks that it gave to this session.
    pub bytes: u64,
    /// Blocks that it gave to this session.
    pub blocks: u64,
    /// DONT_HAVEs, stalls and bans.
    pub failures: u64,
    /// Measured over all sessions, in bytes a second; 0 if not measured yet.
    pub rate: u64,
    /// How long a question and its answer take on the line, if that was measured.
    pub round_trip: Option<Duration>,
    /// Blocks asked from it and not answered, over all sessions.
    pub outstanding: usize,
    /// When its last byte came (at first: when it connected).
    pub last_byte: Option<Instant>,
}

/// Asks a set of peers for blocks. Clones are the same session; the last one dropped ends it.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    id: SessionId,
    patience: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.client().close_session(self.id, Instant::now());
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, options: SessionOptions) -> Self {
        let id = shared.client().open_session(options.patience, options.peers);
        Self(Arc::new(Inner {
            shared,
            id,
            patience: options.patience,
        }))
    }

    /// Lets the session ask `peer` too, at once for what it already waits for.
    pub fn add_peer(&self, peer: PeerId) {
        self.0.shared.client().add_peer(self.0.id, peer, Instant::now());
    }

    /// Asks `peer` no longer; what it was asked moves to others.
    pub fn remove_peer(&self, peer: PeerId) {
        self.0
            .shared
            .client()
            .remove_peer(self.0.id, peer, Instant::now());
    }

    /// The peers that may be asked, connected or not.
    pub fn peers(&self) -> Vec<PeerId> {
        self.0.shared.client().session_peers(self.0.id)
    }

    /// Fetches one block. Many gets may run at the same time, and should: each peer is given work
    /// in the order of the calls, as far as its window goes.
    ///
    /// Dropping the future withdraws the want. Two gets for one CID, also in two sessions, share one
    /// want; its peers are then those of both. A CID that holds its own bytes is nobody's to ask:
    /// see [`pacstore_dag::inline_data`].
    ///
    /// # Errors
    /// [`GetError`]; with a peer that answers DONT_HAVE at once, with silent or absent peers after
    /// [`SessionOptions::patience`].
    pub async fn get(&self, cid: Cid) -> Result<Got, GetError> {
        if HashKind::from_code(cid.hash().code()).is_none() || cid.hash().size() != 32 {
            return Err(GetError::Unsupported { cid });
        }
        let (tx, rx) = oneshot::channel();
        let shared = &self.0.shared;
        let waiter = shared.client().get(self.0.id, cid, tx, Instant::now());
        shared.clockwork.notify_one();
        let _guard = Guard {
            shared,
            key: *cid.hash(),
            waiter,
        };
        tokio::select! {
            answer = rx => answer.unwrap_or(Err(GetError::Closed)),
            () = shared.stop.cancelled() => Err(GetError::Closed),
        }
    }

    /// Fetches one block from one peer, which need not be of this session.
    ///
    /// # Errors
    /// As [`Session::get`].
    pub async fn get_from(&self, cid: Cid, peer: PeerId) -> Result<Got, GetError> {
        let options = SessionOptions::with_peers([peer]).patience(self.0.patience);
        Self::new(Arc::clone(&self.0.shared), options).get(cid).await
    }

    /// Asks all connected peers of the session whether they have a block, and returns those that
    /// said so within 2 s (or the session's patience, if that is shorter). Takes no block.
    pub async fn have(&self, cid: Cid) -> Vec<PeerId> {
        let shared = &self.0.shared;
        let (id, done) = shared.client().probe(self.0.id, cid, Instant::now());
        shared.clockwork.notify_one();
        let mut guard = ProbeGuard {
            shared,
            key: *cid.hash(),
            id: Some(id),
        };
        // Late or not, what came by then is the answer.
        drop(
            timeout(
                HAVE_WAIT.min(self.0.patience),
                shared.stop.run_until_cancelled(done),
            )
            .await,
        );
        guard.end()
    }

    /// What each peer did for this session.
    pub fn stats(&self) -> Vec<PeerStats> {
        self.0.shared.client().session_stats(self.0.id)
    }
}

/// Withdraws a get whose future is dropped.
struct Guard<'a> {
    shared: &'a Shared,
    key: Key,
    waiter: Option<u64>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.shared.client().forget(&self.key, waiter, Instant::now());
        }
    }
}

struct ProbeGuard<'a> {
    shared: &'a Shared,
    key: Key,
    id: Option<u64>,
}

impl ProbeGuard<'_> {
    fn end(&mut self) -> Vec<PeerId> {
        let id = self.id.take();
        id.map(|id| self.shared.client().end_probe(&self.key, id, Instant::now()))
            .unwrap_or_default()
    }
}

impl Drop for ProbeGuard<'_> {
    fn drop(&mut self) {
        drop(self.end());
    }
}
