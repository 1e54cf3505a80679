//! What goes on, for people and scripts: `pacstore status` and `pacstore resolve`.
//!
//! - Invariant: the fields that scripts rely on change only with a major version.
//! - Not here: how it is printed.
//! - Read first: `docs/design.md`, "What scripts rely on".

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use pacstore_names::{FellBack, ImporterLine, State, Summary};
use serde::{Deserialize, Serialize};

use crate::bytes_out::BytesOut;
use crate::importer::RoundReport;
use crate::machine::prefetch::PrefetchStatus;
use crate::machine::scrub::ScrubStatus;
use crate::mirror::Mirror;
use crate::node::Node;
use crate::repository::RepositoryStatus;

/// From this age on a repository is old, though still served.
pub const WARN_AFTER: Duration = Duration::from_hours(6);

/// What goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub peer_id: Option<String>,
    /// `http://ADDR:PORT` of the gateway, where it runs.
    pub gateway: Option<String>,
    /// The mirrors in configuration order.
    pub mirrors: Vec<MirrorStatus>,
    /// The repositories without importer, in configuration order.
    #[serde(default)]
    pub repositories: Vec<RepositoryStatus>,
    /// Bytes that left the gateway, by first source.
    pub bytes: BytesOut,
    /// The store.
    pub store: StoreStatus,
    /// Connected peers.
    pub peers: usize,
    /// Addresses that we listen on.
    pub addresses: Vec<String>,
    /// Downloads under way.
    pub fetching: usize,
    /// Imports.
    pub imports: Vec<ImportStatus>,
    /// Updates of this machine.
    #[serde(default)]
    pub prefetch: PrefetchStatus,
    /// What re-reading the store has seen.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Tasks.
    pub tasks: Vec<TaskStatus>,
}

/// One mirror.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// Its NAME.
    pub name: String,
    /// The tree served now.
    pub tree: Option<String>,
    /// Sequence of its record.
    pub sequence: Option<u64>,
    /// Age of the oldest repository in seconds.
    pub age_s: Option<u64>,
    /// The worst of its repositories.
    pub state: String,
    /// Snapshots kept.
    pub heads: usize,
    /// What last went wrong while following.
    pub error: Option<String>,
}

/// The store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Bytes of all files.
    pub bytes: u64,
    /// Of them, those that may be evicted.
    pub evictable: u64,
    /// Cap of the evictable.
    pub max_bytes: u64,
    /// Files.
    pub files: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
}

/// One import.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportStatus {
    /// The mirror's NAME.
    pub name: String,
    /// What the round does at the moment.
    pub step: String,
    /// Files done and in all of this step.
    pub files: (u64, u64),
    /// Bytes done and in all of this step.
    pub bytes: (u64, u64),
    /// The last round.
    pub last: Option<RoundReport>,
}

/// One task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Its name.
    pub name: String,
    /// What it is at.
    pub state: String,
}

impl Node {
    /// What goes on now; `gateway` is where the gateway listens.
    pub async fn status(&self, gateway: Option<String>) -> Status {
        let stats = self.inner.store.stats();
        Status {
            peer_id: self.peer_id().map(|id| id.to_string()),
            gateway,
            mirrors: self
                .inner
                .mirrors
                .iter()
                .map(|mirror| self.mirror_status(mirror))
                .collect(),
            repositories: self
                .inner
                .repositories
                .all
                .iter()
                .map(|repository| repository.status(self.inner.clock.unix_seconds()))
                .collect(),
            bytes: self.bytes_out(),
            store: StoreStatus {
                bytes: stats.bytes,
                evictable: stats.evictable,
                max_bytes: stats.max_bytes,
                files: stats.files,
                index_bytes: stats.index_bytes,
            },
            peers: self.inner.net.as_ref().map_or(0, |net| net.peers().len()),
            addresses: self.addresses().await.iter().map(ToString::to_string).collect(),
            fetching: self.inner.fetch.active(),
            imports: self
                .inner
                .imports
                .iter()
                .map(|import| {
                    let now = import.watch().borrow().clone();
                    ImportStatus {
                        name: import.name().to_string(),
                        step: format!("{:?}", now.step).to_lowercase(),
                        files: (now.files_done, now.files_total),
                        bytes: (now.bytes_done, now.bytes_total),
                        last: import.last(),
                    }
                })
                .collect(),
            prefetch: self.prefetch_status().await,
            scrub: self.scrub_status(),
            tasks: self
                .inner
                .tasks
                .report()
                .into_iter()
                .map(|task| TaskStatus {
                    name: task.name.clone(),
                    state: format!("{:?}", task.state).to_lowercase(),
                })
                .collect(),
        }
    }

    fn mirror_status(&self, mirror: &Arc<Mirror>) -> MirrorStatus {
        let summary = self.summary(mirror);
        MirrorStatus {
            name: summary.name,
            tree: summary.tree,
            sequence: summary.sequence,
            age_s: summary.age_s,
            state: state_name(summary.state),
            heads: mirror.heads().len(),
            error: self.inner.following.error(&mirror.name()),
        }
    }

    /// The head of `mirror` that is served now.
    pub fn summary(&self, mirror: &Mirror) -> Summary {
        let signed = mirror.signed();
        let importers: Vec<ImporterLine> = mirror
            .config
            .importers
            .iter()
            .map(|key| match signed.iter().find(|one| one.key == *key) {
                Some(one) => ImporterLine::from(one),
                None => ImporterLine {
                    key: *key,
                    sequence: None,
                    tree: None,
                },
            })
            .collect();
        let Some(current) = mirror.current() else {
            return Summary::none(&mirror.config.name, importers);
        };
        let seen = mirror.seen().current;
        let fell_back = FellBack::from(seen.as_ref().is_some_and(|seen| seen.fell_back));
        let sequence = seen.map_or(current.head.sequence, |seen| seen.sequence);
        let head = (&current.head, &current.cid, sequence);
        Summary::new(head, fell_back, importers, self.inner.clock.now(), WARN_AFTER)
    }
}

/// As scripts know it.
pub fn state_name(state: State) -> String {
    format!("{state:?}").to_lowercase()
}

/// An error with its sources in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
