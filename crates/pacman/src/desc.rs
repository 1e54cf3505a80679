//! One package as a database describes it: the files `desc` and, in old databases, `depends`.
//!
//! - Invariant: read line by line exactly as libalpm does, so that we and pacman see the same fields: a known
//!   `%FIELD%` line, then one line (single values) or all lines up to an empty one (lists); anything else is skipped.
//! - Invariant: what a [`Desc`] holds is at most as large as the text it came from; lists are one string.
//! - Not here: the archive around it (`crate::database`), lists of files.
//! - Read first: `repo-add(8)` writes it; libalpm's `be_sync.c`, `sync_db_read`, reads it.

use crate::Sha256;
use crate::name::{NameError, check_file_name, check_package_name};
use crate::version::{Version, VersionError};
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use std::fmt;

/// Some texts, one a line, kept together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(Box<str>);

impl List {
    /// The texts in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split('\n').filter(|item| !item.is_empty())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<&'a str> for List {
    fn from_iter<I: IntoIterator<Item = &'a str>>(items: I) -> Self {
        let items: Vec<&str> = items.into_iter().collect();
        Self(items.join("\n").into())
    }
}

/// What a database says of one package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desc {
    /// The package file's name; checked to be a plain name ([`check_file_name`]).
    pub filename: Box<str>,
    /// The package's name.
    pub name: Box<str>,
    /// Its version with release.
    pub version: Version,
    /// What it was built from, where that has another name.
    pub base: Option<Box<str>>,
    /// `any` or an architecture.
    pub arch: Box<str>,
    /// Size of the package file in bytes.
    pub csize: Option<u64>,
    /// Size of what it installs, in bytes.
    pub isize: Option<u64>,
    /// SHA-256 of the package file.
    pub sha256: Option<Sha256>,
    /// MD5 of the package file.
    pub md5: Option<[u8; 16]>,
    /// The detached signature of the package file, where the database carries it.
    pub pgpsig: Option<Box<[u8]>>,
    /// When it was built, in seconds since 1970.
    pub build_date: Option<u64>,
    /// Packages that it takes the place of.
    pub replaces: List,
    /// Packages that it cannot stand beside.
    pub conflicts: List,
    /// What it provides.
    pub provides: List,
    /// What it needs.
    pub depends: List,
    /// Groups that it is in.
    pub groups: List,
}

impl Desc {
    /// The folder of this package in a database: `NAME-VERSION`.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }
}

/// Why the description of a package was refused. The field is given as it stands in the file, without `%`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescError {
    /// Nothing works without this field.
    #[error("%{0}% is missing")]
    Missing(&'static str),
    /// Two readers could take different ones.
    #[error("%{0}% is there twice")]
    Twice(&'static str),
    /// It is not UTF-8.
    #[error("%{0}% is not UTF-8")]
    Text(&'static str),
    /// It is not a number that fits into 64 bits.
    #[error("%{0}% is not a number")]
    Number(&'static str),
    /// It is not a digest of the right length in hex.
    #[error("%{0}% is not a digest in hex")]
    Digest(&'static str),
    /// It is not base64.
    #[error("%{0}% is not base64")]
    Base64(&'static str),
    /// It cannot be a name.
    #[error("%{0}% is refused")]
    Name(&'static str, #[source] NameError),
    /// It cannot be a version.
    #[error("%VERSION% is refused")]
    Version(#[source] VersionError),
    /// The folder in the database should be called otherwise.
    #[error("the folder should be called `{0}`")]
    Folder(String),
}

/// The fields of one package while they come in, from one file or two.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    filename: Option<Box<str>>,
    name: Option<Box<str>>,
    version: Option<Version>,
    base: Option<Box<str>>,
    arch: Option<Box<str>>,
    csize: Option<u64>,
    isize: Option<u64>,
    sha256: Option<Sha256>,
    md5: Option<[u8; 16]>,
    pgpsig: Option<Box<[u8]>>,
    build_date: Option<u64>,
    replaces: Option<List>,
    conflicts: Option<List>,
    provides: Option<List>,
    depends: Option<List>,
    groups: Option<List>,
}

impl Fields {
    /// Reads one file (`desc` or `depends`) into the fields.
    pub(crate) fn read(&mut self, text: &[u8]) -> Result<(), DescError> {
        let mut lines = Lines(text);
        while let Some(line) = lines.next() {
            match line {
                b"%FILENAME%" => once(&mut self.filename, "FILENAME", file_name(&mut lines)?)?,
                b"%NAME%" => once(&mut self.name, "NAME", package_name(&mut lines)?)?,
                b"%VERSION%" => once(&mut self.version, "VERSION", version(&mut lines)?)?,
                b"%BASE%" => once(&mut self.base, "BASE", string(&mut lines, "BASE")?)?,
                b"%ARCH%" => once(&mut self.arch, "ARCH", string(&mut lines, "ARCH")?)?,
                b"%CSIZE%" => once(&mut self.csize, "CSIZE", number(&mut lines, "CSIZE")?)?,
                b"%ISIZE%" => once(&mut self.isize, "ISIZE", number(&mut lines, "ISIZE")?)?,
                b"%SHA256SUM%" => once(&mut self.sha256, "SHA256SUM", digest(&mut lines, "SHA256SUM")?)?,
                b"%MD5SUM%" => once(&mut self.md5, "MD5SUM", digest(&mut lines, "MD5SUM")?)?,
                b"%PGPSIG%" => once(&mut self.pgpsig, "PGPSIG", base64(&mut lines, "PGPSIG")?)?,
                b"%BUILDDATE%" => once(
                    &mut self.build_date,
                    "BUILDDATE",
                    number(&mut lines, "BUILDDATE")?,
                )?,
                b"%REPLACES%" => once(&mut self.replaces, "REPLACES", list(&mut lines))?,
                b"%CONFLICTS%" => once(&mut self.conflicts, "CONFLICTS", list(&mut lines))?,
                b"%PROVIDES%" => once(&mut self.provides, "PROVIDES", list(&mut lines))?,
                b"%DEPENDS%" => once(&mut self.depends, "DEPENDS", list(&mut lines))?,
                b"%GROUPS%" => once(&mut self.groups, "GROUPS", list(&mut lines))?,
                // Lists that pacman reads and we do not keep: their lines are no fields.
                b"%OPTDEPENDS%" | b"%MAKEDEPENDS%" | b"%CHECKDEPENDS%" | b"%LICENSE%" | b"%FILES%" => {
                    lines.skip_list();
                }
                // Single values that pacman reads and we do not keep.
                b"%DESC%" | b"%URL%" | b"%PACKAGER%" => drop(lines.next()),
                _ => {}
            }
        }
        Ok(())
    }

    /// All that was read, if it is enough and belongs into `folder`.
    pub(crate) fn finish(self, folder: &str) -> Result<Desc, DescError> {
        let desc = Desc {
            filename: self.filename.ok_or(DescError::Missing("FILENAME"))?,
            name: self.name.ok_or(DescError::Missing("NAME"))?,
            version: self.version.ok_or(DescError::Missing("VERSION"))?,
            arch: self.arch.ok_or(DescError::Missing("ARCH"))?,
            base: self.base,
            csize: self.csize,
            isize: self.isize,
            sha256: self.sha256,
            md5: self.md5,
            pgpsig: self.pgpsig,
            build_date: self.build_date,
            replaces: self.replaces.unwrap_or_default(),
            conflicts: self.conflicts.unwrap_or_default(),
            provides: self.provides.unwrap_or_default(),
            depends: self.depends.unwrap_or_default(),
            groups: self.groups.unwrap_or_default(),
        };
        let (name, version) = (desc.name.as_bytes(), desc.version.as_str().as_bytes());
        let found = folder.as_bytes();
        let fits = found.len() == name.len() + 1 + version.len()
            && found.starts_with(name)
            && found.ends_with(version)
            && found[name.len()] == b'-';
        if fits {
            Ok(desc)
        } else {
            Err(DescError::Folder(desc.folder()))
        }
    }
}

fn once<T>(place: &mut Option<T>, field: &'static str, value: T) -> Result<(), DescError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(DescError::Twice(field)),
    }
}

/// Lines without their ends; a last one without end counts.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// One line as a value; libalpm takes an empty or missing one as an empty value.
    fn value(&mut self) -> &'a [u8] {
        self.next().unwrap_or_default()
    }

    fn skip_list(&mut self) {
        while self.next().is_some_and(|line| !line.is_empty()) {}
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().position(|&b| b == b'\n');
        let (line, rest) = match end {
            Some(end) => (&self.0[..end], &self.0[end + 1..]),
            None => (self.0, &[][..]),
        };
        self.0 = rest;
        Some(line)
    }
}

fn text<'a>(lines: &mut Lines<'a>, field: &'static str) -> Result<&'a str, DescError> {
    std::str::from_utf8(lines.value()).map_err(|_| DescError::Text(field))
}

fn string(lines: &mut Lines<'_>, field: &'static str) -> Result<Box<str>, DescError> {
    let text = text(lines, field)?;
    check_package_name(text).map_err(|e| DescError::Name(field, e))?;
    Ok(text.into())
}

fn file_name(lines: &mut Lines<'_>) -> Result<Box<str>, DescError> {
    let name = text(lines, "FILENAME")?;
    check_file_name(name).map_err(|e| DescError::Name("FILENAME", e))?;
    Ok(name.into())
}

fn package_name(lines: &mut Lines<'_>) -> Result<Box<str>, DescError> {
    string(lines, "NAME")
}

fn version(lines: &mut Lines<'_>) -> Result<Version, DescError> {
    Version::new(text(lines, "VERSION")?).map_err(DescError::Version)
}

fn number(lines: &mut Lines<'_>, field: &'static str) -> Result<u64, DescError> {
    text(lines, field)?.parse().map_err(|_| DescError::Number(field))
}

fn digest<const N: usize>(lines: &mut Lines<'_>, field: &'static str) -> Result<[u8; N], DescError> {
    let hex = lines.value();
    let mut digest = [0; N];
    if hex.len() != 2 * N {
        return Err(DescError::Digest(field));
    }
    HEXLOWER_PERMISSIVE
        .decode_mut(hex, &mut digest)
        .map_err(|_| DescError::Digest(field))?;
    Ok(digest)
}

fn base64(lines: &mut Lines<'_>, field: &'static str) -> Result<Box<[u8]>, DescError> {
    let bytes = BASE64
        .decode(lines.value())
        .map_err(|_| DescError::Base64(field))?;
    Ok(bytes.into_boxed_slice())
}

fn list(lines: &mut Lines<'_>) -> List {
    let from = lines.0;
    lines.skip_list();
    let taken = &from[..from.len() - lines.0.len()];
    List(String::from_utf8_lossy(taken).trim_end_matches('\n').into())
}

impl fmt::Display for Desc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}
