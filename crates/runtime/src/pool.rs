//! Blocking work: how much of it runs at once, and what becomes of its panics.
//!
//! - Invariant: never more closures of a pool run at once than its limit, also
//!   when their callers gave up waiting.
//! - Not here: [`crate::Tasks::blocking`], which callers use.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

/// Which kind of blocking work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// File-system work: many at once, since they mostly wait.
    Disk,
    /// Hashing and other pure computing: as many at once as there are cores.
    Hash,
}

/// How many closures of each [`Pool`] run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// For [`Pool::Disk`]; 64 by default.
    pub disk: usize,
    /// For [`Pool::Hash`]; the number of cores by default.
    pub hash: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            disk: 64,
            hash: available_parallelism().map_or(2, usize::from),
        }
    }
}

impl PoolLimits {
    fn of(&mut self, pool: Pool) -> &mut usize {
        match pool {
            Pool::Disk => &mut self.disk,
            Pool::Hash => &mut self.hash,
        }
    }
}

/// Why blocking work gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The task set has shut down; the work was not begun.
    #[error("the node is stopping")]
    Stopping,
    /// The work panicked. The panic has been logged.
    #[error("blocking work panicked: {0}")]
    Panicked(String),
}

/// The semaphores of the pools.
#[derive(Debug)]
pub(crate) struct Pools {
    disk: Arc<Semaphore>,
    hash: Arc<Semaphore>,
    /// How many permits each has in all.
    room: Mutex<PoolLimits>,
}

impl Pools {
    /// A limit of 0 counts as 1.
    pub(crate) fn new(limits: PoolLimits) -> Self {
        let room = PoolLimits {
            disk: limits.disk.max(1),
            hash: limits.hash.max(1),
        };
        Self {
            disk: Arc::new(Semaphore::new(room.disk)),
            hash: Arc::new(Semaphore::new(room.hash)),
            room: Mutex::new(room),
        }
    }

    pub(crate) fn room(&self, pool: Pool) -> usize {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner).of(pool)
    }

    /// Gives `pool` room for `wanted` closures, as far as those under way let it; gives what
    /// it has then.
    pub(crate) fn set_room(&self, pool: Pool, wanted: usize) -> usize {
        let mut limits = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let (room, wanted) = (limits.of(pool), wanted.max(1));
        let permits = self.of(pool);
        if wanted < *room {
            *room -= permits.forget_permits(*room - wanted);
        } else {
            permits.add_permits(wanted - *room);
            *room = wanted;
        }
        *room
    }

    pub(crate) fn of(&self, pool: Pool) -> Arc<Semaphore> {
        Arc::clone(match pool {
            Pool::Disk => &self.disk,
            Pool::Hash => &self.hash,
        })
    }

    /// Refuses everything that has not begun.
    pub(crate) fn close(&self) {
        self.disk.close();
        self.hash.close();
    }
}

/// What a panic said, as far as it was text.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without text".to_owned()
    }
}
