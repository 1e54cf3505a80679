//! Bytes of others: whatever they are, the answer is a value or an error, soon.

use data_encoding::HEXLOWER;
use pacstore_names::{Head, IpnsName, PublicKey, Record, Seen, SigningKey};
use proptest::prelude::*;

use crate::heads::{NOW, at, head, key, signed};

/// Bytes with a few replaced, cut or put in.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    let edits = prop::collection::vec((0..len, any::<u8>()), 0..6);
    (
        Just(good),
        edits,
        0..=len,
        prop::collection::vec(any::<u8>(), 0..8),
    )
        .prop_map(|(good, edits, cut, tail)| {
            let mut bytes = good;
            for (at, byte) in edits {
                bytes[at] = byte;
            }
            bytes.truncate(cut.max(1));
            bytes.extend(tail);
            bytes
        })
}

fn judge(bytes: &[u8]) {
    if let Ok(record) = Record::from_bytes(bytes) {
        drop(record.verify(&key(0).name(), at(NOW)));
        assert_eq!(record.bytes(), bytes);
    }
    if let Ok(head) = Head::decode(bytes) {
        let (cid, again) = head.encode().expect("what is read can be written");
        assert_eq!(Head::decode(&again).expect("a head"), head);
        assert_eq!(cid, Head::cid_of(&again));
    }
    drop(SigningKey::from_bytes(bytes));
    drop(Seen::from_bytes(bytes));
    drop(IpnsName::from_routing_key(bytes));
    drop(IpnsName::from_multihash_bytes(bytes));
    if let Ok(public) = PublicKey::from_protobuf(bytes) {
        assert!(!public.verifies(b"message", b"signature"));
    }
}

fn rsa_record() -> Vec<u8> {
    let vector: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/rsa-record.json")).expect("JSON");
    HEXLOWER
        .decode(vector["record"].as_str().expect("text").as_bytes())
        .expect("hex")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        judge(&bytes);
    }

    #[test]
    fn damaged_records_are_judged(bytes in damaged(signed(0, 5, 1, 100, 100).record.bytes().to_vec())) {
        judge(&bytes);
    }

    #[test]
    fn damaged_records_of_rsa_keys_are_judged(bytes in damaged(rsa_record())) {
        judge(&bytes);
    }

    #[test]
    fn damaged_heads_are_judged(bytes in damaged(head().encode().expect("a head").1)) {
        judge(&bytes);
    }

    #[test]
    fn damaged_keys_are_judged(bytes in damaged(key(1).to_bytes())) {
        judge(&bytes);
    }

    #[test]
    fn any_text_is_a_key_or_none(text in "[kKbBzZmQ1f]?[a-zA-Z0-9]{0,80}") {
        if let Ok(name) = text.parse::<IpnsName>() {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }
}

#[test]
fn deep_nesting_and_lying_lengths_are_errors() {
    let nested = |byte: u8, depth: usize| vec![byte; depth];
    judge(&nested(0x81, 100_000)); // lists in lists
    judge(&nested(0xd8, 100_000)); // tags on tags
    let field = |value: &[u8]| [b"\xa2\x61a".as_slice(), value, b"\x67version\x01"].concat();
    assert!(Head::decode(&field(&nested(0x81, 500_000))).is_err());
    assert!(Head::decode(&field(&nested(0xa1, 500_000))).is_err());
    for lie in [0x5b, 0x7b, 0x9b, 0xbb] {
        assert!(
            Head::decode(&field(&[&[lie][..], &[0xff; 8]].concat())).is_err(),
            "{lie:#x}"
        );
        judge(&[&[lie][..], &[0x7f; 8]].concat());
    }
}
