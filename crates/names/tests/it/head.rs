//! Heads: encoding, bounds, ages and states.

use std::time::Duration;

use pacstore_names::{
    Arch, Head, HeadError, Layout, MAX_HEAD, MAX_REPOSITORIES, RepoState, State, TreeTimes, arch_of_folder,
};
use serde::Serialize;

use crate::heads::{NOW, at, cid, head, repository};

const WARN: Duration = Duration::from_hours(6);

#[test]
fn a_head_survives_its_encoding() {
    let mut head = head();
    head.repositories[1].state = RepoState::Torn;
    head.repositories[1].detail = Some("extra-1.0-1-any.pkg.tar.zst is missing".to_owned());
    let (cid, bytes) = head.encode().expect("a good head");
    assert_eq!(cid, Head::cid_of(&bytes));
    assert_eq!((cid.codec(), cid.hash().code()), (0x71, 0x12));
    assert_eq!(Head::decode(&bytes).expect("a head"), head);
    let generic: ipld_core::ipld::Ipld = serde_ipld_dagcbor::from_slice(&bytes).expect("dag-cbor");
    assert_eq!(
        serde_ipld_dagcbor::to_vec(&generic).expect("dag-cbor"),
        bytes,
        "the one form that dag-cbor allows"
    );
}

/// The encoding of heads is a contract with every node out there.
#[test]
fn the_encoding_does_not_change() {
    let (cid, _) = head().encode().expect("a good head");
    assert_eq!(
        cid.to_string(),
        "bafyreihevihj56x2h4uysdsjyuq3ayyac7i6dhs7e5f2u5ownpdkvnznre"
    );
}

#[test]
fn the_order_of_repositories_does_not_change_the_encoding() {
    let (one, mut other) = (head(), head());
    other.repositories.reverse();
    assert_eq!(one.encode().expect("a head"), other.encode().expect("a head"));
}

#[test]
fn a_tree_without_repositories_has_times_of_its_own() {
    let mut plain = head();
    plain.repositories.clear();
    assert!(matches!(plain.encode(), Err(HeadError::Times)));
    plain.tree_times = Some(TreeTimes {
        upstream_time: NOW - 100,
        checked: NOW - 50,
    });
    let (_, bytes) = plain.encode().expect("a head");
    assert_eq!(Head::decode(&bytes).expect("a head"), plain);
    assert_eq!((plain.upstream_time(), plain.checked()), (NOW - 100, NOW - 50));
    assert_eq!(plain.age(at(NOW)).as_secs(), 50);
    assert_eq!(plain.state_at(at(NOW), WARN), State::Current);
    let mut both = head();
    both.tree_times = plain.tree_times;
    assert!(matches!(both.encode(), Err(HeadError::Times)));
}

#[test]
fn the_oldest_repository_gives_the_age_and_the_newest_the_upstream_time() {
    let mut head = head();
    head.repositories[0].checked = NOW - 5_000;
    head.repositories[1].upstream_time = NOW - 3;
    assert_eq!(head.checked(), NOW - 5_000);
    assert_eq!(head.oldest().map(|oldest| oldest.name.as_str()), Some("core"));
    assert_eq!(head.upstream_time(), NOW - 3);
    assert_eq!(head.age(at(NOW)).as_secs(), 5_000);
    assert_eq!(
        head.age(at(NOW - 9_000)),
        Duration::ZERO,
        "a clock behind the importer's"
    );
}

#[test]
fn states_grow_worse_with_age_and_what_the_importer_says() {
    let mut one = repository("core");
    let max = Some(Duration::from_hours(24));
    let state = |repository: &pacstore_names::Repository, hours: u64| {
        repository.state_at(at(repository.checked + hours * 3_600), WARN, max)
    };
    assert_eq!(state(&one, 6), State::Current);
    assert_eq!(state(&one, 7), State::Warn);
    assert_eq!(state(&one, 24), State::Warn);
    assert_eq!(state(&one, 25), State::Refused);
    assert!(one.is_refused_at(at(one.checked + 25 * 3_600), max));
    assert!(!one.is_refused_at(at(one.checked + 10_000 * 3_600), None));
    one.state = RepoState::Warn;
    assert_eq!(state(&one, 0), State::Warn);
    one.state = RepoState::Held;
    assert_eq!(state(&one, 25), State::Held);
    one.state = RepoState::Torn;
    assert_eq!(state(&one, 0), State::Torn);
    let mut head = head();
    head.repositories[1].state = RepoState::Held;
    assert_eq!(head.state_at(at(NOW), WARN), State::Held);
    head.max_age_s = 0;
    assert_eq!(head.max_age(), None);
    assert!(State::None < State::Current && State::Current < State::Warn && State::Held < State::Torn);
}

#[test]
fn repositories_are_found_by_name_and_architecture() {
    let mut head = head();
    head.repositories.push(repository("multi"));
    head.repositories[2].arch.clear();
    let found = |name: &str, arch: &str| head.repositories_for(name, arch).count();
    assert_eq!(
        (
            found("core", "x86_64"),
            found("core", "aarch64"),
            found("multi", "aarch64")
        ),
        (1, 0, 1)
    );
    assert_eq!(found("missing", "x86_64"), 0);
    assert_eq!(head.in_folder("core/os/x86_64").count(), 1);
}

#[test]
fn a_later_version_is_told_apart_from_damage() {
    #[derive(Serialize)]
    struct Later {
        version: u64,
        something: &'static str,
    }
    let later = serde_ipld_dagcbor::to_vec(&Later {
        version: 2,
        something: "new",
    })
    .expect("dag-cbor");
    let error = Head::decode(&later).unwrap_err();
    assert!(matches!(error, HeadError::Version(2)), "{error:?}");
    assert!(error.to_string().contains("version 2"), "{error}");
    let damaged = Head::decode(b"\xa1").unwrap_err();
    assert!(matches!(damaged, HeadError::Decode(_)), "{damaged:?}");
    let no_version = Head::decode(b"\xa0").unwrap_err();
    assert!(matches!(no_version, HeadError::Decode(_)), "{no_version:?}");
}

#[test]
fn unknown_fields_are_skipped_whatever_they_hold() {
    use ipld_core::ipld::Ipld;
    let (_, bytes) = head().encode().expect("a head");
    let Ipld::Map(mut map) = serde_ipld_dagcbor::from_slice(&bytes).expect("dag-cbor") else {
        panic!("a head is a map")
    };
    map.insert(
        "later".to_owned(),
        Ipld::List(vec![Ipld::Link(cid(5)), Ipld::Float(1.5), Ipld::Null]),
    );
    if let Some(Ipld::List(repositories)) = map.get_mut("repositories")
        && let Some(Ipld::Map(first)) = repositories.first_mut()
    {
        first.insert("later".to_owned(), Ipld::Link(cid(6)));
    }
    let extended = serde_ipld_dagcbor::to_vec(&Ipld::Map(map)).expect("dag-cbor");
    assert!(extended.len() > bytes.len() + 40);
    assert_eq!(Head::decode(&extended).expect("a head"), head());
}

#[test]
fn bounds_hold_for_writing_and_reading() {
    let mut many = head();
    many.repositories = (0..=MAX_REPOSITORIES)
        .map(|n| repository(&format!("r{n:05}")))
        .collect();
    assert!(matches!(
        many.encode(),
        Err(HeadError::TooManyRepositories(4_097))
    ));
    many.repositories.pop();
    let (_, bytes) = many.encode().expect("as many as there may be");
    assert_eq!(
        Head::decode(&bytes).expect("a head").repositories.len(),
        MAX_REPOSITORIES
    );
    for one in &mut many.repositories {
        one.detail = Some("x".repeat(200));
    }
    assert!(matches!(many.encode(), Err(HeadError::TooLarge(n)) if n > MAX_HEAD));
    assert!(matches!(
        Head::decode(&vec![0; MAX_HEAD + 1]),
        Err(HeadError::TooLarge(_))
    ));
}

#[test]
fn malformed_texts_are_refused() {
    let spoil = |change: fn(&mut Head)| {
        let mut head = head();
        change(&mut head);
        head.encode().map(|_| ()).expect_err("refused").to_string()
    };
    let field = |what: &str| format!("head has a {what} that is too long or malformed");
    assert_eq!(
        spoil(|head| head.repositories[0].name = "..".to_owned()),
        field("repository name")
    );
    assert_eq!(
        spoil(|head| head.repositories[0].name = "a/b".to_owned()),
        field("repository name")
    );
    assert_eq!(
        spoil(|head| head.repositories[0].folder = "/etc".to_owned()),
        field("repository folder")
    );
    assert_eq!(
        spoil(|head| head.repositories[0].folder = "a/../b".to_owned()),
        field("repository folder")
    );
    assert_eq!(
        spoil(|head| head.repositories[0].detail = Some("\x1b[2J".to_owned())),
        field("repository detail")
    );
    assert_eq!(spoil(|head| head.profile = String::new()), field("profile"));
    let twice = spoil(|head| head.repositories[1] = head.repositories[0].clone());
    assert_eq!(
        twice,
        "repositories of the head are not in order, or one stands there twice"
    );
}

#[test]
fn a_repository_may_lie_at_the_root_and_know_no_architecture() {
    let mut head = head();
    head.repositories.truncate(1);
    head.repositories[0].folder.clear();
    head.repositories[0].arch.clear();
    head.repositories[0].files_time = None;
    let (_, bytes) = head.encode().expect("a head");
    assert_eq!(Head::decode(&bytes).expect("a head"), head);
}

#[test]
fn layouts_and_architectures_are_read_as_they_are_written() {
    for layout in [Layout::Plain, Layout::Archlinux] {
        assert_eq!(layout.to_string().parse(), Ok(layout));
    }
    assert!("arch".parse::<Layout>().is_err());
    let arch = |folder: &str| arch_of_folder(folder).map(|arch: Arch| arch.to_string());
    assert_eq!(arch("core/os/x86_64"), Some("x86_64".to_owned()));
    assert_eq!(arch("x86_64_v3/core"), Some("x86_64_v3".to_owned()));
    assert_eq!(arch("aarch64"), Some("aarch64".to_owned()));
    assert_eq!(arch("any/core"), None);
    assert_eq!(arch(""), None);
    assert!("any".parse::<Arch>().is_ok_and(|any| !any.is_known()));
    assert!("".parse::<Arch>().is_err());
    assert!("x86/64".parse::<Arch>().is_err());
}
