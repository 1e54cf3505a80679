//! Long work on the whole store that somebody asked for: how far it is.
//!
//! - Invariant: what is told of is under way; it is forgotten with its [`Ticket`].
//! - Not here: the work itself (`pacstore-store`), imports (`crate::rounds`), files on their way (`crate::transfers`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pacstore_runtime::Pool;
use pacstore_store::FsckReport;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::node::Node;

/// One piece of work, as scripts see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// `gc` or `fsck`.
    pub what: String,
    /// Files done, and in all; 0 in all where that is not known.
    pub files: (u64, u64),
    /// Bytes done, and in all.
    pub bytes: (u64, u64),
}

/// All that is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Works(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    all: Vec<(u64, WorkStatus)>,
}

/// It is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    works: Works,
    number: u64,
}

impl Works {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It begins.
    pub(crate) fn begin(&self, what: &str) -> Ticket {
        let mut list = self.lock();
        let number = list.next;
        list.next += 1;
        let what = what.to_owned();
        list.all.push((
            number,
            WorkStatus {
                what,
                ..WorkStatus::default()
            },
        ));
        drop(list);
        Ticket {
            works: self.clone(),
            number,
        }
    }

    /// What is under way, the oldest first.
    pub(crate) fn list(&self) -> Vec<WorkStatus> {
        self.lock().all.iter().map(|(_, one)| one.clone()).collect()
    }
}

impl Ticket {
    /// It is so far.
    pub(crate) fn at(&self, files: (u64, u64), bytes: (u64, u64)) {
        let mut list = self.works.lock();
        if let Some((_, one)) = list.all.iter_mut().find(|(number, _)| *number == self.number) {
            (one.files, one.bytes) = (files, bytes);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.works.lock().all.retain(|(number, _)| *number != self.number);
    }
}

impl Node {
    /// Checks the whole store, and mends it if `repair` says so; [`Node::work`] tells how far it is.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be checked; damage is no error.
    pub async fn fsck(&self, repair: Repair) -> Result<FsckReport, StoreError> {
        let (store, ticket) = (self.inner.store.clone(), self.inner.works.begin("fsck"));
        let check = move || {
            Ok(store.fsck(repair == Repair::Yes, &mut |now| {
                ticket.at(
                    (now.files, now.of_files),
                    (now.bytes, now.of_bytes.max(now.bytes)),
                );
            })?)
        };
        let checked = self.inner.tasks.blocking(Pool::Disk, check).await;
        checked.unwrap_or(Err(StoreError::Stopping))
    }

    /// Long work on the store that is under way.
    pub fn work(&self) -> Vec<WorkStatus> {
        self.inner.works.list()
    }
}

/// Whether a check mends what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It does.
    Yes,
    /// It tells only.
    No,
}
