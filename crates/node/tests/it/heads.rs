//! Which head counts: quorum, order, and never back.

use std::path::Path;

use pacstore_import::Files;
use pacstore_node::AlertKind;
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::nodes::{Plan, TestNode, copy_folder};
use crate::service::{told, told_in};

async fn importer(dir: &Path) -> TestNode {
    let importer = Plan::importer(dir, Files::Listed).start().await;
    importer.import().await;
    importer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_head_is_never_taken_again_not_even_after_a_restart() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let first = importer(dir.path()).await;
    let old_tree = first.tree();
    let plan = first.stop().await;
    // A copy of the importer from before the update: same KEY, same peer, older sequence.
    let mut old = Plan::new();
    old.config.mirrors.clone_from(&plan.config.mirrors);
    old.config.imports.clone_from(&plan.config.imports);
    copy_folder(plan.home.path(), old.home.path());

    repo.update(&["pkg0"])?;
    let importer = plan.start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    client.follows(&importer).await;
    let new_tree = client.tree();
    assert_ne!(new_tree, old_tree);
    client.get("core.db").await?;
    let mut plan = client.stop().await;
    importer.stop().await;

    let old = old.start().await;
    assert_eq!(old.tree(), old_tree);
    plan.config.swarm.peers = vec![old.address().await];
    let client = plan.start().await;
    assert_eq!(client.tree(), new_tree, "it remembers");
    client.connected().await;
    client.refresh().await;
    assert_eq!(client.tree(), new_tree);
    assert!(client.get("core.db").await? == fs_err::read(dir.path().join("core.db"))?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_importers_must_have_signed_one_tree() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let (one, two, three) = (
        importer(dir.path()).await,
        importer(dir.path()).await,
        importer(dir.path()).await,
    );
    assert_eq!(one.tree(), two.tree(), "same state, same tree");
    let keys = vec![one.plan.key(), two.plan.key(), three.plan.key()];
    let peers = vec![one.address().await, two.address().await, three.address().await];
    let mut plan = Plan::client(keys, peers);
    plan.config.mirrors[0].quorum = 2;
    let client = plan.start().await;
    client.follows(&one).await;
    let first = client.tree();

    repo.update(&["pkg1"])?;
    one.import().await;
    client.refresh().await;
    assert_eq!(client.tree(), first, "one alone does not move it");
    // One that is gone does not hold the others back.
    three.stop().await;
    two.import().await;
    client.follows(&two).await;
    assert_ne!(client.tree(), first);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_is_not_trusted_moves_nobody() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let (trusted, other) = (importer(dir.path()).await, importer(dir.path()).await);
    let key = trusted.plan.key();
    trusted.stop().await;
    let client = Plan::client(vec![key], vec![other.address().await]).start().await;
    client.connected().await;
    client.refresh().await;
    assert_eq!(client.tree(), None);
    Ok(())
}

/// Who learned a head tells it on: the importer may be gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_the_head_and_files_from_another_client() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").package("big", 3_000_000))?;
    let importer = importer(dir.path()).await;
    let key = importer.plan.key();
    let first = Plan::client(vec![key], vec![importer.address().await])
        .start()
        .await;
    first.follows(&importer).await;
    for name in crate::follow::names(dir.path()) {
        first.get(&name).await?;
    }
    importer.stop().await;
    let second = Plan::client(vec![key], vec![first.address().await]).start().await;
    second.follows(&first).await;
    for name in crate::follow::names(dir.path()) {
        assert!(
            second.get(&name).await? == fs_err::read(dir.path().join(&name))?,
            "{name}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_lost_all_but_its_key_is_followed_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let first = importer(dir.path()).await;
    for package in ["pkg0", "pkg1"] {
        repo.update(&[package])?;
        first.import().await;
    }
    let key = first.plan.key();
    let client = Plan::client(vec![key], vec![first.address().await]).start().await;
    client.follows(&first).await;
    let before = client.tree();
    let plan = first.stop().await;

    let mut bare = Plan::new();
    bare.config.mirrors.clone_from(&plan.config.mirrors);
    bare.config.imports.clone_from(&plan.config.imports);
    bare.config.swarm.peers = vec![client.address().await];
    fs_err::create_dir(&bare.config.state_dir)?;
    let keys = bare.config.state_dir.join("keys");
    fs_err::create_dir(&keys)?;
    copy_folder(&plan.config.state_dir.join("keys"), &keys);
    repo.update(&["pkg0"])?;
    // `checked` has seconds: what is made now must be later than what the client knows.
    let (clock, hand) = pacstore_runtime::Clock::fake(std::time::SystemTime::now());
    hand.advance(std::time::Duration::from_secs(5));
    let again = bare.clock(&clock).start().await;
    again.import().await;
    assert_ne!(again.tree(), before);
    again.connected().await;
    again.refresh().await;
    client.follows(&again).await;
    assert_eq!(
        again.node.status(None).await.alerts,
        [],
        "it is the only one that runs"
    );
    Ok(())
}

/// Two machines with a copy of one key, each of which goes on publishing.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_that_signs_with_the_same_key_is_told() -> TestResult {
    let (dir, copy) = (tempfile::tempdir()?, tempfile::tempdir()?);
    Repo::create(dir.path(), RepoSpec::new("core").packages(2, 500))?;
    Repo::create(copy.path(), RepoSpec::new("core").packages(3, 500))?;
    let file = dir.path().join("told");
    let mut plan = Plan::importer(dir.path(), Files::Listed);
    plan.config.alert = told_in(&file);
    let first = plan.start().await;
    first.import().await;
    let mut plan = Plan::importer(copy.path(), Files::Listed);
    let key = |plan: &Plan| plan.config.state_dir.join("keys/k.key");
    fs_err::copy(key(&first.plan), key(&plan))?;
    plan.config.mirrors.clone_from(&first.plan.config.mirrors);
    plan.config.swarm.peers = vec![first.address().await];
    let (clock, hand) = pacstore_runtime::Clock::fake(std::time::SystemTime::now());
    hand.advance(std::time::Duration::from_secs(5));
    let second = plan.clock(&clock).start().await;
    second.import().await;
    second.connected().await;
    let seen = async {
        loop {
            first.refresh().await;
            let alerts = first.node.status(None).await.alerts;
            if alerts
                .iter()
                .any(|one| one.key == "rival/test.mirror" && one.told)
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(crate::nodes::SOON, seen).await?;
    crate::service::until("it arrived", async || !told(&file).is_empty()).await;

    // A restart knows of nothing that it saw, and ends nothing by that.
    second.stop().await;
    let first = first.stop().await.start().await;
    let looked = async || {
        let text = pacstore_node::metrics::render(&first.node.status(None).await);
        let of = |line: &str| {
            line.strip_prefix("pacstore_alerts_looks_total ")
                .map(str::to_owned)
        };
        text.lines().find_map(of).is_some_and(|looks| looks != "0")
    };
    crate::service::until("it looked for what is wrong", looked).await;
    let rival = format!("rival/{}", crate::nodes::NAME);
    assert_eq!(
        told(&file),
        [(AlertKind::Error, rival)],
        "told once, and not over"
    );
    Ok(())
}
