//! How far a round is, for people who watch.
//!
//! - Invariant: a status is small and cheap to replace; nobody waits for a watcher.
//! - Not here: how it is shown (crate `cli`).

use pacstore_upstream::Pulse;
use tokio::sync::watch;
use tracing::debug;

/// What a round does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Step {
    /// Nothing.
    #[default]
    Idle,
    /// Looking what the source has (rsync: transferring it).
    Looking,
    /// Fetching files over HTTP.
    Fetching,
    /// Reading and hashing files.
    Reading,
    /// Checking databases against files.
    Checking,
    /// Building and keeping the tree.
    Building,
}

/// A round's status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// What it does.
    pub step: Step,
    /// Which reading of the source this is, from 1; 0 while only its change stamp is asked for.
    pub pass: u32,
    /// Where it reads; empty while all upstreams are asked how new they are.
    pub source: String,
    /// Files done of this step.
    pub files_done: u64,
    /// Files of this step, as far as known.
    pub files_total: u64,
    /// Bytes done of this step.
    pub bytes_done: u64,
    /// Bytes of this step, as far as known.
    pub bytes_total: u64,
    /// One of the files that are worked on.
    pub current: Option<String>,
}

/// Where a round tells its status.
#[derive(Debug, Clone)]
pub struct Progress(watch::Sender<Status>, Pulse);

impl Default for Progress {
    fn default() -> Self {
        Self(watch::Sender::new(Status::default()), Pulse::default())
    }
}

impl Progress {
    /// Somebody who watches. Fast changes are seen as one.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    /// How often something has come so far that no status shows, such as a piece of a file or a name of a listing.
    pub fn beats(&self) -> u64 {
        self.1.beats()
    }

    pub(crate) fn pulse(&self) -> Pulse {
        self.1.clone()
    }

    pub(crate) fn begin(&self, step: Step, files: u64, bytes: u64) {
        debug!(?step, files, bytes, "a step of a round begins");
        self.0.send_modify(|s| {
            s.step = step;
            s.files_done = 0;
            s.bytes_done = 0;
            s.files_total = files;
            s.bytes_total = bytes;
            s.current = None;
        });
    }

    pub(crate) fn source(&self, source: &str, pass: u32) {
        self.0.send_modify(|s| {
            source.clone_into(&mut s.source);
            s.pass = pass;
        });
    }

    pub(crate) fn file(&self, name: impl FnOnce() -> String) {
        self.0.send_modify(|s| {
            s.files_done += 1;
            // A hundred thousand small files need not all be named.
            if s.files_done.is_multiple_of(64) || s.current.is_none() {
                s.current = Some(name());
            }
        });
    }

    pub(crate) fn bytes(&self, bytes: u64) {
        self.0.send_modify(|s| s.bytes_done += bytes);
    }
}
