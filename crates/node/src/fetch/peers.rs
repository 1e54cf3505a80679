//! Peers as a source: leaves and inner nodes over Bitswap.
//!
//! The session keeps the window to each peer, hands a leaf on when a peer stalls, has
//! it not or goes away, and verifies. This module keeps as many leaves asked as the
//! peers have shown to bring soon and the byte budget allows.
//!
//! - Invariant: an unanswered want is dropped (and so cancelled) once its leaf is here.
//! - Invariant: nothing waits for the byte budget while leaves under way are not looked after.
//! - Not here: which leaf next (`super::plan`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use pacstore_bitswap::{Session, SessionOptions};
use pacstore_dag::{self as dag, Block, Leaf};
use pacstore_net::PeerId;
use pacstore_runtime::ByteLease;
use tracing::debug;

use super::job::Shared;
use super::line::{Host, Turn};
use super::plan::SourceId;
use super::{AskPeers, FetchError, Inner, balance, here, turns};
use crate::neighbours::Whose;

/// Leaves that a job asks of all peers together, at most.
const WINDOW: usize = 16;

/// Leaves asked while it is not known how fast the peers are.
const FIRST_WINDOW: usize = 4;

/// At a known rate so much is asked as comes within this time: what is asked of slow
/// peers is kept from faster sources.
const AHEAD: Duration = Duration::from_millis(800);

/// Inner nodes asked at once.
const NODES_AT_ONCE: usize = 64;

/// How long a session waits for a peer when it has none.
const FIND_PEER: Duration = Duration::from_millis(800);

/// How long a leaf is left to a mirror that would be sooner, or by a mirror to peers that would.
pub(crate) const MAKE_WAY: Duration = Duration::from_millis(300);

/// How often it is looked for peers that connected since.
const NEWCOMERS: Duration = Duration::from_millis(50);

/// How long one block may take in all before it goes back.
const BLOCK_DEADLINE: Duration = Duration::from_secs(30);

/// The longest rest after leaves that no peer gave.
const MAX_REST: Duration = Duration::from_secs(2);

/// Connected peers that may be asked.
pub(crate) fn may_be_asked(inner: &Inner, ask: AskPeers) -> Vec<PeerId> {
    let Some(net) = &inner.net else { return Vec::new() };
    let peers = net.peers().into_iter();
    let peers = peers.filter(|peer| peer.bitswap != Some(false));
    let peers = peers.filter(|peer| match ask {
        AskPeers::Nobody => false,
        AskPeers::Friends => peer.configured,
        AskPeers::Everyone => true,
    });
    peers.map(|peer| peer.id).collect()
}

/// A peer may be asked that is not of the LAN.
fn outside(inner: &Inner, ask: AskPeers) -> bool {
    let Some(net) = &inner.net else { return false };
    let far = |peer: &PeerId| net.peer(peer).is_some_and(|peer| !peer.lan);
    may_be_asked(inner, ask).iter().any(far)
}

/// No peer is connected that could be asked.
pub(crate) fn nobody(inner: &Inner, ask: AskPeers) -> bool {
    may_be_asked(inner, ask).is_empty()
}

/// A session with the peers that are connected now and may be asked.
pub(crate) fn session(inner: &Inner, ask: AskPeers) -> Option<Session> {
    let net = inner.net.as_ref()?;
    let options = SessionOptions::with_peers(may_be_asked(inner, ask)).patience(FIND_PEER);
    Some(net.bitswap().session(options))
}

/// When the last byte of what `session` asked came.
pub(crate) fn last_byte(session: &Session) -> Option<tokio::time::Instant> {
    session.stats().iter().filter_map(|peer| peer.last_byte).max()
}

/// Waits for `asked`, which asks `session`; peers that connect meanwhile are asked too.
pub(crate) async fn with_newcomers<T>(
    inner: &Inner,
    session: &Session,
    ask: AskPeers,
    asked: impl Future<Output = T>,
) -> T {
    tokio::pin!(asked);
    loop {
        tokio::select! {
            done = &mut asked => return done,
            () = tokio::time::sleep(NEWCOMERS) => {
                let known = session.peers();
                for peer in may_be_asked(inner, ask).into_iter().filter(|peer| !known.contains(peer)) {
                    session.add_peer(peer);
                }
            }
        }
    }
}

/// Brings leaves of one job until it is over.
pub(crate) async fn run(shared: Arc<Shared>, source: SourceId) {
    let Some(session) = session(&shared.inner, shared.ask) else {
        return;
    };
    let mut flying = FuturesUnordered::new();
    let mut rest = Backlog::default();
    loop {
        if shared.stop.is_cancelled() || shared.complete() {
            return;
        }
        rest.refresh(&shared, &session, (source, flying.is_empty()));
        while flying.len() < window(&shared, source) && rest.may_ask() && !rest.makes_way(&shared, &session) {
            let host = Host::Peers(rest.peers.len());
            let turn = shared.inner.line.turn(shared.file.root, host);
            if !turn.try_start() {
                shared.held();
                break;
            }
            let Some(lease) = room(&shared, flying.is_empty()).await else {
                break;
            };
            let [leaf] = shared.pick(source, 1)[..] else { break };
            flying.push(bring(&shared, &session, source, leaf, (lease, turn)));
        }
        if flying.is_empty() {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = shared.idle() => {}
            }
            continue;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(done) = flying.next() => match done {
                Some((bytes, asked)) => rest.count(&shared, source, bytes, asked),
                None => rest.failed(&shared),
            },
            () = tokio::time::sleep(super::plan::LATE / 4) => {}
        }
    }
}

/// How many leaves may be asked now.
fn window(shared: &Shared, source: SourceId) -> usize {
    let most = shared.window(WINDOW);
    let line = &shared.inner.line;
    if !line.is_wide() && line.is_waited_for(&shared.file.root) {
        return 1;
    }
    let rate = shared.rate(source);
    if rate <= 0.0 {
        return FIRST_WINDOW.min(most);
    }
    let leaf = shared.largest_leaf().max(1);
    ((rate * AHEAD.as_secs_f64() / leaf as f64) as usize).clamp(2, most)
}

/// Room for one more leaf. Waited for only when nothing else is to be looked after.
async fn room(shared: &Shared, wait: bool) -> Option<ByteLease> {
    let leaf = shared.largest_leaf();
    if !wait {
        return shared.inner.budget.try_acquire(leaf);
    }
    tokio::select! {
        () = shared.stop.cancelled() => None,
        lease = shared.inner.budget.acquire(leaf) => Some(lease),
    }
}

/// Asks for one leaf: its bytes and when it was asked, or nothing if nobody gives it now.
async fn bring(
    shared: &Arc<Shared>,
    session: &Session,
    source: SourceId,
    leaf: usize,
    place: (ByteLease, Turn),
) -> Option<(u64, Instant)> {
    let wanted = shared.file.leaves[leaf];
    let asked = Instant::now();
    if outside(&shared.inner, shared.ask) {
        match shared.inner.neighbours.turn(&wanted.cid, shared.ask).await {
            Whose::Ours(ticket) => shared.tickets.hold(leaf, ticket),
            Whose::Theirs(theirs) => {
                drop(place);
                turns::take(shared, source, leaf, theirs).await;
                return Some((0, asked));
            }
        }
    }
    let under_way = shared.inner.balance.of_peers(wanted.len);
    let got = tokio::select! {
        () = shared.stop.cancelled() => None,
        () = shared.arrived(leaf) => None,
        got = tokio::time::timeout(BLOCK_DEADLINE, session.get(wanted.cid)) => Some(got),
    };
    drop(under_way);
    let done = match got {
        Some(Ok(Ok(got))) => {
            if let Some(data) = file_bytes(&wanted, &got.data) {
                let origin = shared.inner.origin(&got.from);
                let root = shared.file.root;
                if !shared.is_done(leaf) {
                    shared.inner.givers.peer(&root, &got.from, origin, wanted.len);
                }
                shared.keep(leaf, data, origin).await;
                Some((wanted.len, asked))
            } else {
                shared.is_contradicted_by(leaf);
                shared.give_back(leaf, source);
                None
            }
        }
        Some(refused) => {
            let why = refused.map(|got| got.err().map(|error| error.to_string()));
            debug!(cid = %wanted.cid, ?why, "no peer gives this leaf now");
            shared.give_back(leaf, source);
            None
        }
        None => {
            shared.give_back(leaf, source);
            Some((0, asked))
        }
    };
    drop(place);
    done
}

/// The bytes of the file in a block: all of a raw leaf, what a dag-pb leaf (CIDv0) holds inside.
pub(crate) fn file_bytes(leaf: &Leaf, block: &Bytes) -> Option<Bytes> {
    let data = dag::leaf_data(&leaf.cid, block).ok()?;
    (data.len() as u64 == leaf.len).then_some(data)
}

/// When to ask again after failures, and how fast the peers were.
#[derive(Debug, Default)]
struct Backlog {
    failures: u32,
    until: Option<Instant>,
    /// The source was busy from the later of this and a leaf's asking to its arrival.
    last: Option<Instant>,
    /// The peers of the session when it was last looked at.
    peers: Vec<PeerId>,
    /// When the last byte had come from any of them then.
    last_byte: Option<tokio::time::Instant>,
    /// Since when a leaf has been left to a mirror.
    left: Option<Instant>,
}

impl Backlog {
    /// A mirror would bring the next leaf sooner. It is left to one for [`MAKE_WAY`] at most: then none wants it.
    fn makes_way(&mut self, shared: &Shared, session: &Session) -> bool {
        let leaf = shared.largest_leaf();
        if !balance::is_mirror_sooner(&shared.inner, session, &shared.sources.upstreams, leaf) {
            self.left = None;
            return false;
        }
        self.left.get_or_insert_with(Instant::now).elapsed() < MAKE_WAY
    }

    fn may_ask(&self) -> bool {
        !self.peers.is_empty() && self.until.is_none_or(|until| Instant::now() >= until)
    }

    /// Leaves that fail together count as one failure.
    fn failed(&mut self, shared: &Shared) {
        shared.peers_give(false);
        let now = Instant::now();
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        self.failures += 1;
        self.until = Some(now + Duration::from_millis(100 << self.failures.min(5)).min(MAX_REST));
    }

    fn count(&mut self, shared: &Shared, source: SourceId, bytes: u64, asked: Instant) {
        if bytes == 0 {
            return;
        }
        let now = Instant::now();
        let from = self.last.map_or(asked, |last| last.max(asked));
        shared
            .inner
            .line
            .came(&Host::Peers(self.peers.len()), bytes, from);
        shared.measured(source, bytes, now.saturating_duration_since(from));
        shared.peers_give(true);
        self.last = Some(now);
        self.failures = 0;
        self.until = None;
    }

    /// Peers that connected since take part too, and are asked at once; bytes that came
    /// count although their leaf is not whole yet.
    fn refresh(&mut self, shared: &Shared, session: &Session, (source, idle): (SourceId, bool)) {
        let now = may_be_asked(&shared.inner, shared.ask);
        for peer in now.iter().filter(|peer| !self.peers.contains(peer)) {
            session.add_peer(*peer);
            self.until = None;
        }
        for peer in self.peers.iter().filter(|peer| !now.contains(peer)) {
            session.remove_peer(*peer);
        }
        self.peers = now;
        if idle {
            return;
        }
        let last_byte = last_byte(session);
        if self.last_byte < last_byte {
            shared.moves(source);
        }
        self.last_byte = last_byte;
    }
}

/// Fetches inner nodes and keeps them in one transaction.
pub(crate) async fn nodes(inner: &Arc<Inner>, cids: &[Cid], ask: AskPeers) -> Result<Vec<Block>, FetchError> {
    let Some(first) = cids.first().copied() else {
        return Ok(Vec::new());
    };
    let Some(session) = session(inner, ask) else {
        return Err(FetchError::NoSource {
            cid: first,
            why: "no network".into(),
        });
    };
    let session = &session;
    let asked = stream::iter(cids.iter().copied()).map(|cid| async move {
        let flight = inner.nodes.cell(&cid);
        let asked = flight.get_or_try_init(|| node(inner, session, ask, cid));
        let data = match tokio::time::timeout(super::PATIENCE, asked).await {
            Ok(data) => data?.clone(),
            Err(_) => {
                return Err(FetchError::NoSource {
                    cid,
                    why: "no peer answered in time".into(),
                });
            }
        };
        Ok((Block { cid, data }, flight))
    });
    let mut found = asked.buffered(NODES_AT_ONCE);
    // Until they are on disk, whoever wants one of them meets it in its flight.
    let (mut blocks, mut flights) = (Vec::new(), Vec::new());
    while let Some(found) = found.next().await {
        let (block, flight) = found?;
        blocks.push(block);
        flights.push(flight);
    }
    let store = inner.store.clone();
    let kept = blocks.clone();
    inner.blocking(first, move || store.put_nodes(&kept)).await?;
    drop(flights);
    Ok(blocks)
}

/// One inner node: from disk if another request has just brought it, else from peers. It is
/// asked for once however many want it: Helia gives nobody the same block twice within 5 s.
async fn node(inner: &Arc<Inner>, session: &Session, ask: AskPeers, cid: Cid) -> Result<Bytes, FetchError> {
    let store = inner.store.clone();
    if here::may_be_block(inner, &cid)
        && let Some(data) = inner.blocking(cid, move || store.block(&cid)).await?
    {
        return Ok(data);
    }
    match with_newcomers(inner, session, ask, session.get(cid)).await {
        Ok(got) => Ok(got.data),
        Err(error) => Err(FetchError::NoSource {
            cid,
            why: error.to_string(),
        }),
    }
}
