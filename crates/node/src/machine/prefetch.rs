//! Fetching what `pacman -Syu` would fetch, before anybody asks.
//!
//! - Invariant: one file at a time, and none begins while a client's download is under way.
//! - Invariant: nothing is fetched where all that is needed does not fit under the cap.
//! - Invariant: of a package and its signature the signature comes first.
//! - Not here: what is needed (`super`), when (`super::moment`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use pacstore_runtime::note;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use super::{Board, Listed, Need, moment};
use crate::config::PrefetchConfig;
use crate::error::StoreError;
use crate::fetch::FetchError;
use crate::node::Node;
use crate::open::Content;
use crate::serve::Answer;
use crate::status::chain;

/// Between two looks at whether now is a good moment, and two tries.
const AGAIN: Duration = Duration::from_mins(5);

/// Between two looks at whether somebody downloads.
const BUSY: Duration = Duration::from_secs(2);

/// Longest wait for what mirrors and importers tell, before the updates are worked out from what is here.
const NEWS: Duration = Duration::from_secs(10);

/// The slowest line that a file is waited for on, in bytes a second; pacman's own limits do not hold here.
const SLOWEST: u64 = 16 << 10;

/// Why nobody knows what the next update needs.
const NO_MACHINE: &str = "what is installed here is not known: `[pacman] config` is not set";
const NO_DATABASE: &str = "no database of pacman's repositories is here yet; `pacstore status` says why";

/// Updates, as scripts see them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchStatus {
    /// They are fetched ahead of time.
    pub enabled: bool,
    /// Files that the next `pacman -Syu` of this machine needs and that are here.
    pub ready: u64,
    /// Files that it needs and that are not.
    pub missing: u64,
    /// Bytes of these.
    pub missing_bytes: u64,
    /// They are being fetched.
    pub running: bool,
    /// Why they are not being fetched now, why one did not come, or why nobody knows what is needed.
    pub waiting: Option<String>,
}

/// What the worker is at.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    running: bool,
    waiting: Option<String>,
}

/// Fetches whenever there is something and the moment is good, until the node stops.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    let mut need = node.inner.machine.watch();
    let config = node.inner.config.machine.prefetch.clone();
    loop {
        let fetched = async {
            let Some(config) = &config else { return };
            if node.missing().await.unwrap_or_default().is_empty() {
                return node.waiting(None);
            }
            match moment::not_now(config, &node.inner.machine.line, hour_of(&node)).await {
                Some(why) => node.waiting(Some(why.to_owned())),
                None => node.fetch_updates(Some(config)).await,
            }
        };
        note("fetching what the next update needs");
        if stop.run_until_cancelled(fetched).await.is_none() {
            return;
        }
        note("waiting");
        let wait = async {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                // Its sender lives as long as the node.
                _ = need.changed() => {}
                () = node.inner.machine.fetch_now.notified() => node.fetch_updates(None).await,
            }
        };
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

/// The hour of the day here.
fn hour_of(node: &Node) -> u8 {
    crate::hours::local(&node.inner.clock).hour().unsigned_abs()
}

impl Node {
    /// Asks for newer databases, looks at the machine, then fetches what its next update needs, whatever the hour. Gives
    /// how it ended.
    ///
    /// # Errors
    /// [`StoreError`] if the machine's state cannot be worked out; that a file does not come is told in the status.
    pub async fn prefetch(&self) -> Result<PrefetchStatus, StoreError> {
        self.ask_for_news().await;
        Box::pin(self.look_at_machine()).await?;
        self.fetch_updates(None).await;
        Ok(self.prefetch_status().await)
    }

    /// As [`Self::prefetch`], by the worker; [`Self::prefetch_status`] tells how far it is.
    ///
    /// # Errors
    /// [`StoreError`] if the machine's state cannot be worked out.
    pub async fn begin_prefetch(&self) -> Result<PrefetchStatus, StoreError> {
        self.ask_for_news().await;
        Box::pin(self.look_at_machine()).await?;
        if !self.missing().await?.is_empty() {
            Board::lock(&self.inner.machine.prefetch).running = true;
            self.inner.machine.fetch_now.notify_one();
        }
        Ok(self.prefetch_status().await)
    }

    /// All mirrors of repositories and all importers are asked at once. Who does not answer in time changes nothing: what
    /// is here is worked with then. pacman asks us for no database where we are its `CacheServer`, so this is how a new
    /// one is found.
    pub(crate) async fn ask_for_news(&self) {
        let mirrors = self.inner.mirrors.iter();
        let heads = futures::future::join_all(mirrors.map(|mirror| self.refresh(mirror)));
        let all = futures::future::join(heads, self.look_at_repositories());
        let _ = tokio::time::timeout(NEWS, Box::pin(all)).await;
    }

    /// What is ready and what is missing, as of the last look at the machine.
    pub async fn prefetch_status(&self) -> PrefetchStatus {
        let need = self.inner.machine.need();
        let missing = self.missing().await.unwrap_or_default();
        let unknown = if self.inner.config.machine.pacman_conf.is_none() {
            Some(NO_MACHINE)
        } else {
            need.databases.is_empty().then_some(NO_DATABASE)
        };
        let progress = Board::lock(&self.inner.machine.prefetch);
        PrefetchStatus {
            enabled: self.inner.config.machine.prefetch.is_some(),
            ready: (need.updates.len() - missing.len().min(need.updates.len())) as u64,
            missing: missing.len() as u64,
            missing_bytes: missing.iter().map(|one| one.len).sum(),
            running: progress.running,
            waiting: progress.waiting.clone().or(unknown.map(str::to_owned)),
        }
    }

    /// Updates that are not here.
    async fn missing(&self) -> Result<Vec<Listed>, StoreError> {
        let (store, need) = (self.inner.store.clone(), self.inner.machine.need());
        self.on_disk(move || {
            let mut missing = Vec::new();
            for listed in need.updates.iter().map(|at| &need.listed[*at]) {
                // One that is here and not given, or whose bytes somebody took away, is missing all the same.
                if need.is_unsound(listed) || !store.has_sha256(&listed.sha256).unwrap_or(false) {
                    missing.push(listed.clone());
                }
            }
            Ok(missing)
        })
        .await
    }

    fn waiting(&self, why: Option<String>) {
        let mut progress = Board::lock(&self.inner.machine.prefetch);
        progress.running = false;
        progress.waiting = why;
    }

    /// One after the other; with `moment` only while the moment is good, which is looked at before each.
    async fn fetch_updates(&self, moment: Option<&PrefetchConfig>) {
        let need = self.inner.machine.need();
        let max = self.inner.config.max_size;
        if need.needed_bytes > max {
            let why = format!(
                "what this machine needs has {} bytes, more than store.max_size ({max})",
                need.needed_bytes
            );
            return self.waiting(Some(why));
        }
        {
            let mut progress = Board::lock(&self.inner.machine.prefetch);
            progress.running = true;
            progress.waiting = None;
        }
        let missing = self.missing().await.unwrap_or_default();
        let (mut came, mut why) = (0, None);
        for listed in &missing {
            if let Some(config) = moment
                && let Some(not_now) = moment::not_now(config, &self.inner.machine.line, hour_of(self)).await
            {
                why = Some(not_now.to_owned());
                break;
            }
            match self.bring_with_signature(&need, listed).await {
                Ok(()) => came += 1,
                Err(error) => {
                    debug!(name = &*listed.filename, error, "an update does not come");
                    why = Some(format!("{}: {error}", listed.filename));
                }
            }
        }
        if came > 0 {
            info!(files = came, "fetched what the next update needs");
        }
        self.waiting(why);
    }

    async fn bring_with_signature(&self, need: &Arc<Need>, listed: &Listed) -> Result<(), String> {
        while self.inner.fetch.active() > 0 {
            tokio::time::sleep(BUSY).await;
        }
        let began = Instant::now();
        // pacman asks for it beside the package; a repository without signatures has none. It comes first: what stops
        // between the two must leave a package that is missing, not one that is ready without its signature.
        if let Err(error) = self.bring(need, listed, ".sig").await {
            debug!(name = &*listed.filename, error, "no signature beside it");
        }
        self.bring(need, listed, "").await?;
        let rate = self
            .inner
            .config
            .machine
            .prefetch
            .as_ref()
            .and_then(|config| config.rate);
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(listed.len as f64 / rate.max(1) as f64);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        Ok(())
    }

    /// Fetches one file into the store, if somebody gives it.
    pub(crate) async fn bring(&self, need: &Need, listed: &Listed, ending: &str) -> Result<(), String> {
        let mut file = match Box::pin(self.ask_listed(need, listed, ending)).await {
            Some(Answer::File(file)) => file,
            Some(Answer::NotFound(why)) => return Err(why),
            Some(Answer::NotNow(why)) => return Err(why.to_owned()),
            Some(Answer::Redirect(_)) => return Err("only a mirror has it that cannot be checked".to_owned()),
            Some(Answer::Directory(_)) | None => return Err("it cannot be looked up".to_owned()),
        };
        let patience = Duration::from_secs(60 + file.len / SLOWEST);
        file.be_patient(patience);
        let begin = (self.inner.clock.now(), tokio::time::Instant::now());
        let _told = (!file.is_here()).then(|| self.inner.transfers.ahead(&file.name, file.len));
        let fetched = async {
            let content = self.open(&file).await?;
            let root = content.root(&file.root);
            match content {
                Content::Arriving(mut reader) => reader.wait_complete().await,
                // In memory; wait until it is kept too.
                Content::Small(..) if !file.is_here() => {
                    let taken = Box::pin(self.inner.fetch.take(&file.root, &file.sources)).await;
                    taken.map(drop)
                }
                Content::Stored(_) | Content::Small(..) => Ok(()),
                // Given to a reader, but not kept: nothing is gained.
                Content::Through(_) => Err(FetchError::NoSource {
                    cid: file.root,
                    why: "there is no room to keep it".to_owned(),
                }),
            }?;
            self.fetched_ahead(&file, &root, begin);
            Ok::<(), FetchError>(())
        };
        match tokio::time::timeout(patience, Box::pin(fetched)).await {
            // Updates are looked for by their SHA-256.
            Ok(Ok(())) => crate::digests::learn(self, &file.root)
                .await
                .map_err(|error| chain(&error)),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("it does not come".to_owned()),
        }
    }
}
