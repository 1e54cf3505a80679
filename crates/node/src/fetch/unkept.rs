//! Saying that files are given without being kept: the first one at once, then once a minute for all of them.
//!
//! On a full disk that is each file of an update.
//!
//! - Not here: why one is not kept (`super::keep`, `pacstore-store`).

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cid::Cid;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Between two lines of the log.
const AGAIN: Duration = Duration::from_mins(1);

/// When it was said last, and how many files there were since.
#[derive(Debug, Default)]
pub(super) struct Unkept(Mutex<Option<(Instant, u64)>>);

impl Unkept {
    /// This one is not.
    pub(super) fn note(&self, root: &Cid, error: &(dyn Error + 'static)) {
        debug!(cid = %root, error, "not kept");
        if let Some(others) = self.one_more() {
            warn!(cid = %root, others, error, "a file is given but not kept");
        }
    }

    /// Whether it is to be said, and how many were not since the last time.
    fn one_more(&self) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((at, others)) = last.as_mut()
            && now < *at + AGAIN
        {
            *others += 1;
            return None;
        }
        Some(last.replace((now, 0)).map_or(0, |(_, others)| others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_one_is_said_in_a_minute() {
        let unkept = Unkept::default();
        let said: Vec<_> = (0..500).map(|_| unkept.one_more()).collect();
        assert_eq!(said.iter().flatten().count(), 1);
        assert_eq!(said[0], Some(0));
        tokio::time::advance(AGAIN).await;
        assert_eq!((unkept.one_more(), unkept.one_more()), (Some(499), None));
    }
}
