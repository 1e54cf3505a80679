//! Fixed-width index keys made from CIDs.
//!
//! A block is known by its multihash alone, so that a raw and a dag-pb CID over the same bytes find the
//! same bytes. References and file roots also carry the codec, because only the codec says whether a
//! block's links count.
//!
//! - Invariant: two CIDs share a [`BlockKey`] if and only if they name the same hash function and digest.
//! - Invariant: a [`RefKey`] begins with its [`BlockKey`], so all views of one block are neighbours.
//! - Not here: hashing and checking (`pacstore_dag`).

use cid::Cid;
use cid::multihash::Multihash;

/// Hash function (1 byte) and digest (32 bytes).
pub(crate) type BlockKey = [u8; 33];
/// A [`BlockKey`] and the codec (1 byte).
pub(crate) type RefKey = [u8; 34];

pub(crate) const RAW: u8 = 0x55;
pub(crate) const DAG_PB: u8 = 0x70;
/// In place of a codec: a dag-pb node of a tree of which only the nodes are held, not the files.
pub(crate) const NODES_ONLY: u8 = 0xff;

const IDENTITY: u64 = 0x00;
/// Multihash codes whose digests are 32 bytes, with the byte that stands for each in a key.
const HASHES: [(u64, u8); 3] = [(SHA2_256, TAG_SHA2_256), (0xb220, 2), (0x1e, 3)];
const SHA2_256: u64 = 0x12;
/// The key byte of sha2-256.
pub(crate) const TAG_SHA2_256: u8 = 1;

/// The key of the bytes that `cid` names; `None` for a hash that the store does not keep.
pub(crate) fn block_key(cid: &Cid) -> Option<BlockKey> {
    let hash = cid.hash();
    let (_, tag) = HASHES.iter().find(|(code, _)| *code == hash.code())?;
    let digest: &[u8; 32] = hash.digest().try_into().ok()?;
    let mut key = [0; 33];
    key[0] = *tag;
    key[1..].copy_from_slice(digest);
    Some(key)
}

/// The key of `cid` as something that links; `None` for hashes and codecs that the store does not keep.
pub(crate) fn ref_key(cid: &Cid) -> Option<RefKey> {
    let block = block_key(cid)?;
    let codec = u8::try_from(cid.codec())
        .ok()
        .filter(|codec| *codec != NODES_ONLY)?;
    Some(with_codec(&block, codec))
}

/// What `label` holds of the tree under `cid`: all of it, or its nodes alone.
pub(crate) fn label_key(label: &str, cid: &Cid) -> Option<RefKey> {
    let key = ref_key(cid)?;
    let nodes_only = label.starts_with(crate::NODES_ONLY);
    Some(if nodes_only {
        with_codec(&block_of(&key), NODES_ONLY)
    } else {
        key
    })
}

pub(crate) fn with_codec(block: &BlockKey, codec: u8) -> RefKey {
    let mut key = [0; 34];
    key[..33].copy_from_slice(block);
    key[33] = codec;
    key
}

/// The block that a reference points at.
pub(crate) fn block_of(key: &RefKey) -> BlockKey {
    let mut block = [0; 33];
    block.copy_from_slice(&key[..33]);
    block
}

/// The codec of a reference.
pub(crate) fn codec_of(key: &RefKey) -> u8 {
    key[33]
}

/// The key of a raw block whose sha2-256 digest this is.
pub(crate) fn sha256_key(digest: &[u8; 32]) -> BlockKey {
    let mut key = [TAG_SHA2_256; 33];
    key[1..].copy_from_slice(digest);
    key
}

/// The CID (version 1) that a key stands for, or version 0 where asked and possible.
pub(crate) fn cid_of(key: &RefKey, version: CidVersion) -> Option<Cid> {
    let (code, _) = HASHES.iter().find(|(_, tag)| *tag == key[0])?;
    let hash = Multihash::wrap(*code, &key[1..33]).ok()?;
    match version {
        CidVersion::V0 => Cid::new_v0(hash).ok(),
        CidVersion::V1 => Some(Cid::new_v1(u64::from(key[33]), hash)),
    }
}

/// Which text form a root had when it came in; keys do not tell the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CidVersion {
    V0,
    V1,
}

pub(crate) fn version_of(cid: &Cid) -> CidVersion {
    match cid.version() {
        cid::Version::V0 => CidVersion::V0,
        cid::Version::V1 => CidVersion::V1,
    }
}

/// The bytes of a CID that holds them itself.
pub(crate) fn inline_bytes(cid: &Cid) -> Option<&[u8]> {
    (cid.hash().code() == IDENTITY).then(|| cid.hash().digest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_and_a_dag_pb_cid_of_one_digest_share_the_block_but_not_the_reference() {
        let hash = Multihash::wrap(SHA2_256, &[7; 32]).unwrap();
        let (raw, pb) = (Cid::new_v1(0x55, hash), Cid::new_v1(0x70, hash));
        assert_eq!(block_key(&raw), block_key(&pb));
        assert_ne!(ref_key(&raw), ref_key(&pb));
        assert_eq!(cid_of(&ref_key(&pb).unwrap(), CidVersion::V1), Some(pb));
        assert_eq!(
            cid_of(&ref_key(&pb).unwrap(), CidVersion::V0),
            Some(Cid::new_v0(hash).unwrap())
        );
    }

    #[test]
    fn no_cid_makes_a_key_of_nodes_only() {
        let hash = Multihash::wrap(SHA2_256, &[7; 32]).unwrap();
        let odd = Cid::new_v1(u64::from(NODES_ONLY), hash);
        assert_eq!(ref_key(&odd), None);
        assert_eq!(label_key("nodes/a", &odd), None);
        let root = Cid::new_v1(0x70, hash);
        assert_eq!(label_key("a", &root), ref_key(&root));
        assert_eq!(
            label_key("nodes/a", &root).map(|key| codec_of(&key)),
            Some(NODES_ONLY)
        );
    }

    #[test]
    fn hashes_that_are_not_kept_have_no_key() {
        let sha512 = Multihash::wrap(0x13, &[7; 64]).unwrap();
        assert_eq!(block_key(&Cid::new_v1(0x55, sha512)), None);
        let short = Multihash::wrap(SHA2_256, &[7; 20]).unwrap();
        assert_eq!(block_key(&Cid::new_v1(0x55, short)), None);
        let inline = Cid::new_v1(0x55, Multihash::wrap(IDENTITY, b"abc").unwrap());
        assert_eq!(inline_bytes(&inline), Some(&b"abc"[..]));
    }
}
