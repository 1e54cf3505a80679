//! How fast one web mirror is asked: more slowly once it says that it is asked too often.
//!
//! Many servers count requests a second and answer what is above with 429, or (nginx, unless told otherwise) 503. That
//! is said to us and not of a file, so all that is asked of the server waits, not only what was refused.
//!
//! - Invariant: requests that were under way together and were refused slow us down once, not once each.
//! - Invariant: a server that gives nothing else is given up after a few tries, as any other that is away.
//! - Not here: how many requests are under way (`crate::web`), what other answers mean (`crate::download`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pacstore_upstream::{Get, HttpError, Response};
use tokio::time::{Instant, sleep_until};

use crate::web::Web;

/// Between two requests after the first refusal, and the most.
const FIRST_GAP: Duration = Duration::from_millis(50);
const MAX_GAP: Duration = Duration::from_secs(2);
/// How often one request is refused, and how long we are asked to wait at most within a round: by a server that answers
/// others (some count by the minute), and by one that does not, where another upstream may do better.
const ANSWERS: (u32, Duration) = (10, Duration::from_mins(2));
const IN_VAIN: (u32, Duration) = (3, Duration::from_secs(10));
/// A server that answered nothing else for so long answers no others.
const SILENT: Duration = Duration::from_secs(30);

/// The pace of all requests of one round to one server.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When the next request may begin.
    next: Instant,
    gap: Duration,
    /// Counted up with each slowing down: who was refused before that knew nothing of it.
    slowed: u64,
    /// When it last gave an answer that is no refusal.
    well: Option<Instant>,
}

/// Leave for one request.
#[derive(Debug)]
pub(crate) struct Turn(u64);

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(State {
            next: Instant::now(),
            gap: Duration::ZERO,
            slowed: 0,
            well: None,
        }))
    }
}

impl Pace {
    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a request may begin.
    pub(crate) async fn turn(&self) -> Turn {
        loop {
            let (at, slowed) = self.state(|state| {
                let at = state.next.max(Instant::now());
                state.next = at + state.gap;
                (at, state.slowed)
            });
            sleep_until(at).await;
            if self.state(|state| state.slowed) == slowed {
                return Turn(slowed);
            }
        }
    }

    /// Notes what came of it. Whether to ask once more, where it was refused for the `tried`th time.
    pub(crate) fn ends(&self, turn: &Turn, error: Option<&HttpError>, tried: u32) -> bool {
        let now = Instant::now();
        let Some(asked) = error.and_then(refusal) else {
            self.state(|state| {
                state.gap = state.gap.saturating_sub(state.gap / 16);
                if state.gap < Duration::from_millis(1) {
                    state.gap = Duration::ZERO;
                }
                state.well = Some(now);
            });
            return false;
        };
        self.state(|state| {
            let answers = state.well.is_some_and(|well| now.duration_since(well) < SILENT);
            let (tries, longest) = if answers { ANSWERS } else { IN_VAIN };
            if state.slowed == turn.0 {
                state.slowed += 1;
                state.gap = (state.gap * 2).clamp(FIRST_GAP, MAX_GAP);
                state.next = now + state.gap.max(asked.min(longest));
            }
            asked <= longest && tried < tries
        })
    }
}

/// Whether the server does not want to be asked now.
pub(crate) fn is_refusal(error: &HttpError) -> bool {
    refusal(error).is_some()
}

/// For how long the server does not want to be asked, where it is that.
fn refusal(error: &HttpError) -> Option<Duration> {
    match error {
        HttpError::Status {
            code: 429 | 503,
            retry_after,
            ..
        } => Some(retry_after.unwrap_or_default()),
        _ => None,
    }
}

impl Web {
    /// One GET at the server's pace.
    pub(crate) async fn ask(&self, get: &Get<'_>) -> Result<Response, HttpError> {
        let mut tried = 0;
        loop {
            tried += 1;
            let turn = self.pace.turn().await;
            let answer = self.http.get(get).await;
            if !self.pace.ends(&turn, answer.as_ref().err(), tried) {
                return answer;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::stream::{self, StreamExt as _};

    use super::*;

    fn busy(retry_after: Option<u64>) -> HttpError {
        HttpError::Status {
            url: "http://m.example/a".to_owned(),
            code: 429,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    /// Asks 300 times, eight at once, a server that takes so many requests a second, and as many at once: how many did
    /// not come through, and how often it refused.
    async fn through(a_second: f64) -> (u32, u32) {
        let (pace, refused, failed) = (Pace::default(), AtomicU32::new(0), AtomicU32::new(0));
        let bucket = Mutex::new((a_second, Instant::now()));
        let takes = || {
            let mut bucket = bucket.lock().expect("a bucket");
            let now = Instant::now();
            let more = now.duration_since(bucket.1).as_secs_f64() * a_second;
            *bucket = ((bucket.0 + more).min(a_second), now);
            let takes = 1.0 <= bucket.0;
            bucket.0 -= if takes { 1.0 } else { 0.0 };
            takes
        };
        let one = async |_| {
            for tried in 1.. {
                let turn = pace.turn().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                if takes() {
                    pace.ends(&turn, None, tried);
                    return;
                }
                refused.fetch_add(1, Ordering::Relaxed);
                if !pace.ends(&turn, Some(&busy(None)), tried) {
                    failed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        };
        stream::iter(0..300).for_each_concurrent(8, one).await;
        (failed.into_inner(), refused.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn all_comes_from_a_server_that_counts_requests_and_few_are_refused() {
        for a_second in [1.0, 2.0, 5.0, 20.0, 100.0] {
            let (failed, refused) = through(a_second).await;
            assert_eq!(failed, 0, "{a_second} a second");
            assert!(refused < 60, "{refused} at {a_second} a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_all_is_given_up_and_one_that_asks_for_long_at_once() {
        let pace = Pace::default();
        let mut asked = 0;
        for tried in 1.. {
            let turn = pace.turn().await;
            asked += 1;
            if !pace.ends(&turn, Some(&busy(None)), tried) {
                break;
            }
        }
        assert_eq!(asked, IN_VAIN.0);
        let turn = pace.turn().await;
        assert!(
            !pace.ends(&turn, Some(&busy(Some(60))), 1),
            "another upstream may do better"
        );
        let turn = pace.turn().await;
        assert!(!pace.ends(&turn, None, 1));
        let turn = pace.turn().await;
        assert!(!pace.ends(&turn, Some(&busy(Some(3600))), 1));
        assert!(pace.ends(&turn, Some(&busy(Some(1))), 1));

        // One that counts by the minute is waited for.
        let turn = pace.turn().await;
        assert!(!pace.ends(&turn, None, 1));
        let turn = pace.turn().await;
        let asked = Instant::now();
        assert!(pace.ends(&turn, Some(&busy(Some(60))), 1));
        pace.turn().await;
        assert!(Duration::from_mins(1) <= asked.elapsed());
    }
}
