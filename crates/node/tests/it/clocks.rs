//! A node whose clock is wrong, or whose machine slept: nothing older is given, and it is over when the clock is right.

use std::time::{Duration, SystemTime};

use pacstore_import::Files;
use pacstore_node::{Answer, Outcome};
use pacstore_runtime::Clock;
use pacstore_testkit::{Fault, Repo, RepoSpec, Request, TestResult, Upstream};

use crate::nodes::{Failure, NAME, Plan, SOON, TestNode, copy_folder};
use crate::solo::{on_disk, solo};

const DAY: Duration = Duration::from_hours(24);

/// What is wrong with the clock, and whether the daemon is started anew under it.
#[derive(Clone, Copy, Debug)]
struct Wrong {
    ahead: bool,
    restart: bool,
}

impl Wrong {
    fn all() -> impl Iterator<Item = Self> {
        let both = [false, true];
        both.into_iter()
            .flat_map(move |ahead| both.map(|restart| Self { ahead, restart }))
    }

    fn time(self, right: SystemTime) -> SystemTime {
        if self.ahead {
            right + 365 * DAY
        } else {
            right - DAY
        }
    }

    async fn perhaps_restarted(self, node: TestNode) -> TestNode {
        if self.restart {
            node.stop().await.start().await
        } else {
            node
        }
    }
}

/// The database and what pacman is told of its time; none if pacman is sent to the mirror for it, or on where that is silent.
async fn database(node: &TestNode, mirror: &Upstream) -> Option<(Vec<u8>, SystemTime)> {
    node.rested().await;
    match node.pacman(1, "core.db").await {
        Answer::File(file) => {
            let bytes = node.part(&file, 0, file.len).await.unwrap();
            Some((bytes, file.last_modified.unwrap()))
        }
        Answer::Redirect(url) => {
            assert_eq!(url.as_str(), mirror.url("core.db"));
            None
        }
        Answer::NotNow(_) => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_gives_nothing_older_without_importer_and_is_over_when_it_is_right() -> TestResult {
    for wrong in Wrong::all() {
        let right = SystemTime::now();
        let (before, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 3_000))?;
        copy_folder(dir.path(), before.path());
        repo.update(&["pkg0"])?;
        let mirror = Upstream::folder(dir.path())?;
        let (clock, hand) = Clock::fake(right);
        let node = solo(&[&mirror]).clock(&clock).start().await;
        let (bytes, first) = database(&node, &mirror).await.ok_or("the first")?;
        assert!(bytes == on_disk(&repo, "core.db"));

        // The clock goes wrong, and the mirror back.
        hand.set(wrong.time(right));
        let node = wrong.perhaps_restarted(node).await;
        let newest = tempfile::tempdir()?;
        copy_folder(dir.path(), newest.path());
        copy_folder(before.path(), dir.path());
        if let Some((given, time)) = database(&node, &mirror).await {
            assert!(given == bytes && time == first, "{wrong:?}: not the older one");
        } else {
            assert!(wrong.ahead, "a day less is no reason to doubt what is here");
        }
        copy_folder(newest.path(), dir.path());
        repo.update(&["pkg1"])?;
        let (bytes, second) = database(&node, &mirror).await.ok_or("the second")?;
        assert!(bytes == on_disk(&repo, "core.db") && first < second, "{wrong:?}");

        // Right again, and nobody to ask.
        mirror.fault("*", Fault::NoAnswer);
        hand.set(right + Duration::from_mins(1));
        let node = wrong.perhaps_restarted(node).await;
        let given = database(&node, &mirror).await;
        if let Some((given, time)) = &given {
            assert!(*given == bytes && *time == second, "{wrong:?}");
        }
        if wrong.ahead && wrong.restart {
            // That a mirror confirmed it in a year says nothing.
            assert!(given.is_none(), "{:?}", node.state().await);
            assert_eq!(node.state().await.0, "refused");
        }
        mirror.heal();
        repo.update(&["pkg0"])?;
        let (bytes, third) = database(&node, &mirror).await.ok_or("the third")?;
        assert!(bytes == on_disk(&repo, "core.db") && second < third, "{wrong:?}");
        assert_eq!(
            node.state().await,
            ("current".to_owned(), String::new()),
            "{wrong:?}"
        );
        for package in ["pkg0", "pkg1"] {
            assert!(node.pacman_bytes(&repo.file_name(package)?).await? == repo.bytes(package)?);
        }
        node.stop().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_gives_nothing_older_with_an_importer_and_is_over_when_it_is_right() -> TestResult {
    for wrong in Wrong::all() {
        let right = SystemTime::now();
        let dir = tempfile::tempdir()?;
        let mut repo = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 3_000))?;
        let mirror = Upstream::folder(dir.path())?;
        let importer = Plan::importer(dir.path(), Files::Listed).start().await;
        importer.import().await;
        let (clock, hand) = Clock::fake(right);
        let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
        let client = plan.upstream(&mirror).clock(&clock).start().await;
        client.follows(&importer).await;
        let (old, first) = (on_disk(&repo, "core.db"), client.tree());
        assert!(client.get("core/core.db").await? == old);
        let old_package = repo.file_name("pkg0")?;
        let old_bytes = repo.bytes("pkg0")?;

        hand.set(wrong.time(right));
        let client = wrong.perhaps_restarted(client).await;
        client.connected().await;
        repo.update(&["pkg0"])?;
        importer.import().await;
        let new = on_disk(&repo, "core.db");
        client.refresh().await;
        if wrong.ahead {
            // By this clock every record is over, so no head is taken; what is here is too old to be given.
            assert_eq!(client.tree(), first, "{wrong:?}");
            match client.ask(1, "core/core.db").await {
                Answer::Redirect(url) => assert_eq!(url.as_str(), mirror.url("core/core.db")),
                other => panic!("{wrong:?}: {other:?}"),
            }
            let package = client.get(&format!("core/{old_package}")).await?;
            assert!(package == old_bytes, "packages have no age");
        } else {
            client.follows(&importer).await;
            assert!(client.get("core/core.db").await? == new, "{wrong:?}");
        }

        hand.set(right + Duration::from_mins(1));
        let client = wrong.perhaps_restarted(client).await;
        client.connected().await;
        client.refresh().await;
        client.follows(&importer).await;
        assert!(client.get("core/core.db").await? == new, "{wrong:?}");
        let status = &client.node.status(None).await.mirrors[0];
        assert_eq!(status.state, "current", "{wrong:?}: {status:?}");
        // Nothing is kept until the time that it was believed to be.
        client.node.gc(None).await?;
        hand.advance(2 * DAY);
        client.node.gc(None).await?;
        assert_eq!(client.node.status(None).await.mirrors[0].heads, 1, "{wrong:?}");
        client.stop().await;
        importer.stop().await;
    }
    Ok(())
}

/// Timers stand still while a machine sleeps: mirrors are asked after it wakes up, and not half an hour later.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_sleep_mirrors_are_asked_before_pacman_asks() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let node = solo(&[&mirror]).clock(&clock).start().await;
    let old = node.pacman_bytes("core.db").await?;
    node.rested().await;
    repo.update(&["pkg0"])?;
    mirror.clear_log();
    hand.advance(Duration::from_hours(8));
    mirror
        .wait_for(2 * SOON, |log| {
            // The signature that is asked for beside a database which did change is not taken: it comes once more.
            let mut whole = log.iter().filter(|one| one.complete);
            let anew = |one: &Request| one.if_none_match.is_none() && one.if_modified_since.is_none();
            whole.clone().any(|one| one.path.ends_with("/core.db"))
                && whole.any(|one| one.path.ends_with("/core.db.sig") && anew(one))
        })
        .await?;
    mirror.stop();
    let new = on_disk(&repo, "core.db");
    let arrived = async {
        loop {
            let given = node.pacman_bytes("core.db").await.unwrap();
            if given == new {
                return;
            }
            assert!(given == old);
        }
    };
    tokio::time::timeout(SOON, arrived).await?;
    Ok(())
}

/// A snapshot of that time is kept as long as others from then on, also over a restart.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_clock_that_ran_ahead_published_stays_no_longer_than_other_snapshots() -> TestResult {
    let (dir, right) = (tempfile::tempdir()?, SystemTime::now());
    let (clock, hand) = Clock::fake(right + 365 * DAY);
    let mut plan = Plan::importer(dir.path(), Files::All).clock(&clock);
    (plan.config.imports[0].keep.age, plan.config.imports[0].keep.count) = (7 * DAY, 1);
    let node = plan.start().await;
    fs_err::write(dir.path().join("file"), "one")?;
    assert_eq!(node.import().await.outcome, Outcome::Published);
    hand.set(right);
    node.node.gc(None).await?;
    fs_err::write(dir.path().join("file"), "and two")?;
    assert_eq!(node.import().await.outcome, Outcome::Published);

    let node = node.stop().await.start().await;
    let kept = async |node: &TestNode| {
        node.node.gc(None).await?;
        Ok::<usize, Failure>(node.node.mirror(NAME).expect("it imports").heads().len())
    };
    hand.advance(6 * DAY);
    assert_eq!(kept(&node).await?, 2, "younger than a week");
    hand.advance(2 * DAY);
    assert_eq!(kept(&node).await?, 1, "older than a week");
    Ok(())
}
