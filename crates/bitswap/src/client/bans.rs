//! Peers that are not asked, for a while.
//!
//! - Invariant: a ban ends by itself; their number is bounded.
//! - Not here: serving, which a ban does not touch.

use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

use super::Client;

/// Breaches after which a peer is banned.
const STRIKES: u32 = 16;
/// Bans kept.
const MAX_BANS: usize = 1024;

/// Why a peer is not asked any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanReason {
    /// It sent bytes that hash to nothing that it was asked for, while it was asked.
    WrongBytes,
    /// It broke the protocol too often: unasked blocks, oversized or malformed messages.
    Misbehaved,
}

#[derive(Debug)]
pub(super) struct Ban {
    pub(super) until: Instant,
    pub(super) reason: BanReason,
}

impl Client {
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
        if self.bans.len() < MAX_BANS || self.bans.contains_key(&peer) {
            let until = now + self.ban;
            self.bans.insert(peer, Ban { until, reason });
        }
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
        self.schedule(now);
    }
}
