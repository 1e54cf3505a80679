//! Repositories as a head lists them: their times, their state, and what age makes of it.
//!
//! - Invariant: a repository that passed its check has a folder that is a path
//!   inside of the tree, and texts without control characters.
//! - Not here: the head around them (`crate::head`).

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::head::HeadError;
use crate::time::unix_seconds;

const MAX_NAME: usize = 255;
const MAX_FOLDER: usize = 4096;
const MAX_ARCHS: usize = 32;
const MAX_DETAIL: usize = 1024;

/// One repository of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its name, such as `core`.
    pub name: String,
    /// Its folder in the tree, such as `core/os/x86_64`; empty for the root.
    pub folder: String,
    /// Its architectures; none = every architecture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<Arch>,
    /// When upstream changed it last: the change stamp, else its newest database.
    pub upstream_time: u64,
    /// When the importer last saw this state whole and equal to upstream's.
    pub checked: u64,
    /// Upstream's newest time of the `.db` and its signature.
    pub db_time: u64,
    /// The same of `.files`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_time: Option<u64>,
    /// How the importer found it.
    pub state: RepoState,
    /// What is wrong, in a sentence, such as the files that are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How the importer found a repository in its last round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepoState {
    /// Whole, and equal to upstream's.
    Whole,
    /// Whole, but something is odd, such as an upstream that went back in time.
    Warn,
    /// Upstream's newer state is held back, since its signatures do not verify.
    Held,
    /// Upstream's newer state is not coherent; this is the last one that was.
    Torn,
}

/// What scripts are told of a repository or a mirror, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is no head.
    None,
    /// Fresh enough.
    Current,
    /// Older than it should be, or odd.
    Warn,
    /// Too old for its databases to be served.
    Refused,
    /// See [`RepoState::Held`].
    Held,
    /// See [`RepoState::Torn`].
    Torn,
}

impl Repository {
    /// Whether it is for `arch`; one without architectures is for all.
    pub fn is_for(&self, arch: &str) -> bool {
        self.arch.is_empty() || self.arch.iter().any(|own| own.as_str() == arch)
    }

    /// How long ago the importer last saw it whole. Zero for a time to come.
    pub fn age(&self, now: SystemTime) -> Duration {
        age_of(self.checked, now)
    }

    /// Whether its databases are too old to be served, whatever its state.
    pub fn is_refused_at(&self, now: SystemTime, max_age: Option<Duration>) -> bool {
        max_age.is_some_and(|max| self.age(now) > max)
    }

    /// The worse of what the importer said and what its age says.
    pub fn state_at(&self, now: SystemTime, warn_after: Duration, max_age: Option<Duration>) -> State {
        let said = match self.state {
            RepoState::Whole => State::Current,
            RepoState::Warn => State::Warn,
            RepoState::Held => State::Held,
            RepoState::Torn => State::Torn,
        };
        said.max(by_age(self.age(now), warn_after, max_age))
    }

    /// What repositories are sorted by, and what no two of them share.
    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.folder, &self.name)
    }

    pub(crate) fn check(&self) -> Result<(), HeadError> {
        if !is_component(&self.name) {
            return Err(HeadError::Field("repository name"));
        }
        let folder_is_path = self.folder.is_empty() || self.folder.split('/').all(is_component);
        if !folder_is_path || self.folder.len() > MAX_FOLDER {
            return Err(HeadError::Field("repository folder"));
        }
        if self.arch.len() > MAX_ARCHS {
            return Err(HeadError::Field("list of architectures"));
        }
        if !self
            .detail
            .as_deref()
            .is_none_or(|detail| is_plain_text(detail, MAX_DETAIL))
        {
            return Err(HeadError::Field("repository detail"));
        }
        Ok(())
    }
}

/// How long ago `checked` was; zero for a time to come.
pub(crate) fn age_of(checked: u64, now: SystemTime) -> Duration {
    Duration::from_secs(unix_seconds(now).saturating_sub(checked))
}

/// The state of something whose only fault can be its age.
pub(crate) fn by_age(age: Duration, warn_after: Duration, max_age: Option<Duration>) -> State {
    if max_age.is_some_and(|max| age > max) {
        State::Refused
    } else if age > warn_after {
        State::Warn
    } else {
        State::Current
    }
}

/// Whether `name` can be the name of one entry of a directory.
fn is_component(name: &str) -> bool {
    let reserved = name.is_empty() || name == "." || name == "..";
    !reserved && !name.contains('/') && is_plain_text(name, MAX_NAME)
}

/// Short enough, and nothing in it that would act on a terminal.
pub(crate) fn is_plain_text(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Current => "current",
            Self::Warn => "warn",
            Self::Refused => "refused",
            Self::Held => "held",
            Self::Torn => "torn",
        })
    }
}
