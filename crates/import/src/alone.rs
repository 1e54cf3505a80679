//! Sources of very many names are worked on one at a time, of all mirrors of the process.
//!
//! What a round holds grows with the names of its source, some hundred bytes for each; the work on them is ours alone (reading,
//! hashing, checking, the tree), so two at once would be done no sooner than one after the other.
//!
//! - Invariant: who waits for an upstream keeps others waiting for twice [`PATIENCE`] at most.
//! - Not here: how many rounds run at once (`turn` in crate `node`), that trees are built one at a time (`crate::build`).

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::try_join;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::progress::Progress;

/// Sources of fewer names than this wait for nobody.
const MANY: usize = 32_768;

/// How often a round that waits says that it is alive.
const BEAT: Duration = Duration::from_secs(5);

/// How long a turn is kept while its own work is done and an upstream has not answered yet: to its second look, and to the
/// question how new it is.
const PATIENCE: Duration = Duration::from_secs(5);

static TURNS: Semaphore = Semaphore::const_new(1);

/// The turn of a round; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    needed: bool,
    held: Option<SemaphorePermit<'static>>,
}

impl Turn {
    /// Waits for the turn of a source of so many names, if it needs one.
    pub(crate) async fn take(names: usize, progress: &Progress) -> Self {
        let mut turn = Self {
            needed: MANY <= names,
            held: None,
        };
        turn.again(progress).await;
        turn
    }

    /// Waits for it once more, where it was let go of.
    pub(crate) async fn again(&mut self, progress: &Progress) {
        if !self.needed || self.held.is_some() {
            return;
        }
        let mut wanted = pin!(TURNS.acquire());
        loop {
            match timeout(BEAT, wanted.as_mut()).await {
                Ok(turn) => {
                    // Nobody closes them.
                    self.held = turn.ok();
                    return;
                }
                Err(_) => progress.pulse().beat(),
            }
        }
    }

    /// Does `own` work while an upstream does `theirs`, and lets go of the turn where that takes much longer.
    pub(crate) async fn over<A, B, E>(
        &mut self,
        own: impl Future<Output = Result<A, E>>,
        theirs: impl Future<Output = Result<B, E>>,
    ) -> Result<(A, B), E> {
        let is_done = AtomicBool::new(false);
        let own = async {
            let done = own.await;
            is_done.store(true, Ordering::Relaxed);
            done
        };
        let mut both = pin!(try_join(own, theirs));
        loop {
            match timeout(PATIENCE, both.as_mut()).await {
                Ok(done) => return done,
                Err(_) if is_done.load(Ordering::Relaxed) => self.held = None,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_names_wait_for_many_and_few_for_nobody() {
        let progress = Progress::default();
        let mut first = Turn::take(MANY, &progress).await;
        assert!(first.held.is_some());
        assert!(Turn::take(MANY - 1, &progress).await.held.is_none());
        let beats = progress.beats();
        assert!(timeout(3 * BEAT, Turn::take(MANY, &progress)).await.is_err());
        assert!(beats + 2 <= progress.beats(), "a round that waits looks dead");

        // Its own work may take as long as it wants.
        let long = async {
            sleep(9 * PATIENCE).await;
            Ok::<_, Infallible>(())
        };
        let at_once = async { Ok(()) };
        first.over(long, at_once).await.unwrap();
        assert!(first.held.is_some());
        // An upstream may not.
        let hangs = pending::<Result<(), Infallible>>();
        let waits = first.over(async { Ok(()) }, hangs);
        assert!(timeout(3 * PATIENCE, waits).await.is_err());
        let second = timeout(PATIENCE, Turn::take(MANY, &progress)).await.unwrap();
        assert!(timeout(3 * BEAT, first.again(&progress)).await.is_err());
        drop(second);
        first.again(&progress).await;
        assert!(first.held.is_some());
    }
}
