//! What a peer wants from us, and the messages that answer it.
//!
//! - Invariant: a queue holds at most its cap of wants and [`MAX_REFUSED`] refusals, whatever the
//!   peer sends.
//! - Invariant: every want with `sendDontHave` within those bounds is answered, and so is every
//!   WANT-HAVE for a block that is here: a Kubo whose WANT-HAVE is not answered asks nothing more.
//! - Not here: the stream, credits and rates (`crate::writer`).

use std::collections::{BTreeMap, HashMap, VecDeque};

use cid::Cid;

use crate::config::{Blocks, SMALL_BLOCK, TARGET_MESSAGE};
use crate::ledger::Ledger;
use crate::link::{Peer, Speaks};
use crate::wire::{Builder, Entry, WantKind};

/// Refusals that wait to be sent; more are lost, as all are with Kubo.
const MAX_REFUSED: usize = 4096;
/// Presences of one message.
const MAX_PRESENCES: usize = 1024;
/// Kubo's and our own largest block, in bytes; what is longer is not served.
const MAX_BLOCK: u64 = pacstore_dag::MAX_BLOCK as u64;

/// Wants of one kind in order of arrival.
#[derive(Debug, Default)]
struct Lane {
    order: BTreeMap<u64, (Cid, bool)>,
    at: HashMap<Cid, u64>,
}

impl Lane {
    fn push(&mut self, seq: u64, cid: Cid, send_dont_have: bool) {
        if let Some(entry) = self.at.get(&cid).and_then(|at| self.order.get_mut(at)) {
            entry.1 |= send_dont_have;
            return;
        }
        self.at.insert(cid, seq);
        self.order.insert(seq, (cid, send_dont_have));
    }

    fn remove(&mut self, cid: &Cid) {
        if let Some(at) = self.at.remove(cid) {
            self.order.remove(&at);
        }
    }

    fn pop(&mut self) -> Option<(u64, Cid, bool)> {
        let (seq, (cid, send_dont_have)) = self.order.pop_first()?;
        self.at.remove(&cid);
        Some((seq, cid, send_dont_have))
    }

    fn clear(&mut self) {
        self.order.clear();
        self.at.clear();
    }
}

/// One peer's wants.
#[derive(Debug)]
pub(crate) struct Queue {
    cap: usize,
    next: u64,
    blocks: Lane,
    haves: Lane,
    refused: VecDeque<Cid>,
}

impl Queue {
    pub(crate) fn new(cap: usize) -> Self {
        Self {
            cap,
            next: 0,
            blocks: Lane::default(),
            haves: Lane::default(),
            refused: VecDeque::new(),
        }
    }

    /// The peer's wantlist starts anew.
    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
        self.haves.clear();
        self.refused.clear();
    }

    /// Takes one line of a wantlist. False if it had to be left unanswered.
    pub(crate) fn take(&mut self, entry: &Entry) -> bool {
        if entry.cancel {
            self.blocks.remove(&entry.cid);
            self.haves.remove(&entry.cid);
            return true;
        }
        let lane = match entry.kind {
            WantKind::Block => &mut self.blocks,
            WantKind::Have => &mut self.haves,
        };
        let full = self.cap <= lane.order.len() && !lane.at.contains_key(&entry.cid);
        if !full {
            lane.push(self.next, entry.cid, entry.send_dont_have);
            self.next += 1;
            return true;
        }
        let room = self.refused.len() < MAX_REFUSED;
        if entry.send_dont_have && room {
            self.refused.push_back(entry.cid);
        }
        room
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.order.is_empty() && self.haves.order.is_empty() && self.refused.is_empty()
    }

    pub(crate) fn has_blocks(&self) -> bool {
        !self.blocks.order.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.blocks.order.len() + self.haves.order.len() + self.refused.len()
    }
}

/// A framed message that answers some wants.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) buffer: Vec<u8>,
    pub(crate) start: usize,
    /// Bytes of blocks in it.
    pub(crate) bytes: u64,
}

/// Builds the next message for a peer out of its queue; `None` if nothing needs an answer.
/// Reads blocks, so it runs on the blocking pool. HAVEs come before blocks: they are short, and
/// the peer waits for them to decide.
pub(crate) fn answer(peer: &Peer, blocks: &dyn Blocks, buffer: Vec<u8>, speaks: Speaks) -> Option<Answer> {
    let mut message = Message {
        out: Builder::new(buffer),
        speaks,
        presences: 0,
        blocks: 0,
        bytes: 0,
    };
    while message.presences < MAX_PRESENCES {
        let Some((_, cid, send_dont_have)) = peer.queue().haves.pop() else {
            break;
        };
        let len = blocks.len(&cid, &peer.id).filter(|len| *len <= MAX_BLOCK);
        let small = len.filter(|len| *len <= SMALL_BLOCK);
        if small.is_some_and(|len| message.block(peer, blocks, &cid, len)) {
            continue;
        }
        // A small block that could not be read is as good as missing.
        let have = len.is_some() && small.is_none();
        if have || send_dont_have {
            message.presence(&cid, have);
        }
    }
    while message.presences < MAX_PRESENCES {
        let Some(cid) = peer.queue().refused.pop_front() else {
            break;
        };
        message.presence(&cid, false);
    }
    while message.presences < MAX_PRESENCES && message.out.len() < TARGET_MESSAGE {
        let Some((seq, cid, send_dont_have)) = peer.queue().blocks.pop() else {
            break;
        };
        match blocks.len(&cid, &peer.id).filter(|len| *len <= MAX_BLOCK) {
            Some(len) if message.blocks > 0 && message.out.len() as u64 + len > TARGET_MESSAGE as u64 => {
                // The first of the next message. (A cancel that comes now finds it there.)
                peer.queue().blocks.push(seq, cid, send_dont_have);
                break;
            }
            Some(len) if message.block(peer, blocks, &cid, len) => {}
            _ if send_dont_have => message.presence(&cid, false),
            _ => {}
        }
    }
    message.finish(peer)
}

struct Message {
    out: Builder,
    speaks: Speaks,
    presences: usize,
    blocks: u64,
    bytes: u64,
}

impl Message {
    fn presence(&mut self, cid: &Cid, have: bool) {
        // Peers of before 1.2 would not know what it is.
        if self.speaks == Speaks::V12 {
            self.out.presence(cid, have);
            self.presences += 1;
        }
    }

    fn block(&mut self, peer: &Peer, blocks: &dyn Blocks, cid: &Cid, len: u64) -> bool {
        if self.blocks == 1 {
            // Another follows: then there may be many.
            self.out.reserve(TARGET_MESSAGE.saturating_sub(self.out.len()));
        }
        let read = |out: &mut Vec<u8>| blocks.read(cid, &peer.id, out);
        let good = match self.speaks {
            Speaks::V10 => self.out.old_block(len, read),
            Speaks::V11 | Speaks::V12 => self.out.block(cid, len, read),
        };
        if good {
            self.blocks += 1;
            self.bytes += len;
        }
        good
    }

    fn finish(self, peer: &Peer) -> Option<Answer> {
        if self.out.is_empty() {
            return None;
        }
        Ledger::add(&peer.ledger.sent, self.bytes);
        Ledger::add(&peer.ledger.blocks_sent, self.blocks);
        let (buffer, start) = self.out.finish();
        Some(Answer {
            buffer,
            start,
            bytes: self.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(n: u32, kind: WantKind) -> Entry {
        Entry {
            cid: pacstore_dag::raw_cid(pacstore_dag::HashKind::Sha2_256, &n.to_be_bytes()),
            priority: 0,
            cancel: false,
            kind,
            send_dont_have: true,
        }
    }

    /// However many wants come, a queue stays within its bounds, and cancels empty it.
    #[test]
    fn a_queue_stays_within_its_bounds() {
        let mut queue = Queue::new(1024);
        let taken = (0..100_000)
            .filter(|n| queue.take(&want(*n, WantKind::Block)))
            .count();
        assert_eq!(taken, 1024 + MAX_REFUSED);
        let haves = (0..100_000)
            .filter(|n| queue.take(&want(*n, WantKind::Have)))
            .count();
        assert_eq!(haves, 1024);
        assert_eq!(queue.len(), 2048 + MAX_REFUSED);
        assert!(
            queue.take(&want(5, WantKind::Block)),
            "what is queued already takes no room"
        );
        for n in 0..1024 {
            queue.take(&Entry {
                cancel: true,
                ..want(n, WantKind::Block)
            });
        }
        assert!(!queue.has_blocks());
        queue.clear();
        assert!(queue.is_empty());
    }
}
