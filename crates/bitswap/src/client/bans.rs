//! Peers that are not asked, for a while: for one block, or for any.
//!
//! A block of which a peer's disk holds a flipped bit must not cost the peer, which may be the only
//! one that has the rest. So a wrong answer is first held against the block it was for; Bitswap
//! does not say which that is, so the peer is asked for one block at a time until it is known.
//! Who gives wrong answers again and again is banned.
//!
//! - Invariant: a ban ends by itself, is told once, and their number is bounded.
//! - Not here: serving, which a ban does not touch.

use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;
use tracing::warn;

use super::{Client, Key};

/// Breaches after which a peer is banned.
const STRIKES: u32 = 16;
/// Wrong answers after which a peer is banned, in the time that a ban lasts.
const WRONG: usize = 5;
/// How long a peer is asked for one block at a time, to learn which one it has wrong bytes for.
const DOUBT: Duration = Duration::from_secs(5);
/// Bans kept.
const MAX_BANS: usize = 1024;

/// Why a peer is not asked any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanReason {
    /// It sent bytes that hash to nothing that it was asked for, while it was asked, too often.
    WrongBytes,
    /// It broke the protocol too often: unasked blocks, oversized or malformed messages.
    Misbehaved,
}

#[derive(Debug)]
pub(super) struct Ban {
    pub(super) until: Instant,
    pub(super) reason: BanReason,
}

/// The wrong answers of a peer.
#[derive(Debug)]
pub(super) struct Wrong {
    until: Instant,
    answers: usize,
    /// Blocks that it has wrong bytes for, as far as that is known.
    pub(super) keys: Vec<Key>,
}

impl Client {
    /// A wrong answer of a peer that was asked.
    pub(super) fn wrong_bytes(&mut self, peer: PeerId, now: Instant) {
        self.wrong.retain(|_, wrong| wrong.until > now);
        let asked = self.keys_asked_from(peer);
        let room = self.wrong.len() < MAX_BANS;
        let wrong = self.wrong.entry(peer).or_insert_with(|| Wrong {
            until: now,
            answers: if room { 0 } else { WRONG },
            keys: Vec::new(),
        });
        wrong.until = now + self.ban;
        wrong.answers += 1;
        if wrong.answers >= WRONG {
            self.wrong.remove(&peer);
            self.ban(peer, BanReason::WrongBytes, now);
            return;
        }
        let found = if let [key] = asked.as_slice() {
            Some(*key)
        } else {
            None
        };
        wrong.keys.extend(found);
        warn!(%peer, known = found.is_some(), "peer sent wrong bytes for a block");
        if let Some(remote) = self.peers.get_mut(&peer) {
            remote.doubted = found.is_none().then(|| now + DOUBT);
        }
        for member in self.sessions.values_mut().filter_map(|s| s.peers.get_mut(&peer)) {
            member.failures += 1;
        }
        for key in asked {
            self.release(&key, peer, now);
        }
        if let Some(key) = found {
            if let Some(want) = self.wants.get_mut(&key) {
                want.have.retain(|p| *p != peer);
                want.missing.push(peer);
            }
            self.judge(&key, now);
        }
        self.schedule(now);
    }

    /// `peer` is known to have wrong bytes for the block.
    pub(super) fn is_wrong_at(&self, key: &Key, peer: &PeerId) -> bool {
        self.wrong.get(peer).is_some_and(|wrong| wrong.keys.contains(key))
    }

    /// Peers that are known to have wrong bytes for the block.
    pub(super) fn wrong_at(&mut self, key: &Key, now: Instant) -> Vec<PeerId> {
        self.wrong.retain(|_, wrong| wrong.until > now);
        let wrong = self.wrong.iter().filter(|(_, wrong)| wrong.keys.contains(key));
        wrong.map(|(peer, _)| *peer).collect()
    }

    pub(crate) fn strike(&mut self, peer: PeerId, now: Instant) {
        if let Some(remote) = self.peers.get_mut(&peer) {
            remote.strikes += 1;
            if remote.strikes >= STRIKES {
                remote.strikes = 0;
                self.ban(peer, BanReason::Misbehaved, now);
            }
        }
    }

    pub(super) fn ban(&mut self, peer: PeerId, reason: BanReason, now: Instant) {
        self.bans.retain(|_, ban| ban.until > now);
        let until = now + self.ban;
        if let Some(ban) = self.bans.get_mut(&peer) {
            // That is told, and nothing is asked of it: going on costs it nothing but time, and us no line of the log.
            ban.until = until;
            return;
        }
        if MAX_BANS <= self.bans.len() {
            let ends_first = self.bans.iter().min_by_key(|(_, ban)| ban.until);
            if let Some(other) = ends_first.map(|(other, _)| *other) {
                self.bans.remove(&other);
            }
        }
        self.bans.insert(peer, Ban { until, reason });
        self.new_bans.push((peer, reason));
        for session in self.sessions.values_mut() {
            if let Some(member) = session.peers.get_mut(&peer) {
                member.failures += 1;
            }
        }
        self.release_all(peer, now);
        self.judge_all(now);
        self.schedule(now);
    }

    pub(crate) fn take_new_bans(&mut self) -> Vec<(PeerId, BanReason)> {
        std::mem::take(&mut self.new_bans)
    }

    pub(crate) fn bans(&self, now: Instant) -> impl Iterator<Item = (PeerId, BanReason, Duration)> {
        let active = self.bans.iter().filter(move |(_, ban)| ban.until > now);
        active.map(move |(peer, ban)| (*peer, ban.reason, ban.until - now))
    }

    pub(crate) fn unban(&mut self, peer: &PeerId, now: Instant) {
        self.bans.remove(peer);
        self.wrong.remove(peer);
        self.schedule(now);
    }
}
