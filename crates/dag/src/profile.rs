//! The parameters that turn content into CIDs, under the names people know them by.
//!
//! - Invariant: a [`Profile`] that exists is valid, so nothing that takes one can fail because of it.
//! - Not here: the algorithms that the parameters steer (`crate::chunk`, `crate::file`, `crate::edit`).
//! - Read first: IPIP-499 (UnixFS CID profiles).

use cid::{Cid, Version};

use crate::chunk::MAX_CHUNK;
use crate::hash::{DAG_PB, HashKind, cid_from_digest};

/// How a file is cut into leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chunker {
    /// Leaves of this many bytes; the last may be shorter.
    Fixed(u64),
    /// boxo's `buzhash`: cuts by content, 128 to 512 KiB.
    Buzhash,
}

/// How the size of a directory is estimated before it is sharded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeEstimate {
    /// Sum of the lengths of names and CIDs.
    LinksBytes,
    /// Exact length of the flat node.
    BlockBytes,
}

/// How the estimate is compared with the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    /// Sharded when larger than the threshold (Kubo since 0.40, Helia).
    Gt,
    /// Sharded when as large as the threshold (Kubo before 0.40).
    Ge,
}

/// When a directory becomes a HAMT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Threshold {
    /// The threshold in bytes.
    pub bytes: u64,
    /// What is compared with it.
    pub estimate: SizeEstimate,
    /// How it is compared.
    pub over: Over,
}

impl Threshold {
    /// Whether a directory of this estimated size is sharded.
    pub const fn is_over(&self, estimated: u64) -> bool {
        match self.over {
            Over::Gt => estimated > self.bytes,
            Over::Ge => estimated >= self.bytes,
        }
    }
}

/// All parameters of a profile; [`Profile::custom`] checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parameters {
    /// CID version of dag-pb nodes. Raw leaves are always CIDv1.
    pub cid_version: Version,
    /// Hash of every block.
    pub hash: HashKind,
    /// How files are cut.
    pub chunker: Chunker,
    /// Whether leaves are raw blocks; else each is wrapped into a dag-pb node.
    pub raw_leaves: bool,
    /// The most children of a file node.
    pub width: usize,
    /// When a directory becomes a HAMT.
    pub threshold: Threshold,
    /// Slots of a HAMT shard: a power of two from 8 to 1024. Everybody uses 256.
    pub fanout: usize,
}

/// A named, valid set of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    name: &'static str,
    parameters: Parameters,
}

/// Why parameters make no profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The chunk size is 0 or too large.
    #[error("chunks of {0} bytes are not possible, at most {MAX_CHUNK} are")]
    Chunk(u64),
    /// File nodes of this width are not possible.
    #[error("file nodes of width {0} are not possible, 2 to {MAX_WIDTH} are")]
    Width(usize),
    /// Shards with this many slots are not possible.
    #[error("fanout {0} is not a power of two from 8 to 1024")]
    Fanout(usize),
    /// CIDv0 knows only SHA2-256.
    #[error("CIDv0 cannot carry another hash than SHA2-256")]
    Version0Hash,
}

/// Widest file node: its block stays below half of [`crate::MAX_BLOCK`].
const MAX_WIDTH: usize = 1 << 13;

const CLASSIC_THRESHOLD: Threshold = Threshold {
    bytes: 262_144,
    estimate: SizeEstimate::LinksBytes,
    over: Over::Gt,
};

impl Profile {
    /// The ratified default of IPIP-499: 1 MiB chunks, width 1024, sharded by exact block size.
    pub const UNIXFS_V1_2025: Self = Self {
        name: "unixfs-v1-2025",
        parameters: Parameters {
            cid_version: Version::V1,
            hash: HashKind::Sha2_256,
            chunker: Chunker::Fixed(1_048_576),
            raw_leaves: true,
            width: 1024,
            threshold: Threshold {
                estimate: SizeEstimate::BlockBytes,
                ..CLASSIC_THRESHOLD
            },
            fanout: 256,
        },
    };

    /// `ipfs add --cid-version=1`: 256 KiB chunks, width 174.
    pub const KUBO_CIDV1: Self = Self {
        name: "kubo-cidv1",
        parameters: Parameters {
            cid_version: Version::V1,
            hash: HashKind::Sha2_256,
            chunker: Chunker::Fixed(262_144),
            raw_leaves: true,
            width: 174,
            threshold: CLASSIC_THRESHOLD,
            fanout: 256,
        },
    };

    /// What the pacman.store of 2019 to 2023 published: buzhash, BLAKE2b-256, sharded at the threshold.
    pub const PACMAN_STORE_2023: Self = Self {
        name: "pacman.store-2023",
        parameters: Parameters {
            hash: HashKind::Blake2b256,
            chunker: Chunker::Buzhash,
            threshold: Threshold {
                over: Over::Ge,
                ..CLASSIC_THRESHOLD
            },
            ..Self::KUBO_CIDV1.parameters
        },
    };

    /// Every named profile, the default first.
    pub const ALL: &'static [Self] = &[Self::UNIXFS_V1_2025, Self::KUBO_CIDV1, Self::PACMAN_STORE_2023];

    /// The profile of that name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|profile| profile.name == name)
    }

    /// A profile of other parameters; its name is `custom`.
    ///
    /// # Errors
    /// [`ProfileError`] names the parameter that is not possible.
    pub const fn custom(parameters: Parameters) -> Result<Self, ProfileError> {
        if let Chunker::Fixed(size) = parameters.chunker
            && (size == 0 || size > MAX_CHUNK)
        {
            return Err(ProfileError::Chunk(size));
        }
        if parameters.width < 2 || parameters.width > MAX_WIDTH {
            return Err(ProfileError::Width(parameters.width));
        }
        if !parameters.fanout.is_power_of_two() || parameters.fanout < 8 || parameters.fanout > 1024 {
            return Err(ProfileError::Fanout(parameters.fanout));
        }
        if matches!(parameters.cid_version, Version::V0) && !matches!(parameters.hash, HashKind::Sha2_256) {
            return Err(ProfileError::Version0Hash);
        }
        Ok(Self {
            name: "custom",
            parameters,
        })
    }

    /// The name that configuration and heads use.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The parameters.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The CID of a dag-pb node under this profile.
    pub(crate) fn node_cid(&self, data: &[u8]) -> Cid {
        let cid = cid_from_digest(DAG_PB, self.parameters.hash, self.parameters.hash.digest(data));
        match self.parameters.cid_version {
            Version::V0 => Cid::new_v0(*cid.hash()).expect("a profile with CIDv0 hashes with SHA2-256"),
            Version::V1 => cid,
        }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::UNIXFS_V1_2025
    }
}
