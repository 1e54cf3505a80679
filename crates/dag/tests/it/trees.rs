//! Editing a tree by paths gives the tree of a build from nothing.

use std::collections::{BTreeMap, BTreeSet};

use dag::{Change, EditError, Entry, HashKind, Profile, ReadError};
use pacstore_dag as dag;
use proptest::prelude::*;

use crate::support::{Blocks, custom};

const P: &Profile = &Profile::UNIXFS_V1_2025;

fn some_entry(content: u8) -> Entry {
    Entry {
        cid: dag::raw_cid(HashKind::Sha2_256, &[content]),
        tsize: 1,
    }
}

fn set(path: &str, content: u8) -> (Vec<u8>, Change) {
    (path.into(), Change::Set(some_entry(content)))
}

fn tree(
    root: Option<&Entry>,
    blocks: &mut Blocks,
    changes: Vec<(Vec<u8>, Change)>,
) -> Result<Entry, EditError> {
    let mut new = Blocks::new();
    let edit = dag::edit_tree(P, root.map(|root| &root.cid), changes, blocks, &mut new)?;
    blocks.append(&mut new);
    Ok(edit.root)
}

fn paths(root: &Entry, blocks: &Blocks) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![(String::new(), root.cid)];
    while let Some((path, cid)) = todo.pop() {
        for (name, entry) in dag::list(&cid, blocks).unwrap() {
            let path = format!("{path}/{}", String::from_utf8(name).unwrap());
            if entry.cid.codec() == dag::DAG_PB {
                todo.push((path.clone(), entry.cid));
                all.push(path + "/");
            } else {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn directories_come_with_their_first_entry_and_go_with_their_last() {
    let mut blocks = Blocks::new();
    let root = tree(
        None,
        &mut blocks,
        vec![set("a/b/c", 1), set("a/d", 2), set("e", 3)],
    )
    .unwrap();
    assert_eq!(paths(&root, &blocks), ["/a/", "/a/b/", "/a/b/c", "/a/d", "/e"]);
    let root = tree(
        Some(&root),
        &mut blocks,
        vec![(b"a/b/c".to_vec(), Change::Remove)],
    )
    .unwrap();
    assert_eq!(paths(&root, &blocks), ["/a/", "/a/d", "/e"]);
    let gone = vec![(b"a/d".to_vec(), Change::Remove), (b"e".to_vec(), Change::Remove)];
    let root = tree(Some(&root), &mut blocks, gone).unwrap();
    assert_eq!(root, dag::empty_directory(P).0);
}

#[test]
fn a_directory_set_as_empty_stays_when_its_last_entry_goes() {
    let mut blocks = Blocks::new();
    let keep = |path: &str| (path.as_bytes().to_vec(), Change::EmptyDir);
    let root = tree(None, &mut blocks, vec![set("a/b/c", 1), keep("x/y")]).unwrap();
    assert_eq!(paths(&root, &blocks), ["/a/", "/a/b/", "/a/b/c", "/x/", "/x/y/"]);
    let changes = vec![(b"a/b/c".to_vec(), Change::Remove), keep("a/b"), keep("x")];
    let root = tree(Some(&root), &mut blocks, changes).unwrap();
    assert_eq!(paths(&root, &blocks), ["/a/", "/a/b/", "/x/", "/x/y/"]);
    // One that was empty before is not touched by a removal of what it never had.
    let root = tree(
        Some(&root),
        &mut blocks,
        vec![(b"x/y/z".to_vec(), Change::Remove)],
    )
    .unwrap();
    assert_eq!(paths(&root, &blocks), ["/a/", "/a/b/", "/x/", "/x/y/"]);
}

#[test]
fn a_file_turns_into_a_directory_and_back_in_one_edit() {
    let mut blocks = Blocks::new();
    let root = tree(None, &mut blocks, vec![set("a", 1)]).unwrap();
    let refused = tree(Some(&root), &mut blocks, vec![set("a/b", 2)]);
    assert!(
        matches!(refused, Err(EditError::NotADirectory { ref path }) if path == b"a"),
        "{refused:?}"
    );
    let changes = vec![set("a/b", 2), (b"a".to_vec(), Change::Remove)];
    let root = tree(Some(&root), &mut blocks, changes).unwrap();
    assert_eq!(paths(&root, &blocks), ["/a/", "/a/b"]);
    let changes = vec![(b"a/b".to_vec(), Change::Remove), set("a", 1)];
    let root = tree(Some(&root), &mut blocks, changes).unwrap();
    assert_eq!(paths(&root, &blocks), ["/a"]);
    let conflict = tree(Some(&root), &mut blocks, vec![set("q", 1), set("q/b", 2)]);
    assert!(
        matches!(conflict, Err(EditError::Conflict { ref path }) if path == b"q"),
        "{conflict:?}"
    );
}

#[test]
fn untouched_directories_are_neither_read_nor_written() {
    let mut blocks = Blocks::new();
    let changes: Vec<_> = (0..50).map(|i| set(&format!("d{i}/f"), i)).collect();
    let root = tree(None, &mut blocks, changes).unwrap();
    let seven = dag::resolve(&root.cid, &[b"d7"], &blocks).unwrap().cid;
    let mut few = Blocks::from([
        (root.cid, blocks[&root.cid].clone()),
        (seven, blocks[&seven].clone()),
    ]);
    let edit = dag::edit_tree(P, Some(&root.cid), [set("d7/f", 99)], &few, &mut blocks).unwrap();
    assert_eq!(edit.new_nodes, 2);
    few.clear();
    let missing = dag::edit_tree(P, Some(&root.cid), [set("d7/f", 99)], &few, &mut blocks);
    assert!(matches!(missing, Err(EditError::Read(ReadError::Missing(ref cids))) if *cids == [root.cid]));
}

#[test]
fn bad_paths_are_refused() {
    for path in ["", "/a", "a/", "a//b", "a/../b", "./a", "a\0"] {
        let result = tree(None, &mut Blocks::new(), vec![set(path, 1)]);
        assert!(
            matches!(result, Err(EditError::Name { .. })),
            "{path:?}: {result:?}"
        );
    }
    let deepest = vec!["d"; dag::MAX_TREE_DEPTH].join("/");
    tree(None, &mut Blocks::new(), vec![set(&deepest, 1)]).unwrap();
    let result = tree(None, &mut Blocks::new(), vec![set(&(deepest + "/x"), 1)]);
    assert!(matches!(result, Err(EditError::TooDeep { .. })), "{result:?}");
}

/// Files at random paths; a path that is a folder of another is left out.
fn states() -> impl Strategy<Value = Vec<BTreeMap<String, u8>>> {
    let path = prop::collection::vec("[abc]|f[0-9]", 1..4).prop_map(|parts| parts.join("/"));
    let state = prop::collection::btree_map(path, any::<u8>(), 0..30).prop_map(|mut state| {
        let paths: Vec<String> = state.keys().cloned().collect();
        state.retain(|path, _| !paths.iter().any(|other| other.starts_with(&format!("{path}/"))));
        state
    });
    prop::collection::vec(state, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_way_from_state_to_state_gives_the_tree_of_a_build_from_nothing(
        states in states(),
        threshold in prop_oneof![Just(1u64), Just(150), Just(262_144)],
    ) {
        let profile = custom(|p| p.threshold.bytes = threshold);
        let mut blocks = Blocks::new();
        let mut old: BTreeMap<String, u8> = BTreeMap::new();
        let mut root = None;
        for new in states {
            let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let changed = paths.into_iter().filter(|path| old.get(*path) != new.get(*path));
            let changes: Vec<_> = changed
                .map(|path| match new.get(path) {
                    Some(content) => set(path, *content),
                    None => (path.clone().into_bytes(), Change::Remove),
                })
                .collect();
            let mut fresh = Blocks::new();
            let edited = dag::edit_tree(&profile, root.as_ref(), changes, &blocks, &mut fresh).unwrap().root;
            blocks.append(&mut fresh);
            let all = new.iter().map(|(path, content)| set(path, *content));
            let built = dag::edit_tree(&profile, None, all, &(), &mut fresh).unwrap().root;
            prop_assert_eq!(edited, built);
            root = Some(edited.cid);
            old = new;
        }
    }
}
