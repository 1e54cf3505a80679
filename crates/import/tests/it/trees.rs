//! What a tree holds: odd names, links, hidden and excluded names, empty folders, `also`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use pacstore_import::RepoState;
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};

use crate::common::{Bench, all, cid_of, of_directory, of_url};

#[tokio::test]
async fn every_name_of_unix_and_every_empty_folder_is_taken() -> TestResult {
    let dir = tempfile::tempdir()?;
    for name in [
        &b"a b"[..],
        b"new\nline",
        b"\xff\xfe\x01",
        b"WARNING: x",
        b"-rf",
        b"a.db.lck",
        "\u{e9}".as_bytes(),
        b"%41",
    ] {
        fs_err::write(dir.path().join(OsStr::from_bytes(name)), name)?;
    }
    fs_err::create_dir_all(dir.path().join("empty/also empty"))?;
    fs_err::create_dir_all(dir.path().join("only hidden"))?;
    fs_err::write(dir.path().join("only hidden/.x"), b"")?;
    fs_err::write(dir.path().join("zero"), b"")?;
    fs_err::write(dir.path().join(".hidden"), b"x")?;
    fs_err::write(dir.path().join("~temporary"), b"x")?;
    let expected = cid_of(dir.path());
    let bench = Bench::new();
    let round = bench.round(&all(of_directory(dir.path()))).await?;
    assert_eq!(round.tree, expected);
    assert_eq!(round.counts.files, 9);
    if let Some(daemon) = RsyncDaemon::serve(dir.path())? {
        assert_eq!(
            Bench::new().round(&all(of_url(&daemon.url("")))).await?.tree,
            expected
        );
    }
    let mut spec = all(of_directory(dir.path()));
    spec.hidden = true;
    let names = bench.names(&bench.round(&spec).await?.tree);
    assert!(
        names.contains(&".hidden".into()) && names.contains(&"~temporary".into()),
        "{names:?}"
    );
    Ok(())
}

#[tokio::test]
async fn links_are_stored_as_what_they_point_at_under_both_names() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path().join("pool"), RepoSpec::new("core").packages(3, 1_000))?;
    let folder = dir.path().join("core/os/x86_64");
    fs_err::create_dir_all(&folder)?;
    for entry in fs_err::read_dir(repo.folder())? {
        let name = entry?.file_name();
        symlink(
            std::path::Path::new("../../../pool").join(&name),
            folder.join(&name),
        )?;
    }
    fs_err::remove_file(dir.path().join("pool/core.db"))?;
    fs_err::remove_file(folder.join("core.db"))?;
    // As repo-add leaves it: the database is a link to its twin.
    fs_err::rename(
        dir.path().join("pool/core.files"),
        folder.join("core.files.tar.gz"),
    )?;
    fs_err::remove_file(folder.join("core.files"))?;
    let aside = tempfile::tempdir()?;
    let twin = Repo::create(aside.path(), RepoSpec::new("core").packages(3, 1_000))?;
    fs_err::copy(twin.folder().join("core.db"), folder.join("core.db.tar.gz"))?;
    symlink("core.db.tar.gz", folder.join("core.db"))?;
    symlink("core.files.tar.gz", folder.join("core.files"))?;

    let bench = Bench::new();
    let mut spec = of_directory(dir.path());
    spec.exclude = vec!["/pool".into()];
    let round = bench.round(&spec).await?;
    assert!(!round.is_torn(), "{:?}", round.repositories);
    let names = bench.names(&round.tree);
    assert!(names.iter().all(|n| n.starts_with("core/")), "{names:?}");
    let db = |name: &str| {
        bench
            .files(&round.tree)
            .into_iter()
            .find(|(p, _)| p.ends_with(name.as_bytes()))
            .unwrap()
            .1
    };
    assert_eq!(db("core.db"), db("core.db.tar.gz"));
    assert_eq!(names.iter().filter(|n| n.ends_with(".pkg.tar.zst")).count(), 3);
    if let Some(daemon) = RsyncDaemon::serve(dir.path())? {
        let mut spec = of_url(&daemon.url(""));
        spec.exclude = vec!["/pool".into()];
        assert_eq!(Bench::new().round(&spec).await?.tree, round.tree);
    }
    Ok(())
}

#[tokio::test]
async fn a_link_out_of_the_root_is_a_missing_file() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(
        dir.path().join("root/core"),
        RepoSpec::new("core").packages(3, 1_000),
    )?;
    fs_err::write(dir.path().join("root/readme"), b"1")?;
    symlink("/etc/passwd", dir.path().join("root/passwd"))?;
    symlink("nowhere", dir.path().join("root/dangling"))?;
    let root = dir.path().join("root");
    let bench = Bench::new();
    let round = bench.round(&all(of_directory(&root))).await?;
    assert!(!round.is_torn(), "loose names do not tear a repository");
    assert_eq!(round.warnings.len(), 2, "{:?}", round.warnings);
    assert!(!bench.names(&round.tree).iter().any(|n| n.contains("passwd")));

    let package = repo.package_path("pkg1")?;
    fs_err::rename(&package, dir.path().join("outside"))?;
    symlink(dir.path().join("outside"), &package)?;
    let torn = Bench::new().round(&of_directory(&root)).await.unwrap_err();
    let pacstore_import::RoundError::Torn { repositories, .. } = &torn else {
        panic!("{torn:?}")
    };
    let RepoState::Torn(troubles) = &repositories[0].state else {
        panic!()
    };
    assert_eq!(troubles.len(), 1);
    assert_eq!(
        troubles[0].to_string(),
        format!("core/{} is a link that leaves the root", repo.file_name("pkg1")?)
    );
    Ok(())
}

#[tokio::test]
async fn listed_takes_what_databases_name_and_what_also_takes() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 1_000))?;
    let clean = cid_of(dir.path());
    fs_err::write(dir.path().join("core/old-1-1-any.pkg.tar.zst"), b"old")?;
    fs_err::write(dir.path().join("lastupdate"), b"1")?;
    fs_err::create_dir_all(dir.path().join("iso/latest"))?;
    fs_err::write(dir.path().join("iso/latest/a.iso"), vec![7; 3 << 20])?;
    let bench = Bench::new();
    let mut spec = of_directory(dir.path());
    assert_eq!(bench.round(&spec).await?.tree, clean);
    spec.also = vec!["/iso".into(), "lastupdate".into()];
    let round = bench.round(&spec).await?;
    let names = bench.names(&round.tree);
    assert!(
        names.contains(&"iso/latest/a.iso".into()) && names.contains(&"lastupdate".into()),
        "{names:?}"
    );
    assert!(!names.iter().any(|n| n.contains("old-1")));
    let server = Upstream::folder(dir.path())?;
    let mut web = of_url(&server.url(""));
    web.also = spec.also.clone();
    assert_eq!(Bench::new().round(&web).await?.tree, round.tree);

    spec.exclude = vec![format!("/core/{}", repo.file_name("pkg0")?)];
    let held = bench.round(&spec).await?;
    assert!(
        held.is_torn() && held.tree == round.tree,
        "an excluded package is a missing one"
    );
    Ok(())
}

#[tokio::test]
async fn a_folder_becomes_a_file_and_back() -> TestResult {
    let dir = tempfile::tempdir()?;
    let bench = Bench::new();
    let at = |name: &str| dir.path().join(name);
    fs_err::write(at("stays"), b"0")?;
    for step in 0..6 {
        match step {
            0 => fs_err::write(at("x"), b"1")?,
            1 => {
                fs_err::remove_file(at("x"))?;
                fs_err::create_dir(at("x"))?;
            }
            2 => fs_err::write(at("x/y"), b"2")?,
            3 => {
                fs_err::remove_file(at("x/y"))?;
                fs_err::create_dir_all(at("x/y/z"))?;
            }
            4 => {
                fs_err::remove_dir_all(at("x"))?;
                fs_err::write(at("x"), b"3")?;
            }
            _ => fs_err::remove_file(at("x"))?,
        }
        let round = bench.round(&all(of_directory(dir.path()))).await?;
        assert_eq!(round.tree, cid_of(dir.path()), "step {step}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pipe_in_the_folder_of_a_repository_is_left_out_and_does_not_tear_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(3, 1_000))?;
    let expected = cid_of(dir.path());
    let pipe = std::process::Command::new("mkfifo")
        .arg(dir.path().join("pipe"))
        .status()?;
    assert!(pipe.success());
    let round = Bench::new().round(&all(of_directory(dir.path()))).await?;
    assert_eq!((round.tree, round.is_torn()), (expected, false));
    assert_eq!(round.warnings, ["left out: pipe is no regular file"]);
    Ok(())
}
