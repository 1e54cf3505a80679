//! Heads: a block that names a snapshot and says how fresh each repository is.
//!
//! A head is dag-cbor, linked from the signed data of an IPNS record, so whoever
//! verified the record and the head's CID knows who said all this. Times are whole
//! seconds since 1970-01-01 UTC.
//!
//! - Invariant: equal heads encode to equal bytes, so to the same CID.
//! - Invariant: [`Head::decode`] and [`Head::encode`] hold the same bounds; what one
//!   takes, the other makes. Fields that we do not know are skipped when read.
//! - Not here: which of several heads counts (`crate::choose`), JSON for people
//!   (`crate::summary`), the records (`crate::record`).
//! - Read first: `docs/design.md`, "Head".

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use cid::Cid;
use cid::multihash::Multihash;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_ipld_dagcbor::DecodeError;

use crate::arch::Arch;
use crate::mirror_name::MirrorName;
use crate::time::unix_seconds;

/// The version of heads that this code writes and reads.
pub const HEAD_VERSION: u64 = 1;
/// The most bytes of a head.
pub const MAX_HEAD: usize = 1 << 20;
/// The most repositories of one mirror.
pub const MAX_REPOSITORIES: usize = 4096;

const MAX_PROFILE: usize = 64;
const MAX_NAME: usize = 255;
const MAX_FOLDER: usize = 4096;
const MAX_ARCHS: usize = 32;
const MAX_DETAIL: usize = 1024;

/// The multicodec of a head.
const DAG_CBOR: u64 = 0x71;
const SHA2_256: u64 = 0x12;

/// What an importer says of one snapshot of one mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The mirror.
    pub mirror: MirrorName,
    /// The root of the tree.
    pub tree: Cid,
    /// The name of the profile that the tree was made with, such as `unixfs-v1-2025`.
    pub profile: String,
    /// How the tree's paths relate to the upstream's.
    pub layout: Layout,
    /// Whether everybody may have it.
    pub public: bool,
    /// The age in seconds from which a repository's databases are no longer served; 0 = none.
    pub max_age_s: u64,
    /// The sequence of the record that linked this head first.
    pub sequence: u64,
    /// The last head with another tree.
    pub previous: Option<Cid>,
    /// What the tree holds.
    pub counts: Counts,
    /// Times of a tree that has no repository; `None` if it has some.
    pub tree_times: Option<TreeTimes>,
    /// The repositories, in any order; encoded by folder, then name.
    pub repositories: Vec<Repository>,
}

/// How many things a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Files.
    pub files: u64,
    /// Bytes of all files; one that stands under two names counts twice.
    pub bytes: u64,
}

/// The times of a tree without repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TreeTimes {
    /// When upstream changed it last: its change stamp, else its newest file.
    pub upstream_time: u64,
    /// When the importer last saw it whole and equal to upstream's.
    pub checked: u64,
}

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

/// How a tree's paths relate to the upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The same paths.
    #[default]
    Plain,
    /// `R/F` in the tree is `R/os/x86_64/F` upstream.
    Archlinux,
}

/// A layout of another name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no layout: `plain` and `archlinux` are")]
pub struct LayoutError(String);

/// Why bytes are no head, or a head cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// More bytes than a head may have.
    #[error("head has {0} bytes; at most {MAX_HEAD} are allowed")]
    TooLarge(usize),
    /// Not dag-cbor, or not with the fields of a head.
    #[error("head is not dag-cbor as it should be")]
    Decode(#[source] DecodeError<Infallible>),
    /// Made by a later pacstore.
    #[error("head has version {0}; this pacstore reads version {HEAD_VERSION}, a newer one may be needed")]
    Version(u64),
    /// More repositories than one mirror may have.
    #[error("head has {0} repositories; at most {MAX_REPOSITORIES} are allowed")]
    TooManyRepositories(usize),
    /// A text too long, or none that may stand there.
    #[error("head has a {0} that is too long or malformed")]
    Field(&'static str),
    /// The same repository twice, or not in order of folder and name.
    #[error("repositories of the head are not in order, or one stands there twice")]
    Order,
    /// A tree has either repositories, or times of its own.
    #[error("head has both repositories and times of the whole tree, or neither")]
    Times,
}

impl Head {
    /// The head as a block: its CID and bytes. Equal heads give equal bytes.
    ///
    /// # Errors
    /// [`HeadError`] if a bound is exceeded or a text malformed.
    pub fn encode(&self) -> Result<(Cid, Vec<u8>), HeadError> {
        let mut sorted = self.clone();
        sorted.repositories.sort_by(|a, b| a.key().cmp(&b.key()));
        sorted.check()?;
        let wire = Wire::from(sorted);
        let bytes = serde_ipld_dagcbor::to_vec(&wire).expect("a head's fields are always dag-cbor");
        if bytes.len() > MAX_HEAD {
            return Err(HeadError::TooLarge(bytes.len()));
        }
        Ok((Self::cid_of(&bytes), bytes))
    }

    /// Reads a head.
    ///
    /// # Errors
    /// [`HeadError`]; a head of a later version is told apart from a damaged one.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        #[derive(Deserialize)]
        struct Probe {
            version: u64,
        }
        if bytes.len() > MAX_HEAD {
            return Err(HeadError::TooLarge(bytes.len()));
        }
        let probe: Probe = serde_ipld_dagcbor::from_slice(bytes).map_err(HeadError::Decode)?;
        if probe.version != HEAD_VERSION {
            return Err(HeadError::Version(probe.version));
        }
        let wire: Wire = serde_ipld_dagcbor::from_slice(bytes).map_err(HeadError::Decode)?;
        let head = Self::from(wire);
        head.check()?;
        Ok(head)
    }

    /// The CID of a head's bytes: CIDv1, dag-cbor, sha2-256.
    pub fn cid_of(bytes: &[u8]) -> Cid {
        let hash = digest(&SHA256, bytes);
        Cid::new_v1(
            DAG_CBOR,
            Multihash::wrap(SHA2_256, hash.as_ref()).expect("32 bytes fit into 64"),
        )
    }

    /// When upstream last changed anything of the tree.
    pub fn upstream_time(&self) -> u64 {
        let newest = self
            .repositories
            .iter()
            .map(|repository| repository.upstream_time)
            .max();
        newest
            .or(self.tree_times.map(|times| times.upstream_time))
            .unwrap_or(0)
    }

    /// When the importer last saw the whole tree equal to upstream's: the `checked`
    /// of the repository that waits longest.
    pub fn checked(&self) -> u64 {
        let oldest = self.oldest().map(|repository| repository.checked);
        oldest.or(self.tree_times.map(|times| times.checked)).unwrap_or(0)
    }

    /// The repository that was not checked for the longest time.
    pub fn oldest(&self) -> Option<&Repository> {
        self.repositories
            .iter()
            .min_by_key(|repository| repository.checked)
    }

    /// The age of the oldest repository, or of a tree without repositories.
    pub fn age(&self, now: SystemTime) -> Duration {
        age(self.checked(), now)
    }

    /// The worst state of any repository at `now`.
    pub fn state_at(&self, now: SystemTime, warn_after: Duration) -> State {
        let of_one = |repository: &Repository| repository.state_at(now, warn_after, self.max_age());
        let worst = self.repositories.iter().map(of_one).max();
        worst.unwrap_or_else(|| by_age(self.age(now), warn_after, self.max_age()))
    }

    /// From which age on databases are refused; `None` = never.
    pub fn max_age(&self) -> Option<Duration> {
        (self.max_age_s > 0).then(|| Duration::from_secs(self.max_age_s))
    }

    /// The repositories called `name` that are for `arch`.
    pub fn repositories_for<'a>(
        &'a self,
        name: &'a str,
        arch: &'a str,
    ) -> impl Iterator<Item = &'a Repository> {
        self.repositories
            .iter()
            .filter(move |repository| repository.name == name && repository.is_for(arch))
    }

    /// The repository whose folder this is.
    pub fn in_folder(&self, folder: &str) -> impl Iterator<Item = &Repository> {
        self.repositories
            .iter()
            .filter(move |repository| repository.folder == folder)
    }

    fn check(&self) -> Result<(), HeadError> {
        let count = self.repositories.len();
        if count > MAX_REPOSITORIES {
            return Err(HeadError::TooManyRepositories(count));
        }
        if self.tree_times.is_some() != self.repositories.is_empty() {
            return Err(HeadError::Times);
        }
        if !is_plain_text(&self.profile, MAX_PROFILE) || self.profile.is_empty() {
            return Err(HeadError::Field("profile"));
        }
        if !self
            .repositories
            .windows(2)
            .all(|pair| pair[0].key() < pair[1].key())
        {
            return Err(HeadError::Order);
        }
        self.repositories.iter().try_for_each(Repository::check)
    }
}

impl Repository {
    /// Whether it is for `arch`; one without architectures is for all.
    pub fn is_for(&self, arch: &str) -> bool {
        self.arch.is_empty() || self.arch.iter().any(|own| own.as_str() == arch)
    }

    /// How long ago the importer last saw it whole. Zero for a time to come.
    pub fn age(&self, now: SystemTime) -> Duration {
        age(self.checked, now)
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
    fn key(&self) -> (&str, &str) {
        (&self.folder, &self.name)
    }

    fn check(&self) -> Result<(), HeadError> {
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

fn age(checked: u64, now: SystemTime) -> Duration {
    Duration::from_secs(unix_seconds(now).saturating_sub(checked))
}

fn by_age(age: Duration, warn_after: Duration, max_age: Option<Duration>) -> State {
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
fn is_plain_text(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

/// A head as it is encoded. The order of fields here is free: dag-cbor sorts them.
#[derive(Serialize, Deserialize)]
struct Wire {
    version: u64,
    mirror: MirrorName,
    tree: Cid,
    profile: String,
    layout: Layout,
    public: bool,
    max_age_s: u64,
    sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Cid>,
    counts: Counts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree_times: Option<TreeTimes>,
    repositories: Vec<Repository>,
}

impl From<Head> for Wire {
    fn from(head: Head) -> Self {
        Self {
            version: HEAD_VERSION,
            mirror: head.mirror,
            tree: head.tree,
            profile: head.profile,
            layout: head.layout,
            public: head.public,
            max_age_s: head.max_age_s,
            sequence: head.sequence,
            previous: head.previous,
            counts: head.counts,
            tree_times: head.tree_times,
            repositories: head.repositories,
        }
    }
}

impl From<Wire> for Head {
    fn from(wire: Wire) -> Self {
        Self {
            mirror: wire.mirror,
            tree: wire.tree,
            profile: wire.profile,
            layout: wire.layout,
            public: wire.public,
            max_age_s: wire.max_age_s,
            sequence: wire.sequence,
            previous: wire.previous,
            counts: wire.counts,
            tree_times: wire.tree_times,
            repositories: wire.repositories,
        }
    }
}

impl Layout {
    /// As it stands in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Archlinux => "archlinux",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        match text {
            "plain" => Ok(Self::Plain),
            "archlinux" => Ok(Self::Archlinux),
            other => Err(LayoutError(other.chars().take(64).collect())),
        }
    }
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
