//! Which of an import's upstreams is read first, from what was seen of them.
//!
//! The configuration's order is a preference. It yields to what speaks against an upstream: one that failed lately
//! goes last for a while, one whose state is behind the newest that any has goes after those that are not, one that
//! was measured to be slow goes after faster ones and after those that were not tried yet.
//!
//! - Invariant: [`Upstreams::order`] drops none, so no failure locks an upstream out for ever.
//! - Invariant: steps are coarse, so that small differences do not move an import to and fro.
//! - Invariant: what an older state is refused for is time that passed (`crate::hold`); a clock that is set forth takes
//!   no tree back.
//! - Not here: asking them (`crate::choose`), keeping it on disk (`crate::manifest`).
//! - Read first: [`Upstreams::order`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hold::{Hold, Passed};
use crate::older::AHEAD;
use crate::spec::Source;

/// The pause after a first failure, in seconds; it doubles.
const PAUSE: u64 = 60;
/// The longest pause, in seconds.
const MAX_PAUSE: u64 = 3600;
/// What was told or measured counts for so long, in seconds.
const TOLD: u64 = 2 * 86_400;
/// How often others than the one in use are asked how new they are, in seconds.
const ASK: u64 = 900;
/// One that was torn is not tried for the sake of another torn one for so long, in seconds.
const TORN: u64 = 600;
/// For how long an older state than the tree's is refused while no upstream has another.
const OLDER: Duration = Duration::from_hours(24);
/// The same where each of them was seen to be older.
const ALL_OLDER: Duration = Duration::from_mins(30);
/// From this rate on an upstream is fast enough, in bytes a second.
const FAST: u64 = 8 << 20;
/// Less says nothing about the rate.
const ENOUGH: u64 = 256 << 10;
/// Smaller files than this, on the average, say nothing about the rate.
const SMALL: u64 = 32 << 10;

/// How new an upstream's state is, as it says: seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times {
    /// By its change stamp.
    pub(crate) stamp: Option<u64>,
    /// By its newest database.
    pub(crate) database: Option<u64>,
}

/// What is remembered of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// Two more for each failure, one less for each success: one that comes and goes is trusted less and less.
    bad: u32,
    paused_until: u64,
    times: Times,
    /// When it was asked for `times`.
    told: u64,
    /// Bytes a second.
    rate: Option<u64>,
    measured: u64,
    /// When its state last was torn.
    torn: u64,
    /// For how long it has been refused as older than the tree, with no round that went well since.
    behind: Option<Behind>,
}

/// How long an upstream has been behind. A restart counts for a part of the time that is waited for, so each has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Behind {
    /// Towards [`OLDER`].
    alone: Hold,
    /// Towards [`ALL_OLDER`].
    with_all: Hold,
}

/// What was seen of all upstreams of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Upstreams(BTreeMap<String, Record>);

impl Upstreams {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    /// Nothing of what another version wrote, or of upstreams that are not configured any more.
    pub(crate) fn decode(bytes: &[u8], from: &[Source]) -> Self {
        let mut records: BTreeMap<String, Record> = serde_json::from_slice(bytes).unwrap_or_default();
        let names: Vec<String> = from.iter().map(ToString::to_string).collect();
        records.retain(|name, _| names.contains(name));
        Self(records)
    }

    /// The places in `from` in the order of trying.
    pub(crate) fn order(&self, from: &[Source], now: u64) -> Vec<usize> {
        let records: Vec<Record> = from.iter().map(|source| self.of(source)).collect();
        let told: Vec<Times> = records.iter().map(|record| record.times(now)).collect();
        // Stamps and databases tell different times, so only those of one kind are compared.
        let newest = Times {
            stamp: told.iter().filter_map(|times| times.stamp).max(),
            database: told.iter().filter_map(|times| times.database).max(),
        };
        let stamped = told
            .iter()
            .all(|times| times.stamp.is_some() || times.database.is_none());
        let behind = |times: &Times| {
            let (own, best) = if stamped {
                (times.stamp, newest.stamp)
            } else {
                (times.database, newest.database)
            };
            own.zip(best).map_or(0, |(own, best)| best.saturating_sub(own))
        };
        let mut order: Vec<usize> = (0..from.len()).collect();
        order.sort_by_key(|at| {
            let (Some(record), Some(times)) = (records.get(*at), told.get(*at)) else {
                return (0, 0, 0);
            };
            (record.pause_left(now), lag(behind(times)), record.slowness(now))
        });
        order
    }

    /// Those that have not been asked for a while how new they are.
    pub(crate) fn to_ask(&self, from: &[Source], now: u64) -> Vec<usize> {
        let due = |source: &Source| {
            let record = self.of(source);
            ASK <= now.abs_diff(record.told) && record.pause_left(now) == 0
        };
        (0..from.len())
            .filter(|at| from.get(*at).is_some_and(due))
            .collect()
    }

    /// Whether it is worth a try for the sake of one that is torn.
    pub(crate) fn may_be_whole(&self, source: &Source, now: u64) -> bool {
        let record = self.of(source);
        record.pause_left(now) == 0 && TORN <= now.abs_diff(record.torn)
    }

    /// Whether it, or each of all, has been older than the tree for so long that nothing newer can be hoped for.
    pub(crate) fn is_older_for_good(&self, source: &Source, from: &[Source]) -> bool {
        let behind = |source: &Source| self.of(source).behind;
        let with_all = |source| behind(source).is_some_and(|behind| ALL_OLDER <= behind.with_all.waited());
        behind(source).is_some_and(|behind| OLDER <= behind.alone.waited()) || from.iter().all(with_all)
    }

    /// Time passed for those that are behind; `now` is the wall clock's.
    pub(crate) fn pass(&mut self, passed: &Passed, now: u64) {
        for behind in self.0.values_mut().filter_map(|record| record.behind.as_mut()) {
            behind.alone.pass(passed, OLDER, now);
            behind.with_all.pass(passed, ALL_OLDER, now);
        }
    }

    pub(crate) fn told(&mut self, source: &Source, times: Times, now: u64) {
        let record = self.record(source);
        (record.times, record.told) = (times, now);
    }

    pub(crate) fn failed(&mut self, source: &Source, now: u64) {
        let record = self.record(source);
        let pause = PAUSE << (record.bad / 2).min(10);
        record.bad = record.bad.saturating_add(2).min(64);
        record.paused_until = now.saturating_add(pause.min(MAX_PAUSE));
    }

    pub(crate) fn torn(&mut self, source: &Source, now: u64) {
        self.record(source).torn = now;
    }

    /// It has an older state than the tree; others go first for a while.
    pub(crate) fn older(&mut self, source: &Source, now: u64) {
        self.failed(source, now);
        let begins = Hold::begin(now);
        self.record(source).behind.get_or_insert(Behind {
            alone: begins,
            with_all: begins,
        });
    }

    /// A round read it: what is published can be had, so others that are older are behind.
    pub(crate) fn worked(&mut self, source: &Source, rate: Option<u64>, now: u64) {
        for record in self.0.values_mut() {
            record.behind = None;
        }
        let record = self.record(source);
        record.bad = record.bad.saturating_sub(1);
        record.paused_until = 0;
        if let Some(rate) = rate {
            (record.rate, record.measured) = (Some(rate), now);
        }
    }

    fn of(&self, source: &Source) -> Record {
        self.0.get(&source.to_string()).cloned().unwrap_or_default()
    }

    fn record(&mut self, source: &Source) -> &mut Record {
        self.0.entry(source.to_string()).or_default()
    }
}

impl Record {
    /// A time that is still to come says nothing: it would make others look old for ever.
    fn times(&self, now: u64) -> Times {
        if TOLD <= now.abs_diff(self.told) {
            return Times::default();
        }
        let possible = |time: &u64| *time <= now.saturating_add(AHEAD);
        Times {
            stamp: self.times.stamp.filter(possible),
            database: self.times.database.filter(possible),
        }
    }

    /// A pause longer than there is comes from a clock that was set back: it does not count.
    fn pause_left(&self, now: u64) -> u64 {
        let left = self.paused_until.saturating_sub(now);
        if MAX_PAUSE < left { 0 } else { left }
    }

    /// 0: fast enough, or not known; else one more for each halving.
    fn slowness(&self, now: u64) -> u32 {
        let rate = self.rate.filter(|_| now.abs_diff(self.measured) < TOLD);
        rate.filter(|rate| *rate < FAST)
            .map_or(0, |rate| 1 + (FAST / rate.max(1)).ilog2())
    }
}

/// How far behind, in steps: half an hour, two hours, six, a day.
fn lag(seconds: u64) -> u8 {
    match seconds {
        0..1800 => 0,
        1800..7200 => 1,
        7200..21_600 => 2,
        21_600..86_400 => 3,
        _ => 4,
    }
}

/// Bytes that came over the wire, in how many files, and the time that this took.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<(u64, u64, Duration)>);

impl Meter {
    pub(crate) fn add(&self, bytes: u64, files: u64, took: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.0 += bytes;
        all.1 += files;
        all.2 += took;
    }

    /// Bytes a second, if enough came in files that are not all small.
    pub(crate) fn rate(&self) -> Option<u64> {
        let (bytes, files, took) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let says = ENOUGH <= bytes && SMALL <= bytes / files.max(1);
        says.then(|| (bytes as f64 / took.as_secs_f64().max(1e-3)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_744_500_000;

    fn three() -> Vec<Source> {
        ["http://a/", "rsync://b/m/", "/c"]
            .iter()
            .map(|text| Source::parse(text).unwrap())
            .collect()
    }

    fn by_database(ago: u64) -> Times {
        Times {
            stamp: None,
            database: Some(NOW - ago),
        }
    }

    #[test]
    fn the_preference_holds_until_something_speaks_against_it() {
        let (from, mut seen) = (three(), Upstreams::default());
        assert_eq!(seen.order(&from, NOW), [0, 1, 2]);
        seen.told(&from[0], by_database(1000), NOW);
        seen.told(&from[1], by_database(0), NOW);
        assert_eq!(seen.order(&from, NOW), [0, 1, 2], "a little behind");
        seen.told(&from[0], by_database(3 * 3600), NOW);
        assert_eq!(seen.order(&from, NOW), [1, 2, 0], "stale");
        seen.worked(&from[1], Some(1 << 20), NOW);
        assert_eq!(seen.order(&from, NOW), [2, 1, 0], "slow");
        seen.failed(&from[2], NOW);
        assert_eq!(seen.order(&from, NOW), [1, 0, 2], "dead");
        assert_eq!(seen.order(&from, NOW + PAUSE), [2, 1, 0]);
        let later = NOW + TOLD;
        assert_eq!(
            seen.order(&from, later),
            [0, 1, 2],
            "all that is forgotten in time"
        );
    }

    #[test]
    fn one_that_comes_and_goes_is_asked_less_and_less_and_one_that_stays_is_forgiven() {
        let (from, mut seen) = (three(), Upstreams::default());
        let pause = |seen: &Upstreams| seen.of(&from[0]).pause_left(NOW);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            seen.failed(&from[0], NOW);
            pauses.push(pause(&seen));
            seen.worked(&from[0], None, NOW);
            assert_eq!(pause(&seen), 0);
        }
        assert_eq!(pauses, [60, 60, 120, 120, 240, 240]);
        for _ in 0..20 {
            seen.failed(&from[0], NOW);
        }
        assert_eq!(pause(&seen), MAX_PAUSE);
        assert_eq!(seen.order(&from, NOW), [1, 2, 0], "last, but not gone");
        for _ in 0..64 {
            seen.worked(&from[0], None, NOW);
        }
        seen.failed(&from[0], NOW);
        assert_eq!(pause(&seen), PAUSE);
    }

    #[test]
    fn a_clock_that_jumps_by_a_year_pauses_nothing_for_long() {
        let (from, mut seen) = (three(), Upstreams::default());
        seen.failed(&from[0], NOW + 365 * 86_400);
        assert_eq!(seen.order(&from, NOW), [0, 1, 2]);
        seen.told(&from[0], by_database(0), NOW + 365 * 86_400);
        assert_eq!(seen.to_ask(&from, NOW), [0, 1, 2]);
    }

    #[test]
    fn a_time_that_is_still_to_come_makes_nobody_look_old() {
        let (from, mut seen) = (three(), Upstreams::default());
        for source in &from {
            seen.told(source, by_database(0), NOW);
        }
        let of_2286 = Times {
            stamp: Some(9_999_999_999),
            database: Some(9_999_999_999),
        };
        seen.told(&from[2], of_2286, NOW);
        assert_eq!(seen.order(&from, NOW), [0, 1, 2], "the preference holds");
        // A clock that is a little ahead is believed.
        let tomorrow = Times {
            stamp: None,
            database: Some(NOW + AHEAD),
        };
        seen.told(&from[2], tomorrow, NOW);
        assert_eq!(seen.order(&from, NOW), [2, 0, 1]);
    }

    #[test]
    fn stamps_are_not_compared_with_databases() {
        let (from, mut seen) = (three(), Upstreams::default());
        let both = Times {
            stamp: Some(NOW),
            database: Some(NOW - 40_000),
        };
        seen.told(&from[0], both, NOW);
        seen.told(&from[1], by_database(40_000), NOW);
        assert_eq!(seen.order(&from, NOW), [0, 1, 2]);
        seen.told(&from[1], by_database(0), NOW);
        assert_eq!(seen.order(&from, NOW), [1, 2, 0]);
    }

    #[test]
    fn what_is_remembered_is_read_back_for_what_is_still_configured() {
        let (from, mut seen) = (three(), Upstreams::default());
        seen.failed(&from[0], NOW);
        seen.worked(&from[1], Some(77), NOW);
        assert_eq!(Upstreams::decode(&seen.encode(), &from), seen);
        let fewer = Upstreams::decode(&seen.encode(), &from[1..]);
        assert_eq!(fewer.0.len(), 1);
        assert_eq!(Upstreams::decode(b"nonsense", &from), Upstreams::default());
    }

    #[test]
    fn many_small_files_say_nothing_about_the_rate() {
        let meter = Meter::default();
        meter.add(1 << 20, 1000, Duration::from_secs(10));
        assert_eq!(meter.rate(), None);
        meter.add(63 << 20, 1, Duration::from_secs(54));
        assert_eq!(meter.rate(), Some(1 << 20));
    }
}
