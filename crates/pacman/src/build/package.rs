//! One package file: metadata, then what it installs, in a packed tar.
//!
//! - Invariant: at most one buffer of a payload is in memory, beside what the caller holds.
//! - Not here: the tar (`super::members`), signatures (`super::sign`), the entry in a database (`super::repo`).
//! - Read first: `PKGINFO(5)`, `BUILDINFO(5)`.

use super::compress::Compression;
use super::content::{Content, FileSpec};
use super::hashing::{Hashed, Hashing, WithMd5};
use super::members::Members;
use crate::Sha256;
use crate::name::{NameError, PkgFileName};
use crate::version::{Version, VersionError};
use std::fmt::Write as _;
use std::io::{self, Write};

/// What a package is made from. Every field may be changed before it is written.
#[derive(Clone, Debug)]
pub struct PackageSpec {
    /// Its name.
    pub name: String,
    /// Its version with release.
    pub version: Version,
    /// `any`, or an architecture.
    pub arch: String,
    /// One line on what it is.
    pub description: String,
    /// Where it comes from.
    pub url: String,
    /// Who made it.
    pub packager: String,
    /// Its licence.
    pub license: String,
    /// When it was built, and the time of all its files, in seconds since 1970.
    pub time: u64,
    /// What it needs.
    pub depends: Vec<String>,
    /// What it provides.
    pub provides: Vec<String>,
    /// What it cannot stand beside.
    pub conflicts: Vec<String>,
    /// What it takes the place of.
    pub replaces: Vec<String>,
    /// Groups that it is in.
    pub groups: Vec<String>,
    /// Configuration files, as paths, that pacman saves when they were changed.
    pub backup: Vec<String>,
    /// What it installs, in any order.
    pub files: Vec<FileSpec>,
    /// How it is packed.
    pub compression: Compression,
    /// Whether the database is to have its MD5, as `repo-add` wrote it up to pacman 6.0.
    pub md5: bool,
}

/// Why a package or repository could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Name, version and architecture make no package file name.
    #[error("`{0}` is no name for a package file")]
    Name(String, #[source] NameError),
    /// The path of a file is absolute, empty, or not plain.
    #[error("`{0}` is no path for a file in a package")]
    Path(String),
    /// Two files have one path, or a file is above another.
    #[error("`{0}` is in the package twice")]
    Twice(String),
    /// The writer failed.
    #[error("cannot write the package")]
    Write(#[source] io::Error),
}

/// What is known of a package file once it is written: all that its entry in a database needs.
#[derive(Clone, Debug)]
pub struct BuiltPackage {
    /// What it was made from, with the payloads taken out.
    pub spec: PackageSpec,
    /// The name it must be stored under.
    pub file_name: String,
    /// Size of the package file in bytes.
    pub csize: u64,
    /// Size of the files that it installs, in bytes.
    pub isize: u64,
    /// SHA-256 of the package file.
    pub sha256: Sha256,
    /// MD5 of the package file, if its database is to have it.
    pub md5: Option<[u8; 16]>,
    /// The binary signature of the package file, if its database is to carry it.
    pub signature: Option<Vec<u8>>,
    /// The paths that it installs, folders with a `/` behind, sorted.
    pub paths: Vec<String>,
}

impl PackageSpec {
    /// A package for every architecture without files, packed with zstd.
    ///
    /// # Errors
    /// [`VersionError`] if `version` is none.
    pub fn new(name: impl Into<String>, version: &str, time: u64) -> Result<Self, VersionError> {
        let name = name.into();
        Ok(Self {
            description: format!("the package {name}"),
            version: Version::new(version)?,
            arch: "any".to_owned(),
            url: "https://example.org/".to_owned(),
            packager: "Packager <packager@example.org>".to_owned(),
            license: "GPL-3.0-or-later".to_owned(),
            time,
            depends: Vec::new(),
            provides: Vec::new(),
            conflicts: Vec::new(),
            replaces: Vec::new(),
            groups: Vec::new(),
            backup: Vec::new(),
            files: Vec::new(),
            compression: Compression::Zstd,
            md5: false,
            name,
        })
    }

    /// The name of the package file.
    pub fn file_name(&self) -> String {
        format!(
            "{}-{}-{}.pkg.tar{}",
            self.name,
            self.version,
            self.arch,
            self.compression.ending()
        )
    }

    /// The same without its payloads, which are not copied for it.
    fn without_files(&self) -> Self {
        Self {
            name: self.name.clone(),
            version: self.version.clone(),
            arch: self.arch.clone(),
            description: self.description.clone(),
            url: self.url.clone(),
            packager: self.packager.clone(),
            license: self.license.clone(),
            time: self.time,
            depends: self.depends.clone(),
            provides: self.provides.clone(),
            conflicts: self.conflicts.clone(),
            replaces: self.replaces.clone(),
            groups: self.groups.clone(),
            backup: self.backup.clone(),
            files: Vec::new(),
            compression: self.compression,
            md5: self.md5,
        }
    }

    fn pkginfo(&self, size: u64) -> String {
        let mut out = String::from("# Generated by pacstore\n");
        let mut put = |key: &str, value: &str| {
            let _ = writeln!(out, "{key} = {value}");
        };
        put("pkgname", &self.name);
        put("pkgbase", &self.name);
        put("xdata", "pkgtype=pkg");
        put("pkgver", self.version.as_str());
        put("pkgdesc", &self.description);
        put("url", &self.url);
        put("builddate", &self.time.to_string());
        put("packager", &self.packager);
        put("size", &size.to_string());
        put("arch", &self.arch);
        put("license", &self.license);
        let lists = [
            ("replaces", &self.replaces),
            ("group", &self.groups),
            ("conflict", &self.conflicts),
            ("provides", &self.provides),
            ("backup", &self.backup),
            ("depend", &self.depends),
        ];
        for (key, values) in lists {
            for value in values {
                put(key, value);
            }
        }
        out
    }

    fn buildinfo(&self) -> String {
        let mut out = String::from("format = 2\n");
        let mut put = |key: &str, value: &str| {
            let _ = writeln!(out, "{key} = {value}");
        };
        put("pkgname", &self.name);
        put("pkgbase", &self.name);
        put("pkgver", self.version.as_str());
        put("pkgarch", &self.arch);
        put("pkgbuild_sha256sum", &"0".repeat(64));
        put("packager", &self.packager);
        put("builddate", &self.time.to_string());
        put("builddir", "/build");
        put("startdir", "/startdir");
        put("buildtool", "pacstore");
        put("buildtoolver", "1-1-any");
        out
    }
}

/// Writes a package file. Nothing is kept of the payloads: they are read twice, once for their digests.
///
/// # Errors
/// [`BuildError`]; what was written until then is of no use.
pub fn write_package(spec: &PackageSpec, out: &mut impl Write) -> Result<BuiltPackage, BuildError> {
    let file_name = spec.file_name();
    PkgFileName::parse(&file_name).map_err(|e| BuildError::Name(file_name.clone(), e))?;
    let members = Members::new(&spec.files)?;
    let isize = members.size();
    let hashed = write_members(spec, &members, isize, out).map_err(BuildError::Write)?;
    Ok(BuiltPackage {
        spec: spec.without_files(),
        file_name,
        csize: hashed.len,
        isize,
        sha256: hashed.sha256,
        md5: hashed.md5,
        signature: None,
        paths: members.paths(),
    })
}

fn write_members(
    spec: &PackageSpec,
    members: &Members<'_>,
    isize: u64,
    out: &mut impl Write,
) -> io::Result<Hashed> {
    let md5 = if spec.md5 { WithMd5::Yes } else { WithMd5::No };
    let mut tar = tar::Builder::new(spec.compression.pack(Hashing::new(out, md5))?);
    let buildinfo = Content::Bytes(spec.buildinfo().into_bytes());
    let pkginfo = Content::Bytes(spec.pkginfo(isize).into_bytes());
    members.write(&mut tar, spec.time, &buildinfo, &pkginfo)?;
    Ok(tar.into_inner()?.finish()?.finish())
}
