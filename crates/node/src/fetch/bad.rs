//! Mirrors that just failed for one file: pacman is not sent there.
//!
//! - Invariant: bounded in number and time; a mirror is never barred for other files.
//! - Not here: which mirror is better in general (`pacstore_upstream::Mirrors`).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cid::Cid;
use url::Url;

/// How long it counts.
const FOR: Duration = Duration::from_mins(1);

/// How many are remembered.
const MOST: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Bad(Mutex<VecDeque<(Cid, Url, Instant)>>);

impl Bad {
    /// `url` stalled, broke off or gave other bytes for `root`.
    pub(crate) fn note(&self, root: &Cid, url: &Url) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(cid, at, since)| since.elapsed() < FOR && !(cid == root && at == url));
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back((*root, url.clone(), Instant::now()));
    }

    pub(crate) fn is(&self, root: &Cid, url: &Url) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .any(|(cid, at, since)| cid == root && at == url && since.elapsed() < FOR)
    }
}
