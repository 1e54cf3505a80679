//! What the behaviour, the handle and all tasks of one node share.
//!
//! - Invariant: locks are taken one at a time, in the order peers, client, a peer's queue, and
//!   never held across an await.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use pacstore_runtime::{BufferSizes, Buffers, ByteBudget, CancellationToken, Tasks};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::debug;

use crate::behaviour::Event;
use crate::client::{BanReason, Client};
use crate::config::{Blocks, Config, LocalPeers, TARGET_MESSAGE};
use crate::ledger::{Ledger, Ledgers};
use crate::link::{Link, Peer};
use crate::writer;

/// Messages larger than this need room in a budget while they are read.
pub(crate) const SMALL_MESSAGE: usize = 64 * 1024;
/// Memory for messages that hold one leaf, or small blocks up to the usual size. Shorter ones get memory of
/// their own length: what a message takes is what it counts for.
const MESSAGES: BufferSizes = BufferSizes {
    shortest: TARGET_MESSAGE / 4 * 3,
    each: TARGET_MESSAGE + 4 * 1024,
    spare: 12,
};
/// Room for answers of peers that do not take them.
const SLOW_BYTES: u64 = 8 * 1024 * 1024;
/// Room for large messages of peers that we asked nothing: wantlists, or nonsense.
const UNASKED_BYTES: u64 = 8 * 1024 * 1024;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) tasks: Tasks,
    pub(crate) stop: CancellationToken,
    pub(crate) blocks: Arc<dyn Blocks>,
    pub(crate) ledgers: Ledgers,
    /// Received messages of peers that we asked for blocks.
    pub(crate) receiving: ByteBudget,
    /// Received large messages of others.
    pub(crate) unasked: ByteBudget,
    /// Memory of received messages.
    pub(crate) messages: Buffers,
    /// Built answers.
    pub(crate) sending: ByteBudget,
    /// Those for peers to whom an upload rate holds: they wait for it, and nobody near by for them.
    pub(crate) limited: ByteBudget,
    /// Those that their peers do not take.
    pub(crate) slow: ByteBudget,
    /// Wakes the clockwork of sessions.
    pub(crate) clockwork: Notify,
    local: RwLock<Option<LocalPeers>>,
    client: Mutex<Client>,
    peers: Mutex<HashMap<PeerId, Arc<Peer>>>,
    events: mpsc::Sender<Event>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        blocks: Arc<dyn Blocks>,
        tasks: Tasks,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            stop: tasks.stop(),
            tasks,
            blocks,
            ledgers: Ledgers::default(),
            receiving: ByteBudget::new(config.receive_bytes),
            unasked: ByteBudget::new(UNASKED_BYTES),
            messages: Buffers::new(MESSAGES),
            sending: ByteBudget::new(config.send_bytes),
            limited: ByteBudget::new(config.send_bytes / 2),
            slow: ByteBudget::new(SLOW_BYTES),
            clockwork: Notify::new(),
            local: RwLock::new(config.local.clone()),
            client: Mutex::new(Client::new(&config)),
            peers: Mutex::default(),
            events,
            config,
        }
    }

    pub(crate) fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection came up: its peer, whose writer now runs.
    pub(crate) fn connect(self: &Arc<Self>, id: PeerId, link: &Arc<Link>) -> Arc<Peer> {
        let mut peers = self.peers();
        if let Some(peer) = peers.get(&id) {
            peer.add_link(Arc::clone(link));
            return Arc::clone(peer);
        }
        let receiving = ByteBudget::new(self.config.receive_bytes_per_peer);
        let peer = Arc::new(Peer::new(
            id,
            self.ledgers.of(id),
            receiving,
            self.config.wants_per_peer,
        ));
        peer.add_link(Arc::clone(link));
        peers.insert(id, Arc::clone(&peer));
        // Under the lock of peers, so that client and peers never disagree on who is connected.
        self.client().connected(&peer, Instant::now());
        drop(peers);
        let task = writer::run(Arc::clone(self), Arc::clone(&peer));
        self.tasks.spawn(format!("bitswap writer {id}"), task);
        self.clockwork.notify_one();
        peer
    }

    /// A connection is gone.
    pub(crate) fn disconnect(&self, peer: &Arc<Peer>, link: ConnectionId) {
        let mut peers = self.peers();
        if !peer.remove_link(link) {
            peer.wake.notify_one();
            return;
        }
        peer.gone.cancel();
        if peers.get(&peer.id).is_some_and(|known| Arc::ptr_eq(known, peer)) {
            peers.remove(&peer.id);
            self.client().disconnected(peer.id, Instant::now());
        }
        drop(peers);
        self.clockwork.notify_one();
    }

    /// Counts a breach of the protocol.
    pub(crate) fn strike(&self, peer: &Peer, what: &'static str) {
        Ledger::add(&peer.ledger.strikes, 1);
        debug!(peer = %peer.id, what, "peer breaks the protocol");
        self.client().strike(peer.id, Instant::now());
        self.report_bans();
    }

    /// Passes new bans on as swarm events; the list itself is in the client.
    pub(crate) fn report_bans(&self) {
        let new = self.client().take_new_bans();
        for (peer, reason) in new {
            self.banned(peer, reason);
        }
    }

    fn banned(&self, peer: PeerId, reason: BanReason) {
        tracing::warn!(%peer, ?reason, "peer is banned");
        // A full queue loses the event only: the ban list keeps it.
        let _: Result<(), _> = self.events.try_send(Event::Banned { peer, reason });
    }

    pub(crate) fn is_local(&self, peer: &PeerId) -> bool {
        let local = self.local.read().unwrap_or_else(PoisonError::into_inner).clone();
        local.is_some_and(|local| local(peer))
    }

    pub(crate) fn set_local(&self, local: LocalPeers) {
        *self.local.write().unwrap_or_else(PoisonError::into_inner) = Some(local);
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
