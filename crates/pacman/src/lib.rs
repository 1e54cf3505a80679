//! Pacman's formats: file names, versions, databases, what a coherent repository is, and a builder.
//!
//! Everything that decides over foreign bytes of a pacman repository stands here, so that the importer,
//! the gateway and the tests mean the same thing by "package", "newer" and "whole".
//!
//! - Invariant: pure. No disk, clock, network or environment; bytes come in through slices and readers and
//!   leave through writers. (One exception: [`build::SigningKey::generate`] asks the system for random bytes.)
//! - Invariant: foreign bytes never cause a panic, and never more than the stated [`Limits`] of work and memory.
//! - Not here: fetching or storing files (`upstream`, `import`).
//! - Read first: `PKGINFO(5)`, `repo-add(8)`, and [`Database`].
//!
//! ```
//! use pacstore_pacman::{Database, Limits, PkgFileName, Version};
//!
//! let name = PkgFileName::parse("zlib-1:1.3.1-2-x86_64.pkg.tar.zst")?;
//! assert_eq!((name.name(), name.arch()), ("zlib", "x86_64"));
//! assert!(name.version() > Version::new("1.9-1")?); // the epoch wins
//!
//! assert!(Database::read(b"<html>not found</html>", &Limits::DB).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
pub mod build;
mod check;
mod conf;
mod database;
mod desc;
mod mirrorlist;
mod name;
pub mod openpgp;
mod seal;
mod unpack;
mod version;

pub use check::{FileFacts, Problem, RepoFiles, Side, What, check, differences};
pub use conf::{Conf, ConfError, Directive, Options, RepositorySettings, Section, Settings, expand_server};
pub use database::{Database, DbError, Limits, read_file_lists};
pub use desc::{Desc, DescError, List};
pub use mirrorlist::Mirrorlist;
pub use name::{
    DATABASE_ENDINGS, DbFileName, DbKind, NameError, PkgFileName, check_file_name, database_names,
    is_package_file,
};
pub use seal::{Fit, MAX_SIGNATURE, Seal};
pub use version::{Version, VersionError, vercmp};

/// A SHA-256 digest.
pub type Sha256 = [u8; 32];
