//! Peers of one tree find each other: looking up who announces a tree, and connecting.
//!
//! - Invariant: only roots of public heads are looked up on our own; another CID only
//!   when the daemon's own user asks for it.
//! - Invariant: at most [`MAX_NEW`] connections come of one look-up.
//! - Not here: announcing (`crate::follow`, `crate::publish`), the DHT (`pacstore-net`).

use std::time::Duration;

use cid::Cid;
use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::node::Node;

/// How often each tree is looked up.
const PERIOD: Duration = Duration::from_mins(5);

/// With so many peers nobody else is looked for.
const ENOUGH: usize = 16;

/// Connections made after one look-up.
const MAX_NEW: usize = 6;

/// How long a look-up may take.
const LOOK_UP: Duration = Duration::from_secs(10);

/// Looks for peers of the trees that are served, again and again.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for mirror in node.mirrors() {
            let Some(head) = mirror.current().filter(|head| mirror.is_public(&head.head)) else {
                continue;
            };
            if stop
                .run_until_cancelled(node.meet(&head.head.tree))
                .await
                .is_none()
            {
                return;
            }
        }
    }
}

impl Node {
    /// Connects to a few peers that announce `cid`; how many are new.
    pub(crate) async fn meet(&self, cid: &Cid) -> usize {
        let Some(net) = &self.inner.net else { return 0 };
        if net.peers().len() >= ENOUGH {
            return 0;
        }
        let found = net
            .find_providers(cid, MAX_NEW * 2, LOOK_UP)
            .await
            .unwrap_or_default();
        let strangers = found
            .into_iter()
            .filter(|one| one.id != net.peer_id() && net.peer(&one.id).is_none());
        let dialled = strangers.take(MAX_NEW).map(|one| async move {
            let id = one.id;
            match tokio::time::timeout(LOOK_UP, net.connect(id, one.addresses)).await {
                Ok(Ok(())) => true,
                failed => {
                    debug!(peer = %id, ?failed, "cannot reach a peer that announces a tree");
                    false
                }
            }
        });
        join_all(dialled)
            .await
            .into_iter()
            .filter(|connected| *connected)
            .count()
    }
}
