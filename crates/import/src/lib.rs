//! An ordinary mirror in, a checked snapshot out.
//!
//! An [`Importer`] reads a directory, an rsync module or a web mirror, takes its files into the store, makes sure
//! that each repository is coherent, and gives the tree of that state with the facts for its head. What did not
//! change is neither read nor written again.
//!
//! - Invariant: same upstream state, same tree, whatever the transport, the order and the history (a torn repository
//!   keeps what it had).
//! - Invariant: a tree never names a file that the store does not hold, nor a repository that is not whole.
//! - Not here: heads, keys, names, schedules, retention (crate `node`); presets and configuration files (crate `cli`).
//! - Read first: design.md, "Tree"; then [`Importer::round`].

#![forbid(unsafe_code)]

mod alone;
mod build;
mod choose;
mod crawl;
mod doubt;
mod download;
mod early;
mod error;
mod facts;
mod globs;
mod hash;
mod hold;
mod intake;
mod judge;
mod keyring;
mod layout;
mod listing;
mod look;
mod manifest;
mod module;
mod names;
mod older;
mod pace;
mod progress;
mod report;
mod repos;
mod round;
mod scan;
mod settle;
mod source;
mod spec;
mod stamp;
mod stamped;
mod stat;
mod state;
mod survey;
mod taken;
mod tree;
mod trouble;
mod upstreams;
mod view;
mod walk;
mod web;
mod work;

pub use build::labels;
pub use error::{IntakeError, RoundError, SourceError};
pub use globs::GlobError;
pub use keyring::{KeyringReadError, ReadKeyring, read_keyring};
pub use layout::Layout;
pub use manifest::ManifestError;
pub use progress::{Progress, Status, Step};
pub use report::{Counts, Round};
pub use round::Importer;
pub use scan::ScanError;
pub use spec::{Files, ImportSpec, Limits, Repositories, Source, SpecError, StampSource};
pub use state::{Alarm, DatabaseTimes, RepoFacts, RepoState};
pub use trouble::Trouble;
pub use view::{Cut, NoFile};
