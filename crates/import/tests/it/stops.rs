//! The seven stops of the original system, from days to weeks each: the part of each that an importer can cause.
//!
//! What names and records had to do with them is tested in crate `node`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pacstore_import::{Importer, Progress, Round, RoundError, SourceError};
use pacstore_runtime::Clock;
use pacstore_testkit::{Fault, Repo, RepoSpec, RsyncDaemon, TestResult, Upstream, put_file, script};
use pacstore_upstream::{Http, HttpOptions, RsyncError, RsyncOptions};

use crate::common::{Bench, all, cid_of, of_directory, of_url};

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn round(importer: &mut Importer) -> Result<Round, RoundError> {
    importer.round(&Progress::default()).await
}

/// One round while garbage is collected without a pause.
async fn round_beside_gc(bench: &Bench, importer: &mut Importer) -> Result<Round, Failure> {
    let store = bench.store.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let collecting = bench.tasks.blocking(pacstore_runtime::Pool::Disk, move || {
        let mut passes = 0;
        while !stopped.load(Ordering::SeqCst) {
            store.gc(Some(0)).expect("garbage is collected");
            passes += 1;
        }
        passes
    });
    let working = async {
        let done = round(importer).await;
        stop.store(true, Ordering::SeqCst);
        done
    };
    let (passes, done) = tokio::join!(collecting, working);
    assert!(0 < passes?);
    Ok(done?)
}

/// Three days: the collector of garbage and the pinset did not agree, and stood in each other's way.
#[tokio::test]
async fn april_2020_garbage_is_collected_while_rounds_run_and_takes_nothing_that_is_held() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(20, 30_000))?;
    let bench = Bench::new();
    let mut importer = bench.importer(of_directory(dir.path()));
    for step in 0..6_u32 {
        repo.update(&[&format!("pkg{step}")])?;
        let done = round_beside_gc(&bench, &mut importer).await?;
        assert_eq!((done.tree, done.is_torn()), (cid_of(dir.path()), false));
        assert_eq!(bench.files(&done.tree).len() as u64, done.counts.files);
    }
    Ok(())
}

/// The same for a tree whose directories come in several transactions.
#[tokio::test]
async fn april_2020_also_of_a_large_new_tree_nothing_is_taken() -> TestResult {
    let dir = tempfile::tempdir()?;
    for number in 0..12_000 {
        let name = format!("a-name-as-long-as-those-of-packages-are-{number:06}-1.0-1-x86_64.pkg.tar.zst");
        std::fs::write(dir.path().join(name), format!("{number}"))?;
    }
    let bench = Bench::new();
    let mut importer = bench.importer(all(of_directory(dir.path())));
    let done = round_beside_gc(&bench, &mut importer).await?;
    assert_eq!(done.tree, cid_of(dir.path()));
    assert_eq!(bench.files(&done.tree).len(), 12_000);
    Ok(())
}

/// Two days: a part of an import was published, packages of the new database were 404.
#[tokio::test]
async fn may_2020_a_part_of_an_import_is_never_published() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("community").packages(12, 2_000))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let mut importer = bench.importer(of_url(&server.url("")));
    let before = round(&mut importer).await?.tree;
    let names: Vec<String> = (0..12).map(|number| format!("pkg{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    repo.update(&names)?;
    server.fault("pkg7*.zst", Fault::Status(404));
    // However often it is tried, and over restarts.
    for _ in 0..3 {
        let torn = round(&mut importer).await?;
        assert_eq!((torn.tree, torn.is_torn()), (before, true));
        drop(importer);
        importer = bench.importer(of_url(&server.url("")));
    }
    server.heal();
    assert_eq!(round(&mut importer).await?.tree, cid_of(dir.path()));
    Ok(())
}

/// More than a week: "database issues" of its own, imports that were partly there, all had to be made anew.
#[tokio::test]
async fn june_2020_a_damaged_memory_of_its_own_is_made_anew_by_the_next_round() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(10, 20_000))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let spec = of_url(&server.url(""));
    bench.round(&spec).await?;
    let manifest = bench.dir.path().join("work/test.mirror/manifest.redb");
    for damage in 0..4_u8 {
        repo.update(&[&format!("pkg{damage}")])?;
        let mut bytes = fs_err::read(&manifest)?;
        match damage {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.iter_mut().take(4096).for_each(|byte| *byte = 0xff),
            _ => bytes = b"no database at all".to_vec(),
        }
        fs_err::write(&manifest, bytes)?;
        server.clear_log();
        let round = bench.round(&spec).await?;
        assert_eq!(
            (round.tree, round.is_torn()),
            (cid_of(dir.path()), false),
            "damage {damage}"
        );
        // What the store has is not fetched again for it: a byte tells that it is still there.
        let requests = server.requests("*.pkg.tar.zst");
        let fetched = requests.iter().filter(|request| 1 < request.sent);
        assert_eq!(fetched.count(), 1, "damage {damage}");
    }
    Ok(())
}

/// Whatever is wrong with its bytes is found when it is opened; else the round that finds it fails, and the next is well.
#[tokio::test]
async fn june_2020_a_memory_with_other_bytes_anywhere_costs_one_round_at_most() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(10, 700))?;
    let spec = of_directory(dir.path());
    let bench = Bench::new();
    let tree = bench.round(&spec).await?.tree;
    let manifest = bench.dir.path().join("work/test.mirror/manifest.redb");
    let good = fs_err::read(&manifest)?;
    let mut failed = 0;
    for seed in 0..30 {
        let mut damaged = good.clone();
        for place in pacstore_testkit::random(seed, 400).chunks(4) {
            let place = u32::from_le_bytes(place.try_into()?) as usize % damaged.len();
            damaged[place] ^= 0xff;
        }
        fs_err::write(&manifest, damaged)?;
        failed += u32::from(bench.round(&spec).await.is_err());
        let again = bench.round(&spec).await;
        assert_eq!(again.map_err(|e| format!("seed {seed}: {e:?}"))?.tree, tree);
    }
    assert_eq!(failed, 0, "all are noticed when it is opened");
    // One that is open already.
    let mut importer = bench.importer(spec);
    round(&mut importer).await?;
    let len = fs_err::metadata(&manifest)?.len();
    fs_err::write(&manifest, vec![0xff; usize::try_from(len)?])?;
    let signature = dir.path().join("core.db.sig");
    let signed = fs_err::read(&signature)?;
    fs_err::write(&signature, b"something moves")?;
    let first = round(&mut importer).await;
    fs_err::write(&signature, signed)?;
    let second = round(&mut importer).await?;
    assert!(second.tree == tree && !second.is_torn(), "{first:?}");
    Ok(())
}

/// A flipped bit in what the store has of a database is not the upstream's fault, and is mended from there at once.
#[tokio::test]
async fn june_2020_a_database_that_its_own_disk_damaged_comes_anew() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 700))?;
    let (server, daemon) = (Upstream::folder(dir.path())?, RsyncDaemon::serve(dir.path())?);
    let mut specs = vec![of_directory(dir.path()), of_url(&server.url(""))];
    specs.extend(daemon.iter().map(|daemon| of_url(&daemon.url(""))));
    for spec in specs {
        let bench = Bench::new();
        let before = bench.round(&spec).await?;
        let database = fs_err::read(repo.database_path())?;
        let mut hit = 0;
        for path in files_below(&bench.dir.path().join("store"))? {
            let mut bytes = fs_err::read(&path)?;
            if bytes == database {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                fs_err::write(&path, bytes)?;
                hit += 1;
            }
        }
        assert_eq!(hit, 1);
        // Something else moves, so that the repository is looked at.
        fs_err::write(dir.path().join("core.db.sig"), b"not looked at without a keyring")?;
        let round = bench.round(&spec).await?;
        fs_err::remove_file(dir.path().join("core.db.sig"))?;
        assert!(!round.is_torn(), "{:?}: {:?}", spec.from, round.repositories);
        assert_ne!(round.tree, before.tree);
        let kept = bench.files(&round.tree);
        assert!(kept.contains(&(b"core.db".to_vec(), database)), "{:?}", spec.from);
        repo.update(&["pkg0"])?;
    }
    Ok(())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// A week: the import was stuck, and nobody knew.
#[tokio::test]
async fn december_2020_a_child_that_is_stuck_is_ended_and_said() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 2_000))?;
    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    let bench = Bench::new();
    let mut importer = bench.importer(of_url(&daemon.url("")));
    round(&mut importer).await?;
    repo.update(&["pkg0"])?;
    let program = script(
        bench.dir.path(),
        "stuck",
        "trap '' TERM; sleep 1000 & wait; sleep 1000",
    )?;
    importer.set_rsync(RsyncOptions {
        program,
        silence: Duration::from_secs(1),
        grace: Duration::from_secs(1),
        ..RsyncOptions::default()
    });
    match round(&mut importer).await {
        Err(RoundError::NoSource { attempts, .. }) => {
            let silent = |e: &SourceError| matches!(e, SourceError::Rsync(RsyncError::Silent(_)));
            assert!(attempts.iter().all(|(_, e)| silent(e)), "{attempts:?}");
        }
        other => panic!("{other:?}"),
    }
    importer.set_rsync(RsyncOptions::default());
    assert_eq!(round(&mut importer).await?.tree, cid_of(dir.path()));
    Ok(())
}

/// Eight weeks: adding a file hung for ever, in a step without a deadline.
#[tokio::test]
async fn april_2021_no_step_of_a_round_can_wait_for_ever() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(4, 20_000))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let http = Http::new(HttpOptions {
        stall_timeout: Duration::from_millis(300),
        ..HttpOptions::default()
    });
    let mut spec = of_url(&server.url(""));
    spec.limits.small = Duration::from_secs(2);
    let work = bench.dir.path().join("work/one");
    let (store, tasks) = (bench.store.clone(), bench.tasks.clone());
    let mut importer = Importer::new(spec, store, http, tasks, Clock::system(), work)?;
    let mut last = round(&mut importer).await?.tree;
    repo.update(&["pkg1", "pkg2"])?;
    for what in ["/", "core.db", "core.db.sig", "*.pkg.tar.zst", "*.zst.sig"] {
        for fault in [Fault::NoAnswer, Fault::StallAfterHeader] {
            server.heal();
            server.fault(what, fault.clone());
            // That it comes back at all is the test.
            match tokio::time::timeout(Duration::from_mins(2), round(&mut importer)).await? {
                Ok(round) if round.is_torn() => assert_eq!(round.tree, last, "{what} {fault:?}"),
                Ok(round) => last = round.tree,
                Err(RoundError::NoSource { .. }) => {}
                Err(other) => panic!("{what} {fault:?}: {other:?}"),
            }
        }
    }
    server.heal();
    assert_eq!(round(&mut importer).await?.tree, cid_of(dir.path()));
    // The whole of a source has its deadline, too.
    let mut spec = of_url(&server.url(""));
    spec.limits.source = Duration::from_millis(200);
    server.limit(Some(20_000));
    let late = Bench::new().round(&spec).await;
    match late {
        Err(RoundError::NoSource { attempts, .. }) => {
            assert!(matches!(attempts[0].1, SourceError::Deadline(_)), "{attempts:?}");
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// A week: asking how full the store is hung, and nothing else went on meanwhile. (The other half of that stop, a
/// sequence that could not be advanced, is crate `node`'s.)
#[tokio::test]
async fn june_2021_what_the_store_holds_is_told_at_once_while_a_round_runs() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(8, 400_000))?;
    let bench = Bench::new();
    let progress = Progress::default();
    let mut watch = progress.subscribe();
    let mut importer = bench.importer(of_directory(dir.path()));
    let asked = async {
        watch
            .wait_for(|status| status.step == pacstore_import::Step::Reading)
            .await
            .expect("a round that runs");
        // Counters, not a walk over all that is stored.
        for _ in 0..10_000 {
            bench.store.stats();
        }
    };
    let (done, ()) = tokio::join!(importer.round(&progress), asked);
    assert_eq!(done?.tree, cid_of(dir.path()));
    Ok(())
}

/// Three weeks: a name could be seen and not removed, and each change of a folder of 5,800 names cost more than the
/// one before. Here a folder is a pure function of what is in it, whichever way it grew.
#[tokio::test]
async fn january_2022_a_folder_that_grows_and_shrinks_over_the_limit_is_what_it_is_from_nothing() -> TestResult
{
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("core/os/x86_64");
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_744_500_001);
    let name = |number: u32| {
        folder.join(format!(
            "a-package-with-a-usual-name-{number}-1.0.0-1-x86_64.pkg.tar.zst"
        ))
    };
    let bench = Bench::new();
    let mut importer = bench.importer(all(of_directory(dir.path())));
    let mut have = 0..0_u32;
    for want in [
        5_700..5_800,
        0..5_800,
        0..6_400,
        300..6_400,
        3_000..5_600,
        0..6_000,
        5_999..6_000,
    ] {
        for number in have.clone().filter(|number| !want.contains(number)) {
            fs_err::remove_file(name(number))?;
        }
        for number in want.clone().filter(|number| !have.contains(number)) {
            put_file(&name(number), &number.to_be_bytes(), time)?;
        }
        have = want;
        let round = round(&mut importer).await?;
        assert_eq!(round.tree, cid_of(dir.path()), "{have:?}");
        assert_eq!(round.counts.files, u64::from(have.end - have.start));
    }
    Ok(())
}
