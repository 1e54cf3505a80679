//! One connected peer as the client sees it: how much it is asked, how fast it answers.
//!
//! - Invariant: `asked` is the number of wants that list this peer as asked for the block.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cid::Cid;
use tokio::time::Instant;

use super::Key;
use super::outbox::{Next, Outbox};
use crate::link::Peer;
use crate::wire::WantKind;

/// Fewest blocks outstanding at a peer that has enough to do.
const MIN_BLOCKS: usize = 8;
/// Most blocks outstanding at a peer.
const MAX_BLOCKS: usize = 64;
/// Most blocks outstanding where blocks are small.
const MAX_SMALL_BLOCKS: usize = 512;
/// Below this average, in bytes, blocks are small.
const SMALL: f64 = 128.0 * 1024.0;
/// Bytes outstanding: first, and the bounds of what the rate gives.
const FIRST_BYTES: f64 = 8.0 * 1024.0 * 1024.0;
const MIN_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
const MAX_BYTES: f64 = 32.0 * 1024.0 * 1024.0;
/// How many seconds of a peer's rate are outstanding.
const WINDOW_SECONDS: f64 = 0.5;
/// What an unmeasured peer is taken to reach, in bytes a second.
const GUESS: f64 = 20.0 * 1024.0 * 1024.0;
/// Block size that is assumed before one came: our own profile's chunk.
const FIRST_AVERAGE: f64 = 1024.0 * 1024.0;
/// How often the rate is measured at most.
const SAMPLE: Duration = Duration::from_millis(90);

#[derive(Debug)]
pub(super) struct Remote {
    pub(super) peer: Arc<Peer>,
    /// Known to speak Bitswap, or not to.
    pub(super) speaks: Option<bool>,
    /// It speaks 1.2: it answers with HAVE and DONT_HAVE.
    pub(super) presences: bool,
    pub(super) asked: usize,
    /// When it was first told of what it is asked now.
    pub(super) flushed: Option<Instant>,
    /// Since when it sends nothing.
    pub(super) stalled: Option<Instant>,
    /// Bytes a second.
    pub(super) rate: Option<f64>,
    pub(super) average: f64,
    pub(super) strikes: u32,
    asked_since: Instant,
    sample: (Instant, u64),
    outbox: Outbox,
}

impl Remote {
    pub(super) fn new(peer: Arc<Peer>, now: Instant) -> Self {
        Self {
            peer,
            speaks: None,
            presences: true,
            asked: 0,
            flushed: None,
            stalled: None,
            rate: None,
            average: FIRST_AVERAGE,
            strikes: 0,
            asked_since: now,
            sample: (now, 0),
            outbox: Outbox::default(),
        }
    }

    /// Tells the peer of a want. False if it has too many.
    pub(super) fn ask(&mut self, cid: Cid, kind: WantKind, priority: i32, now: Instant) -> bool {
        let taken = self.outbox.ask(cid, kind, priority, now);
        self.changed();
        taken
    }

    pub(super) fn cancel(&mut self, key: &Key, now: Instant) {
        self.outbox.cancel(key, now);
        self.changed();
    }

    pub(super) fn answered(&mut self, key: &Key) {
        self.outbox.answered(key);
        self.note_busy();
    }

    pub(super) fn have(&mut self, key: &Key) {
        self.outbox.have(key);
        self.note_busy();
    }

    pub(super) fn lost(&mut self, key: &Key) {
        self.outbox.lost(key);
    }

    pub(super) fn knows(&self, key: &Key) -> bool {
        self.outbox.knows(key)
    }

    pub(super) fn has_wants(&self) -> bool {
        !self.outbox.is_empty() && self.speaks != Some(false)
    }

    pub(super) fn next(&mut self, now: Instant) -> Next {
        let next = self.outbox.next(now, self.presences);
        self.note_busy();
        next
    }

    pub(super) fn resend(&mut self, now: Instant) {
        self.flushed = None;
        self.asked_since = now;
        self.outbox.resend(now);
        self.changed();
    }

    /// One more want is asked.
    pub(super) fn more(&mut self, now: Instant) {
        if self.asked == 0 {
            self.asked_since = now;
            self.flushed = None;
            self.sample = (now, self.peer.bytes_in.load(Ordering::Relaxed));
        }
        self.asked += 1;
        self.note_busy();
    }

    pub(super) fn fewer(&mut self) {
        self.asked = self.asked.saturating_sub(1);
        if self.asked == 0 {
            self.flushed = None;
        }
        self.note_busy();
    }

    /// Blocks that may be outstanding, by rate and size.
    pub(super) fn window(&self) -> usize {
        let bytes = self.rate.map_or(FIRST_BYTES, |rate| {
            (rate * WINDOW_SECONDS).clamp(MIN_BYTES, MAX_BYTES)
        });
        let most = if self.average < SMALL {
            MAX_SMALL_BLOCKS
        } else {
            MAX_BLOCKS
        };
        ((bytes / self.average.max(1.0)) as usize).clamp(MIN_BLOCKS, most)
    }

    pub(super) fn room(&self) -> usize {
        if self.stalled.is_some() {
            // One want shows whether it is back.
            return usize::from(self.asked == 0);
        }
        self.window().saturating_sub(self.asked)
    }

    pub(super) fn rate(&self) -> f64 {
        self.rate.unwrap_or(GUESS).max(1024.0)
    }

    /// Seconds until everything asked is here, at the measured rate.
    pub(super) fn backlog(&self) -> f64 {
        self.asked as f64 * self.average / self.rate()
    }

    /// A block of `len` bytes came.
    pub(super) fn took(&mut self, len: usize) {
        self.average += (len as f64 - self.average) * 0.25;
        self.stalled = None;
    }

    /// Measures the rate, if something is asked.
    pub(super) fn measure(&mut self, now: Instant) {
        let (at, bytes) = self.sample;
        let elapsed = now.saturating_duration_since(at);
        if elapsed < SAMPLE {
            return;
        }
        let total = self.peer.bytes_in.load(Ordering::Relaxed);
        self.sample = (now, total);
        if self.asked == 0 {
            return;
        }
        let rate = total.saturating_sub(bytes) as f64 / elapsed.as_secs_f64();
        let silent_start = self.rate.is_none() && total == bytes;
        if !silent_start {
            self.rate = Some(self.rate.map_or(rate, |old| old * 0.7 + rate * 0.3));
        }
    }

    /// Whether the peer has been silent for `limit` although it is asked, and the silence is its own.
    pub(super) fn silent(&self, now: Instant, limit: Duration) -> bool {
        if self.asked == 0 || self.peer.held.load(Ordering::Relaxed) > 0 {
            return false;
        }
        // Not yet written counts too, but a slow line of ours deserves more time.
        let told = self.flushed.map_or(self.asked_since + limit * 3, |at| at + limit);
        now >= told && now >= self.peer.last_byte() + limit
    }

    /// Whether a byte came after it was found to be stalled.
    pub(super) fn recovered(&self) -> bool {
        self.stalled.is_some_and(|at| self.peer.last_byte() > at)
    }

    fn note_busy(&self) {
        let busy = self.asked > 0 || self.outbox.on_wire() > 0 || !self.outbox.is_empty();
        self.peer.busy_client.store(busy, Ordering::Relaxed);
    }

    fn changed(&self) {
        self.note_busy();
        if !self.outbox.is_empty() {
            self.peer.wake.notify_one();
        }
    }
}
