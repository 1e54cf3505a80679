//! Several upstreams of one import: dead, stale, slow, torn, one that comes and goes; never two in one tree.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pacstore_import::{
    Alarm, ImportSpec, Importer, Progress, Repositories, RoundError, Source, SourceError, StampSource,
};
use pacstore_runtime::{Clock, FakeClock};
use pacstore_testkit::{Fault, Listing, Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};
use pacstore_upstream::{Http, HttpOptions};

use crate::common::{Bench, age_by, all, cid_of, of_directory};

/// Two web mirrors of one repository, each with a folder of its own.
struct Two {
    dirs: [tempfile::TempDir; 2],
    servers: [Upstream; 2],
    repo: Repo,
    bench: Bench,
}

impl Two {
    fn new(packages: usize, size: u64) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
        let repo = Repo::create(dirs[0].path(), RepoSpec::new("core").packages(packages, size))?;
        let servers = [
            Upstream::folder(dirs[0].path())?,
            Upstream::folder(dirs[1].path())?,
        ];
        let two = Self {
            dirs,
            servers,
            repo,
            bench: Bench::new(),
        };
        two.sync(0, 1)?;
        Ok(two)
    }

    /// Makes `to` what `from` is, file times included.
    fn sync(&self, from: usize, to: usize) -> TestResult {
        let (from, to) = (self.dirs[from].path(), self.dirs[to].path());
        for entry in fs_err::read_dir(to)? {
            fs_err::remove_file(entry?.path())?;
        }
        for entry in fs_err::read_dir(from)? {
            let entry = entry?;
            let copy = to.join(entry.file_name());
            fs_err::copy(entry.path(), &copy)?;
            let file = fs_err::File::options().write(true).open(&copy)?;
            file.file().set_modified(entry.metadata()?.modified()?)?;
        }
        Ok(())
    }

    fn spec(&self) -> ImportSpec {
        let from = self
            .servers
            .iter()
            .map(|server| Source::parse(&server.url("")).unwrap());
        ImportSpec::new("test.mirror", from.collect())
    }

    fn importer(&self, spec: ImportSpec, clock: &Clock) -> Importer {
        let http = Http::new(HttpOptions::default());
        let work = self.bench.dir.path().join("work").join(&spec.mirror);
        let (store, tasks) = (self.bench.store.clone(), self.bench.tasks.clone());
        Importer::new(spec, store, http, tasks, clock.clone(), work).unwrap()
    }
}

fn clock() -> (Clock, FakeClock) {
    Clock::fake(SystemTime::now())
}

/// Time passes, by the clock too.
async fn pass(clock: &FakeClock, time: Duration) {
    clock.advance(time);
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Which of the sources a round read.
async fn read(importer: &mut Importer) -> Result<usize, RoundError> {
    let source = importer.round(&Progress::default()).await?.source;
    let from = &importer.spec().from;
    Ok(from.iter().position(|one| *one == source).unwrap())
}

#[tokio::test]
async fn a_dead_first_upstream_is_left_for_the_next_and_taken_back_when_it_lives() -> TestResult {
    let two = Two::new(3, 2_000)?;
    let (clock, time) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    two.servers[0].stop();
    assert_eq!(read(&mut importer).await?, 1);
    two.servers[0].start()?;
    assert_eq!(read(&mut importer).await?, 1, "it failed just now");
    // Also after a restart, since that is remembered.
    drop(importer);
    let mut importer = two.importer(two.spec(), &clock);
    assert_eq!(read(&mut importer).await?, 1);
    time.advance(Duration::from_mins(3));
    assert_eq!(read(&mut importer).await?, 0, "the preference holds again");
    Ok(())
}

#[tokio::test]
async fn an_upstream_that_comes_and_goes_is_asked_less_and_less() -> TestResult {
    let two = Two::new(2, 1_000)?;
    let (clock, time) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    let mut from_first = 0;
    for _ in 0..12 {
        two.servers[0].fault("*", Fault::Status(503));
        assert_eq!(read(&mut importer).await?, 1);
        two.servers[0].heal();
        time.advance(Duration::from_secs(61));
        from_first += usize::from(read(&mut importer).await? == 0);
        time.advance(Duration::from_secs(61));
    }
    assert!((1..12).contains(&from_first), "{from_first} of 12");
    Ok(())
}

#[tokio::test]
async fn a_stale_first_upstream_is_left_for_a_fresh_one_by_stamp_or_by_database() -> TestResult {
    for stamped in [true, false] {
        let mut two = Two::new(3, 2_000)?;
        let (clock, time) = clock();
        let mut spec = two.spec();
        if stamped {
            fs_err::write(two.dirs[0].path().join("lastupdate"), "1744500000\n")?;
            fs_err::write(two.dirs[1].path().join("lastupdate"), "1744500000\n")?;
            spec.stamp = Some(StampSource::Path("lastupdate".into()));
        }
        let mut importer = two.importer(spec, &clock);
        assert_eq!(read(&mut importer).await?, 0, "both are as new");
        // The first falls behind: what it has is what the other had two days ago.
        two.repo.update(&["pkg1"])?;
        let new = cid_of_repo(two.dirs[0].path());
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
        swap(two.dirs[0].path(), two.dirs[1].path(), dirs[0].path())?;
        if stamped {
            fs_err::write(two.dirs[1].path().join("lastupdate"), "1744700000\n")?;
            fs_err::write(two.dirs[0].path().join("lastupdate"), "1744500000\n")?;
        }
        time.advance(Duration::from_mins(16));
        let round = importer.round(&Progress::default()).await?;
        assert_eq!(round.source, importer.spec().from[1], "stamped: {stamped}");
        assert_eq!(round.tree, new, "stamped: {stamped}");

        // With the fresh one gone, the stale one does not take the tree back.
        two.servers[1].stop();
        time.advance(Duration::from_mins(16));
        let error = importer.round(&Progress::default()).await.unwrap_err();
        let RoundError::NoSource { attempts, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(
            attempts
                .iter()
                .any(|(_, e)| matches!(e, SourceError::Older { .. })),
            "stamped: {stamped}: {attempts:?}"
        );
        // A person may take it, and so does time, where nothing newer can be had for a day.
        pass(&time, Duration::from_hours(25)).await;
        let round = importer.round(&Progress::default()).await?;
        assert!(round.changed && round.tree != new, "stamped: {stamped}");
        assert_eq!(round.source, importer.spec().from[0]);
    }
    Ok(())
}

/// The tree of the repository's own files; a change stamp beside them is not taken.
fn cid_of_repo(dir: &Path) -> cid::Cid {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs_err::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "lastupdate" {
            fs_err::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    cid_of(copy.path())
}

/// Exchanges what lies in two folders.
fn swap(a: &Path, b: &Path, between: &Path) -> TestResult {
    for (from, to) in [(a, between), (b, a), (between, b)] {
        for entry in fs_err::read_dir(from)? {
            let entry = entry?;
            fs_err::rename(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// As two servers behind one balancer, of which one is an update behind: each round finds them exchanged.
#[tokio::test]
async fn two_upstreams_that_alternate_never_take_the_tree_back() -> TestResult {
    let mut two = Two::new(4, 2_000)?;
    let (clock, time) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    two.repo.update(&["pkg1", "pkg2"])?;
    let new = cid_of(two.dirs[0].path());
    let between = tempfile::tempdir()?;
    let mut left_out = 0;
    for nth in 0..8 {
        let round = importer.round(&Progress::default()).await?;
        assert_eq!((round.tree, round.is_torn()), (new, false), "round {nth}");
        left_out += usize::from(
            round
                .warnings
                .iter()
                .any(|text| text.contains("left out of this round")),
        );
        swap(two.dirs[0].path(), two.dirs[1].path(), between.path())?;
        time.advance(Duration::from_mins(1));
    }
    assert!((1..8).contains(&left_out), "{left_out}");

    // Once the new one is gone, the other does not take the tree back, and brings it forward.
    let fresh = usize::from(cid_of(two.dirs[0].path()) != new);
    two.servers[fresh].stop();
    let error = importer.round(&Progress::default()).await.unwrap_err();
    let RoundError::NoSource { attempts, .. } = &error else {
        panic!("{error:?}")
    };
    let is_older = |(_, error): &(Source, SourceError)| matches!(error, SourceError::Older { .. });
    assert!(attempts.iter().any(is_older), "{attempts:?}");
    swap(two.dirs[0].path(), two.dirs[1].path(), between.path())?;
    time.advance(Duration::from_mins(2));
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.changed), (new, false));
    assert_ne!(round.source, importer.spec().from[fresh]);
    Ok(())
}

/// The upstream itself went back: every mirror of it says so, and after half an hour that is believed.
#[tokio::test]
async fn what_all_upstreams_agree_on_is_taken_though_it_is_older() -> TestResult {
    let mut two = Two::new(3, 2_000)?;
    let (clock, time) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    let old = cid_of(two.dirs[1].path());
    two.repo.update(&["pkg1"])?;
    let new = importer.round(&Progress::default()).await?.tree;
    two.sync(1, 0)?;
    assert!(read(&mut importer).await.is_err());
    pass(&time, Duration::from_mins(20)).await;
    assert!(read(&mut importer).await.is_err());
    pass(&time, Duration::from_mins(11)).await;
    let round = importer.round(&Progress::default()).await?;
    assert_ne!(old, new);
    assert_eq!((round.tree, round.changed), (old, true));
    assert!(
        matches!(&round.alarms[..], [Alarm::Older { .. }]),
        "{:?}",
        round.alarms
    );
    Ok(())
}

/// Not within a process, not over a restart; what really passed counts, in both.
#[tokio::test]
async fn a_clock_that_jumps_by_a_year_takes_no_tree_back() -> TestResult {
    let year = Duration::from_hours(365 * 24);
    for (all, minutes) in [(true, 30), (false, 24 * 60)] {
        let mut two = Two::new(3, 2_000)?;
        let (clock, time) = clock();
        let mut importer = two.importer(two.spec(), &clock);
        two.repo.update(&["pkg1"])?;
        importer.round(&Progress::default()).await?;
        if all {
            two.sync(1, 0)?;
        } else {
            two.servers[0].stop();
        }
        assert!(read(&mut importer).await.is_err(), "all: {all}");
        for _ in 0..2 {
            time.advance(year);
            assert!(read(&mut importer).await.is_err(), "all: {all}");
        }
        time.set(SystemTime::now());
        assert!(read(&mut importer).await.is_err(), "all: {all}");
        // A quarter at most of what a restart did not see.
        drop(importer);
        time.advance(year);
        let mut importer = two.importer(two.spec(), &clock);
        assert!(read(&mut importer).await.is_err(), "all: {all}");
        pass(&time, Duration::from_mins(minutes * 5 / 8)).await;
        assert!(read(&mut importer).await.is_err(), "all: {all}");
        drop(importer);
        time.set(SystemTime::now());
        let mut importer = two.importer(two.spec(), &clock);
        assert!(read(&mut importer).await.is_err(), "all: {all}");
        pass(&time, Duration::from_mins(minutes / 8 + 2)).await;
        assert!(read(&mut importer).await.is_ok(), "all: {all}");
    }
    Ok(())
}

/// A mirror that has stood still for weeks does not get its turn because the one in use failed once a day.
#[tokio::test]
async fn a_day_of_being_older_counts_only_while_nothing_newer_can_be_had() -> TestResult {
    let mut two = Two::new(3, 2_000)?;
    let (clock, time) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    two.repo.update(&["pkg1"])?;
    let new = importer.round(&Progress::default()).await?.tree;
    for day in 0..3 {
        two.servers[0].stop();
        assert!(read(&mut importer).await.is_err(), "day {day}");
        two.servers[0].start()?;
        pass(&time, Duration::from_hours(26)).await;
        let round = importer.round(&Progress::default()).await?;
        assert_eq!(round.tree, new, "day {day}");
    }
    Ok(())
}

/// The databases are the same: an image that only one has yet shows by the stamp, or by its time.
#[tokio::test]
async fn an_upstream_that_is_behind_with_its_images_alone_does_not_take_them_away() -> TestResult {
    for stamped in [true, false] {
        let two = Two::new(2, 1_000)?;
        let (clock, time) = clock();
        let mut spec = two.spec();
        spec.also = vec!["/iso/**".into()];
        if stamped {
            spec.stamp = Some(StampSource::Path("lastupdate".into()));
        }
        for (dir, stamp, name, age) in [
            (&two.dirs[0], "1744700000\n", "new.iso", 1),
            (&two.dirs[1], "1744500000\n", "old.iso", 2),
        ] {
            fs_err::write(dir.path().join("lastupdate"), stamp)?;
            fs_err::create_dir(dir.path().join("iso"))?;
            let image = dir.path().join("iso").join(name);
            fs_err::write(&image, name)?;
            // Where there are stamps, they say it: the time is that of copying.
            let hours = if stamped { 2 - age } else { age };
            let file = fs_err::File::options().write(true).open(&image)?;
            let at = SystemTime::now() - Duration::from_hours(24 * hours + 1);
            file.file().set_modified(at)?;
        }
        let mut importer = two.importer(spec, &clock);
        let new = importer.round(&Progress::default()).await?;
        assert_eq!(new.source, importer.spec().from[0], "stamped: {stamped}");
        two.servers[0].stop();
        time.advance(Duration::from_mins(1));
        let round = importer.round(&Progress::default()).await;
        let Err(RoundError::NoSource { attempts, .. }) = &round else {
            panic!("stamped: {stamped}: {round:?}")
        };
        let is_older = |(_, error): &(Source, SourceError)| matches!(error, SourceError::Older { .. });
        assert!(attempts.iter().any(is_older), "stamped: {stamped}: {attempts:?}");
    }
    Ok(())
}

/// Where a mirror does not say how old its files are, the packages in its databases do.
#[tokio::test]
async fn a_newer_state_is_taken_from_an_upstream_that_tells_no_times() -> TestResult {
    let mut two = Two::new(3, 2_000)?;
    let (clock, _) = clock();
    two.servers[1].listing(Listing::Off);
    two.servers[1].fault("*", Fault::NoValidators);
    let mut spec = two.spec();
    spec.repositories = Repositories::List(vec!["/core".into()]);
    let mut importer = two.importer(spec, &clock);
    let old = importer.round(&Progress::default()).await?.tree;
    two.repo.update(&["pkg1"])?;
    let new = cid_of(two.dirs[0].path());
    two.sync(0, 1)?;
    two.servers[0].stop();
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.changed), (new, true));
    assert_ne!(old, new);
    Ok(())
}

#[tokio::test]
async fn a_person_may_accept_the_older_state_at_once() -> TestResult {
    let mut two = Two::new(3, 2_000)?;
    let (clock, _) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    two.repo.update(&["pkg1"])?;
    read(&mut importer).await?;
    two.servers[0].stop();
    assert!(read(&mut importer).await.is_err());
    importer.accept();
    assert_eq!(read(&mut importer).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_slow_first_upstream_is_left_for_one_that_may_be_faster() -> TestResult {
    let mut two = Two::new(2, 300_000)?;
    let (clock, _) = clock();
    two.servers[0].limit(Some(400_000));
    let mut importer = two.importer(two.spec(), &clock);
    assert_eq!(read(&mut importer).await?, 0, "nothing is known yet");
    assert_eq!(
        read(&mut importer).await?,
        1,
        "the first one is slow, the second is not known"
    );
    two.repo.update(&["pkg0", "pkg1"])?;
    two.sync(0, 1)?;
    assert_eq!(read(&mut importer).await?, 1, "measured now");
    drop(importer);
    let mut importer = two.importer(two.spec(), &clock);
    assert_eq!(read(&mut importer).await?, 1, "and remembered over a restart");
    Ok(())
}

#[tokio::test]
async fn a_torn_first_upstream_is_left_for_a_whole_one_and_kept_where_none_is_whole() -> TestResult {
    let mut two = Two::new(4, 2_000)?;
    let (clock, time) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    let old = importer.round(&Progress::default()).await?.tree;
    two.repo.update(&["pkg2"])?;
    let whole = cid_of(two.dirs[0].path());
    two.sync(0, 1)?;
    two.repo.corrupt_package("pkg2")?;
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (whole, false));
    assert_eq!(round.source, importer.spec().from[1]);

    // Both torn: the tree stays, the files are named, and not every round asks all of them.
    two.repo.update_database_only(&["pkg1"])?;
    two.sync(0, 1)?;
    time.advance(Duration::from_mins(11));
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (whole, true));
    assert_ne!(round.tree, old);
    two.servers.iter().for_each(Upstream::clear_log);
    importer.round(&Progress::default()).await?;
    importer.round(&Progress::default()).await?;
    let asked = two
        .servers
        .each_ref()
        .map(|server| server.requests("core.db").len());
    assert!(
        asked.contains(&0),
        "the other was torn as well just now: {asked:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_emptied_first_upstream_is_left_for_the_next() -> TestResult {
    let two = Two::new(3, 2_000)?;
    let (clock, _) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    let tree = importer.round(&Progress::default()).await?.tree;
    for entry in fs_err::read_dir(two.dirs[0].path())? {
        fs_err::remove_file(entry?.path())?;
    }
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (tree, false));
    assert_eq!(round.source, importer.spec().from[1]);
    Ok(())
}

#[tokio::test]
async fn a_next_upstream_without_listings_serves_the_repositories_that_are_known() -> TestResult {
    let mut two = Two::new(3, 2_000)?;
    let (clock, _) = clock();
    let mut importer = two.importer(two.spec(), &clock);
    importer.round(&Progress::default()).await?;
    two.repo.update(&["pkg1"])?;
    let new = cid_of(two.dirs[0].path());
    two.sync(0, 1)?;
    two.servers[0].stop();
    two.servers[1].listing(Listing::Off);
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (new, false));
    // Where its database cannot be had, the repository is torn, not gone.
    two.servers[1].fault("core.db", Fault::Status(404));
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (new, true));
    Ok(())
}

/// One rsync module died midway, the next has other bytes under the same name, size and time.
#[tokio::test]
async fn what_one_rsync_upstream_left_is_not_mixed_into_the_tree_of_another() -> TestResult {
    for files_all in [false, true] {
        let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
        for (dir, text) in dirs.iter().zip([b"from one", b"from two"]) {
            Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 2_000))?;
            fs_err::write(dir.path().join("core/pkg0-0-1-any.pkg.tar.zst"), text)?;
            fs_err::create_dir_all(dir.path().join("iso"))?;
            fs_err::write(dir.path().join("iso/image"), text)?;
            age_by(dir.path(), Duration::from_hours(48));
            equal_times(dir.path())?;
        }
        let [Some(one), Some(two)] = [
            RsyncDaemon::serve(dirs[0].path())?,
            RsyncDaemon::serve(dirs[1].path())?,
        ] else {
            return Ok(());
        };
        let from = [&one, &two].map(|daemon| Source::parse(&daemon.url("")).unwrap());
        let mut spec = ImportSpec::new("test.mirror", from.to_vec());
        spec.also = vec!["/iso/**".into()];
        if files_all {
            spec = all(spec);
        }
        let mut expected = of_directory(dirs[1].path());
        expected.also.clone_from(&spec.also);
        expected.files = spec.files;
        let expected = Bench::new().round(&expected).await?.tree;
        let bench = Bench::new();
        let mut importer = bench.importer(spec);
        let first = importer.round(&Progress::default()).await?;
        assert_ne!(first.tree, expected);
        one.stop();
        let second = importer.round(&Progress::default()).await?;
        assert_eq!(second.source, importer.spec().from[1]);
        assert_eq!(second.tree, expected, "files = all: {files_all}");
    }
    Ok(())
}

/// Gives every file of a tree one and the same time.
fn equal_times(dir: &Path) -> TestResult {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_744_500_001);
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            equal_times(&entry.path())?;
        } else {
            let file = fs_err::File::options().write(true).open(entry.path())?;
            file.file().set_modified(time)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_source_that_was_left_on_purpose_holds_nothing_up() -> TestResult {
    let mut two = Two::new(3, 2_000)?;
    let (clock, _) = clock();
    let mut spec = two.spec();
    spec.repositories = Repositories::List(vec!["/core".into()]);
    let mut importer = two.importer(spec.clone(), &clock);
    two.repo.update(&["pkg1"])?;
    let new = importer.round(&Progress::default()).await?.tree;
    drop(importer);
    spec.from.remove(0);
    let round = two.importer(spec, &clock).round(&Progress::default()).await?;
    assert_ne!(round.tree, new);
    assert!(round.changed && !round.is_torn());
    Ok(())
}

/// A stamp that is older alone holds nothing up: the tree is the same, and is confirmed.
#[tokio::test]
async fn an_upstream_with_an_older_stamp_and_the_same_files_is_read() -> TestResult {
    let two = Two::new(3, 2_000)?;
    let (clock, _) = clock();
    let mut spec = two.spec();
    spec.stamp = Some(StampSource::Path("lastupdate".into()));
    fs_err::write(two.dirs[0].path().join("lastupdate"), "1744700000\n")?;
    fs_err::write(two.dirs[1].path().join("lastupdate"), "1744500000\n")?;
    let mut importer = two.importer(spec, &clock);
    let tree = importer.round(&Progress::default()).await?.tree;
    two.servers[0].stop();
    let round = importer.round(&Progress::default()).await?;
    assert_eq!(round.source, importer.spec().from[1]);
    assert_eq!((round.tree, round.changed), (tree, false));
    assert!(round.repositories.iter().all(|repo| repo.checked));
    Ok(())
}
