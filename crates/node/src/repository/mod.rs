//! Repositories without an importer: the machine's own mirrors, as one whole and checked state.
//!
//! The database comes from a configured mirror, with its signature, never older than one already served. What it
//! says (name, length, SHA-256) makes the packages checkable, so that those may come from anybody.
//!
//! - Invariant: databases and signatures come from configured mirrors only; a package byte leaves only after it, or
//!   the whole file, was checked against the database.
//! - Invariant: of a repository that is not public, nothing is asked of or given to peers.
//! - Not here: mirrors with an importer (`crate::mirror`), HTTP.
//! - Read first: `ask.rs`, then `check.rs`, `line.rs`; `docs/semantics.md`, "Without importer".

mod agree;
mod ask;
mod away;
mod beside;
mod check;
mod good;
mod hold;
mod incoming;
mod index;
mod line;
mod loading;
mod order;
mod package;
mod pair;
mod peers;
mod redirected;
mod signature;
mod unsound;
mod whole;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cid::Cid;
use pacstore_pacman::DbKind;
use pacstore_store::Store;
use pacstore_upstream::{Mirrors, Observation, Url};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::RepositoryConfig;
use crate::error::StoreError;
use crate::fetch::InFlight;
use crate::node::Node;

use line::Line;
pub(crate) use package::PackageOf;
pub use redirected::Redirected;
pub(crate) use signature::{adopt_signature, has_signature};
pub(crate) use worker::run;

/// From this age on a database is old, though still given.
const WARN: Duration = crate::status::WARN_AFTER;

/// Beyond this age a database is not given any more.
const MAX_AGE: Duration = Duration::from_hours(24);

/// A measured rate says nothing after this time.
const RATE_HOLDS: Duration = Duration::from_mins(2);

/// What gives less, in bytes a second, is slower than most lines.
const COMMON_RATE: f64 = 1e6;

/// Fewer bytes say nothing about a rate.
const RATE_FROM: u64 = 64 << 10;

/// One repository.
#[derive(Debug)]
pub(crate) struct Repository {
    pub(crate) config: RepositoryConfig,
    database: Arc<Line>,
    files: Arc<Line>,
    /// What was seen of mirrors.
    ranking: Mirrors,
    /// Bytes a second of one transfer, and when that was.
    rates: Mutex<HashMap<Url, (f64, Instant)>>,
    /// Mirrors that were behind when they were last asked, and since when, in seconds since the epoch.
    late: Mutex<HashMap<Url, u64>>,
    judge: good::Judge,
}

/// All repositories of a node.
#[derive(Debug)]
pub(crate) struct Repositories {
    pub(crate) all: Vec<Arc<Repository>>,
    whole: whole::Flights,
    signatures: InFlight<signature::Got>,
    away: away::Away,
    /// One database is read at a time.
    reading: tokio::sync::Mutex<()>,
    pub(crate) redirected: redirected::Board,
}

/// One repository, as scripts see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryStatus {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub arch: String,
    /// Seconds since a mirror last said that this is its newest state.
    pub age_s: Option<u64>,
    /// `current`, `warn`, `refused`, `rollback` or `none`.
    pub state: String,
    /// Peers may be asked for its packages.
    pub public: bool,
    /// What is wrong with its mirrors.
    pub error: Option<String>,
}

impl Repositories {
    /// The configured ones, with what the store remembers. What it holds of others is let go.
    pub(crate) fn load(
        configured: &[RepositoryConfig],
        store: &Store,
        ranking: &Mirrors,
    ) -> Result<Self, StoreError> {
        incoming::sweep(store);
        unsound::sweep(store, configured)?;
        let mut all = Vec::new();
        for config in configured {
            let key = |kind: DbKind| format!("{}{}", prefix(config), kind.as_str());
            let line = |kind| Line::load(&config.name, kind, key(kind), store.clone()).map(Arc::new);
            all.push(Arc::new(Repository {
                database: line(DbKind::Db)?,
                files: line(DbKind::Files)?,
                ranking: ranking.clone(),
                rates: Mutex::default(),
                late: Mutex::default(),
                judge: good::Judge::load(config, store.clone())?,
                config: config.clone(),
            }));
        }
        let ours: Vec<String> = configured.iter().map(prefix).collect();
        for (label, _) in store.retained()? {
            if label.starts_with("repository/") && !ours.iter().any(|prefix| label.starts_with(prefix)) {
                store.release(&label)?;
            }
        }
        Ok(Self {
            all,
            whole: whole::Flights::default(),
            signatures: InFlight::default(),
            away: away::Away::default(),
            reading: tokio::sync::Mutex::default(),
            redirected: redirected::Board::default(),
        })
    }

    /// The repository of this name and architecture.
    pub(crate) fn get(&self, name: &str, arch: &str) -> Option<Arc<Repository>> {
        let wanted = |one: &&Arc<Repository>| one.config.name == name && one.config.arch == arch;
        self.all.iter().find(wanted).cloned()
    }

    /// States that nobody needs go. Blocks on the disk.
    pub(crate) fn prune(&self, now: u64, in_use: &[Cid]) -> Result<(), StoreError> {
        for one in &self.all {
            one.database.prune(now, in_use)?;
            one.files.prune(now, in_use)?;
            one.judge.unsound.prune()?;
        }
        Ok(())
    }

    /// How many packages are here and not given.
    pub(crate) fn unsound(&self) -> usize {
        self.all.iter().map(|one| one.judge.unsound.len()).sum()
    }
}

impl Repository {
    /// The newest database here.
    pub(crate) fn database_root(&self) -> Option<Cid> {
        self.database.current().map(|state| state.database.root)
    }

    /// The package may be here, and is not given: who signed it is not known or not trusted.
    pub(crate) fn is_unsound(&self, sha256: &[u8; 32]) -> bool {
        self.judge.unsound.has(sha256)
    }

    /// As `pacstore status` shows it.
    pub(crate) fn status(&self, now: u64) -> RepositoryStatus {
        let age = self.database.age(now);
        let lines = [&self.database, &self.files];
        let troubles = lines.map(|line| {
            line.trouble
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        });
        let rollback = troubles.iter().flatten().any(|trouble| trouble.rollback);
        let state = match age {
            None => "none",
            Some(age) if MAX_AGE < age => "refused",
            Some(_) if rollback => "rollback",
            Some(age) if WARN < age => "warn",
            Some(_) => "current",
        };
        let error: Vec<String> = troubles
            .into_iter()
            .flatten()
            .map(|trouble| trouble.text)
            .chain(self.judge.unsound.trouble())
            .collect();
        RepositoryStatus {
            name: self.config.name.clone(),
            arch: self.config.arch.clone(),
            age_s: age.map(|age| age.as_secs()),
            state: state.to_owned(),
            public: self.config.public,
            error: (!error.is_empty()).then(|| error.join("; ")),
        }
    }

    /// Notes that `mirror` is behind by about so much at `now`; since when.
    fn behind(&self, mirror: &Url, by: Duration, now: u64) -> u64 {
        self.ranking.tell_behind(mirror, by);
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        *late.entry(mirror.clone()).or_insert(now)
    }

    /// Notes that `mirror` is not behind; gives those that have been for longer than `limit`.
    fn settled(&self, mirror: &Url, now: u64, limit: Duration) -> Vec<String> {
        self.ranking.tell_behind(mirror, Duration::ZERO);
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.remove(mirror);
        let frozen = late
            .iter()
            .filter(|(_, since)| limit.as_secs() < now.saturating_sub(**since));
        let text = |(mirror, since): (&Url, &u64)| {
            format!(
                "{} has been behind for {} h",
                shown(mirror),
                now.saturating_sub(*since) / 3600
            )
        };
        frozen.map(text).collect()
    }

    /// Notes the rate of one transfer from the mirror at `folder`.
    fn measured(&self, folder: &Url, bytes: u64, took: Duration) {
        if bytes < RATE_FROM {
            return;
        }
        let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.insert(folder.clone(), (rate, Instant::now()));
    }

    /// Bytes a second of a transfer from there, if one was seen lately.
    fn rate(&self, folder: &Url) -> Option<f64> {
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let (rate, at) = rates.get(folder)?;
        (at.elapsed() < RATE_HOLDS).then_some(*rate)
    }

    /// Whether the mirror at `folder` may be much faster than `rate`: it was, or nobody knows and a line gives more than that.
    fn may_be_faster(&self, folder: &Url, rate: f64) -> bool {
        let known = self.ranking.rate(folder);
        let faster = known.map_or(rate < COMMON_RATE, |known| rate * 2.0 <= known as f64);
        faster && !self.ranking.is_paused(folder)
    }

    /// Its mirrors, the one to ask first in front.
    fn mirrors(&self) -> Vec<Url> {
        let mut order = self.config.upstreams.clone();
        self.ranking.sort(&mut order);
        order
    }

    /// What came from the mirror was of no use.
    fn failed(&self, mirror: &Url) {
        self.ranking.observe(mirror, Observation::Failed);
    }

    /// The file's URLs on its mirrors, best first.
    fn urls(&self, name: &str) -> Vec<Url> {
        let order = self.mirrors();
        let urls = order
            .iter()
            .map(|folder| pacstore_upstream::url_of(folder, name.as_bytes()));
        urls.filter_map(Result::ok).collect()
    }

    /// Names it among the runs of clients.
    fn run_name(&self, line: &Line) -> String {
        format!("{}{}", prefix(&self.config), line.kind.as_str())
    }
}

impl Node {
    /// All bytes of a small stored file.
    async fn read_all(&self, root: &Cid) -> Result<bytes::Bytes, StoreError> {
        let (store, root) = (self.inner.store.clone(), *root);
        self.disk(move || {
            let Some(file) = store.open_file(&root)? else {
                return Err(StoreError::State(root.to_string()));
            };
            let mut data = vec![0; file.info.len as usize];
            std::os::unix::fs::FileExt::read_exact_at(&file.file, &mut data, 0)
                .map_err(|error| StoreError::Disk(file.info.root, error))?;
            Ok(data.into())
        })
        .await
    }
}

/// Keys and labels of a repository begin so.
fn prefix(config: &RepositoryConfig) -> String {
    format!("repository/{}/{}/", config.name, config.arch)
}

/// A URL for people and for pacman: without user and password.
fn shown(url: &Url) -> String {
    plain(url).into()
}

/// The same as a URL.
pub(crate) fn plain(url: &Url) -> Url {
    let mut plain = url.clone();
    // Both fail only for URLs without a host, which carry no user either.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain
}
