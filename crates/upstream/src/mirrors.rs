//! Which of several mirrors to ask first, from what was seen of them.
//!
//! The order of the configuration is a preference and holds until something speaks
//! against it: failures put a mirror to the end for a while (doubling up to ten
//! minutes), one that lags behind the others goes after them, and one that is at least
//! twice as fast goes before a slower one. [`Http`](crate::Http) notes latency, rate and
//! failures of each request by itself; how far behind a mirror is, whoever reads its
//! databases tells.
//!
//! - Invariant: [`Mirrors::sort`] drops no URL, so that no failure locks one out for ever.
//! - Invariant: what was seen is bounded: [`MAX_MIRRORS`] hosts, [`MAX_BASES`] folders of each.
//! - Not here: keeping it on disk (`node` keeps [`Mirrors::records`] and gives them back).
//! - Read first: [`Mirrors::sort`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pacstore_runtime::Clock;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::Url;

/// First pause after a failure, in seconds.
const PAUSE_S: u64 = 5;
/// Longest pause, in seconds.
const MAX_PAUSE_S: u64 = 600;
/// What the ranking imagines to fetch, in bytes.
const TYPICAL: f64 = 1_048_576.0;
/// Weight of the newest observation.
const NEWEST: f64 = 0.3;
/// Below this many bytes a transfer says nothing about the rate.
const RATE_FROM: u64 = 64 * 1024;
/// While bytes come without end, the rate is noted this often.
const SAMPLE: Duration = Duration::from_millis(500);
/// What came in less time says nothing about the rate.
const SHORTEST: Duration = Duration::from_millis(5);
/// Latency and rate count for three days, in seconds: then the mirror is tried again.
const MEASURED_S: u64 = 3 * 86_400;
/// How far behind it is counts for two days, in seconds.
const TOLD_S: u64 = 2 * 86_400;
/// That it ignores ranges counts for an hour, in seconds: asking again costs one answer.
const IGNORED_S: u64 = 3600;
/// Hosts that are remembered.
const MAX_MIRRORS: usize = 256;
/// Folders of a host whose age is remembered.
const MAX_BASES: usize = 32;

/// What one request showed of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It answered, so long after it was asked.
    Answered(Duration),
    /// Body bytes came in this time of waiting for them.
    Gave {
        /// How many,
        bytes: u64,
        /// in which time.
        took: Duration,
    },
    /// A range was asked of it, and it gave that, or the whole file. Whoever knows that file's length notes this: a page of
    /// error is no file.
    Range {
        /// It gave the whole file.
        ignored: bool,
    },
    /// It did not do as it should (see [`HttpError::counts_against_mirror`](crate::HttpError::counts_against_mirror)).
    Failed,
}

/// What is remembered of one host: as it is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MirrorRecord {
    /// `scheme://host:port`.
    pub host: String,
    /// Until an answer's header came, in milliseconds.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// Bytes a second, over all its connections together.
    #[serde(default)]
    pub rate: Option<f64>,
    /// When that was measured last, in Unix seconds.
    #[serde(default)]
    pub measured: u64,
    /// Failures since it last gave something.
    #[serde(default)]
    pub failures: u32,
    /// Until when it is asked last, in Unix seconds.
    #[serde(default)]
    pub paused_until: u64,
    /// Folder, how far it is behind in seconds, when that was told in Unix seconds.
    #[serde(default)]
    pub behind: Vec<(String, u64, u64)>,
}

#[derive(Debug, Default)]
struct Mirror {
    seen: MirrorRecord,
    meter: Meter,
    /// When it last gave a whole file where a range was asked, in Unix seconds. Not kept: it is soon seen again.
    ignored_range: u64,
}

/// Bytes over the time in which at least one response waited for some.
#[derive(Debug, Default)]
struct Meter {
    waiting: u32,
    since: Option<Instant>,
    busy: Duration,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<String, Mirror>,
    changed: bool,
}

/// What was seen of all mirrors. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

impl Mirrors {
    /// Nothing was seen yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    /// Notes what a request for `url` showed.
    pub fn observe(&self, url: &Url, seen: Observation) {
        let now = self.clock.unix_seconds();
        self.with(url, |mirror| match seen {
            Observation::Answered(latency) => mirror.answered(latency, now),
            Observation::Gave { bytes, took } => mirror.gave(bytes, took, now),
            Observation::Range { ignored } => mirror.ignored_range = if ignored { now } else { 0 },
            Observation::Failed => mirror.failed(now),
        });
    }

    /// What lies below `base` (a URL that ends in `/`) is so much older than what another
    /// mirror has; zero if it is the newest that was seen.
    pub fn tell_behind(&self, base: &Url, behind: Duration) {
        let now = self.clock.unix_seconds();
        self.with(base, |mirror| {
            let told = &mut mirror.seen.behind;
            told.retain(|(known, _, at)| known != base.as_str() && now.saturating_sub(*at) < TOLD_S);
            if told.len() == MAX_BASES {
                told.remove(0);
            }
            told.push((base.as_str().to_owned(), behind.as_secs(), now));
        });
    }

    /// Puts the URL to ask first in front: those that failed lately last, then by how far
    /// they are behind, then by how long 1 MiB takes there; else as they stand.
    pub fn sort(&self, urls: &mut [Url]) {
        if urls.len() < 2 {
            return;
        }
        let now = self.clock.unix_seconds();
        let state = self.lock();
        let known = |url: &Url| host(url).and_then(|host| state.hosts.get(&host));
        // What was never tried is taken to be as good as the best, so the preference decides.
        let classes = urls.iter().filter_map(|url| known(url)?.class(now));
        let best = classes.min().unwrap_or(0);
        urls.sort_by_cached_key(|url| match known(url) {
            Some(mirror) => (
                mirror.pause_left(now),
                mirror.lag(url, now),
                mirror.class(now).unwrap_or(best),
            ),
            None => (0, 0, best),
        });
    }

    /// It failed so lately that others are asked before it.
    pub fn is_paused(&self, url: &Url) -> bool {
        let now = self.clock.unix_seconds();
        let state = self.lock();
        let mirror = host(url).and_then(|host| state.hosts.get(&host));
        mirror.is_some_and(|mirror| mirror.pause_left(now) > 0)
    }

    /// Where a range was asked lately, the host of `url` gave the whole file.
    pub fn ignores_ranges(&self, url: &Url) -> bool {
        let now = self.clock.unix_seconds();
        let state = self.lock();
        let mirror = host(url).and_then(|host| state.hosts.get(&host));
        mirror.is_some_and(|mirror| now.abs_diff(mirror.ignored_range) < IGNORED_S)
    }

    /// Bytes a second that the host of `url` has shown, over all connections together.
    pub fn rate(&self, url: &Url) -> Option<u64> {
        let now = self.clock.unix_seconds();
        let state = self.lock();
        let mirror = state.hosts.get(&host(url)?)?;
        mirror
            .is_measured(now)
            .then_some(mirror.seen.rate)?
            .map(|rate| rate as u64)
    }

    /// How long the host of `url` takes until an answer's header comes.
    pub fn latency(&self, url: &Url) -> Option<Duration> {
        let now = self.clock.unix_seconds();
        let state = self.lock();
        let mirror = state.hosts.get(&host(url)?)?;
        let latency = mirror.is_measured(now).then_some(mirror.seen.latency_ms)?;
        latency.map(|ms| Duration::from_secs_f64(ms / 1000.0))
    }

    /// All that is to be remembered.
    pub fn records(&self) -> Vec<MirrorRecord> {
        self.lock()
            .hosts
            .values()
            .map(|mirror| mirror.seen.clone())
            .collect()
    }

    /// All that is to be remembered, if it changed since this was last asked.
    pub fn changes(&self) -> Option<Vec<MirrorRecord>> {
        let changed = std::mem::take(&mut self.lock().changed);
        changed.then(|| self.records())
    }

    /// Remembers again what [`Mirrors::records`] gave; what is no number is left out.
    pub fn restore(&self, records: Vec<MirrorRecord>) {
        let good = |n: Option<f64>| n.filter(|n| n.is_finite() && *n > 0.0 && *n < 1e12);
        let mut state = self.lock();
        for mut seen in records.into_iter().take(MAX_MIRRORS) {
            seen.latency_ms = good(seen.latency_ms);
            seen.rate = good(seen.rate);
            seen.behind.truncate(MAX_BASES);
            let host = seen.host.clone();
            let new = Mirror::default();
            state.hosts.insert(host, Mirror { seen, ..new });
        }
    }

    /// What the body of an answer to `url` shows is noted through this.
    pub(crate) fn body_of(&self, url: &Url) -> Body {
        Body {
            mirrors: self.clone(),
            url: url.clone(),
            host: host(url).unwrap_or_default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, url: &Url, change: impl FnOnce(&mut Mirror)) {
        let Some(host) = host(url) else { return };
        let mut state = self.lock();
        state.changed = true;
        if !state.hosts.contains_key(&host) && state.hosts.len() == MAX_MIRRORS {
            let oldest = state.hosts.iter().min_by_key(|(_, m)| m.seen.measured);
            let oldest = oldest.map(|(host, _)| host.clone()).unwrap_or_default();
            state.hosts.remove(&oldest);
        }
        let mirror = state.hosts.entry(host.clone()).or_default();
        mirror.seen.host = host;
        change(mirror);
    }

    /// The meter of a host that is known: it answered before.
    fn with_meter(&self, host: &str, change: impl FnOnce(&mut Meter)) {
        if let Some(mirror) = self.lock().hosts.get_mut(host) {
            change(&mut mirror.meter);
        }
    }
}

/// The body of one answer.
#[derive(Debug)]
pub(crate) struct Body {
    mirrors: Mirrors,
    url: Url,
    host: String,
}

impl Body {
    /// It waits for bytes until what this gives is dropped.
    pub(crate) fn waiting(&self) -> Wait<'_> {
        let now = Instant::now();
        self.mirrors.with_meter(&self.host, |meter| meter.begin(now));
        Wait { body: self, bytes: 0 }
    }

    /// It did not do as it should.
    pub(crate) fn failed(&self) {
        self.mirrors.observe(&self.url, Observation::Failed);
    }

    fn ended_wait(&self, change: impl FnOnce(&mut Meter) -> Option<(u64, Duration)>) {
        let mut sample = None;
        self.mirrors
            .with_meter(&self.host, |meter| sample = change(meter));
        if let Some((bytes, took)) = sample {
            self.mirrors.observe(&self.url, Observation::Gave { bytes, took });
        }
    }
}

/// What it gave is noted even if it was short.
impl Drop for Body {
    fn drop(&mut self) {
        self.ended_wait(|meter| meter.sample(SHORTEST));
    }
}

/// One wait for bytes, counted when it ends.
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    body: &'a Body,
    pub(crate) bytes: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let (now, bytes) = (Instant::now(), self.bytes);
        self.body.ended_wait(|meter| {
            meter.end(now, bytes);
            meter.sample(SAMPLE * 2)
        });
    }
}

impl Meter {
    fn begin(&mut self, now: Instant) {
        self.count(now);
        self.waiting += 1;
    }

    fn end(&mut self, now: Instant, bytes: u64) {
        self.count(now);
        self.waiting = self.waiting.saturating_sub(1);
        self.bytes += bytes;
    }

    fn count(&mut self, now: Instant) {
        if let Some(since) = self.since.filter(|_| self.waiting > 0) {
            self.busy += now.saturating_duration_since(since);
        }
        self.since = Some(now);
    }

    /// What came, once it took `after`; then it begins anew. Those that wait beside it have
    /// their bytes counted with it, unless that takes too long.
    fn sample(&mut self, after: Duration) -> Option<(u64, Duration)> {
        let long = self.busy >= SAMPLE * 2 || (self.busy >= SAMPLE && self.waiting == 0);
        let enough = long || (self.busy >= after && self.bytes >= RATE_FROM);
        enough.then(|| (std::mem::take(&mut self.bytes), std::mem::take(&mut self.busy)))
    }
}

impl Mirror {
    fn answered(&mut self, latency: Duration, now: u64) {
        self.seen.failures = 0;
        self.seen.paused_until = 0;
        let old = self.seen.latency_ms.filter(|_| self.is_measured(now));
        self.seen.latency_ms = Some(blend(old, latency.as_secs_f64() * 1000.0));
        self.seen.measured = now;
    }

    fn gave(&mut self, bytes: u64, took: Duration, now: u64) {
        let old = self.seen.rate.filter(|_| self.is_measured(now));
        self.seen.rate = Some(blend(old, bytes as f64 / took.as_secs_f64().max(1e-3)));
        self.seen.measured = now;
    }

    fn failed(&mut self, now: u64) {
        let pause = PAUSE_S << self.seen.failures.min(10);
        self.seen.failures = self.seen.failures.saturating_add(1);
        self.seen.paused_until = now.saturating_add(pause.min(MAX_PAUSE_S));
    }

    fn is_measured(&self, now: u64) -> bool {
        now.abs_diff(self.seen.measured) < MEASURED_S
    }

    /// A pause longer than there is comes from a clock that was set back: it does not count.
    fn pause_left(&self, now: u64) -> u64 {
        let left = self.seen.paused_until.saturating_sub(now);
        if left > MAX_PAUSE_S { 0 } else { left }
    }

    /// How far behind `url` is, in coarse steps: an hour, six, a day.
    fn lag(&self, url: &Url, now: u64) -> u8 {
        let told = self.seen.behind.iter();
        let told = told.filter(|(base, _, at)| url.as_str().starts_with(base) && now.abs_diff(*at) < TOLD_S);
        match told.max_by_key(|(base, ..)| base.len()).map_or(0, |(_, s, _)| *s) {
            0..3600 => 0,
            3600..21_600 => 1,
            21_600..86_400 => 2,
            _ => 3,
        }
    }

    /// The time for [`TYPICAL`] bytes as a power of two of milliseconds: small differences do not reorder.
    fn class(&self, now: u64) -> Option<i32> {
        let latency = self.seen.latency_ms.filter(|_| self.is_measured(now))?;
        let transfer = self.seen.rate.map_or(0.0, |rate| TYPICAL / rate.max(1.0));
        Some((latency + transfer * 1000.0).max(1.0).log2().floor() as i32)
    }
}

/// What mirrors are told apart by, as pacman does.
fn host(url: &Url) -> Option<String> {
    let origin = url.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

fn blend(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + NEWEST * (new - old))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn url(host: &str) -> Url {
        Url::parse(&format!("http://{host}/core/x")).expect("url")
    }

    fn hosts(m: &Mirrors) -> String {
        let mut urls = ["a", "b", "c"].map(url);
        m.sort(&mut urls);
        urls.iter().filter_map(Url::host_str).collect()
    }

    /// Answers at once and gives a MiB in so many milliseconds.
    fn gives(m: &Mirrors, host: &str, ms: u64) {
        m.observe(&url(host), Observation::Answered(Duration::from_millis(10)));
        let (bytes, took) = (1 << 20, Duration::from_millis(ms));
        m.observe(&url(host), Observation::Gave { bytes, took });
    }

    fn clock() -> (Clock, pacstore_runtime::FakeClock) {
        Clock::fake(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000))
    }

    #[test]
    fn a_mirror_that_ignores_ranges_is_known_for_an_hour_or_until_it_gives_one() {
        let (clock, hand) = clock();
        let m = Mirrors::new(clock);
        let ignored = |ignored| m.observe(&url("a"), Observation::Range { ignored });
        assert!(!m.ignores_ranges(&url("a")));
        ignored(true);
        assert!(m.ignores_ranges(&url("a")) && !m.ignores_ranges(&url("b")));
        ignored(false);
        assert!(!m.ignores_ranges(&url("a")));
        ignored(true);
        hand.advance(Duration::from_secs(IGNORED_S));
        assert!(!m.ignores_ranges(&url("a")));
    }

    #[test]
    fn the_configured_order_holds_until_a_mirror_fails_and_returns_after_its_pause() {
        let (clock, hand) = clock();
        let m = Mirrors::new(clock);
        assert_eq!(hosts(&m), "abc");
        m.observe(&url("a"), Observation::Failed);
        assert_eq!(hosts(&m), "bca");
        m.observe(&url("b"), Observation::Failed);
        m.observe(&url("b"), Observation::Failed);
        assert_eq!(hosts(&m), "cab");
        hand.advance(Duration::from_secs(6));
        assert_eq!(hosts(&m), "acb");
        hand.advance(Duration::from_mins(10));
        assert_eq!(hosts(&m), "abc");
        for _ in 0..40 {
            m.observe(&url("a"), Observation::Failed);
        }
        hand.set(SystemTime::UNIX_EPOCH);
        assert_eq!(
            hosts(&m),
            "abc",
            "a clock that was set back pauses nobody for ever"
        );
    }

    #[test]
    fn a_much_faster_mirror_goes_first_a_little_faster_one_does_not_and_after_days_it_is_tried_again() {
        let (clock, hand) = clock();
        let m = Mirrors::new(clock);
        gives(&m, "a", 100);
        gives(&m, "b", 90);
        assert_eq!(hosts(&m), "abc");
        for _ in 0..10 {
            gives(&m, "a", 2000);
        }
        assert_eq!(hosts(&m), "bca");
        hand.advance(Duration::from_hours(80));
        assert_eq!((hosts(&m).as_str(), m.rate(&url("a"))), ("abc", None));
    }

    #[test]
    fn a_mirror_that_is_behind_goes_after_the_others_in_that_folder_only() {
        let (clock, _hand) = clock();
        let m = Mirrors::new(clock);
        let base = Url::parse("http://a/core/").expect("url");
        m.tell_behind(&base, Duration::from_hours(2));
        assert_eq!(hosts(&m), "bca");
        let mut others = ["a", "b"].map(|host| Url::parse(&format!("http://{host}/extra/x")).expect("url"));
        m.sort(&mut others);
        assert_eq!(others[0].host_str(), Some("a"));
        m.tell_behind(&base, Duration::from_mins(5));
        assert_eq!(hosts(&m), "abc");
    }

    #[test]
    fn what_was_seen_is_remembered_and_nonsense_is_not() {
        let (clock, _hand) = clock();
        let m = Mirrors::new(clock.clone());
        gives(&m, "a", 4000);
        gives(&m, "b", 100);
        m.observe(&url("c"), Observation::Failed);
        let mut records = m.changes().expect("something changed");
        assert_eq!(m.changes(), None);
        records.push(MirrorRecord {
            host: "http://d".to_owned(),
            rate: Some(f64::NAN),
            ..MirrorRecord::default()
        });
        let again = Mirrors::new(clock);
        again.restore(records);
        assert_eq!(hosts(&again), "bac");
        assert_eq!(again.rate(&url("a")), Some(262_144));
        assert_eq!(again.rate(&url("d")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_all_connections_together_while_one_waits() {
        let m = Mirrors::default();
        m.observe(&url("a"), Observation::Answered(Duration::ZERO));
        let bodies = (m.body_of(&url("a")), m.body_of(&url("a")));
        let (mut first, mut second) = (bodies.0.waiting(), bodies.1.waiting());
        tokio::time::advance(Duration::from_millis(900)).await;
        (first.bytes, second.bytes) = (300_000, 150_000);
        drop((first, second));
        tokio::time::advance(Duration::from_secs(50)).await;
        drop(bodies);
        assert_eq!(m.rate(&url("a")), Some(500_000));
    }

    #[test]
    fn hosts_and_folders_without_end_are_not_remembered() {
        let m = Mirrors::default();
        for n in 0..2 * MAX_MIRRORS {
            gives(&m, &format!("h{n}"), 1);
        }
        assert_eq!(m.records().len(), MAX_MIRRORS);
        for n in 0..2 * MAX_BASES {
            let base = Url::parse(&format!("http://a/{n}/")).expect("url");
            m.tell_behind(&base, Duration::ZERO);
        }
        let records = m.records();
        let a = records.iter().find(|r| r.host == "http://a").expect("known");
        assert_eq!(a.behind.len(), MAX_BASES);
    }
}
