//! Files that pacman was sent to a mirror for: it has them soon, in its cache.
//!
//! They are not downloaded here beside pacman. Whoever watches pacman's cache takes them from there.
//!
//! - Invariant: at most [`MAX`] names; the oldest is forgotten first.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Names remembered.
const MAX: usize = 4096;

/// A package that pacman gets elsewhere now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirected {
    /// Its file name.
    pub name: String,
    /// What the database says of it, where it names it.
    pub sha256: Option<[u8; 32]>,
}

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Board {
    waiting: Mutex<VecDeque<Redirected>>,
    news: Notify,
}

impl Board {
    /// Notes one.
    pub(crate) fn put(&self, name: &str, sha256: Option<[u8; 32]>) {
        let name = name.to_owned();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|old| old.name != name);
        waiting.push_back(Redirected { name, sha256 });
        if waiting.len() > MAX {
            waiting.pop_front();
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// Takes all that are there.
    pub(crate) fn take(&self) -> Vec<Redirected> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.drain(..).collect()
    }

    /// Waits until one more is noted. For one waiter.
    pub(crate) async fn more(&self) {
        self.news.notified().await;
    }
}
