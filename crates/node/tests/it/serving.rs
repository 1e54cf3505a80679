//! What one pacman run gets while heads move and age.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pacstore_import::Files;
use pacstore_node::Answer;
use pacstore_runtime::Clock;
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::nodes::{NAME, Plan, TestNode};

const HOUR: Duration = Duration::from_hours(1);

async fn modified(node: &TestNode, name: &str) -> SystemTime {
    node.file(name)
        .await
        .last_modified
        .expect("a database has a time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stays_with_its_head_until_it_asks_for_a_database_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 30_000))?;
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    client.follows(&importer).await;
    let old_db = client.file("core.db").await.root;
    let old_sig = client.file("core.db.sig").await.root;
    let old_name = repo.file_name("pkg0")?;
    let old_bytes = repo.bytes("pkg0")?;

    repo.update(&["pkg0"])?;
    importer.import().await;
    client.follows(&importer).await;
    assert_eq!(
        client.file("core.db.sig").await.root,
        old_sig,
        "the pair stays together"
    );
    assert!(
        client.get(&old_name).await? == old_bytes,
        "its package is still given"
    );
    let Answer::File(other) = client.ask(2, "core.db.sig").await else {
        panic!("another client gets the new one");
    };
    assert_ne!(other.root, old_sig);
    assert_ne!(
        client.file("core.db").await.root,
        old_db,
        "a new -Sy is a new run"
    );
    assert_ne!(client.file("core.db.sig").await.root, old_sig);
    assert!(
        client.get(&old_name).await? == old_bytes,
        "older heads keep packages that were served"
    );
    assert!(client.get(&repo.file_name("pkg0")?).await? == repo.bytes("pkg0")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_database_is_upstreams_and_grows_with_every_change() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let first = modified(&importer, "core.db").await;
    assert_eq!(
        first,
        UNIX_EPOCH + Duration::from_secs(repo.time()),
        "upstream's own, not that of the import"
    );
    assert_eq!(
        modified(&importer, "core.db.sig").await,
        first,
        "one time for the pair"
    );
    let files = modified(&importer, "core.files").await;
    assert_eq!(modified(&importer, "core.files.sig").await, files);

    repo.update(&["pkg1"])?;
    importer.import().await;
    let second = modified(&importer, "core.db").await;
    assert!(second > first);
    assert_eq!(modified(&importer, "core.db.sig").await, second);

    // Other bytes with an older time: still later for pacman, and so after a restart.
    repo.update(&["pkg0"])?;
    let past = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["core.db", "core.db.sig", "core.files", "core.files.sig"] {
        fs_err::File::open(dir.path().join(name))?
            .file()
            .set_modified(past)?;
    }
    importer.import().await;
    let third = modified(&importer, "core.db").await;
    assert_eq!(third, second + Duration::from_secs(1));
    assert_eq!(modified(&importer, "core.db.sig").await, third);
    let importer = importer.stop().await.start().await;
    assert_eq!(
        modified(&importer, "core.db").await,
        third,
        "the same after a restart"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_database_warns_then_leads_to_the_mirror_or_is_not_there() -> TestResult {
    for with_mirror in [false, true] {
        let dir = tempfile::tempdir()?;
        let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
        let mirror = Upstream::folder(dir.path())?;
        let (clock, hand) = Clock::fake(SystemTime::now());
        let mut plan = Plan::importer(dir.path(), Files::Listed).clock(&clock);
        if with_mirror {
            plan = plan.upstream(&mirror);
        }
        let importer = plan.start().await;
        importer.import().await;
        let state = async || importer.node.status(None).await.mirrors[0].state.clone();
        assert_eq!(state().await, "current");
        hand.advance(5 * HOUR);
        assert_eq!(state().await, "current");
        hand.advance(2 * HOUR);
        assert_eq!(state().await, "warn");
        importer.file("core.db").await;
        hand.advance(18 * HOUR);
        assert_eq!(state().await, "refused");
        for name in ["core.db", "core.db.sig", "core.files"] {
            match importer.ask(1, name).await {
                Answer::Redirect(url) if with_mirror => assert_eq!(url.as_str(), mirror.url(name)),
                Answer::NotFound(why) if !with_mirror => assert!(why.contains("limit"), "{why}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        importer.get(&repo.file_name("pkg0")?).await?;
        importer.import().await;
        assert_eq!(
            state().await,
            "current",
            "looked at again: fresh again, though nothing changed"
        );
        importer.file("core.db").await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_package_leads_to_the_mirror_if_there_is_one_and_an_unknown_file_does_not() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 5_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let importer = Plan::importer(dir.path(), Files::Listed)
        .upstream(&mirror)
        .start()
        .await;
    importer.import().await;
    let package = "newer-2.0-1-x86_64.pkg.tar.zst";
    match importer.ask(1, package).await {
        Answer::Redirect(url) => assert_eq!(url.as_str(), mirror.url(package)),
        other => panic!("{other:?}"),
    }
    for name in ["nothing", "other.db", "core/nothing.txt", "x.pkg.tar.zst"] {
        assert!(
            matches!(importer.ask(1, name).await, Answer::NotFound(_)),
            "{name}"
        );
    }
    assert_eq!(mirror.log().len(), 0, "nobody was asked");
    let nobody = Plan::client(vec![], vec![]).start().await;
    assert!(matches!(nobody.ask(1, "core.db").await, Answer::NotFound(_)));
    assert!(nobody.node.mirror("other.mirror").is_none() && nobody.node.mirror(NAME).is_some());
    Ok(())
}

/// Old heads go when the policy lets them, but not while they were served within 24 h.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_was_served_stays_for_a_day_and_then_goes() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 30_000))?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let mut plan = Plan::importer(dir.path(), Files::Listed).clock(&clock);
    plan.config.imports[0].keep.count = 1;
    plan.config.imports[0].max_age = None;
    plan.config.max_size = 0;
    let importer = plan.start().await;
    importer.import().await;
    let old = repo.file_name("pkg0")?;
    importer.file("core.db").await;
    repo.update(&["pkg0"])?;
    importer.import().await;
    importer.node.gc(None).await?;
    let mirror = importer.node.mirror(NAME).unwrap();
    assert_eq!(mirror.heads().len(), 2, "it was served");
    importer.get(&old).await?;
    hand.advance(25 * HOUR);
    importer.node.gc(None).await?;
    // This client's run began long ago by the wall clock, but its ten minutes are not over.
    let kept = mirror.heads().len();
    importer.file("core.db").await;
    importer.node.gc(None).await?;
    assert_eq!((kept, mirror.heads().len()), (2, 1));
    assert!(matches!(importer.ask(3, &old).await, Answer::NotFound(_)));
    Ok(())
}
