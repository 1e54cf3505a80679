//! Files that were given from disk are read again soon after.
//!
//! A disk may give other bytes than it took, and tell nobody. pacman then refuses the package, deletes it and, asked
//! again, comes here again: that second time it must be right. To hash each file before it is given would hold up
//! every first byte for what hardly ever happens.
//!
//! - Invariant: nobody who is given a file waits for this.
//! - Invariant: bounded: how many files wait, how many bytes, and how often one file is read.
//! - Not here: reading one again and fetching it anew (`super::scrub`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pacstore_runtime::note;
use pacstore_store::FileInfo;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use crate::node::Node;

/// From giving a file to reading it again: what is given at one time goes first, and who tries again is no faster.
const AFTER: Duration = Duration::from_secs(2);

/// A file that was read again is left alone for this time, however often it is given.
const AGAIN: Duration = Duration::from_mins(10);

/// Files of which is remembered that they wait or were read again.
const FILES: usize = 4096;

/// Bytes of the files that wait. What is given beyond this is the slow re-reading's.
const BYTES: u64 = 1 << 30;

/// What was given lately, by the numbers of files in the store.
#[derive(Debug, Default)]
pub(crate) struct Given {
    files: Mutex<Files>,
    some: Notify,
}

#[derive(Debug, Default)]
struct Files {
    waiting: Vec<u64>,
    bytes: u64,
    lately: HashMap<u64, Instant>,
}

impl Given {
    /// `file` left as a whole or in part.
    pub(crate) fn note(&self, file: &FileInfo) {
        if self.lock().add(file.id, file.len, Instant::now()) {
            self.some.notify_one();
        }
    }

    fn take(&self) -> Vec<u64> {
        let mut files = self.lock();
        files.bytes = 0;
        std::mem::take(&mut files.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// True if it waits from now on.
    fn add(&mut self, id: u64, len: u64, now: Instant) -> bool {
        let is_new = |since: &Instant| now.duration_since(*since) < AGAIN;
        if self.lately.get(&id).is_some_and(is_new) || self.bytes.saturating_add(len) > BYTES {
            return false;
        }
        if self.lately.len() >= FILES {
            self.lately.retain(|_, since| is_new(since));
        }
        if self.lately.len() >= FILES {
            return false;
        }
        self.lately.insert(id, now);
        self.waiting.push(id);
        self.bytes += len;
        true
    }
}

/// Reads again what was given, until the node stops.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    let given = &node.inner.machine.given;
    let some = async || {
        given.some.notified().await;
        tokio::time::sleep(AFTER).await;
    };
    loop {
        note("waiting");
        if stop.run_until_cancelled(some()).await.is_none() {
            return;
        }
        note("reading");
        for id in given.take() {
            match stop.run_until_cancelled(Box::pin(node.read_again(id))).await {
                None => return,
                Some(Ok(_)) => {}
                Some(Err(error)) => warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot read again what was given"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_waits_once_in_ten_minutes_and_not_more_than_a_bound_of_them_at_a_time() {
        let mut files = Files::default();
        let begin = Instant::now();
        assert!(files.add(1, 1000, begin));
        assert!(!files.add(1, 1000, begin + AGAIN / 2));
        assert!(files.add(1, 1000, begin + AGAIN));
        assert!(!files.add(2, BYTES - 1999, begin), "too many bytes");
        assert!(files.add(2, BYTES - 2000, begin));
        let mut files = Files::default();
        let taken = (0..2 * FILES as u64)
            .filter(|id| files.add(*id, 1, begin))
            .count();
        assert_eq!((taken, files.waiting.len()), (FILES, FILES));
        assert!(
            files.add(9_999_999, 1, begin + AGAIN),
            "the old ones are forgotten"
        );
        assert_eq!(files.lately.len(), 1);
    }
}
