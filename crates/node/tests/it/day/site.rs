//! Upstreams with the layouts of real ones, what is done to them, and what is true of them.
//!
//! - Invariant: [`Site::truth`] says of each repository which database a reader would find whole at this moment, or none.
//! - Invariant: each change of the files changes the change stamp, as real mirrors do it: last of all.
//! - Not here: when something is done (`super`), what an importer made of it (`super::judge`).

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use fs_err as fs;
use pacstore_import::{ImportSpec, Layout, Source, StampSource};
use pacstore_testkit::{Fault as Web, Repo, RepoSpec, RsyncDaemon, Upstream, put_file};
use ring::digest::{SHA256, digest};

use crate::nodes::Failure;

/// Folder and name in the tree, and the SHA-256 of the database that is whole there.
pub(super) type True = (String, String, Option<[u8; 32]>);

/// Packages of each repository, and their bytes.
const PACKAGES: usize = 4;
const BYTES: u64 = 3_000;

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Connections are refused.
    Dead,
    /// Connections are taken, and nothing is ever said.
    Hung,
    /// Over HTTP a page with status 200 for everything, over rsync a module that is not there.
    Strange,
    /// The folder is there and empty, as where a disk was not mounted.
    Empty,
    /// A package is not there. (Over HTTP nobody asks again for what a database has named before: see [`Site::can`].)
    Lost,
    /// The database is newer than its packages.
    Newer,
    /// The database is newer than its signature.
    Unpaired,
    /// All packages but one leave the repository; later they come back.
    Wiped,
}

pub(super) const FAULTS: [Fault; 8] = [
    Fault::Dead,
    Fault::Lost,
    Fault::Hung,
    Fault::Unpaired,
    Fault::Strange,
    Fault::Wiped,
    Fault::Newer,
    Fault::Empty,
];

impl Fault {
    /// Whether the whole upstream cannot be read.
    pub(super) fn is_of_all(self) -> bool {
        matches!(self, Self::Dead | Self::Hung | Self::Strange | Self::Empty)
    }
}

/// What a site is made from.
pub(super) struct Plan {
    pub(super) name: &'static str,
    /// Folder in the upstream, folder in the tree, repository.
    pub(super) repos: &'static [(&'static str, &'static str, &'static str)],
    pub(super) rsync: bool,
    /// A second upstream of the same files, over HTTP, that nothing is ever done to.
    pub(super) spare: bool,
    pub(super) layout: Layout,
    /// Packages are links into `/pool`.
    pub(super) pool: bool,
    pub(super) stamp: &'static str,
    pub(super) exclude: &'static [&'static str],
}

enum Server {
    Rsync(RsyncDaemon),
    Web(Upstream),
}

/// An upstream.
pub(super) struct Site {
    pub(super) plan: &'static Plan,
    dir: tempfile::TempDir,
    repos: Vec<Repo>,
    server: Server,
    spare: Option<Upstream>,
    /// What is wrong with all of it.
    pub(super) down: Option<Fault>,
    /// A round that began while it hung may wait yet.
    pub(super) lingers: bool,
    /// What is wrong with each repository.
    broken: Vec<Option<Fault>>,
    /// The signature that belongs to a database that stands beside an older one.
    signature: Vec<u8>,
}

impl Site {
    /// Nothing if rsync is needed and not installed.
    pub(super) fn open(plan: &'static Plan, now: u64) -> Result<Option<Self>, Failure> {
        let dir = tempfile::tempdir()?;
        let root = dir.path().join("root");
        let mut repos = Vec::new();
        for (number, (folder, _, name)) in plan.repos.iter().enumerate() {
            let mut spec = RepoSpec::new(*name).packages(PACKAGES, BYTES);
            spec.seed = number as u64 + 1;
            spec.time = now - 30 * 86_400;
            repos.push(Repo::create(root.join(folder), spec)?);
        }
        let served = dir.path().join("served");
        let server = if plan.rsync {
            match RsyncDaemon::serve(&served)? {
                Some(daemon) => Server::Rsync(daemon),
                None => return Ok(None),
            }
        } else {
            Server::Web(Upstream::folder(&served)?)
        };
        let spare = plan.spare.then(|| Upstream::folder(&root)).transpose()?;
        let site = Self {
            plan,
            broken: vec![None; repos.len()],
            repos,
            server,
            spare,
            down: None,
            lingers: false,
            signature: Vec::new(),
            dir,
        };
        for name in plan.exclude {
            fs::write(site.root().join(name.trim_matches('/')), "not for us")?;
        }
        site.serve(Some("root"))?;
        site.changed(now)?;
        Ok(Some(site))
    }

    /// The server's folder is `root`, the empty folder, or none.
    fn serve(&self, folder: Option<&str>) -> Result<(), Failure> {
        let served = self.dir.path().join("served");
        if served.is_symlink() {
            fs::remove_file(&served)?;
        }
        if let Some(folder) = folder {
            fs::create_dir_all(self.dir.path().join(folder))?;
            fs::os::unix::fs::symlink(folder, &served)?;
        }
        Ok(())
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn url(&self) -> String {
        match &self.server {
            Server::Rsync(daemon) => daemon.url(""),
            Server::Web(upstream) => upstream.url(""),
        }
    }

    pub(super) fn spec(&self) -> Result<ImportSpec, Failure> {
        let mut from = vec![Source::parse(&self.url())?];
        if let Some(spare) = &self.spare {
            from.push(Source::parse(&spare.url(""))?);
        }
        let mut spec = ImportSpec::new(self.plan.name, from);
        spec.layout = self.plan.layout;
        // Longer than anything is wrong here; what comes after that is the importer's own test.
        spec.hold = Duration::from_hours(6);
        spec.stamp = Some(StampSource::Path(self.plan.stamp.to_owned()));
        spec.exclude = self.plan.exclude.iter().map(|&name| name.to_owned()).collect();
        if self.plan.pool {
            spec.exclude.push("/pool".to_owned());
        }
        Ok(spec)
    }

    /// The fault itself, or one that shows over this site's transport.
    pub(super) fn can(&self, fault: Fault) -> Fault {
        match (fault, &self.server) {
            (Fault::Lost, Server::Web(_)) => Fault::Newer,
            _ => fault,
        }
    }

    /// Whether it is asked in vain where an import reads `source` now, or asks all (empty).
    pub(super) fn hangs(&self, source: &str) -> bool {
        self.lingers && (self.spare.is_none() || source.is_empty() || source == self.url())
    }

    /// What a reader would find whole at this moment.
    pub(super) fn truth(&self) -> Result<Vec<True>, Failure> {
        let mut all = Vec::new();
        let down = self.down.is_some() && self.spare.is_none();
        for ((repo, broken), (_, folder, name)) in self.repos.iter().zip(&self.broken).zip(self.plan.repos) {
            // The spare is read over HTTP: what the tree has of a package is not asked for again (see [`Site::can`]).
            let kept = *broken == Some(Fault::Lost) && self.spare.is_some();
            let whole = (kept || matches!(broken, None | Some(Fault::Wiped))) && !down;
            let database = whole.then(|| fs::read(repo.database_path())).transpose()?;
            let sha256 = database.map(|bytes| digest(&SHA256, &bytes).as_ref().try_into());
            all.push(((*folder).to_owned(), (*name).to_owned(), sha256.transpose()?));
        }
        Ok(all)
    }

    /// Nothing is wrong with it.
    pub(super) fn is_well(&self) -> bool {
        self.down.is_none() && self.broken.iter().all(Option::is_none)
    }

    /// New releases of some packages, if it is well.
    pub(super) fn update(&mut self, number: usize, now: u64) -> Result<(), Failure> {
        if !self.is_well() {
            return Ok(());
        }
        let repo = number % self.repos.len();
        let package = format!("pkg{}", number % PACKAGES);
        self.repos[repo].update(&[&package])?;
        self.changed(now)
    }

    pub(super) fn inflict(&mut self, fault: Fault, number: usize, now: u64) -> Result<(), Failure> {
        let number = number % self.repos.len();
        match fault {
            Fault::Dead => self.server.stop(),
            Fault::Hung => {
                self.lingers = true;
                self.server.hang();
            }
            Fault::Strange => match &self.server {
                Server::Rsync(_) => self.serve(None)?,
                Server::Web(upstream) => upstream.fault("*", Web::ErrorPage),
            },
            Fault::Empty => self.serve(Some("empty"))?,
            Fault::Lost => self.repos[number].lose_package("pkg1")?,
            Fault::Newer => self.repos[number].update_database_only(&["pkg2"])?,
            Fault::Unpaired => {
                let path = signature(&self.repos[number]);
                let old = fs::read(&path)?;
                self.repos[number].update(&["pkg3"])?;
                self.signature = fs::read(&path)?;
                put_file(&path, &old, at(now))?;
            }
            Fault::Wiped => {
                for package in 1..PACKAGES {
                    self.repos[number].remove(&format!("pkg{package}"))?;
                }
            }
        }
        if fault.is_of_all() {
            self.down = Some(fault);
            return Ok(());
        }
        self.broken[number] = Some(fault);
        self.changed(now)
    }

    pub(super) fn heal(&mut self, fault: Fault, number: usize, now: u64) -> Result<(), Failure> {
        let number = number % self.repos.len();
        match fault {
            Fault::Dead => self.server.start()?,
            Fault::Hung => self.server.heal(),
            Fault::Strange | Fault::Empty => {
                self.server.heal();
                self.serve(Some("root"))?;
            }
            Fault::Lost => self.repos[number].restore_package("pkg1")?,
            Fault::Newer => {
                let repo = &mut self.repos[number];
                repo.finish_update()?;
                let current = repo.file_name("pkg2")?;
                for entry in fs::read_dir(repo.folder())? {
                    let name = entry?.file_name().to_string_lossy().into_owned();
                    if name.starts_with("pkg2-") && !name.starts_with(&current) {
                        fs::remove_file(repo.folder().join(name))?;
                    }
                }
            }
            Fault::Unpaired => put_file(&signature(&self.repos[number]), &self.signature, at(now))?,
            Fault::Wiped => {
                for package in 1..PACKAGES {
                    self.repos[number].add(&format!("pkg{package}"), BYTES)?;
                }
            }
        }
        if fault.is_of_all() {
            self.down = None;
            return Ok(());
        }
        self.broken[number] = None;
        self.changed(now)
    }

    /// Packages go to the pool, then the stamp says that something changed.
    fn changed(&self, now: u64) -> Result<(), Failure> {
        if self.plan.pool {
            for repo in &self.repos {
                // Packages of all repositories have the same names here, which they do not have in a real pool.
                let pool = self.root().join("pool").join(repo.name());
                fs::create_dir_all(&pool)?;
                to_pool(repo.folder(), &pool)?;
            }
        }
        let text = format!("{now}\n");
        Ok(put_file(
            &self.root().join(self.plan.stamp),
            text.as_bytes(),
            at(now),
        )?)
    }
}

impl Server {
    fn stop(&self) {
        match self {
            Self::Rsync(daemon) => daemon.stop(),
            Self::Web(upstream) => upstream.stop(),
        }
    }

    fn start(&self) -> std::io::Result<()> {
        match self {
            Self::Rsync(daemon) => daemon.start(),
            Self::Web(upstream) => upstream.start(),
        }
    }

    fn hang(&self) {
        match self {
            Self::Rsync(daemon) => daemon.hang(true),
            Self::Web(upstream) => upstream.fault("*", Web::NoAnswer),
        }
    }

    fn heal(&self) {
        match self {
            Self::Rsync(daemon) => daemon.hang(false),
            Self::Web(upstream) => upstream.heal(),
        }
    }
}

fn at(now: u64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(now)
}

fn signature(repo: &Repo) -> PathBuf {
    repo.folder().join(format!("{}.db.sig", repo.name()))
}

/// Moves the packages of `folder` to `pool`, a folder of `/pool`, and leaves links to them.
fn to_pool(folder: &Path, pool: &Path) -> Result<(), Failure> {
    let above = Path::new("../../../pool").join(pool.file_name().unwrap_or_default());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().contains(".pkg.") || !entry.file_type()?.is_file() {
            continue;
        }
        let beside = folder.join(".~link");
        fs::rename(entry.path(), pool.join(&name))?;
        fs::os::unix::fs::symlink(above.join(&name), &beside)?;
        fs::rename(&beside, entry.path())?;
    }
    Ok(())
}
