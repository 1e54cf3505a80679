//! How the mirrors of a repository without importer are asked whether anything changed.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pacstore_node::Answer;
use pacstore_testkit::{At, Fault, Repo, RepoSpec, TestResult, Upstream};

use crate::full::Small;
use crate::nodes::SOON;
use crate::solo::{on_disk, solo};

/// A look ends within this, where one question has no answer: 5 s for it, and some for a busy machine.
const HELD: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn database_and_signature_are_asked_for_together() -> TestResult {
    for signed in [true, false] {
        let dir = tempfile::tempdir()?;
        let mut spec = RepoSpec::new("core").packages(1, 3_000);
        spec.signed = signed;
        let repo = Repo::create(dir.path(), spec)?;
        let mirror = Upstream::folder(dir.path())?;
        let node = solo(&[&mirror]).start().await;
        node.pacman_bytes("core.db").await?;
        node.rested().await;
        mirror.clear_log();
        // The database is not answered, so nothing that comes after its answer can be seen here.
        mirror.fault_times("core.db", 1, Fault::NoAnswer);
        let (given, seen) = tokio::join!(
            node.pacman_bytes("core.db"),
            mirror.wait_for(SOON, |log| {
                log.iter().any(|r| r.path == "/core.db")
                    && log.iter().any(|r| r.path == "/core.db.sig" && r.status != 0)
            })
        );
        seen?;
        assert!(given? == on_disk(&repo, "core.db"), "signed: {signed}");
        let asked = &mirror.requests("core.db.sig")[0];
        assert_eq!(
            (asked.if_none_match.is_some(), asked.status),
            if signed { (true, 304) } else { (false, 404) }
        );
    }
    Ok(())
}

/// Nothing is here yet, and two mirrors are silent in these ways.
async fn pacman_is_sent_only_to_who_says_a_word(one: Fault, other: Fault) -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let package = repo.file_name("pkg0")?;
    let (first, second) = (Upstream::folder(dir.path())?, Upstream::folder(dir.path())?);
    let how = format!("{one:?}, {other:?}");
    first.fault("core.db", one);
    second.fault("core.db", other);
    let node = solo(&[&first, &second]).start().await;
    for name in ["core.db", &package] {
        match node.pacman(1, name).await {
            Answer::NotNow(_) => {}
            sent => panic!("{name} of {how}: {sent:?}"),
        }
        node.rested().await;
    }
    // One that refuses us may give it to pacman.
    second.heal();
    second.fault("core.db", Fault::Status(403));
    for name in ["core.db", &package] {
        match node.pacman(1, name).await {
            Answer::Redirect(url) => assert_eq!(url.as_str(), second.url(name)),
            sent => panic!("{name} of {how}: {sent:?}"),
        }
    }
    Ok(())
}

/// pacman waits ten seconds for nothing at each silent mirror that it is sent to, before its next Server.
#[tokio::test(flavor = "multi_thread")]
async fn pacman_is_not_sent_to_a_mirror_that_did_not_answer_for_a_database() -> TestResult {
    let stalls = || Fault::StallAt(At::Percent(50));
    tokio::try_join!(
        pacman_is_sent_only_to_who_says_a_word(Fault::NoAnswer, Fault::NoAnswer),
        pacman_is_sent_only_to_who_says_a_word(Fault::StallAfterHeader, Fault::NoAnswer),
        pacman_is_sent_only_to_who_says_a_word(Fault::NoAnswer, stalls()),
    )?;
    // Nobody there at all is told at once.
    let dir = tempfile::tempdir()?;
    let gone = Upstream::folder(dir.path())?;
    gone.stop();
    match solo(&[&gone]).start().await.pacman(1, "core.db").await {
        Answer::NotNow(_) => {}
        sent => panic!("{sent:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changed_and_each_file_is_asked_for_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    node.pacman_bytes("core.db").await?;
    node.rested().await;
    mirror.clear_log();
    assert!(node.pacman_bytes("core.db").await? == on_disk(&repo, "core.db"));
    node.rested().await;
    let mut asked: Vec<_> = mirror.log().into_iter().map(|r| (r.path, r.status)).collect();
    asked.sort();
    let once = ["/core.db", "/core.db.sig"].map(|path| (path.to_owned(), 304));
    assert_eq!(asked, once);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_only_signed_anew_is_not_sent_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    let db = node.pacman_bytes("core.db").await?;
    let old = node.pacman_bytes("core.db.sig").await?;
    let new = repo.key().sign(&mut &db[..], repo.time() + 60)?;
    mirror.put("core.db.sig", new.clone())?;
    assert!(new != old);
    node.rested().await;
    mirror.clear_log();
    assert!(node.pacman_bytes("core.db").await? == db);
    assert!(node.pacman_bytes("core.db.sig").await? == new);
    let sent: u64 = mirror.requests("core.db").iter().map(|r| r.sent).sum();
    assert_eq!((sent, node.state().await.0), (0, "current".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_change_between_the_two_questions_and_the_pair_is_of_one_moment() -> TestResult {
    // Whichever of them comes first.
    for at in ["core.db", "core.db.sig"] {
        let dir = tempfile::tempdir()?;
        let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
        let mirror = Arc::new(Upstream::memory()?);
        let put_all = |repo: &Repo| ["core.db", "core.db.sig"].map(|name| (name, on_disk(repo, name)));
        for (name, bytes) in put_all(&repo) {
            mirror.put(name, bytes)?;
        }
        let node = solo(&[&*mirror]).start().await;
        let old = node.pacman_bytes("core.db").await?;
        node.rested().await;
        repo.update(&["pkg0"])?;
        let (new, changed, of_hook) = (put_all(&repo), AtomicBool::new(false), Arc::downgrade(&mirror));
        let to_put = new.clone();
        mirror.on_request(at, move |_| {
            if !changed.swap(true, Ordering::Relaxed)
                && let Some(mirror) = of_hook.upgrade()
            {
                for (name, bytes) in to_put.clone() {
                    mirror.put(name, bytes).unwrap();
                }
            }
        });
        let given = [
            node.pacman_bytes("core.db").await?,
            node.pacman_bytes("core.db.sig").await?,
        ];
        assert!(given[0] != old, "changed at {at}");
        assert!(given == new.map(|(_, bytes)| bytes), "changed at {at}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_hangs_holds_back_a_look_no_longer_than_its_own_limit() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let (hangs, good) = (Upstream::folder(dir.path())?, Upstream::folder(dir.path())?);
    let node = solo(&[&hangs, &good]).start().await;
    node.pacman_bytes("core.db").await?;
    node.rested().await;
    hangs.clear_log();
    hangs.fault("core.db.sig", Fault::NoAnswer);
    let began = Instant::now();
    assert!(node.pacman_bytes("core.db").await? == on_disk(&repo, "core.db"));
    good.wait_for(SOON, |log| log.iter().any(|r| r.path == "/core.db"))
        .await?;
    assert!(began.elapsed() < HELD, "{:?}", began.elapsed());
    assert_eq!(hangs.requests("core.db.sig").len(), 1, "it is not asked again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_refuses_two_questions_at_once_is_asked_again() -> TestResult {
    for fault in [Fault::Status(503), Fault::Hangup] {
        let dir = tempfile::tempdir()?;
        Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
        let mirror = Upstream::folder(dir.path())?;
        let node = solo(&[&mirror]).start().await;
        node.pacman_bytes("core.db").await?;
        node.rested().await;
        mirror.clear_log();
        mirror.fault_times("core.db.sig", 1, fault.clone());
        let Answer::File(_) = node.pacman(1, "core.db").await else {
            panic!("a database")
        };
        assert_eq!(
            node.state().await,
            ("current".to_owned(), String::new()),
            "{fault:?}"
        );
        assert_eq!(mirror.requests("core.db.sig").len(), 2, "{fault:?}");
    }
    Ok(())
}

/// Never staler than without us, whatever our own disk is like.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_database_that_cannot_be_kept_is_the_mirrors_own() -> TestResult {
    let Some(disk) = Small::mount() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let mut plan = solo(&[&mirror]);
    plan.config.store_dir = disk.0.path().join("store");
    let node = plan.start().await;
    let old = node.pacman_bytes("core.db").await?;
    let ballast = disk.0.path().join("ballast");
    let mut file = std::fs::File::create(&ballast)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == old, "nothing changed");
    repo.update(&["pkg0"])?;
    node.rested().await;
    for name in ["core.db", "core.db.sig"] {
        match node.pacman(1, name).await {
            Answer::Redirect(url) => assert_eq!(url.as_str(), mirror.url(name)),
            other => panic!("{name}: {other:?}"),
        }
    }
    fs_err::remove_file(&ballast)?;
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == on_disk(&repo, "core.db"));
    node.stop().await;
    Ok(())
}
