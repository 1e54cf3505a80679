//! `/pacstore/lookup/1` on the wire: up to 256 SHA-256 digests asked, a root and a length told for each.
//!
//! pacman's databases name packages by SHA-256. For a file of one leaf that is its CID; of a larger one
//! a peer that has it can say under which root. What it says is a hint: only the whole file's SHA-256
//! proves it.
//!
//! Both messages have their length in front (`crate::wire`). The request is the digests, 32 bytes each. The answer holds an entry for each of them, in their order: one byte 0
//! where the peer has nothing, else the CID's length in bytes, the CID, and the file's length in bytes
//! as 8 bytes, the highest first. One request and one answer a stream.
//!
//! - Invariant: an answer that could not be true is an error.
//! - Not here: who is asked and answered how often (`crate::lookups`); what is done with a hint (`node`).

use std::io;
use std::time::Duration;

use libp2p::{PeerId, StreamProtocol};
use pacstore_dag::{Cid, DAG_PB, RAW, cid_from_sha256};

use crate::config::{LOOKUP_DEADLINE, LOOKUP_STREAMS};
use crate::wire::{Messages, digests, malformed};

/// Digests in one request, at most.
pub const MAX_LOOKUP: usize = 256;

const DIGEST: usize = 32;
/// Longest CID that is told, in bytes: version, codec and a multihash of 32 bytes need 36 to 40.
const MAX_CID: usize = 64;
/// 1 TiB: no file of a repository comes near it.
const MAX_FILE: u64 = 1 << 40;

/// The SHA-256 of a whole file.
pub type Digest = [u8; DIGEST];

/// Under which root a peer has a file, and how long the file is in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedUp {
    /// The root of the file's DAG.
    pub root: Cid,
    /// Length of the file in bytes.
    pub size: u64,
}

/// What this node tells others. Called on the blocking pool, never on the network task.
pub trait Lookups: Send + Sync + 'static {
    /// The file with this SHA-256; `None` if it is not here or not for this peer.
    fn find(&self, sha256: &Digest, peer: &PeerId) -> Option<LookedUp>;
}

/// What an answer holds for each digest of its request.
pub(crate) type Answers = Vec<Option<LookedUp>>;

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup;

impl Messages for Lookup {
    const PROTOCOL: StreamProtocol = StreamProtocol::new("/pacstore/lookup/1");
    const MAX_REQUEST: usize = MAX_LOOKUP * DIGEST;
    const MAX_RESPONSE: usize = MAX_LOOKUP * (1 + MAX_CID + 8);
    const DEADLINE: Duration = LOOKUP_DEADLINE;
    const STREAMS: usize = LOOKUP_STREAMS;
    type Request = Vec<Digest>;
    type Response = Answers;

    fn encode_request(digests: &Vec<Digest>) -> io::Result<Vec<u8>> {
        Ok(digests.as_flattened().to_vec())
    }

    fn decode_request(message: &[u8]) -> io::Result<Vec<Digest>> {
        digests(message)
    }

    fn encode_response(answers: &Answers) -> io::Result<Vec<u8>> {
        Ok(encode_response(answers))
    }

    fn decode_response(message: &[u8]) -> io::Result<Answers> {
        decode_response(message)
    }
}

/// Whether `answers` can be the answers to `digests`: one for each, and a file of one leaf has no
/// other root than its own digest.
pub(crate) fn can_answer(digests: &[Digest], answers: &[Option<LookedUp>]) -> bool {
    let possible = |(digest, told): (&Digest, &Option<LookedUp>)| {
        told.is_none_or(|told| told.root.codec() != RAW || told.root == cid_from_sha256(*digest))
    };
    digests.len() == answers.len() && digests.iter().zip(answers).all(possible)
}

fn encode_response(answers: &[Option<LookedUp>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(answers.len() * (1 + 40 + 8));
    for told in answers {
        let told = told.map(|told| (told.root.to_bytes(), told.size));
        match told {
            Some((cid, size)) if cid.len() <= MAX_CID => {
                out.push(u8::try_from(cid.len()).unwrap_or_default());
                out.extend_from_slice(&cid);
                out.extend_from_slice(&size.to_be_bytes());
            }
            // A CID that the protocol has no room for is not told.
            Some(_) | None => out.push(0),
        }
    }
    out
}

fn decode_response(mut message: &[u8]) -> io::Result<Answers> {
    let mut answers = Vec::new();
    while let Some((&length, rest)) = message.split_first() {
        if answers.len() == MAX_LOOKUP {
            return Err(malformed("an answer to more digests than a lookup may hold"));
        }
        message = rest;
        if length == 0 {
            answers.push(None);
            continue;
        }
        let length = usize::from(length);
        let cut = || malformed("an answer that ends in the middle");
        let cid = message.get(..length).ok_or_else(cut)?;
        let (size, rest) = message[length..].split_first_chunk().ok_or_else(cut)?;
        message = rest;
        answers.push(Some(told(cid, u64::from_be_bytes(*size))?));
    }
    Ok(answers)
}

/// A root that could be that of a file: of a leaf or of UnixFS, by a hash of 32 bytes.
fn told(cid: &[u8], size: u64) -> io::Result<LookedUp> {
    if cid.len() > MAX_CID {
        return Err(malformed("a CID above the size limit"));
    }
    let root = Cid::try_from(cid).map_err(|_| malformed("an answer without a CID in it"))?;
    if root.encoded_len() != cid.len() {
        return Err(malformed("an answer with more than a CID in it"));
    }
    if ![RAW, DAG_PB].contains(&root.codec()) || usize::from(root.hash().size()) != DIGEST {
        return Err(malformed("a root that is not that of a file"));
    }
    if size > MAX_FILE {
        return Err(malformed("a file above the size limit"));
    }
    Ok(LookedUp { root, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacstore_dag::{HashKind, cid_of};

    fn large(data: &[u8], size: u64) -> LookedUp {
        let root = cid_of(DAG_PB, HashKind::Sha2_256, data);
        LookedUp { root, size }
    }

    #[test]
    fn what_is_told_arrives_in_order() {
        let old = cid_of(DAG_PB, HashKind::Blake2b256, b"old");
        let answers = vec![
            None,
            Some(large(b"x", 7)),
            None,
            Some(LookedUp {
                root: old,
                size: MAX_FILE,
            }),
        ];
        assert_eq!(decode_response(&encode_response(&answers)).unwrap(), answers);
        assert_eq!(decode_response(&[]).unwrap(), []);
    }

    #[test]
    fn answers_that_cannot_be_are_errors() {
        let good = encode_response(&[Some(large(b"x", 7))]);
        for cut in 1..good.len() {
            assert!(decode_response(&good[..cut]).is_err(), "{cut}");
        }
        assert!(decode_response(&encode_response(&[Some(large(b"x", MAX_FILE + 1))])).is_err());
        assert!(decode_response(&[0; MAX_LOOKUP]).is_ok());
        assert!(decode_response(&[0; MAX_LOOKUP + 1]).is_err());
        let other = encode_response(&[Some(LookedUp {
            root: cid_of(0x71, HashKind::Sha2_256, b"a head"),
            size: 1,
        })]);
        assert!(decode_response(&other).is_err(), "dag-cbor is no file");
        // A byte more than its CID, within the length that is told.
        let mut long = good.clone();
        long[0] += 1;
        long.insert(1 + usize::from(good[0]), 0);
        assert!(decode_response(&long).is_err());
    }

    #[test]
    fn a_leaf_is_its_own_digest_or_a_lie() {
        let digest = [5; 32];
        let leaf = |digest| {
            Some(LookedUp {
                root: cid_from_sha256(digest),
                size: 1,
            })
        };
        assert!(can_answer(&[digest], &[leaf(digest)]));
        assert!(can_answer(&[digest], &[Some(large(b"x", 1))]));
        assert!(!can_answer(&[digest], &[leaf([6; 32])]));
        assert!(!can_answer(&[digest], &[None, None]));
        assert!(!can_answer(&[digest], &[]));
    }

    #[test]
    fn hostile_bytes_are_errors_and_never_a_panic() {
        for length in 0..80_usize {
            for fill in [0_u8, 0x01, 0x12, 0x24, 0x40, 0x7f, 0x80, 0xff] {
                let message = vec![fill; length];
                drop(decode_response(&message));
            }
        }
    }
}
