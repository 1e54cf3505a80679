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

use crate::alert::OpenAlert;
use crate::bytes_out::BytesOut;
use crate::importer::{Importing, RoundReport};
use crate::machine::cache::CacheStatus;
use crate::machine::prefetch::PrefetchStatus;
use crate::machine::scrub::ScrubStatus;
use crate::mirror::Mirror;
use crate::node::Node;
use crate::pressure::Pressure;
use crate::process::Process;
use crate::replicas::ReplicaStatus;
use crate::repository::RepositoryStatus;
use crate::rounds::Outcomes;
use crate::uploads::UploadStatus;

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
    /// Files on their way: given through the gateway or fetched ahead, the oldest first.
    #[serde(default)]
    pub transfers: Vec<crate::transfers::TransferStatus>,
    /// Imports.
    pub imports: Vec<ImportStatus>,
    /// Updates of this machine.
    #[serde(default)]
    pub prefetch: PrefetchStatus,
    /// pacman's caches, from which packages are taken.
    #[serde(default)]
    pub caches: Vec<CacheStatus>,
    /// What re-reading the store has seen.
    #[serde(default)]
    pub scrub: ScrubStatus,
    /// Tasks.
    pub tasks: Vec<TaskStatus>,
    /// What is wrong, the oldest first.
    #[serde(default)]
    pub alerts: Vec<OpenAlert>,
    /// Alerts delivered, deliveries that failed, and alerts that wait, since the start.
    #[serde(default)]
    pub alert_counts: (u64, u64, u64),
    /// How often the node has looked for what is wrong since the start.
    #[serde(default)]
    pub alert_looks: u64,
    /// How busy the machine is.
    #[serde(default)]
    pub pressure: Pressure,
    /// What others got from us, and may get.
    #[serde(default)]
    pub upload: UploadStatus,
    /// Long work on the store that is under way.
    #[serde(default)]
    pub work: Vec<crate::work::WorkStatus>,
    /// What the daemon's process uses.
    #[serde(default)]
    pub process: Process,
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
    /// Free bytes of the file system.
    #[serde(default)]
    pub free_bytes: u64,
}

/// One import.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportStatus {
    /// The mirror's NAME.
    pub name: String,
    /// What the round does at the moment.
    pub step: String,
    /// Where it reads.
    pub source: String,
    /// Which reading of the source this is, from 1.
    pub pass: u32,
    /// One of the files that are worked on.
    pub current: Option<String>,
    /// Files done and in all of this step.
    pub files: (u64, u64),
    /// Bytes done and in all of this step.
    pub bytes: (u64, u64),
    /// Bytes a second of this step.
    pub rate: Option<u64>,
    /// Seconds that this step needs yet, by its rate.
    pub left_s: Option<u64>,
    /// For how many seconds the round has been under way.
    pub running_s: Option<u64>,
    /// Seconds until the next round.
    pub next_s: Option<u64>,
    /// What a due round waits for.
    pub waits: Option<String>,
    /// Rounds that failed since the last that did not.
    pub failures: u32,
    /// When a round last ended well, seconds since 1970.
    pub good_unix_s: Option<u64>,
    /// How many seconds the last round took.
    pub took_s: Option<u64>,
    /// How rounds ended since the start.
    pub outcomes: Outcomes,
    /// How it stands with the nodes that must hold a head before it is preferred, where some must.
    pub replicas: Option<ReplicaStatus>,
    /// The last round, also from before a restart.
    pub last: Option<RoundReport>,
}

impl ImportStatus {
    fn of(import: &Importing, now_unix_s: u64) -> Self {
        let (now, glance) = (import.watch().borrow().clone(), import.rounds.glance());
        let kept = import.rounds.kept();
        let seconds = |span: Option<Duration>| span.map(|span| span.as_secs());
        Self {
            name: import.name().to_string(),
            step: format!("{:?}", now.step).to_lowercase(),
            source: now.source,
            pass: now.pass,
            current: now.current,
            files: (now.files_done, now.files_total),
            bytes: (now.bytes_done, now.bytes_total),
            rate: glance.rate,
            left_s: seconds(glance.left),
            running_s: seconds(glance.running),
            next_s: seconds(glance.next),
            waits: glance.waits.map(str::to_owned),
            failures: kept.failures,
            good_unix_s: kept.good,
            took_s: seconds(glance.took),
            outcomes: glance.outcomes,
            replicas: import.replicas.status(import.config.replicas, now_unix_s),
            last: kept.last,
        }
    }
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
            repositories: self.repositories(),
            bytes: self.bytes_out(),
            store: StoreStatus {
                bytes: stats.bytes,
                evictable: stats.evictable,
                max_bytes: stats.max_bytes,
                files: stats.files,
                index_bytes: stats.index_bytes,
                free_bytes: crate::alert::free_bytes(&self.inner.config.store_dir).unwrap_or(0),
            },
            alerts: self.inner.alerts.open(),
            alert_counts: self.inner.alerts.counts(),
            alert_looks: self.inner.alerts.looks(),
            pressure: self.inner.pressure.get(),
            upload: self.inner.uploads.status(self.inner.config.swarm.strangers),
            work: self.work(),
            process: crate::process::read(),
            peers: self.inner.net.as_ref().map_or(0, |net| net.peers().len()),
            addresses: self.addresses().await.iter().map(ToString::to_string).collect(),
            fetching: self.inner.fetch.active(),
            transfers: self.inner.transfers.list(),
            imports: self
                .inner
                .imports
                .iter()
                .map(|import| ImportStatus::of(import, self.inner.clock.unix_seconds()))
                .collect(),
            prefetch: self.prefetch_status().await,
            caches: self.cache_status(),
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

    /// The repositories without importer, in configuration order.
    pub fn repositories(&self) -> Vec<RepositoryStatus> {
        let now = self.inner.clock.unix_seconds();
        let all = self.inner.repositories.all.iter();
        all.map(|one| one.status(now)).collect()
    }

    /// The head of `mirror` that is served now.
    pub fn summary(&self, mirror: &Mirror) -> Summary {
        let signed = mirror.signed();
        let importers: Vec<ImporterLine> = mirror
            .importers()
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
