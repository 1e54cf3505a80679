//! The line that all downloads share: how much it gives, and who goes first on it.
//!
//! A leaf is verified as a whole, so on a thin line five downloads side by side would all
//! wait for their first leaf until pacman's ten seconds are over. Here first leaves go
//! before all others and one after the other, as soon as it shows that the line itself is
//! the limit; a reader whose turn cannot come in time is sent to a mirror instead. Where
//! more at once bring more (sources are the limit, not the line), nothing waits.
//!
//! - Invariant: every wait here ends by itself: after [`MAX_HOLD`] a flight goes on.
//! - Invariant: a flight holds others back only while its own bytes come.
//! - Not here: what a leaf is and which is next (`super::plan`), sockets.
//! - Read first: `super::queue`, then `docs/design/fetch.md`, "Thin lines".

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cid::Cid;
use tokio::sync::watch;

pub(crate) use super::queue::Host;
use super::queue::{Flight, Start, State, WIDE_RATE, Waiting};

/// A reader must have its first byte by then; pacman gives up after 10 s.
pub(crate) const FIRST_BYTE: Duration = Duration::from_secs(8);

/// When it is decided whether the first byte can come in time at all.
const DECIDE: Duration = Duration::from_secs(1);

/// A redirect takes from the same line, so it is put off while others wait for their first
/// leaf; but only so long.
const PUT_OFF: Duration = Duration::from_secs(7);

/// No flight is held back longer.
const MAX_HOLD: Duration = Duration::from_secs(30);

/// How often those who wait look again.
const LOOK: Duration = Duration::from_millis(250);

/// The line of one node. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Line(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    next: AtomicU64,
    changed: watch::Sender<()>,
}

impl Default for Line {
    fn default() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            next: AtomicU64::new(0),
            changed: watch::Sender::new(()),
        }))
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A reader waits for the first bytes of `root`, which come with a leaf of about `left` bytes.
    pub(crate) fn wait_for(&self, root: Cid, left: u64) -> FirstByte {
        let id = self.next();
        self.state().waiting.push(Waiting { id, root, left });
        FirstByte {
            line: self.clone(),
            id,
            since: Instant::now(),
        }
    }

    /// A reader waits for its first byte of `root`.
    pub(crate) fn is_waited_for(&self, root: &Cid) -> bool {
        self.state().waiting.iter().any(|w| w.root == *root)
    }

    /// More at once do not bring more.
    pub(crate) fn is_limit(&self) -> bool {
        self.state().is_limit(Instant::now())
    }

    /// A source that has shown `rate`, if it was measured, may bring more beside those that bring now: the line is not known
    /// to be the limit, or it was wide a little ago, or that source alone was much faster than all of them are.
    pub(crate) fn has_room_for(&self, rate: Option<f64>) -> bool {
        let now = Instant::now();
        let state = self.state();
        let all = state
            .rate(now)
            .filter(|_| state.is_limit(now) && !state.was_wide(now));
        all.is_none_or(|all| rate.is_some_and(|rate| all * 1.5 < rate))
    }

    /// The line is known to give so much that several leaves of a file that is waited for
    /// may be asked at once.
    pub(crate) fn is_wide(&self) -> bool {
        let rate = self.state().rate(Instant::now());
        rate.is_some_and(|rate| rate >= WIDE_RATE)
    }

    /// Bytes came from `host` after they were waited for since `from`.
    pub(crate) fn came(&self, host: &Host, bytes: u64, from: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        let from = state.until.map_or(from, |until| until.max(from));
        let busy = now.saturating_duration_since(from);
        state.until = Some(now);
        state.brought(bytes, busy, now);
        state.note(host, now);
    }

    /// Bytes of leaves of `root` that were asked of peers are coming.
    pub(crate) fn peers_move(&self, root: &Cid) {
        let now = Instant::now();
        let mut state = self.state();
        let theirs = |f: &&mut Flight| f.going && f.root == *root && f.host.is(&Host::Peers(0));
        state
            .flights
            .iter_mut()
            .filter(theirs)
            .for_each(|f| f.progress = now);
    }

    /// No byte came from anywhere for so long.
    pub(crate) fn quiet(&self) -> Duration {
        self.state().until.map_or(Duration::MAX, |until| until.elapsed())
    }

    /// A place in the queue for a leaf of `root` from `host`.
    pub(crate) fn turn(&self, root: Cid, host: Host) -> Turn {
        let id = self.next();
        let mut state = self.state();
        state.flights.push(Flight {
            id,
            root,
            host,
            going: false,
            first: None,
            progress: Instant::now(),
        });
        drop(state);
        Turn {
            line: self.clone(),
            id,
        }
    }

    fn tell(&self) {
        self.0.changed.send_replace(());
    }
}

/// What to do with an answer whose bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    /// Read on.
    On,
    /// Break it off and ask again when it is its turn.
    Yield,
}

/// One leaf's, or run of leaves', place on the line. It is given up when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    line: Line,
    id: u64,
}

impl Turn {
    /// Whether it may be asked for now; if so, it is under way.
    pub(crate) fn try_start(&self) -> bool {
        let now = Instant::now();
        let mut state = self.line.state();
        let Some(index) = state.flights.iter().position(|f| f.id == self.id) else {
            return true;
        };
        let flight = &state.flights[index];
        let (root, host) = (flight.root, flight.host.clone());
        let Start::Now { first } = state.may_start(self.id, &root, &host, now) else {
            return false;
        };
        let flight = &mut state.flights[index];
        (flight.going, flight.first, flight.progress) = (true, first, now);
        true
    }

    /// Waits until it may be asked for; `held` is called again and again meanwhile.
    pub(crate) async fn start(&self, held: impl Fn()) {
        self.hold(held, || self.try_start()).await;
    }

    /// Waits until its bytes may be taken. [`Go::Yield`] if they had better be asked for
    /// again later: `got` of `wanted` bytes are here.
    pub(crate) async fn go(&self, got: u64, wanted: u64, held: impl Fn()) -> Go {
        let may = || self.line.state().may_go(self.id, Instant::now());
        if may() {
            return Go::On;
        }
        // What is not read is sent all the same until all buffers on the way are full. One
        // that has just begun is cheaper to ask for again than to let go on half-way.
        if got < wanted / 2 && self.is_first() {
            return Go::Yield;
        }
        self.hold(held, may).await;
        Go::On
    }

    fn is_first(&self) -> bool {
        let state = self.line.state();
        let mut flights = state.flights.iter();
        flights.any(|f| f.id == self.id && f.first.is_some())
    }

    /// It is not under way any more, and waits again.
    pub(crate) fn yielded(&self) {
        let mut state = self.line.state();
        if let Some(flight) = state.flights.iter_mut().find(|f| f.id == self.id) {
            flight.going = false;
        }
        drop(state);
        self.line.tell();
    }

    async fn hold(&self, held: impl Fn(), may: impl Fn() -> bool) {
        let until = Instant::now() + MAX_HOLD;
        let mut changed = self.line.0.changed.subscribe();
        while !may() && Instant::now() < until {
            held();
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// It is asked for now, whoever else waits: what small files ask of peers.
    pub(crate) fn begin(&self) {
        if self.try_start() {
            return;
        }
        let now = Instant::now();
        let mut state = self.line.state();
        if let Some(flight) = state.flights.iter_mut().find(|f| f.id == self.id) {
            (flight.going, flight.progress) = (true, now);
        }
    }

    /// So many of its bytes came after they were waited for since `from`.
    pub(crate) fn came(&self, bytes: u64, from: Instant) {
        let now = Instant::now();
        let mut state = self.line.state();
        let Some(flight) = state.flights.iter_mut().find(|f| f.id == self.id) else {
            return;
        };
        flight.progress = now;
        let (first, host) = (flight.first, flight.host.clone());
        if let Some(waiting) = first.and_then(|id| state.waiting.iter_mut().find(|w| w.id == id)) {
            waiting.left = waiting.left.saturating_sub(bytes);
        }
        drop(state);
        self.line.came(&host, bytes, from);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.line.state();
        let index = state.flights.iter().position(|f| f.id == self.id);
        let flight = index.map(|index| state.flights.remove(index));
        drop(state);
        // One that never began held nobody back.
        if flight.is_some_and(|flight| flight.going) {
            self.line.tell();
        }
    }
}

/// A reader that waits for its first byte, until this is dropped.
#[derive(Debug)]
pub(crate) struct FirstByte {
    line: Line,
    id: u64,
    since: Instant,
}

impl FirstByte {
    /// Returns when the first byte cannot be expected in time.
    pub(crate) async fn too_late(&self) {
        while !self.is_too_late(self.since.elapsed()) {
            tokio::time::sleep(LOOK).await;
        }
    }

    fn is_too_late(&self, waited: Duration) -> bool {
        if FIRST_BYTE <= waited {
            return true;
        }
        let state = self.line.state();
        let Some(rate) = state.rate(Instant::now()).filter(|_| DECIDE <= waited) else {
            return false;
        };
        let upto = state.waiting.iter().filter(|w| w.id <= self.id);
        let bytes: u64 = upto.map(|w| w.left).sum();
        let expected = waited.as_secs_f64() + bytes as f64 / rate.max(1.0);
        let alone = state.waiting.len() == 1;
        let limit = FIRST_BYTE.as_secs_f64();
        (PUT_OFF <= waited && limit < expected) || (alone && limit + 1.0 < expected)
    }
}

impl Drop for FirstByte {
    fn drop(&mut self) {
        self.line.state().waiting.retain(|w| w.id != self.id);
        self.line.tell();
    }
}

#[cfg(test)]
mod tests {
    use pacstore_dag as dag;

    use super::*;
    use crate::fetch::plan::LATE;
    use crate::fetch::queue::Meter;

    const MIB: u64 = 1 << 20;

    fn root(n: u8) -> Cid {
        dag::raw_cid(dag::HashKind::Sha2_256, &[n])
    }

    /// A line of which it is known that it gives so many bytes a second in all.
    fn thin(rate: u64, host: &Host) -> Line {
        let line = Line::default();
        let turns: Vec<Turn> = (0..3).map(|n| line.turn(root(200 + n), host.clone())).collect();
        assert!(turns.iter().all(Turn::try_start));
        let mut state = line.state();
        let now = Instant::now();
        state.brought(rate, Duration::from_secs(1), now);
        let before = now.checked_sub(Duration::from_secs(5)).unwrap_or(now);
        state.active.push((host.clone(), before, now));
        drop(state);
        line
    }

    fn mirror() -> Host {
        Host::Mirror("http://a".to_owned())
    }

    #[test]
    fn on_a_thin_line_first_leaves_go_one_after_the_other_and_before_all_others() {
        let line = thin(500_000, &mirror());
        let later = line.turn(root(0), mirror());
        assert!(later.try_start(), "nobody waits");
        let waits: Vec<FirstByte> = (1..4).map(|n| line.wait_for(root(n), MIB)).collect();
        let turns: Vec<Turn> = (1..4).map(|n| line.turn(root(n), mirror())).collect();
        assert!(!turns[1].try_start(), "an older one waits");
        assert!(turns[0].try_start());
        assert!(!turns[1].try_start() && !turns[2].try_start());
        let may = |turn: &Turn| line.state().may_go(turn.id, Instant::now());
        assert!(may(&turns[0]) && !may(&later));
        assert!(!line.turn(root(9), mirror()).try_start(), "later leaves wait");
        let mut turns = turns.into_iter();
        let mut waits = waits.into_iter();
        drop((turns.next(), waits.next()));
        let second = turns.next().expect("three");
        assert!(second.try_start());
        drop((second, waits, turns));
        assert!(may(&later));
    }

    #[test]
    fn where_more_at_once_bring_more_nobody_waits() {
        let line = thin(500_000, &mirror());
        line.state().wide = Meter::default();
        line.state()
            .wide
            .add(2_000_000, Duration::from_secs(1), Instant::now());
        let _waits: Vec<FirstByte> = (1..6).map(|n| line.wait_for(root(n), MIB)).collect();
        let turns: Vec<Turn> = (1..6).map(|n| line.turn(root(n), mirror())).collect();
        assert!(turns.iter().all(Turn::try_start));
        assert!(line.turn(root(9), mirror()).try_start());
    }

    #[test]
    fn a_line_has_room_for_who_was_faster_alone_and_for_all_if_it_is_wide() {
        let narrow = thin(500_000, &Host::Peers(1));
        assert!(!narrow.has_room_for(None) && !narrow.has_room_for(Some(600e3)));
        assert!(
            narrow.has_room_for(Some(5e6)),
            "a line that gave 5 MB/s is not what holds peers at 0.5"
        );
        let wide = thin(10_000_000, &Host::Peers(2));
        assert!(wide.is_limit() && wide.has_room_for(None));
        let now = Instant::now();
        wide.state().brought(3_000_000, Duration::from_secs(2), now);
        wide.state().brought(2_000_000, Duration::from_secs(2), now);
        assert!(!wide.is_wide() && wide.has_room_for(None), "small files since");
        assert!(Line::default().has_room_for(None), "nothing is known");
    }

    #[test]
    fn later_leaves_are_asked_for_as_far_as_they_come_soon() {
        let asked = |rate: u64, host: Host| {
            let line = thin(rate, &host);
            let turns: Vec<Turn> = (0..64).map(|_| line.turn(root(1), host.clone())).collect();
            turns.iter().take_while(|turn| turn.try_start()).count()
        };
        assert_eq!(asked(500_000, Host::Peers(2)), 3);
        assert_eq!(asked(500_000, mirror()), 4);
        assert_eq!(asked(80 * MIB, Host::Peers(1)), 20);
        assert_eq!(asked(80 * MIB, mirror()), 20);
    }

    #[test]
    fn a_fast_line_is_not_tight_and_a_new_host_is_tried_on_a_tight_one() {
        let fast = thin(50_000_000, &mirror());
        let _waits: Vec<FirstByte> = (1..6).map(|n| fast.wait_for(root(n), MIB)).collect();
        let turns: Vec<Turn> = (1..6).map(|n| fast.turn(root(n), mirror())).collect();
        assert!(turns.iter().all(Turn::try_start));
        let slow = thin(300_000, &Host::Peers(1));
        let _wait = slow.wait_for(root(1), MIB);
        let carried = slow.turn(root(1), Host::Peers(1));
        assert!(carried.try_start());
        assert!(!slow.turn(root(2), Host::Peers(1)).try_start());
        assert!(slow.turn(root(1), mirror()).try_start(), "it may be faster");
    }

    #[test]
    fn a_reader_whose_turn_comes_too_late_is_told_so_once_that_harms_nobody() {
        let line = thin(500_000, &mirror());
        let seconds = Duration::from_secs;
        let waits: Vec<FirstByte> = (1..6).map(|n| line.wait_for(root(n), MIB)).collect();
        assert!(!waits[2].is_too_late(seconds(1)));
        assert!(
            !waits[4].is_too_late(seconds(2)),
            "a redirect would take from the first four"
        );
        assert!(waits[4].is_too_late(seconds(7)));
        assert!(waits[0].is_too_late(FIRST_BYTE));
        drop(waits);
        let slow = thin(50_000, &mirror());
        let wait = slow.wait_for(root(1), MIB);
        assert!(!wait.is_too_late(Duration::ZERO) && wait.is_too_late(seconds(1)));
    }

    #[test]
    fn a_flight_that_stands_still_holds_nobody_back() {
        let line = thin(500_000, &mirror());
        let _waits = (line.wait_for(root(1), MIB), line.wait_for(root(2), MIB));
        let turns = [line.turn(root(1), mirror()), line.turn(root(2), mirror())];
        assert!(turns[0].try_start() && !turns[1].try_start());
        let stalled = Instant::now()
            .checked_sub(LATE * 2)
            .expect("the machine runs for 2 s");
        line.state().flights.iter_mut().for_each(|f| f.progress = stalled);
        assert!(turns[1].try_start());
    }
}
