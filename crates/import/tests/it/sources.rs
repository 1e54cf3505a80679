//! A directory, a web server and an rsync daemon with the same state give the same tree.

use std::path::Path;
use std::time::Duration;

use pacstore_import::{Files, ImportSpec, Progress, Repositories, RoundError, Source, SourceError};
use pacstore_testkit::{
    Fault, Fixture, Listing, Materialize, Repo, RepoSpec, RsyncDaemon, TestResult, Upstream,
};
use pacstore_upstream::{ListSpec, Rsync, RsyncOptions};

use crate::common::{Bench, age, age_by, all, cid_of, of_directory, of_url, troubles};

/// Two repositories, one of them with files of several leaves, a twin database and embedded signatures.
fn mirror(dir: &Path) -> TestResult {
    let mut core = RepoSpec::new("core").packages(20, 3_000);
    core.twins = true;
    Repo::create(dir.join("core/os/x86_64"), core)?;
    let extra = RepoSpec::new("extra")
        .package("big", 3_500_000)
        .package("exact", 1 << 20)
        .package("small", 10);
    Repo::create(dir.join("extra/os/x86_64"), extra)?;
    Ok(())
}

#[tokio::test]
async fn three_transports_give_one_tree() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let expected = cid_of(dir.path());

    let bench = Bench::new();
    let round = bench.round(&of_directory(dir.path())).await?;
    assert_eq!(round.tree, expected, "listed");
    assert!(round.changed && !round.is_torn());
    assert_eq!(
        Bench::new().round(&all(of_directory(dir.path()))).await?.tree,
        expected,
        "all"
    );

    for style in [Listing::Nginx, Listing::Apache] {
        let server = Upstream::folder(dir.path())?;
        server.listing(style);
        let web = Bench::new();
        let by_web = web.round(&of_url(&server.url(""))).await?;
        assert_eq!(by_web.tree, expected, "web");
        assert_eq!(
            by_web.repositories, round.repositories,
            "times and architectures are the same"
        );
        assert_eq!(web.files(&by_web.tree), bench.files(&round.tree));
    }
    if let Some(daemon) = RsyncDaemon::serve(dir.path())? {
        for spec in [of_url(&daemon.url("")), all(of_url(&daemon.url("")))] {
            let by_rsync = Bench::new().round(&spec).await?;
            assert_eq!(by_rsync.tree, expected, "rsync");
            assert_eq!(by_rsync.repositories, round.repositories);
        }
    }
    Ok(())
}

/// A round that is given up where nothing moves must know that something does, also within one long file or listing.
#[tokio::test]
async fn whatever_comes_from_an_upstream_is_a_sign_of_life() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let (bench, progress) = (Bench::new(), Progress::default());
    let server = Upstream::folder(dir.path())?;
    let mut spec = of_url(&server.url(""));
    spec.repositories = Repositories::List(vec!["extra/os/x86_64/extra".to_owned()]);
    bench.importer(spec).round(&progress).await?;
    // Three packages, three signatures, two databases and theirs: one of them comes in many pieces.
    assert!(10 < progress.beats(), "{}", progress.beats());

    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    let (bench, progress, url) = (Bench::new(), Progress::default(), daemon.url(""));
    let mut list = ListSpec::new(&url);
    (list.recursive, list.keep_links) = (true, true);
    Rsync::new(RsyncOptions::default(), bench.tasks.clone())
        .list(&list)
        .await?;
    let listed = list.pulse.beats();
    let round = bench.importer(of_url(&url)).round(&progress).await?;
    // It is listed before and after each pass; what is more came while files did.
    assert_eq!(round.passes, 1);
    assert!(2 * listed < progress.beats(), "{listed}, {}", progress.beats());
    Ok(())
}

#[tokio::test]
async fn the_real_repository_gives_one_tree_over_all_three() -> TestResult {
    let Some(fixture) = Fixture::arcolinux() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    fixture.materialize(29, dir.path(), Materialize::Copy)?;
    let expected = cid_of(dir.path());
    assert_eq!(
        Bench::new().round(&of_directory(dir.path())).await?.tree,
        expected
    );
    let server = Upstream::folder(dir.path())?;
    assert_eq!(Bench::new().round(&of_url(&server.url(""))).await?.tree, expected);
    if let Some(daemon) = RsyncDaemon::serve(dir.path())? {
        assert_eq!(Bench::new().round(&of_url(&daemon.url(""))).await?.tree, expected);
    }
    Ok(())
}

#[tokio::test]
async fn updates_over_the_web_and_rsync_are_followed_and_cost_only_what_is_new() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(10, 20_000))?;
    let server = Upstream::folder(dir.path())?;
    let daemon = RsyncDaemon::serve(dir.path())?;
    let (web, rsync) = (Bench::new(), Bench::new());
    web.round(&of_url(&server.url(""))).await?;
    if let Some(daemon) = &daemon {
        rsync.round(&of_url(&daemon.url(""))).await?;
    }
    for step in 0..3 {
        match step {
            0 => repo.update(&["pkg1"])?,
            1 => repo.remove("pkg2")?,
            _ => repo.resign()?,
        }
        let expected = cid_of(dir.path());
        server.clear_log();
        let round = web.round(&of_url(&server.url(""))).await?;
        assert_eq!(round.tree, expected, "web, step {step}");
        let packages = server.requests("*.pkg.tar.zst");
        assert_eq!(packages.len(), usize::from(step == 0), "step {step}");
        let again = web.round(&of_url(&server.url(""))).await?;
        assert!(!again.changed && again.tree == expected);
        if let Some(daemon) = &daemon {
            let round = rsync.round(&of_url(&daemon.url(""))).await?;
            assert_eq!(round.tree, expected, "rsync, step {step}");
            assert!(!rsync.round(&of_url(&daemon.url(""))).await?.changed);
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_listings_the_repositories_must_be_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let server = Upstream::folder(dir.path())?;
    server.listing(Listing::Off);
    let mut spec = of_url(&server.url(""));
    match Bench::new().round(&spec).await {
        Err(RoundError::NoSource { attempts, .. }) => {
            assert!(
                matches!(&attempts[..], [(_, SourceError::NoListing(_))]),
                "{attempts:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    spec.repositories =
        Repositories::List(vec!["core/os/x86_64/core".into(), "extra/os/x86_64/extra".into()]);
    assert_eq!(Bench::new().round(&spec).await?.tree, cid_of(dir.path()));
    Ok(())
}

#[tokio::test]
async fn the_next_source_is_taken_when_one_fails() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let dead = Upstream::memory()?;
    dead.stop();
    let server = Upstream::folder(dir.path())?;
    let from = [dead.url(""), server.url("")]
        .iter()
        .map(|u| Source::parse(u))
        .collect::<Result<Vec<_>, _>>()?;
    let mut spec = ImportSpec::new("test.mirror", from);
    let round = Bench::new().round(&spec).await?;
    assert_eq!(round.tree, cid_of(dir.path()));
    assert_eq!(round.source, spec.from[1]);

    spec.from = vec![
        Source::Directory("/nonexistent/mirror".into()),
        Source::parse(&dead.url(""))?,
    ];
    match Bench::new().round(&spec).await {
        Err(error @ RoundError::NoSource { .. }) => {
            assert_eq!(error.hint(), Some("check the directory in `from`"));
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn a_failing_source_does_not_move_anything_and_a_good_one_does_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(5, 2_000))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let first = bench.round(&of_url(&server.url(""))).await?;
    repo.update(&["pkg3"])?;
    server.fault("*", Fault::Status(503));
    assert!(bench.round(&of_url(&server.url(""))).await.is_err());
    assert!(
        bench
            .store
            .retained()?
            .iter()
            .any(|(_, tree)| *tree == first.tree)
    );
    server.heal();
    assert_eq!(
        bench.round(&of_url(&server.url(""))).await?.tree,
        cid_of(dir.path())
    );
    Ok(())
}

#[tokio::test]
async fn a_directory_without_database_is_an_error_when_listed_and_a_tree_when_all() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::write(dir.path().join("a"), b"1")?;
    let listed = Bench::new().round(&of_directory(dir.path())).await;
    assert!(matches!(listed, Err(RoundError::NoDatabase { .. })), "{listed:?}");
    let mut spec = of_directory(dir.path());
    spec.files = Files::All;
    assert_eq!(Bench::new().round(&spec).await?.tree, cid_of(dir.path()));
    Ok(())
}

/// As the directory of a disk that is not mounted.
#[tokio::test]
async fn a_tree_of_all_files_is_not_emptied_unless_a_person_accepts_it() -> TestResult {
    for with_database in [true, false] {
        let (dir, bench) = (tempfile::tempdir()?, Bench::new());
        let source = dir.path().join("source");
        fs_err::create_dir(&source)?;
        if with_database {
            Repo::create(&source, RepoSpec::new("core").packages(2, 2_000))?;
        } else {
            fs_err::write(source.join("a"), b"1")?;
        }
        let spec = all(of_directory(&source));
        let first = bench.round(&spec).await?;
        fs_err::rename(&source, dir.path().join("away"))?;
        fs_err::create_dir(&source)?;
        if with_database {
            fs_err::write(source.join("not-mounted"), b"")?;
        }
        let gone = bench.round(&spec).await;
        assert!(matches!(gone, Err(RoundError::Emptied { .. })), "{gone:?}");
        let kept = bench.store.retained()?;
        assert!(kept.iter().any(|(_, tree)| *tree == first.tree), "{kept:?}");
        let mut importer = bench.importer(spec);
        importer.accept();
        let round = importer.round(&Progress::default()).await?;
        assert_eq!(round.tree, cid_of(&source));
    }
    Ok(())
}

#[tokio::test]
async fn a_package_that_the_store_has_is_not_fetched_but_must_be_there() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(
        dir.path(),
        RepoSpec::new("core").packages(4, 2_000).package("big", 2_500_000),
    )?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let first = bench.round(&of_directory(dir.path())).await?;
    let mut spec = of_url(&server.url(""));
    spec.mirror = "other.mirror".into();
    let second = bench.round(&spec).await?;
    assert_eq!(second.tree, first.tree);
    // A byte of each, to know that the server has it.
    let asked: Vec<_> = server
        .requests("*.pkg.tar.zst")
        .iter()
        .map(pacstore_testkit::Request::bytes)
        .collect();
    assert_eq!(asked, vec![0..1; 5]);

    repo.lose_package("pkg2")?;
    spec.mirror = "third.mirror".into();
    let error = bench.round(&spec).await.unwrap_err();
    let RoundError::Torn { repositories, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        troubles(repositories),
        [format!("{} is not there", repo.file_name("pkg2")?)]
    );
    Ok(())
}

#[tokio::test]
async fn a_web_mirror_without_etags_that_goes_back_to_an_older_state_is_followed() -> TestResult {
    let (dir, kept) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 2_000))?;
    let server = Upstream::folder(dir.path())?;
    server.fault("*", Fault::NoEtag);
    let spec = of_url(&server.url(""));
    let bench = Bench::new();
    age(dir.path());
    bench.round(&spec).await?;
    let older: Vec<_> = fs_err::read_dir(dir.path())?.collect::<Result<_, _>>()?;
    for entry in &older {
        fs_err::copy(entry.path(), kept.path().join(entry.file_name()))?;
    }
    let expected = cid_of(dir.path());
    repo.update(&["pkg1"])?;
    age_by(dir.path(), Duration::from_mins(10));
    let newer = bench.round(&spec).await?;
    assert_ne!(newer.tree, expected);

    fs_err::remove_dir_all(dir.path())?;
    fs_err::create_dir(dir.path())?;
    for entry in fs_err::read_dir(kept.path())? {
        let entry = entry?;
        fs_err::copy(entry.path(), dir.path().join(entry.file_name()))?;
    }
    age_by(dir.path(), Duration::from_hours(72));
    assert_eq!(bench.round(&spec).await?.tree, expected);
    assert!(!bench.round(&spec).await?.changed);
    Ok(())
}

#[tokio::test]
async fn a_repository_that_loses_its_database_alone_is_torn_over_every_transport() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let server = Upstream::folder(dir.path())?;
    let daemon = RsyncDaemon::serve(dir.path())?;
    let mut specs = vec![of_directory(dir.path()), of_url(&server.url(""))];
    specs.extend(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
    let mut benches = Vec::new();
    for spec in specs {
        let bench = Bench::new();
        let tree = bench.round(&spec).await?.tree;
        benches.push((bench, spec, tree));
    }
    fs_err::remove_file(dir.path().join("core/os/x86_64/core.db"))?;
    for (bench, spec, tree) in &benches {
        let round = bench.round(spec).await?;
        assert_eq!((round.tree, round.is_torn()), (*tree, true), "{:?}", spec.from);
    }
    fs_err::remove_dir_all(dir.path().join("core"))?;
    for (bench, spec, _) in &benches {
        let round = bench.round(spec).await?;
        assert_eq!(
            (round.tree, round.is_torn()),
            (cid_of(dir.path()), false),
            "{:?}",
            spec.from
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_wanted_repository_that_is_not_there_is_not_said_to_have_packages() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let mut spec = of_directory(dir.path());
    spec.repositories = Repositories::List(vec!["core/os/x86_64/core".into(), "none/none".into()]);
    let round = Bench::new().round(&spec).await?;
    assert_eq!(troubles(&round.repositories), ["none/none.db is not there"]);
    Ok(())
}
