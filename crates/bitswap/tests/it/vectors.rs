//! The wire format against messages that Helia made, and against noise.

use bytes::Bytes;
use cid::Cid;
use pacstore_bitswap::wire::{Builder, Entry, Field, Fields, Prefix, WantKind};
use proptest::prelude::*;

/// Made by @helia/bitswap 4.0.19 on node v20.20.2: name and protobuf body.
const MESSAGES: [(&str, &str); 7] = [
    (
        "want-have raw",
        "0a320a2e0a2401551220b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde910051800200128011000",
    ),
    (
        "want-block blake2b",
        "0a340a300a260170a0e402206862d269447d0413e07bbb23be38dea34b151ff6a9898fa6dd34657e6f909a3810011800200028011000",
    ),
    (
        "cancel v0",
        "0a2e0a2a0a22122059948439065f29619ef41280cbb932be52c56d99c5966b65e0111239f098bbef1801200028001000",
    ),
    (
        "full wantlist",
        "0a640a2e0a2401551220b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde910021800200028000a300a260170a0e402206862d269447d0413e07bbb23be38dea34b151ff6a9898fa6dd34657e6f909a3810011800200128011001",
    ),
    ("block raw", "1a130a0401551220120b68656c6c6f20776f726c64"),
    ("block dag-pb blake2b", "1a0e0a060170a0e4022012040a020801"),
    (
        "presences",
        "22260a2401551220b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9222a0a260170a0e402206862d269447d0413e07bbb23be38dea34b151ff6a9898fa6dd34657e6f909a381001284d",
    ),
];

fn read(hex: &str) -> Vec<Field> {
    let body = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
    Fields::new(Bytes::from(body)).collect::<Result<_, _>>().unwrap()
}

fn cid(text: &str) -> Cid {
    text.parse().unwrap()
}

fn entry(cid: Cid, priority: i32, kind: WantKind, send_dont_have: bool) -> Field {
    Field::Entry(Entry {
        cid,
        priority,
        cancel: false,
        kind,
        send_dont_have,
    })
}

/// Helia's messages mean what their names say.
#[test]
fn helias_messages_are_understood() {
    let raw = cid("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
    let pb = cid("bafykbzacebugfutjir6qie7apo5shpry32ruwfi762uytd5g3u2gk7tpscndq");
    let v0 = cid("QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn");
    let blake = Prefix {
        version: 1,
        codec: 0x70,
        hash: 0xb220,
        len: 32,
    };
    let sha = Prefix {
        version: 1,
        codec: 0x55,
        hash: 0x12,
        len: 32,
    };
    let cancel = Entry {
        cid: v0,
        priority: 0,
        cancel: true,
        kind: WantKind::Block,
        send_dont_have: false,
    };
    let expected = [
        vec![entry(raw, 5, WantKind::Have, true)],
        vec![entry(pb, 1, WantKind::Block, true)],
        vec![Field::Entry(cancel)],
        vec![
            Field::Full,
            entry(raw, 2, WantKind::Block, false),
            entry(pb, 1, WantKind::Have, true),
        ],
        vec![Field::Block(sha, Bytes::from_static(b"hello world"))],
        vec![Field::Block(blake, Bytes::from_static(&[0x0a, 2, 8, 1]))],
        vec![
            Field::Presence(raw, true),
            Field::Presence(pb, false),
            Field::PendingBytes(77),
        ],
    ];
    for ((name, hex), expected) in MESSAGES.iter().zip(expected) {
        assert_eq!(read(hex), expected, "{name}");
    }
}

/// What we write of the same content is read back the same, and blocks are the same bytes as Helia's.
#[test]
fn what_we_write_says_what_helia_said() {
    for (name, hex) in MESSAGES {
        let fields = read(hex);
        let mut out = Builder::new(Vec::new());
        let entries: Vec<_> = fields
            .iter()
            .filter_map(|f| {
                if let Field::Entry(e) = f {
                    Some(e.clone())
                } else {
                    None
                }
            })
            .collect();
        if !entries.is_empty() {
            out.wantlist(entries.iter(), fields.contains(&Field::Full));
        }
        for field in &fields {
            match field {
                Field::Block(prefix, data) => {
                    let hash = pacstore_dag::HashKind::from_code(prefix.hash).unwrap();
                    let cid = pacstore_dag::cid_of(prefix.codec, hash, data);
                    let put = |to: &mut Vec<u8>| {
                        to.extend_from_slice(data);
                        true
                    };
                    assert!(out.block(&cid, data.len() as u64, put));
                }
                Field::Presence(cid, have) => out.presence(cid, *have),
                _ => {}
            }
        }
        let (buffer, start) = out.finish();
        let (len, body) = unsigned_varint::decode::usize(&buffer[start..]).unwrap();
        assert_eq!(len, body.len(), "{name}");
        let ours = data_encoding::HEXLOWER.encode(body);
        let said: Vec<_> = fields
            .into_iter()
            .filter(|f| !matches!(f, Field::PendingBytes(_)))
            .collect();
        assert_eq!(read(&ours), said, "{name}");
        if name.starts_with("block") {
            assert_eq!(ours, hex, "{name}");
        }
    }
}

/// The messages above are those of the shared vectors.
#[test]
fn the_messages_are_those_of_the_shared_vectors() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/vectors/bitswap-vectors.json"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        assert_ne!(
            std::env::var("PACSTORE_REQUIRE").as_deref(),
            Ok("all"),
            "{path} is not there"
        );
        eprintln!("skipped: {path} is not there");
        return;
    };
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let theirs: Vec<_> = json["messages"]
        .as_object()
        .unwrap()
        .values()
        .map(|hex| hex.as_str().unwrap())
        .collect();
    assert_eq!(theirs.len(), MESSAGES.len());
    for (name, hex) in MESSAGES {
        assert!(theirs.contains(&hex), "{name}");
    }
}

/// A block whose bytes cannot be read leaves no trace in the message.
#[test]
fn a_block_that_cannot_be_read_is_left_out() {
    let cid = cid("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
    let mut out = Builder::new(vec![9; 100]);
    assert!(!out.block(&cid, 3, |to| {
        to.extend_from_slice(b"ab");
        true
    }));
    assert!(!out.block(&cid, 3, |_| false));
    assert!(out.is_empty());
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (
        any::<u64>(),
        any::<i32>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let one = one.prop_map(|(n, priority, cancel, have, send_dont_have)| Entry {
        cid: pacstore_dag::raw_cid(pacstore_dag::HashKind::Sha2_256, &n.to_le_bytes()),
        priority,
        cancel,
        kind: if have { WantKind::Have } else { WantKind::Block },
        send_dont_have,
    });
    prop::collection::vec(one, 0..20)
}

proptest! {
    /// Any bytes give fields or one error, and end.
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let len = bytes.len();
        let fields: Vec<_> = Fields::new(Bytes::from(bytes)).collect();
        prop_assert!(fields.len() <= len + 1);
        prop_assert!(fields.iter().filter(|f| f.is_err()).count() <= 1);
    }

    /// A good message with a few bytes changed does not make it panic either.
    #[test]
    fn no_damage_makes_the_reader_panic(which in 0..MESSAGES.len(), damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let mut body = data_encoding::HEXLOWER.decode(MESSAGES[which].1.as_bytes()).unwrap();
        for (at, byte) in damage {
            let at = at % body.len();
            body[at] = byte;
        }
        prop_assert!(Fields::new(Bytes::from(body)).count() < 100);
    }

    /// Wantlists come back as they were written.
    #[test]
    fn wantlists_come_back_as_written(entries in entries(), full in any::<bool>()) {
        let mut out = Builder::new(Vec::new());
        out.wantlist(entries.iter(), full);
        let (buffer, start) = out.finish();
        let (_, body) = unsigned_varint::decode::usize(&buffer[start..]).unwrap();
        let fields: Vec<_> = Fields::new(Bytes::copy_from_slice(body)).collect::<Result<_, _>>().unwrap();
        let mut expected: Vec<_> = entries.into_iter().map(Field::Entry).collect();
        if full {
            expected.insert(0, Field::Full);
        }
        prop_assert_eq!(fields, expected);
    }
}
