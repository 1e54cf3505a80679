//! The wall clock seam: what time it is, in a form that tests can set.
//!
//! Ages of repositories, validity of name records and Last-Modified are wall-clock
//! facts that outlive the process, so they come from here and nowhere else.
//!
//! - Invariant: a [`Clock`] never blocks and never fails.
//! - Not here: waiting and measuring durations; that is `tokio::time`, which tests
//!   pause. The two are apart on purpose: advancing one does not move the other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the wall-clock time comes from. Cheap to clone.
///
/// ```
/// use std::time::{Duration, SystemTime, UNIX_EPOCH};
/// use pacstore_runtime::Clock;
///
/// let (clock, hand) = Clock::fake(UNIX_EPOCH + Duration::from_secs(100));
/// hand.advance(Duration::from_secs(5));
/// assert_eq!(clock.unix_seconds(), 105);
/// assert!(Clock::system().now() > clock.now());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock(Face);

#[derive(Clone, Debug, Default)]
enum Face {
    #[default]
    System,
    Fake(Arc<Mutex<SystemTime>>),
}

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self(Face::System)
    }

    /// A clock that stands still until its [`FakeClock`] moves it.
    pub fn fake(start: SystemTime) -> (Self, FakeClock) {
        let face = Arc::new(Mutex::new(start));
        (Self(Face::Fake(Arc::clone(&face))), FakeClock(face))
    }

    /// The wall-clock time. It may go backwards, as wall clocks do.
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Face::System => SystemTime::now(),
            Face::Fake(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Whole seconds since 1970-01-01 UTC; 0 for a clock set before that.
    pub fn unix_seconds(&self) -> u64 {
        self.now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

/// The hand that moves a fake [`Clock`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FakeClock(Arc<Mutex<SystemTime>>);

impl FakeClock {
    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *time += by;
    }

    /// Sets the clock to `to`, which may lie in its past.
    pub fn set(&self, to: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}
