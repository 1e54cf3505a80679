//! The wants and cancels that one peer has yet to be told, and those it has been told.
//!
//! - Invariant: a want and its cancel that both wait cancel out; at most [`MAX_OUTSTANDING`]
//!   wants are unanswered or wait.
//! - Not here: which peer is asked for what (`crate::client::schedule`).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cid::Cid;
use tokio::time::Instant;

use super::Key;
use crate::config::MAX_OUTSTANDING;
use crate::wire::{Entry, WantKind};

/// Entries that make a message worth sending at once.
const BATCH: usize = 32;
/// The most entries of one message.
const MAX_ENTRIES: usize = 2048;
/// How long a few wants wait for more while the peer is busy with earlier ones anyway.
const LINGER: Duration = Duration::from_millis(2);
/// How long cancels alone wait for company.
const LINGER_CANCELS: Duration = Duration::from_millis(10);

/// What to write next to a peer.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing waits.
    Nothing,
    /// Wants wait for company until then.
    At(Instant),
    /// Write these.
    Wants(Vec<Entry>, Full),
}

/// Whether a wantlist replaces what the peer knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Yes,
    No,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: BTreeMap<u64, Entry>,
    queued: HashMap<Key, u64>,
    /// Told and not answered yet.
    wire: HashMap<Key, Entry>,
    next: u64,
    wants: usize,
    full: bool,
    since: Option<Instant>,
}

impl Outbox {
    /// Queues a want. False if the peer has too many already.
    pub(super) fn ask(&mut self, cid: Cid, kind: WantKind, priority: i32, now: Instant) -> bool {
        let key = *cid.hash();
        let stronger = |known: &Entry| known.kind == WantKind::Block || kind == WantKind::Have;
        if self.wire.get(&key).is_some_and(stronger) {
            // An unsent cancel of it would be wrong now.
            self.unqueue(&key);
            return true;
        }
        let waiting = self.queued.get(&key).and_then(|at| self.queue.get(at));
        if waiting.is_some_and(|known| !known.cancel && stronger(known)) {
            return true;
        }
        self.unqueue(&key);
        if self.wire.len() + self.wants >= MAX_OUTSTANDING {
            return false;
        }
        let entry = Entry {
            cid,
            priority,
            cancel: false,
            kind,
            send_dont_have: true,
        };
        self.push(key, entry, now);
        true
    }

    /// Withdraws a want: unsent it is forgotten, sent it is cancelled.
    pub(super) fn cancel(&mut self, key: &Key, now: Instant) {
        self.unqueue(key);
        if let Some(mut entry) = self.wire.remove(key) {
            entry.cancel = true;
            entry.priority = 0;
            entry.kind = WantKind::Block;
            entry.send_dont_have = false;
            self.push(*key, entry, now);
        }
    }

    /// The peer has answered and remembers the want no longer.
    pub(super) fn answered(&mut self, key: &Key) {
        self.unqueue(key);
        self.wire.remove(key);
    }

    /// A HAVE came, which answers a WANT-HAVE but not a WANT-BLOCK.
    pub(super) fn have(&mut self, key: &Key) {
        if self
            .wire
            .get(key)
            .is_some_and(|entry| entry.kind == WantKind::Have)
        {
            self.wire.remove(key);
        }
    }

    /// The want was lost on the way or at the peer: it may be asked anew.
    pub(super) fn lost(&mut self, key: &Key) {
        self.wire.remove(key);
    }

    /// Whether the peer was told of this want (or is about to be).
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.wire.contains_key(key) || self.queued.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Unanswered wants that the peer was told of.
    pub(super) fn on_wire(&self) -> usize {
        self.wire.len()
    }

    /// The entries of the next message, which from now on count as told.
    pub(super) fn next(&mut self, now: Instant, presences: bool) -> Next {
        let Some(since) = self.since.filter(|_| !self.queue.is_empty()) else {
            return Next::Nothing;
        };
        let linger = match (self.wants, self.wire.len()) {
            (0, _) => LINGER_CANCELS,
            (_, 0) => Duration::ZERO,
            _ => LINGER,
        };
        if self.queue.len() < BATCH && now < since + linger && !self.full {
            return Next::At(since + linger);
        }
        let mut entries = Vec::with_capacity(self.queue.len().min(MAX_ENTRIES));
        while entries.len() < MAX_ENTRIES
            && let Some((_, entry)) = self.queue.pop_first()
        {
            let key = *entry.cid.hash();
            self.queued.remove(&key);
            if !entry.cancel {
                self.wants -= 1;
                // Before 1.2 a WANT-HAVE is taken for a WANT-BLOCK.
                if entry.kind == WantKind::Have && !presences {
                    continue;
                }
                self.wire.insert(key, entry.clone());
            }
            entries.push(entry);
        }
        self.since = (!self.queue.is_empty()).then_some(now);
        let full = if std::mem::take(&mut self.full) {
            Full::Yes
        } else {
            Full::No
        };
        Next::Wants(entries, full)
    }

    /// The stream broke: everything unanswered is told again, as a full wantlist.
    pub(super) fn resend(&mut self, now: Instant) {
        self.queue.retain(|_, entry| !entry.cancel);
        self.queued = self
            .queue
            .iter()
            .map(|(at, entry)| (*entry.cid.hash(), *at))
            .collect();
        let mut again: Vec<_> = self
            .wire
            .drain()
            .filter(|(key, _)| !self.queued.contains_key(key))
            .collect();
        again.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.priority));
        for (key, entry) in again {
            self.push(key, entry, now);
        }
        self.full = !self.queue.is_empty();
    }

    fn push(&mut self, key: Key, entry: Entry, now: Instant) {
        self.wants += usize::from(!entry.cancel);
        self.queue.insert(self.next, entry);
        self.queued.insert(key, self.next);
        self.next += 1;
        self.since.get_or_insert(now);
    }

    fn unqueue(&mut self, key: &Key) {
        if let Some(entry) = self.queued.remove(key).and_then(|at| self.queue.remove(&at)) {
            self.wants -= usize::from(!entry.cancel);
        }
        if self.queue.is_empty() {
            self.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cid(n: u8) -> Cid {
        pacstore_dag::raw_cid(pacstore_dag::HashKind::Sha2_256, &[n])
    }

    fn sent(outbox: &mut Outbox, now: Instant) -> Vec<(Cid, bool)> {
        match outbox.next(now, true) {
            Next::Wants(entries, _) => entries.iter().map(|e| (e.cid, e.cancel)).collect(),
            Next::Nothing | Next::At(_) => Vec::new(),
        }
    }

    /// What was never sent is not cancelled; what was sent is, once.
    #[tokio::test(start_paused = true)]
    async fn an_unsent_want_and_its_cancel_cancel_out() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        assert!(outbox.ask(cid(1), WantKind::Block, 1, now));
        outbox.cancel(cid(1).hash(), now);
        assert_eq!(sent(&mut outbox, now + LINGER_CANCELS), []);
        assert!(outbox.ask(cid(1), WantKind::Block, 1, now));
        assert_eq!(sent(&mut outbox, now), [(cid(1), false)]);
        outbox.cancel(cid(1).hash(), now);
        assert_eq!(sent(&mut outbox, now + LINGER_CANCELS), [(cid(1), true)]);
        assert_eq!(outbox.on_wire(), 0);
    }

    /// Everything that the peer has not answered is told again when the stream broke.
    #[tokio::test(start_paused = true)]
    async fn a_broken_stream_has_everything_unanswered_told_again() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for n in 0..3 {
            assert!(outbox.ask(cid(n), WantKind::Block, i32::MAX - i32::from(n), now));
        }
        assert_eq!(sent(&mut outbox, now).len(), 3);
        outbox.answered(cid(1).hash());
        outbox.cancel(cid(2).hash(), now);
        assert!(outbox.ask(cid(3), WantKind::Have, 0, now));
        outbox.resend(now);
        let Next::Wants(entries, full) = outbox.next(now, true) else {
            panic!("nothing to send")
        };
        assert_eq!(full, Full::Yes);
        let cids: Vec<_> = entries.iter().map(|e| e.cid).collect();
        assert_eq!(cids, [cid(3), cid(0)]);
    }

    /// Kubo drops what goes beyond 1024 wants, so we never get there.
    #[tokio::test(start_paused = true)]
    async fn no_more_than_1024_wants_are_outstanding() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        let cid = |n: u32| pacstore_dag::raw_cid(pacstore_dag::HashKind::Sha2_256, &n.to_be_bytes());
        let taken = (0..2000)
            .filter(|n| outbox.ask(cid(*n), WantKind::Block, 0, now))
            .count();
        assert_eq!(taken, 1024);
        assert_eq!(sent(&mut outbox, now).len(), 1024);
        assert!(!outbox.ask(cid(3000), WantKind::Block, 0, now));
        outbox.answered(cid(7).hash());
        assert!(outbox.ask(cid(3000), WantKind::Block, 0, now));
    }
}
