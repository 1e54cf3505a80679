//! Targets of crate `names`: records, heads, and the texts in which names stand.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

use pacstore_dag::{HashKind, raw_cid};
use pacstore_names::{
    Counts, Head, IpnsName, Layout, MirrorName, Record, RecordData, RepoState, Repository, SigningKey,
    better, parse_dnslink, parse_request_path,
};

fn key() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

/// An IPNS record: one that is not ours byte for byte does not verify under our name.
pub(crate) fn record(bytes: &[u8]) {
    let Ok(record) = Record::from_bytes(bytes) else {
        return;
    };
    assert_eq!(record.bytes().as_ref(), bytes, "a record is passed on as it came");
    assert_eq!(better(&record, &record), Ordering::Equal);
    let _ = (record.value_cid(), record.head(), record.ttl(), record.sequence());
    if record.verify_signature(&key().name()).is_ok() {
        let ours = Record::from_bytes(&record_seed()).expect("a record of ours");
        assert_eq!(
            (
                record.value(),
                record.sequence(),
                record.validity(),
                record.head()
            ),
            (ours.value(), ours.sequence(), ours.validity(), ours.head()),
            "what we did not sign verifies as ours"
        );
    }
}

fn record_seed() -> Vec<u8> {
    let tree = raw_cid(HashKind::Sha2_256, b"tree");
    let data = RecordData {
        value: format!("/ipfs/{tree}").into_bytes(),
        sequence: 3,
        validity: SystemTime::UNIX_EPOCH + Duration::from_hours(500_000),
        ttl: Duration::from_mins(5),
        head: Some(tree),
    };
    Record::create(&key(), data)
        .expect("a good record")
        .bytes()
        .to_vec()
}

/// One record of ours.
pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    vec![record_seed()]
}

/// A head: what is read is written and read as the same.
pub(crate) fn head(bytes: &[u8]) {
    let Ok(head) = Head::decode(bytes) else {
        return;
    };
    if let Ok((cid, again)) = head.encode() {
        assert_eq!(cid, Head::cid_of(&again));
        assert_eq!(Head::decode(&again).ok().as_ref(), Some(&sorted(head.clone())));
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
    let _ = (
        head.age(now),
        head.checked(),
        head.upstream_time(),
        head.max_age(),
    );
    let _ = head.state_at(now, Duration::from_hours(6));
}

/// As a head is encoded: repositories by folder, then name.
fn sorted(mut head: Head) -> Head {
    head.repositories
        .sort_by(|a, b| (&a.folder, &a.name).cmp(&(&b.folder, &b.name)));
    head
}

/// A head of two repositories.
pub(crate) fn head_seeds() -> Vec<Vec<u8>> {
    let repository = |name: &str| Repository {
        name: name.to_owned(),
        folder: format!("{name}/os/x86_64"),
        arch: vec!["x86_64".parse().expect("an architecture")],
        upstream_time: 1_700_000_000,
        checked: 1_700_000_100,
        db_time: 1_700_000_000,
        files_time: Some(1_700_000_000),
        state: RepoState::Torn,
        detail: Some("a file is missing".to_owned()),
    };
    let head = Head {
        mirror: "x86-64.archlinux.pkg.pacman.store".parse().expect("a name"),
        tree: raw_cid(HashKind::Sha2_256, b"tree"),
        profile: "unixfs-v1-2025".to_owned(),
        layout: Layout::Archlinux,
        public: true,
        max_age_s: 86_400,
        sequence: 12,
        previous: Some(raw_cid(HashKind::Sha2_256, b"before")),
        counts: Counts { files: 2, bytes: 3 },
        tree_times: None,
        repositories: vec![repository("core"), repository("extra")],
    };
    vec![head.encode().expect("a good head").1]
}

/// Request paths, DNSLink texts, mirror names, keys.
pub(crate) fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(path) = parse_request_path(&text) {
        for name in &path.segments {
            assert!(!name.is_empty() && name != b"." && name != b"..", "{name:?}");
            assert!(!name.contains(&b'/') && !name.contains(&0), "{name:?}");
        }
    }
    let _ = parse_dnslink(text.lines());
    if let Ok(name) = text.parse::<MirrorName>() {
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
        if let Some(label) = name.label() {
            assert_eq!(MirrorName::from_label(&label), Ok(name));
        }
    }
    let _ = MirrorName::of_host(&text);
    if let Ok(name) = text.parse::<IpnsName>() {
        assert_eq!(name.to_string().parse::<IpnsName>().ok(), Some(name));
    }
}

/// One of each.
pub(crate) fn text_seeds() -> Vec<Vec<u8>> {
    let key = key().name();
    [
        "/ipns/x86-64.archlinux.pkg.pacman.store/core/os/x86_64/a%2Bb-1%3A2-1-any.pkg.tar.zst".to_owned(),
        format!("v=spf1 -all\ndnslink=/ipns/{key}/core"),
        "x86-64.archlinux.pkg.pacman.store".to_owned(),
        "x86--64-archlinux-pkg-pacman-store.ipns.localhost".to_owned(),
        key.to_string(),
    ]
    .map(String::into_bytes)
    .into()
}
