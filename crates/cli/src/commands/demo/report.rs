//! What the demo says: each step when it is done, and all of it at the end as JSON.
//!
//! - Invariant: with `--json` stdout is the one summary; the steps go to stderr.
//! - Invariant: a closed stdout ends nothing here: it is told by [`Lost`], so that the stage can be cleared first.

use std::fmt::Display;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pacstore_node::BytesOut;
use serde::Serialize;
use tokio::sync::Notify;

use crate::context::Context;
use crate::printer::bytes;

/// All that was done and found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Every check held.
    pub(super) ok: bool,
    /// The first that did not.
    pub(super) error: Option<String>,
    /// The mirror's NAME.
    pub(super) name: String,
    /// The KEY that it is published under.
    pub(super) key: Option<String>,
    /// The tree that is served at the end.
    pub(super) tree: Option<String>,
    /// The repository.
    pub(super) repository: String,
    /// Files that came through node 2's gateway, each with the right SHA-256.
    pub(super) files_verified: u64,
    /// Bytes of them.
    pub(super) bytes_verified: u64,
    /// The same bytes by source: `lan` and `peer` are other nodes.
    pub(super) bytes: BytesOut,
    /// What became of the file during which node 1 was killed.
    pub(super) fallback: Option<Fallback>,
    /// What the real pacman did.
    pub(super) pacman: Option<String>,
    /// What was left out, and why.
    pub(super) skipped: Vec<String>,
    /// Node 2's gateway.
    pub(super) gateway: Option<String>,
    /// The line for pacman.conf.
    pub(super) server: Option<String>,
    /// Each step with its seconds.
    pub(super) steps: Vec<Step>,
    /// Seconds in all.
    pub(super) seconds: f64,
}

/// A file whose first source died.
#[derive(Debug, Serialize)]
pub(super) struct Fallback {
    pub(super) file: String,
    pub(super) bytes: u64,
    /// Bytes that the client had when node 1 was killed.
    pub(super) killed_at: u64,
    pub(super) from_peer: u64,
    pub(super) from_upstream: u64,
    /// The longest wait between two pieces after the kill, in milliseconds.
    pub(super) longest_wait_ms: u64,
    pub(super) seconds: f64,
    pub(super) verified: bool,
}

/// A step.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) what: String,
    pub(super) seconds: f64,
    pub(super) said: Vec<String>,
}

/// Why what the demo says reaches nobody, once that is so.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost(Arc<(Mutex<Option<io::Error>>, Notify)>);

impl Lost {
    fn note(&self, error: io::Error) {
        self.error().get_or_insert(error);
        self.0.1.notify_one();
    }

    fn error(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<io::Error> {
        self.error().take()
    }

    pub(super) fn is(&self) -> bool {
        self.error().is_some()
    }

    /// Waits until nobody takes what is said.
    pub(super) async fn happens(&self) {
        self.0.1.notified().await;
    }
}

/// Says each step when it is done.
#[derive(Debug)]
pub(super) struct Say<'a> {
    ctx: &'a Context,
    pub(super) lost: Lost,
    began: Instant,
    pub(super) summary: Summary,
}

impl<'a> Say<'a> {
    pub(super) fn new(ctx: &'a Context) -> Self {
        Self {
            ctx,
            lost: Lost::default(),
            began: Instant::now(),
            summary: Summary::default(),
        }
    }

    pub(super) fn ctx(&self) -> &'a Context {
        self.ctx
    }

    /// One line, where steps go.
    pub(super) fn line(&self, line: &str) {
        if self.ctx.out.json() {
            self.ctx.out.note(line);
        } else {
            self.data(line);
        }
    }

    fn data(&self, line: impl Display) {
        if !self.lost.is()
            && let Err(error) = self.ctx.out.try_line(line)
        {
            self.lost.note(error);
        }
    }

    /// A step that took `took`.
    pub(super) fn step(&mut self, what: &str, took: Duration, said: Vec<String>) {
        let seconds = took.as_secs_f64();
        let number = self.summary.steps.len() + 1;
        self.line(&format!("{number:>2}. {what}  ({seconds:.2} s)"));
        for line in &said {
            self.line(&format!("      {line}"));
        }
        self.summary.steps.push(Step {
            what: what.to_owned(),
            seconds,
            said,
        });
    }

    /// Something that is not done, and why.
    pub(super) fn skip(&mut self, what: &str) {
        self.line(&format!(" -. left out: {what}"));
        self.summary.skipped.push(what.to_owned());
    }

    /// The end: the summary, with `--json`.
    pub(super) fn end(mut self, ended: &anyhow::Result<()>) -> anyhow::Result<()> {
        self.summary.ok = ended.is_ok();
        self.summary.error = ended.as_ref().err().map(|error| format!("{error:#}"));
        self.summary.seconds = self.began.elapsed().as_secs_f64();
        let total = self.summary.seconds;
        if ended.is_ok() {
            let (files, count) = (self.summary.files_verified, bytes(self.summary.bytes_verified));
            self.line(&format!(
                "\nAll held: {files} files, {count} through node 2's gateway, each byte checked; {total:.1} s in all."
            ));
        }
        if self.ctx.out.json() {
            self.data(serde_json::to_string_pretty(&self.summary)?);
        }
        Ok(())
    }
}

/// Where bytes came from, in words.
pub(super) fn sources(by: BytesOut) -> String {
    let parts = [
        (by.lan + by.peer, "node 1"),
        (by.upstream, "the ordinary mirror"),
        (by.disk, "node 2's disk"),
    ];
    let said: Vec<String> = parts
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, from)| format!("{} from {from}", bytes(n)))
        .collect();
    if said.is_empty() {
        "nothing".to_owned()
    } else {
        said.join(", ")
    }
}

/// Bytes a second, as people read them.
pub(super) fn rate(n: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-6);
    format!("{}/s", bytes((n as f64 / seconds) as u64))
}
