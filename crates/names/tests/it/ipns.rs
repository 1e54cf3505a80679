//! Keys, names and records, against vectors that other implementations made.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use pacstore_names::{
    IpnsName, KeyError, MAX_RECORD, NameError, Record, RecordData, RecordError, SigningKey, better,
};
use serde_json::Value;

use crate::heads::{NOW, at, cid, key};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/ipns-vectors.json")).expect("JSON")
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is text"))
}

fn hex(value: &Value, field: &str) -> Vec<u8> {
    HEXLOWER.decode(text(value, field).as_bytes()).expect("hex")
}

fn vector_key() -> SigningKey {
    SigningKey::from_seed(hex(&vectors()["key"], "seedHex").try_into().expect("32 bytes"))
}

fn check(bytes: &[u8], name: &IpnsName) -> Result<Record, RecordError> {
    let record = Record::from_bytes(bytes)?;
    record.verify(name, at(NOW)).map(|()| record)
}

fn data(sequence: u64) -> RecordData {
    RecordData {
        value: format!("/ipfs/{}", cid(1)).into_bytes(),
        sequence,
        validity: at(NOW + 3_600),
        ttl: Duration::from_mins(1),
        head: None,
    }
}

#[test]
fn a_key_has_the_names_that_helia_gives_it() {
    let (vectors, key) = (vectors(), vector_key());
    let (want, name) = (&vectors["key"], key.name());
    assert_eq!(key.public().as_slice(), hex(want, "publicKeyRawHex"));
    assert_eq!(name.to_string(), text(want, "nameBase36"));
    assert_eq!(name.peer_id(), text(want, "peerIdBase58"));
    assert_eq!(name.to_multihash_bytes(), hex(want, "multihashHex"));
    assert_eq!(name.routing_key(), hex(want, "routingKeyHex"));
    assert_eq!(name.pubsub_topic(), text(want, "pubsubTopic"));
    for form in ["nameBase36", "nameBase32", "peerIdBase58"] {
        assert_eq!(text(want, form).parse(), Ok(name), "{form}");
    }
    assert_eq!(IpnsName::from_routing_key(&name.routing_key()), Ok(name));
    assert_eq!(
        IpnsName::from_multihash_bytes(&name.to_multihash_bytes()),
        Ok(name)
    );
    assert_eq!(serde_json::to_value(name).expect("JSON"), want["nameBase36"]);
}

#[test]
fn what_is_no_name_says_why() {
    let parse = |text: &str| text.parse::<IpnsName>();
    assert_eq!(parse("core"), Err(NameError::Text("core".to_owned())));
    assert_eq!(parse(""), Err(NameError::Text(String::new())));
    assert_eq!(parse(&cid(1).to_string()), Err(NameError::Codec(0x71)));
    assert_eq!(
        parse("k51qzi5uqu5dj"),
        Err(NameError::Text("k51qzi5uqu5dj".to_owned()))
    );
    assert_eq!(IpnsName::from_routing_key(b"/pk/xyz"), Err(NameError::KeyType));
    let trailing = [key(1).name().to_multihash_bytes(), vec![0]].concat();
    assert_eq!(IpnsName::from_multihash_bytes(&trailing), Err(NameError::KeyType));
    assert!(parse(&"z".repeat(100_000)).is_err());
}

#[test]
fn a_key_survives_its_protobuf_form_and_damage_is_noticed() {
    let key = vector_key();
    let bytes = key.to_bytes();
    assert_eq!((bytes.len(), &bytes[..4]), (68, &[0x08, 0x01, 0x12, 0x40][..]));
    assert_eq!(SigningKey::from_bytes(&bytes).expect("a key").name(), key.name());
    let mut damaged = bytes.clone();
    damaged[10] ^= 1;
    assert_eq!(SigningKey::from_bytes(&damaged).unwrap_err(), KeyError::Halves);
    assert_eq!(
        SigningKey::from_bytes(&bytes[..40]).unwrap_err(),
        KeyError::Malformed
    );
    assert_eq!(SigningKey::from_bytes(b"").unwrap_err(), KeyError::Malformed);
    assert_eq!(
        SigningKey::from_bytes(&[0x08, 0x02, 0x12, 0x00]).unwrap_err(),
        KeyError::Type(2)
    );
    let shown = format!("{key:?}");
    assert!(shown.contains(&key.name().to_string()), "{shown}");
    assert!(!shown.contains("seed"), "{shown}");
    let (one, other) = (
        SigningKey::generate().expect("randomness"),
        SigningKey::generate().expect("randomness"),
    );
    assert_ne!(one.name(), other.name());
}

#[test]
fn records_of_helia_are_judged_as_kubo_judges_them() {
    let (vectors, name) = (vectors(), vector_key().name());
    let mut judged = 0;
    for record in vectors["records"].as_array().expect("a list") {
        let got = check(&hex(record, "recordHex"), &name);
        let what = text(record, "name");
        if record["valid"] == true {
            let got = got.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(got.value(), text(record, "value").as_bytes(), "{what}");
            assert_eq!(got.sequence().to_string(), text(record, "sequence"), "{what}");
            assert_eq!(got.ttl().as_nanos().to_string(), text(record, "ttlNs"), "{what}");
            assert_eq!(
                got.validity(),
                UNIX_EPOCH + Duration::from_millis(4_920_923_045_678),
                "{what}"
            );
            assert_eq!(got.head(), None, "{what}");
        } else {
            let error = got.expect_err(what).to_string();
            let want = match what {
                "expired" => "record expired at 2026-01-02T03:04:06Z",
                "bad-v1-value-mismatch" => "field value of the record differs from its signed data",
                "bad-signatureV2" => &format!("signature of the record is not by {name}"),
                "bad-v1-only" => "record has no V2 signature",
                other => panic!("{other} is new"),
            };
            assert_eq!(error, want, "{what}");
        }
        judged += 1;
    }
    assert_eq!(judged, 9);
}

#[test]
fn our_records_are_helias_byte_for_byte() {
    let (vectors, key) = (vectors(), vector_key());
    for record in vectors["records"].as_array().expect("a list") {
        let what = text(record, "name");
        if !["v1v2-seq1", "v1v2-seq2", "dnslink-value"].contains(&what) {
            continue;
        }
        let data = RecordData {
            value: text(record, "value").as_bytes().to_vec(),
            sequence: text(record, "sequence").parse().expect("a number"),
            validity: UNIX_EPOCH + Duration::from_millis(4_920_923_045_678),
            ttl: Duration::from_nanos(text(record, "ttlNs").parse().expect("a number")),
            head: None,
        };
        let made = Record::create(&key, data).expect("a record");
        assert_eq!(HEXLOWER.encode(made.bytes()), text(record, "recordHex"), "{what}");
    }
}

#[test]
fn the_head_is_a_link_at_the_end_of_the_signed_data() {
    let with_head = Record::create(
        &key(1),
        RecordData {
            head: Some(cid(9)),
            ..data(3)
        },
    )
    .expect("a record");
    assert_eq!(with_head.head(), Some(cid(9)));
    assert_eq!(with_head.value_cid(), Some(cid(1)));
    // Text of 14 bytes, tag 42, bytes of 37, the zero byte that dag-cbor wants, the CID.
    let link = [
        b"\x6e_pacstore/head\xd8\x2a\x58\x25\x00".as_slice(),
        &cid(9).to_bytes(),
    ]
    .concat();
    assert!(
        with_head.bytes().ends_with(&link),
        "{}",
        HEXLOWER.encode(with_head.bytes())
    );
    let without = Record::create(&key(1), data(3)).expect("a record");
    assert_eq!(with_head.bytes().len(), without.bytes().len() + link.len());
    assert!(check(with_head.bytes(), &key(1).name()).is_ok());
}

#[test]
fn a_record_is_in_force_up_to_its_last_nanosecond() {
    let name = key(1).name();
    let record = Record::create(&key(1), data(1)).expect("a record");
    let end = at(NOW + 3_600);
    assert!(record.verify(&name, end).is_ok());
    let late = record.verify(&name, end + Duration::from_nanos(1)).unwrap_err();
    assert!(
        matches!(late, RecordError::Expired(time) if time == end),
        "{late:?}"
    );
    assert!(record.verify_signature(&name).is_ok());
}

#[test]
fn a_record_of_another_key_is_refused() {
    let record = Record::create(&key(1), data(1)).expect("a record");
    let error = record.verify(&key(2).name(), at(NOW)).unwrap_err();
    assert!(
        matches!(error, RecordError::Signature(name) if name == key(2).name()),
        "{error:?}"
    );
}

#[test]
fn too_large_a_record_is_neither_made_nor_read() {
    let large = RecordData {
        value: vec![b'x'; MAX_RECORD / 2],
        ..data(1)
    };
    let error = Record::create(&key(1), large).unwrap_err();
    assert!(
        matches!(error, RecordError::TooLarge(n) if n > MAX_RECORD),
        "{error:?}"
    );
    let error = Record::from_bytes(&vec![0; MAX_RECORD + 1]).unwrap_err();
    assert!(matches!(error, RecordError::TooLarge(_)), "{error:?}");
    let before_time = RecordData {
        validity: UNIX_EPOCH - Duration::from_secs(1),
        ..data(1)
    };
    let error = Record::create(&key(1), before_time).unwrap_err();
    assert!(matches!(error, RecordError::Validity), "{error:?}");
}

#[test]
fn any_flipped_bit_spoils_a_record_or_leaves_it_saying_the_same() {
    let name = key(1).name();
    let good = Record::create(
        &key(1),
        RecordData {
            head: Some(cid(9)),
            ..data(3)
        },
    )
    .expect("a record");
    for at_byte in 0..good.bytes().len() {
        let mut bytes = good.bytes().to_vec();
        bytes[at_byte] ^= 0x04;
        if let Ok(read) = check(&bytes, &name) {
            // Signature V1 proves nothing and is not looked at.
            assert_eq!(
                (read.value(), read.sequence()),
                (good.value(), good.sequence()),
                "byte {at_byte}"
            );
            assert_eq!(read.head(), good.head(), "byte {at_byte}");
        }
    }
}

#[test]
fn sequence_then_validity_then_bytes_decide() {
    let make = |data| Record::create(&key(1), data).expect("a record");
    let first = make(data(1));
    let second = make(RecordData {
        validity: at(NOW + 1),
        ..data(2)
    });
    assert_eq!(better(&second, &first), Ordering::Greater);
    let longer = make(RecordData {
        validity: at(NOW + 3_601),
        ..data(1)
    });
    assert_eq!(better(&longer, &first), Ordering::Greater);
    let other = make(RecordData {
        ttl: Duration::from_secs(61),
        ..data(1)
    });
    assert_eq!(better(&other, &first), other.bytes().cmp(first.bytes()));
    assert_eq!(better(&first, &other), better(&other, &first).reverse());
    assert_eq!(better(&first, &first.clone()), Ordering::Equal);
}

#[test]
fn records_of_rsa_keys_are_checked_too() {
    let vector: Value = serde_json::from_str(include_str!("../vectors/rsa-record.json")).expect("JSON");
    let name: IpnsName = text(&vector, "name").parse().expect("a name");
    let bytes = hex(&vector, "record");
    let record = check(&bytes, &name).expect("valid");
    assert_eq!(record.sequence(), 7);
    assert_eq!(name.ed25519_key(), None);
    assert!(name.to_string().starts_with("k2k4r8"), "{name}");

    let error = record.verify(&key(1).name(), at(NOW)).unwrap_err();
    assert!(matches!(error, RecordError::OtherKey(_)), "{error:?}");
    let ours = Record::create(&key(1), data(1)).expect("a record");
    let error = ours.verify(&name, at(NOW)).unwrap_err();
    assert!(matches!(error, RecordError::NoPublicKey), "{error:?}");
    let mut spoiled = bytes;
    let last = spoiled.len() - 20; // in the signed data
    spoiled[last] ^= 1;
    assert!(check(&spoiled, &name).is_err());
}

/// The records of the gateway conformance suite: which of them hold, their names say.
#[test]
fn records_of_the_conformance_suite_are_judged_as_their_names_say() {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/vectors/gateway-fixtures"
    ));
    if !folder.is_dir() {
        assert_ne!(
            std::env::var("PACSTORE_REQUIRE").as_deref(),
            Ok("all"),
            "{} is not there",
            folder.display()
        );
        eprintln!("skipped: the gateway conformance fixtures are not there");
        return;
    }
    let mut judged = 0;
    for file in files_below(folder) {
        let Some(stem) = file
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".ipns-record"))
        else {
            continue;
        };
        let (name, note) = stem.split_once('_').unwrap_or((stem, ""));
        let name: IpnsName = name.parse().unwrap_or_else(|error| panic!("{stem}: {error}"));
        let got = check(&std::fs::read(&file).expect("readable"), &name);
        match note {
            "" | "v2" | "v1-v2" | "v1-v2-broken-signature-v1" => {
                let record = got.unwrap_or_else(|error| panic!("{stem}: {error}"));
                assert!(record.value().starts_with(b"/ipfs/"), "{stem}");
            }
            "v1" => assert!(matches!(got, Err(RecordError::NoSignatureV2)), "{stem}: {got:?}"),
            "v1-v2-broken-signature-v2" => {
                assert!(matches!(got, Err(RecordError::Signature(_))), "{stem}: {got:?}");
            }
            "v1-v2-broken-v1-value" => {
                assert!(
                    matches!(got, Err(RecordError::Contradiction("value"))),
                    "{stem}: {got:?}"
                );
            }
            other => panic!("{other} is new"),
        }
        judged += 1;
    }
    assert_eq!(judged, 12);
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// For who knows nothing of it, it is a refresh of the same record.
#[test]
fn a_record_may_name_the_head_that_is_to_come() {
    let key = key(1);
    let mut over = data(5);
    over.head = Some(cid(2));
    let plain = Record::create(&key, over.clone()).expect("a record");
    over.validity += Duration::from_nanos(1);
    let naming = Record::announce(&key, over, cid(3)).expect("a record");
    let read = check(naming.bytes(), &key.name()).expect("it verifies");
    assert_eq!((read.head(), read.coming()), (Some(cid(2)), Some(cid(3))));
    assert_eq!((plain.coming(), read.successor()), (None, None));
    assert_eq!((plain.sequence(), plain.value()), (read.sequence(), read.value()));
    assert_eq!(better(&plain, &read), Ordering::Less, "a nanosecond is enough");
}
