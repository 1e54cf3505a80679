//! A web mirror as a source: its databases, and what they name.
//!
//! Only what a database names is asked for, and only what is not in the store already. Databases and signatures are
//! asked for conditionally each time, because nothing else says whether they changed.
//!
//! - Invariant: at most `requests` requests are under way, each with a deadline and a bound on its length.
//! - Invariant: a file that cannot be had is a missing file, not a failed mirror, unless the mirror as a whole is away.
//! - Not here: its listings (`crate::crawl`), whether the bytes are right (`crate::repos`), the requests themselves (crate `upstream`).
//! - Read first: design.md, "Tree".

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use futures::stream::{self, StreamExt, TryStreamExt};
use pacstore_dag::{self as dag, Profile};
use pacstore_pacman as pacman;
use pacstore_runtime::{Pool, Tasks};
use pacstore_store::Store;
use pacstore_upstream::{Get, Http, HttpError, IfRangeIgnored, Url, url_of};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::crawl::Also;
use crate::early::{self, Came};
use crate::error::SourceError;
use crate::facts::FileFacts;
use crate::globs::Globs;
use crate::intake::Intakes;
use crate::layout::Layout;
use crate::manifest::{Manifest, Update};
use crate::names;
use crate::pace::Pace;
use crate::progress::{Progress, Step};
use crate::repos::Repo;
use crate::round::Failed;
use crate::source::Want;
use crate::spec::{Limits, Wanted};
use crate::upstreams::Meter;
use crate::view::{Cut, Item, NoFile, Place, Stamp, View};

/// Files of one pass that may fail before the mirror is given up.
const MAX_FAILED: usize = 16;

/// A web mirror, open.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) http: Http,
    pub(crate) root: Url,
    pub(crate) layout: Layout,
    pub(crate) wanted: Option<Vec<Wanted>>,
    pub(crate) exclude: Globs,
    pub(crate) also: Globs,
    pub(crate) hidden: bool,
    pub(crate) limits: Limits,
    pub(crate) profile: Profile,
    pub(crate) store: Store,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) tasks: Tasks,
    pub(crate) progress: Progress,
    /// Where files wait for the store.
    pub(crate) folder: PathBuf,
    pub(crate) now: SystemTime,
    /// The repositories that the last tree holds.
    pub(crate) known: Vec<Repo>,
    /// What was found by listings in this round.
    pub(crate) found: Option<(Vec<Repo>, Also)>,
    /// It gives no listings, so the repositories are those of the last tree.
    pub(crate) unlisted: bool,
    /// Twins of databases that the last look did not ask for, and those that a listing named since: the next one does.
    pub(crate) unasked: BTreeSet<Vec<u8>>,
    pub(crate) listed: BTreeSet<Vec<u8>>,
    pub(crate) meter: Meter,
    pub(crate) pace: Pace,
}

/// What one request gave.
#[derive(Debug)]
pub(crate) enum Got {
    Item(Item),
    Absent,
    /// A database that the server has and does not send: its repository is torn.
    Failed(SourceError),
}

impl Web {
    /// The databases and their signatures, and what `also` takes.
    pub(crate) async fn look(&mut self) -> Result<View, SourceError> {
        self.progress.begin(Step::Looking, 0, 0);
        let (repos, also) = self.repositories().await?;
        let want = |path| Want { path, expected: None };
        let main = |repo: &Repo| repo.path(&format!("{}.db", repo.name));
        let mut view = View::default();
        let databases = repos.iter().map(|repo| want(main(repo)));
        let wants = databases.chain(also.files.iter().cloned().map(want)).collect();
        let failed = self.get_all(&mut view, wants, None).await?;
        let comes = |repo| matches!(view.get(&main(repo)), Some(Item::File { .. }));
        // One database tears its repository. Without any nothing can be said, and another mirror may do better.
        if let Some(error) = failed.filter(|_| !repos.iter().any(comes)) {
            return Err(error);
        }
        // A listing named them: what is not there then is a name without bytes, such as a link that dangles.
        let absent = also.files.into_iter().filter(|path| view.get(path).is_none());
        let absent: Vec<Vec<u8>> = absent.filter(|path| self.is_ours(path)).collect();
        without_bytes(&mut view, absent, NoFile::Absent);
        without_bytes(&mut view, also.unread, NoFile::Denied);
        let (mut more, mut unasked) = (Vec::new(), BTreeSet::new());
        for repo in &repos {
            let Some(Item::File { stamp, place }) = view.get(&main(repo)) else {
                continue;
            };
            // Twins are rare and come with their database; signatures may come late.
            let quiet = matches!(place, Place::Known(_)) && self.is_old(stamp);
            for name in pacman::database_names(&repo.name) {
                let path = repo.path(&name);
                let usual = pacman::DbFileName::parse(&name).is_some_and(|name| name.ending.is_empty());
                if path == main(repo) {
                    continue;
                }
                if usual || !quiet || self.listed.contains(&path) || self.is_remembered(&path).await? {
                    more.push(want(path));
                } else {
                    unasked.insert(path);
                }
            }
        }
        self.get_all(&mut view, more, None).await?;
        self.unasked = unasked;
        let lost = if self.wanted.is_some() || self.unlisted {
            repos.into_iter().map(|repo| (repo, NoFile::Absent)).collect()
        } else {
            self.without_database(&mut view).await?
        };
        for (repo, why) in &lost {
            let main = main(repo);
            if view.get(&main).is_none() {
                view.files.push((main.into(), Item::None(*why)));
                view.sort();
            }
        }
        Ok(view)
    }

    /// Repositories of the last tree that have lost their database, but not their packages, or of whose folder nothing can
    /// be said although the one above it names it: torn ones, not gone ones. Notes what is left in their folders.
    async fn without_database(&self, view: &mut View) -> Result<Vec<(Repo, NoFile)>, SourceError> {
        let mut torn = Vec::new();
        for repo in &self.known {
            let main = repo.path(&format!("{}.db", repo.name));
            if view.get(&main).is_some() || !self.is_ours(&main) {
                continue;
            }
            let is_package = |name: &[u8]| std::str::from_utf8(name).is_ok_and(pacman::is_package_file);
            let why = match self.listing(&repo.folder).await? {
                Some(names) => {
                    let files = names.iter().filter(|(_, is_folder)| !is_folder);
                    let left = files.map(|(name, _)| name).filter(|name| is_package(name));
                    let left: Vec<Box<[u8]>> = left.map(|name| name.as_slice().into()).collect();
                    let why = (!left.is_empty()).then_some(NoFile::Absent);
                    view.left.insert(repo.folder.as_slice().into(), left);
                    why
                }
                None => self.is_named(&repo.folder).await?.then_some(NoFile::Denied),
            };
            torn.extend(why.map(|why| (repo.clone(), why)));
        }
        Ok(torn)
    }

    /// Adds what the databases name, and takes it while it comes.
    pub(crate) async fn fetch(
        &mut self,
        view: &mut View,
        wants: Vec<Want>,
        intakes: &Intakes,
    ) -> Result<(), Failed> {
        let asked: Vec<Vec<u8>> = wants.iter().map(|want| want.path.clone()).collect();
        let known: BTreeSet<Vec<u8>> = view.files.iter().map(|(path, _)| path.to_vec()).collect();
        let wants: Vec<Want> = wants
            .into_iter()
            .filter(|want| !known.contains(&want.path))
            .collect();
        let bytes = wants
            .iter()
            .filter_map(|want| want.expected.and_then(|(len, _)| len))
            .sum();
        self.progress.begin(Step::Fetching, wants.len() as u64, bytes);
        let taken = early::while_it_runs(intakes, |came| {
            let got = self.get_all(view, wants, Some(came));
            async { got.await.map(drop) }
        })
        .await?;
        for (path, facts) in taken {
            let item = view.position(&path).and_then(|at| view.files.get_mut(at));
            if let Some((_, Item::File { place, .. })) = item {
                *place = Place::Known(Box::new(facts));
            }
        }
        let named = self.named_in_vain(view, asked).await;
        // What was not asked for is not missing.
        let (listed, named): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|path| self.unasked.contains(path));
        self.listed.extend(listed);
        without_bytes(view, named, NoFile::Absent);
        Ok(())
    }

    /// Forgets what was remembered of these, so that they are asked for without a condition: a server that sent
    /// wrong bytes under the right name of their version would call them "not modified" for ever.
    pub(crate) async fn distrust(&self, paths: Vec<Vec<u8>>) -> Result<(), SourceError> {
        let manifest = Arc::clone(&self.manifest);
        let update = Update {
            forget: paths.into_iter().map(Vec::into_boxed_slice).collect(),
            ..Update::default()
        };
        let forgotten = self.tasks.blocking(Pool::Disk, move || manifest.commit(&update));
        Ok(forgotten.await??)
    }

    /// Puts `wants` into the view, and tells `came` of each file that came over the wire. Gives why the first database of
    /// those that failed did.
    async fn get_all(
        &self,
        view: &mut View,
        wants: Vec<Want>,
        came: Option<mpsc::Sender<Came>>,
    ) -> Result<Option<SourceError>, SourceError> {
        let mut wants: Vec<Want> = wants
            .into_iter()
            .filter(|want| self.is_ours(&want.path))
            .collect();
        wants.sort_by(|a, b| a.path.cmp(&b.path));
        wants.dedup_by(|b, a| a.path == b.path);
        let began = Instant::now();
        let this = self;
        let (mut bytes, mut files) = (0, 0);
        let mut got = stream::iter(wants)
            .map(|want| async move {
                let got = this.get(&want).await?;
                this.progress.file(|| names::show(&want.path));
                this.progress
                    .bytes(want.expected.and_then(|(len, _)| len).unwrap_or_default());
                Ok::<_, SourceError>((want.path, got))
            })
            .buffer_unordered(self.limits.requests.max(1));
        let (mut failed, mut first) = (0_usize, None);
        while let Some((path, got)) = got.try_next().await? {
            let got = match got {
                Got::Failed(error) => {
                    failed += 1;
                    if MAX_FAILED < failed {
                        return Err(error);
                    }
                    let why = Cut::by(&error);
                    if is_database(&path) {
                        first.get_or_insert(error);
                    }
                    Got::Item(Item::None(NoFile::Cut(why)))
                }
                got => got,
            };
            if let Got::Item(item) = got {
                if let Item::File {
                    stamp,
                    place: place @ Place::Fetched(_),
                } = &item
                {
                    (bytes, files) = (bytes + stamp.size(), files + 1);
                    let (path, stamp, place) = (path.as_slice().into(), stamp.clone(), place.clone());
                    if let Some(came) = &came
                        && came.send(Came { path, stamp, place }).await.is_err()
                    {
                        // The intake has failed and says why.
                        return Ok(None);
                    }
                }
                view.files.push((path.into(), item));
            }
        }
        drop(got);
        self.meter.add(bytes, files, began.elapsed());
        view.sort();
        Ok(first)
    }

    /// Whether a file has lain there for an hour.
    fn is_old(&self, stamp: &Stamp) -> bool {
        let written = stamp
            .seconds()
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs);
        let age = written.and_then(|w| self.now.duration_since(UNIX_EPOCH).ok()?.checked_sub(w));
        age.is_some_and(|age| Duration::from_hours(1) < age)
    }

    async fn is_remembered(&self, path: &[u8]) -> Result<bool, SourceError> {
        Ok(self
            .remembered(&Want {
                path: path.to_vec(),
                expected: None,
            })
            .await?
            .is_some())
    }

    pub(crate) fn is_ours(&self, path: &[u8]) -> bool {
        (self.hidden || !names::has_hidden_part(path)) && !self.exclude.covers_file(path)
    }

    pub(crate) fn url(&self, path: &[u8]) -> Option<Url> {
        url_of(&self.root, path).ok()
    }

    pub(crate) fn server(&self) -> u64 {
        let digest = digest(&SHA256, self.root.as_str().as_bytes());
        digest
            .as_ref()
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// One file: from the store if it is there, else over the wire.
    async fn get(&self, want: &Want) -> Result<Got, SourceError> {
        let remembered = self.remembered(want).await?;
        if let Some((stamp, facts)) = &remembered
            && let Some((len, Some(sha256))) = want.expected
            && facts.sha256 == Some(sha256)
            && len.is_none_or(|len| len == facts.len)
        {
            return Ok(Got::Item(Item::File {
                stamp: stamp.clone(),
                place: Place::Known(Box::new(facts.clone())),
            }));
        }
        if let Some((len, Some(sha256))) = want.expected
            && let Some(facts) = self.in_store(len, sha256).await?
        {
            if let Some(why) = self.is_not_there(&want.path).await {
                return Ok(Got::Item(Item::None(why)));
            }
            let stamp = Stamp::Web {
                server: self.server(),
                size: facts.len,
                modified: None,
                etag: Some(HEXLOWER.encode(&sha256).into()),
            };
            return Ok(Got::Item(Item::File {
                stamp,
                place: Place::Known(Box::new(facts)),
            }));
        }
        self.download(want, remembered).await
    }

    /// What is known of a path from this server, if the store still has the file.
    async fn remembered(&self, want: &Want) -> Result<Option<(Stamp, FileFacts)>, SourceError> {
        let (manifest, store, path, server) = (
            Arc::clone(&self.manifest),
            self.store.clone(),
            want.path.clone(),
            self.server(),
        );
        let work = move || -> Result<_, SourceError> {
            let Some((stamp, facts)) = manifest.remembered(&path)? else {
                return Ok(None);
            };
            let same = matches!(&stamp, Stamp::Web { server: known, .. } if *known == server);
            let here = same && store.file(&facts.root())?.is_some();
            Ok(here.then_some((stamp, facts)))
        };
        self.tasks.blocking(Pool::Disk, work).await?
    }

    /// Whether the server says that it has no such file. A byte of it is asked for: the store may have what an upstream in the
    /// middle of its update, or one that is wiped, has not.
    async fn is_not_there(&self, path: &[u8]) -> Option<NoFile> {
        let Some(url) = self.url(path) else {
            return Some(NoFile::Absent);
        };
        let mut get = Get::new(&url);
        (get.range, get.if_range_ignored) = (Some(0..1), IfRangeIgnored::Stream);
        get.deadline = Some(self.limits.small);
        match self.ask(&get).await {
            Err(HttpError::Status { code: 404 | 410, .. }) => Some(NoFile::Absent),
            Err(HttpError::Status { code: 401 | 403, .. }) => Some(NoFile::Denied),
            // A server that is in trouble is found out elsewhere.
            Ok(_) | Err(_) => None,
        }
    }

    /// A file of this digest that the store has under our profile.
    async fn in_store(&self, len: Option<u64>, sha256: [u8; 32]) -> Result<Option<FileFacts>, SourceError> {
        let (store, profile) = (self.store.clone(), self.profile);
        let work = move || -> Result<_, SourceError> {
            let Some(info) = store.file_by_sha256(&sha256)? else {
                return Ok(None);
            };
            if len.is_some_and(|len| len != info.len) {
                return Ok(None);
            }
            let Some(known) = store.dag_of(&info.root)? else {
                return Ok(None);
            };
            let leaves = known.leaves.iter().map(|leaf| (leaf.cid, leaf.len)).collect();
            // Only a layout of our profile has the root that others will compute.
            let Ok(ours) = dag::from_leaves(&profile, leaves) else {
                return Ok(None);
            };
            let facts = || FileFacts::new(&ours.root, ours.tsize, ours.len, Some(sha256));
            Ok((ours.root == known.root).then(facts))
        };
        self.tasks.blocking(Pool::Disk, work).await?
    }
}

/// Whether a path ends in the name of a database, or of a signature of one.
pub(crate) fn is_database(path: &[u8]) -> bool {
    let name = std::str::from_utf8(names::split(path).1);
    name.is_ok_and(|name| pacman::DbFileName::parse(name).is_some())
}

/// Adds names that are there without bytes.
fn without_bytes(view: &mut View, paths: Vec<Vec<u8>>, why: NoFile) {
    let items = paths.into_iter().map(|path| (path.into(), Item::None(why)));
    view.files.extend(items);
    view.sort();
}

pub(crate) fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    }
}
