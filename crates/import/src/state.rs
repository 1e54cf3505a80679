//! What a round found out about a mirror's repositories, and what the next one has to know of it.
//!
//! - Invariant: [`State::repositories`] are those that the tree holds, as they were when they were last whole.
//! - Not here: single files (`crate::manifest`).
//! - Read first: design.md, "Head".

use cid::Cid;
use serde::{Deserialize, Serialize};

use crate::repos::Repo;
use crate::trouble::Trouble;
use crate::view::View;

/// When the upstream last changed a repository's databases, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatabaseTimes {
    /// `REPO.db`.
    pub db: Option<u64>,
    /// `REPO.db.sig`.
    pub db_sig: Option<u64>,
    /// `REPO.files`.
    pub files: Option<u64>,
    /// `REPO.files.sig`.
    pub files_sig: Option<u64>,
}

impl DatabaseTimes {
    /// The newest of them.
    pub fn newest(&self) -> Option<u64> {
        [self.db, self.db_sig, self.files, self.files_sig]
            .into_iter()
            .flatten()
            .max()
    }

    /// The newest of the two databases, signatures left aside.
    pub fn newest_database(&self) -> Option<u64> {
        self.db.into_iter().chain(self.files).max()
    }
}

/// How a repository stands after a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepoState {
    /// The tree holds it as the upstream has it.
    Whole,
    /// The upstream's state is not coherent; the tree holds the last one that was, if there was one.
    Torn(Vec<Trouble>),
    /// It is whole, but signatures do not verify: the tree holds its last state, until this time at most.
    Doubted {
        /// Which files.
        troubles: Vec<Trouble>,
        /// In seconds since 1970; then it is published as it is.
        until: u64,
    },
    /// It is whole, but one that it moves together with is not.
    Held {
        /// The torn one, `FOLDER/NAME`.
        with: String,
    },
}

/// Something that a person should look at, though the round went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A repository lost more than 30 % of its packages at once.
    Shrunk {
        /// `FOLDER/NAME`.
        repository: String,
        /// Packages in the tree before.
        from: u64,
        /// Packages now.
        to: u64,
    },
    /// A repository is older, as the upstream says, than what the tree held before.
    Older {
        /// `FOLDER/NAME`.
        repository: String,
        /// Before, in seconds since 1970.
        from: u64,
        /// Now, in seconds since 1970.
        to: u64,
    },
    /// Packages have other bytes under the same name, which no pacman expects.
    OtherBytes {
        /// The path of the first one in the tree.
        first: String,
        /// How many.
        count: u64,
    },
    /// A file was published though its signature does not verify: its time was over, or a person accepted it.
    Unverified(Trouble),
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shrunk { repository, from, to } => {
                write!(f, "{repository} shrank from {from} packages to {to}")
            }
            Self::Older { repository, from, to } => write!(
                f,
                "{repository} went back in time by {} s",
                from.saturating_sub(*to)
            ),
            Self::OtherBytes { first, count } => {
                write!(
                    f,
                    "{count} packages have other bytes under the same name; the first is {first}"
                )
            }
            Self::Unverified(trouble) => write!(f, "published all the same: {trouble}"),
        }
    }
}

/// A repository's part of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoFacts {
    /// Its name, such as `core`.
    pub name: String,
    /// Its folder in the tree; empty for the root.
    pub folder: String,
    /// Its folder in the upstream; empty for the root.
    pub upstream_folder: String,
    /// The architecture that it serves; `None` for every one.
    pub arch: Option<String>,
    /// Of the databases in the tree.
    pub times: DatabaseTimes,
    /// How old the upstream says the state in the tree is: its change stamp, else the newest database's time;
    /// seconds since 1970.
    pub upstream_time: Option<u64>,
    /// Packages in its database.
    pub packages: u64,
    /// How it stands.
    pub state: RepoState,
    /// Whether this round saw what the tree holds whole and equal to the upstream's.
    pub checked: bool,
    /// Whether the tree holds it at all: not if it was torn from the first time on.
    pub in_tree: bool,
}

/// A repository that the tree holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) name: String,
    /// In the upstream.
    pub(crate) folder: Vec<u8>,
    pub(crate) tree_folder: Vec<u8>,
    pub(crate) arch: Option<String>,
    pub(crate) times: DatabaseTimes,
    pub(crate) upstream_time: Option<u64>,
    pub(crate) packages: u64,
    /// Root of its database, as text.
    #[serde(default)]
    pub(crate) database: String,
    /// When its newest package was built.
    #[serde(default)]
    pub(crate) built: Option<u64>,
}

impl Kept {
    pub(crate) fn facts(&self, state: RepoState) -> RepoFacts {
        RepoFacts {
            name: self.name.clone(),
            folder: crate::names::show(&self.tree_folder),
            upstream_folder: crate::names::show(&self.folder),
            arch: self.arch.clone(),
            times: self.times,
            upstream_time: self.upstream_time,
            packages: self.packages,
            checked: state == RepoState::Whole,
            state,
            in_tree: true,
        }
    }
}

/// A part of the tree that was taken whole, and by what it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegionMark {
    /// Folder in the tree; `None` for what belongs to no repository.
    pub(crate) folder: Option<Vec<u8>>,
    pub(crate) mark: [u8; 32],
}

/// What the last round left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    tree: String,
    /// Of the spec.
    pub(crate) fingerprint: [u8; 32],
    /// Of the profile alone: another one makes all facts worthless.
    pub(crate) profile: String,
    pub(crate) repositories: Vec<Kept>,
    /// Of the parts that need not be looked at again while they stay.
    pub(crate) marks: Vec<RegionMark>,
    /// Files and bytes in the tree.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Which source the marks are of.
    pub(crate) source: String,
    /// The time in that source's change stamp, in seconds since 1970.
    #[serde(default)]
    pub(crate) stamp: Option<u64>,
    /// Of the newest file that no database names, in seconds since 1970.
    #[serde(default)]
    pub(crate) newest_other: Option<u64>,
}

impl State {
    pub(crate) fn new(tree: &Cid, fingerprint: [u8; 32], profile: String) -> Self {
        Self {
            tree: tree.to_string(),
            fingerprint,
            profile,
            repositories: Vec::new(),
            marks: Vec::new(),
            files: 0,
            bytes: 0,
            source: String::new(),
            stamp: None,
            newest_other: None,
        }
    }

    /// Whether a source without any repository has lost all that this tree was there for.
    pub(crate) fn is_lost_in(&self, view: &View) -> bool {
        !self.repositories.is_empty() || (self.files > 0 && view.files.is_empty())
    }

    pub(crate) fn tree(&self) -> Option<Cid> {
        self.tree.parse().ok()
    }

    pub(crate) fn kept(&self, folder: &[u8], name: &str) -> Option<&Kept> {
        self.repositories
            .iter()
            .find(|kept| kept.folder == folder && kept.name == name)
    }

    /// The repositories that the tree holds.
    pub(crate) fn known(&self) -> Vec<Repo> {
        let repo = |kept: &Kept| Repo {
            folder: kept.folder.clone(),
            name: kept.name.clone(),
        };
        self.repositories.iter().map(repo).collect()
    }

    pub(crate) fn mark(&self, folder: Option<&[u8]>) -> Option<[u8; 32]> {
        self.marks
            .iter()
            .find(|m| m.folder.as_deref() == folder)
            .map(|m| m.mark)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Nothing for what another version wrote: it can be had again.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes)
            .ok()
            .filter(|state: &Self| state.tree().is_some())
    }
}
