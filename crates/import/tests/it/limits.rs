//! What a mirror may not do: name files outside of its folder, or have folders without end.

use std::path::Path;
use std::time::Duration;

use pacstore_import::{ImportSpec, RoundError, SourceError};
use pacstore_pacman::build::RepoBuilder;
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};

use crate::common::{Bench, all, cid_of, of_directory, of_url, troubles};

/// What an importer reads, and the daemon that serves it.
type Served = (ImportSpec, Option<RsyncDaemon>);

/// The databases of `repo` as if `pkg1` had this file name, and the bytes of `pkg0` if it is the `same` file.
fn rename_in_databases(repo: &Repo, file_name: &str, same: bool) -> TestResult {
    let mut builder = RepoBuilder::new(repo.name(), repo.time() + 60);
    for package in repo.packages() {
        let mut package = package.clone();
        if package.spec.name == "pkg1" {
            if same {
                let first = repo.package("pkg0")?;
                (package.csize, package.sha256, package.md5) = (first.csize, first.sha256, first.md5);
            }
            file_name.clone_into(&mut package.file_name);
        }
        builder.add(package);
    }
    for (name, bytes) in builder.files(Some(repo.key()))? {
        let path = repo.folder().join(name);
        // rsync sees a change by size and second alone, and two of these may have both in common.
        let later = fs_err::metadata(&path)?.modified()? + Duration::from_secs(1);
        fs_err::write(&path, bytes)?;
        let file = fs_err::OpenOptions::new().write(true).open(&path)?;
        file.file().set_modified(later)?;
    }
    Ok(())
}

/// A name that leads out of the folder, in a database that is signed as it should be: the repository stays as it was,
/// the name is told, and nobody is asked for it.
#[tokio::test]
async fn a_database_that_names_files_elsewhere_is_torn_and_nothing_there_is_touched() -> TestResult {
    for source in ["directory", "web", "rsync"] {
        let dir = tempfile::tempdir()?;
        let spec = RepoSpec::new("core").packages(3, 2_000);
        let repo = Repo::create(dir.path().join("mirror/core"), spec)?;
        let secret = dir.path().join("secret-1-1-any.pkg.tar.zst");
        fs_err::write(&secret, "not of this mirror")?;
        let root = dir.path().join("mirror");
        let server = Upstream::folder(&root)?;
        let Some((spec, _daemon)) = spec_of(source, &root, &server)? else {
            continue;
        };
        let bench = Bench::new();
        let whole = bench.round(&spec).await?;
        let absolute = secret.display().to_string();
        for name in [
            "../../secret-1-1-any.pkg.tar.zst",
            "../core/pkg1-1.1-1-x86_64.pkg.tar.zst",
            absolute.as_str(),
            "",
            ".",
            "..",
            "sub/pkg1-1.1-1-x86_64.pkg.tar.zst",
            "pkg1\u{1}-1.1-1-x86_64.pkg.tar.zst",
        ] {
            server.clear_log();
            rename_in_databases(&repo, name, false)?;
            let torn = bench.round(&spec).await?;
            assert_eq!(torn.tree, whole.tree, "{name:?} by {source}");
            assert!(torn.is_torn(), "{name:?} by {source}");
            let told = troubles(&torn.repositories);
            let names_it = |one: &String| one.starts_with("core/core.") && one.contains("%FILENAME%");
            assert!(
                !told.is_empty() && told.iter().all(names_it),
                "{name:?} by {source}: {told:?}"
            );
            let asked = server.log();
            let elsewhere =
                |path: &str| path.contains("secret") || path.contains("..") || path.contains("/sub/");
            assert!(
                !asked.iter().any(|one| elsewhere(&one.path)),
                "{name:?}: {asked:?}"
            );

            // From nothing there is nothing to keep, and nothing comes in.
            let empty = Bench::new();
            let error = empty.round(&spec).await.unwrap_err();
            assert!(
                matches!(error, RoundError::Torn { .. }),
                "{name:?} by {source}: {error:?}"
            );
            assert_eq!(empty.store.retained()?, [], "{name:?} by {source}");
        }
        assert_eq!(fs_err::read(&secret)?, b"not of this mirror");
    }
    Ok(())
}

/// A spec for `root` by one transport, and what serves it; nothing if that is not installed.
fn spec_of(source: &str, root: &Path, server: &Upstream) -> std::io::Result<Option<Served>> {
    Ok(match source {
        "directory" => Some((of_directory(root), None)),
        "web" => Some((of_url(&server.url("")), None)),
        _ => RsyncDaemon::serve(root)?.map(|daemon| (of_url(&daemon.url("")), Some(daemon))),
    })
}

/// Two packages with one file name: whole where that file is what both say, torn where it cannot be.
#[tokio::test]
async fn one_file_name_for_two_packages_is_whole_only_if_both_mean_the_same_file() -> TestResult {
    for source in ["directory", "web", "rsync"] {
        let dir = tempfile::tempdir()?;
        let repo = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 2_000))?;
        let server = Upstream::folder(dir.path())?;
        let Some((spec, _daemon)) = spec_of(source, dir.path(), &server)? else {
            continue;
        };
        let bench = Bench::new();
        let whole = bench.round(&spec).await?;
        let name = repo.file_name("pkg0")?;
        rename_in_databases(&repo, &name, false)?;
        let torn = bench.round(&spec).await?;
        assert_eq!((torn.tree, torn.is_torn()), (whole.tree, true), "{source}");
        let told = troubles(&torn.repositories);
        assert!(
            told.iter().any(|one| one.starts_with(&format!("core/{name} "))),
            "{source}: {told:?}"
        );

        rename_in_databases(&repo, &name, true)?;
        let same = bench.round(&spec).await?;
        assert!(!same.is_torn() && same.changed, "{source}: {same:?}");
        let names = bench.names(&same.tree);
        assert_eq!(
            names.iter().filter(|one| one.ends_with(&name)).count(),
            1,
            "{names:?}"
        );
        assert!(!names.iter().any(|one| one.contains("pkg1-")), "{names:?}");
    }
    Ok(())
}

/// The error of the only source that was tried.
fn only(error: RoundError) -> SourceError {
    match error {
        RoundError::NoSource { mut attempts, .. } if attempts.len() == 1 => attempts.remove(0).1,
        other => panic!("{other:?}"),
    }
}

/// The root's listing is one, the repository's another.
#[tokio::test]
async fn a_web_mirror_of_5000_listings_is_walked_and_one_more_is_an_error_and_not_a_part() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("zzz"), RepoSpec::new("core").packages(1, 1_000))?;
    let expected = cid_of(dir.path());
    for nth in 0..4_998 {
        fs_err::create_dir(dir.path().join(format!("f{nth}")))?;
    }
    let server = Upstream::folder(dir.path())?;
    let spec = of_url(&server.url(""));
    let bench = Bench::new();
    let whole = bench.round(&spec).await?;
    assert_eq!((whole.tree, whole.is_torn()), (expected, false));
    fs_err::create_dir(dir.path().join("one more"))?;
    let error = only(bench.round(&spec).await.unwrap_err());
    assert!(
        matches!(error, SourceError::TooManyFolders(_, 5_000)),
        "{error:?}"
    );
    // Left out, it counts no more; nor does anything where the repositories are named.
    let mut without = spec.clone();
    without.exclude = vec!["/one more/".into()];
    assert_eq!(bench.round(&without).await?.tree, expected);
    Ok(())
}

/// Each folder has another name: one that is listed as the one above it is a link that leads back.
#[tokio::test]
async fn what_is_127_folders_deep_is_taken_and_a_deeper_folder_is_told() -> TestResult {
    let dir = tempfile::tempdir()?;
    let deep = (1..=127).fold(dir.path().to_owned(), |path, nth| path.join(format!("d{nth}")));
    let repo = Repo::create(&deep, RepoSpec::new("core").packages(1, 1_000))?;
    let server = Upstream::folder(dir.path())?;
    let spec = of_url(&server.url(""));
    let bench = Bench::new();
    let whole = bench.round(&spec).await?;
    assert_eq!((whole.tree, whole.is_torn()), (cid_of(dir.path()), false));
    assert!(
        bench
            .names(&whole.tree)
            .iter()
            .any(|name| name.ends_with("/core.db"))
    );
    fs_err::create_dir(repo.folder().join("deeper"))?;
    let error = only(bench.round(&spec).await.unwrap_err());
    assert!(matches!(error, SourceError::TooDeep(_, 127)), "{error:?}");
    // A directory is walked to its ends all the same; what has no place in a tree is left out and named.
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(1, 1_000))?;
    let deep = (1..=128).fold(dir.path().to_owned(), |path, nth| path.join(format!("d{nth}")));
    fs_err::create_dir_all(&deep)?;
    fs_err::write(deep.join("a"), "too deep for a tree")?;
    let round = Bench::new().round(&all(of_directory(dir.path()))).await?;
    assert_eq!((round.is_torn(), round.warnings.len()), (false, 1));
    assert!(
        round.warnings[0].contains("/d127/d128 is within more than 127 folders"),
        "{:?}",
        round.warnings
    );
    Ok(())
}
