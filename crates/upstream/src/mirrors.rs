//! Which of several mirrors to ask first, from what was seen of them.
//!
//! The order of the configuration is a preference and holds until something speaks
//! against it: failures put a mirror to the end for a while (doubling up to ten
//! minutes), and one that is at least twice as fast goes before a slower one.
//!
//! - Invariant: [`Mirrors::order`] always names all mirrors, so that no failure locks one out for ever.
//! - Not here: whether a mirror is fresh (`import` compares change stamps). Nothing is kept on disk.
//! - Read first: [`Mirrors::order`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

/// First pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_mins(10);
/// What the ranking imagines to fetch, in bytes.
const TYPICAL: f64 = 1_048_576.0;
/// Weight of the newest observation.
const NEWEST: f64 = 0.3;
/// Below this many bytes a transfer says nothing about the rate.
const RATE_FROM: u64 = 64 * 1024;

/// What one request showed of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It answered.
    Served {
        /// Until the header came.
        latency: Duration,
        /// Body bytes,
        bytes: u64,
        /// which came in this time.
        took: Duration,
    },
    /// It did not (see [`HttpError::counts_against_mirror`](crate::HttpError::counts_against_mirror)).
    Failed,
}

#[derive(Debug)]
struct Mirror {
    url: Url,
    latency: Option<f64>,
    rate: Option<f64>,
    failures: u32,
    paused_until: Option<Instant>,
}

/// A list of equal mirrors. Cheap to clone; clones share what was seen.
#[derive(Clone, Debug)]
pub struct Mirrors(Arc<Mutex<Vec<Mirror>>>);

impl Mirrors {
    /// `urls` in order of preference.
    pub fn new(urls: impl IntoIterator<Item = Url>) -> Self {
        let fresh = |url| Mirror {
            url,
            latency: None,
            rate: None,
            failures: 0,
            paused_until: None,
        };
        Self(Arc::new(Mutex::new(urls.into_iter().map(fresh).collect())))
    }

    /// Notes what a request to the mirror `url` showed; other URLs are ignored.
    pub fn observe(&self, url: &Url, seen: Observation) {
        let mut mirrors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mirror) = mirrors.iter_mut().find(|m| m.url == *url) else {
            return;
        };
        match seen {
            Observation::Served { latency, bytes, took } => mirror.served(latency, bytes, took),
            Observation::Failed => mirror.failed(Instant::now()),
        }
    }

    /// All mirrors, the one to ask first in front.
    pub fn order(&self) -> Vec<Url> {
        let now = Instant::now();
        let mirrors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What was never tried is taken to be as good as the best, so the preference decides.
        let best = mirrors.iter().filter_map(Mirror::class).min().unwrap_or(0);
        let mut order: Vec<(Duration, i32, usize)> = mirrors
            .iter()
            .enumerate()
            .map(|(i, m)| (m.pause_left(now), m.class().unwrap_or(best), i))
            .collect();
        order.sort_unstable();
        order
            .into_iter()
            .map(|(_, _, i)| mirrors[i].url.clone())
            .collect()
    }
}

impl Mirror {
    fn served(&mut self, latency: Duration, bytes: u64, took: Duration) {
        self.failures = 0;
        self.paused_until = None;
        self.latency = Some(blend(self.latency, latency.as_secs_f64()));
        if RATE_FROM <= bytes {
            self.rate = Some(blend(self.rate, bytes as f64 / took.as_secs_f64().max(1e-6)));
        }
    }

    fn failed(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(10)).min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(now + pause);
    }

    fn pause_left(&self, now: Instant) -> Duration {
        self.paused_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// The time for [`TYPICAL`] bytes as a power of two of milliseconds: small differences do not reorder.
    fn class(&self) -> Option<i32> {
        let latency = self.latency?;
        let transfer = self.rate.map_or(0.0, |rate| TYPICAL / rate.max(1.0));
        Some(((latency + transfer) * 1000.0).max(1.0).log2().floor() as i32)
    }
}

fn blend(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + NEWEST * (new - old))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str) -> Url {
        Url::parse(&format!("http://{host}/")).expect("url")
    }

    fn hosts(m: &Mirrors) -> Vec<String> {
        m.order()
            .iter()
            .map(|u| u.host_str().unwrap_or("").to_owned())
            .collect()
    }

    fn served(ms: u64) -> Observation {
        let took = Duration::from_millis(ms);
        Observation::Served {
            latency: Duration::from_millis(10),
            bytes: 1 << 20,
            took,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_configured_order_holds_until_a_mirror_fails_and_returns_after_its_pause() {
        let m = Mirrors::new([url("a"), url("b"), url("c")]);
        assert_eq!(hosts(&m), ["a", "b", "c"]);
        m.observe(&url("a"), Observation::Failed);
        assert_eq!(hosts(&m), ["b", "c", "a"]);
        m.observe(&url("b"), Observation::Failed);
        m.observe(&url("b"), Observation::Failed);
        assert_eq!(hosts(&m), ["c", "a", "b"]);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(hosts(&m), ["a", "c", "b"]);
        tokio::time::advance(Duration::from_mins(10)).await;
        assert_eq!(hosts(&m), ["a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_much_faster_mirror_goes_first_a_little_faster_one_does_not() {
        let m = Mirrors::new([url("a"), url("b")]);
        m.observe(&url("a"), served(100));
        m.observe(&url("b"), served(90));
        assert_eq!(hosts(&m), ["a", "b"]);
        for _ in 0..10 {
            m.observe(&url("a"), served(2000));
        }
        assert_eq!(hosts(&m), ["b", "a"]);
    }
}
