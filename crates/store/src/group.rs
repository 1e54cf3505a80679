//! Group commit: changes of threads that come at one time share one transaction and one sync.
//!
//! Each disk sync costs milliseconds. Whoever gets the turn first takes along all changes that wait; the
//! others find theirs done when their turn comes.
//!
//! - Invariant: when [`Inner::group_commit`] returns `Ok`, the change and its files are durable.
//! - Invariant: a change is applied at most once.
//! - Not here: large batches (`crate::batch`), which fill a transaction alone.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{IndexError, WriteError};
use crate::index::Tables;
use crate::store::Inner;

type Change = Box<dyn FnOnce(&mut Tables<'_>) -> Result<(), IndexError> + Send>;
type Outcome = Arc<Mutex<Option<Result<(), Failure>>>>;

/// Why a shared transaction failed, in a form that all of its members can get.
#[derive(Clone, Debug)]
enum Failure {
    Sync(std::io::ErrorKind, Option<i32>),
    Index(IndexError),
}

struct Job {
    files: Vec<PathBuf>,
    change: Change,
    outcome: Outcome,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Changes that wait for the next transaction.
#[derive(Debug, Default)]
pub(crate) struct Group {
    waiting: Mutex<Vec<Job>>,
    turn: Mutex<()>,
}

impl Inner {
    /// Syncs `files`, then runs `change`, in one transaction with whatever else waits.
    pub(crate) fn group_commit(
        &self,
        files: Vec<PathBuf>,
        change: impl FnOnce(&mut Tables<'_>) -> Result<(), IndexError> + Send + 'static,
    ) -> Result<(), WriteError> {
        let outcome = Outcome::default();
        let job = Job {
            files,
            change: Box::new(change),
            outcome: Arc::clone(&outcome),
        };
        lock(&self.group.waiting).push(job);
        let turn = lock(&self.group.turn);
        if lock(&outcome).is_none() {
            let jobs = std::mem::take(&mut *lock(&self.group.waiting));
            self.run_jobs(jobs);
        }
        drop(turn);
        let outcome = lock(&outcome).take();
        match outcome {
            Some(Ok(())) => Ok(()),
            Some(Err(Failure::Index(error))) => Err(error.into()),
            Some(Err(Failure::Sync(kind, code))) => {
                let error = code.map_or_else(|| kind.into(), std::io::Error::from_raw_os_error);
                Err(WriteError::file(self.disk.dir(), error))
            }
            // A panic in another thread's change took ours with it before it ran to its end.
            None => Err(WriteError::Index(IndexError::closed())),
        }
    }

    fn run_jobs(&self, jobs: Vec<Job>) {
        let mut files = Vec::new();
        let mut outcomes = Vec::new();
        let mut changes = Vec::new();
        for job in jobs {
            files.extend(job.files);
            changes.push(job.change);
            outcomes.push(job.outcome);
        }
        let result = match self.disk.sync(&files) {
            Err(error) => Err(Failure::Sync(error.kind(), error.raw_os_error())),
            Ok(()) => self
                .index
                .write(|t| changes.into_iter().try_for_each(|change| change(t)))
                .map_err(Failure::Index),
        };
        for outcome in outcomes {
            *lock(&outcome) = Some(result.clone());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
