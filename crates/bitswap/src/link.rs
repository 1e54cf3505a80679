//! One peer and its connections, as the stream tasks share them.
//!
//! A [`Link`] is one connection's meeting point between its handler, which the swarm polls,
//! and the tasks that read and write: the handler brings streams, the writer asks for one.
//!
//! - Invariant: a link is closed exactly when its handler is gone.
//! - Not here: what is written (`crate::writer`) or read (`crate::reader`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::task::AtomicWaker;
use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, Stream};
use pacstore_runtime::{ByteBudget, CancellationToken};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::server::Queue;
use crate::throttle::Throttle;

/// Which generation of the protocol a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Speaks {
    /// 1.0.0 or older: whole blocks only, their CIDs are version 0.
    V10,
    /// 1.1.0: blocks with a prefix.
    V11,
    /// 1.2.0: presences too.
    V12,
}

/// Why no outbound stream could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The peer speaks no Bitswap.
    Unsupported,
    /// The attempt failed or timed out.
    Failed,
}

type Opened = Result<(Stream, Speaks), OpenError>;

/// Inbound streams that may wait on one connection. Muxers stop peers long before (yamux 512).
const MAX_WAITING: usize = 1024;

/// Later than any time: nothing is owed.
const NOTHING: u64 = u64::MAX;

/// One connection to a peer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) closed: CancellationToken,
    /// A stream waits in `inbound`.
    pub(crate) arrived: Notify,
    pub(crate) waker: AtomicWaker,
    state: Mutex<LinkState>,
}

#[derive(Debug, Default)]
struct LinkState {
    asked: Option<oneshot::Sender<Opened>>,
    inbound: VecDeque<Stream>,
}

impl Link {
    pub(crate) fn new(id: ConnectionId) -> Self {
        Self {
            id,
            closed: CancellationToken::new(),
            arrived: Notify::new(),
            waker: AtomicWaker::new(),
            state: Mutex::default(),
        }
    }

    /// Asks the handler for an outbound stream. The receiver fails when the link closes.
    pub(crate) fn open(&self) -> oneshot::Receiver<Opened> {
        let (tx, rx) = oneshot::channel();
        if !self.closed.is_cancelled() {
            self.state().asked = Some(tx);
            self.waker.wake();
        }
        rx
    }

    /// For the handler: whether somebody waits for a stream.
    pub(crate) fn wants_stream(&self) -> bool {
        self.state().asked.is_some()
    }

    /// For the handler: the outcome of an attempt.
    pub(crate) fn opened(&self, outcome: Opened) {
        if let Some(tx) = self.state().asked.take() {
            // Nobody there any more: the stream is dropped, which closes it.
            drop(tx.send(outcome));
        }
    }

    /// For the handler: a peer's stream. False if far too many wait, which honest peers never do.
    pub(crate) fn arrive(&self, stream: Stream) -> bool {
        let mut state = self.state();
        if state.inbound.len() >= MAX_WAITING {
            return false;
        }
        state.inbound.push_back(stream);
        drop(state);
        self.arrived.notify_one();
        true
    }

    pub(crate) fn next_inbound(&self) -> Option<Stream> {
        self.state().inbound.pop_front()
    }

    /// The connection is gone.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.state().asked = None;
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer with at least one connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    /// Wakes the writer.
    pub(crate) wake: Notify,
    /// The last connection closed.
    pub(crate) gone: CancellationToken,
    pub(crate) ledger: Arc<Ledger>,
    /// What the peer wants from us.
    pub(crate) queue: Mutex<Queue>,
    /// Bytes of received messages that are read or checked now.
    pub(crate) receiving: ByteBudget,
    /// Bytes that came on this peer's streams.
    pub(crate) bytes_in: AtomicU64,
    /// Bytes so far of the message that arrives now.
    pub(crate) partial: AtomicU64,
    /// Messages that have arrived and wait for us (a hash, or room), so silence is not the peer's.
    pub(crate) held: AtomicUsize,
    /// Wants of ours are unanswered, or its wants wait here: keep the connection.
    pub(crate) busy_client: AtomicBool,
    pub(crate) busy_server: AtomicBool,
    last_byte: AtomicU64,
    /// Since when it owes us an answer; [`NOTHING`] if it does not.
    owes_since: AtomicU64,
    /// The longest of its silences that ended since it was last looked, while it owed us an answer.
    silence: AtomicU64,
    start: Instant,
    throttle: Mutex<Throttle>,
    links: Mutex<Vec<Arc<Link>>>,
}

impl Peer {
    pub(crate) fn new(id: PeerId, ledger: Arc<Ledger>, receiving: ByteBudget, wants: usize) -> Self {
        let start = Instant::now();
        Self {
            id,
            wake: Notify::new(),
            gone: CancellationToken::new(),
            ledger,
            queue: Mutex::new(Queue::new(wants)),
            receiving,
            bytes_in: AtomicU64::new(0),
            partial: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            busy_client: AtomicBool::new(false),
            busy_server: AtomicBool::new(false),
            last_byte: AtomicU64::new(0),
            owes_since: AtomicU64::new(NOTHING),
            silence: AtomicU64::new(0),
            start,
            throttle: Mutex::new(Throttle::new(start)),
            links: Mutex::default(),
        }
    }

    /// Bytes arrived just now.
    pub(crate) fn progress(&self, n: usize) {
        self.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
        let at = self.millis(Instant::now());
        let before = self.last_byte.swap(at, Ordering::Relaxed);
        let silence = at.saturating_sub(before.max(self.owes_since.load(Ordering::Relaxed)));
        self.silence.fetch_max(silence, Ordering::Relaxed);
    }

    /// It owes us an answer since then; `None`: no longer.
    pub(crate) fn owes(&self, since: Option<Instant>) {
        let since = since.map_or(NOTHING, |at| self.millis(at));
        self.owes_since.store(since, Ordering::Relaxed);
    }

    /// The longest silence, while it owed us an answer, that ended since this was last asked.
    pub(crate) fn take_silence(&self) -> Duration {
        Duration::from_millis(self.silence.swap(0, Ordering::Relaxed))
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// When the last byte came (the start of the connection if none did).
    pub(crate) fn last_byte(&self) -> Instant {
        self.start + Duration::from_millis(self.last_byte.load(Ordering::Relaxed))
    }

    pub(crate) fn busy(&self) -> bool {
        self.busy_client.load(Ordering::Relaxed) || self.busy_server.load(Ordering::Relaxed)
    }

    pub(crate) fn throttle(&self, entries: usize) -> Option<Duration> {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.take(entries, Instant::now())
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add_link(&self, link: Arc<Link>) {
        self.links().push(link);
        self.wake.notify_one();
    }

    /// Removes a link; true if it was the last.
    pub(crate) fn remove_link(&self, id: ConnectionId) -> bool {
        let mut links = self.links();
        links.retain(|link| link.id != id);
        links.is_empty()
    }

    /// The connection to write on: the oldest that lives.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.links()
            .iter()
            .find(|link| !link.closed.is_cancelled())
            .cloned()
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
