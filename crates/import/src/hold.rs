//! How long each repository has been held, or an upstream behind: time that passed, not what a clock says.
//!
//! Within a process time is what ran between two looks. Over a restart only the wall clock knows, and it may have been set
//! meanwhile; so what it says counts, but for a quarter of the longest time at most.
//!
//! - Invariant: a clock that is set forth or back, and back again, neither ends a hold early nor prolongs it.
//! - Invariant: no number of restarts under a wrong clock holds for ever what runs for the longest time.
//! - Not here: what is held and why (`crate::doubt`), which upstream is behind (`crate::older`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Of the longest time, what a restart may count for at most: one part of so many.
const PART: u32 = 4;

/// How long one thing has lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub(crate) struct Hold {
    /// In milliseconds.
    waited_ms: u64,
    /// The wall clock when that was written, in seconds since 1970.
    seen: u64,
}

/// What may be on disk.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    /// As it was written first: since when, in seconds since 1970.
    Since(u64),
    Waited {
        waited_ms: u64,
        seen: u64,
    },
}

impl From<Written> for Hold {
    fn from(written: Written) -> Self {
        let (waited_ms, seen) = match written {
            Written::Since(seen) => (0, seen),
            Written::Waited { waited_ms, seen } => (waited_ms, seen),
        };
        Self { waited_ms, seen }
    }
}

/// Which repositories are held, by `FOLDER/NAME`, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holds(BTreeMap<String, Hold>);

/// How much time passed since the last look that was written down.
#[derive(Debug)]
pub(crate) struct Timer(Mutex<(Instant, Known)>);

/// What is known of the time before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// There was no look in this process yet.
    Nothing,
    /// The last look was in this process.
    All,
}

/// Time between two looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    ran: Duration,
    before: Known,
    until: Instant,
}

impl Default for Timer {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), Known::Nothing)))
    }
}

impl Timer {
    /// What passed until now.
    pub(crate) fn passed(&self) -> Passed {
        let (at, before) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now();
        Passed {
            ran: until.saturating_duration_since(at),
            before,
            until,
        }
    }

    /// `passed` is written down: what is asked for next begins where it ended.
    pub(crate) fn written(&self, passed: &Passed) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (passed.until, Known::All);
    }
}

impl Hold {
    /// It begins at `now`, by the wall clock.
    pub(crate) fn begin(now: u64) -> Self {
        Self {
            waited_ms: 0,
            seen: now,
        }
    }

    /// Time passed; `longest` is how long it may last, `now` is the wall clock's.
    pub(crate) fn pass(&mut self, passed: &Passed, longest: Duration, now: u64) {
        let told = Duration::from_secs(now.saturating_sub(self.seen));
        let took = match passed.before {
            Known::All => passed.ran,
            Known::Nothing => told.clamp(passed.ran, passed.ran + longest / PART),
        };
        self.waited_ms = self.waited_ms.saturating_add(millis(took));
        self.seen = now;
    }

    /// For how long it has lasted.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms)
    }
}

impl Holds {
    /// Time passed for all that are held; `longest` is how long one may be, `now` is the wall clock's.
    pub(crate) fn pass(&mut self, passed: &Passed, longest: Duration, now: u64) {
        for hold in self.0.values_mut() {
            hold.pass(passed, longest, now);
        }
    }

    /// How long `shown` may be held yet; all of `longest` if it was not held.
    pub(crate) fn left(&self, shown: &str, longest: Duration) -> Duration {
        let waited = self.0.get(shown).map_or(Duration::ZERO, Hold::waited);
        longest.saturating_sub(waited)
    }

    /// `shown` is held, from `now` on if it was not before.
    pub(crate) fn hold(&mut self, shown: String, now: u64) {
        self.0.entry(shown).or_insert(Hold::begin(now));
    }

    /// `shown` is not held any more.
    pub(crate) fn free(&mut self, shown: &str) {
        self.0.remove(shown);
    }

    /// Those that are not there any more are not held either.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|shown, _| is_there(shown));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_hours(2);
    const NOW: u64 = 1_800_000_000;
    const YEAR: u64 = 365 * 86_400;

    fn held() -> Holds {
        let mut holds = Holds::default();
        holds.hold("core/core".to_owned(), NOW);
        holds
    }

    fn left(holds: &Holds) -> u64 {
        holds.left("core/core", LONGEST).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_process_what_ran_counts_whatever_the_clock_says() {
        let (timer, mut holds) = (Timer::default(), held());
        timer.written(&timer.passed());
        for now in [NOW + YEAR, NOW - YEAR, 0, u64::MAX, NOW] {
            tokio::time::advance(Duration::from_millis(600_500)).await;
            let passed = timer.passed();
            holds.pass(&passed, LONGEST, now);
            timer.written(&passed);
        }
        assert_eq!(left(&holds), 7200 - 3003);
        // What was not written down passes again.
        tokio::time::advance(Duration::from_mins(1)).await;
        timer.passed();
        tokio::time::advance(Duration::from_mins(1)).await;
        holds.pass(&timer.passed(), LONGEST, NOW);
        assert_eq!(left(&holds), 7200 - 3003 - 120);
    }

    #[tokio::test(start_paused = true)]
    async fn over_a_restart_the_clock_counts_for_a_quarter_at_most() {
        for (now, counts) in [
            (NOW + 600, 600),
            (NOW + 1800, 1800),
            (NOW + YEAR, 1800),
            (NOW - YEAR, 0),
        ] {
            let mut holds = held();
            holds.pass(&Timer::default().passed(), LONGEST, now);
            assert_eq!(left(&holds), 7200 - counts, "{now}");
        }
        // A process that ran for a while before its first look: that counts in any case.
        let (timer, mut holds) = (Timer::default(), held());
        tokio::time::advance(Duration::from_hours(1)).await;
        holds.pass(&timer.passed(), LONGEST, NOW - YEAR);
        assert_eq!(left(&holds), 3600);
    }

    #[test]
    fn what_was_written_before_is_read_and_written_anew() -> Result<(), serde_json::Error> {
        let old: Holds = serde_json::from_str(&format!("{{\"core/core\":{NOW}}}"))?;
        assert_eq!(old, held());
        let new = serde_json::to_string(&old)?;
        assert_eq!(
            new,
            format!("{{\"core/core\":{{\"waited_ms\":0,\"seen\":{NOW}}}}}")
        );
        assert_eq!(serde_json::from_str::<Holds>(&new)?, old);
        Ok(())
    }
}
