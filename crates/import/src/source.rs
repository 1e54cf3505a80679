//! How one source is read: opened, looked at, and asked for files.
//!
//! A directory is read in place. An rsync module is listed, and what is asked of it copied into a tree of our own
//! (`crate::module`), which then is read in place. A web mirror is `crate::web`.
//!
//! - Invariant: looking twice without a change in the source gives equal views.
//! - Not here: what is done with a view (`crate::round`).
//! - Read first: [`Transport`].

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use pacstore_runtime::{Pool, Tasks};
use pacstore_store::Origin;
use pacstore_upstream::Rsync;

use crate::error::SourceError;
use crate::intake::{Intakes, Taking};
use crate::module::Module;
use crate::pace::Pace;
use crate::progress::{Progress, Step};
use crate::round::{Failed, Importer};
use crate::scan::{Filter, Root};
use crate::spec::Source;
use crate::state::State;
use crate::survey::Print;
use crate::upstreams::Meter;
use crate::view::View;
use crate::web::Web;

/// A file that a database names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Want {
    /// Its path in the upstream.
    pub(crate) path: Vec<u8>,
    /// What the database says of it; nothing for a signature.
    pub(crate) expected: Option<(Option<u64>, Option<[u8; 32]>)>,
}

/// One source, open.
#[derive(Debug)]
pub(crate) enum Transport {
    /// A directory of this machine.
    Directory(Directory),
    /// An rsync module and our copy of it.
    Rsync(Box<Module>),
    /// A web mirror.
    Web(Box<Web>),
}

impl Transport {
    /// What the source has now.
    pub(crate) async fn look(&mut self) -> Result<View, SourceError> {
        match self {
            Self::Directory(directory) => directory.look().await,
            Self::Rsync(module) => module.look().await,
            Self::Web(web) => web.look().await,
        }
    }

    /// The same; nothing where all of it still is what is `known` of an earlier look.
    pub(crate) async fn look_unless(&mut self, known: Option<Print>) -> Result<Option<View>, SourceError> {
        match self {
            Self::Rsync(module) => module.look_unless(known).await,
            Self::Directory(_) | Self::Web(_) => self.look().await.map(Some),
        }
    }

    /// What the last look is known by, if an equal one can be told without looking at its names.
    pub(crate) fn print(&self) -> Option<Print> {
        match self {
            Self::Directory(_) | Self::Web(_) => None,
            Self::Rsync(module) => module.print,
        }
    }

    /// Whether it surely has what `view` shows, as far as a pass builds on it; if not, it must be looked at.
    pub(crate) async fn still_has(&mut self, view: &View) -> Result<bool, SourceError> {
        match self {
            Self::Directory(_) | Self::Web(_) => Ok(false),
            Self::Rsync(module) => module.still_has(view).await,
        }
    }

    /// Looks once more: what it has now, or nothing if that is what `view` shows.
    pub(crate) async fn look_again(&mut self, view: &Arc<View>) -> Result<Option<View>, SourceError> {
        if let Self::Directory(directory) = self
            && directory.is_still(view).await?
        {
            return Ok(None);
        }
        self.look().await.map(Some)
    }

    /// Adds `wants` to the view, where they are not in it from the start; takes them meanwhile, if it takes long.
    pub(crate) async fn fetch(
        &mut self,
        view: &mut View,
        wants: Vec<Want>,
        intakes: &Intakes,
    ) -> Result<(), Failed> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Rsync(module) => module.fetch(view, wants, intakes).await,
            Self::Web(web) => web.fetch(view, wants, intakes).await,
        }
    }

    /// Bytes a second over the wire so far, if enough came to tell.
    pub(crate) fn rate(&self) -> Option<u64> {
        match self {
            Self::Directory(_) => None,
            Self::Rsync(module) => module.meter.rate(),
            Self::Web(web) => web.meter.rate(),
        }
    }

    /// The directory that the files of a view lie in.
    pub(crate) fn root(&self) -> Option<Root> {
        match self {
            Self::Directory(directory) => Some(directory.root.clone()),
            Self::Rsync(module) => module.root.clone(),
            Self::Web(_) => None,
        }
    }

    /// How files come from it into the store.
    pub(crate) fn taking(&self) -> (Taking, Origin) {
        match self {
            Self::Directory(directory) => (directory.taking, Origin::Disk),
            Self::Rsync(_) => (Taking::Link, Origin::Upstream),
            Self::Web(_) => (Taking::Copy, Origin::Upstream),
        }
    }

    /// Puts away what turned out wrong, so that the next look brings it anew.
    pub(crate) async fn distrust(&self, paths: Vec<Vec<u8>>) -> Result<(), SourceError> {
        let module = match self {
            Self::Directory(_) => return Ok(()),
            Self::Rsync(module) => module,
            Self::Web(web) => return web.distrust(paths).await,
        };
        let Some(root) = module.root.clone() else {
            return Ok(());
        };
        module
            .tasks
            .blocking(Pool::Disk, move || {
                for path in paths {
                    // A file that is gone already is just as good.
                    let _ = fs_err::remove_file(root.absolute(&path));
                }
            })
            .await?;
        Ok(())
    }
}

impl Importer {
    /// Opens a source for one round.
    pub(crate) async fn open(
        &self,
        source: &Source,
        state: Option<&Arc<State>>,
        progress: &Progress,
    ) -> Result<Transport, Failed> {
        let filter = Filter {
            exclude: self.plan.compiled.exclude.clone(),
            hidden: self.plan.spec.hidden,
            limit: self.plan.spec.limits.names,
        };
        Ok(match source {
            Source::Directory(path) => {
                let taking = if self.plan.spec.replaced_by_rename {
                    Taking::Link
                } else {
                    Taking::Copy
                };
                Transport::Directory(Directory::open(path, filter, taking, &self.tasks, progress).await?)
            }
            Source::Rsync(url) => Transport::Rsync(Box::new(Module {
                rsync: Rsync::new(self.rsync.clone(), self.tasks.clone()),
                source: url.to_string(),
                staged: self.work_dir.join("rsync").join("tree"),
                scratch: self.work_dir.join("rsync").join("scratch"),
                files: self.plan.spec.files,
                wanted: self.plan.compiled.listed.clone(),
                also: self.plan.compiled.also.clone(),
                exclude: self.plan.spec.exclude.clone(),
                filter,
                deadline: self.plan.spec.limits.source,
                tasks: self.tasks.clone(),
                progress: progress.clone(),
                root: None,
                here: None,
                still: None,
                looks: 0,
                carried: BTreeSet::new(),
                depends_on: self.plan.spec.fingerprint_of(url.as_str()),
                print: None,
                now: self.clock.now(),
                meter: Meter::default(),
            })),
            Source::Http(url) => Transport::Web(Box::new(Web {
                http: self.http.clone(),
                root: url.clone(),
                layout: self.plan.spec.layout,
                wanted: self.plan.compiled.listed.clone(),
                exclude: self.plan.compiled.exclude.clone(),
                also: self.plan.compiled.also.clone(),
                hidden: self.plan.spec.hidden,
                limits: self.plan.spec.limits.clone(),
                profile: self.plan.spec.profile,
                store: self.store.clone(),
                manifest: Arc::clone(self.manifest()?),
                tasks: self.tasks.clone(),
                progress: progress.clone(),
                folder: self.work_dir.join("web"),
                now: self.clock.now(),
                known: state.map(|state| state.known()).unwrap_or_default(),
                found: None,
                unlisted: false,
                unasked: BTreeSet::new(),
                listed: BTreeSet::new(),
                meter: Meter::default(),
                pace: Pace::default(),
            })),
        })
    }
}

/// A directory of this machine.
#[derive(Debug)]
pub(crate) struct Directory {
    root: Root,
    filter: Filter,
    taking: Taking,
    tasks: Tasks,
    progress: Progress,
}

impl Directory {
    pub(crate) async fn open(
        path: &Path,
        filter: Filter,
        taking: Taking,
        tasks: &Tasks,
        progress: &Progress,
    ) -> Result<Self, SourceError> {
        let path = path.to_owned();
        let root = tasks.blocking(Pool::Disk, move || Root::open(&path)).await??;
        Ok(Self {
            root,
            filter,
            taking,
            tasks: tasks.clone(),
            progress: progress.clone(),
        })
    }

    async fn look(&self) -> Result<View, SourceError> {
        self.progress.begin(Step::Looking, 0, 0);
        scan(&self.tasks, self.root.clone(), self.filter.clone()).await
    }

    async fn is_still(&self, view: &Arc<View>) -> Result<bool, SourceError> {
        self.progress.begin(Step::Looking, 0, 0);
        let stop = self.tasks.stop().child_token();
        let _guard = stop.clone().drop_guard();
        let (root, filter, view) = (self.root.clone(), self.filter.clone(), Arc::clone(view));
        let walk = move || root.is_still(&view, &filter, &stop);
        Ok(self.tasks.blocking(Pool::Disk, walk).await??)
    }
}

/// Walks in the disk pool; ends when the caller does.
pub(crate) async fn scan(tasks: &Tasks, root: Root, filter: Filter) -> Result<View, SourceError> {
    let stop = tasks.stop().child_token();
    let _guard = stop.clone().drop_guard();
    Ok(tasks
        .blocking(Pool::Disk, move || root.scan(&filter, &stop))
        .await??)
}
