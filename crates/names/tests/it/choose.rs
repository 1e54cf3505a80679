//! The choice between heads: cases of design.md, and its promises on random histories.

use std::time::Duration;

use pacstore_names::{Choice, IpnsName, Record, RecordData, Rejection, Seen, Signed, SignedError, choose};
use proptest::prelude::*;

use crate::heads::{NOW, at, cid, head, key, sign, signed};

fn keys() -> Vec<IpnsName> {
    (0..3).map(|n| key(n).name()).collect()
}

/// Chooses, checks the promises that hold for every call, and hands the result on.
fn step(candidates: &[Signed], quorum: usize, seen: &Seen) -> Choice {
    let choice = choose(candidates, &keys(), quorum, seen);
    let again = choose(candidates, &keys(), quorum, &choice.seen);
    assert_eq!(
        (again.pick, &again.seen),
        (None, &choice.seen),
        "choosing again changes nothing"
    );
    assert_eq!(
        Seen::from_bytes(&choice.seen.to_bytes()).expect("what we wrote"),
        choice.seen
    );
    choice
}

fn tree_of(seen: &Seen) -> Option<u64> {
    let current = seen.current.as_ref()?;
    (0..100).find(|n| cid(*n) == current.tree)
}

#[test]
fn the_first_valid_head_is_taken() {
    let choice = step(&[signed(0, 5, 1, 100, 100)], 1, &Seen::default());
    assert_eq!(choice.pick, Some(0));
    let current = choice.seen.current.expect("one");
    assert_eq!(
        (current.key, current.sequence, current.tree),
        (key(0).name(), 5, cid(1))
    );
    assert_eq!(
        (current.upstream_time, current.checked, current.fell_back),
        (100, 100, false)
    );
}

#[test]
fn heads_of_strangers_do_not_count() {
    let choice = step(&[signed(7, 5, 1, 100, 100)], 1, &Seen::default());
    assert_eq!((choice.pick, choice.most_votes), (None, 0));
    assert_eq!(choice.rejected, [(0, Rejection::Untrusted)]);
    assert_eq!(choice.seen, Seen::default());
}

#[test]
fn between_keys_upstream_time_then_checked_then_the_tree_decides() {
    let pick = |candidates: &[Signed]| step(candidates, 1, &Seen::default()).pick;
    assert_eq!(
        pick(&[signed(0, 90, 1, 100, 999), signed(1, 1, 2, 101, 1)]),
        Some(1)
    );
    assert_eq!(
        pick(&[signed(0, 90, 1, 100, 7), signed(1, 1, 2, 100, 8)]),
        Some(1)
    );
    let higher = usize::from(cid(2) > cid(1));
    assert_eq!(
        pick(&[signed(0, 90, 1, 100, 7), signed(1, 1, 2, 100, 7)]),
        Some(higher)
    );
}

#[test]
fn a_quorum_of_two_waits_for_two_keys_on_one_tree() {
    let (a, b, c) = (
        signed(0, 1, 1, 100, 100),
        signed(1, 1, 1, 90, 90),
        signed(2, 1, 2, 200, 200),
    );
    let alone = step(std::slice::from_ref(&a), 2, &Seen::default());
    assert_eq!((alone.pick, alone.most_votes), (None, 1));
    let apart = step(&[a.clone(), c.clone()], 2, &alone.seen);
    assert_eq!((apart.pick, apart.most_votes), (None, 1));
    let together = step(&[c, b, a], 2, &apart.seen);
    assert_eq!((together.pick, together.most_votes), (Some(2), 2));
    assert_eq!(tree_of(&together.seen), Some(1));
}

#[test]
fn an_older_record_of_a_key_never_counts_again() {
    let old = signed(0, 5, 1, 100, 100);
    let first = step(&[signed(0, 6, 2, 200, 200)], 1, &Seen::default());
    let second = step(std::slice::from_ref(&old), 1, &first.seen);
    assert_eq!(
        (second.pick, second.rejected),
        (None, vec![(0, Rejection::Older(6))])
    );
    assert_eq!(tree_of(&second.seen), Some(2));
    // Also where it was seen, but not accepted.
    let seen_only = step(&[signed(0, 6, 2, 200, 200)], 2, &Seen::default());
    assert_eq!(step(&[old], 1, &seen_only.seen).pick, None);
}

#[test]
fn an_own_newer_head_replaces_an_older_one_even_back_in_time() {
    let first = step(&[signed(0, 5, 1, 200, 200)], 1, &Seen::default());
    let second = step(&[signed(0, 6, 2, 100, 100)], 1, &first.seen);
    assert_eq!(second.pick, Some(0));
    assert!(
        second
            .seen
            .current
            .as_ref()
            .is_some_and(|current| current.fell_back)
    );
    let third = step(&[signed(0, 7, 3, 101, 300)], 1, &second.seen);
    assert!(third.seen.current.is_some_and(|current| !current.fell_back));
}

#[test]
fn another_key_never_leads_back_in_time() {
    let first = step(&[signed(0, 5, 1, 200, 200)], 1, &Seen::default());
    // The first importer's record has expired and is not among the candidates.
    let second = step(&[signed(1, 90, 2, 199, 900)], 1, &first.seen);
    assert_eq!(second.pick, None);
    assert_eq!(tree_of(&second.seen), Some(1));
    let third = step(&[signed(1, 91, 3, 201, 201)], 1, &second.seen);
    assert_eq!(third.pick, Some(0));
}

#[test]
fn others_who_still_vouch_for_a_tree_keep_it() {
    let (a, b) = (signed(0, 5, 1, 200, 200), signed(1, 5, 1, 200, 150));
    let first = step(&[a, b], 1, &Seen::default());
    // One importer falls back; the other's record is not at hand, but its vote stands.
    let second = step(&[signed(0, 6, 2, 100, 100)], 1, &first.seen);
    assert_eq!((second.pick, tree_of(&second.seen)), (None, Some(1)));
    let third = step(
        &[signed(0, 6, 2, 100, 100), signed(1, 6, 2, 100, 100)],
        1,
        &second.seen,
    );
    assert!(third.pick.is_some());
    assert_eq!(tree_of(&third.seen), Some(2));
}

#[test]
fn the_same_tree_checked_later_refreshes_the_head() {
    let first = step(&[signed(0, 5, 1, 100, 100)], 1, &Seen::default());
    let second = step(&[signed(0, 6, 1, 100, 2_000)], 1, &first.seen);
    assert_eq!(second.pick, Some(0));
    assert_eq!(second.seen.current.map(|current| current.checked), Some(2_000));
}

#[test]
fn the_same_head_with_longer_validity_is_nothing_new() {
    let first = signed(0, 5, 1, 100, 100);
    let data = RecordData {
        value: first.record.value().to_vec(),
        sequence: 5,
        validity: at(NOW + 96 * 3_600),
        ttl: Duration::from_mins(5),
        head: first.record.head(),
    };
    let (_, bytes) = first.head.encode().expect("a head");
    let record = Record::create(&key(0), data).expect("a record");
    let refreshed = Signed::verify(key(0).name(), record, &bytes, at(NOW)).expect("valid");
    let chosen = step(std::slice::from_ref(&first), 1, &Seen::default());
    let again = step(&[first, refreshed], 1, &chosen.seen);
    assert_eq!(
        (again.pick, again.rejected),
        (None, vec![(0, Rejection::Superseded)])
    );
    assert_eq!(again.seen, chosen.seen);
}

#[test]
fn two_heads_with_one_sequence_are_noticed() {
    let first = signed(0, 5, 1, 100, 100);
    let chosen = step(std::slice::from_ref(&first), 1, &Seen::default());
    let forked = step(&[signed(0, 5, 2, 300, 300)], 1, &chosen.seen);
    assert_eq!(
        (forked.pick, forked.rejected),
        (None, vec![(0, Rejection::SameSequence(first.head_cid))])
    );
}

#[test]
fn a_head_whose_keys_are_no_longer_trusted_makes_way() {
    let first = step(&[signed(0, 5, 1, 200, 200)], 1, &Seen::default());
    let choice = choose(&[signed(1, 1, 2, 100, 100)], &[key(1).name()], 1, &first.seen);
    assert_eq!(choice.pick, Some(0));
}

#[test]
fn record_and_head_must_belong_together() {
    let good = signed(0, 5, 1, 100, 100);
    let (name, record) = (good.key, good.record.clone());
    let (_, bytes) = good.head.encode().expect("a head");
    let (_, others) = head().encode().expect("a head");

    let error = Signed::verify(name, record.clone(), &others, at(NOW)).unwrap_err();
    assert!(matches!(error, SignedError::OtherBlock(_)), "{error:?}");
    let error = Signed::verify(key(1).name(), record.clone(), &bytes, at(NOW)).unwrap_err();
    assert!(matches!(error, SignedError::Record(_)), "{error:?}");
    let late = at(NOW + 49 * 3_600);
    let error = Signed::verify(name, record.clone(), &bytes, late).unwrap_err();
    assert!(matches!(error, SignedError::Record(_)), "{error:?}");
    assert_eq!(Signed::restore(name, record, &bytes).expect("it was valid"), good);

    let make = |value: &str, head| {
        let data = RecordData {
            value: value.as_bytes().to_vec(),
            sequence: 1,
            validity: at(NOW + 60),
            ttl: Duration::ZERO,
            head,
        };
        Record::create(&key(0), data).expect("a record")
    };
    let other_tree = make(&format!("/ipfs/{}", cid(77)), Some(good.head_cid));
    let error = Signed::verify(name, other_tree, &bytes, at(NOW)).unwrap_err();
    assert!(matches!(error, SignedError::OtherTree(_)), "{error:?}");
    let no_head = make(&format!("/ipfs/{}", cid(1)), None);
    let error = Signed::verify(name, no_head, &bytes, at(NOW)).unwrap_err();
    assert!(matches!(error, SignedError::NoHead), "{error:?}");
}

prop_compose! {
    fn candidate()(n in 0_u8..4, sequence in 1_u64..6, tree in 0_u64..4, time in 0_u64..5, checked in 0_u64..3)
        -> Signed
    {
        signed(n, sequence, tree, time, checked)
    }
}

fn candidates() -> impl Strategy<Value = Vec<Signed>> {
    prop::collection::vec(candidate(), 0..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_order_of_candidates_does_not_matter(
        (before, one, other) in (candidates(), candidates())
            .prop_flat_map(|(before, one)| (Just(before), Just(one.clone()), Just(one).prop_shuffle())),
        quorum in 0_usize..4,
    ) {
        let seen = step(&before, quorum, &Seen::default()).seen;
        let (a, b) = (step(&one, quorum, &seen), step(&other, quorum, &seen));
        prop_assert_eq!(&a.seen, &b.seen);
        prop_assert_eq!(a.pick.map(|n| &one[n]), b.pick.map(|n| &other[n]));
        prop_assert_eq!(a.most_votes, b.most_votes);
        prop_assert_eq!(a.rejected.len(), b.rejected.len());
    }

    #[test]
    fn no_history_leads_a_key_back(rounds in prop::collection::vec(candidates(), 1..6), quorum in 1_usize..4) {
        let mut seen = Seen::default();
        for round in &rounds {
            let next = step(round, quorum, &seen).seen;
            for (key, old) in &seen.keys {
                prop_assert!(next.keys[key].sequence >= old.sequence);
            }
            if let (Some(old), Some(new)) = (&seen.current, &next.current) {
                if old.key == new.key {
                    prop_assert!(new.sequence >= old.sequence);
                }
                let rank = |current: &pacstore_names::Current| {
                    (current.upstream_time, current.checked, current.tree)
                };
                if rank(new) < rank(old) {
                    let went_on = seen.keys.iter().any(|(key, was)| next.keys[key].sequence > was.sequence);
                    prop_assert!(went_on || old.tree == new.tree, "back in time without cause");
                }
                prop_assert_eq!(new.upstream_time < old.upstream_time && !new.fell_back, false);
            }
            prop_assert!(seen.current.is_none() || next.current.is_some(), "what was accepted stays");
            seen = next;
        }
    }

    #[test]
    fn a_single_trusted_key_is_followed_wherever_it_goes(rounds in prop::collection::vec(candidates(), 1..6)) {
        let only = [key(1).name()];
        let mut seen = Seen::default();
        let mut newest = None;
        for round in &rounds {
            let choice = choose(round, &only, 1, &seen);
            let offered = round.iter().filter(|signed| signed.key == only[0]).map(|signed| signed.record.sequence());
            newest = newest.max(offered.max());
            prop_assert_eq!(choice.seen.current.as_ref().map(|current| current.sequence), newest);
            seen = choice.seen;
        }
    }

    #[test]
    fn what_is_picked_has_a_quorum(round in candidates(), quorum in 1_usize..4) {
        let choice = step(&round, quorum, &Seen::default());
        if let Some(pick) = choice.pick {
            let voters = round
                .iter()
                .filter(|signed| keys().contains(&signed.key) && signed.head.tree == round[pick].head.tree)
                .map(|signed| signed.key)
                .collect::<std::collections::BTreeSet<_>>();
            prop_assert!(voters.len() >= quorum);
            prop_assert!(choice.most_votes >= quorum);
        }
    }
}

#[test]
fn signing_the_same_head_twice_gives_the_same_head() {
    assert_eq!(sign(0, 1, &head()), sign(0, 1, &head()));
}
