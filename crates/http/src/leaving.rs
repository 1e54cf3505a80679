//! A gateway that ends: pacman goes on to its next server between two files, never between a file and its signature.
//!
//! pacman asks for a signature of the server that gave the file and of no other, right after the file's last byte; if that
//! fails, the whole update does. So files under way may come to their end for a moment and then break, new ones are
//! refused, and signatures are given until nobody can be about to ask for one.
//!
//! - Invariant: it takes at most [`FINISH`] and twice [`FOLLOWS`]; who was given no file lately costs nothing.
//! - Not here: a daemon that is killed (its sockets stay open for the next one: `listeners.rs` of `cli`).

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::answer::text;
use crate::body::Body;

/// How long files under way may go on.
const FINISH: Duration = Duration::from_secs(1);

/// How soon after a file's last byte pacman asks for its signature, with much to spare.
const FOLLOWS: Duration = Duration::from_millis(500);

/// Whether a gateway ends, and what it still gives. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    begun: CancellationToken,
    breaks: CancellationToken,
    given: Mutex<Given>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Given {
    under_way: usize,
    /// When the last of them that was no signature ended.
    file: Option<Instant>,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    leaving: Leaving,
    is_signature: bool,
}

impl Leaving {
    /// A request for `path` that is answered from now on.
    pub(crate) fn enter(&self, path: &str) -> UnderWay {
        self.given().under_way += 1;
        UnderWay {
            leaving: self.clone(),
            is_signature: path.strip_suffix(".sig").is_some(),
        }
    }

    /// Lets go of everybody who is given something; after it nobody has to be answered.
    pub(crate) async fn leave(&self) {
        self.0.begun.cancel();
        let finished = timeout_at(Instant::now() + FINISH, self.nobody()).await;
        self.0.breaks.cancel();
        if finished.is_err() {
            // Whoever still has not got what it wants is waited for by whoever stops the tasks.
            let _late = timeout(2 * FOLLOWS, self.nobody()).await;
        }
    }

    /// Waits until nothing is given and nobody is about to ask for a signature.
    async fn nobody(&self) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let until = {
                let given = self.given();
                match given.file {
                    _ if given.under_way > 0 => None,
                    Some(file) if file.elapsed() < FOLLOWS => Some(file + FOLLOWS),
                    _ => return,
                }
            };
            match until {
                Some(until) => drop(timeout_at(until, changed).await),
                None => changed.await,
            }
        }
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.0.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Ends when this request is to be refused, if its answer has not begun by then.
    pub(crate) async fn refused(&self) {
        if self.is_signature {
            std::future::pending::<()>().await;
        }
        self.leaving.0.begun.cancelled().await;
    }

    /// What breaks the answer's body, if anything does.
    pub(crate) fn breaks(&self) -> Option<CancellationToken> {
        (!self.is_signature).then(|| self.leaving.0.breaks.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut given = self.leaving.given();
        given.under_way -= 1;
        if !self.is_signature {
            given.file = Some(Instant::now());
        }
        drop(given);
        self.leaving.0.changed.notify_waiters();
    }
}

/// What sends pacman to its next server at once.
pub(crate) fn refusal() -> Response<Body> {
    let mut refusal = text(StatusCode::SERVICE_UNAVAILABLE, "pacstore is about to end");
    let close = HeaderValue::from_static("close");
    refusal.headers_mut().insert(header::CONNECTION, close);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_files_last_byte_there_is_time_to_ask_for_its_signature() {
        let leaving = Leaving::default();
        let file = leaving.enter("/pacman/core/x86_64/a-1-1-any.pkg.tar.zst");
        let ended = async {
            leaving.0.begun.cancelled().await;
            let ended = Instant::now();
            drop(file);
            // The request for the signature comes, and is answered.
            drop(leaving.enter("/pacman/core/x86_64/a-1-1-any.pkg.tar.zst.sig"));
            ended
        };
        let ((), ended) = tokio::join!(leaving.leave(), ended);
        assert!(ended.elapsed() >= FOLLOWS);
    }

    #[tokio::test]
    async fn files_that_do_not_end_break_and_signatures_do_not() {
        let leaving = Leaving::default();
        let file = leaving.enter("/ipns/name/core.db");
        let signature = leaving.enter("/ipns/name/core.db.sig");
        assert!(signature.breaks().is_none());
        let breaks = file.breaks().expect("a file");
        let broken = async {
            breaks.cancelled().await;
            drop(file);
            drop(signature);
        };
        let both = async { tokio::join!(leaving.leave(), broken) };
        timeout(Duration::from_mins(1), both).await.expect("it breaks");
        assert_eq!(leaving.given().under_way, 0);
    }
}
