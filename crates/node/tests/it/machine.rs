//! The machine under the node: its next updates ahead of time, pacman's cache, what goes first, scrubbing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pacstore_import::Files;
use pacstore_node::config::PrefetchConfig;
use pacstore_store::Class;
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};
use tempfile::TempDir;

use crate::nodes::{Plan, TestNode};
use crate::receipts::give;
use crate::service::until;
use crate::solo::{LARGE, on_disk, solo};

/// A machine with a pacman that has some packages of `core`.
pub(crate) struct Machine(TempDir);

impl Machine {
    pub(crate) fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(dir.path().join("db/local")).unwrap();
        fs_err::create_dir_all(dir.path().join("cache")).unwrap();
        let text = format!(
            "[options]\nArchitecture = x86_64\nDBPath = {}\n{options}\n[core]\nServer = http://127.0.0.1:1/\n",
            dir.path().join("db").display()
        );
        fs_err::write(dir.path().join("pacman.conf"), text).unwrap();
        Self(dir)
    }

    /// Says that a package is installed.
    pub(crate) fn has(&self, folder: &str) {
        let folder = self.0.path().join("db/local").join(folder);
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join("desc"), "").unwrap();
    }

    fn removed(&self, folder: &str) {
        fs_err::remove_dir_all(self.0.path().join("db/local").join(folder)).unwrap();
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    pub(crate) fn under(&self, mut plan: Plan) -> Plan {
        plan.config.machine.pacman_conf = Some(self.0.path().join("pacman.conf"));
        plan
    }
}

/// `NAME-VERSION` of a package of the repository now.
pub(crate) fn folder(repo: &Repo, name: &str) -> String {
    let file = repo.file_name(name).unwrap();
    let (folder, _) = file.rsplit_once('-').unwrap();
    folder.to_owned()
}

pub(crate) fn digest(repo: &Repo, name: &str) -> [u8; 32] {
    let file = fs_err::read(repo.package_path(name).unwrap()).unwrap();
    sha256(&file)
}

fn sha256(data: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, data).as_ref());
    digest
}

/// Every file of the package comes from this node alone.
async fn is_given(node: &TestNode, repo: &Repo, name: &str) -> TestResult {
    let file = repo.file_name(name)?;
    for file in [format!("{file}.sig"), file] {
        assert!(node.pacman_bytes(&file).await? == on_disk(repo, &file), "{file}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_next_update_needs_is_here_when_all_mirrors_are_gone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("small", 30_000)
        .package("large", LARGE);
    let mut repo = Repo::create(dir.path(), spec.package("left", 10_000).package("other", 10_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("IgnorePkg = le*");
    for name in ["small", "large", "left"] {
        machine.has(&folder(&repo, name));
    }
    let node = machine.under(solo(&[&mirror])).start().await;
    node.pacman_bytes("core.db").await?;
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing), (0, 0), "all is as new as can be");

    repo.update(&["small", "large", "left", "other"])?;
    node.rested().await;
    node.pacman_bytes("core.db").await?;
    let given = node.node.bytes_out();
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing, status.waiting), (2, 0, None));
    assert_eq!(node.node.bytes_out(), given, "nobody has asked for it yet");
    mirror.stop();
    let node = node.stop().await.start().await;
    for name in ["small", "large"] {
        is_given(&node, &repo, name).await?;
    }
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing), (2, 0), "also without the mirror");
    Ok(())
}

/// As where this node is pacman's `CacheServer`: nobody ever asks it for a database.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_finds_newer_databases_by_itself() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").package("small", 30_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    machine.has(&folder(&repo, "small"));
    let node = machine.under(solo(&[&mirror])).start().await;
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing), (0, 0));
    repo.update(&["small"])?;
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing), (1, 0), "{status:?}");
    mirror.stop();
    is_given(&node, &repo, "small").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_an_importer_has_the_next_update_when_its_peers_are_gone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("small", 30_000)
        .package("large", LARGE);
    let mut repo = Repo::create(dir.path().join("core"), spec)?;
    let machine = Machine::new("");
    machine.has(&folder(&repo, "small"));
    machine.has(&folder(&repo, "large"));
    repo.update(&["small", "large"])?;
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    let mut plan = machine.under(plan);
    // The worker does it by itself.
    plan.config.machine.prefetch = Some(PrefetchConfig {
        metered: true,
        battery: true,
        ..PrefetchConfig::default()
    });
    let client = plan.start().await;
    client.follows(&importer).await;
    let status = client.node.prefetch().await?;
    assert_eq!((status.ready, status.missing), (2, 0), "{status:?}");
    client.idle().await;
    importer.stop().await;
    for name in ["small", "large"] {
        let file = repo.file_name(name)?;
        for file in [format!("{file}.sig"), file] {
            assert!(
                client.get(&format!("core/{file}")).await? == on_disk(&repo, &file),
                "{file}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_ahead_where_what_is_needed_does_not_fit() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(
        dir.path(),
        RepoSpec::new("core")
            .package("large", LARGE)
            .package("fits", 9000),
    )?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    machine.has(&folder(&repo, "large"));
    machine.has(&folder(&repo, "fits"));
    repo.update(&["large"])?;
    let mut plan = machine.under(solo(&[&mirror]));
    plan.config.max_size = LARGE;
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing), (0, 1));
    assert!(status.waiting.is_some_and(|why| why.contains("store.max_size")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn superseded_files_go_first_and_what_is_installed_stays() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 20_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    let installed = folder(&repo, "pkg0");
    machine.has(&installed);
    let node = machine.under(solo(&[&mirror])).start().await;
    node.pacman_bytes("core.db").await?;
    for name in ["pkg0", "pkg1", "pkg2"] {
        node.pacman_bytes(&repo.file_name(name)?).await?;
    }
    node.idle().await;
    node.node.look_at_machine().await?;
    let old = ["pkg0", "pkg1", "pkg2"].map(|name| digest(&repo, name));
    let class = |sha256: &[u8; 32]| node.node.store().class_of_sha256(sha256).unwrap();
    assert_eq!(
        old.each_ref().map(class),
        [Some(Class::Needed), Some(Class::Listed), Some(Class::Listed)]
    );

    repo.update(&["pkg0", "pkg1"])?;
    node.rested().await;
    node.pacman_bytes("core.db").await?;
    node.node.prefetch().await?;
    node.node.look_at_machine().await?;
    // Still installed, superseded, untouched.
    assert_eq!(
        old.each_ref().map(class),
        [Some(Class::Needed), Some(Class::Spare), Some(Class::Listed)]
    );
    machine.removed(&installed);
    machine.has(&folder(&repo, "pkg0"));
    node.node.look_at_machine().await?;
    assert_eq!(class(&old[0]), Some(Class::Spare));
    assert_eq!(class(&digest(&repo, "pkg0")), Some(Class::Needed));
    // Room is needed: what is installed stays.
    let evictable = node.node.store().stats().evictable;
    node.node.gc(Some(evictable - 60_000)).await?;
    assert_eq!(old.each_ref().map(class), [None, None, None]);
    assert_eq!(class(&digest(&repo, "pkg0")), Some(Class::Needed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pacmans_cache_is_shared_in_place_and_a_flipped_bit_there_is_noticed() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(
        dir.path(),
        RepoSpec::new("core").package("large", LARGE).packages(3, 20_000),
    )?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    let mut plan = machine.under(solo(&[&mirror]));
    plan.config.machine.cache_dirs = vec![machine.cache()];
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    let put = |name: &str, data: &[u8]| -> Result<PathBuf, std::io::Error> {
        let path = machine.cache().join(name);
        fs_err::write(&path, data)?;
        Ok(path)
    };
    let large = repo.file_name("large")?;
    let there = put(&large, &on_disk(&repo, &large))?;
    let [cut, wrong, part] = ["pkg0", "pkg1", "pkg2"].map(|name| repo.file_name(name).unwrap());
    put(&cut, &on_disk(&repo, &cut)[..100])?;
    let mut bytes = on_disk(&repo, &wrong);
    bytes[50] ^= 1;
    put(&wrong, &bytes)?;
    put(&format!("{part}.part"), &on_disk(&repo, &part))?;
    put("foreign-1-1-any.pkg.tar.zst", b"made here")?;
    node.node.look_at_machine().await?;
    let store = node.node.store().clone();
    let here = |name: &str| store.file_by_sha256(&sha256(&on_disk(&repo, name))).unwrap();
    let taken = here(&large).ok_or("it is taken")?;
    assert_eq!(taken.by_origin.disk, taken.len);
    for name in [&cut, &wrong, &part] {
        assert_eq!(here(name), None, "{name}");
    }
    let asked = mirror.log().len();
    assert!(node.pacman_bytes(&large).await? == on_disk(&repo, &large));
    assert_eq!(mirror.log().len(), asked, "no mirror was asked");
    assert!(node.node.bytes_out().disk >= LARGE);
    // A bit flips in the cache; where the store has no copy of its own it is noticed, and the mirror asked.
    let mut bytes = fs_err::read(&there)?;
    bytes[1_234_567] ^= 1;
    fs_err::write(&there, &bytes)?;
    assert!(node.pacman_bytes(&large).await? == on_disk(&repo, &large));
    // Removed by `pacman -Sc`: the same.
    remove(&there);
    assert!(node.pacman_bytes(&large).await? == on_disk(&repo, &large));
    Ok(())
}

fn remove(path: &Path) {
    fs_err::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_found_by_re_reading_and_fetched_anew() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(
        dir.path(),
        RepoSpec::new("core").package("large", LARGE).packages(2, 20_000),
    )?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    let node = machine.under(solo(&[&mirror])).start().await;
    node.pacman_bytes("core.db").await?;
    for name in ["large", "pkg0", "pkg1"] {
        node.pacman_bytes(&repo.file_name(name)?).await?;
    }
    node.idle().await;
    node.node.look_at_machine().await?;
    let files = node.node.store().stats().files;
    node.node.scrub(u64::MAX).await?;
    let status = node.node.status(None).await.scrub;
    assert_eq!((status.files, status.damaged), (files, 0), "once around");
    // The largest file of the store loses a bit.
    let damaged = largest(&node.node.store().dir().join("files"));
    let mut bytes = fs_err::read(&damaged)?;
    bytes[777_777] ^= 1;
    fs_err::write(&damaged, &bytes)?;
    node.node.scrub(u64::MAX).await?;
    let status = node.node.status(None).await.scrub;
    assert_eq!((status.damaged, status.mended), (1, 1), "{status:?}");
    mirror.stop();
    let large = repo.file_name("large")?;
    assert!(node.pacman_bytes(&large).await? == on_disk(&repo, &large));
    Ok(())
}

/// The disk gives other bytes than it took, and says nothing: pacman deletes the package and asks again.
#[tokio::test]
async fn what_was_given_damaged_is_right_when_it_is_asked_for_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    let mut plan = machine.under(solo(&[&mirror]));
    plan.config.machine.scrub = Some(Duration::from_hours(1));
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    let large = repo.file_name("large")?;
    node.pacman_bytes(&large).await?;
    node.idle().await;
    let damaged = largest(&node.node.store().dir().join("files"));
    let mut bytes = fs_err::read(&damaged)?;
    bytes[777_777] ^= 1;
    fs_err::write(&damaged, &bytes)?;
    let file = node.pacman_file(&large).await;
    assert!(give(&node, &file).await? == bytes, "as the disk gives it");
    until("the damage is noticed", async || {
        node.node.status(None).await.scrub.damaged == 1
    })
    .await;
    assert!(node.pacman_bytes(&large).await? == on_disk(&repo, &large));
    Ok(())
}

/// The largest file in the folders of `dir`.
fn largest(dir: &Path) -> PathBuf {
    let mut found = Vec::new();
    for folder in fs_err::read_dir(dir).unwrap() {
        for file in fs_err::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            found.push((fs_err::metadata(&path).unwrap().len(), path));
        }
    }
    found.into_iter().max().unwrap().1
}
