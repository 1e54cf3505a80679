//! What is held for imports that are gone is let go of when the daemon starts, and nothing else is.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use pacstore_import::Files;
use pacstore_node::{Keys, Node, Online, Outcome};
use pacstore_runtime::{Clock, Tasks};
use pacstore_store::Tuning;
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::nodes::{Failure, NAME, Plan, SOON, TestNode, copy_folder};
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
async fn an_import_that_is_taken_out_keeps_its_newest_snapshot_and_the_others_for_a_week() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (node, [first, second]) = published(dir.path()).await?;
    let (imports, mirrors) = (node.plan.config.imports.clone(), node.plan.config.mirrors.clone());
    let brought = held(&node, "import/");
    assert!(!brought.is_empty());
    let node = without_import(node).await;
    let snapshots = |node: &TestNode| BTreeSet::from_iter(held(node, &format!("head/{NAME}/")));
    assert_eq!(snapshots(&node), BTreeSet::from([first, second.clone()]));

    let mut plan = node.stop().await;
    plan.clock = Clock::fake(SystemTime::now() + Duration::from_hours(8 * 24)).0;
    let node = plan.start().await;
    assert_eq!(snapshots(&node), BTreeSet::from([second.clone()]));
    assert_eq!(held(&node, "import/"), brought);

    let mut plan = node.stop().await;
    (plan.config.imports, plan.config.mirrors) = (imports, mirrors);
    let node = plan.start().await;
    assert_eq!(node.tree(), Some(second), "it came back");
    assert_eq!(node.get("file").await?, b"and two");
    assert_eq!(
        node.round().await.outcome,
        Outcome::Unchanged,
        "what it brought is known"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_import_that_cannot_come_back_only_directories_of_the_newest_snapshot_stay() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (node, [_, second]) = published(dir.path()).await?;
    let (imports, mirrors) = (node.plan.config.imports.clone(), node.plan.config.mirrors.clone());
    let all = |node: &TestNode| ["head/", "nodes/head/", "import/"].map(|prefix| held(node, prefix));
    let before = all(&node);
    // Any key may be that of the import.
    let keys = Keys::new(&node.plan.config.state_dir);
    keys.create("other")?;
    let file = key_file(&node.plan);
    let (aside, other) = (file.with_file_name("aside"), file.with_file_name("other.key"));
    fs_err::rename(&file, &aside)?;
    let node = without_import(node).await;
    assert_eq!(all(&node), before);

    fs_err::remove_file(other)?;
    let node = node.stop().await.start().await;
    let newest = format!("{NAME}/{second}");
    assert_eq!(all(&node), [vec![], vec![newest], vec![]]);
    node.node.gc(Some(0)).await?;
    assert_eq!(node.node.store().stats().files, 0, "gc can free all of it");

    // It comes back all the same, with its last head.
    fs_err::rename(aside, file)?;
    let mut plan = node.stop().await;
    (plan.config.imports, plan.config.mirrors) = (imports, mirrors);
    let node = plan.start().await;
    assert_eq!(node.tree(), Some(second.clone()));
    node.import().await;
    assert_eq!(node.tree(), Some(second));
    assert_eq!(node.get("file").await?, b"and two");
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
    assert_eq!(held(&node, "import/"), [""; 0], "it is imported elsewhere");
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
        let ours = ["own/", "coming/", "head/", "import/"];
        let own = |label: &str| ours.iter().any(|prefix| label.starts_with(prefix));
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
    for step in (0..=all - left).rev().take(40) {
        let (mut copy, some, _) = start_until(&plan, step).await?;
        stops += usize::from(some);
        copy.config.mirrors.clear();
        let node = copy.start().await;
        assert_eq!(held(&node, "coming/"), [""; 0], "step {step}");
        for gone in ["own/", "head/", "import/"] {
            assert_eq!(held(&node, gone), [""; 0], "step {step}");
        }
        let mut copy = node.stop().await;
        fs_err::rename(aside(&copy), key_file(&copy))?;
        copy.config.imports.clone_from(&plan.config.imports);
        copy.config.mirrors.clone_from(&plan.config.mirrors);
        let node = copy.start().await;
        assert_eq!(status(&node).await.unwrap().tree, None, "step {step}");
        waits(&node).await;
        node.stop().await;
    }
    assert!(stops > 10, "{stops} stops");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_that_clients_used_are_held_only_while_their_mirror_is_followed() -> TestResult {
    let client = |name: &str| {
        let mut plan = Plan::client(Vec::new(), Vec::new());
        plan.config.mirrors[0].name = name.parse().unwrap();
        plan
    };
    let node = client("gone.example").start().await;
    let empty_file: cid::Cid = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".parse()?;
    let label = |name: &str| format!("used/{name}/core/os/x86_64/core.db");
    for name in ["gone.example", "here.example"] {
        node.node.store().retain(&label(name), &empty_file)?;
    }
    let mut plan = node.stop().await;
    plan.config.mirrors = client("here.example").config.mirrors;
    let node = plan.start().await;
    assert_eq!(held(&node, "used/"), ["here.example/core/os/x86_64/core.db"]);
    Ok(())
}

/// Of a repository that upstream gave up a client keeps nothing for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_the_newest_tree_has_no_more_is_held_no_longer() -> TestResult {
    let dir = tempfile::tempdir()?;
    let folder = |name: &str| dir.path().join(name).join("os/x86_64");
    for name in ["community", "core"] {
        Repo::create(folder(name), RepoSpec::new(name).packages(2, 600))?;
    }
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    let client = client.start().await;
    client.follows(&importer).await;
    for name in ["community", "core"] {
        client.get(&format!("{name}/os/x86_64/{name}.db")).await?;
    }
    let all = |name: &str| {
        let path = format!("{NAME}/{name}/os/x86_64/{name}.db");
        [path.clone(), format!("{path}.sig")]
    };
    // With the next tree their signatures are held, too.
    let mut core = Repo::create(folder("core"), RepoSpec::new("core").packages(2, 600))?;
    core.update(&["pkg0"])?;
    importer.import().await;
    client.follows(&importer).await;
    assert_eq!(held(&client, "used/"), [all("community"), all("core")].concat());
    fs_err::remove_dir_all(dir.path().join("community"))?;
    importer.import().await;
    client.follows(&importer).await;
    assert_eq!(held(&client, "used/"), all("core"));
    Ok(())
}
