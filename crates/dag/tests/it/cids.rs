//! CIDs and the check of blocks against them.

use cid::multihash::Multihash;
use dag::{Cid, HashKind, VerifyError};
use pacstore_dag as dag;

use crate::support::unhex;

fn cid(code: u64, digest: &[u8]) -> Cid {
    Cid::new_v1(dag::RAW, Multihash::wrap(code, digest).unwrap())
}

/// Digests of "abc" from RFC 3174, 6234, 7693, and the BLAKE3 reference.
const ABC: [(u64, &str); 7] = [
    (0x11, "a9993e364706816aba3e25717850c26c9cd0d89d"),
    (
        0x12,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ),
    (
        0x13,
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ),
    (
        0x1e,
        "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
    ),
    (
        0x56,
        "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358",
    ),
    (
        0xb220,
        "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319",
    ),
    (
        0xb240,
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
    ),
];

#[test]
fn blocks_verify_under_every_hash_that_we_compute_and_only_with_the_right_bytes() {
    for (code, digest) in ABC {
        let cid = cid(code, &unhex(digest));
        assert_eq!(dag::verify(&cid, b"abc"), Ok(()), "{code:#x}");
        assert_eq!(
            dag::verify(&cid, b"abd"),
            Err(VerifyError::Mismatch(cid)),
            "{code:#x}"
        );
    }
}

#[test]
fn digests_may_be_cut_to_twenty_bytes_and_no_further() {
    let digest = HashKind::Sha2_256.digest(b"abc");
    assert_eq!(dag::verify(&cid(0x12, &digest[..20]), b"abc"), Ok(()));
    let short = cid(0x12, &digest[..19]);
    assert_eq!(
        dag::verify(&short, b"abc"),
        Err(VerifyError::DigestLength { cid: short, len: 19 })
    );
    let long = cid(0x12, &[&digest[..], &[0]].concat());
    assert_eq!(
        dag::verify(&long, b"abc"),
        Err(VerifyError::DigestLength { cid: long, len: 33 })
    );
    let blake3 = cid(0x1e, blake3_of(64, b"abc").as_slice());
    assert_eq!(dag::verify(&blake3, b"abc"), Ok(()));
}

fn blake3_of(len: usize, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(data).finalize_xof().fill(&mut out);
    out
}

#[test]
fn identity_cids_verify_by_their_own_bytes() {
    let inline = cid(dag::IDENTITY, b"abc");
    assert_eq!(dag::verify(&inline, b"abc"), Ok(()));
    assert_eq!(dag::verify(&inline, b"ab"), Err(VerifyError::Mismatch(inline)));
}

#[test]
fn unknown_and_weak_hashes_are_refused() {
    for code in [0xd5, 0x22, 0xb213, 0xb241, 0x1012] {
        let cid = cid(code, &[0; 32]);
        assert_eq!(
            dag::verify(&cid, b"abc"),
            Err(VerifyError::Hash { cid, code }),
            "{code:#x}"
        );
    }
}

#[test]
fn hash_kinds_and_codes_go_both_ways() {
    for kind in [HashKind::Sha2_256, HashKind::Blake2b256, HashKind::Blake3] {
        assert_eq!(HashKind::from_code(kind.code()), Some(kind));
        let cid = dag::cid_of(dag::DAG_CBOR, kind, b"abc");
        assert_eq!((cid.codec(), cid.hash().code()), (0x71, kind.code()));
        assert_eq!(dag::verify(&cid, b"abc"), Ok(()));
    }
    assert_eq!(HashKind::from_code(0), None);
}
