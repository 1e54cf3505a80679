//! Waking up: what the node does when the clock says that more time has passed than it has lived through.
//!
//! A machine that sleeps stops every timer, so the next look at mirrors and importers would come as late as if no time
//! had passed, while all that is here got hours older. A clock that is set does the same to what was believed.
//!
//! - Invariant: asks what the workers ask anyway, a few times, and changes nothing by itself.
//! - Not here: telling a person that the clock jumped (`crate::alert`), ages (`crate::repository`, `pacstore-names`).

use std::time::Duration;

use pacstore_runtime::note;
use tokio::time::Instant;
use tracing::info;

use crate::node::Node;

/// Between two looks at the clock.
const PERIOD: Duration = Duration::from_secs(5);

/// Clocks are corrected by less than this all the time, in seconds.
const JUMP: u64 = 60;

/// Times that news are asked for: right after a sleep there is often no network yet.
const TIMES: usize = 3;

/// Between them.
const AGAIN: Duration = Duration::from_secs(20);

/// Looks at the clock until the node stops.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    let mut before = (node.inner.clock.unix_seconds(), Instant::now());
    loop {
        note("waiting");
        if stop
            .run_until_cancelled(tokio::time::sleep(PERIOD))
            .await
            .is_none()
        {
            return;
        }
        let now = (node.inner.clock.unix_seconds(), Instant::now());
        let lived = now.1.saturating_duration_since(before.1).as_secs();
        let by = now.0.abs_diff(before.0.saturating_add(lived));
        before = now;
        if by <= JUMP {
            continue;
        }
        info!(
            seconds = by,
            "the clock moved while this node slept, or was set: asking for news"
        );
        note("asking for news");
        let asked = async {
            for _ in 0..TIMES {
                node.ask_for_news().await;
                node.inner.machine.look_now();
                tokio::time::sleep(AGAIN).await;
            }
        };
        if stop.run_until_cancelled(Box::pin(asked)).await.is_none() {
            return;
        }
    }
}
