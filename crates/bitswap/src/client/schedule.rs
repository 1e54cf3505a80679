//! Which peer is asked for which want.
//!
//! Each want goes to the peer that will have sent it first, by what it owes and how fast it is; so
//! faster peers carry more, and a slow one gets work only while the fast ones are busy for longer.
//! With one peer the block is asked at once. With several, peers that have shown to have the content are
//! asked for blocks, the others for a few blocks and HAVEs, until they have shown it too.
//!
//! - Invariant: a peer is asked only for wants of sessions that list it, never beyond its window.
//! - Not here: when a peer counts as stalled (`crate::client::tick`).

use std::collections::HashMap;

use libp2p::PeerId;
use tokio::time::Instant;

use super::{Asked, Client, Key, SessionId};
use crate::wire::WantKind;

/// Wants of one session that one round looks at.
const LOOK: usize = 256;
/// Blocks that a peer is asked for before it has shown to have any.
const UNPROVEN: usize = 4;
/// HAVE questions of one session outstanding at one unproven peer.
const PROBES: usize = 8;
/// A stalled peer is asked only if it will not matter.
const STALLED_SECONDS: f64 = 60.0;

/// What a peer can take in this round.
#[derive(Clone, Copy, Debug)]
struct Slot {
    room: usize,
    asked: usize,
    /// Seconds until it is through with what it is asked.
    backlog: f64,
    /// Seconds that one block takes.
    block: f64,
    stalled: bool,
}

impl Client {
    /// Asks for as much as fits into the peers' windows, sessions in turn.
    pub(crate) fn schedule(&mut self, now: Instant) {
        let mut slots = HashMap::new();
        let waiting = || {
            self.sessions
                .values()
                .filter(|session| !session.pending.is_empty())
        };
        for session in waiting() {
            for peer in session.peers.keys() {
                if !slots.contains_key(peer)
                    && let Some(slot) = self.slot(peer)
                {
                    slots.insert(*peer, slot);
                }
            }
        }
        if slots.values().all(|slot| slot.room == 0) {
            return;
        }
        let queues: Vec<Vec<Key>> = waiting()
            .map(|s| s.pending.values().take(LOOK).copied().collect())
            .collect();
        for turn in 0..LOOK {
            if slots.values().all(|slot| slot.room == 0) {
                return;
            }
            let mut more = false;
            for queue in &queues {
                if let Some(key) = queue.get(turn) {
                    more = true;
                    self.place(key, &mut slots, now);
                }
            }
            if !more {
                return;
            }
        }
    }

    fn slot(&self, peer: &PeerId) -> Option<Slot> {
        if !self.usable(peer) {
            return None;
        }
        let remote = self.peers.get(peer)?;
        let stalled = remote.stalled.is_some();
        Some(Slot {
            room: remote.room(),
            asked: remote.asked,
            backlog: remote.backlog() + if stalled { STALLED_SECONDS } else { 0.0 },
            block: remote.average / remote.rate(),
            stalled,
        })
    }

    /// Asks one waiting want from the best peer, if that has room.
    fn place(&mut self, key: &Key, slots: &mut HashMap<PeerId, Slot>, now: Instant) {
        let Some(want) = self.wants.get(key) else { return };
        let cid = want.cid;
        let mut candidates: Vec<(PeerId, bool, SessionId)> = Vec::new();
        let mut usable = 0;
        for id in want.sessions() {
            for (peer, member) in self.sessions.get(&id).into_iter().flat_map(|s| &s.peers) {
                if !slots.contains_key(peer)
                    && let Some(slot) = self.slot(peer)
                {
                    slots.insert(*peer, slot);
                }
                if !slots.contains_key(peer) || candidates.iter().any(|(known, ..)| known == peer) {
                    continue;
                }
                usable += 1;
                if !want.missing.contains(peer) && !want.asked_from(peer) {
                    let proven = member.proven || want.have.contains(peer);
                    candidates.push((*peer, proven, id));
                }
            }
        }
        let alone = usable == 1;
        let time = |peer: &PeerId| {
            slots
                .get(peer)
                .map_or(f64::INFINITY, |slot| slot.backlog + slot.block)
        };
        let class = |peer: &PeerId, proven: bool| {
            let stalled = slots.get(peer).is_some_and(|slot| slot.stalled);
            (stalled, !proven && !alone)
        };
        let best = candidates.iter().min_by(|a, b| {
            let order = class(&a.0, a.1).cmp(&class(&b.0, b.1));
            order.then(time(&a.0).total_cmp(&time(&b.0)))
        });
        let Some(&(peer, proven, _)) = best else { return };
        let Some(slot) = slots.get_mut(&peer) else { return };
        // Later wants see this one as that peer's work, whether or not it fits now.
        slot.backlog += slot.block;
        let trusted = proven || alone || slot.asked < UNPROVEN;
        if slot.room > 0 && trusted && self.ask_block(key, peer, now) {
            slot.room -= 1;
            slot.asked += 1;
        }
        if !alone {
            for (other, proven, session) in candidates {
                if other != peer && !proven {
                    self.ask_have(key, cid, other, session, now);
                }
            }
        }
    }

    /// Asks a peer for the block of a want. False if it cannot take more.
    pub(super) fn ask_block(&mut self, key: &Key, peer: PeerId, now: Instant) -> bool {
        let Some(want) = self.wants.get_mut(key) else {
            return false;
        };
        let Some(remote) = self.peers.get_mut(&peer) else {
            return false;
        };
        // Earlier wants are more urgent; Kubo sends in this order.
        let priority = i32::MAX - i32::try_from(want.seq % (1 << 30)).unwrap_or(0);
        if !remote.ask(want.cid, WantKind::Block, priority, now) {
            return false;
        }
        remote.more(now);
        want.asked.push(Asked { peer, at: now });
        want.idle = now;
        self.dequeue(key);
        true
    }

    fn ask_have(&mut self, key: &Key, cid: cid::Cid, peer: PeerId, session: SessionId, now: Instant) {
        let Some(want) = self.wants.get_mut(key) else {
            return;
        };
        let session = self.sessions.get_mut(&session);
        let Some(member) = session.and_then(|s| s.peers.get_mut(&peer)) else {
            return;
        };
        if member.probes >= PROBES || want.probed.contains(&peer) || want.asked_from(&peer) {
            return;
        }
        if let Some(remote) = self.peers.get_mut(&peer)
            && remote.presences
            && remote.ask(cid, WantKind::Have, 0, now)
        {
            member.probes += 1;
            want.probed.push(peer);
        }
    }

    /// The best other peer for a want that `slow` was asked for, and the seconds until it would have it.
    pub(super) fn alternative(&self, key: &Key) -> Option<(PeerId, f64)> {
        let want = self.wants.get(key)?;
        let mut best: Option<(PeerId, f64)> = None;
        for id in want.sessions() {
            for (peer, member) in self.sessions.get(&id).into_iter().flat_map(|s| &s.peers) {
                if want.missing.contains(peer) || want.asked_from(peer) {
                    continue;
                }
                let Some(slot) = self.slot(peer).filter(|slot| !slot.stalled) else {
                    continue;
                };
                // Peers that may not have it come after those that do.
                let doubt = if member.proven || want.have.contains(peer) {
                    0.0
                } else {
                    1.0
                };
                let time = slot.backlog + slot.block + doubt;
                if best.is_none_or(|(_, least)| time < least) {
                    best = Some((*peer, time));
                }
            }
        }
        best
    }

    pub(super) fn room_at(&self, peer: &PeerId) -> usize {
        self.peers.get(peer).map_or(0, super::Remote::room)
    }
}
