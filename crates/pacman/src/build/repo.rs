//! The databases of a repository, written as `repo-add` writes them.
//!
//! - Invariant: `.db` and `.files` of one call are of one state, and the entries are sorted by name.
//! - Not here: the package files themselves; they are written one by one by `super::package`.
//! - Read first: `repo-add(8)`.

use super::compress::Compression;
use super::content::Content;
use super::members::{put_file, put_folder};
use super::package::{BuildError, BuiltPackage};
use super::sign::{SignError, SigningKey};
use crate::name::DbKind;
use data_encoding::{BASE64, HEXLOWER};
use std::fmt::Write as _;
use std::io;

/// A repository under construction.
#[derive(Clone, Debug)]
pub struct RepoBuilder {
    /// Its name, such as `core`.
    pub name: String,
    /// The time of all members of the databases and of their signatures, in seconds since 1970.
    pub time: u64,
    /// How the databases are packed; gzip if not changed.
    pub compression: Compression,
    /// Whether entries carry the packages' signatures (`%PGPSIG%`), where they have one.
    pub embed_signatures: bool,
    /// Whether entries have `%SHA256SUM%`; on if not changed.
    pub with_sha256: bool,
    /// Whether dependencies stand in a file `depends` of their own, as before pacman 4.2.
    pub split_depends: bool,
    /// Whether [`RepoBuilder::files`] also gives `REPO.db.tar.gz` and so on: the same bytes under the long name.
    pub twins: bool,
    packages: Vec<BuiltPackage>,
}

/// Why the files of a repository could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// Packing failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl RepoBuilder {
    /// An empty repository.
    pub fn new(name: impl Into<String>, time: u64) -> Self {
        Self {
            name: name.into(),
            time,
            compression: Compression::Gzip,
            embed_signatures: false,
            with_sha256: true,
            split_depends: false,
            twins: false,
            packages: Vec::new(),
        }
    }

    /// Takes a package in. An older one of the same name makes place for it, as with `repo-add`.
    pub fn add(&mut self, package: BuiltPackage) {
        self.remove(&package.spec.name.clone());
        let place = self.packages.partition_point(|p| p.spec.name < package.spec.name);
        self.packages.insert(place, package);
    }

    /// Takes a package out; `false` if it was not there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.packages.len();
        self.packages.retain(|p| p.spec.name != name);
        self.packages.len() != before
    }

    /// The packages, sorted by name.
    pub fn packages(&self) -> &[BuiltPackage] {
        &self.packages
    }

    /// One database, packed.
    ///
    /// # Errors
    /// [`BuildError::Write`] if the compressor fails.
    pub fn database(&self, kind: DbKind) -> Result<Vec<u8>, BuildError> {
        self.try_database(kind).map_err(BuildError::Write)
    }

    /// All files of the repository beside packages: databases, with a key also their signatures, and twins if asked for.
    ///
    /// # Errors
    /// [`RepoError`] if packing or signing fails.
    pub fn files(&self, key: Option<&SigningKey>) -> Result<Vec<(String, Vec<u8>)>, RepoError> {
        let mut all = Vec::new();
        for kind in [DbKind::Db, DbKind::Files] {
            let bytes = self.database(kind)?;
            let signature = key.map(|key| key.sign(&mut &bytes[..], self.time)).transpose()?;
            let short = format!("{}.{}", self.name, kind.as_str());
            let long = self
                .twins
                .then(|| format!("{short}.tar{}", self.compression.ending()));
            for name in std::iter::once(short).chain(long) {
                if let Some(signature) = &signature {
                    all.push((format!("{name}.sig"), signature.clone()));
                }
                all.push((name, bytes.clone()));
            }
        }
        Ok(all)
    }

    fn try_database(&self, kind: DbKind) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(self.compression.pack(Vec::new())?);
        for package in &self.packages {
            let folder = format!("{}-{}", package.spec.name, package.spec.version);
            put_folder(&mut tar, &folder, 0o755, self.time)?;
            let mut put = |file: &str, text: String| {
                let content = Content::Bytes(text.into_bytes());
                put_file(&mut tar, &format!("{folder}/{file}"), 0o644, self.time, &content)
            };
            let (desc, relations) = (self.desc(package), relations(package));
            if self.split_depends {
                put("desc", desc)?;
                put("depends", relations)?;
            } else {
                put("desc", desc + &relations)?;
            }
            if kind == DbKind::Files {
                put("files", format!("%FILES%\n{}\n", package.paths.join("\n")))?;
            }
        }
        tar.into_inner()?.finish()
    }

    fn desc(&self, package: &BuiltPackage) -> String {
        let (mut out, spec) = (String::new(), &package.spec);
        let mut put = |field: &str, value: &str| {
            let _ = writeln!(out, "%{field}%\n{value}\n");
        };
        put("FILENAME", &package.file_name);
        put("NAME", &spec.name);
        put("BASE", &spec.name);
        put("VERSION", spec.version.as_str());
        put("DESC", &spec.description);
        if !spec.groups.is_empty() {
            put("GROUPS", &spec.groups.join("\n"));
        }
        put("CSIZE", &package.csize.to_string());
        put("ISIZE", &package.isize.to_string());
        if let Some(md5) = &package.md5 {
            put("MD5SUM", &HEXLOWER.encode(md5));
        }
        if self.with_sha256 {
            put("SHA256SUM", &HEXLOWER.encode(&package.sha256));
        }
        if let (true, Some(signature)) = (self.embed_signatures, &package.signature) {
            put("PGPSIG", &BASE64.encode(signature));
        }
        put("URL", &spec.url);
        put("LICENSE", &spec.license);
        put("ARCH", &spec.arch);
        put("BUILDDATE", &spec.time.to_string());
        put("PACKAGER", &spec.packager);
        out
    }
}

/// The fields that name other packages.
fn relations(package: &BuiltPackage) -> String {
    let (mut out, spec) = (String::new(), &package.spec);
    let lists = [
        ("REPLACES", &spec.replaces),
        ("CONFLICTS", &spec.conflicts),
        ("PROVIDES", &spec.provides),
        ("DEPENDS", &spec.depends),
    ];
    for (field, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
        let _ = writeln!(out, "%{field}%\n{}\n", values.join("\n"));
    }
    out
}
