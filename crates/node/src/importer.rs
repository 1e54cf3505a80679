//! Running imports: on their schedule, and when asked.
//!
//! Each import has one worker and does one round at a time. Who asks for a round gets
//! the report of one that began after asking: a round under way is awaited, then one
//! more runs. Mirrors go side by side, `[limits] rounds` of them at once.
//!
//! - Invariant: a failed round is reported and tried again with back-off; the worker
//!   never ends by itself.
//! - Invariant: a round in which nothing moves for [`STILL`] is given up, wherever it stands.
//! - Not here: what a round does (`pacstore-import`), heads (`crate::publish`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pacstore_import::{Importer, Progress, RepoFacts, RepoState, Round, RoundError, Status, Step};
use pacstore_names::{
    Arch, Counts, MirrorName, RepoState as HeadState, Repository, SigningKey, rfc3339, unix_seconds,
};
use pacstore_runtime::{Backoff, Clock, Pool, Tasks, jittered};
use pacstore_store::Store;
use pacstore_upstream::{Http, RsyncOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::interval;
use tracing::{info, warn};

use crate::config::{Config, Every, ImportConfig};
use crate::keys::Keys;
use crate::node::{Node, StartError};
use crate::publish::{PublishError, Published, publish, wants_check};
use crate::replicas::Replicas;
use crate::rounds::{Odd, Rounds};
use crate::status::chain;
use crate::turn;

/// Asked rounds that may wait.
const MAX_ASKED: usize = 64;

/// The longest time without any progress in a round. Looking is left out: rsync and HTTP have
/// limits of their own there and tell less.
pub(crate) const STILL: Duration = Duration::from_mins(15);

/// The longest time that a round may take beside the limits of its sources.
const BESIDE: Duration = Duration::from_hours(2);

/// Most detail of one repository kept in a head, in bytes.
const MAX_DETAIL: usize = 1000;

/// One `[[import]]` with its state.
#[derive(Debug)]
pub struct Importing {
    /// What the configuration says.
    pub config: ImportConfig,
    /// What signs; another one after a rotation.
    key: RwLock<Arc<SigningKey>>,
    importer: tokio::sync::Mutex<Importer>,
    progress: Progress,
    /// Whether the next round publishes what is held because of its signatures.
    accept: AtomicBool,
    /// Whether the next round looks, whatever the change stamp says: somebody asked for it.
    look: AtomicBool,
    pub(crate) rounds: Rounds,
    pub(crate) replicas: Replicas,
    /// When this daemon began, and when it last saw what another one signed with our key since then; seconds since 1970, 0 = never.
    pub(crate) began: u64,
    pub(crate) rival: AtomicU64,
    asks: mpsc::Sender<oneshot::Sender<RoundReport>>,
    asked: tokio::sync::Mutex<mpsc::Receiver<oneshot::Sender<RoundReport>>>,
}

/// What became of a round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RoundReport {
    /// The mirror.
    pub name: String,
    /// When it ended, RFC 3339.
    pub at: String,
    /// How.
    pub outcome: Outcome,
    /// The published tree after it.
    pub tree: Option<String>,
    /// The tree that was published and waits for replicas; until it has them the one above is served.
    #[serde(default)]
    pub coming: Option<String>,
    /// The KEY it is published under.
    pub key: String,
    /// Files and bytes of the tree.
    pub files: u64,
    /// Bytes of the tree.
    pub bytes: u64,
    /// Each repository.
    pub repositories: Vec<RepositoryReport>,
    /// What is odd but stopped nothing.
    pub warnings: Vec<String>,
    /// What looks wrong with the upstream itself; each also stands in `warnings`.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Why the round failed.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A new head was published and nothing is torn.
    Published,
    /// The published tree already is upstream's state.
    Unchanged,
    /// Some repository is torn or held; others may have moved.
    Torn,
    /// No tree came of it.
    #[default]
    Failed,
}

/// One repository in a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepositoryReport {
    /// Its name.
    pub name: String,
    /// Its folder in the tree.
    pub folder: String,
    /// `whole`, `torn` or `held`.
    pub state: String,
    /// What is wrong, a line a file.
    pub problems: Vec<String>,
}

impl Importing {
    /// Makes the importers of all `[[import]]`s.
    pub(crate) fn load_all(
        config: &Config,
        keys: &Keys,
        store: &Store,
        http: &Http,
        tasks: &Tasks,
        clock: &Clock,
    ) -> Result<Vec<Arc<Self>>, StartError> {
        let mut imports = Vec::new();
        for import in &config.imports {
            let work = config.state_dir.join("import").join(import.name.as_str());
            let mut importer = Importer::new(
                import.spec.clone(),
                store.clone(),
                http.clone(),
                tasks.clone(),
                clock.clone(),
                work,
            )
            .map_err(|source| StartError::Import {
                mirror: import.name.clone(),
                source,
            })?;
            // Each child is told its share; HTTP shares one bucket.
            let share = |rate: u64| rate / config.importing.rounds.min(config.imports.len()).max(1) as u64;
            importer.set_rsync(RsyncOptions {
                rate: config.importing.rate.map(|rate| share(rate).max(1)),
                ..RsyncOptions::default()
            });
            let (asks, asked) = mpsc::channel(MAX_ASKED);
            imports.push(Arc::new(Self {
                config: import.clone(),
                key: RwLock::new(Arc::new(keys.load(&import.key)?)),
                importer: tokio::sync::Mutex::new(importer),
                progress: Progress::default(),
                accept: AtomicBool::new(false),
                look: AtomicBool::new(false),
                rounds: Rounds::load(store, &import.name)?,
                replicas: Replicas::load(store, &import.name)?,
                began: clock.unix_seconds(),
                rival: AtomicU64::new(0),
                asks,
                asked: tokio::sync::Mutex::new(asked),
            }));
        }
        Ok(imports)
    }

    /// Keeps rounds from beginning while it is held; nothing if one is under way.
    pub(crate) fn no_round(&self) -> Option<tokio::sync::MutexGuard<'_, Importer>> {
        self.importer.try_lock().ok()
    }

    /// The mirror's NAME.
    pub fn name(&self) -> &MirrorName {
        &self.config.name
    }

    /// The KEY it publishes under.
    pub fn key_name(&self) -> String {
        self.key().name().to_string()
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_key(&self, key: SigningKey) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }

    /// Waits for the round under way, and keeps others from beginning while it is held.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, Importer> {
        self.importer.lock().await
    }

    /// The last round's report.
    pub fn last(&self) -> Option<RoundReport> {
        self.rounds.kept().last
    }

    /// Lets the next round publish what is held because of its signatures, or as older than the tree.
    pub fn accept(&self) {
        self.accept.store(true, Ordering::Relaxed);
    }

    /// Watches the round under way.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<Status> {
        self.progress.subscribe()
    }
}

impl Node {
    /// The import of the mirror `name`, in any case of letters.
    pub fn import(&self, name: &str) -> Option<Arc<Importing>> {
        self.inner
            .imports
            .iter()
            .find(|import| import.name().as_str().eq_ignore_ascii_case(name))
            .cloned()
    }

    /// All imports.
    pub fn imports(&self) -> &[Arc<Importing>] {
        &self.inner.imports
    }

    /// The report of a round that begins after this call. With a network the worker runs it;
    /// without one it runs right here.
    pub async fn import_now(&self, import: &Arc<Importing>) -> RoundReport {
        if self.inner.net.is_none() {
            import.look.store(true, Ordering::Relaxed);
            return round(self, import).await;
        }
        let (reply, report) = oneshot::channel();
        let asked = async {
            import.asks.send(reply).await.ok()?;
            report.await.ok()
        };
        match self.inner.tasks.stop().run_until_cancelled(asked).await {
            Some(Some(report)) => report,
            _ => failed(self, import, "the node is stopping".to_owned(), None),
        }
    }
}

/// The worker of one import.
pub(crate) async fn run(node: Node, import: Arc<Importing>) {
    let stop = node.inner.tasks.stop();
    let mut asked = import.asked.lock().await;
    let period = match import.config.every {
        Every::Period(period) => Some(period),
        Every::Manual => None,
    };
    let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_mins(15));
    let mut wait = period.map(|_| Duration::ZERO);
    loop {
        import.rounds.idle(wait);
        let tick = async {
            match wait {
                Some(wait) => {
                    tokio::time::sleep(wait).await;
                    import.rounds.waits("the machine to be less busy");
                    node.inner.pressure.calm().await;
                }
                None => std::future::pending().await,
            }
        };
        let mut replies = Vec::new();
        tokio::select! {
            () = stop.cancelled() => return,
            Some(reply) = asked.recv() => replies.push(reply),
            () = tick => {}
        }
        // Whoever asked before this round begins gets its report.
        while let Ok(reply) = asked.try_recv() {
            replies.push(reply);
        }
        if !replies.is_empty() {
            import.look.store(true, Ordering::Relaxed);
        }
        let Some(report) = stop.run_until_cancelled(Box::pin(round(&node, &import))).await else {
            return;
        };
        wait = period.map(|period| {
            if report.outcome == Outcome::Failed {
                backoff.next().max(period.min(Duration::from_mins(1)))
            } else {
                backoff.reset();
                jittered(period)
            }
        });
        for reply in replies {
            // Whoever asked may have gone.
            let _ = reply.send(report.clone());
        }
    }
}

/// One round in its turn, and what follows from it.
async fn round(node: &Node, import: &Arc<Importing>) -> RoundReport {
    import.rounds.waits("its turn");
    // Only a node that is stopping has closed them.
    let turn = node.inner.turns.acquire().await.ok();
    import.rounds.begin();
    // Where none of several sources is whole, the first of them is read once more.
    let sources = u32::try_from(import.config.spec.from.len()).map_or(u32::MAX, |count| count + 1);
    let longest = import.config.spec.limits.source * sources + BESIDE;
    let report = tokio::select! {
        report = tokio::time::timeout(longest, one_round(node, import)) => report.unwrap_or_else(|_| {
            let error = format!("a round did not end within {} h", longest.as_secs() / 3600);
            failed(node, import, error, None)
        }),
        step = stands_still(import) => {
            let minutes = STILL.as_secs() / 60;
            let error = format!("nothing moved for {minutes} min while it was at `{step:?}`").to_lowercase();
            failed(node, import, error, None)
        }
        never = turn::keep(import, &node.inner.turns, turn) => match never {},
    };
    tell_log(&report, &import.rounds.news(&report));
    let (node_, import_, report_) = (node.clone(), Arc::clone(import), report.clone());
    let keep = move || {
        let now = node_.inner.clock.unix_seconds();
        import_
            .rounds
            .end(&node_.inner.store, import_.name(), &report_, now)
    };
    if let Ok(Err(error)) = node.inner.tasks.blocking(Pool::Disk, keep).await {
        warn!(
            mirror = report.name,
            error = &error as &dyn std::error::Error,
            "cannot keep the report of a round"
        );
    }
    report
}

/// Ends when nothing has moved in the round for [`STILL`], with the step it stands at.
async fn stands_still(import: &Importing) -> Step {
    let watch = import.watch();
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let status = watch.borrow().clone();
        import.rounds.observe(&status, import.progress.beats());
        if status.step != Step::Looking && STILL <= import.rounds.glance().still {
            return status.step;
        }
    }
}

/// `news`: what of it was not in the last round as well.
fn tell_log(report: &RoundReport, news: &Odd) {
    for warning in &news.warnings {
        warn!(mirror = report.name, "{warning}");
    }
    match report.outcome {
        Outcome::Published => info!(mirror = report.name, tree = report.tree, "imported"),
        Outcome::Unchanged => {}
        Outcome::Torn => {
            for one in &news.torn {
                warn!(mirror = report.name, repository = one.name, folder = one.folder, state = one.state, problems = ?one.problems.iter().take(5).collect::<Vec<_>>(), "a repository stays as it was");
            }
        }
        Outcome::Failed => warn!(
            mirror = report.name,
            error = report.error,
            "import failed; will retry"
        ),
    }
}

/// Reads the upstream and publishes what came of it.
async fn one_round(node: &Node, import: &Arc<Importing>) -> RoundReport {
    let mut importer = import.importer.lock().await;
    if import.accept.swap(false, Ordering::Relaxed) {
        importer.accept();
    }
    if import.look.swap(false, Ordering::Relaxed) || wants_check(node, import) {
        importer.look();
    }
    match importer.round(&import.progress).await {
        Ok(round) => {
            let round = Arc::new(round);
            let (node_, import_, round_) = (node.clone(), Arc::clone(import), Arc::clone(&round));
            let published = node.inner.tasks.blocking(Pool::Disk, move || {
                let mirror = node_
                    .mirror(import_.name().as_str())
                    .ok_or(PublishError::NoMirror)?;
                publish(&node_, &import_, &mirror, &round_)
            });
            match published.await {
                Ok(Ok(published)) => {
                    if let Some(mirror) = node.mirror(import.name().as_str()) {
                        let (node_, import_) = (node.clone(), Arc::clone(import));
                        node.inner
                            .tasks
                            .spawn("publish", async move { node_.tell(&import_, &mirror).await });
                    }
                    done(node, import, &round, published)
                }
                Ok(Err(error)) => failed(node, import, chain(&error), error.hint()),
                Err(_) => failed(node, import, "the node is stopping".to_owned(), None),
            }
        }
        Err(error) => round_failed(node, import, &error),
    }
}

fn blank(node: &Node, import: &Importing, outcome: Outcome) -> RoundReport {
    let current = node
        .mirror(import.name().as_str())
        .and_then(|mirror| mirror.current());
    RoundReport {
        name: import.name().to_string(),
        at: rfc3339(unix_seconds(node.inner.clock.now())),
        outcome,
        tree: current.as_ref().map(|head| head.head.tree.to_string()),
        coming: import.replicas.waiting().map(|waits| waits.head.tree.to_string()),
        key: import.key_name(),
        files: current.as_ref().map_or(0, |head| head.head.counts.files),
        bytes: current.as_ref().map_or(0, |head| head.head.counts.bytes),
        repositories: Vec::new(),
        warnings: Vec::new(),
        alarms: Vec::new(),
        error: None,
        hint: None,
    }
}

fn done(node: &Node, import: &Importing, round: &Round, published: Published) -> RoundReport {
    let torn = round
        .repositories
        .iter()
        .any(|repository| repository.state != RepoState::Whole);
    let outcome = match (torn, published) {
        (true, _) => Outcome::Torn,
        (false, Published::Tree) => Outcome::Published,
        (false, Published::Facts | Published::Same) => Outcome::Unchanged,
    };
    let mut report = blank(node, import, outcome);
    report.repositories = round.repositories.iter().map(repository_report).collect();
    report.warnings.clone_from(&round.warnings);
    report.alarms = round.alarms.iter().map(ToString::to_string).collect();
    report
        .warnings
        .extend(round.alarms.iter().map(ToString::to_string));
    report
}

fn failed(node: &Node, import: &Importing, error: String, hint: Option<String>) -> RoundReport {
    let mut report = blank(node, import, Outcome::Failed);
    report.error = Some(error);
    report.hint = hint;
    report
}

fn round_failed(node: &Node, import: &Importing, error: &RoundError) -> RoundReport {
    let mut report = failed(node, import, chain(error), error.hint().map(str::to_owned));
    match error {
        RoundError::Torn { repositories, .. } => {
            report.outcome = Outcome::Torn;
            report.repositories = repositories.iter().map(repository_report).collect();
        }
        RoundError::NoSource { attempts, .. } => {
            let each = attempts
                .iter()
                .map(|(source, why)| format!("{source}: {}", chain(why)));
            let why: Vec<String> = each.collect();
            report.error = Some(format!("{error}: {}", why.join("; ")));
        }
        _ => {}
    }
    report
}

fn repository_report(facts: &RepoFacts) -> RepositoryReport {
    let (state, problems) = match &facts.state {
        RepoState::Whole => ("whole", Vec::new()),
        RepoState::Torn(troubles) => ("torn", troubles.iter().map(ToString::to_string).collect()),
        RepoState::Held { with } => (
            "held",
            vec![format!("{with}, with which it moves, is torn or held")],
        ),
        RepoState::Doubted { troubles, until } => {
            let problems = troubles.iter().map(ToString::to_string);
            let until = format!("published as it is after {}", rfc3339(*until));
            ("held", problems.chain([until]).collect())
        }
    };
    RepositoryReport {
        name: facts.name.clone(),
        folder: facts.folder.clone(),
        state: state.to_owned(),
        problems,
    }
}

/// What a head says of a repository; `old` is what the last head said of it.
pub(crate) fn head_repository(facts: &RepoFacts, old: Option<&Repository>, now: u64) -> Repository {
    let mut problems = repository_report(facts).problems;
    if matches!(facts.state, RepoState::Doubted { .. }) {
        // Until when it waits, to the second: that would be another head with every round.
        problems.pop();
    }
    let (state, detail) = match &facts.state {
        RepoState::Whole => (HeadState::Whole, None),
        RepoState::Torn(_) => (HeadState::Torn, Some(short(&problems))),
        RepoState::Held { .. } | RepoState::Doubted { .. } => (HeadState::Held, Some(short(&problems))),
    };
    let times = &facts.times;
    let files_time = times.files.max(times.files_sig);
    Repository {
        name: facts.name.clone(),
        folder: facts.folder.clone(),
        arch: facts
            .arch
            .iter()
            .filter_map(|arch| arch.parse::<Arch>().ok())
            .collect(),
        upstream_time: facts.upstream_time.unwrap_or(0),
        checked: if facts.checked {
            now
        } else {
            old.map_or(0, |old| old.checked)
        },
        db_time: times.db.max(times.db_sig).unwrap_or(0),
        files_time,
        state,
        detail,
    }
}

/// The first problems, in one line that a head may hold.
fn short(problems: &[String]) -> String {
    let mut text: String = problems.join("; ").chars().filter(|c| !c.is_control()).collect();
    if text.len() > MAX_DETAIL {
        let cut = (0..=MAX_DETAIL - 3)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

/// Counts as heads have them.
pub(crate) fn counts(round: &Round) -> Counts {
    Counts {
        files: round.counts.files,
        bytes: round.counts.bytes,
    }
}
