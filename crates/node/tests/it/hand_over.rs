//! A key is replaced: clients go along, old addresses are answered, the old key counts for nothing more.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pacstore_import::Files;
use pacstore_names::IpnsName;
use pacstore_node::{Keys, Node, Online, Outcome, RotateError, StartError};
use pacstore_runtime::{Clock, Tasks};
use pacstore_store::{Steps, Tuning};
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::nodes::{NAME, Plan, SOON, TestNode, copy_folder};

/// The KEYs that count for the mirror today.
fn importers(node: &Node) -> Vec<IpnsName> {
    let mirror = node.mirror(NAME).expect("it serves the mirror");
    node.summary(&mirror)
        .importers
        .iter()
        .map(|line| line.key)
        .collect()
}

/// Waits until `client` serves a head that `key` signed.
async fn follows_key(client: &TestNode, key: &str) {
    let key: IpnsName = key.parse().unwrap();
    let mirror = client.node.mirror(NAME).unwrap();
    let reached = async {
        while !mirror.signed().iter().any(|signed| signed.key == key) {
            client.refresh().await;
        }
    };
    let reached = tokio::time::timeout(SOON, reached).await;
    assert!(
        reached.is_ok(),
        "no head of {key}: {:#?}",
        client.node.summary(&mirror)
    );
}

/// Waits until `client` serves what `node` serves, and does not wait for its turn to ask.
async fn follows(client: &TestNode, node: &TestNode) {
    let reached = async {
        while client.tree() != node.tree() {
            client.refresh().await;
        }
    };
    let reached = tokio::time::timeout(SOON, reached).await;
    assert!(reached.is_ok(), "{:?} is not {:?}", client.tree(), node.tree());
}

/// A plan for the same importer with what is in the home of `plan`.
fn copy_of(plan: &Plan) -> Plan {
    let mut copy = Plan::new();
    copy.config.mirrors.clone_from(&plan.config.mirrors);
    copy.config.imports.clone_from(&plan.config.imports);
    copy_folder(plan.home.path(), copy.home.path());
    copy
}

/// The configuration of an importer names its own key, which is read when it starts.
fn with_key_of_file(mut plan: Plan) -> Plan {
    plan.config.mirrors[0].importers = vec![plan.key()];
    plan
}

async fn importer(dir: &Path) -> TestNode {
    let importer = Plan::importer(dir, Files::Listed).start().await;
    importer.import().await;
    importer
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_follow_a_new_key_by_themselves_and_never_the_old_one_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let node = importer(dir.path()).await;
    let old = node.plan.key();
    // A thief, or a backup that somebody starts: the state from before the rotation.
    let plan = node.stop().await;
    let thief = copy_of(&plan);
    let node = plan.start().await;
    let client = Plan::client(vec![old], vec![node.address().await]).start().await;
    follows(&client, &node).await;
    let before = client.tree();

    let rotated = node.node.rotate("k").await?;
    assert_eq!(rotated.old, old.to_string());
    assert_ne!(rotated.key, rotated.old);
    assert_eq!(
        node.plan.key().to_string(),
        rotated.key,
        "the file is the new key's"
    );
    follows_key(&client, &rotated.key).await;
    assert_eq!(client.tree(), before, "the tree is the same");
    repo.update(&["pkg0"])?;
    node.import().await;
    follows(&client, &node).await;
    let after = client.tree();
    assert_ne!(after, before);

    // Both addresses are answered, here and at the importer, also after a restart.
    let plan = node.stop().await;
    let node = with_key_of_file(plan).start().await;
    let mut plan = client.stop().await;
    plan.config.swarm.peers = vec![node.address().await];
    let client = plan.start().await;
    for one in [&client, &node] {
        for key in [&rotated.old, &rotated.key] {
            let mirror = one.node.mirror(key).expect("both KEYs are known");
            let tree = mirror.current().map(|head| head.head.tree.to_string());
            assert_eq!(tree, after, "{key}");
        }
        assert_eq!(importers(&one.node), [rotated.key.parse()?]);
    }
    let mirror = node.node.mirror(NAME).unwrap();
    let past: Vec<_> = mirror.history()?.into_iter().map(|one| Some(one.tree)).collect();
    assert_eq!(past, [after.clone(), before], "the past is one over both KEYs");

    // Whoever has the old key publishes something newer with it: nobody minds.
    repo.update(&["pkg1"])?;
    let thief = thief.start().await;
    thief.import().await;
    assert_ne!(thief.tree(), after);
    let mut plan = client.stop().await;
    plan.config.swarm.peers = vec![thief.address().await];
    let client = plan.start().await;
    client.connected().await;
    client.refresh().await;
    assert_eq!(client.tree(), after);
    Ok(())
}

/// Who was away for several rotations finds the way, from another client too, with the importer gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_away_goes_along_with_two_rotations_told_by_another_client() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let node = importer(dir.path()).await;
    let first = node.plan.key();
    let client = Plan::client(vec![first], vec![node.address().await])
        .start()
        .await;
    follows(&client, &node).await;
    let second = node.node.rotate("k").await?;
    follows_key(&client, &second.key).await;
    let third = node.node.rotate("k").await?;
    assert_eq!(third.old, second.key);
    follows_key(&client, &third.key).await;
    node.stop().await;

    let late = Plan::client(vec![first], vec![client.address().await])
        .start()
        .await;
    follows_key(&late, &third.key).await;
    assert_eq!(late.tree(), client.tree());
    assert_eq!(importers(&late.node), [third.key.parse()?]);
    Ok(())
}

/// A copy of the importer with the old key learns that it was handed over, and signs nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_with_the_old_key_publishes_nothing_more_and_says_why() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let node = importer(dir.path()).await;
    let plan = node.stop().await;
    let mut copy = copy_of(&plan);
    // A peer of its own, as where only the state was copied: both are connected.
    fs_err::remove_file(copy.config.state_dir.join("keys/.node.key"))?;
    let node = plan.start().await;
    let rotated = node.node.rotate("k").await?;
    copy.config.swarm.peers = vec![node.address().await];
    let copy = copy.start().await;
    copy.connected().await;
    copy.refresh().await;
    repo.update(&["pkg0"])?;
    let report = copy.round().await;
    assert_eq!(report.outcome, Outcome::Failed);
    let error = report.error.unwrap_or_default();
    assert!(
        error.contains(&format!("was handed over to {}", rotated.key)),
        "{error}"
    );
    assert!(report.hint.unwrap_or_default().contains("new key's file"));
    assert_eq!(copy.tree(), node.tree());
    let twice = copy.node.rotate("k").await;
    assert!(matches!(twice, Err(RotateError::Over { .. })), "{twice:?}");
    Ok(())
}

/// Where a rotation stops: nothing reaches the disk from there on.
#[derive(Debug)]
enum StopAt {
    /// After so many steps.
    Count(AtomicUsize),
    /// From the step of this name on.
    Name(&'static str, AtomicBool),
}

impl Steps for StopAt {
    fn before(&self, step: &'static str) -> io::Result<()> {
        let stops = match self {
            Self::Count(left) => left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_err(),
            Self::Name(name, stopped) => stopped.fetch_or(*name == step, Ordering::SeqCst) || *name == step,
        };
        if stops {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    }
}

/// A node without network, on the home of `plan`.
async fn offline(plan: &Plan) -> (Node, Tasks) {
    let tasks = Tasks::new();
    let started = Node::start(plan.config.clone(), Online::No, &tasks, Clock::system());
    (started.await.expect("it starts"), tasks)
}

/// Rotates on a copy of `plan` until the process is gone at `gate`; gives the copy, and whether all was done.
async fn rotate_until(plan: &Plan, gate: StopAt) -> (Plan, bool) {
    let mut copy = copy_of(plan);
    let gate = Arc::new(gate);
    copy.config.tuning.steps = Some(gate);
    let (node, tasks) = offline(&copy).await;
    let done = node.rotate("k").await.is_ok();
    drop(node);
    let late = tasks.shutdown(SOON).await;
    assert!(late.is_empty(), "{late:?}");
    copy.config.tuning = Tuning::default();
    (with_key_of_file(copy), done)
}

/// Before the exchange the old key is in force; after it the new one, with a head of the same tree.
/// Another rotation goes through from every state.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_stops_at_any_step_leaves_one_key_in_force() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let node = importer(dir.path()).await;
    let (old, tree) = (node.plan.key(), node.tree());
    let plan = node.stop().await;
    // Those of the start come first: they stop nothing that matters here.
    let first = {
        let mut copy = copy_of(&plan);
        let gate = Arc::new(StopAt::Count(AtomicUsize::new(usize::MAX)));
        copy.config.tuning.steps = Some(Arc::<StopAt>::clone(&gate));
        let (_node, tasks) = offline(&copy).await;
        tasks.shutdown(SOON).await;
        let StopAt::Count(left) = &*gate else {
            unreachable!("it counts")
        };
        usize::MAX - left.load(Ordering::SeqCst)
    };
    let (mut before, mut after) = (0, 0);
    for step in first.. {
        assert!(step < first + 300, "a rotation has no more steps than that");
        let (plan, done) = rotate_until(&plan, StopAt::Count(AtomicUsize::new(step))).await;
        let now = plan.key();
        let (node, tasks) = offline(&plan).await;
        let mirror = node.mirror(NAME).expect("it serves the mirror");
        let current = mirror.current().map(|head| head.head.tree.to_string());
        assert_eq!(current, tree, "step {step}");
        let signers: Vec<_> = mirror.signed().iter().map(|signed| signed.key).collect();
        assert_eq!(signers, [now], "step {step}");
        assert_eq!(importers(&node), [now], "step {step}");
        if now == old {
            before += 1;
        } else {
            after += 1;
            assert!(node.mirror(&old.to_string()).is_some(), "step {step}");
        }
        let again = node.rotate("k").await?;
        assert_eq!(again.old, now.to_string(), "step {step}");
        assert_eq!(importers(&node), [again.key.parse()?], "step {step}");
        let held = node.store().retained()?;
        let own: Vec<_> = held
            .iter()
            .filter(|(label, _)| label.starts_with("own/"))
            .collect();
        assert_eq!(own.len(), 1, "step {step}: {own:?}");
        tasks.shutdown(SOON).await;
        if done {
            assert!(
                before > 3 && after > 3,
                "{before} before, {after} after the exchange"
            );
            return Ok(());
        }
    }
    Ok(())
}

/// What others see of it: a client of the old key finds the one in force, wherever the rotation stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_the_key_in_force_wherever_a_rotation_stopped() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let node = importer(dir.path()).await;
    let old = node.plan.key();
    let plan = node.stop().await;
    for (step, exchanged) in [
        ("rotate/record", false),
        ("rotate/exchange", false),
        ("rotate/memory", true),
        ("rotate/head", true),
    ] {
        let (plan, done) = rotate_until(&plan, StopAt::Name(step, false.into())).await;
        assert!(!done, "{step}");
        let now = plan.key();
        assert_eq!(now != old, exchanged, "{step}");
        let node = plan.start().await;
        let client = Plan::client(vec![old], vec![node.address().await]).start().await;
        follows_key(&client, &now.to_string()).await;
        let again = node.node.rotate("k").await?;
        follows_key(&client, &again.key).await;
        repo.update(&["pkg0"])?;
        node.import().await;
        follows(&client, &node).await;
    }
    Ok(())
}

#[tokio::test]
async fn another_key_under_the_same_label_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let node = importer(dir.path()).await;
    let old = node.plan.key();
    let mut plan = node.stop().await;
    let file = plan.config.state_dir.join("keys/k.key");
    fs_err::rename(&file, plan.config.state_dir.join("keys/safe.key"))?;
    let now = Keys::new(&plan.config.state_dir).create("k")?.name();
    let tasks = Tasks::new();
    let start =
        async |plan: &Plan| Node::start(plan.config.clone(), Online::No, &tasks, Clock::system()).await;
    let error = start(&plan).await.expect_err("it does not start");
    let is = |mirror: &StartError| matches!(mirror, StartError::OtherKey { before, now: new, .. } if *before == old && *new == now);
    assert!(is(&error), "{error:?}");
    assert!(error.hint().unwrap_or_default().contains("pacstore key rotate k"));
    // Under another label it is the owner's decision.
    plan.config.imports[0].key = "safe".to_owned();
    drop(start(&plan).await?);
    tasks.shutdown(SOON).await;
    Ok(())
}

#[tokio::test]
async fn a_key_that_signs_nothing_is_not_rotated() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let node = Plan::importer(dir.path(), Files::Listed).start().await;
    let key = node.plan.key();
    let nothing = node.node.rotate("k").await;
    assert!(matches!(nothing, Err(RotateError::Nothing(_))), "{nothing:?}");
    let unused = node.node.rotate("other").await;
    assert!(matches!(unused, Err(RotateError::Unused(_))), "{unused:?}");
    assert_eq!(node.plan.key(), key);
    Ok(())
}
