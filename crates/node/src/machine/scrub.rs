//! Reading the whole store again, slowly, and fetching anew what is damaged.
//!
//! - Invariant: at most the bytes that the period allows are read in ten minutes, so a disk is never busy with it for long.
//! - Invariant: where it was is remembered over restarts.
//! - Not here: checking one file (`pacstore-store`), everything at once (`pacstore fsck`), what was just given (`super::given`).

use std::time::Duration;

use pacstore_runtime::note;
use pacstore_store::Scrubbed;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::Board;
use crate::error::StoreError;
use crate::node::Node;

/// Key of the number of the file that is next.
const NEXT: &str = "scrub/next";

/// Between two batches: where one ended is written down, and an idle disk is to sleep.
const TICK: Duration = Duration::from_mins(10);

/// What the scrub has seen, as scripts see it. Counts are since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Files read again.
    pub files: u64,
    /// Bytes read again.
    pub bytes: u64,
    /// Files that were damaged, and are no longer here.
    pub damaged: u64,
    /// Of these, files that were fetched anew at once; the others are fetched when somebody asks.
    pub mended: u64,
}

/// Reads on until the node stops; the whole store once in `period`.
pub(crate) async fn run(node: Node, period: Duration) {
    let stop = node.inner.tasks.stop();
    loop {
        note("waiting");
        if stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_none() {
            return;
        }
        let share = TICK.as_secs_f64() / period.as_secs_f64().max(1.0);
        let bytes = (node.inner.store.stats().bytes as f64 * share) as u64 + 1;
        note("reading");
        match stop.run_until_cancelled(Box::pin(node.scrub(bytes))).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(
                error = &error as &dyn std::error::Error,
                "cannot go on re-reading the store; will retry"
            ),
        }
    }
}

impl Node {
    /// Reads files again, at least `bytes` bytes of them, from where the last call stopped; once around at most.
    ///
    /// # Errors
    /// [`StoreError`] from the index; a damaged file is no error.
    pub async fn scrub(&self, bytes: u64) -> Result<(), StoreError> {
        let store = self.inner.store.clone();
        let saved = self.on_disk(move || Ok(store.state_get(NEXT)?)).await?;
        let mut next = saved
            .and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)))
            .unwrap_or(0);
        let (begin, mut around, mut read) = (next, false, 0);
        while read < bytes && !(around && next >= begin) {
            let Some(one) = self.read_again(next).await? else {
                if around {
                    break;
                }
                (around, next) = (true, 0);
                continue;
            };
            next = one.id + 1;
            read += one.len;
        }
        if next == begin {
            return Ok(());
        }
        let store = self.inner.store.clone();
        self.on_disk(move || Ok(store.state_put(&[(NEXT, Some(&next.to_le_bytes()))])?))
            .await
    }

    /// Reads the first file with the number `from` or a higher one again. `None`: there is none.
    pub(super) async fn read_again(&self, from: u64) -> Result<Option<Scrubbed>, StoreError> {
        let store = self.inner.store.clone();
        let Some(one) = self.on_disk(move || Ok(store.scrub_next(from)?)).await? else {
            return Ok(None);
        };
        let damaged = one.damage.is_some();
        let mended = match (damaged, one.sha256) {
            (true, Some(sha256)) => self.mend(&sha256).await,
            _ => false,
        };
        let mut status = Board::lock(&self.inner.machine.scrub);
        status.files += 1;
        status.bytes += one.len;
        status.damaged += u64::from(damaged);
        status.mended += u64::from(mended);
        drop(status);
        Ok(Some(one))
    }

    /// What re-reading has seen so far.
    pub(crate) fn scrub_status(&self) -> ScrubStatus {
        Board::lock(&self.inner.machine.scrub).clone()
    }

    /// Fetches a damaged package anew, if a database in use names it.
    async fn mend(&self, sha256: &[u8; 32]) -> bool {
        let need = self.inner.machine.need();
        let Some(listed) = need.of_sha256(sha256) else {
            return false;
        };
        match Box::pin(self.bring(&need, listed, "")).await {
            Ok(()) => {
                info!(name = &*listed.filename, "a damaged file was fetched anew");
                true
            }
            Err(error) => {
                warn!(
                    name = &*listed.filename,
                    error, "a damaged file cannot be fetched anew now"
                );
                false
            }
        }
    }
}
