//! What tests need of the outside world: mirrors good and bad, repositories, slow lines.
//!
//! The parts of a test are real (disk, HTTP, sockets on 127.0.0.1); this crate only
//! plays the world around them. Its servers run on threads of their own, so they work
//! in plain tests and in async ones, and end when they are dropped.
//!
//! - Invariant: everything listens on 127.0.0.1 only, on a port that the system chose.
//! - Invariant: same seed, same bytes, on every machine.
//! - Not here: nodes (tests of `node` make them), anything that a product binary needs.
//! - Read first: [`Upstream`], [`Repo`].
//!
//! ```
//! use pacstore_testkit::{At, Fault, Repo, RepoSpec, TestResult, Upstream};
//!
//! # fn main() -> TestResult {
//! let tree = tempfile::tempdir()?;
//! let mut repo = Repo::create(tree.path(), RepoSpec::new("core").package("zlib", 100_000))?;
//! let mirror = Upstream::folder(tree.path())?;
//! mirror.fault("*.pkg.tar.zst", Fault::Truncate(At::Percent(50)));
//! repo.update(&["zlib"])?;
//! assert!(mirror.url("core.db").starts_with("http://127.0.0.1:"));
//! # Ok(())
//! # }
//! ```

mod data;
mod fixture;
mod folder;
mod power;
mod relay;
mod repo;
mod require;
mod rsyncd;
mod upstream;
mod worker;

pub use data::{fill, random};
pub use fixture::{Fixture, Materialize};
pub use folder::{corrupt, put_file, script, truncate};
pub use power::{Loss, Power};
pub use relay::ThrottledRelay;
pub use repo::{Repo, RepoFailure, RepoSpec};
pub use require::{TestResult, require, shared};
pub use rsyncd::RsyncDaemon;
pub use upstream::{At, Fault, Listing, Request, TimedOut, Upstream};
