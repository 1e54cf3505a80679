//! Packages of repositories without importer: from bad mirrors, slow ones, peers.

use std::time::{Duration, SystemTime};

use pacstore_node::{Answer, FetchError};
use pacstore_runtime::Clock;
use pacstore_testkit::{At, Fault, Repo, RepoSpec, TestResult, Upstream, corrupt};

use crate::nodes::{Plan, SOON, TestNode, caller, read};
use crate::solo::{LARGE, on_disk, solo};

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_other_bytes_is_passed_over_and_never_what_pacman_is_sent_to() -> TestResult {
    let (wrong_dir, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let spec = RepoSpec::new("core")
        .package("small", 30_000)
        .package("large", LARGE);
    let repo = Repo::create(dir.path(), spec)?;
    crate::nodes::copy_folder(dir.path(), wrong_dir.path());
    for package in ["small", "large"] {
        corrupt(&wrong_dir.path().join(repo.file_name(package)?), 20_000)?;
    }
    let (bad, good) = (Upstream::folder(wrong_dir.path())?, Upstream::folder(dir.path())?);
    let node = solo(&[&bad, &good]).start().await;
    node.pacman_bytes("core.db").await?;
    for package in ["large", "small"] {
        assert!(
            node.pacman_bytes(&repo.file_name(package)?).await? == repo.bytes(package)?,
            "{package}"
        );
    }
    let alone = solo(&[&bad]).start().await;
    alone.pacman_bytes("core.db").await?;
    for package in ["large", "small"] {
        let file = alone.pacman_file(&repo.file_name(package)?).await;
        match alone.node.open(&file).await {
            Err(FetchError::Wrong { .. }) => {}
            other => panic!("{package}: {other:?}"),
        }
        assert_eq!(alone.node.mirror_instead(&file), None, "{package}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mirror_stalls_and_the_package_comes_all_the_same() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    for percent in [1, 50, 99] {
        let mirrors = [Upstream::folder(dir.path())?, Upstream::folder(dir.path())?];
        for mirror in &mirrors {
            mirror.fault("*.pkg.tar.zst", Fault::StallAt(At::Percent(percent)));
        }
        let node = solo(&[&mirrors[0], &mirrors[1]]).start().await;
        node.pacman_bytes("core.db").await?;
        assert!(
            node.pacman_bytes(&name).await? == repo.bytes("large")?,
            "{percent} %"
        );
        let sent: u64 = mirrors
            .iter()
            .flat_map(|m| m.requests("*.pkg.tar.zst"))
            .map(|r| r.sent)
            .sum();
        assert!(sent < LARGE * 11 / 10, "{percent} %: {sent} bytes for one file");
    }
    Ok(())
}

/// All are asked within pacman's ten seconds, however many there are.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_one_of_eight_mirrors_that_gives_is_found_in_time() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    for silence in [Fault::NoAnswer, Fault::StallAfterHeader] {
        let all = (0..8).map(|_| Upstream::folder(dir.path()));
        let mirrors = all.collect::<Result<Vec<Upstream>, _>>()?;
        for mirror in &mirrors[..7] {
            mirror.fault("*.pkg.tar.zst", silence.clone());
        }
        let node = solo(&mirrors.iter().collect::<Vec<_>>()).start().await;
        node.pacman_bytes("core.db").await?;
        assert!(
            node.pacman_bytes(&name).await? == repo.bytes("large")?,
            "{silence:?}"
        );
    }
    Ok(())
}

/// In vain, and for ten seconds at each: pacman goes on to its next Server instead.
#[tokio::test(flavor = "multi_thread")]
async fn pacman_is_not_sent_to_a_mirror_that_just_sent_nothing() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    let (silent, slow) = (Upstream::folder(dir.path())?, Upstream::folder(dir.path())?);
    for silence in [Fault::NoAnswer, Fault::StallAfterHeader] {
        silent.heal();
        slow.heal();
        silent.fault("*.pkg.tar.zst", silence.clone());
        slow.fault("*.pkg.tar.zst", silence.clone());
        let node = solo(&[&silent, &slow]).start().await;
        node.pacman_bytes("core.db").await?;
        let file = node.pacman_file(&name).await;
        match node.node.open(&file).await {
            Err(FetchError::NoSource { .. }) => {}
            other => panic!("{silence:?}: {other:?}"),
        }
        assert_eq!(node.node.mirror_instead(&file), None, "{silence:?}");
        slow.heal();
        slow.fault("*.pkg.tar.zst", Fault::Slow(100_000));
        let node = solo(&[&silent, &slow]).start().await;
        node.pacman_bytes("core.db").await?;
        assert_eq!(node.sent_to(&name).await, slow.url(&name), "{silence:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pacman_is_sent_to_a_mirror_that_is_too_slow_and_nothing_is_downloaded_beside_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    let mirror = Upstream::folder(dir.path())?;
    mirror.fault("*.pkg.tar.zst", Fault::Slow(100_000));
    let node = solo(&[&mirror]).start().await;
    node.pacman_bytes("core.db").await?;
    assert_eq!(node.sent_to(&name).await, mirror.url(&name));
    let told = node.node.take_redirected();
    assert!(
        told.len() == 1 && told[0].name == name && told[0].sha256.is_some(),
        "{told:?}"
    );
    mirror
        .wait_for(SOON, |log| log.iter().all(|r| r.complete || r.sent < LARGE / 2))
        .await?;
    let began = mirror.requests("*.pkg.tar.zst").len();
    assert_eq!(began, 1, "it is asked once");
    // The next one does not even try: the rate is known.
    assert_eq!(node.sent_to(&name).await, mirror.url(&name));
    assert_eq!(mirror.requests("*.pkg.tar.zst").len(), began);
    Ok(())
}

/// The first one of the configuration stays the first until it is known that another one is better.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_too_slow_is_left_for_one_that_is_not() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("large", LARGE)
        .package("next", LARGE);
    let repo = Repo::create(dir.path(), spec)?;
    let (slow, fast) = (Upstream::folder(dir.path())?, Upstream::folder(dir.path())?);
    for rate in [20_000, 200_000] {
        slow.heal();
        slow.fault("*.pkg.tar.zst", Fault::Slow(rate));
        fast.clear_log();
        let node = solo(&[&slow, &fast]).start().await;
        node.pacman_bytes("core.db").await?;
        for package in ["large", "next"] {
            let name = repo.file_name(package)?;
            assert!(
                node.pacman_bytes(&name).await? == repo.bytes(package)?,
                "{package} at {rate} bytes a second"
            );
        }
        let sent: u64 = fast.requests("*.pkg.tar.zst").iter().map(|r| r.sent).sum();
        assert!(LARGE < sent, "{sent} bytes at {rate} bytes a second");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_ask_for_one_large_package_and_it_is_fetched_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    node.pacman_bytes("core.db").await?;
    let file = node.pacman_file(&name).await;
    let want = repo.bytes("large")?;
    let all = (0..20).map(|_| async {
        let mut content = node.node.open(&file).await?;
        read(&node.node, &mut content, 0, file.len).await
    });
    for got in futures::future::join_all(all).await {
        assert!(got? == want);
    }
    assert_eq!(mirror.requests("*.pkg.tar.zst").len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_larger_than_the_cap_is_the_mirrors_own() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    let mirror = Upstream::folder(dir.path())?;
    let mut plan = solo(&[&mirror]);
    plan.config.max_size = LARGE / 2;
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    assert_eq!(node.sent_to(&name).await, mirror.url(&name));
    assert_eq!(mirror.requests("*.pkg.tar.zst").len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_database_has_leads_to_a_mirror_if_it_is_a_packages() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    node.pacman_bytes("core.db").await?;
    for name in ["other-1-1-any.pkg.tar.zst", "other-1-1-any.pkg.tar.zst.sig"] {
        match node.pacman(1, name).await {
            Answer::Redirect(url) => assert_eq!(url.as_str(), mirror.url(name)),
            other => panic!("{name}: {other:?}"),
        }
    }
    mirror.clear_log();
    for name in [
        "nothing",
        "other.db",
        "core.db.tar.gz",
        "../core.db",
        "x.pkg.tar.zst",
        "core.db.sig.sig",
    ] {
        assert!(
            matches!(node.pacman(1, name).await, Answer::NotFound(_)),
            "{name}"
        );
    }
    let other = node
        .node
        .ask_pacman(caller(1), "core", "riscv64", b"core.db".to_vec())
        .await?;
    assert!(matches!(other, Answer::NotFound(_)), "{other:?}");
    assert_eq!(mirror.log().len(), 0, "nobody was asked");

    // CacheServer: the database came from elsewhere, and is newer than the one here.
    let (clock, hand) = Clock::fake(SystemTime::now());
    let late = solo(&[&mirror]).clock(&clock).start().await;
    late.looked().await;
    repo.update(&["pkg0"])?;
    hand.advance(Duration::from_mins(1));
    assert!(late.pacman_bytes(&repo.file_name("pkg0")?).await? == repo.bytes("pkg0")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_were_only_signed_anew_get_their_new_signatures() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").package("small", 30_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    let name = repo.file_name("small")?;
    let signature = format!("{name}.sig");
    node.pacman_bytes("core.db").await?;
    node.pacman_bytes(&name).await?;
    let old = node.pacman_bytes(&signature).await?;
    node.pacman_bytes(&signature).await?;
    assert_eq!(mirror.requests(&signature).len(), 1, "the second time from disk");
    repo.resign()?;
    node.rested().await;
    assert!(
        node.pacman_bytes("core.db.sig").await? != on_disk(&repo, "core.db.sig"),
        "the run stays"
    );
    node.pacman_bytes("core.db").await?;
    assert!(node.pacman_bytes("core.db.sig").await? == on_disk(&repo, "core.db.sig"));
    let new = node.pacman_bytes(&signature).await?;
    assert!(new != old && new == on_disk(&repo, &signature));
    // A signature of other bytes is not given while the package is here.
    fs_err::copy(dir.path().join("core.db.sig"), dir.path().join(&signature))?;
    repo.update(&[])?;
    node.rested().await;
    node.pacman_bytes("core.db").await?;
    assert!(
        node.pacman_bytes(&signature).await? == new,
        "the one that was kept"
    );
    Ok(())
}

/// pacman asks nobody else for it, and would give the whole update up.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_comes_although_the_line_was_down_for_a_moment() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("small", 30_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    let signature = format!("{}.sig", repo.file_name("small")?);
    node.pacman_bytes("core.db").await?;
    mirror.fault_times(&signature, 4, Fault::Hangup);
    assert!(node.pacman_bytes(&signature).await? == on_disk(&repo, &signature));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes_under_one_name_come_with_the_next_database() -> TestResult {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let old = Repo::create(first.path(), RepoSpec::new("core").package("small", 30_000))?;
    let mut spec = RepoSpec::new("core").package("small", 30_000);
    (spec.seed, spec.time) = (9, spec.time + 86_400);
    let new = Repo::create(second.path(), spec)?;
    let name = old.file_name("small")?;
    assert_eq!(name, new.file_name("small")?);
    let mirror = Upstream::folder(first.path())?;
    let node = solo(&[&mirror]).start().await;
    node.pacman_bytes("core.db").await?;
    assert!(node.pacman_bytes(&name).await? == old.bytes("small")?);
    crate::nodes::copy_folder(second.path(), first.path());
    node.rested().await;
    node.pacman_bytes("core.db").await?;
    assert!(node.pacman_bytes(&name).await? == new.bytes("small")?);
    Ok(())
}

/// A node that has all of `repo`, by import of its folder.
async fn owner(repo: &Repo) -> TestNode {
    let owner = Plan::importer(repo.folder(), pacstore_import::Files::Listed)
        .start()
        .await;
    owner.import().await;
    owner
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_package_of_a_public_repository_comes_from_a_peer_that_tells_its_dag() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    let peer = owner(&repo).await;
    let mirror = Upstream::folder(dir.path())?;
    mirror.fault("*.pkg.tar.zst", Fault::NoAnswer);
    let mut plan = solo(&[&mirror]);
    plan.config.repositories[0].public = true;
    plan.config.swarm.peers = vec![peer.address().await];
    let node = plan.start().await;
    node.connected().await;
    node.pacman_bytes("core.db").await?;
    assert!(node.pacman_bytes(&name).await? == repo.bytes("large")?);
    let out = node.node.bytes_out();
    assert!(out.lan >= LARGE, "{out:?}");
    Ok(())
}
