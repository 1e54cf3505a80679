//! Layout `archlinux`, architectures, several repositories, `atomic`.

use pacstore_import::{Layout, RepoState, Repositories};
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};

use crate::common::{Bench, all, cid_of, of_directory, of_url};

#[tokio::test]
async fn archlinux_moves_repositories_up_and_leaves_the_rest() -> TestResult {
    let (dir, flat) = (tempfile::tempdir()?, tempfile::tempdir()?);
    for name in ["core", "extra"] {
        Repo::create(
            dir.path().join(name).join("os/x86_64"),
            RepoSpec::new(name).packages(4, 900),
        )?;
        Repo::create(flat.path().join(name), RepoSpec::new(name).packages(4, 900))?;
    }
    let mut spec = of_directory(dir.path());
    spec.layout = Layout::Archlinux;
    let bench = Bench::new();
    let round = bench.round(&spec).await?;
    assert_eq!(round.tree, cid_of(flat.path()));
    let facts: Vec<_> = round
        .repositories
        .iter()
        .map(|r| (&*r.name, &*r.folder, r.arch.as_deref()))
        .collect();
    assert_eq!(
        facts,
        [
            ("core", "core", Some("x86_64")),
            ("extra", "extra", Some("x86_64"))
        ]
    );
    assert_eq!(
        Bench::new().round(&all(spec.clone())).await?.tree,
        cid_of(flat.path()),
        "no `os` is left"
    );

    let server = Upstream::folder(dir.path())?;
    let mut web = of_url(&server.url(""));
    web.layout = Layout::Archlinux;
    assert_eq!(Bench::new().round(&web).await?.tree, cid_of(flat.path()));
    web.repositories = Repositories::List(vec!["core".into()]);
    let core = Bench::new().round(&web).await?;
    assert_eq!(core.repositories.len(), 1);

    for (from, to) in [("core/os/i686", "core/os/i686"), ("iso", "iso")] {
        for (base, folder) in [(&dir, from), (&flat, to)] {
            fs_err::create_dir_all(base.path().join(folder))?;
            fs_err::write(base.path().join(folder).join("f"), b"1")?;
        }
    }
    assert_eq!(bench.round(&all(spec)).await?.tree, cid_of(flat.path()));
    Ok(())
}

/// Only `R/os/x86_64` moves up; what `R/os` has beside it is no less a repository.
#[tokio::test]
async fn archlinux_has_other_architectures_over_every_transport() -> TestResult {
    let (dir, tree) = (tempfile::tempdir()?, tempfile::tempdir()?);
    for (from, to, name) in [
        ("core/os/x86_64", "core", "core"),
        ("core/os/x86_64_v3", "core/os/x86_64_v3", "core"),
        ("ports/os/aarch64", "ports/os/aarch64", "ports"),
    ] {
        for (base, folder) in [(&dir, from), (&tree, to)] {
            Repo::create(base.path().join(folder), RepoSpec::new(name).packages(2, 800))?;
        }
    }
    let server = Upstream::folder(dir.path())?;
    let daemon = RsyncDaemon::serve(dir.path())?;
    let mut specs = vec![of_directory(dir.path()), of_url(&server.url(""))];
    specs.extend(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
    for mut spec in specs {
        spec.layout = Layout::Archlinux;
        let round = Bench::new().round(&spec).await?;
        assert_eq!(round.tree, cid_of(tree.path()), "{:?}", spec.from);
    }
    Ok(())
}

#[tokio::test]
async fn a_torn_repository_does_not_hold_the_others_unless_they_are_bound() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repos = Vec::new();
    for name in ["core", "extra", "multilib"] {
        repos.push(Repo::create(
            dir.path().join(name),
            RepoSpec::new(name).packages(3, 700),
        )?);
    }
    let (free, bound) = (Bench::new(), Bench::new());
    let spec = of_directory(dir.path());
    let mut atomic = spec.clone();
    atomic.atomic = vec![vec!["core".into(), "/extra/extra".into()]];
    let first = free.round(&spec).await?;
    bound.round(&atomic).await?;
    let before = |bench: &Bench| {
        bench
            .names(&first.tree)
            .into_iter()
            .filter(|n| n.starts_with("extra"))
            .collect::<Vec<_>>()
    };
    let old_extra = before(&free);

    repos[0].update_database_only(&["pkg1"])?;
    repos[1].update(&["pkg2"])?;
    repos[2].update(&["pkg0"])?;
    let round = free.round(&spec).await?;
    assert!(matches!(round.repositories[0].state, RepoState::Torn(_)));
    assert!(!round.repositories[0].checked && round.repositories[0].in_tree);
    assert_eq!(round.repositories[1].state, RepoState::Whole);
    let names = free.names(&round.tree);
    assert!(names.contains(&format!("extra/{}", repos[1].file_name("pkg2")?)));

    let round = bound.round(&atomic).await?;
    assert_eq!(
        round.repositories[1].state,
        RepoState::Held {
            with: "core/core".into()
        }
    );
    assert_eq!(round.repositories[2].state, RepoState::Whole);
    let names = bound.names(&round.tree);
    assert_eq!(
        names
            .iter()
            .filter(|n| n.starts_with("extra"))
            .cloned()
            .collect::<Vec<_>>(),
        old_extra
    );
    assert!(names.contains(&format!("multilib/{}", repos[2].file_name("pkg0")?)));

    repos[0].finish_update()?;
    for (bench, spec) in [(&free, &spec), (&bound, &atomic)] {
        let whole = bench.round(spec).await?;
        assert!(!whole.is_torn());
        // The old package of the torn update still lies there; nothing names it.
        let fresh = Bench::new().round(spec).await?;
        assert_eq!(whole.tree, fresh.tree);
    }
    Ok(())
}

#[tokio::test]
async fn a_repository_that_was_torn_from_the_first_time_is_left_out() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 700))?;
    let good = cid_of(dir.path());
    let mut extra = Repo::create(dir.path().join("extra"), RepoSpec::new("extra").packages(3, 700))?;
    extra.lose_package("pkg1")?;
    let bench = Bench::new();
    let round = bench.round(&of_directory(dir.path())).await?;
    assert_eq!(round.tree, good);
    assert!(!round.repositories[1].in_tree);
    extra.restore_package("pkg1")?;
    assert_eq!(
        bench.round(&of_directory(dir.path())).await?.tree,
        cid_of(dir.path())
    );
    Ok(())
}

#[tokio::test]
async fn a_repository_that_is_gone_goes_and_one_that_lost_its_database_stays() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 700))?;
    let extra = Repo::create(dir.path().join("extra"), RepoSpec::new("extra").packages(3, 700))?;
    let bench = Bench::new();
    let both = bench.round(&of_directory(dir.path())).await?;
    let db = fs_err::read(extra.database_path())?;
    fs_err::remove_file(extra.database_path())?;
    let torn = bench.round(&of_directory(dir.path())).await?;
    assert!(torn.is_torn() && torn.tree == both.tree);
    fs_err::write(extra.database_path(), db)?;
    assert!(!bench.round(&of_directory(dir.path())).await?.is_torn());
    fs_err::remove_dir_all(extra.folder())?;
    let one = bench.round(&of_directory(dir.path())).await?;
    assert_eq!(one.tree, cid_of(dir.path()));
    assert_eq!(one.warnings, ["extra/extra is gone from the source"]);
    Ok(())
}

/// Upstream gives a repository another name, in the folder where its packages are.
#[tokio::test]
async fn a_repository_that_goes_on_under_another_name_in_its_folder_holds_nothing_up() -> TestResult {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("x86_64");
    let spec = |name: &str, packages, hours: u64| {
        let mut spec = RepoSpec::new(name).packages(packages, 700);
        spec.time += hours * 3600;
        spec
    };
    Repo::create(&folder, spec("old", 3, 0))?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(1, 700))?;
    let server = Upstream::folder(dir.path())?;
    let benches = [Bench::new(), Bench::new()];
    let specs = [of_directory(dir.path()), of_url(&server.url(""))];
    let mut trees = Vec::new();
    for (bench, spec) in benches.iter().zip(&specs) {
        trees.push(bench.round(spec).await?.tree);
    }
    for end in ["db", "db.sig", "files", "files.sig"] {
        let file = folder.join(format!("old.{end}"));
        fs_err::remove_file(&file).or_else(|e| if file.exists() { Err(e) } else { Ok(()) })?;
    }
    // Half-way: packages of the old one are there that nobody names.
    for named in [0, 1] {
        if named == 1 {
            Repo::create(&folder, spec("new", 2, 1))?;
        }
        for ((bench, spec), tree) in benches.iter().zip(&specs).zip(&trees) {
            let round = bench.round(spec).await?;
            assert_eq!((round.tree, round.is_torn()), (*tree, true), "{named}");
            let told: Vec<String> = round
                .repositories
                .iter()
                .filter_map(|repo| match &repo.state {
                    RepoState::Torn(troubles) => Some(format!("{}: {troubles:?}", repo.name)),
                    _ => None,
                })
                .collect();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with("old: [No"), "{told:?}");
        }
    }
    Repo::create(&folder, spec("new", 3, 2))?;
    for (bench, spec) in benches.iter().zip(&specs) {
        let round = bench.round(spec).await?;
        assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
        assert_eq!(round.warnings, ["x86_64/old is gone from the source"]);
        assert!(!bench.round(spec).await?.changed);
    }
    // It may come back.
    Repo::create(&folder, spec("old", 3, 2))?;
    for (bench, spec) in benches.iter().zip(&specs) {
        let round = bench.round(spec).await?;
        assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
        assert_eq!(round.repositories.len(), 3);
    }
    Ok(())
}

/// Else a head would name a tree and none of the repositories in it.
#[tokio::test]
async fn where_nothing_is_whole_all_repositories_of_the_tree_stay_also_those_that_are_gone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let core = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 700))?;
    let extra = Repo::create(dir.path().join("extra"), RepoSpec::new("extra").packages(3, 700))?;
    let bench = Bench::new();
    let spec = of_directory(dir.path());
    let both = bench.round(&spec).await?;
    let in_tree = |round: &pacstore_import::Round| {
        let facts = round
            .repositories
            .iter()
            .filter(|facts| facts.in_tree && !facts.checked);
        facts.map(|facts| facts.name.clone()).collect::<Vec<_>>()
    };
    // The configuration asks for one that is not there.
    let mut other = spec.clone();
    other.repositories = Repositories::List(vec!["nowhere/nothing".into()]);
    let round = bench.round(&other).await?;
    assert_eq!((round.tree, round.is_torn()), (both.tree, true));
    assert_eq!(in_tree(&round), ["core", "extra"]);
    // One is torn when the other goes.
    core.lose_package("pkg1")?;
    fs_err::remove_dir_all(extra.folder())?;
    let round = bench.round(&spec).await?;
    assert_eq!((round.tree, round.is_torn()), (both.tree, true));
    assert_eq!(in_tree(&round), ["core", "extra"]);
    Ok(())
}
