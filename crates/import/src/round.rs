//! One round: a source is read until it holds still, checked, and becomes a tree.
//!
//! ```text
//! look -> databases in -> files in -> look again -> check -> tree -> commit
//!   ^                                     |
//!   +------------- it moved (3 passes) ---+
//! ```
//!
//! - Invariant: what a round gives is in the store and held there; a round that fails changes nothing that is held.
//! - Invariant: the tree depends on the upstream's state and the spec alone (torn repositories aside).
//! - Not here: heads and names (crate `node`).
//! - Read first: design.md, "Tree" and "Head".

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use cid::Cid;
use pacstore_runtime::{Clock, Pool, Tasks, deadline};
use pacstore_store::Store;
use pacstore_upstream::{Http, Rsync, RsyncOptions};
use tracing::{info, warn};

use crate::build::{Build, Built, Labels, Outcome};
use crate::error::{IntakeError, RoundError, SourceError};
use crate::facts::FileFacts;
use crate::intake::{Intakes, Job, Taken, Taking, sweep};
use crate::judge::{Verdict, judge};
use crate::look::Look;
use crate::manifest::Manifest;
use crate::names;
use crate::progress::{Progress, Step};
use crate::repos::{self, Databases, Opened, Repo};
use crate::scan::Filter;
use crate::source::{Directory, Module, Transport, Want};
use crate::spec::{Compiled, Files, ImportSpec, Source, SpecError};
use crate::stamp::{self, ChangeStamp};
use crate::state::{Kept, RegionMark, RepoFacts, RepoState, State};
use crate::tree::{Row, arrange};
use crate::trouble::Trouble;
use crate::view::{Item, NoFile, Place, Stamp, View};
use crate::web::Web;

/// Warnings that are kept of one round.
const MAX_WARNINGS: usize = 100;

/// Numbers of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Files in the tree.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the tree before did not have, or had with other bytes.
    pub new: u64,
    /// Files that only the tree before had.
    pub removed: u64,
}

/// What a round gave.
#[derive(Debug, Clone)]
pub struct Round {
    /// Root of the tree. The store holds it under [`Importer::label`] until the next round moves on.
    pub tree: Cid,
    /// Whether it is another than that of the round before.
    pub changed: bool,
    /// All repositories, by folder and name.
    pub repositories: Vec<RepoFacts>,
    /// How old the upstream says its state is: its change stamp, else the newest database; seconds since 1970.
    pub upstream_time: Option<u64>,
    /// What is in the tree.
    pub counts: Counts,
    /// What was left out, and why; one line each.
    pub warnings: Vec<String>,
    /// Which source was read.
    pub source: Source,
    /// How often it was read.
    pub passes: u32,
}

impl Round {
    /// Whether a repository is torn or held.
    pub fn is_torn(&self) -> bool {
        self.repositories.iter().any(|repo| repo.state != RepoState::Whole)
    }
}

/// Imports one mirror, round by round.
#[derive(Debug)]
pub struct Importer {
    spec: ImportSpec,
    compiled: Compiled,
    store: Store,
    http: Http,
    rsync: RsyncOptions,
    tasks: Tasks,
    clock: Clock,
    work_dir: PathBuf,
    labels: Labels,
    manifest: Option<Arc<Manifest>>,
}

enum Failed {
    Source(SourceError),
    Round(RoundError),
}

impl<E: Into<SourceError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Source(error.into())
    }
}

fn ours(error: impl Into<IntakeError>) -> Failed {
    Failed::Round(RoundError::Intake(error.into()))
}

/// What was taken in this round, by upstream path.
type Taker = HashMap<Box<[u8]>, Taken>;

/// A row that would be in the tree, and whether the layout moved it.
type NewRow = (Box<[u8]>, Row, bool);

impl Importer {
    /// An importer that keeps its memory and its staged files in `work_dir` (its own; on the store's file system, so
    /// that files can be moved and linked).
    ///
    /// # Errors
    /// [`SpecError`] if the spec cannot be imported.
    pub fn new(
        spec: ImportSpec,
        store: Store,
        http: Http,
        tasks: Tasks,
        clock: Clock,
        work_dir: impl Into<PathBuf>,
    ) -> Result<Self, SpecError> {
        let compiled = spec.compile()?;
        let labels = Labels::new(&spec.mirror);
        let (work_dir, rsync) = (work_dir.into(), RsyncOptions::default());
        Ok(Self { spec, compiled, store, http, rsync, tasks, clock, work_dir, labels, manifest: None })
    }

    /// Other options for the rsync child.
    pub fn set_rsync(&mut self, options: RsyncOptions) {
        self.rsync = options;
    }

    /// What is imported.
    pub fn spec(&self) -> &ImportSpec {
        &self.spec
    }

    /// The label under which the store holds the tree of the last round.
    pub fn label(&self) -> &str {
        &self.labels.staged
    }

    /// Reads the upstream and gives the tree of its state.
    ///
    /// Dropping the future loses nothing that the next round could not do again; what is in the store stays.
    ///
    /// # Errors
    /// [`RoundError`]; the tree of the last round stays as it is.
    pub async fn round(&mut self, progress: &Progress) -> Result<Round, RoundError> {
        let state = self.prepare().await?;
        let stop = self.tasks.stop();
        let mut attempts = Vec::new();
        for source in &self.spec.from {
            let attempt = deadline("reading the source", self.spec.limits.source, self.attempt(source, state.as_ref(), progress));
            let done = stop.run_until_cancelled(attempt).await;
            let Some(done) = done else { return Err(IntakeError::Stopped.into()) };
            let error = match done {
                Ok(Ok(round)) => {
                    progress.begin(Step::Idle, 0, 0);
                    return Ok(round);
                }
                Ok(Err(Failed::Round(error))) => return Err(error),
                Ok(Err(Failed::Source(error))) => error,
                Err(late) => late.into(),
            };
            let ends = error.is_ours();
            warn!(mirror = self.spec.mirror, %source, error = &error as &dyn std::error::Error, "source cannot be read");
            attempts.push((source.clone(), error));
            if ends {
                break;
            }
        }
        Err(RoundError::NoSource { mirror: self.spec.mirror.clone(), attempts })
    }

    /// Opens the manifest, brings it together with the store, and gives what the last round left.
    async fn prepare(&mut self) -> Result<Option<State>, RoundError> {
        let (work, open, build) = (self.work_dir.clone(), self.manifest.clone(), self.store.clone());
        let (labels, profile) = (self.labels.clone(), self.spec.profile);
        let prepared = self.tasks.blocking(Pool::Disk, move || -> Result<_, RoundError> {
            let wrong = |e| RoundError::WorkDir(work.clone(), e);
            for folder in ["copies", "web", "rsync"] {
                fs_err::create_dir_all(work.join(folder)).map_err(wrong)?;
            }
            sweep(&work.join("copies")).map_err(wrong)?;
            let manifest = match open {
                Some(manifest) => manifest,
                None => Arc::new(Manifest::open(&work.join("manifest.redb")).map_err(IntakeError::from)?),
            };
            let state = manifest.state().map_err(IntakeError::from)?;
            let state = state.filter(|state| state.profile == format!("{profile:?}"));
            let build = Build { profile, store: build, manifest: Arc::clone(&manifest), labels };
            let state = if build.recover(state.as_ref())? { state } else { None };
            if state.is_none() {
                manifest.forget_tree(&format!("{profile:?}")).map_err(IntakeError::from)?;
            }
            Ok((manifest, state))
        });
        let (manifest, state) = prepared.await.map_err(IntakeError::from)??;
        self.manifest = Some(manifest);
        Ok(state)
    }

    fn manifest(&self) -> Result<&Arc<Manifest>, Failed> {
        self.manifest.as_ref().ok_or_else(|| Failed::Round(IntakeError::Stopped.into()))
    }

    async fn open(&self, source: &Source, progress: &Progress) -> Result<Transport, Failed> {
        let filter = Filter {
            exclude: self.compiled.exclude.clone(),
            hidden: self.spec.hidden,
            limit: self.spec.limits.names,
        };
        Ok(match source {
            Source::Directory(path) => {
                let taking = if self.spec.replaced_by_rename { Taking::Link } else { Taking::Copy };
                Transport::Directory(Directory::open(path, filter, taking, &self.tasks, progress).await?)
            }
            Source::Rsync(url) => Transport::Rsync(Box::new(Module {
                rsync: Rsync::new(self.rsync.clone(), self.tasks.clone()),
                source: url.to_string(),
                staged: self.work_dir.join("rsync").join("tree"),
                scratch: self.work_dir.join("rsync").join("scratch"),
                exclude: self.spec.exclude.clone(),
                filter,
                deadline: self.spec.limits.source,
                tasks: self.tasks.clone(),
                progress: progress.clone(),
                root: None,
                looks: 0,
            })),
            Source::Http(url) => Transport::Web(Box::new(Web {
                http: self.http.clone(),
                root: url.clone(),
                layout: self.spec.layout,
                wanted: self.compiled.listed.clone(),
                exclude: self.compiled.exclude.clone(),
                also: self.compiled.also.clone(),
                hidden: self.spec.hidden,
                limits: self.spec.limits.clone(),
                profile: self.spec.profile,
                store: self.store.clone(),
                manifest: Arc::clone(self.manifest()?),
                tasks: self.tasks.clone(),
                progress: progress.clone(),
                folder: self.work_dir.join("web"),
                now: self.clock.now(),
                found: None,
            })),
        })
    }

    async fn stamp(&self, source: &Source, transport: &Transport) -> Option<ChangeStamp> {
        let stamp = self.spec.stamp.as_ref()?;
        stamp::read(stamp, source, transport.root(), (&self.http, &self.tasks, &self.spec.limits)).await
    }

    fn look(&self, view: &View, state: Option<&State>, ignored: &BTreeSet<Repo>) -> Look {
        Look::new(view, (&self.spec, &self.compiled), state, ignored, self.clock.now())
    }

    async fn attempt(&self, source: &Source, state: Option<&State>, progress: &Progress) -> Result<Round, Failed> {
        let shown = source.to_string();
        progress.source(&shown, 1);
        let mut transport = self.open(source, progress).await?;
        let mut view = transport.look().await?;
        let mut ignored = BTreeSet::new();
        let mut pass = 1;
        let mut lost_before = false;
        loop {
            progress.source(&shown, pass);
            let stamp = self.stamp(source, &transport).await;
            let look = self.look(&view, state, &ignored);
            if look.repos.is_empty() && self.spec.files == Files::Listed {
                return Err(Failed::Round(RoundError::NoDatabase { source_shown: shown }));
            }
            if look.kept.iter().all(|kept| *kept)
                && let Some(state) = state
                && let Some(tree) = state.tree()
            {
                return Ok(self.unchanged(state, tree, stamp.as_ref(), source, pass));
            }
            let mut work = Work { importer: self, look, stamp, state, now: self.clock.now(), progress };
            let intakes = self.intakes(&transport, progress, work.now)?;
            let mut taken = Taker::new();
            let opened = work.databases(&intakes, &view, &mut taken).await?;
            if let Some(mistaken) = opened.mistaken {
                ignored.insert(mistaken);
                continue;
            }
            let wants = work.wants(&opened.databases);
            transport.fetch(&mut view, wants).await?;
            let picks = work.picks(&view, &opened);
            work.take(&intakes, &view, &picks, &mut taken).await?;

            let again = transport.look().await?;
            let now_stamp = self.stamp(source, &transport).await;
            let later = self.look(&again, state, &ignored);
            let stable = work.look.still_holds(&later) && now_stamp == work.stamp;
            let more = pass < self.spec.limits.passes;
            if !stable && more {
                info!(mirror = self.spec.mirror, pass, "the source moved while it was read; going round again");
                (view, pass) = (again, pass + 1);
                continue;
            }
            progress.begin(Step::Checking, work.look.repos.len() as u64, 0);
            let mut checked = work.check(&view, &opened, &taken, &picks);
            if checked.troubles.iter().any(|t| !t.is_empty()) && more && !matches!(transport, Transport::Directory(_)) {
                transport.distrust(checked.wrong_files()).await?;
                (view, pass) = (transport.look().await?, pass + 1);
                continue;
            }
            work.stamp = now_stamp;
            match work.finish(&view, opened, &mut checked, stable, source, pass).await? {
                Some(round) => {
                    self.tidy().await?;
                    return Ok(round);
                }
                None if lost_before => return Err(Failed::Round(RoundError::Lost(checked.lost))),
                None => {
                    let manifest = Arc::clone(self.manifest()?);
                    let forgotten = self.tasks.blocking(Pool::Disk, move || manifest.forget_facts()).await?;
                    forgotten.map_err(ours)?;
                    lost_before = true;
                    view = transport.look().await?;
                }
            }
        }
    }

    fn intakes(&self, transport: &Transport, progress: &Progress, now: SystemTime) -> Result<Intakes, Failed> {
        let (taking, origin) = transport.taking();
        Ok(Intakes {
            profile: self.spec.profile,
            store: self.store.clone(),
            manifest: Arc::clone(self.manifest()?),
            tasks: self.tasks.clone(),
            progress: progress.clone(),
            root: transport.root(),
            taking,
            origin,
            scratch: self.work_dir.join("copies"),
            label: self.labels.pending.clone(),
            now,
        })
    }

    fn unchanged(&self, state: &State, tree: Cid, stamp: Option<&ChangeStamp>, source: &Source, passes: u32) -> Round {
        let stamped = stamp.and_then(ChangeStamp::time);
        let facts = state.repositories.iter().map(|kept| {
            let mut facts = kept.facts(RepoState::Whole);
            facts.upstream_time = stamped.or(facts.upstream_time);
            facts
        });
        let repositories: Vec<RepoFacts> = facts.collect();
        Round {
            tree,
            changed: false,
            upstream_time: stamped.or_else(|| repositories.iter().filter_map(|r| r.upstream_time).max()),
            repositories,
            counts: Counts { files: state.files, bytes: state.bytes, new: 0, removed: 0 },
            warnings: Vec::new(),
            source: source.clone(),
            passes,
        }
    }

    /// Removes what waited for the store and is not needed any more.
    async fn tidy(&self) -> Result<(), Failed> {
        let folders = [self.work_dir.join("copies"), self.work_dir.join("web")];
        let work_dir = self.work_dir.clone();
        let swept = self.tasks.blocking(Pool::Disk, move || folders.iter().try_for_each(|folder| sweep(folder))).await?;
        swept.map_err(|e| Failed::Source(SourceError::WorkDir(work_dir, e)))
    }
}

/// One pass at work.
struct Work<'a> {
    importer: &'a Importer,
    look: Look,
    stamp: Option<ChangeStamp>,
    state: Option<&'a State>,
    now: SystemTime,
    progress: &'a Progress,
}

/// The databases of those repositories that are looked at.
struct AllOpened {
    /// By number of the repository; none for one that is kept or torn already.
    databases: Vec<Option<Box<Databases>>>,
    /// Why one is torn already.
    troubles: Vec<Vec<Trouble>>,
    /// Something that is no repository after all.
    mistaken: Option<Repo>,
}

/// A name that is to be in the tree: its place in the view, its path in the tree, whether the layout moved it.
struct Pick {
    at: usize,
    tree: Box<[u8]>,
    moved: bool,
}

/// What checking gave.
struct Checked {
    /// By number of the repository.
    troubles: Vec<Vec<Trouble>>,
    /// Of what belongs to no repository.
    loose: Vec<Trouble>,
    rows: Vec<(Box<[u8]>, Row)>,
    lost: usize,
}

impl Checked {
    /// Upstream paths of files that are there with wrong bytes.
    fn wrong_files(&self) -> Vec<Vec<u8>> {
        let all = self.troubles.iter().flatten();
        let wrong = all.filter(|t| match t {
            Trouble::File { problem, .. } => problem.what != pacstore_pacman::What::Missing,
            Trouble::Database { .. } => true,
            _ => false,
        });
        wrong.map(|t| t.path().into_bytes()).collect()
    }
}

impl Work<'_> {
    fn is_kept(&self, repo: usize) -> bool {
        self.look.is_kept(self.look.region_of.get(repo).copied())
    }

    /// The facts of a place in the view, or why it has none.
    fn facts(view: &View, taken: &Taker, at: usize) -> Result<FileFacts, Trouble> {
        let Some((path, item)) = view.files.get(at) else {
            return Err(Trouble::NoFile { path: String::new(), why: NoFile::Absent });
        };
        let shown = || names::show(path);
        match (item, taken.get(path)) {
            (Item::None(why), _) => Err(Trouble::NoFile { path: shown(), why: *why }),
            (_, Some(Taken::Facts(facts))) => Ok(facts.clone()),
            (_, Some(Taken::None(why))) => Err(Trouble::NoFile { path: shown(), why: *why }),
            (_, Some(Taken::Moved) | None) => Err(Trouble::Moving { path: shown() }),
        }
    }

    /// Takes the databases in and reads them.
    async fn databases(&self, intakes: &Intakes, view: &View, taken: &mut Taker) -> Result<AllOpened, Failed> {
        let repos: Vec<(usize, &Repo)> =
            self.look.repos.iter().enumerate().filter(|(i, _)| !self.is_kept(*i)).collect();
        let places = repos.iter().flat_map(|(_, repo)| repos::own_files(view, repo)).map(|(_, at)| at);
        let places: BTreeSet<usize> = places.collect();
        self.bring(intakes, view, &places.into_iter().collect::<Vec<_>>(), taken, true).await?;
        let count = self.look.repos.len();
        let mut all = AllOpened {
            databases: (0..count).map(|_| None).collect(),
            troubles: vec![Vec::new(); count],
            mistaken: None,
        };
        for (number, repo) in repos {
            let known = self.state.is_some_and(|s| s.kept(&repo.folder, &repo.name).is_some())
                || self.importer.compiled.listed.is_some();
            let facts: HashMap<usize, Result<FileFacts, Trouble>> = repos::own_files(view, repo)
                .into_iter()
                .map(|(_, at)| (at, Self::facts(view, taken, at)))
                .collect();
            let (store, view_of, repo_of) = (self.importer.store.clone(), own_view(view, repo), repo.clone());
            let by_path: HashMap<Box<[u8]>, Result<FileFacts, Trouble>> = facts
                .into_iter()
                .filter_map(|(at, facts)| view.files.get(at).map(|(path, _)| (path.clone(), facts)))
                .collect();
            let opened = self.importer.tasks.blocking(Pool::Hash, move || {
                let lookup = |at: usize| match view_of.files.get(at).and_then(|(path, _)| by_path.get(path)) {
                    Some(facts) => facts.clone(),
                    None => Err(Trouble::NoFile { path: String::new(), why: NoFile::Absent }),
                };
                repos::open(&store, &view_of, &repo_of, &lookup, known)
            });
            match opened.await?.map_err(ours)? {
                Opened::Databases(databases) => {
                    if let Some(slot) = all.databases.get_mut(number) {
                        *slot = Some(databases);
                    }
                }
                Opened::Torn(troubles) => {
                    if let Some(slot) = all.troubles.get_mut(number) {
                        *slot = troubles;
                    }
                }
                Opened::NoRepository => {
                    all.mistaken = Some(repo.clone());
                    return Ok(all);
                }
            }
        }
        Ok(all)
    }

    /// The files that the databases name.
    fn wants(&self, databases: &[Option<Box<Databases>>]) -> Vec<Want> {
        let mut wants = Vec::new();
        for (repo, databases) in self.look.repos.iter().zip(databases) {
            for desc in databases.iter().flat_map(|d| &d.main.entries) {
                wants.push(Want { path: repo.path(&desc.filename), expected: Some((desc.csize, desc.sha256)) });
                wants.push(Want { path: repo.path(&format!("{}.sig", desc.filename)), expected: None });
            }
        }
        wants
    }

    /// The names that the tree is to have, out of the parts that are not kept.
    fn picks(&self, view: &View, opened: &AllOpened) -> Vec<Pick> {
        let mut places: Vec<usize> = Vec::new();
        if self.importer.spec.files == Files::All {
            places.extend(0..view.files.len());
        } else {
            for (repo, databases) in self.look.repos.iter().zip(&opened.databases) {
                let Some(databases) = databases else { continue };
                places.extend(repos::own_files(view, repo).into_iter().map(|(_, at)| at));
                for desc in &databases.main.entries {
                    places.extend(view.position(&repo.path(&desc.filename)));
                    places.extend(view.position(&repo.path(&format!("{}.sig", desc.filename))));
                }
            }
            let also = &self.importer.compiled.also;
            let matching = view.files.iter().enumerate().filter(|(_, (path, _))| also.covers_file(path));
            places.extend(matching.map(|(at, _)| at));
            places.sort_unstable();
            places.dedup();
        }
        let lost: Vec<bool> = (0..self.look.regions.len())
            .map(|region| self.look.repos_of(region).any(|(i, _)| opened.troubles.get(i).is_some_and(|t| !t.is_empty())))
            .collect();
        let pick = |at: usize| {
            let (path, _) = view.files.get(at)?;
            let mapped = self.look.mapping.to_tree(path);
            let region = self.look.regions.of(&mapped.path);
            let torn = region.is_some_and(|region| lost.get(region) == Some(&true));
            let wanted = !torn && !self.look.is_kept(region);
            wanted.then(|| Pick { at, tree: mapped.path.into(), moved: mapped.moved })
        };
        places.into_iter().filter_map(pick).collect()
    }

    async fn take(&self, intakes: &Intakes, view: &View, picks: &[Pick], taken: &mut Taker) -> Result<(), Failed> {
        let places: Vec<usize> = picks.iter().map(|pick| pick.at).collect();
        self.bring(intakes, view, &places, taken, false).await
    }

    /// Brings the files at these places into the store, unless they are known. `sure`: only what is there for certain.
    async fn bring(
        &self,
        intakes: &Intakes,
        view: &View,
        places: &[usize],
        taken: &mut Taker,
        sure: bool,
    ) -> Result<(), Failed> {
        let mut asked: Vec<(usize, Box<[u8]>, Stamp, Place)> = Vec::new();
        for at in places {
            let Some((path, Item::File { stamp, place })) = view.files.get(*at) else { continue };
            if taken.contains_key(path) {
                continue;
            }
            if let Place::Known(facts) = place {
                taken.insert(path.clone(), Taken::Facts((**facts).clone()));
                continue;
            }
            asked.push((*at, path.clone(), stamp.clone(), place.clone()));
        }
        let (manifest, store) = (Arc::clone(&intakes.manifest), intakes.store.clone());
        let look_up = move || -> Result<_, IntakeError> {
            let mut known: Vec<Option<FileFacts>> = Vec::with_capacity(asked.len());
            manifest.facts(asked.iter().map(|(_, path, stamp, _)| (&**path, stamp)), |_, facts| known.push(facts))?;
            if sure {
                for slot in &mut known {
                    if let Some(facts) = slot
                        && store.file(&facts.root)?.is_none()
                    {
                        *slot = None;
                    }
                }
            }
            Ok((asked, known))
        };
        let (asked, known) = self.importer.tasks.blocking(Pool::Disk, look_up).await?.map_err(ours)?;
        let mut jobs = Vec::new();
        for ((at, path, stamp, place), known) in asked.into_iter().zip(known) {
            match known {
                Some(facts) => drop(taken.insert(path, Taken::Facts(facts))),
                None => jobs.push(Job { at, path, stamp, place }),
            }
        }
        let bytes = jobs.iter().map(|job| job.stamp.size()).sum();
        self.progress.begin(Step::Reading, jobs.len() as u64, bytes);
        for (at, outcome) in intakes.take(jobs).await.map_err(ours)? {
            if let Some((path, _)) = view.files.get(at) {
                taken.insert(path.clone(), outcome);
            }
        }
        Ok(())
    }

    /// Checks every repository that is looked at, and makes the rows of all that is.
    fn check(&self, view: &View, opened: &AllOpened, taken: &Taker, picks: &[Pick]) -> Checked {
        let facts = |at: usize| Self::facts(view, taken, at);
        let mut troubles = opened.troubles.clone();
        for (number, repo) in self.look.repos.iter().enumerate() {
            let databases = opened.databases.get(number).and_then(Option::as_ref);
            if let (Some(databases), Some(slot)) = (databases, troubles.get_mut(number)) {
                slot.extend(repos::check(view, repo, databases, &facts));
            }
        }
        let mut seen: HashSet<String> = troubles.iter().flatten().map(Trouble::path).collect();
        let mut loose = Vec::new();
        let mut rows: Vec<NewRow> = Vec::with_capacity(picks.len());
        let mut blame = |region: Option<usize>, trouble: Trouble| {
            let first = region.and_then(|region| self.look.repos_of(region).next());
            match first.and_then(|(number, _)| troubles.get_mut(number)) {
                Some(slot) if seen.insert(trouble.path()) => slot.push(trouble),
                Some(_) => {}
                None => loose.push(trouble),
            }
        };
        for pick in picks {
            match facts(pick.at) {
                Ok(facts) => rows.push((pick.tree.clone(), Row::File(facts), pick.moved)),
                Err(trouble) => blame(self.look.regions.of(&pick.tree), trouble),
            }
        }
        if self.importer.spec.files == Files::All {
            for folder in view.folders.iter().filter(|folder| !self.look.mapping.is_passage(folder)) {
                let mapped = self.look.mapping.to_tree(folder);
                let path = names::join(&mapped.path, b"");
                if !self.look.is_kept(self.look.regions.of(&path)) {
                    rows.push((path.into(), Row::EmptyFolder, mapped.moved));
                }
            }
        }
        let (rows, dropped) = arrange(rows);
        for path in dropped {
            blame(self.look.regions.of(&path), Trouble::Clash { path: names::show(&path) });
        }
        Checked { troubles, loose, rows, lost: 0 }
    }

    /// Judges, builds and commits. Nothing if files were lost meanwhile.
    async fn finish(
        &self,
        view: &View,
        opened: AllOpened,
        checked: &mut Checked,
        stable: bool,
        source: &Source,
        passes: u32,
    ) -> Result<Option<Round>, Failed> {
        let importer = self.importer;
        let torn: Vec<bool> = checked.troubles.iter().map(|t| !t.is_empty()).collect();
        let verdicts = judge(&self.look, &torn, &importer.spec.atomic);
        let (facts, kept) = self.results(&opened, &checked.troubles, &verdicts);
        if !self.look.repos.is_empty() && facts.iter().all(|f| f.state != RepoState::Whole) {
            let Some((state, tree)) = self.state.and_then(|state| Some((state, state.tree()?))) else {
                return Err(Failed::Round(RoundError::Torn {
                    mirror: importer.spec.mirror.clone(),
                    repositories: facts,
                }));
            };
            let mut round = importer.unchanged(state, tree, None, source, passes);
            round.repositories = facts;
            return Ok(Some(round));
        }
        let mut stays: Vec<bool> = self.look.kept.clone();
        for (number, verdict) in verdicts.iter().enumerate() {
            if *verdict != Verdict::Moves
                && let Some(slot) = self.look.region_of.get(number).and_then(|region| stays.get_mut(*region))
            {
                *slot = true;
            }
        }
        let rows = self.rows_that_move(std::mem::take(&mut checked.rows), &stays);
        let any_torn = facts.iter().any(|f| f.state != RepoState::Whole);
        let marks = self.marks(&stays, stable, checked.loose.is_empty());
        let forget = self.forgotten(view, &stays)?;
        let fingerprint = importer.spec.fingerprint();
        let (profile, shown) = (format!("{:?}", importer.spec.profile), source.to_string());
        let build = Build {
            profile: importer.spec.profile,
            store: importer.store.clone(),
            manifest: Arc::clone(importer.manifest()?),
            labels: importer.labels.clone(),
        };
        let (regions, old) = (self.look.regions.clone(), self.state.cloned());
        self.progress.begin(Step::Building, rows.len() as u64, 0);
        let built = importer.tasks.blocking(Pool::Hash, move || -> Result<_, IntakeError> {
            let loose = regions.len();
            let stay = |region: Option<usize>| stays.get(region.unwrap_or(loose)).copied().unwrap_or_default();
            let finish = |tree: &Cid, difference: &crate::tree::Difference| {
                let mut state = State::new(tree, fingerprint, profile);
                state.repositories = kept;
                state.marks = marks;
                (state.files, state.bytes) = (difference.files, difference.bytes);
                state.source = shown;
                (state, forget)
            };
            let built = build.run(&rows, &regions, stay, old.as_ref(), finish)?;
            if !any_torn && matches!(built, Outcome::Built(_)) {
                build.store.release(&build.labels.pending)?;
            }
            Ok(built)
        });
        let built: Built = match built.await?.map_err(ours)? {
            Outcome::Built(built) => built,
            Outcome::Lost(lost) => {
                checked.lost = lost;
                return Ok(None);
            }
        };
        let Built { tree, files, bytes, new, removed } = built;
        let stamped = self.stamp.as_ref().and_then(ChangeStamp::time);
        Ok(Some(Round {
            tree,
            changed: self.state.and_then(State::tree) != Some(tree),
            upstream_time: stamped.or_else(|| facts.iter().filter_map(|f| f.upstream_time).max()),
            repositories: facts,
            counts: Counts { files, bytes, new, removed },
            warnings: self.warnings(&checked.loose),
            source: source.clone(),
            passes,
        }))
    }

    /// What is said of each repository, and what is kept of those that the tree will hold.
    fn results(
        &self,
        opened: &AllOpened,
        troubles: &[Vec<Trouble>],
        verdicts: &[Verdict],
    ) -> (Vec<RepoFacts>, Vec<Kept>) {
        let stamped = self.stamp.as_ref().and_then(ChangeStamp::time);
        let (mut facts, mut kept) = (Vec::new(), Vec::new());
        for (number, repo) in self.look.repos.iter().enumerate() {
            let before = self.state.and_then(|s| s.kept(&repo.folder, &repo.name));
            let databases = opened.databases.get(number).and_then(Option::as_ref);
            let state = match verdicts.get(number) {
                Some(Verdict::Torn) => RepoState::Torn(troubles.get(number).cloned().unwrap_or_default()),
                Some(Verdict::Held(by)) if !self.is_kept(number) => {
                    let with = self.look.repos.get(*by).map(Repo::shown).unwrap_or_default();
                    RepoState::Held { with }
                }
                _ => RepoState::Whole,
            };
            let fresh = databases.map(|databases| Kept {
                name: repo.name.clone(),
                folder: repo.folder.clone(),
                tree_folder: self.look.mapping.to_tree(&repo.folder).path,
                arch: repos::architecture(&repo.folder, &databases.main),
                times: databases.times,
                upstream_time: stamped.or(databases.times.newest_database()),
                packages: databases.main.entries.len() as u64,
            });
            let now = if state == RepoState::Whole {
                fresh.or_else(|| {
                    let mut same = before.cloned()?;
                    same.upstream_time = stamped.or(same.upstream_time);
                    Some(same)
                })
            } else {
                before.cloned()
            };
            if let Some(now) = now {
                facts.push(now.facts(state));
                kept.push(now);
            } else {
                let nothing = Kept {
                    name: repo.name.clone(),
                    folder: repo.folder.clone(),
                    tree_folder: self.look.mapping.to_tree(&repo.folder).path,
                    arch: None,
                    times: crate::state::DatabaseTimes::default(),
                    upstream_time: None,
                    packages: 0,
                };
                facts.push(RepoFacts { in_tree: false, ..nothing.facts(state) });
            }
        }
        (facts, kept)
    }

    /// The rows of all regions that do not stay as they are.
    fn rows_that_move(&self, mut rows: Vec<(Box<[u8]>, Row)>, stays: &[bool]) -> Vec<(Box<[u8]>, Row)> {
        let stay = |region: Option<usize>| stays.get(self.look.slot(region)).copied().unwrap_or_default();
        let above = |path: &[u8]| {
            let mut staying = self.look.folders.iter().enumerate().filter(|(region, _)| stay(Some(*region)));
            // A folder above one that stays is not empty, if that one is there at all.
            staying.any(|(_, folder)| {
                names::join(folder, b"").starts_with(path)
                    && self.state.is_some_and(|s| s.repositories.iter().any(|k| k.tree_folder == *folder))
            })
        };
        rows.retain(|(path, row)| {
            let moves = !stay(self.look.regions.of(path));
            moves && !(*row == Row::EmptyFolder && above(path))
        });
        rows
    }

    /// By what the parts that are whole now are known again.
    fn marks(&self, stays: &[bool], stable: bool, loose_is_whole: bool) -> Vec<RegionMark> {
        let folders = self.look.folders.iter().map(|f| Some(f.clone())).chain([None]);
        let parts = folders.zip(&self.look.marks).enumerate();
        let known = parts.filter(|(slot, (folder, (_, settled)))| {
            let kept = self.look.kept.get(*slot).copied().unwrap_or_default();
            let held = stays.get(*slot).copied().unwrap_or_default() && !kept;
            let whole = folder.is_some() || loose_is_whole;
            kept || (stable && *settled && !held && whole)
        });
        known.map(|(_, (folder, (mark, _)))| RegionMark { folder, mark: *mark }).collect()
    }

    /// Facts of files that the source does not have any more.
    fn forgotten(&self, view: &View, stays: &[bool]) -> Result<Vec<Box<[u8]>>, Failed> {
        let gone = |path: &[u8]| {
            let stays = stays.get(self.look.slot(self.look.region(path))).copied().unwrap_or_default();
            !stays && view.position(path).is_none()
        };
        self.importer.manifest()?.stale(gone).map_err(ours)
    }

    fn warnings(&self, loose: &[Trouble]) -> Vec<String> {
        let gone = self.look.gone.iter().map(|repo| format!("{} is gone from the source", repo.shown()));
        let out = loose.iter().map(|trouble| format!("left out: {trouble}"));
        let mut warnings: Vec<String> = gone.chain(out).take(MAX_WARNINGS).collect();
        let all = self.look.gone.len() + loose.len();
        if warnings.len() < all {
            warnings.push(format!("and {} more", all - warnings.len()));
        }
        for warning in &warnings {
            warn!(mirror = self.importer.spec.mirror, "{warning}");
        }
        warnings
    }
}

/// The part of a view that a repository's databases are in.
fn own_view(view: &View, repo: &Repo) -> View {
    let files = repos::own_files(view, repo).into_iter().filter_map(|(_, at)| view.files.get(at).cloned());
    let mut own = View { files: files.collect(), folders: Vec::new() };
    own.sort();
    own
}
