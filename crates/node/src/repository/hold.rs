//! How long a package that is fetched whole may take, and when pacman is held for it.
//!
//! pacman leaves a request on which no byte comes for ten seconds, but takes a redirect until then and counts anew. So
//! where neighbours want the same package, it is sent back to us with the same question ([`FetchError::NotYet`]), as
//! often as [`HOLDS`] says, and the house brings the package once instead of each machine for itself.
//!
//! - Invariant: nobody is held for longer than [`HOLDS`] times [`PATIENCE`], and only as long as it moves: here, or by
//!   what the neighbour says that brings it.
//! - Invariant: who wants it alone is not held.
//! - Not here: the redirect itself (`pacstore-http`), who brings it (`super::agree`).
//! - Read first: decision 18.
//!
//! [`FetchError::NotYet`]: crate::fetch::FetchError::NotYet

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cid::Cid;
use tokio::time::Instant;

use crate::neighbours::{Neighbours, Ticket};

/// How long one request is left without an answer. pacman gives up after ten seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);

/// Times that pacman is sent back to us for one file. libcurl follows ten redirects as pacman sets it; the last ones are
/// left for the mirror, and where it sends pacman.
pub(crate) const HOLDS: u8 = 7;

/// Left for hashing the rest, the disk, and the first bytes to pacman.
const AFTER: Duration = Duration::from_millis(700);

/// Within this time of its first request a neighbour shows that it wants it, too.
const SHOWS: Duration = Duration::from_secs(1);

/// Who takes it over has so long to see whether it can be brought.
const DECIDES: Duration = Duration::from_secs(3);

/// How often neighbours hear that it moves.
const BEAT: Duration = Duration::from_secs(1);

/// What takes longer is not worth waiting for: neighbours do not hear of it.
const WORTH: Duration = Duration::from_secs(48);

/// The time of one fetch.
#[derive(Debug)]
pub(super) struct Hold {
    began: Instant,
    times: Mutex<Times>,
    held: AtomicBool,
    ticket: Mutex<Option<Ticket>>,
    beat: Mutex<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    /// As things stand.
    until: Instant,
    /// With all holds that are left.
    end: Instant,
}

impl Times {
    /// It counts on all holds.
    fn is_all(&self) -> bool {
        self.until == self.end
    }
}

impl Hold {
    /// For somebody who waits for `patience`, and may be held so many times more.
    pub(super) fn new(patience: Duration, holds: Option<u8>) -> Self {
        let began = Instant::now();
        let until = began + patience.saturating_sub(AFTER);
        let hold = Self {
            began,
            times: Mutex::new(Times { until, end: until }),
            held: AtomicBool::new(false),
            ticket: Mutex::new(None),
            beat: Mutex::new(began),
        };
        hold.joined(patience, holds);
        hold
    }

    /// One more waits for it. What another one used up of his holds is no matter of his.
    pub(super) fn joined(&self, patience: Duration, holds: Option<u8>) {
        let most = patience.saturating_sub(AFTER) + PATIENCE * u32::from(holds.unwrap_or(0).min(HOLDS));
        let mut times = self.times();
        let end = times.end.max(Instant::now() + most);
        if holds.is_some() {
            if self.is_held() && times.is_all() {
                times.until = end;
            }
            times.end = end;
        }
    }

    /// It has to be whole until then.
    pub(super) fn until(&self) -> Instant {
        self.times().until
    }

    /// The same from now on.
    pub(super) fn left(&self) -> Duration {
        self.until().saturating_duration_since(Instant::now())
    }

    /// No request for it, held or not, lasts longer.
    pub(super) fn at_most(&self) -> Duration {
        self.times().end.saturating_duration_since(Instant::now())
    }

    /// Who asks is sent back to us.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// From now on, if it can be. It comes, or a neighbour brings it and says so.
    pub(super) fn hold(&self) -> bool {
        let mut times = self.times();
        if times.until < times.end {
            times.until = times.end;
            self.held.store(true, Ordering::Relaxed);
        }
        self.is_held()
    }

    /// Who should bring it does not: what it was held for is over, unless it is brought by another one.
    pub(super) fn let_go(&self) {
        if self.is_held() {
            let mut times = self.times();
            times.until = times.end.min(Instant::now() + DECIDES);
        }
    }

    /// It is ours to bring.
    pub(super) fn claimed(&self, ticket: Option<Ticket>) {
        *self.ticket() = ticket;
    }

    /// Neighbours are told that it is ours to bring.
    pub(super) fn is_claimed(&self) -> bool {
        self.ticket().as_ref().is_some_and(Ticket::is_claim)
    }

    /// It is here.
    pub(super) fn done(&self) {
        let ticket = self.ticket().take();
        if let Some(ticket) = ticket {
            ticket.done();
        }
    }

    /// Whether who brings it goes on, although it takes `needed` more: all of it is here in the end, and others want it.
    pub(super) async fn goes_on(&self, root: &Cid, needed: Duration, neighbours: &Neighbours) -> bool {
        if self.is_held() && self.times().is_all() {
            return needed <= self.left();
        }
        // A line is shared and changes, and neighbours take it from here afterwards.
        let enough = self.at_most().saturating_sub(PATIENCE);
        if !self.is_claimed() || enough < needed.saturating_mul(5) / 4 {
            return false;
        }
        if !neighbours.is_wanted_before(root, self.began + SHOWS).await || !self.hold() {
            return false;
        }
        // Who waits hears of it before its own patience ends.
        self.beats();
        true
    }

    /// Bytes came, and the rest takes `needed` more.
    pub(super) fn moves(&self, needed: Duration) {
        if WORTH < needed {
            return;
        }
        let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        if beat.elapsed() < BEAT {
            return;
        }
        *beat = Instant::now();
        drop(beat);
        self.beats();
    }

    /// Neighbours hear that it moves.
    pub(super) fn beats(&self) {
        if let Some(ticket) = &*self.ticket() {
            ticket.moves();
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never held across an await.
    fn ticket(&self) -> MutexGuard<'_, Option<Ticket>> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many requests.
    fn all_of(requests: u8) -> Duration {
        (PATIENCE * u32::from(requests)).saturating_sub(AFTER)
    }

    #[tokio::test(start_paused = true)]
    async fn holds_are_counted_down_and_never_more_than_there_are() {
        for (holds, most) in [(None, 0), (Some(0), 0), (Some(3), 3), (Some(u8::MAX), HOLDS)] {
            let hold = Hold::new(PATIENCE, holds);
            assert_eq!(hold.hold(), most > 0, "{holds:?}");
            assert_eq!(hold.left(), all_of(1 + most), "{holds:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whose_holds_are_used_up_takes_none_from_others() {
        let hold = Hold::new(PATIENCE, Some(0));
        assert!(!hold.hold());
        hold.joined(PATIENCE, Some(HOLDS));
        assert_eq!(hold.left(), all_of(1));
        assert!(hold.hold());
        assert_eq!(hold.left(), all_of(HOLDS + 1));
        hold.joined(PATIENCE, Some(1));
        assert_eq!(hold.left(), all_of(HOLDS + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_brings_it_for_itself_alone_does_not_go_on() {
        let (hold, nobody) = (Hold::new(PATIENCE, Some(HOLDS)), Neighbours::new(None));
        assert!(
            !hold
                .goes_on(&Cid::default(), Duration::from_secs(20), &nobody)
                .await
        );
        assert!(!hold.is_held());
        assert_eq!(hold.left(), all_of(1), "at once");
    }
}
