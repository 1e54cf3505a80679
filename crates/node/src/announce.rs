//! `[share] announce = true`: the roots of single files are announced too, not only those of trees.
//!
//! Announcing one root is a walk through the DHT, tens of messages, once a day. So there is a bound on how many are
//! announced, and those that came last are: they are what others want now.
//!
//! - Invariant: no file of a private repository, and nothing at all while there is private content that a block does
//!   not tell from other (`crate::blocks`).
//! - Not here: trees (`crate::follow`, `crate::publish`), the pace (`pacstore-net`, four at a time in each DHT).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use pacstore_net::{Net, ProvideError};
use pacstore_runtime::Pool;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::error::StoreError;
use crate::node::Node;

/// Roots of files that are announced, at most; trees need room too.
const MOST: usize = 3500;

/// How often it is looked which files are here.
const PERIOD: Duration = Duration::from_mins(1);

/// Announces files until the node stops.
pub(crate) async fn run(node: Node) {
    let Some(net) = node.inner.net.clone() else { return };
    let stop = node.inner.tasks.stop();
    let mut told: HashSet<Cid> = HashSet::new();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let round = async {
            match wanted(&node).await {
                Ok(roots) => tell(&net, roots, &mut told).await,
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot see which files to announce; will retry"
                ),
            }
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

/// The roots that may be announced and are worth it.
async fn wanted(node: &Node) -> Result<Vec<Cid>, StoreError> {
    let privacy = Arc::clone(&node.inner.privacy);
    if privacy.is_closed() {
        return Ok(Vec::new());
    }
    let store = node.inner.store.clone();
    let look = move || store.newest_files(MOST, &mut |root| !privacy.hidden.hides(root));
    let looked = node.inner.tasks.blocking(Pool::Disk, look).await;
    Ok(looked.map_err(|_| StoreError::Stopping)??)
}

/// Announces `roots` and nothing else; `told` is what was announced so far.
async fn tell(net: &Net, roots: Vec<Cid>, told: &mut HashSet<Cid>) {
    let roots: HashSet<Cid> = roots.into_iter().collect();
    let gone: Vec<Cid> = told.difference(&roots).copied().collect();
    for root in gone {
        told.remove(&root);
        if net.stop_providing(&root).await.is_err() {
            return;
        }
    }
    for root in roots {
        if told.contains(&root) {
            continue;
        }
        match net.provide(&root).await {
            Ok(()) => drop(told.insert(root)),
            Err(ProvideError::Full(_)) => {
                debug!("no room to announce more files");
                return;
            }
            Err(ProvideError::Closed(_)) => return,
        }
    }
}
