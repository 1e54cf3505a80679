//! A signed repository in a folder, as an upstream has it, and what happens to it.
//!
//! Packages and databases are real (crate `pacman` builds them, the real pacman takes
//! them). Changes come as on a good mirror: packages first, databases last, removals
//! at the end, each file by rename; or, where a test asks for it, wrongly.
//!
//! - Invariant: same spec and same calls, same bytes and mtimes.
//! - Not here: serving it ([`crate::Upstream`], [`crate::RsyncDaemon`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use pacstore_pacman::build::{
    BuildError, BuiltPackage, Compression, FileSpec, PackageSpec, RepoBuilder, RepoError, SignError,
    SigningKey, write_package,
};

use crate::folder::{at, corrupt, put_file, truncate, write_over};

/// Seconds between two updates.
const STEP: u64 = 3600;

/// Why a repository could not be written; tests only print it.
#[derive(Debug, thiserror::Error)]
pub enum RepoFailure {
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A package.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A database.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// No such package.
    #[error("the repository has no package `{0}`")]
    NoPackage(String),
}

/// What a repository is made from. Every field may be changed before it is created.
#[derive(Clone, Debug)]
pub struct RepoSpec {
    /// Its name.
    pub name: String,
    /// Architecture of its packages.
    pub arch: String,
    /// Packages with the sizes of their (incompressible) payloads in bytes.
    pub packages: Vec<(String, u64)>,
    /// Which bytes.
    pub seed: u64,
    /// When its first state was made, in seconds since 1970.
    pub time: u64,
    /// Whether packages and databases have `.sig` files.
    pub signed: bool,
    /// Whether the database carries the signatures of packages (`%PGPSIG%`).
    pub embed_signatures: bool,
    /// Whether there is `REPO.db.tar.gz` beside `REPO.db`.
    pub twins: bool,
    /// How databases are packed.
    pub compression: Compression,
}

impl RepoSpec {
    /// An empty, signed repository of 2025-04-13, without `%PGPSIG%`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            arch: "x86_64".to_owned(),
            packages: Vec::new(),
            seed: 1,
            time: 1_744_500_000,
            signed: true,
            embed_signatures: false,
            twins: false,
            compression: Compression::Gzip,
        }
    }

    /// And a package of about `size` bytes.
    #[must_use]
    pub fn package(mut self, name: impl Into<String>, size: u64) -> Self {
        self.packages.push((name.into(), size));
        self
    }

    /// And `count` packages `pkg0`, `pkg1` ... of about `size` bytes each.
    #[must_use]
    pub fn packages(mut self, count: usize, size: u64) -> Self {
        self.packages
            .extend((0..count).map(|i| (format!("pkg{i}"), size)));
        self
    }
}

/// A repository in a folder.
#[derive(Debug)]
pub struct Repo {
    folder: PathBuf,
    spec: RepoSpec,
    key: SigningKey,
    builder: RepoBuilder,
    time: u64,
    /// Package -> (payload size, release).
    releases: BTreeMap<String, (u64, u32)>,
    /// Packages whose current file was not put down yet.
    held: BTreeSet<String>,
}

impl Repo {
    /// Builds all of it into `folder`, which is made.
    pub fn create(folder: impl Into<PathBuf>, spec: RepoSpec) -> Result<Self, RepoFailure> {
        let mut seed = [0x42; 32];
        seed[..8].copy_from_slice(&spec.seed.to_le_bytes());
        let key = SigningKey::from_seed(
            seed,
            "Testkit <testkit@example.org>",
            spec.time.saturating_sub(STEP),
        )?;
        let mut builder = RepoBuilder::new(spec.name.clone(), spec.time);
        builder.compression = spec.compression;
        builder.embed_signatures = spec.embed_signatures;
        builder.twins = spec.twins;
        let mut repo = Self {
            folder: folder.into(),
            key,
            builder,
            time: spec.time,
            releases: spec
                .packages
                .iter()
                .map(|(n, size)| (n.clone(), (*size, 1)))
                .collect(),
            held: BTreeSet::new(),
            spec,
        };
        fs::create_dir_all(&repo.folder)?;
        let all: Vec<String> = repo.releases.keys().cloned().collect();
        for name in &all {
            repo.build(name)?;
        }
        repo.write_databases()?;
        Ok(repo)
    }

    /// The next release of these packages: new files, then databases, then the old files go.
    pub fn update(&mut self, names: &[&str]) -> Result<(), RepoFailure> {
        let old = self.next_release(names)?;
        for name in names {
            self.build(name)?;
        }
        self.write_databases()?;
        self.remove_files(&old)
    }

    /// As [`Repo::update`], but only the databases: they are newer than the packages, until
    /// [`Repo::finish_update`]. The old packages stay.
    pub fn update_database_only(&mut self, names: &[&str]) -> Result<(), RepoFailure> {
        self.next_release(names)?;
        for name in names {
            let built = self.write_package_to(name, &mut io::sink())?;
            self.builder.add(built);
            self.held.insert((*name).to_owned());
        }
        self.write_databases()
    }

    /// Puts down the packages that [`Repo::update_database_only`] left out.
    pub fn finish_update(&mut self) -> Result<(), RepoFailure> {
        for name in std::mem::take(&mut self.held) {
            self.build(&name)?;
        }
        Ok(())
    }

    /// Takes a new package in.
    pub fn add(&mut self, name: &str, size: u64) -> Result<(), RepoFailure> {
        self.time += STEP;
        self.releases.insert(name.to_owned(), (size, 1));
        self.build(name)?;
        self.write_databases()
    }

    /// Takes a package out: databases first, then its files go.
    pub fn remove(&mut self, name: &str) -> Result<(), RepoFailure> {
        let old = self.file_name(name)?;
        self.time += STEP;
        self.releases.remove(name);
        self.builder.remove(name);
        self.write_databases()?;
        self.remove_files(&[old])
    }

    /// Signs everything anew: other `.sig` files, same packages.
    pub fn resign(&mut self) -> Result<(), RepoFailure> {
        self.time += STEP;
        let names: Vec<String> = self.releases.keys().cloned().collect();
        for name in names {
            self.sign(&name)?;
        }
        self.write_databases()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The key that signs it; `public_key()` is what `gpg --import` takes.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// When its current state was made, in seconds since 1970; the mtime of its databases.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// What stands in its database.
    pub fn packages(&self) -> &[BuiltPackage] {
        self.builder.packages()
    }

    /// What is known of one package's current file.
    pub fn package(&self, name: &str) -> Result<&BuiltPackage, RepoFailure> {
        let found = self.builder.packages().iter().find(|p| p.spec.name == name);
        found.ok_or_else(|| RepoFailure::NoPackage(name.to_owned()))
    }

    /// The file name of a package's current release.
    pub fn file_name(&self, name: &str) -> Result<String, RepoFailure> {
        Ok(self.package(name)?.file_name.clone())
    }

    /// The path of a package's current file.
    pub fn package_path(&self, name: &str) -> Result<PathBuf, RepoFailure> {
        Ok(self.folder.join(self.file_name(name)?))
    }

    /// The bytes of a package's current file, as they are on disk.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, RepoFailure> {
        Ok(fs::read(self.package_path(name)?)?)
    }

    /// The path of `REPO.db`.
    pub fn database_path(&self) -> PathBuf {
        self.folder.join(format!("{}.db", self.spec.name))
    }

    /// Wrong: the package's file (not its signature) is gone.
    pub fn lose_package(&self, name: &str) -> Result<(), RepoFailure> {
        Ok(fs::remove_file(self.package_path(name)?)?)
    }

    /// Wrong: the package's file is only `len` bytes long.
    pub fn truncate_package(&self, name: &str, len: usize) -> Result<(), RepoFailure> {
        Ok(truncate(&self.package_path(name)?, len)?)
    }

    /// Wrong: one byte in the middle of the package's file is another; size and mtime stay.
    pub fn corrupt_package(&self, name: &str) -> Result<(), RepoFailure> {
        let middle = self.package(name)?.csize / 2;
        Ok(corrupt(&self.package_path(name)?, middle as usize)?)
    }

    /// Right again: the package's file as it should be.
    pub fn restore_package(&mut self, name: &str) -> Result<(), RepoFailure> {
        self.held.remove(name);
        self.build(name)
    }

    /// Counts up and gives the file names of the releases so far.
    fn next_release(&mut self, names: &[&str]) -> Result<Vec<String>, RepoFailure> {
        let old = names
            .iter()
            .map(|name| self.file_name(name))
            .collect::<Result<_, _>>()?;
        self.time += STEP;
        for name in names {
            if let Some((_, release)) = self.releases.get_mut(*name) {
                *release += 1;
            }
        }
        Ok(old)
    }

    /// When release `release` of a package was built: so a file can be made again, the same.
    fn built_at(&self, release: u32) -> u64 {
        self.spec.time + u64::from(release - 1) * STEP
    }

    fn release(&self, name: &str) -> Result<(u64, u32), RepoFailure> {
        self.releases
            .get(name)
            .copied()
            .ok_or_else(|| RepoFailure::NoPackage(name.to_owned()))
    }

    fn write_package_to(&self, name: &str, out: &mut impl Write) -> Result<BuiltPackage, RepoFailure> {
        let (size, release) = self.release(name)?;
        let version = format!("1.{release}-1");
        let mut spec = PackageSpec::new(name, &version, self.built_at(release)).expect("it is a version");
        spec.arch.clone_from(&self.spec.arch);
        let text = format!("{name} {version}\n");
        spec.files
            .push(FileSpec::file(format!("usr/share/doc/{name}/VERSION"), text));
        let seed = self.spec.seed
            ^ name
                .bytes()
                .fold(u64::from(release), |h, b| h.wrapping_mul(31) + u64::from(b));
        spec.files
            .push(FileSpec::random(format!("usr/share/{name}/data"), seed, size));
        Ok(write_package(&spec, out)?)
    }

    fn build(&mut self, name: &str) -> Result<(), RepoFailure> {
        let (_, release) = self.release(name)?;
        let beside = self.folder.join(format!(".~{name}"));
        let mut built = None;
        write_over(&beside, at(self.built_at(release)), |file| {
            let mut out = io::BufWriter::new(file);
            built = Some(self.write_package_to(name, &mut out)?);
            Ok::<(), RepoFailure>(out.flush()?)
        })?;
        let built = built.expect("it was written");
        fs::rename(&beside, self.folder.join(&built.file_name))?;
        self.builder.add(built);
        self.sign(name)
    }

    fn sign(&mut self, name: &str) -> Result<(), RepoFailure> {
        if !self.spec.signed {
            return Ok(());
        }
        let mut built = self.package(name)?.clone();
        let path = self.folder.join(&built.file_name);
        let signature = self
            .key
            .sign(&mut io::BufReader::new(fs::File::open(&path)?), self.time)?;
        put_file(
            &self.folder.join(format!("{}.sig", built.file_name)),
            &signature,
            at(self.time),
        )?;
        if self.spec.embed_signatures {
            built.signature = Some(signature);
            self.builder.add(built);
        }
        Ok(())
    }

    /// `.files` first, `.db` last, each after its signature.
    fn write_databases(&mut self) -> Result<(), RepoFailure> {
        self.builder.time = self.time;
        let mut files = self.builder.files(self.spec.signed.then_some(&self.key))?;
        files.sort_by_key(|(name, _)| (name.contains(".db"), name.strip_suffix(".sig").is_none()));
        for (name, bytes) in files {
            put_file(&self.folder.join(name), &bytes, at(self.time))?;
        }
        Ok(())
    }

    fn remove_files(&self, names: &[String]) -> Result<(), RepoFailure> {
        for name in names {
            for path in [self.folder.join(name), self.folder.join(format!("{name}.sig"))] {
                if path.exists() {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}
