//! An rsync module as a source: listed first, then only what is asked for is copied into a tree of our own.
//!
//! A look lists the module with its links as links and works out all names (`crate::listing`). Of `files = "all"` every
//! file that differs is then copied; of `files = "listed"` only databases, their signatures and what `also` takes: the
//! files that the databases name follow in [`Module::fetch`]. Each copy is asked for by name and without descending,
//! so no link can make the sender go on without end.
//!
//! - Invariant: a name that is listed and does not come is in the view, without bytes.
//! - Invariant: where the tree was another source's, only packages stay of it, whose digests a database names; where it
//!   names none (`files = "all"`), they are copied again.
//! - Invariant: the child replaces files by rename, so the store may hold links to them.
//! - Not here: the child (crate `upstream`), what is listed (`crate::survey`), whether files are right (`crate::repos`).
//! - Read first: `crate::source`, `crate::listing`.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures::future::{Either, select};
use pacstore_pacman::DbFileName;
use pacstore_runtime::{Pool, Tasks};
use pacstore_upstream::{Outcome, Rsync, RsyncReport, TransferSpec};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::early::{self, Came};
use crate::error::SourceError;
use crate::globs::Globs;
use crate::intake::Intakes;
use crate::listing::{Named, Names};
use crate::names::{self, Along};
use crate::progress::{Progress, Step};
use crate::round::Failed;
use crate::scan::{Filter, Root};
use crate::source::Want;
use crate::spec::{Files, Wanted};
use crate::survey::{Print, Survey};
use crate::upstreams::Meter;
use crate::view::{Item, NoFile, Place, Stamp, View};
use crate::web::is_database;

/// How often it is looked which files of a transfer are whole, and how much longer than such a look the pause is at least.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_RARELY: u32 = 20;

/// An rsync module and the tree that it is copied to.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) rsync: Rsync,
    /// With a slash at its end.
    pub(crate) source: String,
    /// The tree.
    pub(crate) staged: PathBuf,
    /// For the child's own files.
    pub(crate) scratch: PathBuf,
    pub(crate) files: Files,
    pub(crate) wanted: Option<Vec<Wanted>>,
    pub(crate) also: Globs,
    pub(crate) exclude: Vec<String>,
    pub(crate) filter: Filter,
    pub(crate) deadline: Duration,
    pub(crate) tasks: Tasks,
    pub(crate) progress: Progress,
    pub(crate) root: Option<Root>,
    /// What lies in the tree: walked once a look, then nobody but this module changes it.
    pub(crate) here: Option<View>,
    /// Whether the databases still were the same when the last transfer had ended.
    pub(crate) still: Option<bool>,
    /// How often it was looked at in this round.
    pub(crate) looks: u32,
    /// What another source left in the tree, as far as no database has vouched for it yet.
    pub(crate) carried: BTreeSet<Vec<u8>>,
    /// A digest of what else a look depends on.
    pub(crate) depends_on: Print,
    /// What the last look is known by, if nothing was brought or removed in it.
    pub(crate) print: Option<Print>,
    pub(crate) now: SystemTime,
    pub(crate) meter: Meter,
}

impl Module {
    /// What the module has now; of `files = "listed"` packages are named only.
    pub(crate) async fn look(&mut self) -> Result<View, SourceError> {
        if self.begin().await? {
            return self.look_twice().await;
        }
        let survey = self.survey().await?;
        self.see(survey).await
    }

    /// The same; nothing where the module and our tree still are what is `known`.
    pub(crate) async fn look_unless(&mut self, known: Option<Print>) -> Result<Option<View>, SourceError> {
        if self.begin().await? {
            return self.look_twice().await.map(Some);
        }
        let survey = self.survey().await?;
        if survey.print.is_some() && survey.print == known && self.carried.is_empty() {
            return Ok(None);
        }
        self.see(survey).await.map(Some)
    }

    /// Says whether packages come in a transfer of their own, for it is long or the last look was overtaken.
    async fn begin(&mut self) -> Result<bool, SourceError> {
        self.progress.begin(Step::Looking, 0, 0);
        (self.here, self.still, self.print) = (None, None, None);
        let first = self.root().await?;
        Ok(self.files == Files::All && (first || 1 < self.looks))
    }

    /// Packages first and databases last.
    async fn look_twice(&mut self) -> Result<View, SourceError> {
        let mut survey = self.survey().await?;
        let names = self.named(&mut survey).await?;
        self.bring(&names, &mut survey.here, |path| !is_database(path))
            .await?;
        survey.list_again(self).await?;
        self.see(survey).await
    }

    async fn see(&mut self, mut survey: Survey) -> Result<View, SourceError> {
        let names = self.named(&mut survey).await?;
        let Survey {
            here: mut staged,
            print,
            ..
        } = survey;
        let brought = self
            .bring(&names, &mut staged, |path| self.comes_first(path))
            .await?;
        self.print = print.filter(|_| !brought);
        self.looks += 1;
        let mut along = Along::new(&staged.files);
        let items = names
            .files
            .into_iter()
            .map(|(path, named)| match (named, along.get(&path)) {
                (Named::None(why), _) => (path, Item::None(why)),
                (Named::File { size, seconds }, _) if !self.comes_first(&path) => {
                    let stamp = Stamp::Listed { size, seconds };
                    (
                        path,
                        Item::File {
                            stamp,
                            place: Place::Later,
                        },
                    )
                }
                (Named::Outside, _) if !self.comes_first(&path) => {
                    let stamp = Stamp::Listed { size: 0, seconds: 0 };
                    (
                        path,
                        Item::File {
                            stamp,
                            place: Place::Later,
                        },
                    )
                }
                (named, staged) => {
                    let item = come(&named, staged);
                    (path, item)
                }
            });
        let mut view = View {
            files: items.collect(),
            folders: names.folders,
            ..View::default()
        };
        view.sort();
        self.here = Some(staged);
        Ok(view)
    }

    /// Brings what the databases name, as far as the last look listed it.
    pub(crate) async fn fetch(
        &mut self,
        view: &mut View,
        wants: Vec<Want>,
        intakes: &Intakes,
    ) -> Result<(), Failed> {
        let mut here = match self.here.take() {
            Some(here) => here,
            None => self.staged().await?,
        };
        self.renew_carried(view, &mut here, &wants).await?;
        let mut places: BTreeSet<usize> = BTreeSet::new();
        places.extend(wants.iter().filter_map(|want| view.position(&want.path)));
        let later = |at: &usize| match view.files.get(*at) {
            Some((
                path,
                Item::File {
                    stamp: Stamp::Listed { size, seconds },
                    place: Place::Later,
                },
            )) => {
                let named = Named::File {
                    size: *size,
                    seconds: *seconds,
                };
                Some((*at, path.clone(), named))
            }
            _ => None,
        };
        let asked: Vec<(usize, Box<[u8]>, Named)> = places.iter().filter_map(later).collect();
        if asked.is_empty() {
            self.here = Some(here);
            return Ok(());
        }
        let differ = asked
            .iter()
            .filter(|(_, path, named)| !is_here(named, here.get(path)));
        let named: HashMap<Box<[u8]>, Named> =
            differ.map(|(_, path, named)| (path.clone(), *named)).collect();
        if !named.is_empty() {
            let bytes = named.values().map(size).sum();
            self.progress.begin(Step::Fetching, named.len() as u64, bytes);
            let differ: Vec<Vec<u8>> = named.keys().map(|path| path.to_vec()).collect();
            let databases = self.databases(view);
            let (mut still, only) = (None, differ.clone());
            let transfer = async |came| {
                self.transfer_and_tell(only, named, came).await?;
                // The last files that came are read and synced meanwhile.
                still = Some(self.still_the_same(databases).await?);
                Ok(())
            };
            // The manifest remembers what was taken, so nothing is to be done with it here.
            early::while_it_runs(intakes, transfer).await?;
            self.still = still;
            here.renew(self.found(differ).await?);
        }
        for (at, path, named) in asked {
            if let Some((_, item)) = view.files.get_mut(at) {
                *item = come(&named, here.get(&path));
            }
        }
        self.here = Some(here);
        Ok(())
    }

    /// Whether the databases are still those that the last look brought.
    pub(crate) async fn still_has(&mut self, view: &View) -> Result<bool, SourceError> {
        match self.still.take() {
            Some(still) => Ok(still),
            None => self.still_the_same(self.databases(view)).await,
        }
    }

    fn databases(&self, view: &View) -> Vec<Vec<u8>> {
        let databases = view.files.iter().filter(|(path, item)| {
            is_database(path) && self.comes_first(path) && matches!(item, Item::File { .. })
        });
        databases.map(|(path, _)| path.to_vec()).collect()
    }

    /// They are asked for by name, for that costs no listing; what else changed meanwhile does not fit its database, or
    /// shows in the next round.
    async fn still_the_same(&self, databases: Vec<Vec<u8>>) -> Result<bool, SourceError> {
        if databases.is_empty() {
            return Ok(false);
        }
        let report = self.transfer(databases).await?;
        Ok(report.transferred == 0 && report.outcome == Outcome::Whole)
    }

    /// Opens our own tree, and makes it first if it is not there; says whether it was not.
    async fn root(&mut self) -> Result<bool, SourceError> {
        let (staged, source) = (self.staged.clone(), self.source.clone());
        let opened = self.tasks.blocking(Pool::Disk, move || {
            let first = !staged.exists();
            let fail = |e| SourceError::WorkDir(staged.clone(), e);
            fs_err::create_dir_all(&staged).map_err(fail)?;
            let note = staged.with_extension("source");
            let same = fs_err::read_to_string(&note).is_ok_and(|of| of == source);
            Ok::<_, SourceError>((first, first || same, note, Root::open(&staged)?))
        });
        let (first, same, note, root) = opened.await??;
        self.root = Some(root);
        if !same {
            self.take_over().await?;
        }
        // Written last: a take-over that was cut short is done again.
        let source = self.source.clone();
        let noted = self.tasks.blocking(Pool::Disk, move || {
            if fs_err::read_to_string(&note).is_ok_and(|of| of == source) {
                return Ok(());
            }
            let new = note.with_extension("new");
            let written = fs_err::write(&new, source).and_then(|()| fs_err::rename(&new, &note));
            written.map_err(|e| SourceError::WorkDir(note, e))
        });
        noted.await??;
        Ok(first)
    }

    /// The tree is another source's: of what lies there only packages stay.
    async fn take_over(&mut self) -> Result<(), SourceError> {
        let (staged, Some(root)) = (self.staged().await?, self.root.clone()) else {
            return Ok(());
        };
        let is_package = |path: &[u8]| {
            let name = std::str::from_utf8(names::split(path).1);
            name.is_ok_and(pacstore_pacman::is_package_file)
        };
        let paths = staged.files.into_iter().map(|(path, _)| path.into_vec());
        let (packages, others): (BTreeSet<Vec<u8>>, Vec<Vec<u8>>) = {
            let (packages, others): (Vec<_>, Vec<_>) = paths.partition(|path| is_package(path));
            (packages.into_iter().collect(), others)
        };
        self.carried = packages;
        self.remove(&root, others).await
    }

    /// Of all files that come: what another source left, and no database names, is copied again.
    async fn renew_carried(
        &mut self,
        view: &mut View,
        here: &mut View,
        wants: &[Want],
    ) -> Result<(), SourceError> {
        let carried = std::mem::take(&mut self.carried);
        let Some(root) = self
            .root
            .clone()
            .filter(|_| self.files == Files::All && !carried.is_empty())
        else {
            return Ok(());
        };
        let by_digest = wants
            .iter()
            .filter(|want| matches!(want.expected, Some((_, Some(_)))));
        let vouched: BTreeSet<&[u8]> = by_digest.map(|want| &*want.path).collect();
        let read: BTreeSet<&[u8]> = wants.iter().map(|want| names::split(&want.path).0).collect();
        let databases = view.files.iter().filter(|(path, _)| is_database(path));
        // A repository whose database could not be read stays as it was in the tree before.
        let unread: BTreeSet<Vec<u8>> = databases
            .map(|(path, _)| names::split(path).0)
            .filter(|folder| !read.contains(folder))
            .map(<[u8]>::to_vec)
            .collect();
        let again = carried.into_iter().filter(|path| {
            view.position(path).is_some()
                && !vouched.contains(&**path)
                && !unread.contains(names::split(path).0)
        });
        let again: Vec<Vec<u8>> = again.collect();
        if again.is_empty() {
            return Ok(());
        }
        self.remove(&root, again.clone()).await?;
        self.transfer(again.clone()).await?;
        here.renew(self.found(again.clone()).await?);
        for path in again {
            if let Some((_, item)) = view.position(&path).and_then(|at| view.files.get_mut(at)) {
                *item = here.get(&path).cloned().unwrap_or(Item::None(NoFile::Absent));
            }
        }
        Ok(())
    }

    async fn remove(&self, root: &Root, paths: Vec<Vec<u8>>) -> Result<(), SourceError> {
        let root = root.clone();
        let removed = self.tasks.blocking(Pool::Disk, move || {
            for path in paths {
                let path = root.absolute(&path);
                fs_err::remove_file(&path).map_err(|e| SourceError::WorkDir(path, e))?;
            }
            Ok(())
        });
        removed.await?
    }

    /// Whether a look brings the file; else it is only named by it.
    fn comes_first(&self, path: &[u8]) -> bool {
        if self.files == Files::All {
            return true;
        }
        let (folder, name) = names::split(path);
        let of = std::str::from_utf8(name).ok().and_then(DbFileName::parse);
        let is_wanted = of.is_some_and(|of| {
            let all = self.wanted.iter().flatten();
            let mut same = all.filter(|wanted| wanted.folder == folder && wanted.name == of.repo);
            self.wanted.is_none() || same.next().is_some()
        });
        is_wanted || self.also.covers_file(path)
    }

    /// Removes what is not named any more of what lies `here`, and copies what `takes` takes and differs; says whether
    /// there was anything to do.
    async fn bring(
        &self,
        names: &Names,
        here: &mut View,
        takes: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, SourceError> {
        let pruned = self.prune(names, here).await?;
        let mut along = Along::new(&here.files);
        let differ = names.files.iter().filter(|(path, named)| {
            let is_file = !matches!(named, Named::None(_));
            is_file && !is_here(named, along.get(path)) && takes(path)
        });
        let differ: Vec<Vec<u8>> = differ.map(|(path, _)| path.to_vec()).collect();
        if differ.is_empty() {
            return Ok(pruned);
        }
        self.transfer(differ.clone()).await?;
        here.renew(self.found(differ).await?);
        Ok(true)
    }

    /// What now lies at these paths of the tree.
    async fn found(&self, paths: Vec<Vec<u8>>) -> Result<Vec<(Box<[u8]>, Option<Item>)>, SourceError> {
        let Some(root) = self.root.clone() else {
            return Ok(Vec::new());
        };
        let look = move |path: Vec<u8>| match root.file(&path) {
            Ok(item) => Ok((path.into_boxed_slice(), item)),
            Err(e) => Err(SourceError::WorkDir(root.absolute(&path), e)),
        };
        self.tasks
            .blocking(Pool::Disk, move || paths.into_iter().map(look).collect())
            .await?
    }

    /// A file that became a folder, or the other way round, would stand in the child's way. Says whether anything went.
    async fn prune(&self, names: &Names, here: &mut View) -> Result<bool, SourceError> {
        let Some(root) = self.root.clone() else {
            return Ok(false);
        };
        let named = |along: &mut Along<'_, Named>, path: &[u8]| {
            along
                .get(path)
                .is_some_and(|named| !matches!(named, Named::None(_)))
        };
        let is_folder = |path: &[u8]| {
            names
                .folders
                .binary_search_by(|named| (**named).cmp(path))
                .is_ok()
        };
        let mut along = Along::new(&names.files);
        let gone = here.files.iter().filter(|(path, _)| !named(&mut along, path));
        let gone: Vec<PathBuf> = gone.map(|(path, _)| root.absolute(path)).collect();
        let empty = here.folders.iter().rev();
        let empty = empty.filter(|path| !is_folder(path));
        let empty: Vec<PathBuf> = empty.map(|path| root.absolute(path)).collect();
        if gone.is_empty() && empty.is_empty() {
            return Ok(false);
        }
        let mut along = Along::new(&names.files);
        here.files.retain(|(path, _)| named(&mut along, path));
        here.folders.retain(|path| is_folder(path));
        let removed = self.tasks.blocking(Pool::Disk, move || {
            for path in gone {
                fs_err::remove_file(&path).map_err(|e| SourceError::WorkDir(path, e))?;
            }
            for path in empty {
                fs_err::remove_dir(&path).map_err(|e| SourceError::WorkDir(path, e))?;
            }
            Ok::<_, SourceError>(())
        });
        removed.await??;
        Ok(true)
    }

    /// Copies `only` and tells which of them lie there whole, from time to time and at the end.
    async fn transfer_and_tell(
        &self,
        only: Vec<Vec<u8>>,
        mut named: HashMap<Box<[u8]>, Named>,
        came: mpsc::Sender<Came>,
    ) -> Result<(), SourceError> {
        let mut transfer = pin!(self.transfer(only));
        let mut pause = LOOK_EVERY;
        loop {
            if let Ok(transferred) = timeout(pause, &mut transfer).await {
                transferred?;
                break;
            }
            let began = Instant::now();
            // The child goes on meanwhile, and so must who listens to it.
            match select(&mut transfer, pin!(self.tell(&mut named, &came))).await {
                Either::Left((transferred, looked)) => {
                    transferred?;
                    looked.await?;
                    break;
                }
                Either::Right((looked, _)) => looked?,
            }
            pause = LOOK_EVERY.max(began.elapsed() * LOOK_RARELY);
        }
        self.tell(&mut named, &came).await
    }

    /// Tells which of `named` lie there whole, and strikes them out.
    async fn tell(
        &self,
        named: &mut HashMap<Box<[u8]>, Named>,
        came: &mpsc::Sender<Came>,
    ) -> Result<(), SourceError> {
        let missing = named.keys().map(|path| path.to_vec()).collect();
        for (path, item) in self.found(missing).await? {
            let whole = named.get(&path).is_some_and(|of| is_here(of, item.as_ref()));
            if whole && let Some(Item::File { stamp, place }) = item {
                named.remove(&path);
                // The intake has failed and says why.
                let Ok(()) = came.send(Came { path, stamp, place }).await else {
                    break;
                };
            }
        }
        Ok(())
    }

    async fn transfer(&self, only: Vec<Vec<u8>>) -> Result<RsyncReport, SourceError> {
        let mut spec = TransferSpec::new(&self.source, &self.staged, &self.scratch);
        spec.only = Some(only);
        spec.deadline = self.deadline;
        (spec.stop, spec.pulse) = (self.tasks.stop().child_token(), self.progress.pulse());
        let began = Instant::now();
        let report = self.rsync.transfer(&spec).await?;
        self.meter
            .add(report.received_bytes, report.transferred, began.elapsed());
        Ok(report)
    }
}

fn size(named: &Named) -> u64 {
    match named {
        Named::File { size, .. } => *size,
        Named::Outside | Named::None(_) => 0,
    }
}

/// Whether the file that lies there is the one that is named, by rsync's own rule: size and time.
fn is_here(named: &Named, staged: Option<&Item>) -> bool {
    match (named, staged) {
        (Named::File { size, seconds }, Some(Item::File { stamp, .. })) => {
            stamp.size() == *size && stamp.seconds() == Some(*seconds)
        }
        _ => false,
    }
}

/// What became of a name that was asked for.
fn come(named: &Named, staged: Option<&Item>) -> Item {
    match (named, staged) {
        (Named::None(why), _) => Item::None(*why),
        (_, Some(item)) => item.clone(),
        (Named::Outside, None) => Item::None(NoFile::Leaves),
        (Named::File { .. }, None) => Item::None(NoFile::Absent),
    }
}
