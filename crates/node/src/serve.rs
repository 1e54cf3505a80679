//! What a request for a path gets: the rules of mirrors, runs, staleness and times.
//!
//! [`Node::ask`] decides without touching the network; [`Node::open`] then opens what is
//! to be given, from disk or from whoever has it.
//!
//! - Invariant: an unknown path is answered at once from the directories on disk.
//! - Invariant: a database over its age limit is never given, nor "not modified".
//! - Not here: HTTP (`pacstore-http`), fetching (`crate::fetch`).
//! - Read first: `docs/semantics.md`, which lists each rule with its test.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::{self as dag, Entry};
use pacstore_names::{Layout, Repository, unix_seconds};
use pacstore_pacman::{self as pacman, DbFileName, DbKind};
use pacstore_runtime::Pool;
use tracing::{info, warn};
use url::Url;

use crate::error::StoreError;
use crate::fetch::{FetchError, Sources};
use crate::giving::Against;
use crate::mirror::{Accepted, Found, FoundKind, Mirror, look_up};
use crate::node::Node;
use crate::repository::PackageOf;
use crate::runs::Asked;

/// How long an answer under a name may be kept by caches: an importer's head is seen
/// within this time anyway.
pub(crate) const NAME_TTL: Duration = Duration::from_mins(1);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client's address: pacman runs are told apart by it.
    pub address: IpAddr,
    /// Which of its connections: a database and its signature on one are a pair.
    pub connection: u64,
}

/// What a request gets.
#[derive(Debug)]
pub enum Answer {
    /// A file.
    File(Box<FileAnswer>),
    /// A directory.
    Directory(DirectoryAnswer),
    /// Go there.
    Redirect(Redirect),
    /// No such thing; why, for the log and the body.
    NotFound(String),
    /// Whoever has it is silent now, so pacman goes on to its next Server; why, for the body.
    NotNow(&'static str),
}

/// Where to go, and why. It is used as its URL.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// Where.
    pub url: Url,
    /// Why it is not given here.
    pub why: Cow<'static, str>,
}

impl Redirect {
    pub(crate) fn new(url: Url, why: impl Into<Cow<'static, str>>) -> Self {
        Self { url, why: why.into() }
    }
}

impl Deref for Redirect {
    type Target = Url;

    fn deref(&self) -> &Url {
        &self.url
    }
}

/// A file to give.
#[derive(Clone, Debug)]
pub struct FileAnswer {
    /// Its root.
    pub root: Cid,
    /// Its length in bytes.
    pub len: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// Databases and their signatures have one.
    pub last_modified: Option<SystemTime>,
    /// CIDs of all segments of its path.
    pub roots: Vec<Cid>,
    /// How long caches may keep it; none = for ever.
    pub ttl: Option<Duration>,
    /// Where it may come from.
    pub sources: Sources,
    /// What its bytes are known by.
    pub(crate) known: Known,
    /// What they are checked against, for its receipt.
    pub(crate) against: Against,
}

impl FileAnswer {
    /// Its bytes are in the answer.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.known, Known::Bytes(..))
    }

    /// Who asks takes redirects as pacman does, and was sent back to us so many times for this file
    /// ([`FetchError::NotYet`]).
    pub fn was_held(&mut self, times: u8) {
        if let Known::Package(package) = &self.known
            && !package.is_small()
        {
            self.known = Known::Package(Arc::new(package.held(times)));
        }
    }

    /// How many times that was.
    pub(crate) fn times_held(&self) -> u8 {
        match &self.known {
            Known::Package(package) => package.times_held(),
            Known::Tree | Known::Bytes(..) => 0,
        }
    }

    /// Who asks waits for so long, and not as pacman does.
    pub(crate) fn be_patient(&mut self, patience: Duration) {
        if let Known::Package(package) = &self.known {
            self.known = Known::Package(Arc::new(package.within(patience)));
        }
    }
}

/// What the bytes of an answer are known by.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// The root: that of a file's DAG.
    Tree,
    /// The SHA-256 in a repository's database; the root only stands for it where it is longer than one leaf.
    Package(Arc<PackageOf>),
    /// They are here.
    Bytes(Bytes, pacstore_store::Origin),
}

/// A directory to list.
#[derive(Clone, Debug)]
pub struct DirectoryAnswer {
    /// Its CID.
    pub cid: Cid,
    /// CIDs of all segments of its path.
    pub roots: Vec<Cid>,
    /// How long caches may keep it; none = for ever.
    pub ttl: Option<Duration>,
    /// Names, bytes below, is a directory.
    pub entries: Vec<(Vec<u8>, u64, bool)>,
}

/// Whether an answer may be preceded by what has to be on disk first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// On this thread.
    Here,
    /// Not on this thread.
    Never,
}

/// Why an answer could not be made: the disk or a damaged directory.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The store failed.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// A directory is missing or damaged.
    #[error("a directory cannot be read")]
    Directory(#[from] dag::ReadError),
    /// What peers gave of a directory cannot be kept.
    #[error("what peers gave cannot be kept")]
    Keep(#[source] Box<FetchError>),
    /// The node is stopping.
    #[error("stopping")]
    Stopping,
}

impl Node {
    /// What `client` gets for `path` of `mirror`.
    ///
    /// # Errors
    /// [`AskError`] if what is on disk cannot be read.
    pub async fn ask(
        &self,
        client: Client,
        mirror: &Arc<Mirror>,
        path: &[Vec<u8>],
    ) -> Result<Answer, AskError> {
        // Directories are read from the page cache, mostly from memory: no need for the pool.
        let first = if is_database(path) {
            Writes::Never
        } else {
            Writes::Here
        };
        if let Some(answer) = self.decide(client, mirror, path, first)? {
            return Ok(answer);
        }
        // What pacman is told of a database for the first time is written down before.
        let (node, mirror, path) = (self.clone(), Arc::clone(mirror), path.to_vec());
        let decided = self.inner.tasks.blocking(Pool::Disk, move || {
            node.decide(client, &mirror, &path, Writes::Here)
        });
        let decided = decided.await.map_err(|_| AskError::Stopping)??;
        // Only `Writes::Never` gives nothing.
        decided.ok_or(AskError::Stopping)
    }

    /// Nothing only where something has to be written first and `writes` forbids that.
    fn decide(
        &self,
        client: Client,
        mirror: &Arc<Mirror>,
        path: &[Vec<u8>],
        writes: Writes,
    ) -> Result<Option<Answer>, AskError> {
        let Some(current) = mirror.current() else {
            return Ok(Some(self.without_head(mirror, path)));
        };
        let asked = asked(path);
        let chosen = self.inner.runs.head(client, &mirror.name(), &asked, current.cid);
        let heads = mirror.heads();
        let first = heads.iter().find(|head| head.cid == chosen).unwrap_or(&current);
        let older = heads.iter().filter(|head| head.cid != first.cid);
        // The run's head first, then the others from the newest on, for packages only.
        for head in std::iter::once(first).chain(older) {
            if head.cid != first.cid && (is_database(path) || !is_package(path)) {
                continue;
            }
            for path in forms(path) {
                if let Some(found) = mirror.look_up(&head.head.tree, &path)? {
                    return self.found(mirror, head, &path, found, writes);
                }
            }
        }
        Ok(Some(self.unknown(mirror, path)))
    }

    /// No head is known yet: as where one is too old, an upstream may give databases too.
    fn without_head(&self, mirror: &Mirror, path: &[Vec<u8>]) -> Answer {
        let url = (is_database(path) || is_package(path))
            .then(|| self.ranked_urls(mirror, mirror.layout(), path).into_iter().next())
            .flatten();
        url.map_or_else(
            || Answer::NotFound(format!("no head of {} is known yet", mirror.config.name)),
            |url| Answer::Redirect(Redirect::new(url, "no head of this mirror is known yet")),
        )
    }

    /// No head has it: an upstream may, if it is named like a package.
    fn unknown(&self, mirror: &Mirror, path: &[Vec<u8>]) -> Answer {
        if is_package(path)
            && let Some(url) = self.ranked_urls(mirror, mirror.layout(), path).into_iter().next()
        {
            return Answer::Redirect(Redirect::new(url, "no head of this mirror has this file"));
        }
        warn_once(mirror, path);
        Answer::NotFound("no such path".to_owned())
    }

    /// The file's URLs on the mirror's upstreams, the one to ask first in front.
    pub(crate) fn ranked_urls(&self, mirror: &Mirror, layout: Layout, path: &[Vec<u8>]) -> Vec<Url> {
        let mut urls = upstream_urls(mirror, layout, path);
        self.inner.ranking.mirrors().sort(&mut urls);
        urls
    }

    fn found(
        &self,
        mirror: &Arc<Mirror>,
        head: &Arc<Accepted>,
        path: &[Vec<u8>],
        found: Found,
        writes: Writes,
    ) -> Result<Option<Answer>, AskError> {
        let FoundKind::File(len) = found.kind else {
            let directory = self.directory(&found, Some(NAME_TTL))?;
            return Ok(Some(Answer::Directory(directory)));
        };
        let name = path.last().cloned().unwrap_or_default();
        let mut answer = FileAnswer {
            root: found.cid,
            len,
            name,
            last_modified: None,
            roots: found.roots,
            ttl: Some(NAME_TTL),
            sources: Sources {
                len: (found.cid.codec() == dag::RAW).then_some(len),
                profile: Some(head.head.profile.clone()),
                peers: mirror.audience(Some(&head.head)),
                upstreams: self.ranked_urls(mirror, head.head.layout, path),
            },
            known: Known::Tree,
            against: Against::Head(mirror.config.name.clone(), head.cid),
        };
        let now = self.inner.clock.now();
        if writes == Writes::Never && head.is_to_note(unix_seconds(now)) {
            return Ok(None);
        }
        mirror.served(head, now)?;
        if let Some(database) = Database::of(path) {
            if let Some(refused) = self.refuse_stale(mirror, head, &database, &answer) {
                return Ok(Some(refused));
            }
            let Some(time) = self.database_time(mirror, head, &database, writes)? else {
                return Ok(None);
            };
            answer.last_modified = Some(time);
            if database.is_db && !database.is_signature {
                let path = String::from_utf8_lossy(&database.path);
                if writes == Writes::Never && !mirror.uses_database(&path) {
                    return Ok(None);
                }
                mirror.use_database(&path, &answer.root)?;
            }
        }
        Ok(Some(Answer::File(Box::new(answer))))
    }

    /// Over its age limit a database is not given: an upstream, or the next Server, is.
    fn refuse_stale(
        &self,
        mirror: &Mirror,
        head: &Accepted,
        database: &Database,
        answer: &FileAnswer,
    ) -> Option<Answer> {
        let repository = database.repository(&head.head)?;
        let now = self.inner.clock.now();
        let max_age = head.head.max_age_s;
        if !repository.is_refused_at(now, head.head.max_age()) {
            return None;
        }
        let age = repository.age(now);
        info!(mirror = %mirror.config.name, repository = repository.name, age_s = age.as_secs(), "too old to be given");
        Some(match answer.sources.upstreams.first() {
            Some(url) => Answer::Redirect(Redirect::new(
                url.clone(),
                format!(
                    "{} is {} s old here, the limit is {max_age} s",
                    repository.name,
                    age.as_secs()
                ),
            )),
            None => Answer::NotFound(format!(
                "{} is {} s old, the limit is {max_age} s",
                repository.name,
                age.as_secs()
            )),
        })
    }

    fn database_time(
        &self,
        mirror: &Mirror,
        head: &Accepted,
        database: &Database,
        writes: Writes,
    ) -> Result<Option<SystemTime>, AskError> {
        let tree = &head.head.tree;
        let (base, signature) = database.pair();
        let base_found = mirror.look_up(tree, &split(&base))?;
        let signature_found = mirror.look_up(tree, &split(&signature))?;
        let upstream = database.repository(&head.head).map_or(UNIX_EPOCH, |r| {
            UNIX_EPOCH
                + Duration::from_secs(if database.is_db {
                    r.db_time
                } else {
                    r.files_time.unwrap_or(r.db_time)
                })
        });
        let Some(base_found) = base_found else {
            return Ok(Some(upstream));
        };
        let path = String::from_utf8_lossy(&base).into_owned();
        let signature = signature_found.map(|found| found.cid);
        let (times, name) = (&self.inner.times, mirror.name());
        if writes == Writes::Never {
            return Ok(times.known(&name, &path, &base_found.cid, signature.as_ref()));
        }
        let told = times.told(&name, &path, &base_found.cid, signature.as_ref(), upstream)?;
        Ok(Some(told))
    }

    pub(crate) fn directory(
        &self,
        found: &Found,
        ttl: Option<Duration>,
    ) -> Result<DirectoryAnswer, AskError> {
        let listed = dag::list(&found.cid, &self.inner.store)?;
        let entries = listed.into_iter().map(|(name, entry)| {
            let directory = self.is_directory(&entry);
            (name, entry.tsize, directory)
        });
        Ok(DirectoryAnswer {
            cid: found.cid,
            roots: found.roots.clone(),
            ttl,
            entries: entries.collect(),
        })
    }

    fn is_directory(&self, entry: &Entry) -> bool {
        entry.cid.codec() == dag::DAG_PB
            && matches!(
                look_up(&self.inner.store, &entry.cid, &[]),
                Ok(Some(Found {
                    kind: FoundKind::Directory,
                    ..
                }))
            )
    }
}

fn asked(path: &[Vec<u8>]) -> Asked {
    let joined = path.join(&b'/');
    match path.last() {
        Some(name) if name.ends_with(b".db") => Asked::Database(joined),
        Some(name) if name.ends_with(b".db.sig") => {
            Asked::Signature(joined.strip_suffix(b".sig").unwrap_or(&joined).to_vec())
        }
        _ => Asked::Other,
    }
}

fn is_database(path: &[Vec<u8>]) -> bool {
    Database::of(path).is_some()
}

fn is_package(path: &[Vec<u8>]) -> bool {
    path.last().is_some_and(|name| {
        let base = name.strip_suffix(b".sig").unwrap_or(name);
        std::str::from_utf8(base).is_ok_and(pacman::is_package_file)
    })
}

/// The path as asked, and without `os/ARCH` where it has it: both forms are answered.
fn forms(path: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let mut forms = vec![path.to_vec()];
    if let [repo, os, _arch, rest @ ..] = path
        && os == b"os"
    {
        let mut short = vec![repo.clone()];
        short.extend_from_slice(rest);
        forms.push(short);
    }
    forms
}

fn warn_once(mirror: &Mirror, path: &[Vec<u8>]) {
    if is_database(path) {
        warn!(mirror = %mirror.config.name, path = %String::from_utf8_lossy(&path.join(&b'/')), "a database was asked that no head has");
    }
}

/// The file's URLs on the mirror's upstreams, as configured.
fn upstream_urls(mirror: &Mirror, layout: Layout, path: &[Vec<u8>]) -> Vec<Url> {
    let mapped: Vec<&[u8]> = match (layout, path) {
        (Layout::Archlinux, [repo, file]) => vec![repo, b"os", b"x86_64", file],
        _ => path.iter().map(Vec::as_slice).collect(),
    };
    mirror
        .config
        .upstreams
        .iter()
        .filter_map(|base| pacstore_upstream::url_of(base, &mapped.join(&b'/')).ok())
        .collect()
}

fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect()
}

/// A path that is a database, a file list, or a signature of one.
#[derive(Debug)]
struct Database {
    /// Its folder.
    folder: String,
    /// The repository it is named after.
    repo: String,
    /// Without `.sig`.
    path: Vec<u8>,
    is_db: bool,
    is_signature: bool,
}

impl Database {
    fn of(path: &[Vec<u8>]) -> Option<Self> {
        let (name, folders) = path.split_last()?;
        let name = std::str::from_utf8(name).ok()?;
        let parsed = DbFileName::parse(name)?;
        let folder = String::from_utf8(folders.join(&b'/')).ok()?;
        let base = name.strip_suffix(".sig").unwrap_or(name);
        let path = if folder.is_empty() {
            base.to_owned()
        } else {
            format!("{folder}/{base}")
        };
        Some(Self {
            folder,
            repo: parsed.repo.to_owned(),
            path: path.into_bytes(),
            is_db: parsed.kind == DbKind::Db,
            is_signature: parsed.signature,
        })
    }

    fn pair(&self) -> (Vec<u8>, Vec<u8>) {
        (self.path.clone(), [&self.path[..], b".sig"].concat())
    }

    /// The repository of `head` that it belongs to.
    fn repository<'a>(&self, head: &'a pacstore_names::Head) -> Option<&'a Repository> {
        head.in_folder(&self.folder)
            .find(|repository| repository.name == self.repo)
    }
}
