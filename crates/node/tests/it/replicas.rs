//! `replicas`: a head waits until enough other nodes hold it, and not for ever.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use pacstore_import::Files;
use pacstore_node::{AlertKind, Outcome, ReplicaStatus, RoundReport, metrics};
use pacstore_runtime::Clock;
use pacstore_store::Tuning;
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::nodes::{NAME, Plan, TestNode, mirror};
use crate::publish::{Short, StopAt, Then};
use crate::service::{told, told_in, until};
use crate::solo::on_disk;

/// Longest wait of a head, in minutes.
const LATEST: u64 = 10;

/// An importer of `dir` that wants `replicas`.
fn importer(dir: &Path, replicas: usize) -> Plan {
    let mut plan = Plan::importer(dir, Files::Listed);
    plan.config.imports[0].replicas = replicas;
    plan
}

async fn client(importer: &TestNode) -> TestNode {
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.start().await
}

pub(crate) async fn status(importer: &TestNode) -> Option<ReplicaStatus> {
    importer.node.status(None).await.imports[0].replicas.clone()
}

/// What the metrics say of how many peers hold the head that waits.
async fn coming_replicas(importer: &TestNode) -> String {
    let text = metrics::render(&importer.node.status(None).await);
    let line = format!("pacstore_import_coming_replicas{{mirror=\"{NAME}\"}} ");
    let value = text.lines().find_map(|one| one.strip_prefix(&line));
    value.unwrap_or_else(|| panic!("no {line}in {text}")).to_owned()
}

/// A round whose tree has to wait: that tree.
pub(crate) async fn waits(importer: &TestNode) -> String {
    let before = importer.tree();
    let report = importer.import().await;
    let RoundReport {
        outcome,
        tree,
        coming,
        ..
    } = report;
    assert_eq!((outcome, &tree), (Outcome::Published, &before));
    assert_eq!(importer.tree(), before, "the old one is in force");
    let coming = coming.expect("a tree that waits");
    assert_ne!(Some(&coming), before.as_ref());
    coming
}

/// The tree is in force, and that is written down: nothing waits.
async fn is_in_force(node: &TestNode, tree: &str) {
    until("it is in force", async || {
        let waits = status(node).await.is_some_and(|now| now.tree.is_some());
        node.tree().as_deref() == Some(tree) && !waits
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_preferred_once_a_follower_holds_it_and_not_before() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let importer = importer(dir.path(), 1).start().await;
    importer.import().await;
    assert!(importer.tree().is_some(), "the first head waits for nobody");
    let follower = client(&importer).await;
    follower.follows(&importer).await;
    let old = on_disk(&repo, "core.db");
    let follower = follower.stop().await;

    repo.update(&["pkg1"])?;
    let coming = waits(&importer).await;
    let now = status(&importer).await.unwrap();
    assert_eq!(
        (now.wanted, now.held, now.tree.as_deref()),
        (1, 0, Some(&*coming))
    );
    assert!(
        importer.get("core.db").await? == old,
        "the importer's own gateway"
    );
    let again = importer.import().await;
    assert_eq!(again.outcome, Outcome::Unchanged, "{again:?}");
    assert_eq!(again.coming, Some(coming.clone()));

    // It never asked for a database, and fetches them all the same.
    let follower = follower.start().await;
    is_in_force(&importer, &coming).await;
    assert_eq!(
        status(&importer).await,
        Some(ReplicaStatus {
            wanted: 1,
            ..ReplicaStatus::default()
        })
    );
    follower.follows(&importer).await;
    assert_eq!(coming_replicas(&importer).await, "0.0", "nothing waits");
    importer.stop().await;
    assert!(follower.get("core.db").await? == on_disk(&repo, "core.db"));
    Ok(())
}

/// What comes ahead is no head: its gateway and what it tells of the name stay those of the old one.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_coming_head_goes_on_giving_the_old_one() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let importer = importer(dir.path(), 2).start().await;
    importer.import().await;
    let follower = client(&importer).await;
    follower.follows(&importer).await;
    let (old, tree) = (on_disk(&repo, "core.db"), follower.tree());
    assert!(follower.get("core.db").await? == old);
    repo.update(&["pkg1"])?;
    waits(&importer).await;
    until("one of two holds it", async || {
        status(&importer).await.is_some_and(|now| now.held == 1)
    })
    .await;
    follower.refresh().await;
    assert_eq!(follower.tree(), tree);
    assert!(follower.get("core.db").await? == old);
    assert_eq!(importer.tree(), tree);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_is_no_replica() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let importer = importer(dir.path(), 2).start().await;
    importer.import().await;
    let first = client(&importer).await;
    first.follows(&importer).await;
    let tree = importer.tree();
    repo.update(&["pkg1"])?;
    waits(&importer).await;
    let held = |count| {
        let importer = &importer;
        async move {
            let so_many = async || status(importer).await.is_some_and(|now| now.held == count);
            until("so many hold it", so_many).await;
        }
    };
    held(1).await;
    assert_eq!(coming_replicas(&importer).await, "1.0");
    first.stop().await;
    held(0).await;
    assert_eq!(coming_replicas(&importer).await, "0.0");
    let _second = client(&importer).await;
    held(1).await;
    assert_eq!(importer.tree(), tree, "one of two");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_goes_out_after_ten_minutes_with_an_alert_that_ends_with_enough_replicas() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (from, file) = (dir.path().join("m"), dir.path().join("told"));
    let mut repo = Repo::create(&from, RepoSpec::new("core").packages(3, 10_000))?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let mut plan = importer(&from, 2).clock(&clock);
    plan.config.alert = told_in(&file);
    let importer = plan.start().await;
    importer.import().await;
    let one = client(&importer).await;
    one.follows(&importer).await;

    repo.update(&["pkg1"])?;
    let coming = waits(&importer).await;
    until("one of two holds it", async || {
        status(&importer).await.is_some_and(|now| now.held == 1)
    })
    .await;
    hand.advance(Duration::from_secs(LATEST * 60 - 1));
    let now = status(&importer).await.unwrap();
    assert_eq!(
        (now.tree.as_deref(), now.waiting_s),
        (Some(&*coming), Some(LATEST * 60 - 1))
    );
    hand.advance(Duration::from_secs(1));
    is_in_force(&importer, &coming).await;
    one.follows(&importer).await;
    let thin = status(&importer).await.unwrap();
    assert_eq!((thin.tree, thin.thin), (None, Some(1)));
    let warning = (AlertKind::Warning, format!("replicas/{NAME}"));
    until("it is told", async || told(&file).contains(&warning)).await;
    // Also by who is started anew.
    let importer = importer.stop().await.start().await;
    assert_eq!(status(&importer).await.unwrap().thin, Some(1));
    let (one, two) = (client(&importer).await, client(&importer).await);
    one.follows(&importer).await;
    two.follows(&importer).await;

    repo.update(&["pkg2"])?;
    let coming = waits(&importer).await;
    is_in_force(&importer, &coming).await;
    assert_eq!(status(&importer).await.unwrap().thin, None);
    let over = (AlertKind::Recovery, warning.1);
    until("its end is told", async || told(&file).contains(&over)).await;
    Ok(())
}

/// Its store has no room for a database.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_directories_and_no_databases_is_no_replica() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let importer = importer(dir.path(), 1).clock(&clock).start().await;
    importer.import().await;
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.max_size = 100;
    let small = plan.start().await;
    small.follows(&importer).await;
    repo.update(&["pkg1"])?;
    let coming = waits(&importer).await;
    let root = coming.parse()?;
    let store = small.node.store().clone();
    until("the only directory is there", async || {
        store.block_len(&root).is_ok_and(|len| len.is_some())
    })
    .await;
    hand.advance(Duration::from_mins(LATEST));
    is_in_force(&importer, &coming).await;
    assert_eq!(status(&importer).await.unwrap().thin, Some(0));
    Ok(())
}

/// Upstream may change more often than followers can take it: the time counts from the first head that waited.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_head_takes_the_place_and_the_time_of_one_that_waits() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let importer = importer(dir.path(), 1).clock(&clock).start().await;
    importer.import().await;
    let first = importer.tree();
    repo.update(&["pkg0"])?;
    let one = waits(&importer).await;
    hand.advance(Duration::from_mins(LATEST - 1));
    repo.update(&["pkg1"])?;
    let other = waits(&importer).await;
    assert_ne!(one, other);
    let now = status(&importer).await.unwrap();
    assert_eq!(
        (now.tree.as_deref(), now.waiting_s),
        (Some(&*other), Some((LATEST - 1) * 60))
    );
    hand.advance(Duration::from_mins(1));
    is_in_force(&importer, &other).await;
    let past = importer.node.mirror(NAME).unwrap().history()?;
    let trees: Vec<_> = past.into_iter().map(|one| Some(one.tree)).collect();
    assert_eq!(
        trees,
        [Some(other), first],
        "what only waited is no head of the past"
    );
    Ok(())
}

/// Upstream went back to what is in force, or none are wanted any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_waits_is_dropped_when_upstream_goes_back_and_let_go_where_none_are_wanted() -> TestResult
{
    let dir = tempfile::tempdir()?;
    let show = |state: &str| fs_err::write(dir.path().join("file"), state);
    show("one")?;
    let mut plan = Plan::importer(dir.path(), Files::All);
    plan.config.imports[0].replicas = 1;
    let node = plan.start().await;
    node.import().await;
    let first = node.tree();
    show("and two")?;
    waits(&node).await;
    show("one")?;
    node.import().await;
    assert_eq!(status(&node).await.unwrap().tree, None);
    assert_eq!(node.tree(), first);

    show("two again")?;
    let coming = waits(&node).await;
    let mut plan = node.stop().await;
    plan.config.imports[0].replicas = 0;
    let node = plan.start().await;
    is_in_force(&node, &coming).await;
    assert_eq!(status(&node).await, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_is_started_anew_goes_on_waiting() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let node = importer(dir.path(), 1).start().await;
    node.import().await;
    let first = node.tree();
    repo.update(&["pkg1"])?;
    let coming = waits(&node).await;
    let node = node.stop().await.start().await;
    assert_eq!(node.tree(), first);
    assert_eq!(status(&node).await.unwrap().tree, Some(coming.clone()));
    let follower = client(&node).await;
    is_in_force(&node, &coming).await;
    follower.follows(&node).await;
    Ok(())
}

/// The new key names the coming head anew, above its first record.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rotated_while_a_head_waits_goes_on_waiting() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let importer = importer(dir.path(), 1).start().await;
    importer.import().await;
    let (old, first) = (importer.plan.key(), importer.tree());
    repo.update(&["pkg1"])?;
    let coming = waits(&importer).await;
    let rotated = importer.node.rotate("k").await?;
    assert_eq!(importer.tree(), first);
    assert_eq!(status(&importer).await.unwrap().tree, Some(coming.clone()));
    // It knows the old KEY alone.
    let follower = Plan::client(vec![old], vec![importer.address().await])
        .start()
        .await;
    is_in_force(&importer, &coming).await;
    assert_eq!(status(&importer).await.unwrap().thin, None);
    follower.follows(&importer).await;
    let signed = importer.node.mirror(NAME).unwrap().signed();
    let ours = signed.iter().find(|one| one.key.to_string() == rotated.key);
    assert_eq!(ours.map(|one| one.head.tree.to_string()), Some(coming));
    Ok(())
}

/// Nor does a stranger who is connected count as a replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_coming_head_is_for_friends_alone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    // The friend's peer id is needed before the importer starts: it is made by a first start.
    let friend = Plan::new().start().await;
    let id = friend.node.peer_id().unwrap();
    let mut friend = friend.stop().await;
    let mut plan = importer(dir.path(), 1);
    plan.config.imports[0].public = false;
    let friendly = format!("/ip4/127.0.0.1/tcp/9/p2p/{id}");
    plan.config.swarm.peers.push(friendly.parse()?);
    let key = plan.key();
    let importer = plan.start().await;
    importer.import().await;
    repo.update(&["pkg1"])?;
    let coming = waits(&importer).await;
    let stranger = client(&importer).await;
    stranger.connected().await;
    let of = importer.node.peer_id().unwrap();
    let told = stranger.node.net().unwrap().fetch_record(of, &key).await;
    assert!(!matches!(told, Ok(Some(_))), "{told:?}");

    friend.config.mirrors.push(mirror(vec![key]));
    friend.config.swarm.peers.push(importer.address().await);
    let friend = friend.start().await;
    is_in_force(&importer, &coming).await;
    friend.follows(&importer).await;
    assert_eq!(stranger.tree(), None);
    Ok(())
}

/// Without replicas nothing is different: neither what is told nor when.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_names_what_comes_only_while_it_waits() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let says = |node: &TestNode| {
        let signed = node.node.mirror(NAME).unwrap().signed();
        let record = signed.into_iter().next().expect("a record").record;
        let named = record.bytes().windows(7).any(|part| part == b"/coming");
        assert_eq!(named, record.coming().is_some());
        (record.coming().map(|cid| cid.to_string()), record.sequence())
    };
    let node = importer(dir.path(), 0).start().await;
    node.import().await;
    let before = node.tree();
    assert_eq!(says(&node), (None, 1));
    repo.update(&["pkg0"])?;
    let report = node.import().await;
    assert_eq!(report.coming, None);
    assert_ne!(node.tree(), before, "at once");
    assert_eq!((says(&node), status(&node).await), ((None, 2), None));

    let mut plan = node.stop().await;
    plan.config.imports[0].replicas = 1;
    let node = plan.start().await;
    repo.update(&["pkg1"])?;
    let coming = waits(&node).await;
    let (named, sequence) = says(&node);
    assert!(named.is_some());
    assert_eq!(sequence, 2, "it is a refresh of the head in force");
    let _follower = client(&node).await;
    is_in_force(&node, &coming).await;
    assert_eq!(says(&node), (None, 3));
    Ok(())
}

/// Steps at the end of a round that have to do with heads; `publish::*` stops at those before.
const LAST_STEPS: usize = 50;

/// Stops after each step of letting a head wait, and of letting it go.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_waits_survives_a_stop_at_every_step() -> TestResult {
    for stopped in [1, 0] {
        let (mut stops, mut first) = (0, None);
        for after in 0.. {
            assert!(after < 2 * LAST_STEPS, "it has no more steps than that");
            // The first time it runs to its end, to see how many steps there are.
            let step = first.map_or(usize::MAX / 2, |first| first + after);
            let dir = tempfile::tempdir()?;
            let show = |state: &str| fs_err::write(dir.path().join("file"), state);
            show("old")?;
            let gate = StopAt::never(Then::Fails(io::ErrorKind::StorageFull));
            let mut plan = Plan::importer(dir.path(), Files::All);
            plan.config.imports[0].replicas = 1;
            plan.config.tuning = Tuning {
                steps: Some(Arc::<StopAt>::clone(&gate)),
                ..Tuning::default()
            };
            let mut node = Short::start(&plan).await;
            assert_eq!(node.round().await, Outcome::Published);
            let old = node.head();
            show("newer")?;
            if stopped == 0 {
                assert_eq!(node.round().await, Outcome::Published);
                node.stop().await;
                plan.config.imports[0].replicas = 0;
                node = Short::start(&plan).await;
                assert_eq!(node.head(), old);
            }
            gate.left.store(step, Ordering::SeqCst);
            let outcome = node.round().await;
            let left = gate.left.load(Ordering::SeqCst);
            let all_done = first.is_some() && left > 0;
            first = first.or(Some((step - left).saturating_sub(LAST_STEPS)));
            stops += usize::from(outcome == Outcome::Failed);
            node.stop().await;

            plan.config.tuning = Tuning::default();
            let node = Short::start(&plan).await;
            assert!(node.is_whole().await, "{stopped}, step {step}");
            if stopped == 1 {
                assert_eq!(node.head(), old, "step {step}: nothing is preferred yet");
            }
            let again = node.round().await;
            assert!(
                matches!(again, Outcome::Published | Outcome::Unchanged),
                "{stopped}, step {step}: {again:?}"
            );
            if stopped == 1 {
                assert_eq!(node.head(), old, "step {step}");
                let report = node.node.import(NAME).unwrap().last().expect("a report");
                let coming = report.coming.expect("it waits").parse()?;
                node.node.gc(Some(0)).await?;
                let store = node.node.store();
                assert!(!pacstore_dag::list(&coming, store)?.is_empty());
                assert!(pacstore_dag::BlockSource::get(store, &coming)?.is_some());
                node.stop().await;
                plan.config.imports[0].replicas = 0;
                let node = Short::start(&plan).await;
                assert_eq!(node.round().await, Outcome::Published);
                assert_eq!(node.head().0, coming.to_string(), "step {step}");
                assert!(node.is_whole().await, "step {step}");
                node.stop().await;
            } else {
                let new = node.head();
                assert!(
                    new.0 != old.0 && new.1 > old.1,
                    "step {step}: it converges upwards"
                );
                let left = node.node.store().retained()?;
                let left: Vec<_> = left
                    .iter()
                    .filter(|(label, _)| label.starts_with("coming/"))
                    .collect();
                assert!(left.is_empty(), "step {step}: {left:?}");
                assert!(node.is_whole().await, "step {step}");
                node.stop().await;
            }
            if all_done {
                assert!(stops > 5, "{stops} stops in {step} steps");
                break;
            }
        }
    }
    Ok(())
}
