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

use crate::mirror_name::MirrorName;
use crate::repository::{Repository, State, age_of, by_age, is_plain_text};

/// The version of heads that this code writes and reads.
pub const HEAD_VERSION: u64 = 1;
/// The most bytes of a head.
pub const MAX_HEAD: usize = 1 << 20;
/// The most repositories of one mirror.
pub const MAX_REPOSITORIES: usize = 4096;

const MAX_PROFILE: usize = 64;

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
        age_of(self.checked(), now)
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
