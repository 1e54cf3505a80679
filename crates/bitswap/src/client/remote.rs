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
/// Round trips that a peer may be silent for.
const ROUND_TRIPS: u32 = 8;
/// The same in silences of its own that ended with an answer: a slow line, a busy disk.
const SILENCES: u32 = 4;
/// The shortest patience: two of the clockwork's ticks, more than a small machine needs to read a block.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);
/// What is left of a silence at each tick: a tenth after 22 s.
const FADE: f64 = 0.99;

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
    /// How long a question and its answer take on the line, as far as it was measured.
    pub(super) round_trip: Option<Duration>,
    /// The longest silence before an answer lately.
    silence: Duration,
    /// Bytes a second.
    pub(super) rate: Option<f64>,
    pub(super) average: f64,
    pub(super) strikes: u32,
    /// Until when it is asked for one block at a time, because an answer was wrong.
    pub(super) doubted: Option<Instant>,
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
            round_trip: None,
            silence: Duration::ZERO,
            rate: None,
            average: FIRST_AVERAGE,
            strikes: 0,
            doubted: None,
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
            self.peer.owes(None);
            self.sample = (now, self.peer.bytes_in.load(Ordering::Relaxed));
        }
        self.asked += 1;
        self.note_busy();
    }

    pub(super) fn fewer(&mut self) {
        self.asked = self.asked.saturating_sub(1);
        if self.asked == 0 {
            self.flushed = None;
            // What is taken from a silent peer may still come, and tells how slow it is.
            if self.stalled.is_none() {
                self.peer.owes(None);
            }
        }
        self.note_busy();
    }

    /// What it was asked has gone out.
    pub(super) fn told(&mut self, now: Instant) {
        if self.asked > 0 && self.flushed.is_none() {
            self.flushed = Some(now);
            self.peer.owes(Some(now));
        }
    }

    /// A round trip to it was measured. A longer one counts at once, a shorter one little by little.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        let old = self.round_trip.unwrap_or(round_trip);
        self.round_trip = Some(round_trip.max((old + round_trip) / 2));
    }

    /// How long it may be silent: `most` while no round trip to it was measured.
    fn patience(&self, most: Duration) -> Duration {
        let Some(round_trip) = self.round_trip else {
            return most;
        };
        let own = (round_trip * ROUND_TRIPS).max(self.silence * SILENCES);
        own.max(LEAST_PATIENCE).min(most)
    }

    /// Notes silences that ended, and that it is back if it was stalled. True if it is.
    pub(super) fn listen(&mut self) -> bool {
        self.silence = self.silence.mul_f64(FADE).max(self.peer.take_silence());
        let recovered = self.stalled.is_some_and(|at| self.peer.last_byte() > at);
        if recovered {
            self.stalled = None;
            if self.asked == 0 {
                self.peer.owes(None);
            }
        }
        recovered
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
        if self.stalled.is_some() || self.doubted.is_some() {
            // One want shows whether it is back, or which answer is wrong.
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
        if self.asked == 0 {
            self.peer.owes(None);
        }
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

    /// Whether the peer has been silent for longer than it may, at most `limit`, although it is asked, and the
    /// silence is its own.
    pub(super) fn silent(&self, now: Instant, limit: Duration) -> bool {
        if self.asked == 0 || self.peer.held.load(Ordering::Relaxed) > 0 {
            return false;
        }
        // Not yet written counts too, but a slow line of ours deserves more time.
        let patience = self.patience(limit);
        let told = self
            .flushed
            .map_or(self.asked_since + limit * 3, |at| at + patience);
        now >= told && now >= self.peer.last_byte() + patience
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

#[cfg(test)]
mod tests {
    use libp2p::PeerId;
    use pacstore_runtime::ByteBudget;
    use tokio::time::advance;

    use super::*;

    const MOST: Duration = Duration::from_secs(1);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A peer whose round trip was measured (0: it was not), asked for blocks just now.
    fn asked(round_trip: u64) -> Remote {
        let peer = Peer::new(PeerId::random(), Arc::default(), ByteBudget::new(1 << 20), 16);
        let mut remote = Remote::new(Arc::new(peer), Instant::now());
        if round_trip > 0 {
            remote.measured(millis(round_trip));
        }
        ask(&mut remote, 4);
        remote
    }

    fn ask(remote: &mut Remote, blocks: usize) {
        let now = Instant::now();
        for _ in 0..blocks {
            remote.more(now);
        }
        remote.told(now);
    }

    /// When it is found to be silent, by two seconds of it.
    async fn silent_after(remote: &mut Remote) -> Option<Duration> {
        let began = Instant::now();
        for look in 0..200 {
            // As often as the clockwork does.
            if look % 10 == 0 {
                remote.listen();
            }
            if remote.silent(Instant::now(), MOST) {
                return Some(began.elapsed());
            }
            advance(millis(10)).await;
        }
        None
    }

    /// A byte comes from it every `gap` ms, `times` times; whether it was ever found to be silent.
    async fn drips(remote: &mut Remote, gap: u64, times: usize) -> bool {
        let mut silent = false;
        for _ in 0..times {
            for _ in 0..gap / 10 {
                advance(millis(10)).await;
                silent |= remote.silent(Instant::now(), MOST);
            }
            remote.peer.progress(1);
            remote.listen();
        }
        silent
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_borne_for_some_round_trips_and_a_second_at_most() {
        for (round_trip, patience) in [(1, 200), (25, 200), (60, 480), (400, 1000), (0, 1000)] {
            let mut remote = asked(round_trip);
            let after = silent_after(&mut remote).await;
            assert_eq!(after, Some(millis(patience)), "round trip of {round_trip} ms");
        }
    }

    /// A line that got worse counts at once, one that got better little by little.
    #[tokio::test(start_paused = true)]
    async fn the_longer_round_trip_counts() {
        let mut remote = asked(1);
        remote.measured(millis(100));
        assert_eq!(remote.patience(MOST), millis(800));
        remote.measured(millis(20));
        assert_eq!(remote.patience(MOST), millis(480));
    }

    /// 64 KiB at a time over 4 Mbit/s, of which two others take their part; then a disk that is busy for half a second.
    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_that_gives_keeps_its_wants() {
        let mut remote = asked(25);
        assert!(
            !drips(&mut remote, 130, 8).await,
            "its pace is below what any may take"
        );
        assert!(!drips(&mut remote, 390, 20).await, "a busier line is learned");
        assert!(!drips(&mut remote, 500, 2).await);
        assert_eq!(silent_after(&mut remote).await, Some(MOST), "and then it is gone");
    }

    /// It is slow from the first byte on: once it loses its wants, and then it is known for what it is.
    #[tokio::test(start_paused = true)]
    async fn a_late_answer_tells_how_slow_a_peer_is() {
        let mut remote = asked(2);
        assert_eq!(silent_after(&mut remote).await, Some(millis(200)));
        remote.stalled = Some(Instant::now());
        (0..4).for_each(|_| remote.fewer());
        advance(millis(300)).await;
        remote.peer.progress(1);
        assert!(remote.listen() && remote.stalled.is_none(), "it is back");
        advance(millis(60_000)).await;
        ask(&mut remote, 1);
        assert!(!drips(&mut remote, 600, 3).await);
        remote.fewer();
        // What it says when it owes nothing says nothing of its pace, and the old is forgotten.
        for _ in 0..1000 {
            advance(millis(3000)).await;
            remote.peer.progress(1);
            remote.listen();
        }
        ask(&mut remote, 1);
        assert_eq!(silent_after(&mut remote).await, Some(millis(200)));
    }
}
