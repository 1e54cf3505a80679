//! The repository helper: what it writes is coherent, and wrong exactly where it says so.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use pacstore_pacman::{Database, Limits};
use pacstore_testkit::{Repo, RepoSpec, TestResult, random, require};
use ring::digest::{SHA256, digest};

fn tree(folder: &Path) -> std::io::Result<BTreeMap<String, (Vec<u8>, std::time::SystemTime)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        all.insert(name, (fs::read(entry.path())?, entry.metadata()?.modified()?));
    }
    Ok(all)
}

/// File names in the database whose file is missing or has another size or SHA-256.
fn wrong(repo: &Repo) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let db = Database::read(&fs::read(repo.database_path())?, &Limits::DB)?;
    let mut wrong = Vec::new();
    for desc in &db.entries {
        let name = desc.filename.to_string();
        let fine = fs::read(repo.folder().join(&name)).is_ok_and(|bytes| {
            Some(bytes.len() as u64) == desc.csize
                && desc
                    .sha256
                    .is_some_and(|want| digest(&SHA256, &bytes).as_ref() == want)
        });
        if !fine {
            wrong.push(name);
        }
    }
    Ok(wrong)
}

fn spec() -> RepoSpec {
    RepoSpec::new("core")
        .package("zlib", 60_000)
        .package("bash", 2_000)
        .packages(3, 500)
}

#[test]
fn a_repository_is_whole_and_the_same_each_time() -> TestResult {
    let (a, b) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut one = Repo::create(a.path(), spec())?;
    let mut two = Repo::create(b.path(), spec())?;
    assert_eq!(tree(a.path())?, tree(b.path())?);
    assert_eq!(tree(a.path())?.len(), 5 * 2 + 4);
    assert_eq!(wrong(&one)?, Vec::<String>::new());
    assert!(one.package("zlib")?.csize > 60_000);
    let before = one.file_name("zlib")?;
    one.update(&["zlib"])?;
    two.update(&["zlib"])?;
    assert_eq!(tree(a.path())?, tree(b.path())?);
    assert_ne!(before, one.file_name("zlib")?);
    assert!(!a.path().join(before).exists());
    assert_eq!(wrong(&one)?, Vec::<String>::new());
    let old = tree(a.path())?;
    one.resign()?;
    let new = tree(a.path())?;
    for (name, now) in new.iter().filter(|(name, _)| name.contains(".pkg.tar.zst")) {
        let is_signature = name.strip_suffix(".sig").is_some();
        assert_eq!(is_signature, old.get(name) != Some(now), "{name}");
    }
    one.add("new", 100)?;
    one.remove("bash")?;
    assert_eq!(wrong(&one)?, Vec::<String>::new());
    assert_eq!(one.packages().len(), 5);
    Ok(())
}

#[test]
fn what_is_made_wrong_is_wrong_and_right_again_later() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut repo = Repo::create(folder.path(), spec())?;
    let size_and_time = |repo: &Repo| -> std::io::Result<_> {
        let meta = fs::metadata(repo.package_path("pkg0").map_err(std::io::Error::other)?)?;
        Ok((meta.len(), meta.modified()?))
    };
    let before = size_and_time(&repo)?;
    repo.lose_package("zlib")?;
    repo.truncate_package("bash", 10)?;
    repo.corrupt_package("pkg0")?;
    assert_eq!(wrong(&repo)?.len(), 3);
    assert_eq!(size_and_time(&repo)?, before);
    for name in ["zlib", "bash", "pkg0"] {
        repo.restore_package(name)?;
    }
    assert_eq!(wrong(&repo)?, Vec::<String>::new());
    repo.update_database_only(&["zlib", "pkg1"])?;
    assert_eq!(wrong(&repo)?.len(), 2);
    repo.finish_update()?;
    assert_eq!(wrong(&repo)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn gnupg_accepts_its_signatures() -> TestResult {
    let Some(gpg) = require("gpg") else { return Ok(()) };
    let (folder, home) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let repo = Repo::create(folder.path(), spec())?;
    let key = home.path().join("key");
    fs::write(&key, repo.key().public_key())?;
    let run = |args: &[&std::ffi::OsStr]| {
        std::process::Command::new(&gpg)
            .arg("--homedir")
            .arg(home.path())
            .args(["--batch", "--quiet"])
            .args(args)
            .output()
    };
    assert!(run(&["--import".as_ref(), key.as_os_str()])?.status.success());
    for file in [repo.package_path("zlib")?, repo.database_path()] {
        let mut signature = file.clone().into_os_string();
        signature.push(".sig");
        let out = run(&["--verify".as_ref(), &signature, file.as_os_str()])?;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

#[test]
fn random_bytes_are_the_same_for_the_same_seed() {
    assert_eq!(random(7, 1001)[..1000], random(7, 1000));
    assert_ne!(random(7, 16), random(8, 16));
}
