//! Heads as scripts see them: the JSON of `pacstore resolve --json`.
//!
//! - Invariant: the names of fields and states change only with a major version.
//! - Not here: printing.
//! - Read first: `docs/design.md`, "What scripts rely on".

use std::time::{Duration, SystemTime};

use cid::Cid;
use serde::Serialize;

use crate::head::Head;
use crate::mirror_name::MirrorName;
use crate::name::IpnsName;
use crate::repository::{Repository, State};
use crate::signed::Signed;
use crate::time::rfc3339;

/// The head served now, for scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The mirror.
    pub name: String,
    /// The tree's CID; `None` without a head, as in the next ones.
    pub tree: Option<String>,
    /// The head's CID.
    pub head: Option<String>,
    /// The record's sequence.
    pub sequence: Option<u64>,
    /// RFC 3339.
    pub upstream_time: Option<String>,
    /// RFC 3339, of the oldest repository.
    pub checked: Option<String>,
    /// Age of the oldest repository in seconds.
    pub age_s: Option<u64>,
    /// The worst of all repositories.
    pub state: State,
    /// What each importer says.
    pub importers: Vec<ImporterLine>,
    /// The repositories.
    pub repositories: Vec<RepositoryLine>,
}

/// What one importer says now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImporterLine {
    /// Its KEY.
    pub key: IpnsName,
    /// The sequence of its newest record; `None` if none was seen.
    pub sequence: Option<u64>,
    /// The tree of that.
    pub tree: Option<String>,
}

/// One repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryLine {
    /// Its name.
    pub name: String,
    /// Its folder in the tree.
    pub folder: String,
    /// Its architectures.
    pub arch: ArchField,
    /// Its age in seconds.
    pub age_s: u64,
    /// Its state.
    pub state: State,
}

/// Architectures in JSON: `null` for every one, a string for one, else a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ArchField {
    /// Every architecture.
    Every,
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Summary {
    /// The summary of a mirror without a head.
    pub fn none(name: &MirrorName, importers: Vec<ImporterLine>) -> Self {
        Self {
            name: name.to_string(),
            tree: None,
            head: None,
            sequence: None,
            upstream_time: None,
            checked: None,
            age_s: None,
            state: State::None,
            importers,
            repositories: Vec::new(),
        }
    }

    /// The summary of the head that is served at `now`, with its CID and the sequence of
    /// its record. `fell_back`: it replaced one
    /// with a later upstream time, which is at least a warning.
    pub fn new(
        (head, head_cid, sequence): (&Head, &Cid, u64),
        fell_back: FellBack,
        importers: Vec<ImporterLine>,
        now: SystemTime,
        warn_after: Duration,
    ) -> Self {
        let line = |repository| RepositoryLine::new(repository, now, warn_after, head.max_age());
        Self {
            name: head.mirror.to_string(),
            tree: Some(head.tree.to_string()),
            head: Some(head_cid.to_string()),
            sequence: Some(sequence),
            upstream_time: Some(rfc3339(head.upstream_time())),
            checked: Some(rfc3339(head.checked())),
            age_s: Some(head.age(now).as_secs()),
            state: head.state_at(now, warn_after).max(fell_back.state()),
            importers,
            repositories: head.repositories.iter().map(line).collect(),
        }
    }
}

/// Whether the head replaced one with a later upstream time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FellBack {
    /// It did.
    Yes,
    /// It did not.
    No,
}

impl FellBack {
    fn state(self) -> State {
        match self {
            Self::Yes => State::Warn,
            Self::No => State::Current,
        }
    }
}

impl From<bool> for FellBack {
    fn from(fell_back: bool) -> Self {
        if fell_back { Self::Yes } else { Self::No }
    }
}

impl RepositoryLine {
    fn new(
        repository: &Repository,
        now: SystemTime,
        warn_after: Duration,
        max_age: Option<Duration>,
    ) -> Self {
        Self {
            name: repository.name.clone(),
            folder: repository.folder.clone(),
            arch: ArchField::new(repository),
            age_s: repository.age(now).as_secs(),
            state: repository.state_at(now, warn_after, max_age),
        }
    }
}

impl ArchField {
    fn new(repository: &Repository) -> Self {
        match repository.arch.as_slice() {
            [] => Self::Every,
            [one] => Self::One(one.to_string()),
            several => Self::Several(several.iter().map(ToString::to_string).collect()),
        }
    }
}

impl From<&Signed> for ImporterLine {
    fn from(signed: &Signed) -> Self {
        Self {
            key: signed.key,
            sequence: Some(signed.record.sequence()),
            tree: Some(signed.head.tree.to_string()),
        }
    }
}
