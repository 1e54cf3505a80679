//! Making packages, repositories and signatures that the real pacman takes: for `demo` and for tests.
//!
//! - Invariant: the same input gives the same bytes, on every machine; times and seeds come from the caller.
//! - Invariant: payloads stream. A package of any size is written with a few MiB of memory.
//! - Not here: building software (`makepkg`), adding to a repository that exists (`repo-add`).
//! - Read first: `PKGINFO(5)`, `BUILDINFO(5)`, `alpm-mtree(5)`.
//!
//! ```
//! use pacstore_pacman::build::{Compression, FileSpec, PackageSpec, RepoBuilder, SigningKey, write_package};
//!
//! let key = SigningKey::from_seed([7; 32], "Demo <demo@example.org>", 1_700_000_000)?;
//! let mut spec = PackageSpec::new("hello", "1.0-1", 1_700_000_000)?;
//! spec.files.push(FileSpec::file("usr/share/hello", "Hello\n"));
//! let mut bytes = Vec::new();
//! let package = write_package(&spec, &mut bytes)?;
//! assert_eq!(package.file_name, "hello-1.0-1-any.pkg.tar.zst");
//!
//! let mut repo = RepoBuilder::new("demo", 1_700_000_000);
//! repo.compression = Compression::Gzip;
//! repo.add(package);
//! let files = repo.files(Some(&key))?; // demo.db, demo.db.sig, demo.files, demo.files.sig
//! assert_eq!(files.len(), 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compress;
mod content;
mod hashing;
mod members;
mod mtree;
mod package;
mod repo;
mod sign;

pub use compress::Compression;
pub use content::{Content, FileSpec, Kind, Random};
pub use package::{BuildError, BuiltPackage, PackageSpec, write_package};
pub use repo::{RepoBuilder, RepoError};
pub use sign::{SignError, SigningKey};
