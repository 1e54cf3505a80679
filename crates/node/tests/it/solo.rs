//! Repositories without importer: what pacman gets from its own mirrors through this node.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pacstore_node::config::RepositoryConfig;
use pacstore_node::{Answer, FetchError, FileAnswer};
use pacstore_runtime::Clock;
use pacstore_testkit::{At, Fault, Repo, RepoSpec, TestResult, Upstream};

use crate::nodes::{Failure, Plan, SOON, TestNode, caller};

/// Longer than one leaf, so its SHA-256 is not its CID.
pub(crate) const LARGE: u64 = 3_000_000;

/// A repository on mirrors, in their order.
pub(crate) fn repository(name: &str, mirrors: &[&Upstream]) -> RepositoryConfig {
    RepositoryConfig {
        name: name.to_owned(),
        arch: "x86_64".to_owned(),
        upstreams: mirrors
            .iter()
            .map(|mirror| mirror.url("").parse().unwrap())
            .collect(),
        public: false,
        keyring: None,
    }
}

/// A node with the repository `core` on these mirrors.
pub(crate) fn solo(mirrors: &[&Upstream]) -> Plan {
    let mut plan = Plan::new();
    plan.config.repositories.push(repository("core", mirrors));
    plan
}

impl TestNode {
    /// What caller `n` gets under `/pacman/core/x86_64/`.
    pub(crate) async fn pacman(&self, n: u8, name: &str) -> Answer {
        let asked = self.node.ask_pacman(caller(n), "core", "x86_64", name.into());
        tokio::time::timeout(SOON, asked)
            .await
            .expect("an answer")
            .unwrap()
    }

    /// The file there.
    pub(crate) async fn pacman_file(&self, name: &str) -> FileAnswer {
        match self.pacman(1, name).await {
            Answer::File(file) => *file,
            other => panic!("{name} is {other:?}"),
        }
    }

    /// All its bytes.
    pub(crate) async fn pacman_bytes(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let file = self.pacman_file(name).await;
        self.part(&file, 0, file.len).await
    }

    /// Where pacman is sent for it when it is opened.
    pub(crate) async fn sent_to(&self, name: &str) -> String {
        let file = self.pacman_file(name).await;
        match self.node.open(&file).await {
            Err(FetchError::Elsewhere { url, .. }) => url.to_string(),
            other => panic!("{name}: {other:?}"),
        }
    }

    /// State and trouble of the only repository.
    pub(crate) async fn state(&self) -> (String, String) {
        let status = self.node.status(None).await;
        let one = &status.repositories[0];
        (one.state.clone(), one.error.clone().unwrap_or_default())
    }
}

/// What the folder holds.
pub(crate) fn on_disk(repo: &Repo, name: &str) -> Vec<u8> {
    fs_err::read(repo.folder().join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_repository_comes_from_the_mirror_and_then_from_disk() -> TestResult {
    for embed in [false, true] {
        let dir = tempfile::tempdir()?;
        let mut spec = RepoSpec::new("core")
            .package("small", 30_000)
            .package("large", LARGE);
        spec.embed_signatures = embed;
        let repo = Repo::create(dir.path(), spec)?;
        let mirror = Upstream::folder(dir.path())?;
        let node = solo(&[&mirror]).start().await;
        let mut names = ["core.db", "core.db.sig", "core.files", "core.files.sig"]
            .map(String::from)
            .to_vec();
        for package in ["small", "large"] {
            let name = repo.file_name(package)?;
            names.extend([format!("{name}.sig"), name]);
        }
        for name in &names {
            assert!(node.pacman_bytes(name).await? == on_disk(&repo, name), "{name}");
        }
        node.idle().await;
        assert_eq!(node.node.bytes_out().disk, 0, "counted as from upstream");
        // The mirror is gone: everything is here, over a restart too.
        mirror.stop();
        let node = node.stop().await.start().await;
        for name in &names {
            assert!(
                node.pacman_bytes(name).await? == on_disk(&repo, name),
                "{name} without the mirror"
            );
        }
        assert_eq!(node.state().await.0, "current");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_database_is_given_at_once_and_the_run_stays_with_its_own() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 30_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    let first = node.pacman_file("core.db").await;
    let (old_db, old_sig) = (on_disk(&repo, "core.db"), on_disk(&repo, "core.db.sig"));
    let old_package = repo.file_name("pkg0")?;
    let old_bytes = node.pacman_bytes(&old_package).await?;
    assert_eq!(
        first.last_modified,
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(repo.time()))
    );

    repo.update(&["pkg0"])?;
    node.rested().await;
    // Another client's pacman brings the new one in.
    let Answer::File(second) = node.pacman(2, "core.db").await else {
        panic!("a database")
    };
    assert!(node.part(&second, 0, second.len).await? == on_disk(&repo, "core.db"));
    assert!(second.last_modified > first.last_modified);
    let Answer::File(signature) = node.pacman(2, "core.db.sig").await else {
        panic!("a signature")
    };
    assert_eq!(
        signature.last_modified, second.last_modified,
        "one time for the pair"
    );
    // The first one's run goes on with what it has.
    assert!(node.pacman_bytes("core.db.sig").await? == old_sig);
    assert!(
        node.pacman_bytes(&old_package).await? == old_bytes,
        "though the mirror has it no more"
    );
    assert!(node.part(&first, 0, first.len).await? == old_db);
    assert!(node.pacman_bytes("core.db").await? == on_disk(&repo, "core.db"));
    assert!(node.pacman_bytes(&repo.file_name("pkg0")?).await? == repo.bytes("pkg0")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_pair_is_not_taken_and_the_older_whole_one_stays() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    let old = [
        node.pacman_bytes("core.db").await?,
        node.pacman_bytes("core.db.sig").await?,
    ];
    let signature = on_disk(&repo, "core.db.sig");
    repo.update(&["pkg0"])?;
    node.rested().await;
    let new = [on_disk(&repo, "core.db"), on_disk(&repo, "core.db.sig")];
    for torn in [Some(&signature), None] {
        let path = dir.path().join("core.db.sig");
        match torn {
            Some(bytes) => fs_err::write(&path, bytes)?,
            None => fs_err::remove_file(&path)?,
        }
        assert!(
            node.pacman_bytes("core.db").await? == old[0],
            "signature {:?}",
            torn.map(Vec::len)
        );
        assert!(node.pacman_bytes("core.db.sig").await? == old[1]);
        let (_, error) = node.state().await;
        assert!(error.contains("signature"), "{error}");
        node.rested().await;
    }
    fs_err::write(dir.path().join("core.db.sig"), &new[1])?;
    assert!(node.pacman_bytes("core.db").await? == new[0]);
    assert!(node.pacman_bytes("core.db.sig").await? == new[1]);
    assert_eq!(node.state().await, ("current".to_owned(), String::new()));
    Ok(())
}

/// Where no length is told (HTTP/1.0), a connection that breaks looks like the end of the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_without_its_end_is_not_taken_for_none() -> TestResult {
    let (dir, cut) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let signature = on_disk(&repo, "core.db.sig");
    for len in [0, 1, signature.len() - 1] {
        fs_err::write(cut.path().join("core.db"), on_disk(&repo, "core.db"))?;
        fs_err::write(cut.path().join("core.db.sig"), &signature[..len])?;
        let (mirror, whole) = (Upstream::folder(cut.path())?, Upstream::folder(dir.path())?);
        let node = solo(&[&mirror, &whole]).start().await;
        assert!(node.pacman_bytes("core.db").await? == on_disk(&repo, "core.db"));
        assert!(
            node.pacman_bytes("core.db.sig").await? == signature,
            "{len} bytes"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_being_updated_is_read_again_until_the_pair_is_whole() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::memory()?;
    let put = |mirror: &Upstream, name: &str, bytes: Vec<u8>| mirror.put(name, bytes);
    put(&mirror, "core.db", on_disk(&repo, "core.db"))?;
    put(&mirror, "core.db.sig", on_disk(&repo, "core.db.sig"))?;
    repo.update(&["pkg0"])?;
    let (new_db, new_sig) = (on_disk(&repo, "core.db"), on_disk(&repo, "core.db.sig"));
    // As soon as its database was sent, the mirror changes both.
    let mirror = Arc::new(mirror);
    let (changed, of_hook) = (
        Arc::new(std::sync::atomic::AtomicBool::new(false)),
        Arc::downgrade(&mirror),
    );
    let (db, sig) = (new_db.clone(), new_sig.clone());
    mirror.on_request("core.db.sig", move |_| {
        if !changed.swap(true, std::sync::atomic::Ordering::Relaxed)
            && let Some(mirror) = of_hook.upgrade()
        {
            mirror.put("core.db", db.clone()).unwrap();
            mirror.put("core.db.sig", sig.clone()).unwrap();
        }
    });
    let node = solo(&[&*mirror]).start().await;
    assert!(node.pacman_bytes("core.db").await? == new_db);
    assert!(node.pacman_bytes("core.db.sig").await? == new_sig);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_is_never_given_and_the_rollback_is_told() -> TestResult {
    let (old_dir, dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    crate::nodes::copy_folder(dir.path(), old_dir.path());
    repo.update(&["pkg0"])?;
    let new = on_disk(&repo, "core.db");
    let (behind, good) = (Upstream::folder(old_dir.path())?, Upstream::folder(dir.path())?);
    let node = solo(&[&good, &behind]).start().await;
    assert!(node.pacman_bytes("core.db").await? == new);
    // The good one is away, over a restart too: what is here stays.
    good.stop();
    let node = node.stop().await.start().await;
    assert!(node.pacman_bytes("core.db").await? == new);
    let (state, error) = node.state().await;
    assert!(
        state == "rollback" && error.contains(&behind.url("")),
        "{state} {error}"
    );
    // Back again, and first in order: nothing is wrong any more.
    good.start()?;
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == new);
    assert_eq!(node.state().await, ("current".to_owned(), String::new()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_passed_over() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    for fault in [
        Fault::ErrorPage,
        Fault::Status(503),
        Fault::Hangup,
        Fault::NoAnswer,
        Fault::StallAfterHeader,
        Fault::StallAt(At::Percent(50)),
        Fault::Truncate(At::Percent(50)),
        Fault::RedirectLoop,
        Fault::Endless,
    ] {
        let (bad, good) = (Upstream::folder(dir.path())?, Upstream::folder(dir.path())?);
        bad.fault("core.*", fault.clone());
        let node = solo(&[&bad, &good]).start().await;
        for name in ["core.db", "core.db.sig", "core.files"] {
            assert!(
                node.pacman_bytes(name).await? == on_disk(&repo, name),
                "{name} {fault:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_database_that_is_here_is_given_while_it_is_young() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let node = solo(&[&mirror]).clock(&clock).start().await;
    let db = node.pacman_bytes("core.db").await?;
    mirror.fault("*", Fault::NoAnswer);
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == db);
    assert_eq!(node.state().await.0, "current");
    hand.advance(Duration::from_hours(7));
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == db);
    assert_eq!(node.state().await.0, "warn");
    // A year later by a clock that jumped: too old to be given; pacman tries its next Server, or a mirror that says a word.
    hand.advance(Duration::from_hours(24 * 365));
    assert_eq!(node.state().await.0, "refused");
    node.rested().await;
    match node.pacman(1, "core.db").await {
        Answer::NotNow(_) => {}
        other => panic!("{other:?}"),
    }
    mirror.heal();
    mirror.fault("*", Fault::Status(503));
    node.rested().await;
    for name in ["core.db", "core.db.sig"] {
        match node.pacman(1, name).await {
            Answer::Redirect(url) => assert_eq!(url.as_str(), mirror.url(name)),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Its packages are still given, and the mirror's word makes it young again.
    let package = repo.file_name("pkg0")?;
    mirror.heal();
    assert!(node.pacman_bytes(&package).await? == repo.bytes("pkg0")?);
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == db);
    assert_eq!(node.state().await.0, "current");
    // The clock goes back by a year and a day: the mirror's word counts again.
    hand.set(SystemTime::now() - Duration::from_hours(24));
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == db);
    assert_eq!(node.state().await.0, "current");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_come_in_time_is_the_mirrors_own() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    let old = node.pacman_bytes("core.db").await?;
    repo.update(&["pkg0"])?;
    mirror.fault("core.db", Fault::Drip(Duration::from_millis(500)));
    node.rested().await;
    // Never staler than without us, and its signature comes from there, too.
    for name in ["core.db", "core.db.sig"] {
        match node.pacman(1, name).await {
            Answer::Redirect(url) => assert_eq!(url.as_str(), mirror.url(name)),
            other => panic!("{name}: {other:?}"),
        }
    }
    let Answer::File(other) = node.pacman(2, "core.db.sig").await else {
        panic!("a signature")
    };
    assert!(node.part(&other, 0, other.len).await? == node.pacman_signature_of(&old).await?);
    Ok(())
}

impl TestNode {
    /// The signature that another client gets beside the database `old`.
    async fn pacman_signature_of(&self, old: &[u8]) -> Result<Vec<u8>, Failure> {
        let Answer::File(file) = self.pacman(3, "core.db.sig").await else {
            return Err("no signature".into());
        };
        let bytes = self.part(&file, 0, file.len).await?;
        let seal = pacstore_pacman::Seal::read(&bytes).ok_or("no signature")?;
        assert_eq!(seal.fit(|| Ok(old))?, pacstore_pacman::Fit::Fits);
        Ok(bytes)
    }

    /// Waits until it has looked at the mirrors by itself, and that look counts no more.
    pub(crate) async fn looked(&self) {
        let reached = async {
            while self.state().await.0 == "none" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, reached)
            .await
            .expect("it looks by itself");
        self.rested().await;
    }

    /// Waits until the look at mirrors that ran last is over and counts no more.
    pub(crate) async fn rested(&self) {
        self.idle().await;
        let running = || {
            let report = self.node.tasks().report();
            report.iter().any(|task| task.name == "repository/look")
        };
        let reached = async {
            while running() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, reached).await.expect("looks end");
        // For a second a look is as good as a new one.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_another_key_signed_is_not_taken() -> TestResult {
    let (dir, foreign_dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mut spec = RepoSpec::new("core").packages(1, 4_000);
    (spec.seed, spec.time) = (77, spec.time + 86_400);
    let foreign = Repo::create(foreign_dir.path(), spec)?;
    let (bad, good) = (
        Upstream::folder(foreign_dir.path())?,
        Upstream::folder(dir.path())?,
    );
    let keys = dir.path().join("keys.gpg");
    fs_err::write(&keys, repo.key().public_key())?;
    let mut plan = solo(&[&bad, &good]);
    plan.config.repositories[0].keyring = Some(keys.clone());
    let node = plan.start().await;
    assert!(node.pacman_bytes("core.db").await? == on_disk(&repo, "core.db"));
    // The good one is gone: the other still is none, and what is here stays.
    good.stop();
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == on_disk(&repo, "core.db"));
    let (_, error) = node.state().await;
    assert!(error.contains("not taken"), "{error}");
    // With its key in the keyring it is.
    fs_err::write(&keys, foreign.key().public_key())?;
    node.rested().await;
    assert!(node.pacman_bytes("core.db").await? == on_disk(&foreign, "core.db"));
    Ok(())
}
