//! The clockwork: rates, stalled peers, lost wants, patience, and the last blocks of a session.
//!
//! - Invariant: it runs while anything is wanted, and sleeps otherwise.
//! - Not here: answers (`crate::client::receive`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{Client, Key};
use crate::session::GetError;
use crate::shared::Shared;

const TICK: Duration = Duration::from_millis(100);
/// A want that a lively peer has not answered for this long is taken for lost (Kubo drops some).
const LOST: Duration = Duration::from_secs(10);
/// Times that a want is asked again from a peer that seems to lose it.
const MAX_LOST: u32 = 3;
/// A block is asked from a second peer once that would have it this much sooner: twice as fast,
/// and these seconds more.
const SOONER: f64 = 0.2;
/// Youngest want that is asked twice.
const ASKED_TWICE: Duration = Duration::from_millis(200);
/// Blocks asked twice in one tick.
const TWICE: usize = 16;

/// Ticks while there are wants, until the node stops.
pub(crate) async fn clockwork(shared: Arc<Shared>) {
    loop {
        let busy = shared.client().tick(Instant::now());
        shared.report_bans();
        let wait = async {
            if busy {
                sleep(TICK).await;
            } else {
                shared.clockwork.notified().await;
            }
        };
        if shared.stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

impl Client {
    /// One tick. False if nothing is wanted.
    fn tick(&mut self, now: Instant) -> bool {
        let before = self.bans.len();
        self.bans.retain(|_, ban| ban.until > now);
        if self.wants.is_empty() && self.probes.is_empty() {
            return false;
        }
        let mut changed = before != self.bans.len();
        for remote in self.peers.values_mut() {
            remote.measure(now);
            remote.doubted = remote.doubted.filter(|until| now < *until);
            changed |= remote.listen();
        }
        self.stalls(now);
        self.overdue(now);
        if changed || self.sessions.values().any(|s| !s.pending.is_empty()) {
            self.schedule(now);
        }
        self.last_blocks(now);
        self.patience(now);
        true
    }

    /// Takes the wants of silent peers to others that may have them; without any they stay.
    fn stalls(&mut self, now: Instant) {
        let mut stalled: HashSet<PeerId> = HashSet::new();
        for (peer, remote) in &mut self.peers {
            if remote.stalled.is_none() && remote.silent(now, self.stall) {
                debug!(%peer, asked = remote.asked, "peer stalls");
                remote.stalled = Some(now);
                for member in self.sessions.values_mut().filter_map(|s| s.peers.get_mut(peer)) {
                    member.failures += 1;
                }
            }
            if remote.stalled.is_some() && remote.asked > 0 {
                stalled.insert(*peer);
            }
        }
        if stalled.is_empty() {
            return;
        }
        let stuck: Vec<(Key, PeerId)> = self
            .wants
            .iter()
            .flat_map(|(key, want)| want.asked.iter().map(|asked| (*key, asked.peer)))
            .filter(|(_, peer)| stalled.contains(peer))
            .collect();
        for (key, peer) in stuck {
            let others = self
                .wants
                .get(&key)
                .is_some_and(|want| want.asked.iter().any(|a| !stalled.contains(&a.peer)));
            if others || self.alternative(&key).is_some() {
                self.release(&key, peer, now);
            }
        }
    }

    /// Asks again what a lively peer has left unanswered for too long.
    fn overdue(&mut self, now: Instant) {
        let mut lost = Vec::new();
        for (key, want) in &self.wants {
            for asked in &want.asked {
                let Some(remote) = self.peers.get(&asked.peer) else {
                    continue;
                };
                let expected = Duration::from_secs_f64((remote.backlog() * 4.0).min(300.0));
                if now >= asked.at + LOST.max(expected) {
                    lost.push((*key, asked.peer));
                }
            }
        }
        for (key, peer) in lost {
            debug!(%peer, "want is overdue; asking again");
            let Some(want) = self.wants.get_mut(&key) else {
                continue;
            };
            want.lost += 1;
            let hopeless = want.lost >= MAX_LOST;
            let idle = want.idle;
            if hopeless {
                want.missing.push(peer);
            }
            if let Some(remote) = self.peers.get_mut(&peer) {
                remote.lost(&key);
            }
            self.release(&key, peer, now);
            if let Some(want) = self.wants.get_mut(&key) {
                want.idle = idle;
            }
            if hopeless {
                self.judge(&key, now);
            }
        }
    }

    /// When nothing waits to be asked any more, peers with time to spare are asked for what slower
    /// ones owe: the latest first, for those come last.
    fn last_blocks(&mut self, now: Instant) {
        let mut slow: Vec<(u64, Key, f64)> = Vec::new();
        for (key, want) in &self.wants {
            if let [asked] = want.asked.as_slice()
                && now >= asked.at + ASKED_TWICE
                && want
                    .sessions()
                    .iter()
                    .all(|id| self.sessions.get(id).is_none_or(|s| s.pending.is_empty()))
                && let Some(remote) = self.peers.get(&asked.peer)
            {
                slow.push((want.seq, *key, remote.backlog()));
            }
        }
        slow.sort_unstable_by_key(|(seq, ..)| std::cmp::Reverse(*seq));
        let mut twice = 0;
        for (_, key, left) in slow {
            if twice == TWICE {
                return;
            }
            if let Some((peer, time)) = self.alternative(&key)
                && left > 2.0 * time + SOONER
                && self.room_at(&peer) > 0
                && self.ask_block(&key, peer, now)
            {
                twice += 1;
            }
        }
    }

    /// Ends gets for which nobody has made progress for too long.
    fn patience(&mut self, now: Instant) {
        let mut alive = Vec::new();
        let mut failed = Vec::new();
        for (key, want) in &self.wants {
            let lively = |peer: &PeerId| self.peers.get(peer).is_some_and(|r| r.stalled.is_none());
            let asked = want.asked.iter().any(|asked| lively(&asked.peer));
            if asked && want.lost == 0 || !asked && self.alternative(key).is_some() {
                alive.push(*key);
                continue;
            }
            for waiter in &want.waiters {
                let Some(session) = self.sessions.get(&waiter.session) else {
                    continue;
                };
                if now < want.idle + session.patience {
                    continue;
                }
                let mut known = session.peers.keys().filter(|peer| self.usable(peer));
                let error = if known.clone().next().is_none() {
                    GetError::NoPeers { cid: want.cid }
                } else if known.all(|peer| want.missing.contains(peer)) {
                    GetError::NotFound { cid: want.cid }
                } else {
                    GetError::Stalled { cid: want.cid }
                };
                failed.push((*key, waiter.id, error));
            }
        }
        for key in alive {
            if let Some(want) = self.wants.get_mut(&key) {
                want.idle = now;
            }
        }
        for (key, waiter, error) in failed {
            self.fail(&key, waiter, Some(error), now);
        }
    }
}
