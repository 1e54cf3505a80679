//! The names of files in a pacman repository: packages, databases, signatures.
//!
//! - Invariant: a name that passed [`check_file_name`] is one path component, so joining it to a folder stays
//!   inside that folder, and there is room for `.sig` behind it.
//! - Not here: what is in those files (`crate::database`), paths of requests (crate `names`).
//! - Read first: `makepkg.conf(5)`, "PKGEXT".

use crate::version::{Version, VersionError};
use std::fmt;

/// The longest file name taken, in bytes: 255 less the `.sig` that stands behind it.
const MAX_FILE_NAME: usize = 251;

/// How the compression of a package may be called; without any it is a bare tar.
const PACKAGE_COMPRESSIONS: [&str; 9] = ["zst", "xz", "gz", "bz2", "lz4", "lz", "lzo", "lrz", "Z"];

/// What stands behind `REPO.db` and `REPO.files` in the names of a database and of its twins.
pub const DATABASE_ENDINGS: [&str; 6] = ["", ".tar", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2"];

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing.
    #[error("a name is empty")]
    Empty,
    /// No file system takes it, or its signature.
    #[error("a name is longer than {MAX_FILE_NAME} bytes")]
    TooLong,
    /// Hidden, or `..`.
    #[error("a file name begins with a dot")]
    LeadingDot,
    /// A `/`, a NUL or another control character.
    #[error("a name has the byte {0:#04x}")]
    Byte(u8),
    /// It is not `NAME-VERSION-RELEASE-ARCH.pkg.tar[.COMPRESSION]`.
    #[error("not of the form NAME-VERSION-RELEASE-ARCH.pkg.tar[.COMPRESSION]")]
    NoPackage,
    /// Its version part is none.
    #[error(transparent)]
    Version(VersionError),
}

/// Checks a file name that a database gave: it must be a plain, visible name that could have a `.sig` beside it.
///
/// # Errors
/// [`NameError`] if it is empty, longer than 251 bytes, begins with a dot, or has a `/`, NUL or control character.
///
/// Source: libalpm `_alpm_validate_filename` refuses the leading dot and the `/`; the rest is ours.
pub fn check_file_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_FILE_NAME {
        return Err(NameError::TooLong);
    }
    if name.starts_with('.') {
        return Err(NameError::LeadingDot);
    }
    match name.bytes().find(|&b| b == b'/' || b.is_ascii_control()) {
        Some(byte) => Err(NameError::Byte(byte)),
        None => Ok(()),
    }
}

/// Checks the name of a package, which is also part of a folder name in a database.
pub(crate) fn check_package_name(name: &str) -> Result<(), NameError> {
    check_file_name(name)?;
    match name.bytes().find(|&b| !b.is_ascii_graphic() || b == b'\\') {
        Some(byte) => Err(NameError::Byte(byte)),
        None if name.starts_with('-') => Err(NameError::NoPackage),
        None => Ok(()),
    }
}

/// The name of a package file, `NAME-VERSION-RELEASE-ARCH.pkg.tar[.COMPRESSION]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkgFileName {
    text: Box<str>,
    name: u8,
    version: u8,
    arch: u8,
}

impl PkgFileName {
    /// Reads a package file name. Any architecture and all of makepkg's compressions are taken.
    ///
    /// # Errors
    /// [`NameError`], [`NameError::NoPackage`] if it is a fine name but not of that form.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_file_name(text)?;
        let (stem, compression) = text.split_once(".pkg.tar").ok_or(NameError::NoPackage)?;
        let known = |ending: &str| {
            ending
                .strip_prefix('.')
                .is_some_and(|c| PACKAGE_COMPRESSIONS.contains(&c))
        };
        if !(compression.is_empty() || known(compression)) {
            return Err(NameError::NoPackage);
        }
        let (rest, arch) = stem.rsplit_once('-').ok_or(NameError::NoPackage)?;
        let (rest, release) = rest.rsplit_once('-').ok_or(NameError::NoPackage)?;
        let (name, version) = rest.rsplit_once('-').ok_or(NameError::NoPackage)?;
        check_package_name(name)?;
        Version::new(version).map_err(NameError::Version)?;
        let word = |part: &str, also: &[u8]| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || also.contains(&b))
        };
        if !word(arch, b"_") || !word(release, b"._") {
            return Err(NameError::NoPackage);
        }
        let end = |part: &str| u8::try_from(part.len()).map_err(|_| NameError::TooLong);
        Ok(Self {
            name: end(name)?,
            version: u8::try_from(name.len() + 1 + version.len() + 1 + release.len())
                .map_err(|_| NameError::TooLong)?,
            arch: end(stem)?,
            text: text.into(),
        })
    }

    /// The whole file name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The package's name.
    pub fn name(&self) -> &str {
        &self.text[..usize::from(self.name)]
    }

    /// Version and release as the file name has them, `[EPOCH:]VERSION-RELEASE`.
    pub fn version_str(&self) -> &str {
        &self.text[usize::from(self.name) + 1..usize::from(self.version)]
    }

    /// Version and release, to compare.
    pub fn version(&self) -> Version {
        Version::new(self.version_str()).expect("checked in parse")
    }

    /// The architecture: `x86_64`, `any`, ...
    pub fn arch(&self) -> &str {
        &self.text[usize::from(self.version) + 1..usize::from(self.arch)]
    }

    /// What stands behind `.pkg.tar.`, or nothing for a bare tar.
    pub fn compression(&self) -> Option<&str> {
        self.text[usize::from(self.arch)..].strip_prefix(".pkg.tar.")
    }
}

impl fmt::Display for PkgFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether this is a well-formed name of a package file or of a package's signature.
pub fn is_package_file(name: &str) -> bool {
    PkgFileName::parse(name.strip_suffix(".sig").unwrap_or(name)).is_ok()
}

/// Which of the two databases of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DbKind {
    /// `REPO.db`: what pacman installs from.
    Db,
    /// `REPO.files`: the same and the list of each package's files.
    Files,
}

impl DbKind {
    /// As it stands in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Db => "db",
            Self::Files => "files",
        }
    }
}

/// The name of a database, of one of its twins (`core.db.tar.gz`), or of a signature of those, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DbFileName<'a> {
    /// The repository's name, such as `core`.
    pub repo: &'a str,
    /// Which database.
    pub kind: DbKind,
    /// What stands behind the kind, one of [`DATABASE_ENDINGS`]; empty for the name that pacman asks for.
    pub ending: &'a str,
    /// Whether it is the signature of that file.
    pub signature: bool,
}

impl<'a> DbFileName<'a> {
    /// Takes a name apart; `None` if it is no database's.
    pub fn parse(name: &'a str) -> Option<Self> {
        check_file_name(name).ok()?;
        let (file, signature) = match name.strip_suffix(".sig") {
            Some(file) => (file, true),
            None => (name, false),
        };
        let (stem, ending) = DATABASE_ENDINGS
            .iter()
            .filter(|e| !e.is_empty())
            .find_map(|e| file.strip_suffix(e).map(|stem| (stem, &file[stem.len()..])))
            .unwrap_or((file, ""));
        let (repo, kind) = stem.rsplit_once('.')?;
        let kind = match kind {
            "db" => DbKind::Db,
            "files" => DbKind::Files,
            _ => return None,
        };
        (!repo.is_empty()).then_some(Self {
            repo,
            kind,
            ending,
            signature,
        })
    }
}

/// Every name that a database of `repo` or its signature may have, `REPO.db` and `REPO.db.sig` first.
pub fn database_names(repo: &str) -> impl Iterator<Item = String> + '_ {
    [DbKind::Db, DbKind::Files].into_iter().flat_map(move |kind| {
        DATABASE_ENDINGS.iter().flat_map(move |ending| {
            let file = format!("{repo}.{}{ending}", kind.as_str());
            let signature = format!("{file}.sig");
            [file, signature]
        })
    })
}
