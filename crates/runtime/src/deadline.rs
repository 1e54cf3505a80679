//! Deadlines: a wait that says what it waited for when time is up.
//!
//! - Invariant: the future is dropped when its time is up; what dropping loses is
//!   the caller's to know.

use std::future::Future;
use std::time::Duration;

/// A wait that took longer than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} took longer than {after:?}")]
pub struct DeadlineExceeded {
    /// What was waited for.
    pub what: &'static str,
    /// How long was waited.
    pub after: Duration,
}

/// Waits for `future`, at most `after`.
///
/// A future that is ready at its first poll succeeds even with a zero deadline.
///
/// # Errors
/// [`DeadlineExceeded`] when the time is up; the future is dropped then.
pub async fn deadline<T>(
    what: &'static str,
    after: Duration,
    future: impl Future<Output = T>,
) -> Result<T, DeadlineExceeded> {
    tokio::time::timeout(after, future)
        .await
        .map_err(|_| DeadlineExceeded { what, after })
}
