//! Keyrings: what does not verify is held, for so long and no longer; what verified is not verified again.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use pacstore_import::{Alarm, ImportSpec, Importer, Progress, RepoState, Round, RoundError};
use pacstore_pacman::build::SigningKey;
use pacstore_runtime::{Clock, FakeClock};
use pacstore_testkit::{Repo, RepoSpec, TestResult};
use pacstore_upstream::{Http, HttpOptions};

use crate::common::{Bench, age, cid_of, of_directory};

const HOLD: Duration = Duration::from_hours(2);

/// A repository, an importer with its keys, and a clock.
struct Held {
    upstream: tempfile::TempDir,
    repo: Repo,
    bench: Bench,
    importer: Importer,
    clock: FakeClock,
}

impl Held {
    fn new() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let upstream = tempfile::tempdir()?;
        let repo = Repo::create(
            upstream.path().join("core"),
            RepoSpec::new("core").packages(3, 5_000),
        )?;
        let bench = Bench::new();
        fs::create_dir(bench.dir.path().join("keys"))?;
        fs::write(bench.dir.path().join("keys/own.gpg"), repo.key().public_key())?;
        let (clock, fake) = Clock::fake(SystemTime::now());
        let importer = importer(&bench, Self::spec(&upstream, &bench), &clock);
        Ok(Self {
            upstream,
            repo,
            bench,
            importer,
            clock: fake,
        })
    }

    fn without_keyring() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut held = Self::new()?;
        let mut spec = Self::spec(&held.upstream, &held.bench);
        spec.keyring = None;
        let (clock, hand) = Clock::fake(SystemTime::now());
        (held.importer, held.clock) = (importer(&held.bench, spec, &clock), hand);
        Ok(held)
    }

    fn spec(upstream: &tempfile::TempDir, bench: &Bench) -> ImportSpec {
        let mut spec = of_directory(upstream.path());
        spec.keyring = Some(bench.dir.path().join("keys"));
        spec.hold = HOLD;
        spec
    }

    /// Time passes, by the clock too.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::advance(time).await;
    }

    /// The process ends and starts again while the clock says `now`.
    fn restart(&mut self, now: SystemTime) {
        let (clock, hand) = Clock::fake(now);
        self.clock = hand;
        self.importer = importer(&self.bench, Self::spec(&self.upstream, &self.bench), &clock);
    }

    async fn round(&mut self) -> Result<Round, RoundError> {
        age(self.upstream.path());
        self.importer.round(&Progress::default()).await
    }

    /// Signs a package's file with a key that nobody knows.
    fn forge(&self, package: &str) -> TestResult {
        let stranger = SigningKey::from_seed([99; 32], "Stranger <s@example.org>", 1_700_000_000)?;
        let file = self
            .upstream
            .path()
            .join("core")
            .join(self.repo.file_name(package)?);
        let signature = stranger.sign(&mut &fs::read(&file)?[..], 1_744_500_000)?;
        fs::write(with_sig(&file), signature)?;
        Ok(())
    }
}

fn with_sig(file: &Path) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

fn importer(bench: &Bench, spec: ImportSpec, clock: &Clock) -> Importer {
    let work = bench.dir.path().join("work").join(&spec.mirror);
    let http = Http::new(HttpOptions::default());
    Importer::new(
        spec,
        bench.store.clone(),
        http,
        bench.tasks.clone(),
        clock.clone(),
        work,
    )
    .unwrap()
}

/// What holds the one repository.
fn doubts(round: &Round) -> Vec<String> {
    match &round.repositories[0].state {
        RepoState::Doubted { troubles, .. } => troubles.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_keyring_signed_is_published_and_what_a_stranger_signed_is_held() -> TestResult {
    let mut held = Held::new()?;
    let first = held.round().await?;
    assert_eq!(first.repositories[0].state, RepoState::Whole);
    assert_eq!(first.tree, cid_of(held.upstream.path()));

    held.repo.update(&["pkg1"])?;
    held.forge("pkg1")?;
    let second = held.round().await?;
    assert_eq!(second.tree, first.tree);
    assert!(!second.changed && !second.repositories[0].checked);
    let named = doubts(&second);
    let file = held.repo.file_name("pkg1")?;
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(
        named[0].starts_with(&format!("core/{file} ")) && named[0].contains("not in the keyring"),
        "{named:?}"
    );

    // Upstream mends it: no waiting.
    held.repo.update(&["pkg1"])?;
    let third = held.round().await?;
    assert_eq!(third.repositories[0].state, RepoState::Whole);
    assert_eq!(third.tree, cid_of(held.upstream.path()));
    assert!(third.alarms.is_empty(), "{:?}", third.alarms);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_held_state_is_published_with_an_alarm_after_its_time_also_over_a_restart() -> TestResult {
    let mut held = Held::new()?;
    let first = held.round().await?;
    held.repo.update(&["pkg1"])?;
    held.forge("pkg1")?;
    assert_eq!(held.round().await?.tree, first.tree);

    // Started anew just before its time is over.
    held.pass(Duration::from_mins(119)).await;
    let waits = held.round().await?;
    assert_eq!(waits.tree, first.tree);
    held.restart(SystemTime::now() + Duration::from_mins(119));
    assert_eq!(held.round().await?.tree, first.tree);

    held.pass(Duration::from_mins(2)).await;
    let published = held.round().await?;
    assert_eq!(published.tree, cid_of(held.upstream.path()));
    assert_eq!(published.repositories[0].state, RepoState::Whole);
    let [Alarm::Unverified(trouble)] = &published.alarms[..] else {
        panic!("{:?}", published.alarms)
    };
    assert!(
        trouble.path().ends_with(&held.repo.file_name("pkg1")?),
        "{trouble}"
    );

    // The accepted one does not hold the next state; a new one does.
    held.repo.update(&["pkg0"])?;
    let next = held.round().await?;
    assert_eq!(next.tree, cid_of(held.upstream.path()));
    held.repo.update(&["pkg2"])?;
    held.forge("pkg2")?;
    assert_eq!(held.round().await?.tree, next.tree);
    Ok(())
}

/// Forth by a year, back by two, back to what is right; with a restart under each of them.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_neither_ends_a_hold_nor_prolongs_it() -> TestResult {
    let mut held = Held::new()?;
    let (right, year) = (SystemTime::now(), Duration::from_hours(365 * 24));
    let first = held.round().await?;
    held.repo.update(&["pkg1"])?;
    held.forge("pkg1")?;
    assert_eq!(held.round().await?.tree, first.tree);
    for now in [right + year, right - year, right] {
        held.clock.set(now);
        held.pass(Duration::from_mins(10)).await;
        let waits = held.round().await?;
        assert_eq!(waits.tree, first.tree, "half an hour is over at most");
        let RepoState::Doubted { until, .. } = &waits.repositories[0].state else {
            panic!("{:?}", waits.repositories)
        };
        let now = now + Duration::from_mins(10);
        let left = *until - now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        assert!((5400..=6600).contains(&left), "{left}");
    }
    // Each restart under another time counts for a quarter of it, or for nothing.
    held.restart(right + year);
    assert_eq!(held.round().await?.tree, first.tree, "an hour");
    held.restart(right - year);
    assert_eq!(held.round().await?.tree, first.tree, "an hour still");
    held.pass(Duration::from_mins(58)).await;
    assert_eq!(held.round().await?.tree, first.tree, "a little less than two");
    held.pass(Duration::from_mins(3)).await;
    assert_eq!(held.round().await?.tree, cid_of(held.upstream.path()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_accept_it_at_once() -> TestResult {
    let mut held = Held::new()?;
    let first = held.round().await?;
    held.repo.update(&["pkg1"])?;
    held.forge("pkg1")?;
    assert_eq!(held.round().await?.tree, first.tree);
    held.importer.accept();
    let accepted = held.round().await?;
    assert_eq!(accepted.tree, cid_of(held.upstream.path()));
    assert_eq!(accepted.alarms.len(), 1);
    Ok(())
}

/// A key is rolled over: upstream signs with the new one before the keyring has it.
#[tokio::test(flavor = "multi_thread")]
async fn of_what_was_accepted_nothing_is_told_any_more_once_its_key_is_known() -> TestResult {
    let mut held = Held::new()?;
    held.round().await?;
    held.repo.update(&["pkg1"])?;
    held.forge("pkg1")?;
    held.importer.accept();
    assert_eq!(held.round().await?.alarms.len(), 1);

    // Another key is none of its business: it stays accepted, and is told.
    let other = SigningKey::from_seed([98; 32], "Other <o@example.org>", 1_700_000_000)?;
    fs::write(held.bench.dir.path().join("keys/other.gpg"), other.public_key())?;
    held.repo.update(&["pkg0"])?;
    let next = held.round().await?;
    assert_eq!(next.tree, cid_of(held.upstream.path()));
    assert_eq!(next.alarms.len(), 1);

    let stranger = SigningKey::from_seed([99; 32], "Stranger <s@example.org>", 1_700_000_000)?;
    fs::write(
        held.bench.dir.path().join("keys/stranger.gpg"),
        stranger.public_key(),
    )?;
    held.repo.update(&["pkg2"])?;
    let last = held.round().await?;
    assert_eq!(last.tree, cid_of(held.upstream.path()));
    assert!(last.alarms.is_empty(), "{:?}", last.alarms);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_state_is_held_as_well_and_a_new_key_frees_it() -> TestResult {
    let mut held = Held::new()?;
    let stranger = SigningKey::from_seed([99; 32], "Stranger <s@example.org>", 1_700_000_000)?;
    held.forge("pkg0")?;
    let error = held.round().await.unwrap_err();
    let RoundError::Torn { repositories, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(repositories[0].state, RepoState::Doubted { .. }));
    fs::write(
        held.bench.dir.path().join("keys/stranger.gpg"),
        stranger.public_key(),
    )?;
    let round = held.round().await?;
    assert_eq!(round.tree, cid_of(held.upstream.path()));
    assert!(round.alarms.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_that_cannot_be_read_stops_the_round_and_not_the_check() -> TestResult {
    let mut held = Held::new()?;
    let first = held.round().await?;
    held.repo.update(&["pkg1"])?;
    fs::remove_file(held.bench.dir.path().join("keys/own.gpg"))?;
    let error = held.round().await.unwrap_err();
    assert!(matches!(error, RoundError::Keyring(_)), "{error:?}");
    fs::write(
        held.bench.dir.path().join("keys/own.gpg"),
        held.repo.key().public_key(),
    )?;
    assert!(held.round().await?.tree != first.tree);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_without_a_signature_are_counted_and_hold_nothing() -> TestResult {
    let mut held = Held::new()?;
    let file = held
        .upstream
        .path()
        .join("core")
        .join(held.repo.file_name("pkg1")?);
    fs::remove_file(with_sig(&file))?;
    let round = held.round().await?;
    assert_eq!(round.repositories[0].state, RepoState::Whole);
    assert_eq!(round.warnings, ["core/core: 1 packages without a signature"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shrunk_an_older_and_a_rewritten_repository_raise_alarms_and_move() -> TestResult {
    let upstream = tempfile::tempdir()?;
    let folder = upstream.path().join("core");
    let spec = of_directory(upstream.path());
    let bench = Bench::new();
    let round = || async {
        age(upstream.path());
        bench.round(&spec).await
    };
    let shape = |packages: usize, seed: u64| {
        let mut shape = RepoSpec::new("core").packages(packages, 2_000);
        shape.seed = seed;
        shape
    };
    Repo::create(&folder, shape(20, 1))?;
    assert!(round().await?.alarms.is_empty());

    // The same names, other bytes.
    fs::remove_dir_all(&folder)?;
    Repo::create(&folder, shape(20, 2))?;
    let rewritten = round().await?;
    assert!(
        matches!(&rewritten.alarms[..], [Alarm::OtherBytes { count: 20, .. }]),
        "{:?}",
        rewritten.alarms
    );

    fs::remove_dir_all(&folder)?;
    Repo::create(&folder, shape(13, 2))?;
    let db = fs::File::options().read(true).open(folder.join("core.db"))?;
    let shrunk = round().await?;
    assert!(
        matches!(&shrunk.alarms[..], [Alarm::Shrunk { from: 20, to: 13, .. }]),
        "{:?}",
        shrunk.alarms
    );
    assert_eq!(shrunk.tree, cid_of(upstream.path()));

    // Another state, older than the one before.
    drop(db);
    fs::remove_dir_all(&folder)?;
    Repo::create(&folder, shape(14, 2))?;
    crate::common::age_by(upstream.path(), Duration::from_hours(72));
    let older = bench.round(&spec).await?;
    assert!(
        matches!(&older.alarms[..], [Alarm::Older { .. }]),
        "{:?}",
        older.alarms
    );
    Ok(())
}

/// Without a keyring nobody is known, but a signature tells which bytes it cannot be of.
#[tokio::test(start_paused = true)]
async fn a_database_beside_the_signature_of_another_one_waits_also_without_a_keyring() -> TestResult {
    for kind in ["db", "files"] {
        let mut held = Held::without_keyring()?;
        let first = held.round().await?;
        let signature = with_sig(&held.repo.folder().join(format!("core.{kind}")));
        let old = fs::read(&signature)?;
        held.repo.update(&["pkg1"])?;
        let new = fs::read(&signature)?;
        fs::write(&signature, &old)?;
        let waits = held.round().await?;
        assert_eq!(waits.tree, first.tree, "{kind}");
        let wanted = format!("core/core.{kind} does not verify: the signature beside it is of other bytes");
        assert_eq!(doubts(&waits), [wanted], "{kind}");

        fs::write(&signature, new)?;
        let whole = held.round().await?;
        assert_eq!(whole.repositories[0].state, RepoState::Whole, "{kind}");
        assert_eq!(whole.tree, cid_of(held.upstream.path()), "{kind}");
        assert!(whole.alarms.is_empty(), "{:?}", whole.alarms);

        // One that never fits is what upstream has, in the end.
        fs::write(&signature, old)?;
        assert_eq!(held.round().await?.tree, whole.tree, "{kind}");
        held.pass(HOLD).await;
        let taken = held.round().await?;
        assert_eq!(taken.tree, cid_of(held.upstream.path()), "{kind}");
        assert_eq!(taken.alarms.len(), 1, "{:?}", taken.alarms);
        assert!(!held.round().await?.changed, "{kind}");
    }
    Ok(())
}

/// Where no length is told (HTTP/1.0), a connection that breaks looks like the end of the file.
#[tokio::test]
async fn a_database_beside_a_signature_without_its_end_waits_also_without_a_keyring() -> TestResult {
    let mut held = Held::without_keyring()?;
    let first = held.round().await?;
    let signature = with_sig(&held.repo.folder().join("core.db"));
    held.repo.update(&["pkg1"])?;
    let new = fs::read(&signature)?;
    for len in [0, 1, new.len() - 1] {
        fs::write(&signature, &new[..len])?;
        let waits = held.round().await?;
        assert_eq!(waits.tree, first.tree, "{len} bytes");
        let wanted = "core/core.db does not verify: the signature beside it came without its end";
        assert_eq!(doubts(&waits), [wanted], "{len} bytes");
    }
    fs::write(&signature, new)?;
    assert_eq!(held.round().await?.tree, cid_of(held.upstream.path()));
    Ok(())
}
