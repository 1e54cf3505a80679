//! What is held for imports that are gone is let go of when the daemon starts, and nothing else is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pacstore_import::Files;
use pacstore_node::{Keys, Node, Online};
use pacstore_runtime::Tasks;
use pacstore_store::Tuning;
use pacstore_testkit::TestResult;

use crate::nodes::{Failure, Plan, SOON, TestNode, copy_folder};
use crate::publish::{StopAt, Then};
use crate::replicas::{status, waits};

/// What its store holds under labels that begin with `prefix`: the rest of the label.
fn held(node: &TestNode, prefix: &str) -> Vec<String> {
    let all = node.node.store().retained().unwrap();
    let rest = all.iter().filter_map(|(label, _)| label.strip_prefix(prefix));
    rest.map(str::to_owned).collect()
}

/// Stopped, without its import and what it serves, and started anew.
async fn without_import(node: TestNode) -> TestNode {
    let mut plan = node.stop().await;
    plan.config.imports.clear();
    plan.config.mirrors.clear();
    plan.start().await
}

fn key_file(plan: &Plan) -> std::path::PathBuf {
    plan.config.state_dir.join("keys/k.key")
}

/// An importer of every file in `dir` that wants one replica.
fn wants_a_replica(dir: &Path) -> Plan {
    let mut plan = Plan::importer(dir, Files::All);
    plan.config.imports[0].replicas = 1;
    plan
}

/// An importer that published `file` with two contents, and the trees of both.
async fn published(dir: &Path) -> Result<(TestNode, [String; 2]), Failure> {
    fs_err::write(dir.join("file"), "one")?;
    let node = Plan::importer(dir, Files::All).start().await;
    node.import().await;
    let first = node.tree().expect("a tree");
    fs_err::write(dir.join("file"), "and two")?;
    node.import().await;
    let second = node.tree().expect("a tree");
    Ok((node, [first, second]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_published_is_held_until_import_and_key_are_gone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (node, _) = published(dir.path()).await?;
    let own = [node.plan.key().to_string()];
    let node = node.stop().await.start().await;
    assert_eq!(held(&node, "own/"), own, "it is imported");

    let node = without_import(node).await;
    assert_eq!(held(&node, "own/"), own, "the key is there");

    // It cannot be told whose a key is that cannot be read.
    Keys::new(&node.plan.config.state_dir).create("other")?;
    let file = key_file(&node.plan);
    fs_err::rename(&file, file.with_file_name("aside"))?;
    let other = file.with_file_name("other.key");
    let mode = |mode| fs_err::set_permissions(&other, std::fs::Permissions::from_mode(mode));
    mode(0o644)?;
    let node = node.stop().await.start().await;
    assert_eq!(held(&node, "own/"), own, "a key cannot be read");

    mode(0o600)?;
    let node = node.stop().await.start().await;
    assert_eq!(held(&node, "own/"), [""; 0], "nothing explains it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_writer_left_beside_the_keys_is_gone_after_a_start() -> TestResult {
    let plan = Plan::new();
    Keys::new(&plan.config.state_dir).create("k")?;
    let stray = key_file(&plan).with_file_name(".k.new-17");
    fs_err::copy(key_file(&plan), &stray)?;
    let plan = plan.start().await.stop().await;
    assert!(!stray.exists());
    assert!(key_file(&plan).exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_tree_of_a_name_that_is_followed_is_held_and_an_older_one_is_not() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (node, [first, second]) = published(dir.path()).await?;
    let key = node.plan.key();
    let label = format!("own/{key}");
    let mut plan = node.stop().await;
    // The import moved to another machine, with its key; this one follows it.
    fs_err::remove_file(key_file(&plan))?;
    plan.config.imports.clear();
    plan.config.mirrors[0].importers = vec![key];
    let node = plan.start().await;
    assert_eq!(node.tree(), Some(second.clone()));
    assert_eq!(held(&node, "own/"), [key.to_string()]);
    assert!(
        node.node
            .store()
            .retained()?
            .contains(&(label.clone(), second.parse()?))
    );

    node.node.store().retain(&label, &first.parse()?)?;
    let node = node.stop().await.start().await;
    assert_eq!(
        held(&node, "own/"),
        [""; 0],
        "it has published something else since"
    );
    assert_eq!(node.tree(), Some(second));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_waits_is_held_until_its_import_is_gone_which_may_come_back() -> TestResult {
    let dir = tempfile::tempdir()?;
    let show = |state: &str| fs_err::write(dir.path().join("file"), state);
    show("one")?;
    let node = wants_a_replica(dir.path()).start().await;
    node.import().await;
    show("and two")?;
    let coming = waits(&node).await;
    let labels = held(&node, "coming/");
    assert_eq!(labels.len(), 2, "{labels:?}");
    let node = node.stop().await.start().await;
    assert_eq!(held(&node, "coming/"), labels);
    assert_eq!(status(&node).await.unwrap().tree, Some(coming.clone()));

    let (imports, mirrors) = (node.plan.config.imports.clone(), node.plan.config.mirrors.clone());
    let node = without_import(node).await;
    assert_eq!(held(&node, "coming/"), [""; 0]);
    assert!(node.node.store().state_list("coming/")?.is_empty());
    let mut plan = node.stop().await;
    (plan.config.imports, plan.config.mirrors) = (imports, mirrors);
    let node = plan.start().await;
    assert_eq!(status(&node).await.unwrap().tree, None, "nothing waits");
    assert_eq!(waits(&node).await, coming, "it waits again");
    Ok(())
}

/// Starts a copy of `plan` of which `left` steps reach the disk; whether something is left, and how many steps are.
async fn start_until(plan: &Plan, left: usize) -> Result<(Plan, bool, usize), Failure> {
    let mut copy = Plan::new();
    copy_folder(plan.home.path(), copy.home.path());
    let gate = StopAt::never(Then::Fails(std::io::ErrorKind::StorageFull));
    gate.left.store(left, Ordering::SeqCst);
    copy.config.tuning.steps = Some(Arc::<StopAt>::clone(&gate));
    let tasks = Tasks::new();
    let started = Node::start(copy.config.clone(), Online::Yes, &tasks, copy.clock.clone()).await;
    let left = gate.left.load(Ordering::SeqCst);
    // An index whose write failed says nothing more: something may be left.
    let some = started.as_ref().is_ok_and(|node| {
        let own = |label: &str| label.starts_with("own/") || label.starts_with("coming/");
        let labels = node.store().retained();
        labels.map_or(true, |labels| labels.iter().any(|(label, _)| own(label)))
    });
    drop(started);
    assert!(tasks.shutdown(SOON).await.is_empty());
    copy.config.tuning = Tuning::default();
    Ok((copy, some, left))
}

/// Each step fails once; the start goes on, and the next one ends the work. An import that comes back goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_step_is_made_up_for_at_the_next_start() -> TestResult {
    let dir = tempfile::tempdir()?;
    let show = |state: &str| fs_err::write(dir.path().join("file"), state);
    show("one")?;
    let node = wants_a_replica(dir.path()).start().await;
    node.import().await;
    show("and two")?;
    waits(&node).await;
    let plan = node.stop().await;
    let aside = |plan: &Plan| key_file(plan).with_file_name("aside");
    fs_err::rename(key_file(&plan), aside(&plan))?;

    // From its end backwards, since the steps of opening come first.
    let all = usize::MAX / 2;
    let (_, some, left) = start_until(&plan, all).await?;
    assert!(!some, "all of it is let go of");
    let mut stops = 0;
    for step in (0..=all - left).rev().take(12) {
        let (mut copy, some, _) = start_until(&plan, step).await?;
        stops += usize::from(some);
        copy.config.mirrors.clear();
        let node = copy.start().await;
        assert_eq!(held(&node, "coming/"), [""; 0], "step {step}");
        assert_eq!(held(&node, "own/"), [""; 0], "step {step}");
        let mut copy = node.stop().await;
        fs_err::rename(aside(&copy), key_file(&copy))?;
        copy.config.imports.clone_from(&plan.config.imports);
        copy.config.mirrors.clone_from(&plan.config.mirrors);
        let node = copy.start().await;
        assert_eq!(status(&node).await.unwrap().tree, None, "step {step}");
        waits(&node).await;
        node.stop().await;
    }
    assert!(stops > 2, "{stops} stops");
    Ok(())
}
