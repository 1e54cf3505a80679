//! How wants move: into a session's queue, away from a peer, to their end.
//!
//! - Invariant: a want without waiters is gone, and every peer that was told of it is told that it is over.
//! - Not here: to whom they move (`crate::client::schedule`).

use libp2p::PeerId;
use tokio::time::Instant;

use super::{BanReason, Client, Key, Want};
use crate::session::GetError;

impl Client {
    pub(super) fn usable(&self, peer: &PeerId) -> bool {
        !self.bans.contains_key(peer)
            && self
                .peers
                .get(peer)
                .is_some_and(|remote| remote.speaks != Some(false))
    }

    pub(super) fn keys_asked_from(&self, peer: PeerId) -> Vec<Key> {
        let asked = self.wants.iter().filter(|(_, want)| want.asked_from(&peer));
        asked.map(|(key, _)| *key).collect()
    }

    /// Puts a want into the queue of the first session that waits for it.
    pub(super) fn enqueue(&mut self, key: &Key) {
        let Some(want) = self.wants.get_mut(key) else {
            return;
        };
        if want.queued.is_some() {
            return;
        }
        let sessions = &mut self.sessions;
        let home = want
            .waiters
            .iter()
            .map(|w| w.session)
            .find(|id| sessions.contains_key(id));
        if let Some(session) = home.and_then(|id| sessions.get_mut(&id)) {
            session.pending.insert(want.seq, *key);
            want.queued = home;
        }
    }

    pub(super) fn dequeue(&mut self, key: &Key) {
        if let Some(want) = self.wants.get_mut(key)
            && let Some(session) = want.queued.take()
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.pending.remove(&want.seq);
        }
    }

    /// Takes a want from a peer that was asked for it; nobody else asked: it waits again.
    pub(super) fn release(&mut self, key: &Key, peer: PeerId, now: Instant) {
        let Some(want) = self.wants.get_mut(key) else {
            return;
        };
        let before = want.asked.len();
        want.asked.retain(|asked| asked.peer != peer);
        let released = want.asked.len() < before;
        let alone = want.asked.is_empty();
        if let Some(remote) = self.peers.get_mut(&peer) {
            if released {
                remote.fewer();
            }
            remote.cancel(key, now);
        }
        if released {
            self.recent.insert(*key);
        }
        if alone {
            self.enqueue(key);
        }
    }

    pub(super) fn release_all(&mut self, peer: PeerId, now: Instant) {
        for key in self.keys_asked_from(peer) {
            self.release(&key, peer, now);
        }
        for want in self.wants.values_mut() {
            want.have.retain(|p| *p != peer);
            want.probed.retain(|p| *p != peer);
        }
        for member in self.sessions.values_mut().filter_map(|s| s.peers.get_mut(&peer)) {
            member.probes = 0;
            member.proven = false;
        }
    }

    /// Gives up on a want for those waiters whose every peer has said no.
    pub(super) fn judge(&mut self, key: &Key, now: Instant) {
        let Some(want) = self.wants.get(key) else { return };
        let cid = want.cid;
        let mut failed = Vec::new();
        for waiter in &want.waiters {
            let Some(session) = self.sessions.get(&waiter.session) else {
                continue;
            };
            let no = |peer: &PeerId| {
                want.missing.contains(peer)
                    || self.bans.contains_key(peer)
                    || self
                        .peers
                        .get(peer)
                        .is_some_and(|remote| remote.speaks == Some(false))
            };
            if session.peers.is_empty() || !session.peers.keys().all(no) {
                continue;
            }
            let wrong = session.peers.keys().find(|peer| {
                let reason = self.bans.get(*peer).map(|ban| ban.reason);
                reason == Some(BanReason::WrongBytes) && !want.missing.contains(peer)
                    || self.is_wrong_at(key, peer)
            });
            let error = match wrong {
                Some(peer) => GetError::WrongBytes { cid, peer: *peer },
                None => GetError::NotFound { cid },
            };
            failed.push((waiter.id, error));
        }
        for (waiter, error) in failed {
            self.fail(key, waiter, Some(error), now);
        }
    }

    pub(super) fn judge_all(&mut self, now: Instant) {
        let keys: Vec<_> = self.wants.keys().copied().collect();
        for key in keys {
            self.judge(&key, now);
        }
    }

    /// Ends one waiter, with an error to tell if it still listens; the last takes the want with it.
    pub(super) fn fail(&mut self, key: &Key, waiter: u64, error: Option<GetError>, now: Instant) {
        let Some(want) = self.wants.get_mut(key) else {
            return;
        };
        let Some(at) = want.waiters.iter().position(|w| w.id == waiter) else {
            return;
        };
        let waiter = want.waiters.swap_remove(at);
        self.gets -= 1;
        if let Some(error) = error {
            drop(waiter.answer.send(Err(error)));
        }
        if want.waiters.is_empty() {
            self.dequeue(key);
            self.drop_want(key, None, now);
        } else if want.queued == Some(waiter.session) {
            self.dequeue(key);
            self.enqueue(key);
        }
    }

    /// Removes a want; whoever was told of it, save `from`, is told that it is over.
    pub(super) fn drop_want(&mut self, key: &Key, from: Option<PeerId>, now: Instant) -> Option<Want> {
        let want = self.wants.remove(key)?;
        let mut told = false;
        for asked in &want.asked {
            told = true;
            if let Some(remote) = self.peers.get_mut(&asked.peer) {
                remote.fewer();
                if from != Some(asked.peer) {
                    remote.cancel(key, now);
                }
            }
        }
        for peer in &want.probed {
            told = true;
            if from != Some(*peer)
                && !self.probes.contains_key(key)
                && let Some(remote) = self.peers.get_mut(peer)
            {
                remote.cancel(key, now);
            }
            for id in want.sessions() {
                let session = self.sessions.get_mut(&id);
                if let Some(member) = session.and_then(|s| s.peers.get_mut(peer)) {
                    member.probes = member.probes.saturating_sub(1);
                }
            }
        }
        if told || from.is_some() {
            self.recent.insert(*key);
        }
        Some(want)
    }
}
