//! How far long work on the store is, while somebody waits for it: here or in the daemon.
//!
//! - Not here: the bar itself (`crate::printer`).

use std::time::Duration;

use pacstore_node::{Status, WorkStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Daemon;
use crate::printer::Bar;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// Waits for `work`, which is called `what`, and shows on the bar what `look` sees of it meanwhile.
pub(super) async fn shown<T>(
    bar: Bar,
    what: &str,
    work: impl Future<Output = T>,
    look: impl AsyncFn() -> Vec<WorkStatus>,
) -> T {
    let mut work = std::pin::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(LOOK) => {}
        }
        let seen = tokio::select! {
            done = &mut work => break done,
            seen = look() => seen,
        };
        if let Some(now) = seen.iter().find(|one| one.what == what) {
            bar.set_length(now.bytes.1);
            bar.set_position(now.bytes.0);
            bar.set_message(match now.files {
                (done, 0) => format!("{done} files"),
                (done, all) => format!("{done}/{all} files"),
            });
        }
    };
    bar.finish_and_clear();
    done
}

/// Gives the daemon an order whose work is called `what`, and shows how far it is.
pub(super) async fn ordered<B: Serialize, T: DeserializeOwned>(
    daemon: &Daemon,
    bar: Bar,
    what: &str,
    body: &B,
) -> anyhow::Result<T> {
    let path = format!("/v1/{what}");
    let look = async || {
        let status = daemon.get::<Status>("/v1/status").await;
        status.map(|status| status.work).unwrap_or_default()
    };
    shown(bar, what, daemon.post(&path, body), look).await
}
