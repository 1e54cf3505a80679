//! The list of bad upstreams, each against an importer that has a tree: what moves, what is said, how it gets on.

use std::io::Write as _;
use std::time::Duration;

use pacstore_import::{ImportSpec, Importer, Progress, Round, RoundError, Source, SourceError};
use pacstore_runtime::Clock;
use pacstore_testkit::{
    At, Fault, Repo, RepoSpec, RsyncDaemon, TestResult, ThrottledRelay, Upstream, random, script,
};
use pacstore_upstream::{ExitKind, Http, HttpOptions, MinRate, RsyncError, RsyncOptions};

use crate::common::{Bench, all, cid_of, of_directory, of_url, troubles};

/// An HTTP client without much patience.
pub(crate) fn impatient() -> Http {
    Http::new(HttpOptions {
        connect_timeout: Duration::from_millis(500),
        stall_timeout: Duration::from_millis(500),
        min_rate: Some(MinRate {
            bytes: 10_000,
            within: Duration::from_millis(500),
        }),
        ..HttpOptions::default()
    })
}

pub(crate) fn importer(bench: &Bench, spec: ImportSpec, http: Http) -> Importer {
    let work = bench.dir.path().join("work").join(&spec.mirror);
    let (store, tasks) = (bench.store.clone(), bench.tasks.clone());
    Importer::new(spec, store, http, tasks, Clock::system(), work).unwrap()
}

pub(crate) async fn round(importer: &mut Importer) -> Result<Round, RoundError> {
    importer.round(&Progress::default()).await
}

/// The error of the only source that was tried.
fn only(error: RoundError) -> SourceError {
    match error {
        RoundError::NoSource { mut attempts, .. } if attempts.len() == 1 => attempts.remove(0).1,
        other => panic!("{other:?}"),
    }
}

fn bad_answers() -> Vec<Fault> {
    vec![
        Fault::ErrorPage,
        Fault::NoAnswer,
        Fault::Hangup,
        Fault::StallAfterHeader,
        Fault::StallAt(At::Percent(50)),
        Fault::Truncate(At::Percent(50)),
        Fault::WrongLength(5),
        Fault::WrongLength(-5),
        Fault::RedirectLoop,
        Fault::Redirect("http://127.0.0.1:1/".into()),
        Fault::Drip(Duration::from_millis(100)),
        Fault::Endless,
        Fault::Status(500),
        Fault::Status(404),
        Fault::Flip(700),
    ]
}

#[tokio::test]
async fn no_bad_answer_for_a_database_moves_anything_and_the_next_round_gets_on() -> TestResult {
    for fault in bad_answers() {
        let dir = tempfile::tempdir()?;
        let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(30, 800))?;
        let server = Upstream::folder(dir.path())?;
        let bench = Bench::new();
        let mut importer = importer(&bench, of_url(&server.url("")), impatient());
        let whole = round(&mut importer).await?.tree;
        repo.update(&["pkg1"])?;
        server.fault("core.db", fault.clone());
        match round(&mut importer).await {
            Ok(round) => assert_eq!((round.tree, round.is_torn()), (whole, true), "{fault:?}"),
            Err(RoundError::NoSource { .. }) => {}
            Err(other) => panic!("{fault:?}: {other:?}"),
        }
        server.heal();
        let round = round(&mut importer).await?;
        assert_eq!(
            (round.tree, round.is_torn()),
            (cid_of(dir.path()), false),
            "{fault:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_answer_for_a_package_or_its_signature_tears_its_repository_alone() -> TestResult {
    for fault in bad_answers() {
        for ending in ["", ".sig"] {
            // Where nothing vouches for them, a signature that is not there is none, and other bytes are what it is.
            let unseen = matches!(
                fault,
                Fault::Status(404) | Fault::Flip(_) | Fault::WrongLength(-5)
            );
            if !ending.is_empty() && unseen {
                continue;
            }
            let dir = tempfile::tempdir()?;
            let mut repo = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 6_000))?;
            let mut other = Repo::create(dir.path().join("extra"), RepoSpec::new("extra").packages(2, 600))?;
            let server = Upstream::folder(dir.path())?;
            let bench = Bench::new();
            let mut importer = importer(&bench, of_url(&server.url("")), impatient());
            round(&mut importer).await?;
            repo.update(&["pkg1"])?;
            other.update(&["pkg0"])?;
            let file = format!("{}{ending}", repo.file_name("pkg1")?);
            server.fault(&format!("core/{file}"), fault.clone());
            // Else each try would go on behind the place of the fault, and end well.
            server.fault(&format!("core/{file}"), Fault::NoRanges);
            let torn = round(&mut importer).await?;
            let named = troubles(&torn.repositories);
            let what = format!("{fault:?} for `{ending}`: {named:?}");
            assert!(
                named.len() == 1 && named[0].starts_with(&format!("core/{file} ")),
                "{what}"
            );
            assert!(torn.changed, "the other repository moved: {what}");
            server.heal();
            let round = round(&mut importer).await?;
            assert_eq!(
                (round.tree, round.is_torn()),
                (cid_of(dir.path()), false),
                "{what}"
            );
        }
    }
    Ok(())
}

/// It refuses what is too much for it, whatever is asked; so all must wait, and a first round ends well.
#[tokio::test]
async fn a_server_that_counts_requests_is_asked_more_slowly() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(12, 600))?;
    let server = Upstream::folder(dir.path())?;
    server.allow(5);
    let bench = Bench::new();
    let round = bench.round(&of_url(&server.url(""))).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    let log = server.log();
    let refused = log.iter().filter(|request| request.status == 429).count();
    assert!(
        (1..log.len() / 2).contains(&refused),
        "{refused} of {}",
        log.len()
    );
    Ok(())
}

/// A server that does not do ranges, or does them wrong, costs bytes and nothing else.
#[tokio::test]
async fn a_package_that_was_cut_is_gone_on_with_by_a_range_in_the_next_round() -> TestResult {
    for (fault, again) in [
        (None, 1_400_000),
        (Some(Fault::NoRanges), 2_600_000),
        (Some(Fault::WrongRange(7)), 4_000_000),
    ] {
        let dir = tempfile::tempdir()?;
        Repo::create(dir.path(), RepoSpec::new("core").package("big", 2_500_000))?;
        let server = Upstream::folder(dir.path())?;
        let bench = Bench::new();
        let mut importer = importer(&bench, of_url(&server.url("")), impatient());
        // Once is once: each try within a round goes on as well.
        server.fault_times("big*.zst", 1, Fault::Truncate(At::Percent(50)));
        if let Some(fault) = &fault {
            server.fault("big*.zst", fault.clone());
        }
        let round = round(&mut importer).await?;
        assert_eq!(round.tree, cid_of(dir.path()), "{fault:?}");
        let sent: Vec<u64> = server.requests("big*.zst").iter().map(|r| r.sent).collect();
        assert!(sent.iter().skip(1).sum::<u64>() < again, "{fault:?}: {sent:?}");
        assert!(
            server
                .requests("big*.zst")
                .iter()
                .skip(1)
                .any(|r| r.range.is_some())
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_came_before_a_stop_is_not_fetched_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(
        dir.path(),
        RepoSpec::new("core")
            .packages(3, 20_000)
            .package("big", 12_000_000),
    )?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let mut first = importer(&bench, of_url(&server.url("")), impatient());
    server.fault("big*.zst", Fault::StallAt(At::Percent(90)));
    server.fault("big*.zst", Fault::NoRanges);
    assert!(round(&mut first).await.is_err());
    drop(first);
    server.heal();
    server.clear_log();
    let mut second = importer(&bench, of_url(&server.url("")), impatient());
    assert_eq!(round(&mut second).await?.tree, cid_of(dir.path()));
    let sent: u64 = server.requests("*.zst").iter().map(|r| r.sent).sum();
    assert!(sent < 5_000_000, "{sent} bytes again");
    Ok(())
}

/// A portal answers everything, also the listings, with its own page and 200.
#[tokio::test]
async fn a_captive_portal_in_front_of_everything_moves_nothing() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 600))?;
    Repo::create(dir.path().join("extra"), RepoSpec::new("extra").packages(3, 600))?;
    let (server, portal) = (Upstream::folder(dir.path())?, Upstream::memory()?);
    portal.put("login", "<html><a href=\"terms.html\">terms</a></html>")?;
    let bench = Bench::new();
    let mut importer = importer(&bench, of_url(&server.url("")), impatient());
    let tree = round(&mut importer).await?.tree;
    for fault in [Fault::ErrorPage, Fault::Redirect(portal.url("login"))] {
        server.fault("*", fault.clone());
        let error = round(&mut importer).await.expect_err("a portal is no mirror");
        assert!(error.hint().is_some(), "{fault:?}: {error:?}");
        server.heal();
        let again = round(&mut importer).await?;
        assert_eq!((again.tree, again.changed), (tree, false), "{fault:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_gzip_bomb_as_a_database_is_a_torn_repository() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 600))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let tree = bench.round(&of_url(&server.url(""))).await?.tree;
    repo.update(&["pkg0"])?;
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..600 {
        bomb.write_all(&zeros)?;
    }
    let bomb = bomb.finish()?;
    assert!(bomb.len() < 1_000_000, "600 MB in {} bytes", bomb.len());
    server.put("core.db", bomb)?;
    let round = bench.round(&of_url(&server.url(""))).await?;
    assert_eq!((round.tree, round.is_torn()), (tree, true));
    let named = troubles(&round.repositories);
    assert!(named.len() == 1 && named[0].starts_with("core.db "), "{named:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_went_back_behind_its_packages_is_torn_over_every_transport() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(4, 600))?;
    let old = fs_err::read(repo.database_path())?;
    let old_sig = fs_err::read(dir.path().join("core.db.sig"))?;
    let server = Upstream::folder(dir.path())?;
    let daemon = RsyncDaemon::serve(dir.path())?;
    let specs = [of_directory(dir.path()), of_url(&server.url(""))];
    let specs = specs
        .into_iter()
        .chain(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
    let mut benches = Vec::new();
    for spec in specs {
        let bench = Bench::new();
        let tree = bench.round(&spec).await?.tree;
        benches.push((bench, spec, tree));
    }
    repo.update(&["pkg2"])?;
    fs_err::write(repo.database_path(), old)?;
    fs_err::write(dir.path().join("core.db.sig"), old_sig)?;
    for (bench, spec, tree) in &benches {
        let round = bench.round(spec).await?;
        assert_eq!((round.tree, round.is_torn()), (*tree, true), "{:?}", spec.from);
    }
    Ok(())
}

/// As update 028 of the recorded repository: another file under the same name; here even of the same size and time.
#[tokio::test]
async fn a_file_replaced_under_one_name_is_taken_over_every_transport() -> TestResult {
    let (dir, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut spec = RepoSpec::new("core").packages(3, 3_000);
    let repo = Repo::create(dir.path(), spec.clone())?;
    spec.seed = 2;
    Repo::create(other.path(), spec)?;
    let server = Upstream::folder(dir.path())?;
    let daemon = RsyncDaemon::serve(dir.path())?;
    let specs = [of_directory(dir.path()), of_url(&server.url(""))];
    let specs = specs
        .into_iter()
        .chain(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
    let mut benches = Vec::new();
    for spec in specs {
        let bench = Bench::new();
        bench.round(&spec).await?;
        benches.push((bench, spec));
    }
    let file = repo.file_name("pkg1")?;
    let time = fs_err::metadata(dir.path().join(&file))?.modified()?;
    for entry in fs_err::read_dir(other.path())? {
        let name = entry?.file_name();
        let bytes = fs_err::read(other.path().join(&name))?;
        // Packages look as they did; what speaks of them is newer.
        let later = if name.to_string_lossy().ends_with(".zst") {
            0
        } else {
            60
        };
        let time = time + Duration::from_secs(later);
        pacstore_testkit::put_file(&dir.path().join(&name), &bytes, time)?;
    }
    for (bench, spec) in &benches {
        let round = bench.round(spec).await?;
        assert_eq!(
            (round.tree, round.is_torn()),
            (cid_of(dir.path()), false),
            "{:?}",
            spec.from
        );
        assert!(!round.alarms.is_empty(), "{:?}", spec.from);
    }
    Ok(())
}

#[tokio::test]
async fn a_repository_that_is_wiped_and_refilled_keeps_its_tree_and_its_bytes() -> TestResult {
    let (dir, away) = (tempfile::tempdir()?, tempfile::tempdir()?);
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(4, 9_000))?;
    let server = Upstream::folder(dir.path())?;
    let daemon = RsyncDaemon::serve(dir.path())?;
    let specs = [of_directory(dir.path()), of_url(&server.url(""))];
    let specs = specs
        .into_iter()
        .chain(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
    for spec in specs {
        let bench = Bench::new();
        let tree = bench.round(&spec).await?.tree;
        fs_err::rename(dir.path().join("core"), away.path().join("core"))?;
        let wiped = bench.round(&spec).await;
        assert!(matches!(wiped, Err(RoundError::NoDatabase { .. })), "{wiped:?}");
        fs_err::rename(away.path().join("core"), dir.path().join("core"))?;
        server.clear_log();
        let refilled = bench.round(&spec).await?;
        assert_eq!(
            (refilled.tree, refilled.is_torn()),
            (tree, false),
            "{:?}",
            spec.from
        );
        assert!(
            server.requests("*.pkg.tar.zst").is_empty(),
            "all of it was in the store"
        );
    }
    Ok(())
}

#[tokio::test]
async fn every_name_comes_over_rsync_as_from_the_directory_itself() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(1, 600))?;
    for name in [
        "with space",
        "new\nline",
        "tab\tand\rreturn",
        "grüße-日本",
        "WARNING: not one",
        "rsync: not an error (23)",
        "-n",
        "#comment",
        ";comment",
        "*?[a]{b}",
        "back\\slash\\#012",
        ".hidden",
        "~temporary",
        "..almost",
    ] {
        fs_err::write(dir.path().join(name), name)?;
    }
    fs_err::create_dir_all(dir.path().join("empty/in empty"))?;
    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    for hidden in [false, true] {
        let mut expected = all(of_directory(dir.path()));
        let mut spec = all(of_url(&daemon.url("")));
        (expected.hidden, spec.hidden) = (hidden, hidden);
        let expected = Bench::new().round(&expected).await?;
        let round = Bench::new().round(&spec).await?;
        assert_eq!(
            (round.tree, round.counts),
            (expected.tree, expected.counts),
            "hidden: {hidden}"
        );
        assert!(round.warnings.is_empty(), "{:?}", round.warnings);
    }
    Ok(())
}

/// After each cut the next round needs no more than the file that was under way.
#[tokio::test]
async fn rsync_cut_at_every_tenth_goes_on_with_what_came() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut spec = RepoSpec::new("core");
    for number in 0..6 {
        spec = spec.package(format!("pkg{number}"), 300_000);
    }
    Repo::create(dir.path(), spec)?;
    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    let expected = cid_of(dir.path());
    let relay = ThrottledRelay::start(daemon.address(), None)?;
    let url = daemon.url_at(relay.address(), "");
    let whole = {
        let before = relay.down();
        assert_eq!(Bench::new().round(&of_url(&url)).await?.tree, expected);
        relay.down() - before
    };
    for tenth in 0..10 {
        let bench = Bench::new();
        let mut importer = bench.importer(of_url(&url));
        let before = relay.down();
        relay.cut_after(whole * tenth / 10 + 1);
        let error = only(round(&mut importer).await.expect_err("it was cut"));
        let SourceError::Rsync(RsyncError::Exit { kind, .. }) = &error else {
            panic!("cut at {tenth}/10: {error:?}")
        };
        assert!(
            kind.is_transient() && error.hint().is_some(),
            "cut at {tenth}/10: {error:?}"
        );
        relay.heal();
        let round = round(&mut importer).await?;
        assert_eq!(
            (round.tree, round.is_torn()),
            (expected, false),
            "cut at {tenth}/10"
        );
        let cost = relay.down() - before;
        assert!(
            cost < whole + 200_000,
            "cut at {tenth}/10: {cost} bytes where {whole} are needed"
        );
    }
    Ok(())
}

#[tokio::test]
async fn exit_codes_of_rsync_are_told_and_nothing_moves() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 600))?;
    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    let bench = Bench::new();
    let mut importer = bench.importer(of_url(&daemon.url("")));
    let tree = round(&mut importer).await?.tree;
    repo.update(&["pkg1"])?;
    for code in (10..=30).filter(|code| ![23, 24].contains(code)) {
        let program = script(
            bench.dir.path(),
            &format!("exit{code}"),
            &format!("echo last words >&2; exit {code}"),
        )?;
        importer.set_rsync(RsyncOptions {
            program,
            ..RsyncOptions::default()
        });
        let error = only(round(&mut importer).await.expect_err("it failed"));
        let said = error.to_string();
        assert!(
            said.contains(&format!("code {code}")) && said.contains("last words"),
            "{said}"
        );
        assert!(
            matches!(error, SourceError::Rsync(RsyncError::Exit { .. })),
            "{error:?}"
        );
    }
    assert!(bench.store.retained()?.iter().any(|(_, held)| *held == tree));
    importer.set_rsync(RsyncOptions::default());
    assert_eq!(round(&mut importer).await?.tree, cid_of(dir.path()));
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_refuses_is_full_or_hangs_is_left_for_the_next() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(2, 600))?;
    let [Some(full), Some(hangs)] = [
        RsyncDaemon::serve_with(dir.path(), &["max connections = -1"])?,
        RsyncDaemon::serve(dir.path())?,
    ] else {
        return Ok(());
    };
    let refuses = RsyncDaemon::serve_with(dir.path(), &["hosts deny = *"])?.ok_or("rsync is here")?;
    hangs.hang(true);
    let short = || RsyncOptions {
        silence: Duration::from_secs(2),
        ..RsyncOptions::default()
    };
    for (what, daemon) in [("full", &full), ("refuses", &refuses), ("hangs", &hangs)] {
        let bench = Bench::new();
        let mut alone = bench.importer(of_url(&daemon.url("")));
        alone.set_rsync(short());
        let error = only(round(&mut alone).await.expect_err("it gives nothing"));
        match (&error, what) {
            (SourceError::Rsync(RsyncError::Silent(_)), "hangs") => {}
            (SourceError::Rsync(RsyncError::Exit { kind, .. }), _) if *kind == ExitKind::Refused => {
                assert!(error.hint().is_some(), "{error:?}");
            }
            _ => panic!("{what}: {error:?}"),
        }
        let mut spec = of_url(&daemon.url(""));
        spec.from.push(Source::Directory(dir.path().to_owned()));
        let bench = Bench::new();
        let mut both = bench.importer(spec);
        both.set_rsync(short());
        assert_eq!(round(&mut both).await?.tree, cid_of(dir.path()), "{what}");
    }
    Ok(())
}

/// An image that is large and comes slowly is no database: it has the time of a package.
#[tokio::test]
async fn a_file_that_also_takes_and_that_does_not_come_is_left_out_and_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 600))?;
    fs_err::create_dir_all(dir.path().join("iso"))?;
    fs_err::write(dir.path().join("iso/image"), random(7, 300_000))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let mut spec = of_url(&server.url(""));
    spec.also = vec!["/iso/**".into()];
    let mut importer = importer(&bench, spec, impatient());
    server.fault("image", Fault::StallAfterHeader);
    let without = round(&mut importer).await?;
    assert!(!without.is_torn());
    assert!(
        without.warnings.iter().any(|w| w.contains("iso/image")),
        "{:?}",
        without.warnings
    );
    server.heal();
    assert_eq!(round(&mut importer).await?.tree, cid_of(dir.path()));
    Ok(())
}
