//! Answers: verified blocks, HAVE, DONT_HAVE.
//!
//! - Invariant: only what hashed to its key comes here; whoever waits for that key gets it,
//!   whichever peer it came from.

use bytes::Bytes;
use libp2p::PeerId;
use tokio::time::Instant;

use super::{Client, Key};
use crate::ledger::Ledger;
use crate::session::Got;

/// DONT_HAVEs in a row after which a peer is asked HAVE first again.
const MISSES: u32 = 8;

/// What a received block was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Somebody waited for it.
    Wanted,
    /// It was asked, but is here already or not wanted any more.
    Late,
    /// Nobody asked for it.
    Unwanted,
}

impl Client {
    /// Blocks of one message, each with the multihash of its bytes (`None`: by a hash that we do
    /// not know, so nobody can have asked for it).
    pub(crate) fn received(
        &mut self,
        from: PeerId,
        blocks: Vec<(Option<Key>, Bytes)>,
        now: Instant,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(blocks.len());
        for (key, data) in blocks {
            let verdict = key.map_or(Verdict::Unwanted, |key| self.block(from, key, &data, now));
            if verdict == Verdict::Unwanted {
                self.unwanted(from, now);
            }
            verdicts.push(verdict);
        }
        if let Some(remote) = self.peers.get(&from) {
            // Wants go out in batches: refill once a quarter of the window is free.
            let window = remote.window();
            if remote.asked + (window / 4).max(1) <= window {
                self.schedule(now);
            }
        }
        verdicts
    }

    fn block(&mut self, from: PeerId, key: Key, data: &Bytes, now: Instant) -> Verdict {
        let len = data.len();
        let mut asked = false;
        if let Some(remote) = self.peers.get_mut(&from) {
            asked = remote.knows(&key);
            remote.answered(&key);
        }
        for probe in self.probes.get_mut(&key).into_iter().flatten() {
            probe.answer(&from, true);
        }
        let known = self.recent.set.contains(&key);
        self.dequeue(&key);
        let Some(want) = self.drop_want(&key, Some(from), now) else {
            return if asked || known {
                Verdict::Late
            } else {
                Verdict::Unwanted
            };
        };
        if let Some(remote) = self.peers.get_mut(&from) {
            remote.took(len);
            Ledger::add(&remote.peer.ledger.received, len as u64);
            Ledger::add(&remote.peer.ledger.blocks_received, 1);
        }
        for id in want.sessions() {
            let session = self.sessions.get_mut(&id);
            if let Some(member) = session.and_then(|s| s.peers.get_mut(&from)) {
                member.proven = true;
                member.misses = 0;
                member.blocks += 1;
                member.bytes += len as u64;
            }
        }
        for waiter in want.waiters {
            self.gets -= 1;
            let data = data.clone();
            drop(waiter.answer.send(Ok(Got { data, from })));
        }
        Verdict::Wanted
    }

    /// A block that nobody asked for. From a peer that owes us blocks it is taken for a wrong answer
    /// to one of them: Bitswap names a block by its bytes alone, so wrong bytes look just like this.
    fn unwanted(&mut self, from: PeerId, now: Instant) {
        if self.expects(&from) {
            self.wrong_bytes(from, now);
        } else {
            self.strike(from, now);
        }
    }

    /// HAVE or DONT_HAVE.
    pub(crate) fn presence(&mut self, from: PeerId, key: &Key, have: bool, now: Instant) {
        if let Some(remote) = self.peers.get_mut(&from) {
            if have {
                remote.have(key);
            } else {
                // Kubo keeps a want that it answered so, and counts it: withdraw it.
                remote.cancel(key, now);
            }
        }
        for probe in self.probes.get_mut(key).into_iter().flatten() {
            probe.answer(&from, have);
        }
        let Some(want) = self.wants.get_mut(key) else {
            return;
        };
        let probed = want
            .probed
            .iter()
            .position(|p| *p == from)
            .map(|at| want.probed.swap_remove(at));
        let sessions = want.sessions();
        if have {
            want.missing.retain(|p| *p != from);
            if !want.have.contains(&from) {
                want.have.push(from);
            }
        } else {
            want.have.retain(|p| *p != from);
            if !want.missing.contains(&from) {
                want.missing.push(from);
            }
        }
        for id in sessions {
            let session = self.sessions.get_mut(&id);
            let Some(member) = session.and_then(|s| s.peers.get_mut(&from)) else {
                continue;
            };
            if probed.is_some() {
                member.probes = member.probes.saturating_sub(1);
            }
            if have {
                member.proven = true;
                member.misses = 0;
            } else {
                member.misses += 1;
                member.failures += 1;
                member.proven &= member.misses < MISSES;
            }
        }
        if !have {
            self.release(key, from, now);
            self.judge(key, now);
        }
    }
}
