//! Twins of a database (`core.db.tar.gz`) over HTTP, which are asked for rarely: none is missed for that.

use std::path::Path;

use pacstore_import::{ImportSpec, RepoFacts};
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};

use crate::common::{Bench, cid_of, of_directory, of_url, troubles};

/// A repository whose databases have twins.
fn with_twins(dir: &Path, name: &str, packages: usize) -> Repo {
    let mut spec = RepoSpec::new(name).packages(packages, 600);
    spec.twins = true;
    Repo::create(dir, spec).unwrap()
}

/// One that upstream adds beside a database that stays is asked for once the listing names it.
#[tokio::test]
async fn a_twin_that_comes_later_is_not_called_missing_before_it_was_asked_for() -> TestResult {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("core");
    Repo::create(&folder, RepoSpec::new("core").packages(3, 600))?;
    let server = Upstream::folder(dir.path())?;
    let spec = of_url(&server.url(""));
    let bench = Bench::new();
    bench.round(&spec).await?;
    fs_err::copy(folder.join("core.db"), folder.join("core.db.tar.gz"))?;
    // That the other database went shows that something changed.
    for gone in ["core.files", "core.files.sig"] {
        fs_err::remove_file(folder.join(gone))?;
    }
    let round = bench.round(&spec).await?;
    assert_eq!(troubles(&round.repositories), [""; 0]);
    assert_eq!(round.tree, cid_of(dir.path()));
    Ok(())
}

/// Two repositories change their folders, and change back.
#[tokio::test]
async fn repositories_that_swap_their_folders_and_swap_back_move_over_every_transport() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (one, two, aside) = (
        dir.path().join("one"),
        dir.path().join("two"),
        dir.path().join("aside"),
    );
    with_twins(&one, "core", 3);
    with_twins(&two, "extra", 4);
    let server = Upstream::folder(dir.path())?;
    let daemon = RsyncDaemon::serve(dir.path())?;
    let mut specs: Vec<ImportSpec> = vec![of_directory(dir.path()), of_url(&server.url(""))];
    specs.extend(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
    let benches: Vec<Bench> = specs.iter().map(|_| Bench::new()).collect();
    for _ in 0..4 {
        for (bench, spec) in benches.iter().zip(&specs) {
            let round = bench.round(spec).await?;
            let places = |repo: &RepoFacts| (repo.folder.clone(), repo.name.clone(), repo.state.clone());
            let told: Vec<_> = round.repositories.iter().map(places).collect();
            assert_eq!(round.tree, cid_of(dir.path()), "{:?}: {told:?}", spec.from);
        }
        fs_err::rename(&one, &aside)?;
        fs_err::rename(&two, &one)?;
        fs_err::rename(&aside, &two)?;
    }
    Ok(())
}
