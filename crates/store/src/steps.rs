//! The crash seam: a hook that is called before each step on the file system or in the index, and after each sync.
//!
//! Tests use it to stop a store after each step of each multi-step write, to fill the disk at each of them,
//! to look at the order of steps, and to take away what was not synced. A running node has no hook.
//!
//! - Invariant: a step whose hook failed is not done, and its error comes back as if the step had failed.
//! - Invariant: the store syncs nothing but through here, so that the hook knows what is durable.
//! - Not here: what the steps do (`crate::disk`, `crate::index`).

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;

/// What is asked before each step.
pub trait Steps: fmt::Debug + Send + Sync + 'static {
    /// Called before the step named `step`; an error is returned instead of doing it.
    ///
    /// # Errors
    /// Whatever the test wants the step to fail with.
    fn before(&self, step: &'static str) -> io::Result<()>;

    /// Called after a sync of `path` was done: of a file's bytes, or of the names in a folder.
    fn synced(&self, path: &Path) {
        let _ = path;
    }

    /// Called after everything below `folder` was synced.
    fn synced_below(&self, folder: &Path) {
        let _ = folder;
    }
}

/// The hook of one store, if any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hook(Option<Arc<dyn Steps>>);

impl Hook {
    pub(crate) fn new(steps: Option<Arc<dyn Steps>>) -> Self {
        Self(steps)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn before(&self, step: &'static str) -> io::Result<()> {
        match &self.0 {
            None => Ok(()),
            Some(steps) => steps.before(step),
        }
    }

    /// Makes the bytes of `file`, which lies at `path`, durable.
    pub(crate) fn sync_bytes(&self, file: &File, path: &Path) -> io::Result<()> {
        file.sync_data()?;
        self.tell(|steps| steps.synced(path));
        Ok(())
    }

    /// Makes the file at `path` durable.
    pub(crate) fn sync_file(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()?;
        self.tell(|steps| steps.synced(path));
        Ok(())
    }

    /// Makes the names in a folder durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.sync_file(dir)
    }

    /// Makes the whole file system of `dir` durable.
    pub(crate) fn sync_below(&self, dir: &Path) -> io::Result<()> {
        rustix::fs::syncfs(fs::File::open(dir)?.as_fd())?;
        self.tell(|steps| steps.synced_below(dir));
        Ok(())
    }

    pub(crate) fn tell(&self, what: impl FnOnce(&dyn Steps)) {
        if let Some(steps) = &self.0 {
            what(&**steps);
        }
    }
}
