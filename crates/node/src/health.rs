//! Whether the node still does its work: what the watchdog asks before it says that all is well.
//!
//! A daemon that hangs is worse than one that died: a service manager restarts only what it
//! knows to be dead. So whoever owns the process asks here, and says nothing more to the
//! manager once the answer is an error.
//!
//! - Invariant: a look ends within the time that its caller gives, whatever hangs.
//! - Not here: failures that the node lives with (`crate::alert`), systemd's protocol (`pacstore`).

use std::time::Duration;

use pacstore_runtime::{DeadlineExceeded, Pool, TaskState, deadline};

use crate::error::StoreError;
use crate::importer::STILL;
use crate::node::Node;

/// A worker that gave no sign of life for so long hangs; rounds end themselves before.
const SILENT: Duration = STILL.saturating_mul(2);

/// Why the node should be restarted.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// The disk, or the pool of threads that use it.
    #[error("the store does not answer")]
    Disk(#[source] DeadlineExceeded),
    /// The store answers with an error.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// An import's worker.
    #[error("the import of {name} has given no sign of life for {} min", silent.as_secs() / 60)]
    Import {
        /// The mirror.
        name: String,
        /// For how long.
        silent: Duration,
    },
    /// A worker that never ends by itself is not there.
    #[error("the worker `{0}` is gone")]
    Gone(String),
}

impl Node {
    /// Whether all workers live and the store answers `within` that time.
    ///
    /// # Errors
    /// [`Unwell`], the first that is found.
    pub async fn health(&self, within: Duration) -> Result<(), Unwell> {
        self.workers()?;
        let store = self.inner.store.clone();
        let read = self
            .inner
            .tasks
            .blocking(Pool::Disk, move || store.state_get("health").map(drop));
        match deadline("reading the store", within, read).await {
            Ok(Ok(read)) => Ok(read.map_err(StoreError::from)?),
            Ok(Err(_stopping)) => Err(StoreError::Stopping.into()),
            Err(late) => Err(Unwell::Disk(late)),
        }
    }

    fn workers(&self) -> Result<(), Unwell> {
        let report = self.inner.tasks.report();
        let running = |name: &str| {
            let mut tasks = report.iter();
            tasks.any(|task| task.name == name && matches!(task.state, TaskState::Running(_)))
        };
        let mut needed = vec!["gc".to_owned()];
        if self.inner.net.is_some() {
            needed.extend(["announce", "alert"].map(str::to_owned));
            needed.extend(
                self.inner
                    .imports
                    .iter()
                    .map(|import| format!("import {}", import.name())),
            );
            needed.extend(
                self.inner
                    .mirrors
                    .iter()
                    .map(|mirror| format!("follow {}", mirror.config.name)),
            );
        }
        if let Some(gone) = needed.into_iter().find(|name| !running(name)) {
            return Err(Unwell::Gone(gone));
        }
        for import in &self.inner.imports {
            let glance = import.rounds.glance();
            let silent = match glance.running {
                Some(_) => glance.silent,
                None => glance.overdue,
            };
            if SILENT < silent {
                let name = import.name().to_string();
                return Err(Unwell::Import { name, silent });
            }
        }
        Ok(())
    }
}
