//! Following paths through flat and sharded directories.

use dag::{Change, Cid, Entry, HashKind, Kind, Profile, ReadError};
use pacstore_dag as dag;

use crate::support::{Blocks, custom, store_file};

fn sample(profile: &Profile) -> (Cid, Blocks) {
    let mut blocks = Blocks::new();
    let small = store_file(profile, b"small", &mut blocks);
    let large = store_file(profile, &vec![7; 3_000_000], &mut blocks);
    let (link, block) = dag::symlink(profile, b"../core");
    blocks.insert(link.cid, block.data);
    let cbor = Entry {
        cid: dag::cid_of(dag::DAG_CBOR, HashKind::Sha2_256, b"\xa0"),
        tsize: 1,
    };
    let set = |path: &str, entry| (path.as_bytes().to_vec(), Change::Set(entry));
    let mut changes = vec![
        set("core/os/small", small),
        set("core/os/large", large),
        set("core/link", link),
        set("core/cbor", cbor),
        (b"empty".to_vec(), Change::EmptyDir),
        (b"core/\xff\xfe not utf-8".to_vec(), Change::Set(small)),
    ];
    changes.extend((0..500).map(|i| set(&format!("core/os/file {i}"), small)));
    let root = dag::edit_tree(profile, None, changes, &(), &mut blocks)
        .unwrap()
        .root;
    (root.cid, blocks)
}

fn profiles() -> [Profile; 4] {
    [
        Profile::UNIXFS_V1_2025,
        custom(|p| p.threshold.bytes = 1),
        custom(|p| (p.threshold.bytes, p.fanout) = (1, 8)),
        custom(|p| (p.threshold.bytes, p.cid_version, p.raw_leaves) = (1, dag::Version::V0, false)),
    ]
}

#[test]
fn paths_lead_to_files_directories_and_back_through_their_roots() {
    for profile in &profiles() {
        let (root, blocks) = sample(profile);
        let at = |path: &[&[u8]]| dag::resolve(&root, path, &blocks).unwrap();
        assert_eq!(
            (at(&[]).cid, at(&[]).kind, at(&[]).roots),
            (root, Kind::Directory, vec![root])
        );
        assert_eq!(at(&[b"empty"]).kind, Kind::Directory);
        assert_eq!(
            at(&[b"core", b"os", b"large"]).kind,
            Kind::File { len: 3_000_000 }
        );
        let small = at(&[b"core", b"os", b"small"]);
        let raw = profile.parameters().raw_leaves;
        assert_eq!(small.kind, if raw { Kind::Raw } else { Kind::File { len: 5 } });
        assert_eq!(
            small.roots,
            [root, at(&[b"core"]).cid, at(&[b"core", b"os"]).cid, small.cid]
        );
        assert_eq!(at(&[b"core", b"\xff\xfe not utf-8"]).cid, small.cid);
        for i in 0..500 {
            assert_eq!(
                at(&[b"core", b"os", format!("file {i}").as_bytes()]).cid,
                small.cid
            );
        }
        assert_eq!(small.rest, Vec::<Vec<u8>>::new());
    }
}

#[test]
fn what_does_not_exist_is_named_by_its_segment() {
    for profile in &profiles() {
        let (root, blocks) = sample(profile);
        let at = |path: &[&[u8]]| dag::resolve(&root, path, &blocks).unwrap_err();
        for (path, missing) in [
            (&[&b"other"[..]][..], 0),
            (&[b"core", b"os2", b"x"], 1),
            (&[b"core", b"os", b"file 500"], 2),
            (&[b"core", b""], 1),
            (&[b"core", b".."], 1),
            (&[b"empty", b"x"], 1),
        ] {
            assert!(
                matches!(at(path), ReadError::NotFound { segment } if segment == missing),
                "{path:?}"
            );
        }
        let below = at(&[b"core", b"os", b"small", b"x"]);
        assert!(
            matches!(below, ReadError::NotADirectory { segment: 3, .. }),
            "{below:?}"
        );
        let below = at(&[b"core", b"os", b"large", b"x"]);
        assert!(
            matches!(below, ReadError::NotADirectory { segment: 3, .. }),
            "{below:?}"
        );
    }
}

#[test]
fn symlinks_and_foreign_blocks_end_the_path_with_the_rest_reported() {
    let (root, blocks) = sample(&Profile::UNIXFS_V1_2025);
    let at = |path: &[&[u8]]| dag::resolve(&root, path, &blocks).unwrap();
    let end = at(&[b"core", b"link"]);
    assert_eq!(
        (end.kind, end.rest.len()),
        (Kind::Symlink(b"../core".to_vec()), 0)
    );
    let through = at(&[b"core", b"link", b"os", b"small"]);
    assert_eq!(through.kind, Kind::Symlink(b"../core".to_vec()));
    assert_eq!(through.rest, [b"os".to_vec(), b"small".to_vec()]);
    assert_eq!(through.roots.last(), Some(&through.cid));
    let cbor = at(&[b"core", b"cbor", b"key"]);
    assert_eq!(
        (cbor.kind, cbor.rest),
        (Kind::Other { codec: dag::DAG_CBOR }, vec![b"key".to_vec()])
    );
}

#[test]
fn missing_nodes_are_named_one_after_the_other_down_the_path() {
    let (root, all) = sample(&custom(|p| p.threshold.bytes = 1));
    let mut here = Blocks::new();
    let path: [&[u8]; 3] = [b"core", b"os", b"file 123"];
    let mut rounds = 0;
    let found = loop {
        match dag::resolve(&root, &path, &here) {
            Err(ReadError::Missing(cids)) => {
                assert_eq!(cids.len(), 1);
                here.extend(cids.into_iter().map(|cid| (cid, all[&cid].clone())));
                rounds += 1;
            }
            done => break done.unwrap(),
        }
    };
    assert_eq!(found.kind, Kind::Raw);
    assert!((3..=5).contains(&rounds), "{rounds}");
}

#[test]
fn listing_names_all_missing_shards_at_once() {
    let (root, all) = sample(&custom(|p| p.threshold.bytes = 1));
    let os = dag::resolve(&root, &[b"core", b"os"], &all).unwrap().cid;
    let mut here = Blocks::from([(os, all[&os].clone())]);
    let Err(ReadError::Missing(cids)) = dag::list(&os, &here) else {
        panic!("shards are missing")
    };
    assert!(cids.len() > 50, "{}", cids.len());
    here.extend(cids.into_iter().map(|cid| (cid, all[&cid].clone())));
    while let Err(ReadError::Missing(cids)) = dag::list(&os, &here) {
        here.extend(cids.into_iter().map(|cid| (cid, all[&cid].clone())));
    }
    assert_eq!(dag::list(&os, &here).unwrap().len(), 502);
}
