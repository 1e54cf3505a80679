//! Files that are on their way at the moment, for whoever looks.
//!
//! - Invariant: at most [`MOST`] are told of; one that is not is given all the same.
//! - Invariant: what ends, however it ends, is gone from here.
//! - Not here: what became of them (`crate::receipts`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::bytes_out::Counters;

/// Files that are told of at one time.
const MOST: usize = 1000;

/// One file on its way, as scripts see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferStatus {
    /// The file's name.
    pub name: String,
    /// Bytes that are to be given.
    pub bytes: u64,
    /// Of them, those that were.
    pub done: u64,
    /// Bytes a second since it began.
    pub rate: u64,
    /// Seconds that it needs yet, by its rate.
    pub left_s: Option<u64>,
    /// Where the bytes so far came from first: `disk`, `lan`, `peer`, `upstream`.
    pub sources: Vec<String>,
    /// It is fetched before anybody asks.
    pub ahead: bool,
}

#[derive(Debug)]
struct Transfer {
    name: String,
    bytes: u64,
    /// None: fetched ahead, nobody counts.
    tally: Option<Arc<Counters>>,
    since: Instant,
}

/// All that are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transfers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: Mutex<BTreeMap<u64, Transfer>>,
    next: AtomicU64,
}

/// A file that is on its way until this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Inner>, u64);

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.1);
    }
}

impl Transfers {
    /// `bytes` of `name` are given now; `tally` counts them.
    pub(crate) fn given(&self, name: &[u8], bytes: u64, tally: &Arc<Counters>) -> Ticket {
        self.begin(name, bytes, Some(Arc::clone(tally)))
    }

    /// The file `name` of `bytes` is fetched ahead.
    pub(crate) fn ahead(&self, name: &[u8], bytes: u64) -> Ticket {
        self.begin(name, bytes, None)
    }

    fn begin(&self, name: &[u8], bytes: u64, tally: Option<Arc<Counters>>) -> Ticket {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let transfer = Transfer {
            name: String::from_utf8_lossy(name).into_owned(),
            bytes,
            tally,
            since: Instant::now(),
        };
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() < MOST {
            running.insert(number, transfer);
        }
        Ticket(Arc::clone(&self.0), number)
    }

    /// What is under way, the oldest first.
    pub(crate) fn list(&self) -> Vec<TransferStatus> {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.values().map(Transfer::status).collect()
    }
}

impl Transfer {
    fn status(&self) -> TransferStatus {
        let by = self.tally.as_ref().map(|tally| tally.get()).unwrap_or_default();
        let all = [
            ("disk", by.disk),
            ("lan", by.lan),
            ("peer", by.peer),
            ("upstream", by.upstream),
        ];
        let done: u64 = all.iter().map(|(_, bytes)| bytes).sum();
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rate = done.saturating_mul(1000) / millis.max(1);
        TransferStatus {
            name: self.name.clone(),
            bytes: self.bytes,
            done,
            rate,
            left_s: self.bytes.saturating_sub(done).checked_div(rate),
            sources: all
                .iter()
                .filter(|(_, bytes)| *bytes > 0)
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            ahead: self.tally.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pacstore_store::Origin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_is_told_of_while_it_lasts() {
        let transfers = Transfers::default();
        let tally = Arc::new(Counters::default());
        let ticket = transfers.given(b"big", 5_000_000, &tally);
        let ahead = transfers.ahead(b"next", 7);
        tally.add(Origin::Lan, 1_000_000);
        tally.add(Origin::Upstream, 1_000_000);
        tokio::time::advance(Duration::from_secs(2)).await;
        let all = transfers.list();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].done, all[0].rate, all[0].left_s),
            (2_000_000, 1_000_000, Some(3))
        );
        assert_eq!(all[0].sources, ["lan", "upstream"]);
        assert!(all[1].ahead && all[1].left_s.is_none());
        drop((ticket, ahead));
        assert_eq!(transfers.list(), []);
    }
}
