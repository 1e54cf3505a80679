//! A round's turn: how many are at work at once, and that an upstream which hangs keeps nobody else from working.
//!
//! A turn is for work: bytes, memory, the disk. A round to which nothing comes does none, so after [`PATIENCE`] it gives its
//! turn to others, and goes on waiting for its upstream without one. Once something comes again it is the next to get a turn.
//! It goes on meanwhile: to be held up between two bytes would look to the upstream as if we hung. So until it has its turn
//! again more rounds may be at work than there are turns: one more for each upstream that hung and came back.
//!
//! - Invariant: with `rounds` turns and N upstreams that hang, a round that is due waits for them at most
//!   [`PATIENCE`] * (N / `rounds`, rounded up), however long they hang.
//! - Not here: when a round is given up (`crate::importer`), what counts as a move (`crate::rounds`).

use std::convert::Infallible;
use std::time::Duration;

use pacstore_import::Step;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::interval;

use crate::importer::Importing;

/// How long nothing may come in a round that keeps its turn.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps `turn` while the round of `import` moves. Never returns; the turn is given up where this is dropped.
pub(crate) async fn keep<'a>(
    import: &Importing,
    turns: &'a Semaphore,
    turn: Option<SemaphorePermit<'a>>,
) -> Infallible {
    let mut turn = turn;
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        // What else a round does is work, also where it shows no move.
        let asks = matches!(import.watch().borrow().step, Step::Looking | Step::Fetching);
        let moves = !asks || import.rounds.glance().still < PATIENCE;
        match (&turn, moves) {
            (Some(_), false) => turn = None,
            // Only a node that is stopping has closed them.
            (None, true) => turn = turns.acquire().await.ok(),
            _ => {}
        }
    }
}
