//! What an upstream has and does not show is not gone: its repository stays as it was, and is named, and others move.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use pacstore_import::{Layout, RepoState, Repositories, RoundError};
use pacstore_testkit::{At, Fault, Listing, Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};

use crate::common::{Bench, all, cid_of, of_directory, of_url, troubles};
use crate::faults::{impatient, importer, round};

fn two_repositories(dir: &Path) -> TestResult {
    fs_err::set_permissions(dir, Permissions::from_mode(0o755))?;
    for name in ["core", "extra"] {
        // Other packages in each: what the store has by its digest is not asked for.
        let spec = RepoSpec::new(name).package(format!("{name}-a"), 900);
        Repo::create(dir.join(name).join("os/x86_64"), spec)?;
    }
    Ok(())
}

/// An rsync daemon that may not read what is closed to others; none where there is no rsync.
fn without_rights(dir: &Path) -> std::io::Result<Option<RsyncDaemon>> {
    let nobody: &[&str] = if rustix::process::geteuid().is_root() {
        &["uid = nobody", "gid = *"]
    } else {
        &[]
    };
    RsyncDaemon::serve_with(dir, nobody)
}

#[tokio::test]
async fn a_folder_that_the_rsync_daemon_may_not_read_tears_the_repository_in_it() -> TestResult {
    // The folder itself, and one above it: not to be opened, listed or entered.
    for (folder, mode, named) in [
        ("extra/os/x86_64", 0o000, "extra/os/x86_64 is not readable for us"),
        ("extra/os", 0o311, "extra/os is not readable for us"),
        ("extra", 0o444, "extra is not readable for us"),
    ] {
        let dir = tempfile::tempdir()?;
        two_repositories(dir.path())?;
        let Some(daemon) = without_rights(dir.path())? else {
            return Ok(());
        };
        let listed = of_url(&daemon.url(""));
        for spec in [listed.clone(), all(listed)] {
            let bench = Bench::new();
            let whole = bench.round(&spec).await?;
            assert_eq!((whole.tree, whole.is_torn()), (cid_of(dir.path()), false));
            let closed = dir.path().join(folder);
            fs_err::set_permissions(&closed, Permissions::from_mode(mode))?;
            let round = bench.round(&spec).await;
            fs_err::set_permissions(&closed, Permissions::from_mode(0o755))?;
            let round = round?;
            assert_eq!((round.tree, round.is_torn()), (whole.tree, true), "{folder}");
            assert_eq!(troubles(&round.repositories), [named]);
            let mended = bench.round(&spec).await?;
            assert_eq!((mended.tree, mended.is_torn()), (whole.tree, false), "{folder}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_the_rsync_daemon_may_not_read_elsewhere_is_left_out_and_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    two_repositories(dir.path())?;
    let Some(daemon) = without_rights(dir.path())? else {
        return Ok(());
    };
    let without = cid_of(dir.path());
    let closed = dir.path().join("lost+found");
    fs_err::create_dir(&closed)?;
    fs_err::set_permissions(&closed, Permissions::from_mode(0o000))?;
    let round = Bench::new().round(&all(of_url(&daemon.url("")))).await?;
    assert_eq!((round.tree, round.is_torn()), (without, false));
    assert_eq!(round.warnings, ["left out: lost+found is not readable for us"]);
    Ok(())
}

#[tokio::test]
async fn a_folder_that_a_web_server_names_and_does_not_show_tears_the_repository_in_it() -> TestResult {
    for fault in [
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(410),
        Fault::ErrorPage,
    ] {
        for layout in [Layout::Plain, Layout::Archlinux] {
            let dir = tempfile::tempdir()?;
            two_repositories(dir.path())?;
            let server = Upstream::folder(dir.path())?;
            let bench = Bench::new();
            let mut spec = of_url(&server.url(""));
            spec.layout = layout;
            let whole = bench.round(&spec).await?;
            assert!(!whole.is_torn());
            server.fault("extra/*", fault.clone());
            let round = bench.round(&spec).await?;
            assert_eq!(
                (round.tree, round.is_torn()),
                (whole.tree, true),
                "{fault:?} {layout:?}"
            );
            server.heal();
            let mended = bench.round(&spec).await?;
            assert_eq!((mended.tree, mended.is_torn()), (whole.tree, false));
            // No more named, it is gone.
            fs_err::remove_dir_all(dir.path().join("extra"))?;
            let gone = bench.round(&spec).await?;
            assert!(!gone.is_torn());
            assert_eq!(gone.warnings, ["extra/os/x86_64/extra is gone from the source"]);
        }
    }
    Ok(())
}

/// Images are gone from the tree then, so somebody must hear of it.
#[tokio::test]
async fn a_folder_that_is_named_and_not_shown_elsewhere_is_left_out_and_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    two_repositories(dir.path())?;
    let without_images = cid_of(dir.path());
    let images = dir.path().join("iso");
    fs_err::create_dir_all(images.join("old"))?;
    fs_err::write(images.join("old/a.iso"), "an old one")?;
    let without_the_latest = cid_of(dir.path());
    fs_err::create_dir(images.join("latest"))?;
    fs_err::write(images.join("latest/b.iso"), "a new one")?;
    let server = Upstream::folder(dir.path())?;
    let mut spec = of_url(&server.url(""));
    spec.also = vec!["/iso/**".into()];
    let bench = Bench::new();
    let whole = bench.round(&spec).await?;
    assert_eq!((whole.tree, whole.warnings.len()), (cid_of(dir.path()), 0));
    for fault in [Fault::Status(403), Fault::Status(404), Fault::ErrorPage] {
        for (folder, tree) in [("iso/latest", without_the_latest), ("iso", without_images)] {
            server.fault(&format!("{folder}/"), fault.clone());
            let round = bench.round(&spec).await?;
            assert_eq!((round.tree, round.is_torn()), (tree, false), "{fault:?} {folder}");
            let left_out = format!("left out: {folder} is not readable for us");
            assert_eq!(round.warnings, [left_out], "{fault:?}");
            server.heal();
            let mended = bench.round(&spec).await?;
            assert_eq!((mended.tree, mended.warnings.len()), (whole.tree, 0));
        }
    }
    // What no `also` can mean is nobody's concern.
    fs_err::create_dir(dir.path().join("private"))?;
    server.fault("private/", Fault::Status(403));
    assert_eq!(bench.round(&spec).await?.warnings.len(), 0);
    server.heal();
    fs_err::remove_dir(dir.path().join("private"))?;

    let Some(daemon) = without_rights(dir.path())? else {
        return Ok(());
    };
    let mut spec = of_url(&daemon.url(""));
    spec.also = vec!["/iso/**".into()];
    fs_err::set_permissions(&images, Permissions::from_mode(0o000))?;
    let round = Bench::new().round(&spec).await;
    fs_err::set_permissions(&images, Permissions::from_mode(0o755))?;
    let round = round?;
    assert_eq!((round.tree, round.is_torn()), (without_images, false));
    assert_eq!(round.warnings, ["left out: iso is not readable for us"]);
    Ok(())
}

/// A front page in the place of a listing: who knows the repositories from before goes on with them.
#[tokio::test]
async fn a_front_page_hides_no_repository_that_is_known() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path().join("x86_64"), RepoSpec::new("core").packages(2, 700))?;
    let server = Upstream::folder(dir.path())?;
    let (bench, spec) = (Bench::new(), of_url(&server.url("")));
    assert!(!bench.round(&spec).await?.is_torn());
    server.fault("", Fault::ErrorPage);
    repo.update(&["pkg1"])?;
    let round = bench.round(&spec).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    // What its own listing does not name is gone, or torn, as ever.
    fs_err::remove_file(repo.database_path())?;
    let torn = bench.round(&spec).await?;
    assert_eq!((torn.tree, torn.is_torn()), (round.tree, true));
    Ok(())
}

#[tokio::test]
async fn a_folder_of_a_repository_that_became_a_dangling_link_tears_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    two_repositories(dir.path())?;
    let bench = Bench::new();
    for spec in [of_directory(dir.path()), all(of_directory(dir.path()))] {
        let whole = bench.round(&spec).await?;
        fs_err::rename(dir.path().join("extra"), dir.path().join(".away"))?;
        symlink("nowhere", dir.path().join("extra"))?;
        let round = bench.round(&spec).await?;
        assert_eq!((round.tree, round.is_torn()), (whole.tree, true));
        assert_eq!(
            troubles(&round.repositories),
            ["extra is a link that leads nowhere"]
        );
        fs_err::remove_file(dir.path().join("extra"))?;
        fs_err::rename(dir.path().join(".away"), dir.path().join("extra"))?;
    }
    Ok(())
}

/// Repositories are torn apart, not the mirror.
#[tokio::test]
async fn a_bad_answer_for_one_database_or_its_signature_keeps_no_other_repository_from_moving() -> TestResult
{
    for fault in [
        Fault::Status(500),
        Fault::RedirectLoop,
        Fault::Truncate(At::Percent(50)),
        Fault::StallAfterHeader,
    ] {
        for file in ["core.db", "core.files", "core.db.sig"] {
            let dir = tempfile::tempdir()?;
            Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 600))?;
            let mut other = Repo::create(dir.path().join("extra"), RepoSpec::new("extra").packages(2, 600))?;
            let server = Upstream::folder(dir.path())?;
            let bench = Bench::new();
            let mut importer = importer(&bench, of_url(&server.url("")), impatient());
            let whole = round(&mut importer).await?;
            other.update(&["pkg0"])?;
            server.fault(&format!("core/{file}"), fault.clone());
            let torn = round(&mut importer).await?;
            let named = troubles(&torn.repositories);
            let what = format!("{fault:?} for `{file}`: {named:?}");
            assert!(torn.changed && torn.tree != whole.tree, "the other moved: {what}");
            if matches!(fault, Fault::Status(_) | Fault::RedirectLoop) {
                assert!(
                    named.len() == 1 && named[0].starts_with(&format!("core/{file} ")),
                    "{what}"
                );
            }
            server.heal();
            let healed = round(&mut importer).await?;
            assert_eq!(
                (healed.tree, healed.is_torn()),
                (cid_of(dir.path()), false),
                "{what}"
            );
        }
    }
    Ok(())
}

/// A server that has a page for what it has not: without listings nothing says that there are signatures.
#[tokio::test]
async fn a_web_page_is_no_signature() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 600))?;
    let mut files = vec!["core.db".to_owned(), "core.files".to_owned()];
    files.extend([repo.file_name("pkg0")?, repo.file_name("pkg1")?]);
    for file in files {
        fs_err::remove_file(dir.path().join(format!("{file}.sig")))?;
    }
    let server = Upstream::folder(dir.path())?;
    server.listing(Listing::Off);
    server.fault("*.sig", Fault::ErrorPage);
    let mut spec = of_url(&server.url(""));
    spec.repositories = Repositories::List(vec!["core".into()]);
    let bench = Bench::new();
    let round = bench.round(&spec).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    Ok(())
}

/// A package that a web server has and does not give: the reason stands in the round's words, for one file and for many.
#[tokio::test]
async fn why_a_file_does_not_come_is_told() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(20, 1_000))?;
    let server = Upstream::folder(dir.path())?;
    let spec = of_url(&server.url(""));
    let package = repo.file_name("pkg1")?;
    for (fault, words) in [
        (Fault::Status(500), "it answered 500"),
        (Fault::Hangup, "the connection broke off"),
        (Fault::RedirectLoop, "it leads elsewhere, or nowhere"),
    ] {
        server.heal();
        server.fault(&package, fault);
        let error = Bench::new().round(&spec).await.unwrap_err();
        let RoundError::Torn { repositories, .. } = &error else {
            panic!("{words}: {error:?}")
        };
        let RepoState::Torn(troubles) = &repositories[0].state else {
            panic!("{words}: {repositories:?}")
        };
        let told: Vec<String> = troubles.iter().map(ToString::to_string).collect();
        let want = format!("{package} is not sent whole by the source: {words}");
        assert!(told.contains(&want), "{told:?}");
    }
    server.fault("*.pkg.tar.*", Fault::Status(500));
    let error = Bench::new().round(&spec).await.unwrap_err();
    let RoundError::NoSource { attempts, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(
        attempts[0].1.to_string().ends_with("answered 500"),
        "{attempts:?}"
    );
    Ok(())
}
