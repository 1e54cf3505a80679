//! What neighbours asked about lately: who brings it does so for them, too.
//!
//! - Invariant: at most [`MAX`] digests, each for [`LATELY`].
//! - Not here: what they are answered (`crate::neighbours`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pacstore_net::Digest;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Digests remembered; more are not while all of them are recent.
const MAX: usize = 4096;

/// Machines that update together reach the same file within this time.
const LATELY: Duration = Duration::from_mins(1);

/// When neighbours last asked about what.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    asked: Mutex<HashMap<Digest, Instant>>,
    news: Notify,
}

impl Wanted {
    /// A neighbour asked about it.
    pub(crate) fn note(&self, digest: &Digest) {
        let now = Instant::now();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= MAX && !asked.contains_key(digest) {
            asked.retain(|_, at| now < *at + LATELY);
        }
        if asked.len() < MAX || asked.contains_key(digest) {
            asked.insert(*digest, now);
        }
        drop(asked);
        self.news.notify_waiters();
    }

    /// Whether one did lately, or does before `until`.
    pub(crate) async fn before(&self, digest: &Digest, until: Instant) -> bool {
        let seen = async {
            loop {
                let news = self.news.notified();
                if self.lately(digest) {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout_at(until, seen).await.is_ok()
    }

    fn lately(&self, digest: &Digest) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.get(digest).is_some_and(|at| at.elapsed() < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_meanwhile_or_within_the_last_minute_is_wanted() {
        let wanted = Wanted::default();
        let soon = || Instant::now() + Duration::from_secs(1);
        assert!(!wanted.before(&[1; 32], soon()).await);
        let (other, asked) = tokio::join!(wanted.before(&[1; 32], soon()), async { wanted.note(&[1; 32]) });
        assert!(other, "{asked:?}");
        assert!(!wanted.before(&[2; 32], soon()).await);
        tokio::time::advance(LATELY.saturating_sub(Duration::from_secs(2))).await;
        assert!(wanted.before(&[1; 32], Instant::now()).await);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!wanted.before(&[1; 32], Instant::now()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn however_much_is_asked_little_is_remembered_and_what_is_new_comes_in_after_a_minute() {
        let wanted = Wanted::default();
        let digest = |n: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&n.to_le_bytes());
            digest
        };
        for n in 0..MAX + 10 {
            wanted.note(&digest(n));
        }
        assert_eq!(wanted.asked.lock().unwrap().len(), MAX);
        assert!(!wanted.before(&digest(MAX), Instant::now()).await);
        tokio::time::advance(LATELY).await;
        wanted.note(&digest(MAX));
        assert!(wanted.before(&digest(MAX), Instant::now()).await);
        assert_eq!(wanted.asked.lock().unwrap().len(), 1);
    }
}
