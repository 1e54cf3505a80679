//! The worker that keeps the store within its cap and lets old heads go.
//!
//! - Invariant: a failed pass is reported and tried again; gc never ends by itself.
//! - Not here: what is evictable (`pacstore-store`), which heads stay (`crate::mirror`).

use std::time::Duration;

use pacstore_runtime::Pool;
use pacstore_store::GcReport;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::error::StoreError;
use crate::node::Node;
use crate::ranking::Remember;

/// Between two passes.
const PERIOD: Duration = Duration::from_mins(1);

pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match node.gc(None).await {
            Ok(report) if report.files + report.nodes > 0 => {
                info!(
                    files = report.files,
                    nodes = report.nodes,
                    bytes = report.bytes,
                    "freed"
                );
            }
            Ok(_) => {}
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "gc pass failed; will retry"
            ),
        }
        if let Err(error) = node.save(Remember::WhatIsDue) {
            warn!(
                error = &error as &dyn std::error::Error,
                "cannot save counters and what was seen of mirrors"
            );
        }
    }
}

impl Node {
    /// Lets old heads go, then evicts until at most `target` bytes (default: the cap) are
    /// evictable.
    ///
    /// # Errors
    /// [`StoreError`] from the store.
    pub async fn gc(&self, target: Option<u64>) -> Result<GcReport, StoreError> {
        let node = self.clone();
        let pass = move || {
            let in_use = node.inner.runs.in_use();
            let now = node.inner.clock.now();
            for mirror in &node.inner.mirrors {
                mirror.prune(now, &in_use)?;
            }
            node.inner
                .repositories
                .prune(node.inner.clock.unix_seconds(), &in_use)?;
            let (store, ticket) = (&node.inner.store, node.inner.works.begin("gc"));
            let begun = store.stats().evictable;
            let wanted = begun.saturating_sub(target.unwrap_or(node.inner.config.max_size));
            ticket.at((0, 0), (0, wanted));
            Ok(store.gc_told(target, &mut |now| {
                ticket.at((now.files + now.partials, 0), (now.bytes, wanted.max(now.bytes)));
            })?)
        };
        self.inner
            .tasks
            .blocking(Pool::Disk, pass)
            .await
            .unwrap_or_else(|_| Err(StoreError::Stopping))
    }
}
