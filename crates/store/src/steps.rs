//! The crash seam: a hook that is called before each step on the file system or in the index.
//!
//! Tests use it to stop a store after each step of each multi-step write, to fill the disk at each of them,
//! and to look at the order of steps. A running node has no hook.
//!
//! - Invariant: a step whose hook failed is not done, and its error comes back as if the step had failed.
//! - Not here: what the steps do (`crate::disk`, `crate::index`).

use std::fmt;
use std::io;
use std::sync::Arc;

/// What is asked before each step.
pub trait Steps: fmt::Debug + Send + Sync + 'static {
    /// Called before the step named `step`; an error is returned instead of doing it.
    ///
    /// # Errors
    /// Whatever the test wants the step to fail with.
    fn before(&self, step: &'static str) -> io::Result<()>;
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
}
