//! Repositories without importer beside mirrors that have one, and what of them no peer may see.

use std::time::{Duration, SystemTime};

use pacstore_import::Files;
use pacstore_names::Layout;
use pacstore_node::{Answer, AskPeers};
use pacstore_runtime::Clock;
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::nodes::{Failure, Plan, caller};
use crate::solo::{LARGE, repository, solo};

/// All names of a repository with one small and one large package.
fn names(repo: &Repo) -> Result<Vec<String>, Failure> {
    let mut names = ["core.db", "core.db.sig"].map(String::from).to_vec();
    for package in ["small", "large"] {
        let name = repo.file_name(package)?;
        names.extend([format!("{name}.sig"), name]);
    }
    Ok(names)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_peer_gets_a_file_of_a_private_repository_and_none_is_asked_for_one() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("small", 30_000)
        .package("large", LARGE);
    let repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    for public in [false, true] {
        let mut plan = solo(&[&mirror]);
        plan.config.repositories[0].public = public;
        let mut owner = plan.start().await;
        let mut roots = Vec::new();
        for name in names(&repo)? {
            owner.pacman_bytes(&name).await?;
        }
        owner.idle().await;
        // A restart forgets nothing of it.
        for again in [false, true] {
            if again {
                owner = owner.stop().await.start().await;
            }
            for package in ["small", "large"] {
                let digest = ring::digest::digest(&ring::digest::SHA256, &repo.bytes(package)?);
                let info = owner.node.store().file_by_sha256(digest.as_ref().try_into()?)?;
                roots.push(info.expect("it is here").root);
            }
            let mut plan = Plan::new();
            plan.config.swarm.peers = vec![owner.address().await];
            let stranger = plan.start().await;
            stranger.connected().await;
            for root in &roots {
                let got = stranger.node.fetcher().block(root, AskPeers::Everyone).await;
                assert_eq!(got.is_ok(), public, "public {public}, {root}: {got:?}");
            }
            for leaf in owner.node.store().dag_of(&roots[1])?.expect("its DAG").leaves {
                let got = stranger.node.fetcher().block(&leaf.cid, AskPeers::Everyone).await;
                assert_eq!(got.is_ok(), public, "a leaf: {got:?}");
            }
        }
        // Another owner of the repository, connected to the first: only where it is public it asks there.
        let mut plan = solo(&[&mirror]);
        plan.config.repositories[0].public = public;
        plan.config.swarm.peers = vec![owner.address().await];
        let second = plan.start().await;
        second.connected().await;
        second.pacman_bytes("core.db").await?;
        let name = repo.file_name("small")?;
        mirror.clear_log();
        assert!(second.pacman_bytes(&name).await? == repo.bytes("small")?);
        let out = second.node.bytes_out();
        assert_eq!(mirror.requests(&name).is_empty(), public, "{out:?}");
        assert_eq!(out.lan > 0, public, "{out:?}");
    }
    Ok(())
}

/// What a public head names is no secret, whatever it came in for.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_private_repository_is_shared_once_a_public_head_names_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("small", 30_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let mut plan = Plan::importer(dir.path(), Files::Listed);
    plan.config.repositories.push(repository("core", &[&mirror]));
    let name = repo.file_name("small")?;
    let node = plan.start().await;
    // Nothing is imported yet, so the repository answers.
    node.pacman_bytes("core.db").await?;
    node.pacman_bytes(&name).await?;
    node.idle().await;
    let root = node.pacman_file(&name).await.root;
    let mut plan = Plan::new();
    plan.config.swarm.peers = vec![node.address().await];
    let stranger = plan.start().await;
    stranger.connected().await;
    let asked = stranger.node.fetcher().block(&root, AskPeers::Everyone).await;
    assert!(asked.is_err(), "{asked:?}");
    node.import().await;
    assert!(node.get(&name).await? == repo.bytes("small")?);
    let asked = stranger.node.fetcher().block(&root, AskPeers::Everyone).await;
    assert!(asked.is_ok(), "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_too_old_does_not_hide_a_repository_that_can_answer() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let mut plan = Plan::importer(dir.path(), Files::Listed).clock(&clock);
    plan.config.repositories.push(repository("core", &[&mirror]));
    let node = plan.start().await;
    node.import().await;
    let snapshot = node.pacman_bytes("core.db").await?;
    assert!(snapshot == node.get("core.db").await?);
    let old = repo.file_name("pkg0")?;
    repo.update(&["pkg0"])?;
    assert!(
        node.pacman_bytes("core.db").await? == snapshot,
        "the head answers"
    );
    hand.advance(Duration::from_hours(25));
    node.rested().await;
    let new = fs_err::read(dir.path().join("core.db"))?;
    assert!(
        node.pacman_bytes("core.db").await? == new,
        "the repository answers"
    );
    assert!(node.pacman_bytes(&repo.file_name("pkg0")?).await? == repo.bytes("pkg0")?);
    // A package that only the old head knows is still given.
    node.pacman_bytes(&old).await?;
    // Fresh again: the run stays with the repository until the next database.
    node.import().await;
    assert!(node.pacman_bytes("core.db.sig").await? == fs_err::read(dir.path().join("core.db.sig"))?);
    assert!(node.pacman_bytes("core.db").await? == new);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_head_and_a_repository_the_mirrors_upstream_is_named() -> TestResult {
    let upstream = Upstream::memory()?;
    let mut plan = Plan::client(vec![], vec![]).upstream(&upstream);
    plan.config.mirrors[0].layout = Layout::Archlinux;
    let node = plan.start().await;
    for name in ["core.db", "core.db.sig", "zlib-1-1-x86_64.pkg.tar.zst"] {
        match node.pacman(1, name).await {
            Answer::Redirect(url) => {
                assert_eq!(url.as_str(), upstream.url(&format!("core/os/x86_64/{name}")));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    for (arch, name) in [
        ("x86_64", "nothing"),
        ("x86_64", "extra.db"),
        ("riscv64", "core.db"),
    ] {
        let asked = node.node.ask_pacman(caller(1), "core", arch, name.into()).await?;
        assert!(matches!(asked, Answer::NotFound(_)), "{name}: {asked:?}");
    }
    // With the layout `plain` nobody knows in which folder it is.
    let mut plan = node.stop().await;
    plan.config.mirrors[0].layout = Layout::Plain;
    let node = plan.start().await;
    let asked = node.pacman(1, "core.db").await;
    assert!(matches!(asked, Answer::NotFound(_)), "{asked:?}");
    assert_eq!(upstream.log().len(), 0);
    Ok(())
}
