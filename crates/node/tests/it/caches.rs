//! pacman's caches: packages with their signatures, several folders, read-only ones, and what happens to them beside us.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use pacstore_dag::Profile;
use pacstore_import::Files;
use pacstore_node::CacheStatus;
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::full::Small;
use crate::machine::{Machine, digest, folder};
use crate::nodes::{Plan, TestNode};
use crate::solo::{LARGE, on_disk, solo};

/// Puts a file of the repository into a cache, as pacman does: under another name first.
fn put(cache: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = cache.join(name);
    let part = cache.join(format!("{name}.part"));
    fs_err::write(&part, bytes).unwrap();
    fs_err::rename(&part, &path).unwrap();
    path
}

/// A package and its signature.
fn put_both(cache: &Path, repo: &Repo, package: &str) -> PathBuf {
    let name = repo.file_name(package).unwrap();
    let signature = format!("{name}.sig");
    put(cache, &signature, &on_disk(repo, &signature));
    put(cache, &name, &on_disk(repo, &name))
}

fn cached(mut plan: Plan, folders: &[&Path]) -> Plan {
    plan.config.machine.cache_dirs = folders.iter().map(|path| (*path).to_owned()).collect();
    plan
}

async fn caches(node: &TestNode) -> Vec<CacheStatus> {
    node.node.look_at_machine().await.unwrap();
    node.node.status(None).await.caches
}

fn counts(status: &CacheStatus) -> (u64, u64, u64) {
    (status.packages, status.shared, status.signatures)
}

/// The package and its signature are this node's to give.
async fn gives(node: &TestNode, repo: &Repo, package: &str) -> TestResult {
    let name = repo.file_name(package)?;
    for name in [name.clone(), format!("{name}.sig")] {
        assert!(node.pacman_bytes(&name).await? == on_disk(repo, &name), "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_with_their_signatures_come_out_of_several_caches() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core").package("large", LARGE).packages(4, 30_000);
    let repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let node = cached(solo(&[&mirror]), &[first.path(), second.path()])
        .start()
        .await;
    node.pacman_bytes("core.db").await?;
    mirror.stop();
    put_both(first.path(), &repo, "large");
    put_both(second.path(), &repo, "pkg0");
    // Of this one the signature is another package's.
    let wrong = repo.file_name("pkg1")?;
    put(second.path(), &wrong, &on_disk(&repo, &wrong));
    let other = on_disk(&repo, &format!("{}.sig", repo.file_name("pkg2")?));
    put(second.path(), &format!("{wrong}.sig"), &other);
    // And of this one it comes later, as pacman fetches it.
    let late = repo.file_name("pkg3")?;
    put(second.path(), &late, &on_disk(&repo, &late));
    let seen = caches(&node).await;
    assert_eq!(
        seen.iter().map(counts).collect::<Vec<_>>(),
        [(1, 1, 1), (3, 3, 1)]
    );
    assert_eq!(seen[0].path, first.path().to_string_lossy());
    let signature = format!("{late}.sig");
    put(second.path(), &signature, &on_disk(&repo, &signature));
    let seen = caches(&node).await;
    assert_eq!(
        seen.iter().map(counts).collect::<Vec<_>>(),
        [(1, 1, 1), (3, 3, 2)]
    );
    let before = node.node.bytes_out();
    for package in ["large", "pkg0", "pkg3"] {
        gives(&node, &repo, package).await?;
    }
    let after = node.node.bytes_out();
    assert_eq!(
        after.upstream, before.upstream,
        "all of it was this machine's own"
    );
    assert!(after.disk > before.disk + LARGE);
    let answer = node.pacman(1, &format!("{wrong}.sig")).await;
    assert!(matches!(answer, pacstore_node::Answer::Redirect(_)), "{answer:?}");
    // Over a restart too, and nothing has to be looked at for it.
    let node = node.stop().await.start().await;
    for package in ["large", "pkg0", "pkg3"] {
        gives(&node, &repo, package).await?;
    }
    Ok(())
}

/// The importer cuts files in another way than this program would, so that only its own way leads to the tree.
#[tokio::test(flavor = "multi_thread")]
async fn what_pacman_has_is_given_to_a_neighbour_when_the_importer_is_gone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core").package("large", LARGE).packages(2, 30_000);
    let repo = Repo::create(dir.path().join("core"), spec)?;
    let mut importer = Plan::importer(dir.path(), Files::Listed);
    importer.config.imports[0].spec.profile = Profile::KUBO_CIDV1;
    let importer = importer.start().await;
    importer.import().await;
    let (key, cache) = (importer.plan.key(), tempfile::tempdir()?);
    let machine = Machine::new("");
    let plan = Plan::client(vec![key], vec![importer.address().await]);
    let client = machine.under(cached(plan, &[cache.path()])).start().await;
    client.follows(&importer).await;
    for package in ["large", "pkg0"] {
        put_both(cache.path(), &repo, package);
    }
    // A signature that is not the tree's.
    let other = repo.file_name("pkg1")?;
    put(cache.path(), &other, &on_disk(&repo, &other));
    let old = on_disk(&repo, &format!("{}.sig", repo.file_name("pkg0")?));
    put(cache.path(), &format!("{other}.sig"), &old);
    assert_eq!(counts(&caches(&client).await[0]), (3, 3, 2));
    let neighbour = Plan::client(
        vec![importer.plan.key()],
        vec![importer.address().await, client.address().await],
    );
    let neighbour = neighbour.start().await;
    neighbour.follows(&importer).await;
    importer.stop().await;
    for node in [&client, &neighbour] {
        for package in ["large", "pkg0"] {
            let name = repo.file_name(package)?;
            for name in [name.clone(), format!("{name}.sig")] {
                let got = node.get(&format!("core/{name}")).await?;
                assert!(got == on_disk(&repo, &name), "{name}");
            }
        }
    }
    let given = client.node.bytes_out();
    assert_eq!((given.lan, given.peer, given.upstream), (0, 0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_cache_is_shared_and_one_that_cannot_be_read_is_told_and_harms_nobody() -> TestResult {
    let Some(disk) = Small::mount() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(
        dir.path(),
        RepoSpec::new("core").package("large", LARGE).packages(3, 30_000),
    )?;
    let mirror = Upstream::folder(dir.path())?;
    put_both(disk.0.path(), &repo, "large");
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(disk.0.path())
        .status()?;
    assert!(remounted.success());
    assert!(fs_err::write(disk.0.path().join("x"), b"").is_err());
    let (odd, gone) = (tempfile::tempdir()?, dir.path().join("not/there"));
    // Nobody can open this one, not even root; and this one is a folder.
    let looped = odd.path().join(repo.file_name("pkg0")?);
    std::os::unix::fs::symlink(&looped, &looped)?;
    fs_err::create_dir(odd.path().join(repo.file_name("pkg1")?))?;
    put_both(odd.path(), &repo, "pkg2");
    let file = dir.path().join("core.db");
    let folders = [gone.as_path(), &file, odd.path(), disk.0.path()];
    let node = cached(solo(&[&mirror]), &folders).start().await;
    node.pacman_bytes("core.db").await?;
    mirror.stop();
    let seen = caches(&node).await;
    assert_eq!(
        seen.iter().map(counts).collect::<Vec<_>>(),
        [(0, 0, 0), (0, 0, 0), (3, 1, 1), (1, 1, 1)]
    );
    let errors: Vec<_> = seen
        .iter()
        .map(|one| one.error.clone().unwrap_or_default())
        .collect();
    assert!(errors[0].contains("No such file"), "{errors:?}");
    assert!(errors[1].contains("Not a directory"), "{errors:?}");
    assert!(
        errors[2].contains("pkg0") && errors[2].contains("symbolic"),
        "{errors:?}"
    );
    assert_eq!(errors[3], "");
    for package in ["large", "pkg2"] {
        gives(&node, &repo, package).await?;
    }
    // It went while the node ran: noticed, told, and fetched from elsewhere, were there somebody.
    fs_err::remove_dir_all(odd.path())?;
    assert!(caches(&node).await[2].error.is_some());
    drop(node.stop().await);
    Ok(())
}

/// `paccache -r`, `pacman -Sc` and pacman itself go on beside us.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_pruned_beside_us_costs_a_download_and_nothing_else() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("large", LARGE)
        .packages(3, 1_200_000);
    let mut repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    let names = ["large", "pkg0", "pkg1", "pkg2"];
    for name in names {
        machine.has(&folder(&repo, name));
    }
    repo.update(&names)?;
    let node = machine.under(cached(solo(&[&mirror]), &[&machine.cache()]));
    let node = node.start().await;
    node.pacman_bytes("core.db").await?;
    let paths = names.map(|name| put_both(&machine.cache(), &repo, name));
    assert_eq!(counts(&caches(&node).await[0]), (4, 4, 4));
    let status = node.node.prefetch_status().await;
    assert_eq!((status.ready, status.missing), (4, 0));
    // One goes, one becomes another file, one loses its end, one is written over with the same length.
    fs_err::remove_file(&paths[0])?;
    put(&machine.cache(), &repo.file_name("pkg0")?, b"another file");
    fs_err::File::options()
        .write(true)
        .open(&paths[2])?
        .set_len(1000)?;
    write_over(&paths[3], &vec![7; fs_err::metadata(&paths[3])?.len() as usize]);
    let status = node.node.prefetch_status().await;
    assert_eq!((status.ready, status.missing), (0, 4), "{status:?}");
    node.node.scrub(u64::MAX).await?;
    assert_eq!(node.node.status(None).await.scrub.damaged, 0, "it was never ours");
    for name in names {
        gives(&node, &repo, name).await?;
    }
    node.idle().await;
    let status = node.node.prefetch_status().await;
    assert_eq!((status.ready, status.missing), (4, 0), "{status:?}");
    let error = caches(&node).await[0].error.clone().unwrap_or_default();
    assert!(error.is_empty(), "{error}");
    Ok(())
}

/// In place, with another time of change.
fn write_over(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(5))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_over_while_it_is_given_comes_to_its_right_end() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(
        dir.path(),
        RepoSpec::new("core")
            .package("large", LARGE)
            .package("small", 900_000),
    )?;
    let mirror = Upstream::folder(dir.path())?;
    let cache = tempfile::tempdir()?;
    let node = cached(solo(&[&mirror]), &[cache.path()]).start().await;
    node.pacman_bytes("core.db").await?;
    for package in ["large", "small"] {
        let path = put_both(cache.path(), &repo, package);
        node.node.look_at_machine().await?;
        let name = repo.file_name(package)?;
        let (wanted, file) = (on_disk(&repo, &name), node.pacman_file(&name).await);
        let (mut giving, first) = node.node.give(&file, 0, file.len).await?;
        let mut got = first.to_vec();
        assert!(got.len() < wanted.len(), "there is more to come");
        write_over(&path, &vec![0; wanted.len()]);
        let rest = async {
            while (got.len() as u64) < file.len {
                got.extend_from_slice(&giving.read(got.len() as u64, file.len).await?);
            }
            Ok::<_, pacstore_node::FetchError>(got)
        };
        let got = tokio::time::timeout(Duration::from_mins(1), rest).await??;
        assert!(got == wanted, "{package}: not a byte of what was written over it");
        node.idle().await;
        assert!(
            node.node.store().has_sha256(&digest(&repo, package))?,
            "and it is here again"
        );
    }
    Ok(())
}
