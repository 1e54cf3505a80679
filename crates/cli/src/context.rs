//! What every command has at hand: its home, its printer, the runtime it may block on.
//!
//! - Invariant: a command whose daemon runs goes through its socket; otherwise it opens
//!   the store itself, under the store's lock.

use std::time::Duration;

use anyhow::Context as _;
use pacstore_node::{Node, Online};
use pacstore_runtime::{Clock, Tasks};

use crate::client::Daemon;
use crate::config::{Loaded, load};
use crate::heap;
use crate::home::Home;
use crate::printer::Printer;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0.
    Done,
    /// 1.
    Failed,
    /// 3.
    Nothing,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Nothing => 3,
        }
    }
}

/// An error with one sentence on what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Hinted {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Hinted {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) out: Printer,
}

impl Context {
    /// The checked configuration.
    pub(crate) fn config(&self) -> anyhow::Result<Loaded> {
        Ok(load(&self.home)?)
    }

    /// The daemon of this home, or the machine's, if one runs.
    pub(crate) async fn daemon(&self) -> Option<Daemon> {
        Daemon::find(&self.home).await
    }

    /// A node of our own on this home, without network, for a command without a daemon.
    pub(crate) async fn offline(&self) -> anyhow::Result<Offline> {
        self.open(Online::No).await
    }

    /// A node of our own on this home.
    pub(crate) async fn open(&self, online: Online) -> anyhow::Result<Offline> {
        let loaded = self.config()?;
        self.open_with(loaded, online).await
    }

    pub(crate) async fn open_with(&self, loaded: Loaded, online: Online) -> anyhow::Result<Offline> {
        self.home.enter()?;
        let tasks = Tasks::new();
        heap::give_back(&tasks);
        let node = Node::start(loaded.node, online, &tasks, Clock::system()).await;
        let node = node.map_err(|error| {
            let hint = error.hint();
            anyhow::Error::from(error).context(Hinted {
                message: "cannot open this home".to_owned(),
                hint,
            })
        })?;
        Ok(Offline { node, tasks })
    }
}

/// A node that lives as long as the command.
#[derive(Debug)]
pub(crate) struct Offline {
    pub(crate) node: Node,
    pub(crate) tasks: Tasks,
}

impl Offline {
    pub(crate) async fn close(self) {
        self.tasks.shutdown(Duration::from_secs(4)).await;
        self.node.close();
    }
}

/// Runs `work` on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(work)
}
