//! The machine that this node stands on: what its pacman uses, has and will fetch next, and what follows for the store.
//!
//! One worker looks now and then. From the databases that this machine uses and the list of what is installed
//! follow which files are needed and which superseded (`Class`), what `pacman -Syu` would fetch (`super::prefetch`
//! brings it), and which files of pacman's cache are right (`cache`).
//!
//! - Invariant: reads the machine, never changes it; nothing here is needed for serving.
//! - Invariant: nothing of a file is taken before its SHA-256 is one that a database in use names.
//! - Not here: fetching (`crate::fetch`, `crate::repository`), eviction itself (`pacstore-store`).

pub(crate) mod cache;
pub(crate) mod given;
mod local;
mod moment;
mod plan;
pub(crate) mod prefetch;
pub(crate) mod scrub;

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cid::Cid;
use data_encoding::HEXLOWER;
use pacstore_pacman::{Database, Limits, Settings};
use pacstore_runtime::{Pool, note};
use pacstore_store::Class;
use tokio::sync::{Notify, watch};
use tracing::{debug, warn};

use crate::error::StoreError;
use crate::mirror::{FoundKind, Mirror};
use crate::node::{Node, RepositoryIn};
use crate::repository::Repository;
use crate::serve::{Answer, Client};

/// Between two looks at the machine.
const PERIOD: Duration = Duration::from_secs(30);

/// Who asks when nobody does: an address that no client has.
const OURSELVES: Client = Client {
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    connection: 0,
};

/// Bytes of a packed database; the largest known have some 10 MB.
const MAX_PACKED: u64 = 128 << 20;

/// Key of what is remembered of files: SHA-256 and the package they are.
const NAMES: &str = "machine/names";

/// Where a database in use comes from.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// This folder of a mirror.
    Mirror(Arc<Mirror>, String),
    /// A repository without importer.
    Repository(Arc<Repository>),
}

/// A database that this machine uses, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct InUse {
    pub(crate) repo: String,
    pub(crate) route: Route,
    root: Cid,
}

/// A package file that a database in use names.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Which database.
    pub(crate) database: usize,
    pub(crate) filename: Box<str>,
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
    /// The database has its signature.
    signed: bool,
    /// `NAME-VERSION`.
    package: Box<str>,
}

/// What the databases and the machine say together.
#[derive(Debug, Default)]
pub(crate) struct Need {
    pub(crate) databases: Vec<InUse>,
    /// All package files, by name; the first database wins.
    pub(crate) listed: Vec<Listed>,
    by_sha256: HashMap<[u8; 32], usize>,
    by_name: HashMap<Box<str>, usize>,
    /// Numbers in `listed` of what `pacman -Syu` would fetch.
    pub(crate) updates: Vec<usize>,
    /// What is installed in its newest version, and the updates.
    needed: HashSet<[u8; 32]>,
    /// Bytes of all that is needed.
    pub(crate) needed_bytes: u64,
    /// Folders `NAME-VERSION` of what is installed.
    installed: HashSet<String>,
    /// From what it was made.
    key: (Vec<Cid>, Vec<String>, Option<Settings>),
}

impl Need {
    pub(crate) fn of_sha256(&self, sha256: &[u8; 32]) -> Option<&Listed> {
        self.by_sha256.get(sha256).map(|at| &self.listed[*at])
    }

    fn of_name(&self, name: &str) -> Option<&Listed> {
        self.by_name.get(name).map(|at| &self.listed[*at])
    }

    /// It may be here, and is not given: its signature is not good.
    fn is_unsound(&self, listed: &Listed) -> bool {
        match self.databases.get(listed.database).map(|one| &one.route) {
            Some(Route::Repository(one)) => one.is_unsound(&listed.sha256),
            Some(Route::Mirror(..)) | None => false,
        }
    }
}

/// What the store held at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    files: u64,
    bytes: u64,
    /// Packages that are not given.
    unsound: usize,
}

/// What the workers know, for each other and for `status`.
#[derive(Debug)]
pub(crate) struct Board {
    need: watch::Sender<Arc<Need>>,
    /// One look at a time. What the store held when its files were last classified.
    looking: tokio::sync::Mutex<Held>,
    /// pacman's caches as they were last seen.
    caches: Mutex<HashMap<PathBuf, cache::Seen>>,
    pub(crate) prefetch: Mutex<prefetch::Progress>,
    pub(crate) scrub: Mutex<scrub::ScrubStatus>,
    pub(crate) given: given::Given,
    pub(crate) line: moment::Line,
    /// A database or head is new: somebody should look now.
    now: Notify,
    /// Somebody asks for the updates now.
    pub(crate) fetch_now: Notify,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            need: watch::Sender::new(Arc::default()),
            looking: tokio::sync::Mutex::default(),
            caches: Mutex::default(),
            prefetch: Mutex::default(),
            scrub: Mutex::default(),
            given: given::Given::default(),
            line: moment::Line::default(),
            now: Notify::new(),
            fetch_now: Notify::new(),
        }
    }
}

impl Board {
    /// What is needed, as far as it was looked at.
    pub(crate) fn need(&self) -> Arc<Need> {
        Arc::clone(&self.need.borrow())
    }

    /// Something is new that may change what this machine needs.
    pub(crate) fn look_now(&self) {
        self.now.notify_one();
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Need>> {
        self.need.subscribe()
    }
}

/// Looks at the machine until the node stops.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    loop {
        note("looking");
        let looked = stop.run_until_cancelled(Box::pin(node.look_at_machine())).await;
        match looked {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => warn!(
                error = &error as &dyn std::error::Error,
                "cannot look at what this machine needs; will retry"
            ),
        }
        note("waiting");
        let wait = async {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = node.inner.machine.now.notified() => {}
                () = node.inner.repositories.redirected.more() => {
                    // pacman gets it now: a little later it is in its cache.
                    tokio::time::sleep(PERIOD / 10).await;
                }
            }
        };
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

impl Node {
    /// Looks at databases, installed packages and caches now.
    ///
    /// # Errors
    /// [`StoreError`] from the store; what was done stays done.
    pub async fn look_at_machine(&self) -> Result<(), StoreError> {
        let mut classified = self.inner.machine.looking.lock().await;
        let config = self.inner.config.machine.clone();
        let conf = config.pacman_conf.clone();
        let (settings, folders) = self
            .on_disk(move || {
                let settings = conf.as_deref().and_then(local::settings);
                let db_path = settings.as_ref().map(local::db_path);
                Ok((
                    settings,
                    db_path.map(|path| local::folders(&path)).unwrap_or_default(),
                ))
            })
            .await?;
        if settings.is_none() && config.cache_dirs.is_empty() {
            return Ok(());
        }
        let databases = self.databases_in_use(settings.as_ref());
        let roots = databases.iter().map(|one| one.root).collect();
        let key = (roots, folders, settings);
        let mut need = self.inner.machine.need();
        let stats = self.inner.store.stats();
        let held = Held {
            files: stats.files,
            bytes: stats.bytes,
            unsound: self.inner.repositories.unsound(),
        };
        let is_new = need.key != key;
        if is_new {
            need = Arc::new(Box::pin(self.work_out(databases, key)).await?);
        }
        // What came since, such as the updates themselves, has no class yet.
        if is_new || *classified != held {
            self.classify(&need).await?;
            *classified = held;
        }
        if is_new {
            self.inner.machine.need.send_replace(Arc::clone(&need));
        }
        // Their names are among those that are looked for below.
        drop(self.inner.repositories.redirected.take());
        if !config.cache_dirs.is_empty() {
            self.take_from_caches(&need, &config.cache_dirs).await?;
        }
        Ok(())
    }

    /// The databases of `pacman.conf` that this node serves, in its order; without one, all that clients asked for.
    fn databases_in_use(&self, settings: Option<&Settings>) -> Vec<InUse> {
        let mut found = Vec::new();
        let Some(settings) = settings else {
            for mirror in &self.inner.mirrors {
                for path in mirror.used_databases() {
                    let (folder, file) = path.rsplit_once('/').unwrap_or(("", &path));
                    let repo = file.split(".db").next().unwrap_or(file);
                    found.extend(in_mirror(mirror, folder, repo));
                }
            }
            let all = self.inner.repositories.all.iter();
            found.extend(all.filter_map(|one| in_repository(&one.config.name, one)));
            return found;
        };
        let arch = settings.architecture(std::env::consts::ARCH);
        for repository in &settings.repositories {
            let unused = |word: &String| !matches!(&**word, "All" | "Install" | "Upgrade");
            if !repository.usage.is_empty() && repository.usage.iter().all(unused) {
                continue;
            }
            let own = self.inner.repositories.get(&repository.name, arch);
            let in_use = match self.repository(&repository.name, arch) {
                RepositoryIn::One(mirror, folder) => in_mirror(&mirror, &folder, &repository.name),
                RepositoryIn::Several(..) | RepositoryIn::None => None,
            };
            found.extend(in_use.or_else(|| in_repository(&repository.name, &own?)));
        }
        found
    }

    /// Reads the databases and works out what follows.
    async fn work_out(
        &self,
        databases: Vec<InUse>,
        key: (Vec<Cid>, Vec<String>, Option<Settings>),
    ) -> Result<Need, StoreError> {
        let mut read = Vec::new();
        for one in &databases {
            read.push(self.read_database(one).await?.unwrap_or_default());
        }
        self.on_disk(move || {
            let settings = key.2.as_ref();
            let installed = settings.map(|settings| local::installed(&local::db_path(settings)));
            let installed = installed.unwrap_or_default();
            let ignored = settings.map(|settings| plan::Ignored {
                packages: settings.options.ignore_pkg.clone(),
                groups: settings.options.ignore_group.clone(),
            });
            let updates = plan::updates(&read, &installed, &ignored.unwrap_or_default());
            let mut need = Need {
                databases,
                installed: key.1.iter().cloned().collect(),
                key,
                ..Need::default()
            };
            let names: HashSet<&str> = installed.iter().map(|one| &*one.name).collect();
            let mut seen = HashSet::new();
            for (database, entries) in read.iter().enumerate() {
                for (at, desc) in entries.entries.iter().enumerate() {
                    let (Some(len), Some(sha256)) = (desc.csize, desc.sha256) else {
                        continue;
                    };
                    let number = need.listed.len();
                    let update = updates.contains(&(database, at));
                    // Of several repositories the first that has it counts.
                    let newest = names.contains(&*desc.name) && seen.insert(&*desc.name);
                    if (update || newest) && need.needed.insert(sha256) {
                        need.needed_bytes += len;
                    }
                    if update {
                        need.updates.push(number);
                    }
                    need.by_sha256.entry(sha256).or_insert(number);
                    need.by_name.entry(desc.filename.clone()).or_insert(number);
                    need.listed.push(Listed {
                        database,
                        filename: desc.filename.clone(),
                        len,
                        sha256,
                        signed: desc.pgpsig.is_some(),
                        package: desc.folder().into(),
                    });
                }
            }
            debug!(
                databases = need.databases.len(),
                packages = need.listed.len(),
                updates = need.updates.len(),
                "looked at what this machine needs"
            );
            Ok(need)
        })
        .await
    }

    /// One database; none if it is not here and nobody gives it now.
    async fn read_database(&self, one: &InUse) -> Result<Option<Database>, StoreError> {
        let mut packed = self.stored_bytes(one.root).await?;
        if packed.is_none()
            && let Route::Mirror(mirror, folder) = &one.route
        {
            // A mirror's databases come when they are used: now they are.
            let path = path_in(folder, &format!("{}.db", one.repo));
            if let Ok(Answer::File(file)) = self.ask(OURSELVES, mirror, &path).await
                && self.inner.fetch.take(&file.root, &file.sources).await.is_ok()
            {
                packed = self.stored_bytes(one.root).await?;
            }
        }
        let Some(packed) = packed else { return Ok(None) };
        let read = move || Database::read(&packed, &Limits::DB);
        let read = self.inner.tasks.blocking(Pool::Hash, read).await;
        match read.map_err(|_| StoreError::Stopping)? {
            Ok(database) => Ok(Some(database)),
            Err(error) => {
                warn!(
                    repository = one.repo,
                    error = &error as &dyn std::error::Error,
                    "a database cannot be read"
                );
                Ok(None)
            }
        }
    }

    async fn stored_bytes(&self, root: Cid) -> Result<Option<Vec<u8>>, StoreError> {
        let store = self.inner.store.clone();
        self.on_disk(move || {
            let Some(opened) = store.open_file(&root)? else {
                return Ok(None);
            };
            let mut bytes = Vec::new();
            let read = opened.file.take(MAX_PACKED).read_to_end(&mut bytes);
            Ok(read.is_ok().then_some(bytes))
        })
        .await
    }

    /// Tells the store which files go first and which stay longest.
    async fn classify(&self, need: &Arc<Need>) -> Result<(), StoreError> {
        let (store, need) = (self.inner.store.clone(), Arc::clone(need));
        self.on_disk(move || {
            let known: HashMap<String, String> = match store.state_get(NAMES)? {
                Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
                None => HashMap::new(),
            };
            if known.is_empty() && need.listed.is_empty() {
                return Ok(());
            }
            let mut names = HashMap::new();
            store.classify(&mut |info, old| {
                let Some(sha256) = info.sha256 else { return old };
                let key = HEXLOWER.encode(&sha256);
                if let Some(listed) = need.of_sha256(&sha256) {
                    names.insert(key, listed.package.to_string());
                    return if need.is_unsound(listed) {
                        Class::Spare
                    } else if need.needed.contains(&sha256) {
                        Class::Needed
                    } else {
                        Class::Listed
                    };
                }
                match known.get(&key) {
                    None => old,
                    // The installed version: somebody may want to go back to it.
                    Some(package) if need.installed.contains(package) => {
                        names.insert(key, package.clone());
                        Class::Needed
                    }
                    Some(package) => {
                        names.insert(key, package.clone());
                        Class::Spare
                    }
                }
            })?;
            if names != known {
                let bytes = serde_json::to_vec(&names).unwrap_or_default();
                store.state_put(&[(NAMES, Some(&bytes))])?;
            }
            Ok(())
        })
        .await
    }

    /// Runs `work` where it may wait for the disk.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.inner.tasks.blocking(Pool::Disk, work).await;
        done.unwrap_or(Err(StoreError::Stopping))
    }

    /// What a request for a listed file gets.
    pub(crate) async fn ask_listed(&self, need: &Need, listed: &Listed, ending: &str) -> Option<Answer> {
        let database = need.databases.get(listed.database)?;
        let name = format!("{}{ending}", listed.filename);
        let answer = match &database.route {
            Route::Mirror(mirror, folder) => self.ask(OURSELVES, mirror, &path_in(folder, &name)).await,
            Route::Repository(one) => {
                self.ask_pacman(OURSELVES, &database.repo, &one.config.arch, name.into_bytes())
                    .await
            }
        };
        answer.ok()
    }
}

impl Board {
    fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
        what.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_mirror(mirror: &Arc<Mirror>, folder: &str, repo: &str) -> Option<InUse> {
    let head = mirror.current()?;
    let found = mirror.look_up(&head.head.tree, &path_in(folder, &format!("{repo}.db")));
    let found = found.ok().flatten()?;
    matches!(found.kind, FoundKind::File(_)).then(|| InUse {
        repo: repo.to_owned(),
        route: Route::Mirror(Arc::clone(mirror), folder.to_owned()),
        root: found.cid,
    })
}

fn in_repository(repo: &str, one: &Arc<Repository>) -> Option<InUse> {
    Some(InUse {
        repo: repo.to_owned(),
        root: one.database_root()?,
        route: Route::Repository(Arc::clone(one)),
    })
}

fn path_in(folder: &str, name: &str) -> Vec<Vec<u8>> {
    let folders = folder.split('/').filter(|part| !part.is_empty());
    folders
        .chain([name])
        .map(|part| part.as_bytes().to_vec())
        .collect()
}
