//! Bytes a second: a token bucket that all holders of one clone share.
//!
//! - Invariant: over any span of `t` seconds at one rate, at most
//!   `rate * t + burst` bytes pass.
//! - Invariant: waiters take turns in pieces of at most 64 KiB, in the order they
//!   asked, so a large taker does not hold up the others.
//! - Not here: how much is in flight (`crate::budget`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turnstile, Notify};
use tokio::time::Instant;

/// The largest piece taken in one turn, and the smallest burst, in bytes.
const PIECE: u64 = 64 * 1024;

/// Tokens are counted in billionths of a byte: exact for every rate and clock step.
const NANOS: u128 = 1_000_000_000;

/// A limit of bytes a second. Cheap to clone; clones share the bucket.
///
/// The bucket holds a quarter of a second's worth, but at least 64 KiB.
///
/// ```
/// use pacstore_runtime::RateLimit;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let limit = RateLimit::new(Some(1_000_000));
/// let start = tokio::time::Instant::now();
/// limit.take(3_250_000).await; // 250 000 at once, then 1 MB/s
/// assert_eq!(start.elapsed().as_secs(), 3);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: Mutex<Bucket>,
    /// Who holds it is next to take a piece; tokio's mutex is first come, first served.
    turn: Turnstile<()>,
    changed: Notify,
}

#[derive(Debug)]
struct Bucket {
    rate: Option<u64>,
    /// In billionths of a byte.
    tokens: u128,
    filled: Instant,
}

impl RateLimit {
    /// A limit of `bytes_per_sec`, with a full bucket. `None` and `Some(0)` mean
    /// no limit, as `"0"` does in the configuration.
    pub fn new(bytes_per_sec: Option<u64>) -> Self {
        let mut bucket = Bucket {
            rate: normal(bytes_per_sec),
            tokens: 0,
            filled: Instant::now(),
        };
        bucket.tokens = bucket.capacity();
        Self(Arc::new(Inner {
            bucket: Mutex::new(bucket),
            turn: Turnstile::new(()),
            changed: Notify::new(),
        }))
    }

    /// Waits until `n` bytes may pass. Any `n` does: a large one passes in pieces.
    ///
    /// Dropping the future loses the pieces it took so far.
    pub async fn take(&self, n: u64) {
        let mut left = n;
        while left > 0 {
            if self.rate().is_none() {
                return;
            }
            let piece = left.min(PIECE);
            let _turn = self.0.turn.lock().await;
            self.piece(piece).await;
            left -= piece;
        }
    }

    /// Takes `n` bytes if they may pass now. Does not jump the queue: `false`
    /// while others wait. Larger than the bucket never passes this way.
    pub fn try_take(&self, n: u64) -> bool {
        if self.rate().is_none() {
            return true;
        }
        let Ok(_turn) = self.0.turn.try_lock() else {
            return false;
        };
        self.bucket().try_take(n).is_ok()
    }

    /// The rate in bytes a second; `None` = no limit.
    pub fn rate(&self) -> Option<u64> {
        self.bucket().rate
    }

    /// Changes the rate at once, also for those that wait already.
    pub fn set_rate(&self, bytes_per_sec: Option<u64>) {
        {
            let mut bucket = self.bucket();
            bucket.refill();
            bucket.rate = normal(bytes_per_sec);
            bucket.tokens = bucket.tokens.min(bucket.capacity());
        }
        // Only the holder of the turn waits for tokens. `notify_one` also reaches
        // one that is just about to wait.
        self.0.changed.notify_one();
    }

    /// Waits for one piece; the caller holds the turn.
    async fn piece(&self, n: u64) {
        loop {
            let Err(wait) = self.bucket().try_take(n) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Takes `n` bytes, or says how long until they are there.
    fn try_take(&mut self, n: u64) -> Result<(), Duration> {
        self.refill();
        let Some(rate) = self.rate else { return Ok(()) };
        let want = u128::from(n) * NANOS;
        if let Some(rest) = self.tokens.checked_sub(want) {
            self.tokens = rest;
            return Ok(());
        }
        let nanos = (want - self.tokens).div_ceil(u128::from(rate));
        Err(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        self.filled = now;
        if let Some(rate) = self.rate {
            let gained = passed.saturating_mul(u128::from(rate));
            self.tokens = self.tokens.saturating_add(gained).min(self.capacity());
        }
    }

    /// The burst, in billionths of a byte.
    fn capacity(&self) -> u128 {
        self.rate
            .map_or(0, |rate| u128::from((rate / 4).max(PIECE)) * NANOS)
    }
}

fn normal(rate: Option<u64>) -> Option<u64> {
    rate.filter(|rate| *rate > 0)
}
