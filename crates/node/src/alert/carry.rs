//! Carries messages to their channels, by all of them side by side.
//!
//! - Invariant: it ends within [`TURN`] and the deadline of one delivery, whatever channels do: a look comes every minute.
//! - Invariant: a channel gets one message after the other, and none after one that it refused.
//! - Not here: what waits (`super::board`), which message is tried next (`super::channels`), how it travels (`super::send`).

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use pacstore_upstream::Http;
use tokio::time::Instant;
use tracing::warn;

use super::channels::Channels;
use super::{Alert, send};
use crate::node::Node;

/// After so long no further message is begun by one channel in one look: the next look is not to wait for it.
const TURN: Duration = Duration::from_secs(10);

/// Carries what waits to the channels whose time has come.
pub(super) async fn carry(node: &Node, http: &Http, tried: &mut Channels) {
    let alerts = &node.inner.alerts;
    let waiting: Vec<(Alert, String)> = alerts.board(|board| {
        let of_one = |one: &super::board::Pending| {
            let channels: Vec<_> = one.channels.iter().cloned().collect();
            channels
                .into_iter()
                .map(|channel| (one.alert.clone(), channel))
                .collect::<Vec<_>>()
        };
        board.pending.iter().flat_map(of_one).collect()
    });
    let mut due: BTreeMap<String, Vec<Alert>> = BTreeMap::new();
    for (alert, channel) in tried.due(waiting, Instant::now()) {
        due.entry(channel).or_default().push(alert);
    }
    let by_channel = due.into_iter().map(async |(channel, due)| {
        let came = carry_by(node, http, &channel, due).await;
        (channel, came)
    });
    for (channel, came) in join_all(by_channel).await {
        if came.some {
            tried.took(&channel);
        }
        if let Some(key) = came.refused {
            tried.refused(channel, key, Instant::now());
        }
    }
}

/// What became of the messages that were due by one channel.
#[derive(Default)]
struct Came {
    /// Whether it took any.
    some: bool,
    /// The key of the one that it did not take, after which no other is tried.
    refused: Option<String>,
}

/// One after the other, until one is refused or [`TURN`] is over.
async fn carry_by(node: &Node, http: &Http, channel: &str, due: Vec<Alert>) -> Came {
    let alerts = &node.inner.alerts;
    let (mut came, until) = (Came::default(), Instant::now() + TURN);
    for alert in due {
        match send::deliver(channel, &alert, &node.inner.config.alert, http).await {
            Ok(()) => {
                came.some = true;
                alerts.sent.fetch_add(1, Ordering::Relaxed);
                alerts.board(|board| board.delivered(&alert, channel));
            }
            Err(error) => {
                alerts.failed.fetch_add(1, Ordering::Relaxed);
                warn!(
                    channel,
                    key = alert.key,
                    error = &error as &dyn Error,
                    "an alert was not delivered; will retry"
                );
                came.refused = Some(alert.key);
            }
        }
        if came.refused.is_some() || until <= Instant::now() {
            break;
        }
    }
    came
}
