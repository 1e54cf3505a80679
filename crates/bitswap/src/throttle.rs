//! How many wants and messages a peer may send us in a second before it has to wait.
//!
//! A peer above its rate is read more slowly; nothing is dropped and nothing piles up.
//!
//! - Not here: how many wants may be queued (`crate::server`).

use std::time::Duration;

use tokio::time::Instant;

/// Wantlist entries a second that are read without delay.
const RATE: f64 = 20_000.0;
/// Entries that may come at once: a full message of Kubo's has tens of thousands.
const BURST: f64 = 100_000.0;

/// A bucket of entries for one peer. A message that carries no wants costs nothing; other
/// messages cost their entries plus a few for the message itself.
#[derive(Debug)]
pub(crate) struct Throttle {
    left: f64,
    filled: Instant,
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            filled: now,
        }
    }

    /// Takes `entries` and says how long the reader has to wait before its next message.
    pub(crate) fn take(&mut self, entries: usize, now: Instant) -> Option<Duration> {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * RATE;
        self.left = (self.left + gained).min(BURST) - entries as f64;
        self.filled = now;
        (self.left < 0.0).then(|| Duration::from_secs_f64((-self.left / RATE).min(10.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An honest pace is never held up; a flood has to wait in proportion.
    #[tokio::test(start_paused = true)]
    async fn a_flood_waits_and_an_honest_pace_does_not() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        for second in 0..100 {
            assert_eq!(throttle.take(10_000, start + Duration::from_secs(second)), None);
        }
        let now = start + Duration::from_secs(100);
        assert_eq!(throttle.take(90_000, now), None);
        assert_eq!(throttle.take(30_000, now), Some(Duration::from_secs(1)));
    }
}
