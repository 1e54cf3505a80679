//! Torn upstreams: each wrong file is named, and the repository does not move.

use pacstore_import::{ImportSpec, RepoState, RoundError};
use pacstore_testkit::{
    Fixture, Materialize, Repo, RepoSpec, RsyncDaemon, TestResult, Upstream, corrupt, truncate,
};

use crate::common::{Bench, cid_of, of_directory, of_url, troubles};

const WAYS: [&str; 5] = [
    "missing",
    "truncated",
    "other bytes",
    "database newer",
    "database cut",
];

fn tear(repo: &mut Repo, way: &str) -> TestResult {
    match way {
        "missing" => repo.lose_package("pkg2")?,
        "truncated" => repo.truncate_package("pkg2", 100)?,
        "other bytes" => repo.corrupt_package("pkg2")?,
        "database newer" => repo.update_database_only(&["pkg2"])?,
        _ => truncate(&repo.database_path(), 200)?,
    }
    Ok(())
}

async fn torn_by(way: &str, source: &str) -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(5, 5_000))?;
    let server = Upstream::folder(dir.path())?;
    let daemon = if source == "rsync" {
        RsyncDaemon::serve(dir.path())?
    } else {
        None
    };
    let spec: ImportSpec = match source {
        "directory" => of_directory(dir.path()),
        "web" => of_url(&server.url("")),
        _ => match &daemon {
            Some(daemon) => of_url(&daemon.url("")),
            None => return Ok(()),
        },
    };
    let bench = Bench::new();
    let whole = bench.round(&spec).await?;
    repo.update(&["pkg2", "pkg4"])?;
    tear(&mut repo, way)?;
    let torn = bench.round(&spec).await?;
    assert_eq!(torn.tree, whole.tree, "{way} by {source}");
    assert!(
        !torn.changed && !torn.repositories[0].checked,
        "{way} by {source}"
    );
    let named = troubles(&torn.repositories);
    let file = if way == "database cut" {
        "core.db".into()
    } else {
        repo.file_name("pkg2")?
    };
    assert_eq!(named.len(), 1, "{way} by {source}: {named:?}");
    assert!(
        named[0].starts_with(&format!("core/{file} ")),
        "{way} by {source}: {named:?}"
    );

    // From nothing there is nothing to keep.
    let error = Bench::new().round(&spec).await.unwrap_err();
    let RoundError::Torn { repositories, .. } = &error else {
        panic!("{way} by {source}: {error:?}")
    };
    assert_eq!(troubles(repositories), named);
    Ok(())
}

#[tokio::test]
async fn a_torn_directory_names_its_files_and_does_not_move() -> TestResult {
    for way in WAYS {
        torn_by(way, "directory").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_torn_web_mirror_names_its_files_and_does_not_move() -> TestResult {
    for way in WAYS {
        torn_by(way, "web").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_torn_rsync_module_names_its_files_and_does_not_move() -> TestResult {
    for way in WAYS {
        torn_by(way, "rsync").await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_real_repository_torn_in_three_ways_does_not_move() -> TestResult {
    let Some(fixture) = Fixture::arcolinux() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let bench = Bench::new();
    fixture.materialize(28, dir.path(), Materialize::Copy)?;
    let whole = bench.round(&of_directory(dir.path())).await?;
    fixture.materialize(29, dir.path(), Materialize::Copy)?;
    let mut packages = Vec::new();
    let folder = dir.path().join("x86_64");
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "zst") {
            packages.push(path);
        }
    }
    packages.sort();
    fs_err::remove_file(&packages[0])?;
    truncate(&packages[1], 1000)?;
    corrupt(&packages[2], 500)?;
    let torn = bench.round(&of_directory(dir.path())).await?;
    assert_eq!(torn.tree, whole.tree);
    let named = troubles(&torn.repositories);
    assert_eq!(named.len(), 3, "{named:?}");
    for (path, what) in packages
        .iter()
        .zip(["is missing", "has 1000 bytes", "has SHA-256"])
    {
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(
            named.iter().any(|n| n.contains(&*name) && n.contains(what)),
            "{name} {what}: {named:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_error_page_instead_of_a_database_is_a_torn_repository() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 500))?;
    fs_err::write(repo.database_path(), b"<html>maintenance</html>")?;
    let error = Bench::new().round(&of_directory(dir.path())).await.unwrap_err();
    assert!(matches!(error, RoundError::Torn { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_merely_called_like_a_database_is_no_repository() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 500))?;
    fs_err::write(dir.path().join("packages.db"), b"SQLite format 3\0and so on")?;
    let mut spec = of_directory(dir.path());
    spec.files = pacstore_import::Files::All;
    let round = Bench::new().round(&spec).await?;
    assert_eq!(round.tree, cid_of(dir.path()));
    assert_eq!(round.repositories.len(), 1);
    assert_eq!(round.repositories[0].state, RepoState::Whole);
    Ok(())
}

#[tokio::test]
async fn files_database_of_another_state_tears_the_repository() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 500))?;
    let old = fs_err::read(dir.path().join("core.files"))?;
    let bench = Bench::new();
    let whole = bench.round(&of_directory(dir.path())).await?;
    repo.update(&["pkg0"])?;
    fs_err::write(dir.path().join("core.files"), old)?;
    let torn = bench.round(&of_directory(dir.path())).await?;
    assert_eq!(torn.tree, whole.tree);
    let named = troubles(&torn.repositories);
    assert!(
        named.len() == 1 && named[0].starts_with("core.files is of another state"),
        "{named:?}"
    );
    Ok(())
}
