//! Peers as a source: leaves and inner nodes over Bitswap.
//!
//! The session keeps the window to each peer, hands a leaf on when a peer stalls, has
//! it not or goes away, and verifies. This module keeps as many leaves asked as the
//! session may carry and the byte budget allows.
//!
//! - Invariant: an unanswered want is dropped (and so cancelled) once its leaf is here.
//! - Not here: which leaf next (`super::plan`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use pacstore_bitswap::{Session, SessionOptions};
use pacstore_dag::Block;
use tracing::debug;

use super::job::Shared;
use super::plan::SourceId;
use super::{FetchError, Inner};

/// Leaves that a job asks of all peers together.
const WINDOW: usize = 16;

/// Inner nodes asked at once.
const NODES_AT_ONCE: usize = 64;

/// How long a session waits for a peer when it has none.
const FIND_PEER: Duration = Duration::from_millis(800);

/// How long one block may take in all before it goes back.
const BLOCK_DEADLINE: Duration = Duration::from_secs(30);

/// A session with all peers that are connected now.
pub(crate) fn session(inner: &Inner) -> Option<Session> {
    let net = inner.net.as_ref()?;
    let session = net
        .bitswap()
        .session(SessionOptions::with_peers([]).patience(FIND_PEER));
    for peer in net.bitswap().connected() {
        session.add_peer(peer);
    }
    Some(session)
}

/// Brings leaves of one job until it is over.
pub(crate) async fn run(shared: Arc<Shared>, source: SourceId) {
    let Some(session) = session(&shared.inner) else {
        return;
    };
    let mut flying = FuturesUnordered::new();
    let mut rest = Backlog::default();
    loop {
        if shared.stop.is_cancelled() || shared.complete() {
            return;
        }
        rest.refresh(&shared, &session);
        while flying.len() < WINDOW && rest.may_ask() {
            let [leaf] = shared.pick(source, 1)[..] else { break };
            let wanted = shared.file.leaves[leaf].clone();
            let lease = shared.inner.budget.acquire(wanted.len).await;
            let session = session.clone();
            let shared = Arc::clone(&shared);
            flying.push(async move {
                let asked = Instant::now();
                let got = tokio::select! {
                    () = shared.stop.cancelled() => None,
                    () = shared.arrived(leaf) => None,
                    got = tokio::time::timeout(BLOCK_DEADLINE, session.get(wanted.cid)) => Some(got),
                };
                match got {
                    Some(Ok(Ok(got))) if got.data.len() as u64 == wanted.len => {
                        let origin = shared.inner.origin(&got.from);
                        let bytes = got.data.len() as u64;
                        shared.keep(leaf, got.data, origin).await;
                        drop(lease);
                        Some((bytes, asked))
                    }
                    Some(other) => {
                        debug!(cid = %wanted.cid, ?other, "no peer gives this leaf now");
                        shared.give_back(leaf, source);
                        None
                    }
                    None => {
                        shared.give_back(leaf, source);
                        Some((0, asked))
                    }
                }
            });
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
                None => rest.failed(),
            },
            () = tokio::time::sleep(super::plan::LATE) => {}
        }
    }
}

/// When to ask again after failures, and how fast the peers were.
#[derive(Debug, Default)]
struct Backlog {
    failures: u32,
    until: Option<Instant>,
    /// The source was busy from the later of this and a leaf's asking to its arrival.
    last: Option<Instant>,
}

impl Backlog {
    fn may_ask(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    fn failed(&mut self) {
        self.failures += 1;
        let wait = Duration::from_millis(100 << self.failures.min(5));
        self.until = Some(Instant::now() + wait);
    }

    fn count(&mut self, shared: &Shared, source: SourceId, bytes: u64, asked: Instant) {
        let now = Instant::now();
        let from = self.last.map_or(asked, |last| last.max(asked));
        shared.measured(source, bytes, now.saturating_duration_since(from));
        self.last = Some(now);
        self.failures = 0;
        self.until = None;
    }

    /// Peers that connected since take part too.
    fn refresh(&self, shared: &Shared, session: &Session) {
        let Some(net) = &shared.inner.net else { return };
        for peer in net.bitswap().connected() {
            session.add_peer(peer);
        }
    }
}

/// Fetches inner nodes and keeps them in one transaction.
pub(crate) async fn nodes(inner: &Arc<Inner>, cids: &[Cid]) -> Result<Vec<Block>, FetchError> {
    let Some(first) = cids.first().copied() else {
        return Ok(Vec::new());
    };
    let Some(session) = session(inner) else {
        return Err(FetchError::NoSource {
            cid: first,
            why: "no network".into(),
        });
    };
    let session = &session;
    let asked = stream::iter(cids.iter().copied()).map(|cid| async move {
        match tokio::time::timeout(super::PATIENCE, session.get(cid)).await {
            Ok(Ok(got)) => Ok(Block { cid, data: got.data }),
            Ok(Err(error)) => Err(FetchError::NoSource {
                cid,
                why: error.to_string(),
            }),
            Err(_) => Err(FetchError::NoSource {
                cid,
                why: "no peer answered in time".into(),
            }),
        }
    });
    let mut found = asked.buffered(NODES_AT_ONCE);
    let mut blocks = Vec::new();
    while let Some(block) = found.next().await {
        blocks.push(block?);
    }
    let store = inner.store.clone();
    let kept = blocks.clone();
    inner.blocking(first, move || store.put_nodes(&kept)).await?;
    Ok(blocks)
}
