//! What we want, from whom we asked it, and what became of it: pure bookkeeping under one lock.
//!
//! A want is one CID with everybody in this process who waits for it. It is asked from peers of
//! the sessions that wait, and from no other peer.
//!
//! - Invariant: every waiter gets exactly one answer, a verified block or an error, in bounded time
//!   once no peer makes progress for it (its session's patience).
//! - Invariant: a want is queued in one session, or asked from a peer, or both while it moves.
//! - Not here: streams and hashing (`crate::reader`), writing (`crate::writer`).
//! - Read first: `schedule.rs` (who is asked), `receive.rs` (answers), `tick.rs` (time).

mod bans;
mod moves;
mod outbox;
mod probe;
mod receive;
mod remote;
mod schedule;
mod tick;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use bans::BanReason;
use bans::{Ban, Wrong};
pub(crate) use outbox::{Full, Next};
use probe::Probe;
pub(crate) use receive::Verdict;
use remote::Remote;
pub(crate) use tick::clockwork;

use crate::config::Config;
use crate::link::{Peer, Speaks};
use crate::session::{GetError, Got, PeerStats};

/// Blocks are told apart by multihash: peers answer so, whatever the codec.
pub(crate) type Key = cid::multihash::Multihash<64>;
pub(crate) type SessionId = u64;

type Answer = oneshot::Sender<Result<Got, GetError>>;

/// Finished wants that are remembered, so that a late second copy is not held against its sender.
const RECENT: usize = 8192;

#[derive(Debug)]
pub(crate) struct Client {
    stall: Duration,
    ban: Duration,
    max_gets: usize,
    sessions: HashMap<SessionId, SessionState>,
    wants: HashMap<Key, Want>,
    probes: HashMap<Key, Vec<Probe>>,
    peers: HashMap<PeerId, Remote>,
    bans: HashMap<PeerId, Ban>,
    new_bans: Vec<(PeerId, BanReason)>,
    wrong: HashMap<PeerId, Wrong>,
    recent: Recent,
    next: u64,
    gets: usize,
}

#[derive(Debug)]
struct SessionState {
    patience: Duration,
    peers: BTreeMap<PeerId, Member>,
    pending: BTreeMap<u64, Key>,
}

/// What a session knows of one of its peers.
#[derive(Debug, Default)]
struct Member {
    /// It had something that this session wanted.
    proven: bool,
    /// DONT_HAVEs in a row.
    misses: u32,
    probes: usize,
    bytes: u64,
    blocks: u64,
    failures: u64,
}

#[derive(Debug)]
struct Want {
    cid: Cid,
    seq: u64,
    waiters: Vec<Waiter>,
    /// The session in whose queue it waits to be asked.
    queued: Option<SessionId>,
    /// Asked for the block and not answered.
    asked: Vec<Asked>,
    /// Said that they do not have it, or have wrong bytes for it.
    missing: Vec<PeerId>,
    /// Said that they have it.
    have: Vec<PeerId>,
    /// Asked whether they have it.
    probed: Vec<PeerId>,
    /// Times that it was lost at a peer.
    lost: u32,
    /// Since when nobody makes progress on it.
    idle: Instant,
}

#[derive(Debug)]
struct Asked {
    peer: PeerId,
    at: Instant,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    session: SessionId,
    answer: Answer,
}

/// A bounded set that forgets the oldest.
#[derive(Debug, Default)]
struct Recent {
    set: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Recent {
    fn insert(&mut self, key: Key) {
        if self.set.insert(key) {
            self.order.push_back(key);
        }
        if self.order.len() > RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

impl Client {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            stall: config.stall,
            ban: config.ban,
            max_gets: config.max_gets,
            sessions: HashMap::new(),
            wants: HashMap::new(),
            probes: HashMap::new(),
            peers: HashMap::new(),
            bans: HashMap::new(),
            new_bans: Vec::new(),
            wrong: HashMap::new(),
            recent: Recent::default(),
            next: 0,
            gets: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // --- sessions ---

    pub(crate) fn open_session(
        &mut self,
        patience: Duration,
        peers: impl IntoIterator<Item = PeerId>,
    ) -> SessionId {
        let id = self.number();
        let peers = peers.into_iter().map(|peer| (peer, Member::default())).collect();
        let state = SessionState {
            patience,
            peers,
            pending: BTreeMap::new(),
        };
        self.sessions.insert(id, state);
        id
    }

    pub(crate) fn close_session(&mut self, id: SessionId, now: Instant) {
        self.sessions.remove(&id);
        let ended: Vec<_> = self
            .wants
            .iter()
            .flat_map(|(key, want)| {
                want.waiters
                    .iter()
                    .filter(|w| w.session == id)
                    .map(|w| (*key, w.id))
            })
            .collect();
        for (key, waiter) in ended {
            self.fail(&key, waiter, None, now);
        }
    }

    pub(crate) fn add_peer(&mut self, id: SessionId, peer: PeerId, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.peers.entry(peer).or_default();
            self.schedule(now);
        }
    }

    pub(crate) fn remove_peer(&mut self, id: SessionId, peer: PeerId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.peers.remove(&peer).is_some() {
            let keys = self.keys_asked_from(peer);
            for key in keys {
                let sessions = self.wants.get(&key).map(Want::sessions).unwrap_or_default();
                if !sessions
                    .iter()
                    .any(|id| self.sessions.get(id).is_some_and(|s| s.peers.contains_key(&peer)))
                {
                    self.release(&key, peer, now);
                }
            }
            self.judge_all(now);
            self.schedule(now);
        }
    }

    pub(crate) fn session_peers(&self, id: SessionId) -> Vec<PeerId> {
        self.sessions
            .get(&id)
            .map(|s| s.peers.keys().copied().collect())
            .unwrap_or_default()
    }

    pub(crate) fn session_stats(&self, id: SessionId) -> Vec<PeerStats> {
        let Some(session) = self.sessions.get(&id) else {
            return Vec::new();
        };
        let stats = session.peers.iter().map(|(peer, member)| {
            let remote = self.peers.get(peer);
            PeerStats {
                peer: *peer,
                connected: remote.is_some(),
                banned: self.bans.contains_key(peer),
                bytes: member.bytes,
                blocks: member.blocks,
                failures: member.failures,
                rate: remote.and_then(|r| r.rate).map_or(0, |rate| rate as u64),
                round_trip: remote.and_then(|r| r.round_trip),
                outstanding: remote.map_or(0, |r| r.asked),
                stalled: remote.is_some_and(|r| r.stalled.is_some()),
                last_byte: remote.map(|r| r.peer.last_byte()),
            }
        });
        stats.collect()
    }

    /// What those of `peers` that can be asked now give together, in bytes a second; `None` while one of them was not
    /// measured, and where there is none.
    pub(crate) fn rate_of(&self, peers: &[PeerId]) -> Option<f64> {
        let able = peers
            .iter()
            .filter(|peer| !self.bans.contains_key(peer))
            .filter_map(|peer| self.peers.get(peer))
            .filter(|remote| remote.stalled.is_none());
        let rates: Option<Vec<f64>> = able
            .map(|remote| remote.rate.filter(|rate| *rate >= 1.0))
            .collect();
        rates.map(|rates| rates.iter().sum()).filter(|rate| *rate > 0.0)
    }

    // --- gets ---

    /// Registers a waiter for `cid`. The answer comes on the channel.
    pub(crate) fn get(&mut self, session: SessionId, cid: Cid, answer: Answer, now: Instant) -> Option<u64> {
        if self.gets >= self.max_gets {
            drop(answer.send(Err(GetError::TooMany { limit: self.max_gets })));
            return None;
        }
        // An expired ban must not answer for the clockwork, which slept.
        self.bans.retain(|_, ban| ban.until > now);
        let id = self.number();
        let key = *cid.hash();
        self.gets += 1;
        let waiter = Waiter { id, session, answer };
        if let Some(want) = self.wants.get_mut(&key) {
            want.waiters.push(waiter);
            want.idle = now;
        } else {
            let seq = self.number();
            let missing = self.wrong_at(&key, now);
            let want = Want {
                cid,
                seq,
                waiters: vec![waiter],
                queued: None,
                asked: Vec::new(),
                missing,
                have: Vec::new(),
                probed: Vec::new(),
                lost: 0,
                idle: now,
            };
            self.wants.insert(key, want);
            self.enqueue(&key);
        }
        self.judge(&key, now);
        self.schedule(now);
        Some(id)
    }

    /// A waiter went away.
    pub(crate) fn forget(&mut self, key: &Key, waiter: u64, now: Instant) {
        self.fail(key, waiter, None, now);
    }

    pub(crate) fn progress(&self, key: &Key) -> Option<u64> {
        let want = self.wants.get(key)?;
        want.asked
            .iter()
            .filter(|asked| {
                // What arrives now is most likely what was asked first.
                let first = self
                    .wants
                    .values()
                    .filter(|w| w.asked_from(&asked.peer))
                    .map(|w| w.seq)
                    .min();
                first == Some(want.seq)
            })
            .filter_map(|asked| self.peers.get(&asked.peer))
            .map(|remote| remote.peer.partial.load(std::sync::atomic::Ordering::Relaxed))
            .max()
    }

    // --- peers ---

    pub(crate) fn connected(&mut self, peer: &Arc<Peer>, now: Instant) {
        self.peers.insert(peer.id, Remote::new(Arc::clone(peer), now));
        let wrong: Vec<Key> = self.wrong.get(&peer.id).map_or_else(Vec::new, |w| w.keys.clone());
        for (key, want) in &mut self.wants {
            want.missing.retain(|p| *p != peer.id || wrong.contains(key));
        }
        self.schedule(now);
    }

    pub(crate) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        self.peers.remove(&peer);
        self.release_all(peer, now);
        for probe in self.probes.values_mut().flatten() {
            probe.answer(&peer, false);
        }
        self.schedule(now);
    }

    /// The peer was seen to speak Bitswap.
    pub(crate) fn speaks(&mut self, peer: PeerId, speaks: bool) {
        if let Some(remote) = self.peers.get_mut(&peer) {
            remote.speaks = Some(speaks);
        }
    }

    /// The stream to write on was negotiated.
    pub(crate) fn negotiated(&mut self, peer: PeerId, speaks: Speaks) {
        if let Some(remote) = self.peers.get_mut(&peer) {
            remote.speaks = Some(true);
            remote.presences = speaks == Speaks::V12;
        }
    }

    /// The peer speaks no Bitswap: it counts as one that has nothing.
    pub(crate) fn unsupported(&mut self, peer: PeerId, now: Instant) {
        self.speaks(peer, false);
        self.release_all(peer, now);
        for probe in self.probes.values_mut().flatten() {
            probe.answer(&peer, false);
        }
        self.judge_all(now);
        self.schedule(now);
    }

    /// A round trip to the peer took so long.
    pub(crate) fn round_trip(&mut self, peer: &PeerId, took: Duration) {
        if let Some(remote) = self.peers.get_mut(peer) {
            remote.measured(took);
        }
    }

    pub(crate) fn speakers(&self) -> Vec<PeerId> {
        let all = self
            .peers
            .iter()
            .filter(|(_, remote)| remote.speaks == Some(true));
        all.map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Whether blocks are expected from a peer.
    pub(crate) fn expects(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|remote| remote.asked > 0)
    }

    /// Whether a peer was told that we want this.
    pub(crate) fn knows(&self, peer: &PeerId, key: &Key) -> bool {
        self.peers.get(peer).is_some_and(|remote| remote.knows(key))
    }

    // --- the writer's side ---

    /// Whether wants or cancels wait to be told to a peer.
    pub(crate) fn has_wants(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(Remote::has_wants)
    }

    /// What to write next to a peer.
    pub(crate) fn next_wants(&mut self, peer: &PeerId, now: Instant) -> Next {
        self.peers
            .get_mut(peer)
            .map_or(Next::Nothing, |remote| remote.next(now))
    }

    /// Everything taken so far went out.
    pub(crate) fn flushed(&mut self, peer: &PeerId, now: Instant) {
        if let Some(remote) = self.peers.get_mut(peer) {
            remote.told(now);
        }
    }

    /// The stream broke: what is unanswered is told again on the next one.
    pub(crate) fn resend(&mut self, peer: &PeerId, now: Instant) {
        if let Some(remote) = self.peers.get_mut(peer) {
            remote.resend(now);
        }
    }
}

impl Want {
    fn asked_from(&self, peer: &PeerId) -> bool {
        self.asked.iter().any(|asked| asked.peer == *peer)
    }

    /// The sessions that wait, each once.
    fn sessions(&self) -> Vec<SessionId> {
        let mut all: Vec<_> = self.waiters.iter().map(|w| w.session).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
