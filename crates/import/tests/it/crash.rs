//! Ends at every step: the next round starts by itself and gives the right tree.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pacstore_import::{Progress, RoundError};
use pacstore_store::{Steps, Tuning};
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::common::{Bench, cid_of, of_directory};

/// Fails every step from the given one on, as a process that is gone or a disk that is full.
#[derive(Debug)]
struct StopAt {
    left: AtomicUsize,
    kind: io::ErrorKind,
}

impl Steps for StopAt {
    fn before(&self, _: &'static str) -> io::Result<()> {
        let before = self.left.load(Ordering::SeqCst);
        if before == 0 {
            return Err(self.kind.into());
        }
        self.left.store(before - 1, Ordering::SeqCst);
        Ok(())
    }
}

fn stop_at(step: usize, kind: io::ErrorKind) -> Tuning {
    Tuning { steps: Some(Arc::new(StopAt { left: AtomicUsize::new(step), kind })), ..Tuning::default() }
}

async fn stopped_everywhere(kind: io::ErrorKind) -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(6, 5_000).package("big", 2_100_000))?;
    let spec = of_directory(dir.path());
    let mut bench = Bench::new();
    let first = bench.round(&spec).await?;
    let old = bench.files(&first.tree);
    repo.update(&["pkg1", "big"])?;
    let expected = cid_of(dir.path());
    let mut stops = 0;
    for step in 0..500 {
        bench = bench.reopen(stop_at(step + 50, kind));
        let done = bench.round(&spec).await;
        bench = bench.reopen(Tuning::default());
        let held: Vec<_> = bench.store.retained()?.into_iter().map(|(_, tree)| tree).collect();
        match done {
            Ok(round) => {
                assert_eq!(round.tree, expected, "step {step}");
                break;
            }
            Err(error) => {
                stops += 1;
                if kind == io::ErrorKind::StorageFull {
                    assert!(error.is_disk_full(), "step {step}: {error:?}");
                }
            }
        }
        assert!(held.contains(&first.tree) || held.contains(&expected), "step {step}: a whole tree is held");
        if held.contains(&first.tree) {
            assert_eq!(bench.files(&first.tree), old, "step {step}");
        }
        if step % 7 == 0 {
            let round = bench.round(&spec).await?;
            assert_eq!(round.tree, expected, "step {step}: the next round converges");
            assert_eq!(bench.files(&round.tree).len() as u64, round.counts.files);
            // Back to the state before, for the next step.
            bench = Bench::new();
            let newer = repo_before(&spec, dir.path(), &mut repo, &bench).await?;
            assert_eq!(newer, first.tree);
        }
    }
    assert!(3 < stops, "only {stops} steps were stopped");
    let round = bench.round(&spec).await?;
    assert_eq!(round.tree, cid_of(dir.path()));
    Ok(())
}

/// Takes the first state in again out of a copy of it.
async fn repo_before(
    spec: &pacstore_import::ImportSpec,
    dir: &std::path::Path,
    repo: &mut Repo,
    bench: &Bench,
) -> Result<cid::Cid, Box<dyn std::error::Error + Send + Sync>> {
    let aside = tempfile::tempdir()?;
    let now = aside.path().join("now");
    fs_err::rename(dir, &now)?;
    let old = Repo::create(dir, RepoSpec::new("core").packages(6, 5_000).package("big", 2_100_000))?;
    let round = bench.round(spec).await?;
    drop(old);
    fs_err::remove_dir_all(dir)?;
    fs_err::rename(&now, dir)?;
    let _ = repo;
    Ok(round.tree)
}

#[tokio::test]
async fn a_process_that_ends_at_any_step_loses_nothing() -> TestResult {
    stopped_everywhere(io::ErrorKind::Other).await
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_the_next_round_goes_on() -> TestResult {
    stopped_everywhere(io::ErrorKind::StorageFull).await
}

#[tokio::test]
async fn a_round_that_is_dropped_midway_is_made_good_by_the_next() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(60, 100_000))?;
    let bench = Bench::new();
    for files in [1, 20, 50] {
        let progress = Progress::default();
        let mut watch = progress.subscribe();
        let mut importer = bench.importer(of_directory(dir.path()));
        tokio::select! {
            biased;
            _ = watch.wait_for(|s| s.step == pacstore_import::Step::Reading && files < s.files_done) => {}
            done = importer.round(&progress) => drop(done),
        }
        drop(importer);
    }
    // Work that was under way keeps the manifest open until it ends.
    let round = loop {
        match bench.round(&of_directory(dir.path())).await {
            Ok(round) => break round,
            Err(RoundError::Intake(pacstore_import::IntakeError::Manifest(_))) => tokio::task::yield_now().await,
            Err(e) => return Err(e.into()),
        }
    };
    assert_eq!(round.tree, cid_of(dir.path()));
    assert_eq!(bench.files(&round.tree).len() as u64, round.counts.files);
    Ok(())
}
