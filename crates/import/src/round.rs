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
//! - Not here: heads and names (crate `node`), the work of one pass (`crate::work`, `crate::settle`).
//! - Read first: design.md, "Tree" and "Head".

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::ready;
use pacstore_runtime::{Clock, Pool, Stopped, Tasks};
use pacstore_store::Store;
use pacstore_upstream::{Http, RsyncOptions};
use tracing::info;

use crate::alone::Turn;
use crate::build::{Build, Labels, Outcome};
use crate::error::{IntakeError, RoundError, SourceError};
use crate::hold::Timer;
use crate::intake::{Intakes, sweep};
use crate::keyring::{ReadKeyring, read_keyring};
use crate::look::Look;
use crate::manifest::{Manifest, Update};
use crate::progress::{Progress, Step};
use crate::report::{Round, made, unchanged};
use crate::repos::Repo;
use crate::settle::{Settled, profile_key};
use crate::source::Transport;
use crate::spec::{Files, ImportSpec, Plan, Source, SpecError};
use crate::stamp::ChangeStamp;
use crate::stamped::Seen;
use crate::state::{RepoFacts, RepoState, State};
use crate::survey::Print;
use crate::taken::Taker;
use crate::upstreams::Upstreams;
use crate::view::View;
use crate::work::{Sure, Work};

/// Imports one mirror, round by round.
#[derive(Debug)]
pub struct Importer {
    pub(crate) plan: Arc<Plan>,
    pub(crate) store: Store,
    pub(crate) http: Http,
    pub(crate) rsync: RsyncOptions,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Clock,
    pub(crate) work_dir: PathBuf,
    pub(crate) rsync_dir: PathBuf,
    labels: Labels,
    pub(crate) manifest: Option<Arc<Manifest>>,
    pub(crate) accept: bool,
    /// Whether the next round looks, whatever the stamp says.
    pub(crate) look: bool,
    held: Timer,
    /// Since upstreams that are behind were last counted.
    pub(crate) behind: Timer,
    /// The last full look, where a stamp may stand for it.
    pub(crate) seen: Option<Seen>,
    pub(crate) upstreams: Upstreams,
    /// As the manifest has it.
    pub(crate) upstreams_kept: Upstreams,
}

/// How one source is tried.
#[derive(Debug)]
pub(crate) struct Try {
    /// The source's stamp before the look.
    pub(crate) stamp: Option<ChangeStamp>,
    pub(crate) torn: Torn,
    pub(crate) older: Older,
}

/// What is done where a repository is torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Torn {
    /// It keeps what it had, the others move.
    Kept,
    /// Nothing moves: another source may have it whole.
    Refused,
}

/// What is done where a source's state is older than the tree's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Older {
    /// There is no other, or the time for others to have something newer is over: the source went back.
    Taken,
    /// Another may have what is published, or something newer: this one is behind.
    Refused,
}

/// What came of reading one source.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) round: Round,
    /// Its stamp, and whether that was the same before and after.
    pub(crate) stamp: Option<(ChangeStamp, bool)>,
    /// Bytes a second, if enough came to tell.
    pub(crate) rate: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum Failed {
    Source(SourceError),
    Round(RoundError),
    /// Some repository is torn, and that was not wanted.
    Torn,
}

impl<E: Into<SourceError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Source(error.into())
    }
}

/// The round's own fault, not its source's.
pub(crate) fn ours(error: impl Into<IntakeError>) -> Failed {
    Failed::Round(RoundError::Intake(error.into()))
}

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
        let plan = Arc::new(Plan { spec, compiled });
        let labels = Labels::new(&plan.spec.mirror);
        let (work_dir, rsync): (PathBuf, _) = (work_dir.into(), RsyncOptions::default());
        Ok(Self {
            rsync_dir: work_dir.join("rsync"),
            plan,
            store,
            http,
            rsync,
            tasks,
            clock,
            work_dir,
            labels,
            manifest: None,
            accept: false,
            look: false,
            held: Timer::default(),
            behind: Timer::default(),
            seen: None,
            upstreams: Upstreams::default(),
            upstreams_kept: Upstreams::default(),
        })
    }

    /// Other options for the rsync child.
    pub fn set_rsync(&mut self, options: RsyncOptions) {
        self.rsync = options;
    }

    /// Lets the next round publish what is held because of its signatures, or because it is older than the tree.
    pub fn accept(&mut self) {
        self.accept = true;
    }

    /// Has the next round look at all that the upstream has, whatever its change stamp says.
    pub fn look(&mut self) {
        self.look = true;
    }

    /// What is imported.
    pub fn spec(&self) -> &ImportSpec {
        &self.plan.spec
    }

    /// The label under which the store holds the tree of the last round.
    pub fn label(&self) -> &str {
        &self.labels.staged
    }

    /// Opens the manifest, brings it together with the store, and gives what the last round left.
    pub(crate) async fn prepare(&mut self) -> Result<Option<Arc<State>>, RoundError> {
        let (work, open, build) = (self.work_dir.clone(), self.manifest.clone(), self.store.clone());
        let (labels, profile) = (self.labels.clone(), self.plan.spec.profile);
        let prepared = self.tasks.blocking(Pool::Disk, move || -> Result<_, RoundError> {
            let wrong = |e| RoundError::WorkDir(work.clone(), e);
            for folder in ["copies", "web", "rsync"] {
                fs_err::create_dir_all(work.join(folder)).map_err(wrong)?;
            }
            sweep(&work.join("copies")).map_err(wrong)?;
            let manifest = match open {
                Some(manifest) if !manifest.is_damaged() => manifest,
                _ => Arc::new(Manifest::open(&work.join("manifest.redb")).map_err(IntakeError::from)?),
            };
            let state = manifest.state().map_err(IntakeError::from)?;
            let state = state.filter(|state| state.profile == profile_key(&profile));
            let build = Build {
                profile,
                store: build,
                manifest: Arc::clone(&manifest),
                labels,
            };
            let state = if build.recover(state.as_ref())? {
                state
            } else {
                None
            };
            if state.is_none() {
                manifest
                    .forget_tree(&profile_key(&profile))
                    .map_err(IntakeError::from)?;
            }
            Ok((manifest, state))
        });
        let (manifest, state) = prepared.await.map_err(IntakeError::from)??;
        if self.manifest.is_none() && 1 < self.plan.spec.from.len() {
            let kept = manifest
                .upstreams()
                .map_err(IntakeError::from)?
                .unwrap_or_default();
            self.upstreams = Upstreams::decode(&kept, &self.plan.spec.from);
            self.upstreams_kept = self.upstreams.clone();
        }
        self.manifest = Some(manifest);
        Ok(state.map(Arc::new))
    }

    pub(crate) fn manifest(&self) -> Result<&Arc<Manifest>, Failed> {
        self.manifest
            .as_ref()
            .ok_or_else(|| Failed::Round(IntakeError::Stopped.into()))
    }

    async fn take_apart(
        &self,
        view: &Arc<View>,
        state: Option<&Arc<State>>,
        ignored: &BTreeSet<Repo>,
    ) -> Result<Arc<Look>, Stopped> {
        let (plan, view, state) = (Arc::clone(&self.plan), Arc::clone(view), state.cloned());
        let (ignored, now) = (ignored.clone(), self.clock.now());
        let look = move || {
            Arc::new(Look::new(
                &view,
                (&plan.spec, &plan.compiled),
                state.as_deref(),
                &ignored,
                now,
            ))
        };
        self.tasks.blocking(Pool::Hash, look).await
    }

    /// Reads one source until it holds still, and makes the tree of what it has.
    pub(crate) async fn attempt(
        &self,
        source: &Source,
        how: Try,
        state: Option<&Arc<State>>,
        progress: &Progress,
    ) -> Result<Looked, Failed> {
        let shown = source.to_string();
        progress.source(&shown, 1);
        let mut transport = self.open(source, state, progress).await?;
        let before = state.and_then(|state| Some((state, state.tree()?)));
        let known = if before.is_some() {
            self.known_print().await?
        } else {
            None
        };
        let seen = match (transport.look_unless(known).await?, before) {
            (Some(view), _) => view,
            (None, Some((state, tree))) => {
                return Ok(Looked {
                    round: unchanged(state, tree, how.stamp.as_ref(), source, 1),
                    stamp: how.stamp.map(|stamp| (stamp, true)),
                    rate: transport.rate(),
                });
            }
            (None, None) => transport.look().await?,
        };
        let mut view = Arc::new(seen);
        let mut ignored = BTreeSet::new();
        let mut pass = 1;
        let mut lost_before = false;
        let mut stamp = how.stamp;
        loop {
            progress.source(&shown, pass);
            let look = self.take_apart(&view, state, &ignored).await?;
            if look.repos.is_empty() && self.plan.spec.files == Files::Listed {
                return Err(Failed::Round(RoundError::NoDatabase { source_shown: shown }));
            }
            if !self.accept && look.repos.is_empty() && state.is_some_and(|state| state.is_lost_in(&view)) {
                return Err(Failed::Round(RoundError::Emptied { source_shown: shown }));
            }
            if look.kept.iter().all(|kept| *kept)
                && let Some(state) = state
                && let Some(tree) = state.tree()
            {
                self.note_print(known, transport.print()).await?;
                let round = unchanged(state, tree, stamp.as_ref(), source, pass);
                return Ok(Looked {
                    round,
                    stamp: stamp.map(|stamp| (stamp, pass == 1)),
                    rate: transport.rate(),
                });
            }
            let intakes = self.intakes(&transport, progress)?;
            let mut taken = Taker::default();
            let mut work = Work {
                plan: Arc::clone(&self.plan),
                look,
                view,
                stamp: stamp.clone(),
                state: state.cloned(),
            };
            let opened = work.databases(&intakes, &mut taken).await.map_err(ours)?;
            if let Some(mistaken) = opened.mistaken {
                ignored.insert(mistaken);
                view = work.view;
                continue;
            }
            if how.older == Older::Refused
                && let Some(older) = work.older(&opened)
            {
                return Err(Failed::Source(older));
            }
            let wants = work.wants(&opened.databases);
            let databases = taken.into_names(&work.view);
            transport
                .fetch(Arc::make_mut(&mut work.view), wants, &intakes)
                .await?;
            let mut taken = Taker::of_names(databases, &work.view);
            let mut turn = Turn::take(work.view.files.len(), progress).await;
            let (opened, picks) = self
                .aside(work.clone(), move |work| {
                    let picks = work.picks(&opened);
                    (opened, picks)
                })
                .await?;
            let places: Vec<usize> = picks.iter().map(|pick| pick.at).collect();
            let asked = Arc::clone(&work.view);
            let bring = async {
                let bring = work.bring(&intakes, &places, &mut taken, Sure::Later);
                bring.await.map_err(ours)
            };
            let still_has = async { Ok(transport.still_has(&asked).await?) };
            let ((), still_has) = turn.over(bring, still_has).await?;
            let once_more = async {
                let again = if still_has {
                    None
                } else {
                    transport.look_again(&asked).await?
                };
                Ok::<_, Failed>((again.map(Arc::new), self.stamp(source).await))
            };
            let ((), (again, after)) = turn.over(ready(Ok(())), once_more).await?;
            drop(asked);
            let holds = match &again {
                None => true,
                Some(again) => {
                    let later = self.take_apart(again, state, &ignored).await?;
                    work.look.still_holds(&later)
                }
            };
            let same = |(a, b): (&ChangeStamp, &ChangeStamp)| a.says_the_same(b);
            let still = stamp.as_ref().zip(after.as_ref()).is_none_or(same);
            let stable = holds && still;
            stamp = after.or(stamp);
            let more = pass < self.plan.spec.limits.passes;
            if !stable && more {
                info!(
                    mirror = self.plan.spec.mirror,
                    pass, "the source moved while it was read; going round again"
                );
                drop(turn);
                view = match again {
                    Some(again) => again,
                    None => Arc::new(transport.look().await?),
                };
                pass += 1;
                continue;
            }
            // All names once more: no longer than they are compared.
            drop(again);
            let stamped = stamp.as_ref().and_then(ChangeStamp::time);
            work.stamp.clone_from(&stamp);
            progress.begin(Step::Checking, work.look.repos.len() as u64, 0);
            turn.again(progress).await;
            let (opened, checked, to_verify) = self
                .aside(work.clone(), move |work| {
                    let checked = work.check(&opened, &taken, picks);
                    let to_verify = work.signed(&opened, &checked, &taken);
                    (opened, checked, to_verify)
                })
                .await?;
            let torn = checked.troubles.iter().any(|troubles| !troubles.is_empty());
            if torn && more && !matches!(transport, Transport::Directory(_)) {
                drop(turn);
                transport.distrust(checked.wrong_files()).await?;
                (view, pass) = (Arc::new(transport.look().await?), pass + 1);
                continue;
            }
            if torn {
                // What is wrong may be what is remembered of it: the next round reads these again.
                self.forget(checked.wrong_files()).await?;
            }
            if torn && how.torn == Torn::Refused {
                return Err(Failed::Torn);
            }
            let hold = (self.plan.spec.hold, self.accept, &self.held);
            let doubts = work.doubts((to_verify, self.keyring().await?), &intakes, hold);
            let doubts = doubts.await.map_err(ours)?;
            progress.begin(Step::Building, checked.rows.len() as u64, 0);
            let (labels, from) = (self.labels.clone(), shown.clone());
            let settled = self.aside(work, move |work| {
                let how = (stable, how.older);
                work.settle(&opened, (checked, doubts), how, (&intakes, &labels, from))
            });
            let Settled {
                repositories,
                warnings,
                alarms,
                outcome,
            } = settled.await?.map_err(ours)?;
            match outcome {
                None => {
                    let round = self.all_torn(repositories, warnings, state, source, pass)?;
                    return Ok(Looked {
                        round,
                        stamp: None,
                        rate: None,
                    });
                }
                Some(Outcome::Built(built)) => {
                    self.tidy().await?;
                    let rest = (state, stamped, source, pass);
                    return Ok(Looked {
                        round: made(&built, repositories, (warnings, alarms), rest),
                        stamp: stamp.map(|stamp| (stamp, stable)),
                        rate: transport.rate(),
                    });
                }
                Some(Outcome::Behind(sign)) => return Err(Failed::Source(SourceError::Older { sign })),
                Some(Outcome::Lost(lost)) if lost_before => {
                    return Err(Failed::Round(RoundError::Lost(lost)));
                }
                Some(Outcome::Lost(_)) => {
                    let manifest = Arc::clone(self.manifest()?);
                    self.tasks
                        .blocking(Pool::Disk, move || manifest.forget_facts())
                        .await?
                        .map_err(ours)?;
                    lost_before = true;
                    drop(turn);
                    view = Arc::new(transport.look().await?);
                }
            }
        }
    }

    /// What a look is known by that need not be taken apart: it found the tree to be what its source has.
    async fn known_print(&self) -> Result<Option<Print>, Failed> {
        if self.accept {
            return Ok(None);
        }
        let manifest = Arc::clone(self.manifest()?);
        let known = self.tasks.blocking(Pool::Disk, move || manifest.print());
        known.await?.map_err(ours)
    }

    /// Remembers it of a look that found nothing new.
    async fn note_print(&self, known: Option<Print>, print: Option<Print>) -> Result<(), Failed> {
        let Some(print) = print.filter(|print| !self.accept && known != Some(*print)) else {
            return Ok(());
        };
        let manifest = Arc::clone(self.manifest()?);
        let noted = self
            .tasks
            .blocking(Pool::Disk, move || manifest.note_print(print));
        noted.await?.map_err(ours)
    }

    async fn forget(&self, paths: Vec<Vec<u8>>) -> Result<(), Failed> {
        let manifest = Arc::clone(self.manifest()?);
        let update = Update {
            forget: paths.into_iter().map(Vec::into_boxed_slice).collect(),
            ..Update::default()
        };
        let forgotten = self.tasks.blocking(Pool::Disk, move || manifest.commit(&update));
        forgotten.await?.map_err(ours)
    }

    /// The keys to check with, read anew: a person may have added one.
    async fn keyring(&self) -> Result<Option<Arc<ReadKeyring>>, Failed> {
        let Some(path) = self.plan.spec.keyring.clone() else {
            return Ok(None);
        };
        let read = self.tasks.blocking(Pool::Disk, move || read_keyring(&path));
        match read.await? {
            Ok(keyring) => Ok(Some(Arc::new(keyring))),
            Err(error) => Err(Failed::Round(error.into())),
        }
    }

    /// Does what takes long over many names where it may.
    async fn aside<T: Send + 'static>(
        &self,
        work: Work,
        what: impl FnOnce(Work) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        self.tasks.blocking(Pool::Hash, move || what(work)).await
    }

    /// Nothing is whole: the tree of the last round stays, if there is one, with all repositories that it holds.
    fn all_torn(
        &self,
        mut repositories: Vec<RepoFacts>,
        warnings: Vec<String>,
        state: Option<&Arc<State>>,
        source: &Source,
        passes: u32,
    ) -> Result<Round, Failed> {
        let Some((state, tree)) = state.and_then(|state| Some((state, state.tree()?))) else {
            let mirror = self.plan.spec.mirror.clone();
            return Err(Failed::Round(RoundError::Torn { mirror, repositories }));
        };
        let same = unchanged(state, tree, None, source, passes);
        let with = repositories.first().map(|torn| match &*torn.upstream_folder {
            "" => torn.name.clone(),
            folder => format!("{folder}/{}", torn.name),
        });
        let with = with.unwrap_or_default();
        for kept in &state.repositories {
            let stays = kept.facts(RepoState::Held { with: with.clone() });
            let mut known = repositories.iter().filter(|facts| facts.in_tree);
            if !known.any(|facts| (&facts.folder, &facts.name) == (&stays.folder, &stays.name)) {
                repositories.push(stays);
            }
        }
        Ok(Round {
            repositories,
            warnings,
            ..same
        })
    }

    fn intakes(&self, transport: &Transport, progress: &Progress) -> Result<Intakes, Failed> {
        let (taking, origin) = transport.taking();
        Ok(Intakes {
            profile: self.plan.spec.profile,
            store: self.store.clone(),
            manifest: Arc::clone(self.manifest()?),
            tasks: self.tasks.clone(),
            progress: progress.clone(),
            root: transport.root(),
            taking,
            origin,
            scratch: self.work_dir.join("copies"),
            label: self.labels.pending.clone(),
            pile: self.plan.spec.limits.pile,
            now: self.clock.now(),
        })
    }

    /// Removes what waited for the store and is not needed any more.
    async fn tidy(&self) -> Result<(), Failed> {
        let folders = [self.work_dir.join("copies"), self.work_dir.join("web")];
        let work_dir = self.work_dir.clone();
        let swept = self
            .tasks
            .blocking(Pool::Disk, move || {
                folders.iter().try_for_each(|folder| sweep(folder))
            })
            .await?;
        swept.map_err(|e| Failed::Source(SourceError::WorkDir(work_dir, e)))
    }
}
