//! An importer that nobody looks after: who is told, what is confirmed, what waits, what is unwell.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use pacstore_import::{Files, Source};
use pacstore_node::config::{AlertConfig, Every};
use pacstore_node::{Alert, AlertKind, Outcome, Status, Unwell, metrics};
use pacstore_runtime::{Clock, Pool};
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::nodes::{NAME, Plan, TestNode};

/// How long a worker that looks every few seconds may take on a busy machine.
const LOOKS: Duration = Duration::from_mins(1);

/// Where the clocks of these tests begin, in seconds since 1970.
const START: u64 = 1_800_000_000;

/// Waits until `holds`, looking again and again.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        tokio::time::timeout(LOOKS, reached).await.is_ok(),
        "never: {what}"
    );
}

/// Alerts go to `file`, one JSON a line, as soon as something is wrong.
pub(crate) fn told_in(file: &Path) -> AlertConfig {
    let script = format!("cat >> {0}; echo >> {0}", file.display());
    AlertConfig {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script],
        after: Duration::ZERO,
        torn: Duration::ZERO,
        disk_free: 0,
        ..AlertConfig::default()
    }
}

pub(crate) fn told(file: &Path) -> Vec<(AlertKind, String)> {
    let text = fs_err::read_to_string(file).unwrap_or_default();
    let alerts = text.lines().filter(|line| !line.is_empty());
    let parsed = alerts.map(|line| serde_json::from_str::<Alert>(line).unwrap());
    parsed.map(|alert| (alert.kind, alert.key)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_fails_is_told_once_over_a_restart_and_its_recovery_too() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (mirror, aside, file) = (
        dir.path().join("m"),
        dir.path().join("aside"),
        dir.path().join("told"),
    );
    Repo::create(&mirror, RepoSpec::new("core").packages(2, 5_000))?;
    let mut plan = Plan::importer(&mirror, Files::Listed);
    plan.config.imports[0].every = Every::Period(Duration::from_secs(1));
    plan.config.alert = told_in(&file);
    let importer = plan.start().await;
    until("a first tree", async || importer.tree().is_some()).await;

    fs_err::rename(&mirror, &aside)?;
    let error = (AlertKind::Error, format!("round/{NAME}"));
    until("the error is told", async || told(&file).contains(&error)).await;
    let open = importer.node.status(None).await.alerts;
    let open = open.iter().find(|one| one.key == error.1).ok_or("it is open")?;
    assert!(
        open.told && open.text.contains(&*mirror.to_string_lossy()) && open.text.contains("No such file"),
        "it says why: {open:?}"
    );
    // A restart in the middle of it, and a while in which the next look could tell it again.
    let importer = importer.stop().await.start().await;
    let failures = |status: &Status| status.imports[0].failures;
    let before = failures(&importer.node.status(None).await);
    assert!(before > 0, "the failures are remembered");
    until("another round fails", async || {
        failures(&importer.node.status(None).await) > before
    })
    .await;
    fs_err::rename(&aside, &mirror)?;
    let recovery = (AlertKind::Recovery, error.1.clone());
    until("the recovery is told", async || told(&file).contains(&recovery)).await;
    assert_eq!(told(&file), [error, recovery], "each once");
    importer.stop().await;
    Ok(())
}

/// Each waits until the other one runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_takes_long_holds_up_no_other() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mirror = dir.path().join("m");
    Repo::create(&mirror, RepoSpec::new("core").packages(1, 5_000))?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let begun = dir.path().join("begun");
    let script = |own: &str, other: &str| {
        let (all, own, other) = (begun.display(), path(own), path(other));
        format!(
            "#!/bin/sh\ncat > {own}; echo >> {all}\nuntil test -e {other}; do sleep 0.02; done\ntouch {own}.done\n"
        )
    };
    let sendmail = dir.path().join("sendmail");
    fs_err::write(&sendmail, script("mail", "command"))?;
    fs_err::set_permissions(&sendmail, Permissions::from_mode(0o755))?;
    let mut plan = Plan::importer(&mirror, Files::Listed);
    plan.config.alert = AlertConfig {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script("command", "mail")],
        mail: Some("root@localhost".to_owned()),
        sendmail,
        ..told_in(&begun)
    };
    let importer = plan.start().await;
    fs_err::remove_file(importer.plan.home.path().join("state/keys/k.key"))?;
    until("both have taken it", async || {
        ["mail.done", "command.done"]
            .iter()
            .all(|name| dir.path().join(name).exists())
    })
    .await;
    assert_eq!(fs_err::read_to_string(&begun)?.lines().count(), 2, "each at once");
    importer.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_is_told_and_no_new_one_is_made() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (mirror, file) = (dir.path().join("m"), dir.path().join("told"));
    Repo::create(&mirror, RepoSpec::new("core").packages(1, 5_000))?;
    let mut plan = Plan::importer(&mirror, Files::Listed);
    plan.config.alert = told_in(&file);
    let importer = plan.start().await;
    let key = importer.plan.home.path().join("state/keys/k.key");
    let saved = fs_err::read(&key)?;
    fs_err::remove_file(&key)?;
    until("the loss is told", async || {
        told(&file).contains(&(AlertKind::Error, format!("key/{NAME}")))
    })
    .await;
    importer.import().await;
    let plan = importer.stop().await;
    let tasks = pacstore_runtime::Tasks::new();
    let start = pacstore_node::Node::start(
        plan.config.clone(),
        pacstore_node::Online::Yes,
        &tasks,
        Clock::system(),
    );
    let error = start.await.expect_err("it cannot sign");
    assert!(
        error.hint().unwrap_or_default().contains("restore it"),
        "{error:?}"
    );
    assert!(!key.exists(), "no new key was made");
    tasks.shutdown(Duration::from_secs(5)).await;
    fs_err::write(&key, saved)?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    plan.start().await.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_that_gives_nothing_to_others_says_so() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (mirror, file) = (dir.path().join("m"), dir.path().join("told"));
    Repo::create(&mirror, RepoSpec::new("core").packages(1, 5_000))?;
    let mut plan = Plan::importer(&mirror, Files::Listed);
    plan.config.alert = told_in(&file);
    plan.config.sharing.enable = false;
    let importer = plan.start().await;
    let warning = (AlertKind::Warning, format!("share/{NAME}"));
    until("it is told", async || told(&file).contains(&warning)).await;
    let open = importer.node.status(None).await.alerts;
    assert!(open.iter().any(|one| one.key == warning.1), "{open:?}");
    let mut plan = importer.stop().await;
    plan.config.sharing.enable = true;
    let importer = plan.start().await;
    let over = (AlertKind::Recovery, warning.1);
    until("its end is told", async || told(&file).contains(&over)).await;
    importer.stop().await;
    Ok(())
}

fn checked(importer: &TestNode) -> Vec<(String, u64)> {
    let head = importer.node.mirror(NAME).unwrap().current().unwrap();
    let repositories = head.head.repositories.iter();
    repositories.map(|one| (one.name.clone(), one.checked)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_repository_does_not_keep_the_others_from_being_confirmed() -> TestResult {
    let dir = tempfile::tempdir()?;
    let core = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 5_000))?;
    Repo::create(
        dir.path().join("extra"),
        RepoSpec::new("extra").packages(2, 5_000),
    )?;
    let start = UNIX_EPOCH + Duration::from_secs(START);
    let (clock, hand) = Clock::fake(start);
    let importer = Plan::importer(dir.path(), Files::Listed)
        .clock(&clock)
        .start()
        .await;
    importer.import().await;
    core.lose_package("pkg0")?;
    assert_eq!(importer.round().await.outcome, Outcome::Torn);
    hand.advance(Duration::from_mins(31));
    assert_eq!(importer.round().await.outcome, Outcome::Torn);
    let late = 1_800_000_000 + 31 * 60;
    let got = checked(&importer);
    assert_eq!(
        got,
        [("core".to_owned(), 1_800_000_000), ("extra".to_owned(), late)]
    );
    // Not a new head for each round.
    hand.advance(Duration::from_mins(1));
    importer.round().await;
    assert_eq!(checked(&importer), got);
    importer.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_ran_a_year_ahead_leaves_no_head_from_the_future() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let start = UNIX_EPOCH + Duration::from_secs(START);
    let (clock, hand) = Clock::fake(start);
    let importer = Plan::importer(dir.path(), Files::Listed)
        .clock(&clock)
        .start()
        .await;
    importer.import().await;
    let tree = importer.tree();
    hand.set(start + Duration::from_hours(24 * 365));
    importer.import().await;
    assert!(checked(&importer)[0].1 > 1_830_000_000, "it believes its clock");
    hand.set(start + Duration::from_mins(1));
    importer.import().await;
    assert_eq!(checked(&importer)[0].1, 1_800_000_060, "and mends what it said");
    assert_eq!(importer.tree(), tree, "over the same tree");
    importer.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_rounds_wait_while_the_machine_suffers_and_asked_ones_do_not() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (mirror, kernel) = (dir.path().join("m"), dir.path().join("pressure"));
    let mut repo = Repo::create(&mirror, RepoSpec::new("core").packages(2, 5_000))?;
    fs_err::create_dir(&kernel)?;
    let say = |percent: u32| {
        let line = format!("some avg10={percent}.00 avg60=0.00\nfull avg10={percent}.00 avg60=0.00\n");
        fs_err::write(kernel.join("new"), line)?;
        fs_err::rename(kernel.join("new"), kernel.join("io"))
    };
    say(0)?;
    let mut plan = Plan::importer(&mirror, Files::Listed);
    plan.config.imports[0].every = Every::Period(Duration::from_secs(1));
    plan.config.importing.pressure = Some(kernel.clone());
    let importer = plan.start().await;
    let all = importer.node.tasks().room(Pool::Hash);
    until("a first tree", async || importer.tree().is_some()).await;
    let first = importer.tree();

    say(90)?;
    let busy = async || {
        let status = importer.node.status(None).await;
        status.pressure.eased
            && status.pressure.waits
            && status.imports[0].waits.as_deref() == Some("the machine to be less busy")
    };
    until("a round waits", busy).await;
    assert_eq!(importer.node.tasks().room(Pool::Hash), all.div_ceil(4));
    repo.update(&["pkg0"])?;
    let asked = importer.import().await;
    assert_ne!(asked.tree, first, "who asks is not kept waiting");
    until("the next one waits again", busy).await;
    repo.update(&["pkg1"])?;
    say(0)?;
    until("it goes on when the machine is calm", async || {
        importer.tree() != asked.tree
    })
    .await;
    assert_eq!(importer.node.tasks().room(Pool::Hash), all);
    importer.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_rounds_at_once_than_allowed() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let mut plan = Plan::importer(dir.path(), Files::Listed);
    plan.config.importing.rounds = 1;
    // A second mirror whose source answers nothing and keeps its connection.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", silent.local_addr()?);
    let mut slow = plan.config.imports[0].clone();
    slow.name = "slow.mirror".parse()?;
    slow.spec.mirror = "slow.mirror".to_owned();
    slow.spec.from = vec![Source::parse(&url)?];
    slow.key = "s".to_owned();
    let key = pacstore_node::Keys::new(&plan.config.state_dir)
        .create("s")?
        .name();
    let mut trusts = plan.config.mirrors[0].clone();
    (trusts.name, trusts.importers) = (slow.name.clone(), vec![key]);
    plan.config.mirrors.push(trusts);
    plan.config.imports.push(slow);
    let importer = plan.start().await;
    let slow = importer.node.import("slow.mirror").expect("it imports");
    let node = importer.node.clone();
    let (slow_, node_) = (Arc::clone(&slow), node.clone());
    node.tasks().spawn("test/slow", async move {
        node_.import_now(&slow_).await;
    });
    let of = async |name: &str| {
        let status = node.status(None).await;
        status.imports.into_iter().find(|one| one.name == name).unwrap()
    };
    until("the slow one runs", async || {
        of("slow.mirror").await.running_s.is_some()
    })
    .await;
    let quick = importer.node.import(NAME).expect("it imports");
    let waiting = node.import_now(&quick);
    tokio::pin!(waiting);
    let mut ended = false;
    until("the other waits for its turn", async || {
        let step = Duration::from_millis(1);
        ended |= tokio::time::timeout(step, &mut waiting).await.is_ok();
        of(NAME).await.waits.as_deref() == Some("its turn")
    })
    .await;
    assert!(!ended, "it must not run beside the other");
    drop(silent);
    let report = tokio::time::timeout(LOOKS, waiting).await?;
    assert_eq!(report.outcome, Outcome::Published, "{report:?}");
    importer.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_hangs_is_unwell_until_it_answers() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    let node = &importer.node;
    until("it is well", async || node.health(LOOKS).await.is_ok()).await;
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    for n in 0..node.tasks().room(Pool::Disk) {
        let gate = Arc::clone(&gate);
        let hangs = node.tasks().blocking(Pool::Disk, move || {
            let open = gate.0.lock().unwrap();
            drop(gate.1.wait_while(open, |open| !*open).unwrap());
        });
        node.tasks()
            .spawn(format!("test/hang {n}"), async move { drop(hangs.await) });
    }
    let unwell = async || {
        matches!(
            node.health(Duration::from_millis(500)).await,
            Err(Unwell::Disk(_))
        )
    };
    until("it is unwell", unwell).await;
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    until("it is well again", async || node.health(LOOKS).await.is_ok()).await;
    importer.stop().await;
    Ok(())
}

/// Names in the first column of the tables of the part `title` of a page.
fn documented(page: &str, title: &str) -> BTreeSet<String> {
    let part = page
        .split("\n## ")
        .find(|part| part.starts_with(title))
        .unwrap_or_default();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split(['`', '{']).next());
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_one_is_there() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let text = metrics::render(&importer.node.status(None).await);
    let of_line = |line: &str| line.split(['{', ' ']).next().map(str::to_owned);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let given: BTreeSet<String> = lines.clone().filter_map(of_line).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs_err::read_to_string(root.join("docs/operating.md"))?;
    assert_eq!(given, documented(&page, "Metrics"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    let published = format!("pacstore_import_rounds_total{{mirror=\"{NAME}\",outcome=\"published\"}} 1");
    assert!(text.contains(&published), "{text}");
    for line in lines {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
    }
    // The board asks for nothing else.
    let board: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(root.join("dist/grafana.json"))?)?;
    let mut asked = BTreeSet::new();
    for panel in board["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("a query");
            let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            asked.extend(
                words
                    .filter(|word| word.starts_with("pacstore_"))
                    .map(str::to_owned),
            );
        }
    }
    assert!(asked.len() > 10, "{asked:?}");
    assert_eq!(
        asked.difference(&given).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    importer.stop().await;
    Ok(())
}
