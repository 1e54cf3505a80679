//! Makes keys, heads and signed heads for the other tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pacstore_names::{
    Cid, Counts, Head, Layout, Record, RecordData, RepoState, Repository, Signed, SigningKey,
};

/// 2027-01-15T08:00:00Z.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

/// Some CID, different for each `n`.
pub(crate) fn cid(n: u64) -> Cid {
    Head::cid_of(&n.to_be_bytes())
}

pub(crate) fn repository(name: &str) -> Repository {
    Repository {
        name: name.to_owned(),
        folder: format!("{name}/os/x86_64"),
        arch: vec!["x86_64".parse().expect("an architecture")],
        upstream_time: NOW - 7_200,
        checked: NOW - 60,
        db_time: NOW - 7_200,
        files_time: Some(NOW - 7_100),
        state: RepoState::Whole,
        detail: None,
    }
}

pub(crate) fn head() -> Head {
    Head {
        mirror: "x86-64.archlinux.pkg.pacman.store".parse().expect("a name"),
        tree: cid(1),
        profile: "unixfs-v1-2025".to_owned(),
        layout: Layout::Archlinux,
        public: true,
        max_age_s: 86_400,
        sequence: 12,
        previous: Some(cid(2)),
        counts: Counts {
            files: 31_000,
            bytes: 120_000_000_000,
        },
        tree_times: None,
        repositories: vec![repository("core"), repository("extra")],
    }
}

/// A head signed by key `n` over tree `tree`.
pub(crate) fn signed(n: u8, sequence: u64, tree: u64, upstream_time: u64, checked: u64) -> Signed {
    let mut new = head();
    new.tree = cid(tree);
    new.sequence = sequence;
    for repository in &mut new.repositories {
        repository.upstream_time = upstream_time;
        repository.checked = checked;
    }
    sign(n, sequence, &new)
}

pub(crate) fn sign(n: u8, sequence: u64, head: &Head) -> Signed {
    let (head_cid, bytes) = head.encode().expect("a good head");
    let data = RecordData {
        value: format!("/ipfs/{}", head.tree).into_bytes(),
        sequence,
        validity: at(NOW + 48 * 3_600),
        ttl: Duration::from_mins(5),
        head: Some(head_cid),
    };
    let record = Record::create(&key(n), data).expect("a good record");
    Signed::verify(key(n).name(), record, &bytes, at(NOW)).expect("what we signed verifies")
}
