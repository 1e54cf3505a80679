//! Hash functions, CIDs of blocks, and the check that a block is what its CID says.
//!
//! - Invariant: [`verify`] says yes only for bytes whose digest the CID carries.
//! - Not here: which hash a DAG is written with (`crate::profile`).
//! - Read first: <https://github.com/multiformats/multicodec>, boxo `verifcid/cid.go` for what is allowed.

use cid::Cid;
use cid::multihash::Multihash;

use crate::limits::MAX_BLOCK;

/// Codec of a block that is plain bytes.
pub const RAW: u64 = 0x55;
/// Codec of a dag-pb node, the carrier of UnixFS.
pub const DAG_PB: u64 = 0x70;
/// Codec of a dag-cbor block.
pub const DAG_CBOR: u64 = 0x71;
/// Codec of an IPNS name in CID form.
pub const LIBP2P_KEY: u64 = 0x72;

/// Multihash code of a CID that holds its bytes itself.
pub const IDENTITY: u64 = 0x00;
const SHA1: u64 = 0x11;
const SHA2_256: u64 = 0x12;
const SHA2_512: u64 = 0x13;
const BLAKE3: u64 = 0x1e;
const DOUBLE_SHA2_256: u64 = 0x56;
/// blake2b of N bytes has the code `0xb200 + N`.
const BLAKE2B_BASE: u64 = 0xb200;
const BLAKE2B_256: u64 = 0xb220;
/// Shorter digests are refused, as boxo does.
const MIN_DIGEST: usize = 20;

/// A hash that we write DAGs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashKind {
    /// SHA2-256, the default everywhere.
    Sha2_256,
    /// BLAKE2b with 32 bytes, which the pacman.store of 2019-2023 used.
    Blake2b256,
    /// BLAKE3 with 32 bytes.
    Blake3,
}

impl HashKind {
    /// The multihash code.
    pub const fn code(self) -> u64 {
        match self {
            Self::Sha2_256 => SHA2_256,
            Self::Blake2b256 => BLAKE2B_256,
            Self::Blake3 => BLAKE3,
        }
    }

    /// The hash with this multihash code, if we write it.
    pub const fn from_code(code: u64) -> Option<Self> {
        match code {
            SHA2_256 => Some(Self::Sha2_256),
            BLAKE2B_256 => Some(Self::Blake2b256),
            BLAKE3 => Some(Self::Blake3),
            _ => None,
        }
    }

    /// Hashes `data` in one go.
    pub fn digest(self, data: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        match self {
            Self::Sha2_256 => out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, data).as_ref()),
            Self::Blake2b256 => {
                out.copy_from_slice(blake2b_simd::Params::new().hash_length(32).hash(data).as_bytes());
            }
            Self::Blake3 => out = *blake3::hash(data).as_bytes(),
        }
        out
    }
}

/// A hash in progress, for bytes that arrive in pieces.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha2(Box<ring::digest::Context>),
    Blake2b(Box<blake2b_simd::State>),
    Blake3(Box<blake3::Hasher>),
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.0 {
            State::Sha2(_) => HashKind::Sha2_256,
            State::Blake2b(_) => HashKind::Blake2b256,
            State::Blake3(_) => HashKind::Blake3,
        };
        f.debug_tuple("Hasher").field(&kind).finish()
    }
}

impl Hasher {
    /// Starts over no bytes.
    pub fn new(kind: HashKind) -> Self {
        Self(match kind {
            HashKind::Sha2_256 => State::Sha2(Box::new(ring::digest::Context::new(&ring::digest::SHA256))),
            HashKind::Blake2b256 => {
                State::Blake2b(Box::new(blake2b_simd::Params::new().hash_length(32).to_state()))
            }
            HashKind::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Sha2(context) => context.update(data),
            State::Blake2b(state) => {
                state.update(data);
            }
            State::Blake3(hasher) => {
                hasher.update(data);
            }
        }
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        match self.0 {
            State::Sha2(context) => out.copy_from_slice(context.finish().as_ref()),
            State::Blake2b(state) => out.copy_from_slice(state.finalize().as_bytes()),
            State::Blake3(hasher) => out = *hasher.finalize().as_bytes(),
        }
        out
    }
}

/// The CIDv1 of `data` as a raw block.
pub fn raw_cid(hash: HashKind, data: &[u8]) -> Cid {
    cid_of(RAW, hash, data)
}

/// The CIDv1 of `data` under any codec.
pub fn cid_of(codec: u64, hash: HashKind, data: &[u8]) -> Cid {
    cid_from_digest(codec, hash, hash.digest(data))
}

/// The CIDv1 of a file of at most one chunk, from the SHA-256 that a pacman database lists for it.
pub fn cid_from_sha256(digest: [u8; 32]) -> Cid {
    cid_from_digest(RAW, HashKind::Sha2_256, digest)
}

pub(crate) fn cid_from_digest(codec: u64, hash: HashKind, digest: [u8; 32]) -> Cid {
    let multihash = Multihash::wrap(hash.code(), &digest).expect("32 bytes fit into a multihash of 64");
    Cid::new_v1(codec, multihash)
}

/// The bytes that an identity CID carries in itself, or `None` for every other CID.
pub fn inline_data(cid: &Cid) -> Option<&[u8]> {
    (cid.hash().code() == IDENTITY).then(|| cid.hash().digest())
}

/// Why a block is not taken for its CID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The bytes have another digest.
    #[error("bytes do not hash to {0}")]
    Mismatch(Cid),
    /// The hash is one that we do not compute or do not trust.
    #[error("hash function {code:#x} of {cid} is not supported")]
    Hash {
        /// The CID that names it.
        cid: Cid,
        /// Its multihash code.
        code: u64,
    },
    /// The digest is too short to mean anything, or longer than its function gives.
    #[error("{cid} has a digest of {len} bytes")]
    DigestLength {
        /// The CID that carries it.
        cid: Cid,
        /// Length of its digest in bytes.
        len: usize,
    },
    /// The block is longer than [`MAX_BLOCK`].
    #[error("block {cid} has {len} bytes, more than {MAX_BLOCK}")]
    TooLong {
        /// The CID asked for.
        cid: Cid,
        /// Length of the bytes.
        len: usize,
    },
}

/// Checks that `data` is the block that `cid` names.
///
/// SHA2-256 and SHA2-512, BLAKE3, BLAKE2b of at least 160 bits, double SHA2-256 and (old) SHA1 are
/// computed; a digest cut to no less than 20 bytes is accepted where the function allows cutting, as boxo
/// does. An identity CID is compared with its own bytes.
///
/// # Errors
/// [`VerifyError`]; SHA3 and Keccak, which boxo also allows, are [`VerifyError::Hash`] here.
pub fn verify(cid: &Cid, data: &[u8]) -> Result<(), VerifyError> {
    if data.len() > MAX_BLOCK {
        return Err(VerifyError::TooLong {
            cid: *cid,
            len: data.len(),
        });
    }
    let (code, want) = (cid.hash().code(), cid.hash().digest());
    if code != IDENTITY && want.len() < MIN_DIGEST {
        return Err(VerifyError::DigestLength {
            cid: *cid,
            len: want.len(),
        });
    }
    let longest = match code {
        IDENTITY => want.len(),
        SHA2_256 | DOUBLE_SHA2_256 => 32,
        SHA2_512 => 64,
        SHA1 => 20,
        BLAKE3 => 128,
        code if is_blake2b(code) => (code - BLAKE2B_BASE) as usize,
        code => return Err(VerifyError::Hash { cid: *cid, code }),
    };
    if want.len() > longest {
        return Err(VerifyError::DigestLength {
            cid: *cid,
            len: want.len(),
        });
    }
    if digest_starts_with(code, want, data) {
        Ok(())
    } else {
        Err(VerifyError::Mismatch(*cid))
    }
}

fn is_blake2b(code: u64) -> bool {
    (BLAKE2B_BASE + MIN_DIGEST as u64..=BLAKE2B_BASE + 64).contains(&code)
}

fn digest_starts_with(code: u64, want: &[u8], data: &[u8]) -> bool {
    use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512, digest};
    match code {
        IDENTITY => data == want,
        SHA2_256 => digest(&SHA256, data).as_ref().starts_with(want),
        SHA2_512 => digest(&SHA512, data).as_ref().starts_with(want),
        SHA1 => digest(&SHA1_FOR_LEGACY_USE_ONLY, data).as_ref().starts_with(want),
        DOUBLE_SHA2_256 => digest(&SHA256, digest(&SHA256, data).as_ref())
            .as_ref()
            .starts_with(want),
        BLAKE3 => {
            let mut out = vec![0; want.len()];
            blake3::Hasher::new().update(data).finalize_xof().fill(&mut out);
            out == want
        }
        code if is_blake2b(code) => {
            let length = (code - BLAKE2B_BASE) as usize;
            blake2b_simd::Params::new()
                .hash_length(length)
                .hash(data)
                .as_bytes()
                .starts_with(want)
        }
        _ => false,
    }
}
