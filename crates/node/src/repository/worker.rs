//! Looks at the mirrors now and then, so that what is here is young also when nobody asks.
//!
//! - Invariant: one repository after the other, each at most every half hour while all is well.

use std::time::Duration;

use pacstore_runtime::note;
use tokio::time::Instant;
use tracing::warn;

use super::check::{FRESH, Outcome, Phase};
use crate::node::Node;

/// Between two looks at one repository.
const PERIOD: Duration = Duration::from_mins(30);

/// After a look that failed; doubled with each further one.
const RETRY: Duration = Duration::from_mins(1);

/// Between two looks for notes of signatures that were evicted.
const TIDY: Duration = Duration::from_hours(1);

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(30);

impl Node {
    /// Looks at the mirrors of all repositories, at all of them at once, and waits for what they say.
    pub(crate) async fn look_at_repositories(&self) {
        let looks = self.inner.repositories.all.iter().map(|repository| async move {
            let mut flight = self.look(repository, &repository.database);
            let is_over = matches!(*flight.phase.borrow(), Phase::Over(_));
            if is_over {
                // What it saw may be a second old, and whoever asks has changed something just now.
                tokio::time::sleep(FRESH).await;
                flight = self.look(repository, &repository.database);
            }
            let mut phase = flight.phase.subscribe();
            // It ends, at the latest with its task.
            let _ = phase.wait_for(|phase| matches!(phase, Phase::Over(_))).await;
        });
        futures::future::join_all(looks).await;
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    let all = node.inner.repositories.all.clone();
    let mut due = vec![(Instant::now(), RETRY); all.len()];
    let mut tidy = Instant::now() + TIDY;
    loop {
        for (repository, (at, retry)) in all.iter().zip(&mut due) {
            if Instant::now() < *at {
                continue;
            }
            note(format!("looking at {}", repository.config.name));
            let flight = node.look(repository, &repository.database);
            let mut phase = flight.phase.subscribe();
            let over = phase.wait_for(|phase| matches!(phase, Phase::Over(_)));
            let outcome = match stop.run_until_cancelled(over).await {
                None | Some(Err(_)) => return,
                Some(Ok(phase)) => match &*phase {
                    Phase::Over(outcome) => *outcome,
                    Phase::Asking | Phase::Receiving(_) => Outcome::Failed,
                },
            };
            let wait = match outcome {
                Outcome::Confirmed | Outcome::New => {
                    *retry = RETRY;
                    PERIOD
                }
                Outcome::Behind | Outcome::Failed => {
                    let wait = *retry;
                    *retry = (wait * 2).min(PERIOD);
                    wait
                }
            };
            *at = Instant::now() + wait;
        }
        for repository in &all {
            for state in repository.database.states() {
                state.index.tidy();
            }
        }
        if tidy < Instant::now() {
            tidy = Instant::now() + TIDY;
            let store = node.inner.store.clone();
            if let Err(error) = node.disk(move || super::signature::prune(&store)).await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot forget signatures that are gone"
                );
            }
        }
        note("waiting");
        if stop
            .run_until_cancelled(tokio::time::sleep(ROUND))
            .await
            .is_none()
        {
            return;
        }
    }
}
