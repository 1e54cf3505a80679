//! Telling somebody when the node cannot go on by itself, and when it can again.
//!
//! Every few seconds `watch` looks what is wrong, `board` decides what of that is news,
//! `send` carries it to a web hook, a command or a mail program.
//!
//! - Invariant: what was told is on disk, so a restart repeats nothing.
//! - Invariant: at most [`board::MAX_PER_HOUR`] messages an hour; what is held back by that is
//!   told later if it still holds.
//! - Not here: the log, which has every error when it happens.
//! - Read first: `docs/operating.md`, "Alerts".

pub(crate) mod board;
mod carry;
mod channels;
mod send;
mod watch;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use board::Board;

pub(crate) use watch::{free_bytes, run};

/// Whom to tell, and what is worth it: `[alert]`.
#[derive(Clone, Debug)]
pub struct AlertConfig {
    /// Gets each message as JSON by POST.
    pub webhook: Option<Url>,
    /// Program and arguments; gets each message as JSON on its standard input.
    pub command: Vec<String>,
    /// Mail address; needs `sendmail`.
    pub mail: Option<String>,
    /// The program that takes mails as sendmail does.
    pub sendmail: PathBuf,
    /// How long rounds must have failed before that is told.
    pub after: Duration,
    /// How long a repository may be torn.
    pub torn: Duration,
    /// Free bytes of the store's file system below which it is told.
    pub disk_free: u64,
    /// What still holds is told again after this; none = never.
    pub repeat: Option<Duration>,
}

impl Default for AlertConfig {
    fn default() -> Self {
        Self {
            webhook: None,
            command: Vec::new(),
            mail: None,
            sendmail: PathBuf::from("/usr/sbin/sendmail"),
            after: Duration::from_mins(10),
            torn: Duration::from_hours(2),
            disk_free: 2_000_000_000,
            repeat: Some(Duration::from_hours(24)),
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something does not work and a person must act.
    Error,
    /// Something is odd, but goes on.
    Warning,
    /// What was told before is over.
    Recovery,
    /// Somebody asked for it.
    Test,
}

impl Kind {
    /// As it stands in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Recovery => "recovery",
            Self::Test => "test",
        }
    }
}

/// One message. Its JSON is what web hooks and commands get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// What it is.
    pub kind: Kind,
    /// What it is about, such as `round/NAME`; the same for an error and its recovery.
    pub key: String,
    /// The mirror, where it is about one.
    pub mirror: Option<String>,
    /// What is wrong, in one line.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Since when, RFC 3339.
    pub since: String,
    /// When this was written, RFC 3339.
    pub at: String,
    /// The node's peer id.
    pub node: Option<String>,
}

/// What is wrong now, for `pacstore status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAlert {
    /// As in [`Alert`].
    pub key: String,
    /// `error` or `warning`.
    pub kind: Kind,
    /// What is wrong, in one line.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Since when, RFC 3339.
    pub since: String,
    /// Whether it was told.
    pub told: bool,
}

/// Where a message went, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// `webhook`, `command` or `mail`.
    pub channel: String,
    /// Why it did not arrive.
    pub error: Option<String>,
}

/// The alerts of one node.
#[derive(Debug, Default)]
pub(crate) struct Alerts {
    board: Mutex<Board>,
    sent: std::sync::atomic::AtomicU64,
    failed: std::sync::atomic::AtomicU64,
    looks: std::sync::atomic::AtomicU64,
}

impl Alerts {
    /// With what the store remembers.
    pub(crate) fn load(store: &pacstore_store::Store) -> Result<Self, crate::error::StoreError> {
        let board = match store.state_get(watch::STATE)? {
            // Without it something may be told twice, which is better than not to start.
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => Board::default(),
        };
        Ok(Self {
            board: Mutex::new(board),
            ..Self::default()
        })
    }

    fn board<T>(&self, with: impl FnOnce(&mut Board) -> T) -> T {
        with(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is wrong now.
    pub(crate) fn open(&self) -> Vec<OpenAlert> {
        self.board(|board| board.open())
    }

    /// How often everything was looked at, and what was news of it told, since the start.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Messages delivered, deliveries that failed, and messages that wait, since the start.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let load = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
        (
            load(&self.sent),
            load(&self.failed),
            self.board(|board| board.pending.len() as u64),
        )
    }
}
