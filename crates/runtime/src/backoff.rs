//! How long to wait before trying again.
//!
//! - Invariant: a delay lies between half of the step and the step; steps double
//!   from `base` and never exceed `max`.
//! - Invariant: [`jittered`] stays within a tenth of its period.
//! - Not here: the sleeping itself, and whether trying again makes sense.

use std::time::Duration;

/// Growing delays with jitter, so that nodes that failed together do not come
/// back together.
///
/// ```
/// use std::time::Duration;
/// use pacstore_runtime::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// assert!(backoff.next() <= Duration::from_secs(1));
/// assert!(backoff.next() <= Duration::from_secs(2));
/// backoff.reset();
/// assert!(backoff.next() <= Duration::from_secs(1));
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

/// `period`, a tenth more or less, so that those who began together do not go on together.
pub fn jittered(period: Duration) -> Duration {
    let tenth = period / 10;
    if tenth.is_zero() {
        return period;
    }
    rand::random_range(period.saturating_sub(tenth)..=period.saturating_add(tenth))
}

impl Backoff {
    /// Delays from `base`, doubling up to `max`. A `base` above `max` counts as `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base: base.min(max),
            max,
            failures: 0,
        }
    }

    /// The delay before the next try; counts one failure.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless iterator would hand out an Option"
    )]
    pub fn next(&mut self) -> Duration {
        let step = self.step();
        self.failures = self.failures.saturating_add(1);
        if step.is_zero() {
            return step;
        }
        rand::random_range(step / 2..=step)
    }

    /// To be called after a success: the next delay starts from `base` again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The upper end of the next delay.
    fn step(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}
