//! A line that is down for a moment, while pacman waits for a signature.
//!
//! pacman asks nobody else for a signature: without it the whole update fails. An ordinary mirror gives it over the connection
//! by which the package came, which outlives such a moment; a new one of ours is refused at once.
//!
//! - Invariant: while no mirror can be reached that costs [`ALL`] once, and not with each signature.
//! - Not here: packages and databases, for which pacman has its next `Server`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long it is tried; pacman waits 10 s.
pub(super) const ALL: Duration = Duration::from_secs(7);

/// Between two tries.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// What failed longer ago has nothing to do with it.
const LATELY: Duration = Duration::from_mins(1);

/// Since when no mirror can be reached, and when that was last seen.
#[derive(Debug, Default)]
pub(super) struct Away(Mutex<Option<(Instant, Instant)>>);

impl Away {
    /// None could be reached. Whether it is to be tried again.
    pub(super) fn may_pass(&self) -> bool {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = seen.map_or(now, |(since, last)| if last + LATELY < now { now } else { since });
        *seen = Some((since, now));
        now < since + ALL
    }

    /// One answered.
    pub(super) fn is_over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_that_stays_down_is_waited_for_once() {
        let away = Away::default();
        let mut tries = 0;
        while away.may_pass() {
            tries += 1;
            advance(AGAIN).await;
        }
        assert_eq!(tries, 14);
        advance(LATELY).await;
        assert!(!away.may_pass(), "it was down all the while");
        away.is_over();
        assert!(away.may_pass());
        advance(ALL).await;
        assert!(!away.may_pass());
        advance(LATELY + AGAIN).await;
        assert!(away.may_pass(), "another time");
    }
}
