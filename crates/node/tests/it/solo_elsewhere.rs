//! Packages where pacman has its database from somebody else, and it may name other bytes under the same names.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use pacstore_node::Answer;
use pacstore_runtime::{Clock, FakeClock};
use pacstore_testkit::{Fault, Repo, RepoSpec, TestResult, Upstream};

use crate::full::Small;
use crate::nodes::TestNode;
use crate::solo::{on_disk, solo};

/// A package that upstream builds again under the same name.
struct Rebuilt {
    folder: tempfile::TempDir,
    repo: Repo,
    again: tempfile::TempDir,
    new: Repo,
    name: String,
}

impl Rebuilt {
    fn create() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (folder, again) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let spec = || RepoSpec::new("core").package("small", 30_000);
        let repo = Repo::create(folder.path(), spec())?;
        let mut other = spec();
        (other.seed, other.time) = (9, other.time + 86_400);
        let new = Repo::create(again.path(), other)?;
        let name = repo.file_name("small")?;
        assert_eq!(name, new.file_name("small")?);
        assert!(repo.bytes("small")? != new.bytes("small")?);
        Ok(Self {
            folder,
            repo,
            again,
            new,
            name,
        })
    }

    /// A mirror of it, and a node that looked at it by itself: nobody asked that one for a database.
    async fn seen(
        &self,
    ) -> Result<(Upstream, TestNode, FakeClock), Box<dyn std::error::Error + Send + Sync>> {
        let mirror = Upstream::folder(self.folder.path())?;
        let (clock, hand) = Clock::fake(SystemTime::now());
        let node = solo(&[&mirror]).clock(&clock).start().await;
        node.looked().await;
        Ok((mirror, node, hand))
    }

    /// Upstream has the other one now.
    fn publish(&self) {
        crate::nodes::copy_folder(self.again.path(), self.folder.path());
    }
}

fn sent_to(answer: Answer) -> String {
    match answer {
        Answer::Redirect(url) => url.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// As where this node is pacman's `CacheServer`: wrong bytes would end the whole update, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_that_of_the_mirrors_database_where_nobody_asks_here_for_one() -> TestResult {
    let upstream = Rebuilt::create()?;
    let (mirror, node, hand) = upstream.seen().await?;
    let (name, signature) = (&upstream.name, format!("{}.sig", upstream.name));
    assert!(node.pacman_bytes(name).await? == upstream.repo.bytes("small")?);
    upstream.publish();
    hand.advance(Duration::from_mins(1));
    assert!(node.pacman_bytes(name).await? == upstream.new.bytes("small")?);
    assert!(node.pacman_bytes(&signature).await? == on_disk(&upstream.new, &signature));
    mirror.clear_log();
    node.pacman_bytes(name).await?;
    assert_eq!(mirror.log().len(), 0, "a look counts for a while");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_newer_database_is_still_coming_packages_are_the_mirrors() -> TestResult {
    let upstream = Rebuilt::create()?;
    let (mirror, node, hand) = upstream.seen().await?;
    upstream.publish();
    mirror.fault("core.db", Fault::Drip(Duration::from_millis(500)));
    hand.advance(Duration::from_mins(1));
    let (name, signature) = (&upstream.name, format!("{}.sig", upstream.name));
    for name in [name, &signature] {
        assert_eq!(sent_to(node.pacman(1, name).await), mirror.url(name));
    }
    mirror.stop();
    Ok(())
}

/// pacman's ten seconds are for the package: a look is waited for a moment only.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_says_nothing_of_its_database_keeps_no_package_from_coming() -> TestResult {
    let upstream = Rebuilt::create()?;
    let (mirror, node, hand) = upstream.seen().await?;
    mirror.fault("core.db", Fault::NoAnswer);
    hand.advance(Duration::from_mins(1));
    assert!(node.pacman_bytes(&upstream.name).await? == upstream.repo.bytes("small")?);
    let asked = mirror.log().len();
    node.pacman_bytes(&upstream.name).await?;
    assert_eq!(mirror.log().len(), asked, "one look, however many packages");
    mirror.stop();
    Ok(())
}

/// What somebody got here is what pacman has: no mirror is waited for then, and the older one stays right.
#[tokio::test(flavor = "multi_thread")]
async fn no_mirror_is_asked_before_a_package_of_a_database_that_was_given_here() -> TestResult {
    let upstream = Rebuilt::create()?;
    let mirror = Upstream::folder(upstream.folder.path())?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let node = solo(&[&mirror]).clock(&clock).start().await;
    node.pacman_bytes("core.db").await?;
    let old = node.pacman_bytes(&upstream.name).await?;
    upstream.publish();
    node.rested().await;
    hand.advance(Duration::from_mins(1));
    mirror.clear_log();
    // Another machine of the house.
    let Answer::File(file) = node.pacman(2, &upstream.name).await else {
        panic!("a package");
    };
    assert!(node.part(&file, 0, file.len).await? == old);
    assert_eq!(mirror.log().len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_newer_database_of_a_mirror_packages_are_its_own_until_that_one_is_here() -> TestResult {
    let upstream = Rebuilt::create()?;
    let mirror = Upstream::folder(upstream.folder.path())?;
    let node = solo(&[&mirror]).start().await;
    let (name, signature) = (&upstream.name, format!("{}.sig", upstream.name));
    node.pacman_bytes("core.db").await?;
    assert!(node.pacman_bytes(name).await? == upstream.repo.bytes("small")?);
    upstream.publish();
    mirror.fault("core.db", Fault::Drip(Duration::from_millis(500)));
    node.rested().await;
    assert_eq!(sent_to(node.pacman(1, "core.db").await), mirror.url("core.db"));
    for name in [name, &signature] {
        assert_eq!(sent_to(node.pacman(1, name).await), mirror.url(name));
    }
    mirror.stop();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_of_a_database_that_cannot_be_kept_are_the_mirrors_until_it_can() -> TestResult {
    let Some(disk) = Small::mount() else { return Ok(()) };
    let upstream = Rebuilt::create()?;
    let mirror = Upstream::folder(upstream.folder.path())?;
    let mut plan = solo(&[&mirror]);
    plan.config.store_dir = disk.0.path().join("store");
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    assert!(node.pacman_bytes(&upstream.name).await? == upstream.repo.bytes("small")?);
    let ballast = disk.0.path().join("ballast");
    let mut file = std::fs::File::create(&ballast)?;
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    upstream.publish();
    node.rested().await;
    assert_eq!(sent_to(node.pacman(1, "core.db").await), mirror.url("core.db"));
    let sent = sent_to(node.pacman(1, &upstream.name).await);
    assert_eq!(sent, mirror.url(&upstream.name));
    fs_err::remove_file(&ballast)?;
    node.rested().await;
    // Another machine brings it in.
    assert!(matches!(node.pacman(2, "core.db").await, Answer::File(_)));
    assert!(node.pacman_bytes(&upstream.name).await? == upstream.new.bytes("small")?);
    node.stop().await;
    Ok(())
}

/// Two machines of the house, one of which stays with the older database.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_two_packages_of_one_name_are_not_one_fetch() -> TestResult {
    let upstream = Rebuilt::create()?;
    let mirror = Upstream::folder(upstream.folder.path())?;
    let node = solo(&[&mirror]).start().await;
    let (name, signature) = (&upstream.name, format!("{}.sig", upstream.name));
    node.pacman_bytes("core.db").await?;
    node.pacman_bytes(name).await?;
    upstream.publish();
    node.rested().await;
    assert!(matches!(node.pacman(2, "core.db").await, Answer::File(_)));
    let Answer::File(file) = node.pacman(2, name).await else {
        panic!("a package");
    };
    assert!(node.part(&file, 0, file.len).await? == upstream.new.bytes("small")?);
    // Both are under way at the same time.
    let bytes = on_disk(&upstream.new, &signature).len() as u64;
    mirror.fault(&signature, Fault::Slow(bytes * 2));
    let (older, newer) = tokio::join!(node.pacman(1, &signature), node.pacman(2, &signature));
    // The mirror has no signature of the older one any more.
    assert_eq!(sent_to(older), mirror.url(&signature));
    let Answer::File(file) = newer else {
        panic!("a signature");
    };
    assert!(node.part(&file, 0, file.len).await? == on_disk(&upstream.new, &signature));
    Ok(())
}
