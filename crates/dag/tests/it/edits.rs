//! Editing a directory gives the bytes of a build from nothing, at the cost of what changed.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use bytes::Bytes;
use dag::{
    BlockSource, Cid, EditError, Entry, HashKind, Over, Profile, ReadError, SizeEstimate, SourceError,
};
use pacstore_dag as dag;
use proptest::prelude::*;

use crate::support::{Blocks, build, custom};

type Model = BTreeMap<Vec<u8>, Entry>;

fn hash(name: &[u8]) -> u64 {
    murmur3::murmur3_x64_128(&mut &*name, 0).unwrap() as u64
}

/// Names in groups whose hashes share their first three bytes, so that shards nest and collapse.
static COLLIDING: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut groups: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
    for i in 0..120_000 {
        let name = format!("n{i}").into_bytes();
        groups.entry(hash(&name) >> 40).or_default().push(name);
    }
    let mut groups: Vec<_> = groups.into_values().filter(|group| group.len() > 1).collect();
    groups.sort();
    groups.into_iter().take(12).flatten().collect()
});

fn name(index: usize) -> Vec<u8> {
    let colliding = &*COLLIDING;
    match index.checked_sub(colliding.len()) {
        None => colliding[index].clone(),
        // Not UTF-8, and of lengths that make one and two byte varints.
        Some(rest) => [
            &[0xff, b'a' + (rest % 26) as u8][..],
            &vec![b'x'; rest * rest % 130],
        ]
        .concat(),
    }
}

fn some_entry(content: u8, tsize: u64) -> Entry {
    Entry {
        cid: dag::raw_cid(HashKind::Sha2_256, &[content]),
        tsize,
    }
}

/// The estimate as facts and specification word it, written apart from the code under test.
fn estimate(by: SizeEstimate, model: &Model) -> u64 {
    let varint = |mut n: u64| {
        let mut len = 1;
        while n > 127 {
            (n, len) = (n >> 7, len + 1);
        }
        len
    };
    let links = model.iter().map(|(name, entry)| {
        let (c, n) = (entry.cid.to_bytes().len() as u64, name.len() as u64);
        let link = 1 + varint(c) + c + 1 + varint(n) + n + 1 + varint(entry.tsize);
        match by {
            SizeEstimate::LinksBytes => c + n,
            SizeEstimate::BlockBytes => 1 + varint(link) + link,
        }
    });
    links.sum::<u64>() + if by == SizeEstimate::BlockBytes { 4 } else { 0 }
}

type Step = Vec<(usize, Option<(u8, u64)>)>;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let tsize = prop_oneof![0..200u64, 16_000..17_000u64, Just(u64::from(u32::MAX))];
    let change = prop_oneof![
        3 => (0..60usize, (any::<u8>(), tsize).prop_map(Some)),
        2 => (0..60usize, Just(None)),
    ];
    prop::collection::vec(prop::collection::vec(change, 0..25), 1..8)
}

fn apply(model: &mut Model, step: &Step) -> Vec<(Vec<u8>, Option<Entry>)> {
    let changes: Vec<_> = step
        .iter()
        .map(|(i, change)| {
            (
                name(*i),
                change.map(|(content, tsize)| some_entry(content, tsize)),
            )
        })
        .collect();
    for (name, entry) in &changes {
        match entry {
            Some(entry) => drop(model.insert(name.clone(), *entry)),
            None => drop(model.remove(name)),
        }
    }
    changes
}

/// Runs the steps one after the other and compares each state with a build from nothing.
fn check(profile: &Profile, steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut blocks, mut root, mut model) = (Blocks::new(), None, Model::new());
    let threshold = profile.parameters().threshold;
    for step in steps {
        let changes = apply(&mut model, step);
        let mut new = Blocks::new();
        let edited = dag::edit_directory(profile, root.as_ref(), changes, &blocks, &mut new).unwrap();
        prop_assert!(
            root.is_none_or(|old| old != edited.cid || new.is_empty()),
            "an old node was written again"
        );
        blocks.append(&mut new);
        let (built, _) = build(profile, model.clone());
        prop_assert_eq!(edited, built);
        prop_assert_eq!(
            dag::list(&edited.cid, &blocks).unwrap(),
            model.clone().into_iter().collect::<Vec<_>>()
        );
        let flat = dag::links(&edited.cid, &blocks[&edited.cid])
            .unwrap()
            .iter()
            .any(|link| model.contains_key(&link.name));
        let sharded = threshold.is_over(estimate(threshold.estimate, &model)) && !model.is_empty();
        prop_assert!(
            model.is_empty() || flat != sharded,
            "flat {flat}, sharded {sharded}"
        );
        root = Some(edited.cid);
    }
    Ok(())
}

fn comparisons() -> impl Strategy<Value = (SizeEstimate, Over)> {
    (
        prop_oneof![Just(SizeEstimate::LinksBytes), Just(SizeEstimate::BlockBytes)],
        prop_oneof![Just(Over::Gt), Just(Over::Ge)],
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_edits_of_a_hamt_give_the_bytes_of_a_build_from_nothing(
        steps in steps(),
        fanout in prop_oneof![Just(256usize), Just(8), Just(16), Just(1024)],
        how in comparisons(),
    ) {
        let profile = custom(|p| {
            p.fanout = fanout;
            (p.threshold.bytes, p.threshold.estimate, p.threshold.over) = (1, how.0, how.1);
        });
        check(&profile, &steps)?;
    }

    #[test]
    fn any_edits_of_a_flat_directory_give_the_bytes_of_a_build_from_nothing(steps in steps()) {
        check(&Profile::UNIXFS_V1_2025, &steps)?;
    }

    #[test]
    fn at_the_threshold_any_edits_decide_as_a_build_from_nothing(
        steps in steps(),
        how in comparisons(),
        at in any::<prop::sample::Index>(),
        shift in -1i64..=1,
        version0 in any::<bool>(),
    ) {
        // The threshold is just the size of one of the states, or a byte off.
        let (mut model, mut sizes) = (Model::new(), Vec::new());
        for step in &steps {
            apply(&mut model, step);
            sizes.push(estimate(how.0, &model));
        }
        let bytes = at.get(&sizes).saturating_add_signed(shift);
        let profile = custom(|p| {
            (p.threshold.bytes, p.threshold.estimate, p.threshold.over) = (bytes, how.0, how.1);
            if version0 {
                p.cid_version = dag::Version::V0;
            }
        });
        check(&profile, &steps)?;
    }
}

/// Counts the blocks that are read.
struct Counting<'b> {
    blocks: &'b Blocks,
    reads: Cell<usize>,
}

impl BlockSource for Counting<'_> {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>, SourceError> {
        self.reads.set(self.reads.get() + 1);
        Ok(self.blocks.get(cid).cloned())
    }
}

fn many(n: usize) -> Model {
    (0..n)
        .map(|i| {
            (
                format!("package-{i:06}-1.0-1-x86_64.pkg.tar.zst").into_bytes(),
                some_entry(i as u8, 7),
            )
        })
        .collect()
}

#[test]
fn changing_ten_of_many_entries_reads_and_writes_only_the_shards_above_them() {
    let mut model = many(20_000);
    for profile in [
        Profile::UNIXFS_V1_2025,
        Profile::KUBO_CIDV1,
        Profile::PACMAN_STORE_2023,
    ] {
        let (root, mut blocks) = build(&profile, model.clone());
        let changes: Vec<_> = model
            .iter()
            .step_by(2000)
            .map(|(name, _)| (name.clone(), Some(some_entry(0xcc, 9))))
            .collect();
        let (mut new, source) = (
            Blocks::new(),
            Counting {
                blocks: &blocks,
                reads: Cell::new(0),
            },
        );
        let edited =
            dag::edit_directory(&profile, Some(&root.cid), changes.clone(), &source, &mut new).unwrap();
        assert!(new.len() <= 1 + 10 * 2, "{} nodes written", new.len());
        assert!(source.reads.get() <= 200, "{} nodes read", source.reads.get());
        model.extend(changes.into_iter().map(|(name, entry)| (name, entry.unwrap())));
        assert_eq!(edited, build(&profile, model.clone()).0);
        blocks.append(&mut new);
        assert_eq!(dag::list(&edited.cid, &blocks).unwrap().len(), model.len());
    }
}

#[test]
fn a_hamt_that_shrinks_step_by_step_is_at_each_step_that_of_a_build_from_nothing() {
    let profile = Profile::UNIXFS_V1_2025;
    let mut model = many(4_000);
    let (mut root, mut blocks) = build(&profile, model.clone());
    let names: Vec<_> = model.keys().cloned().collect();
    let mut was_sharded = 0;
    for gone in names.chunks(250) {
        model.retain(|name, _| !gone.contains(name));
        let changes = gone.iter().map(|name| (name.clone(), None));
        let mut new = Blocks::new();
        root = dag::edit_directory(&profile, Some(&root.cid), changes, &blocks, &mut new).unwrap();
        blocks.append(&mut new);
        assert_eq!(root, build(&profile, model.clone()).0, "{} left", model.len());
        was_sharded += usize::from(dag::links(&root.cid, &blocks[&root.cid]).unwrap().len() == 256);
    }
    assert!(
        (2..14).contains(&was_sharded),
        "crossed the threshold on the way: {was_sharded}"
    );
    assert_eq!(root, dag::empty_directory(&profile).0);
}

#[test]
fn an_edit_without_effect_writes_nothing() {
    for n in [0, 10, 5000] {
        let (root, blocks) = build(&Profile::UNIXFS_V1_2025, many(n));
        let mut new = Blocks::new();
        let same = many(n)
            .into_iter()
            .step_by(7)
            .map(|(name, entry)| (name, Some(entry)));
        let changes = same.chain([(b"not there".to_vec(), None)]);
        let edited = dag::edit_directory(
            &Profile::UNIXFS_V1_2025,
            Some(&root.cid),
            changes,
            &blocks,
            &mut new,
        );
        assert_eq!(edited.unwrap(), root);
        assert_eq!(new.len(), 0, "{n} entries");
    }
}

#[test]
fn a_hamt_of_another_profile_is_rebuilt_under_the_one_asked_for() {
    let model = many(5000);
    let (old, blocks) = build(&Profile::PACMAN_STORE_2023, model.clone());
    for profile in [
        Profile::UNIXFS_V1_2025,
        custom(|p| p.fanout = 16),
        custom(|p| p.cid_version = dag::Version::V0),
    ] {
        let edited = dag::edit_directory(&profile, Some(&old.cid), [], &blocks, &mut Blocks::new()).unwrap();
        assert_eq!(edited, build(&profile, model.clone()).0);
    }
}

#[test]
fn missing_shards_are_named_and_nothing_is_written() {
    let (root, mut blocks) = build(&Profile::UNIXFS_V1_2025, many(5000));
    let root_block = blocks.remove(&root.cid).unwrap();
    let changes = || many(5000).into_keys().map(|name| (name, None));
    let missing = |blocks: &Blocks| {
        let mut new = Blocks::new();
        let error = dag::edit_directory(
            &Profile::UNIXFS_V1_2025,
            Some(&root.cid),
            changes(),
            blocks,
            &mut new,
        );
        assert_eq!(new.len(), 0);
        match error {
            Err(EditError::Read(ReadError::Missing(cids))) => cids,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(missing(&Blocks::new()), vec![root.cid]);
    let only_root = Blocks::from([(root.cid, root_block)]);
    assert_eq!(missing(&only_root).len(), 1);
}

#[test]
fn names_that_no_file_can_have_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        let change = [(name.to_vec(), Some(some_entry(1, 1)))];
        let result = dag::edit_directory(&Profile::UNIXFS_V1_2025, None, change, &(), &mut Blocks::new());
        assert!(
            matches!(result, Err(EditError::Name { .. })),
            "{name:?}: {result:?}"
        );
    }
    let longest = [(vec![0xff; 255], Some(some_entry(1, 1)))];
    dag::edit_directory(&Profile::UNIXFS_V1_2025, None, longest, &(), &mut Blocks::new()).unwrap();
}

#[test]
fn a_file_is_not_edited_as_a_directory() {
    let (_, link) = dag::symlink(&Profile::UNIXFS_V1_2025, b"target");
    let blocks = Blocks::from([(link.cid, link.data)]);
    for root in [link.cid, dag::raw_cid(HashKind::Sha2_256, b"x")] {
        let result = dag::edit_directory(
            &Profile::UNIXFS_V1_2025,
            Some(&root),
            [],
            &blocks,
            &mut Blocks::new(),
        );
        assert!(
            matches!(result, Err(EditError::Read(ReadError::NotADirectory { .. }))),
            "{result:?}"
        );
    }
}

/// A name of 32 bytes that begins with `front` and has the same murmur3 hash as every other of its kind.
fn crafted(front: [u8; 16]) -> Vec<u8> {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    const INPUT_1: u64 = 0x52dc_e729;
    const INPUT_2: u64 = 0x3849_5ab5;
    const TARGET_1: u64 = 0x0123_4567_89ab_cdef;
    const TARGET_2: u64 = 0x0fed_cba9_8765_4321;
    let inverse = |a: u64| (0..6).fold(1u64, |x, _| x.wrapping_mul(2u64.wrapping_sub(a.wrapping_mul(x))));
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let mix_1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let mix_2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let h1 = mix_1(word(&front[..8]))
        .rotate_left(27)
        .wrapping_mul(5)
        .wrapping_add(INPUT_1);
    let h2 = mix_2(word(&front[8..]))
        .rotate_left(31)
        .wrapping_add(h1)
        .wrapping_mul(5)
        .wrapping_add(INPUT_2);
    let before_1 = TARGET_1
        .wrapping_sub(INPUT_1)
        .wrapping_mul(inverse(5))
        .wrapping_sub(h2)
        .rotate_right(27)
        ^ h1;
    let before_2 = TARGET_2
        .wrapping_sub(INPUT_2)
        .wrapping_mul(inverse(5))
        .wrapping_sub(TARGET_1)
        .rotate_right(31)
        ^ h2;
    let k1 = before_1
        .wrapping_mul(inverse(C2))
        .rotate_right(31)
        .wrapping_mul(inverse(C1));
    let k2 = before_2
        .wrapping_mul(inverse(C1))
        .rotate_right(33)
        .wrapping_mul(inverse(C2));
    [&front[..], &k1.to_le_bytes(), &k2.to_le_bytes()].concat()
}

#[test]
fn names_that_collide_in_all_64_bits_are_an_error_not_an_endless_descent() {
    let mut names = (0..).map(|i| crafted(format!("collision-{i:06}").into_bytes().try_into().unwrap()));
    let mut next = || {
        names
            .find(|name| !name.iter().any(|byte| matches!(byte, 0 | b'/')))
            .unwrap()
    };
    let (a, b) = (next(), next());
    assert_eq!(hash(&a), hash(&b));
    let profile = custom(|p| p.threshold.bytes = 1);
    let change = |name: &Vec<u8>| (name.clone(), Some(some_entry(1, 1)));
    let result = dag::edit_directory(&profile, None, [change(&a), change(&b)], &(), &mut Blocks::new());
    assert!(
        matches!(result, Err(EditError::HashCollision { .. })),
        "{result:?}"
    );
    let (root, blocks) = build(&profile, [(a.clone(), some_entry(1, 1))]);
    let result = dag::edit_directory(
        &profile,
        Some(&root.cid),
        [change(&b)],
        &blocks,
        &mut Blocks::new(),
    );
    assert!(
        matches!(result, Err(EditError::HashCollision { .. })),
        "{result:?}"
    );
    // One for the other is no collision.
    let swap = [(a, None), change(&b)];
    let edited = dag::edit_directory(&profile, Some(&root.cid), swap, &blocks, &mut Blocks::new()).unwrap();
    assert_eq!(edited, build(&profile, [(b, some_entry(1, 1))]).0);
}
