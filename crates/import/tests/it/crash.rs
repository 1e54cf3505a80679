//! Ends at every step: the next round starts by itself and gives the right tree.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pacstore_import::{Progress, RoundError};
use pacstore_store::{Steps, Tuning};
use pacstore_testkit::{Loss, Power, Repo, RepoSpec, TestResult};

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

/// Two states of one mirror, of which a link shows the one or the other.
struct Mirror {
    dir: tempfile::TempDir,
}

impl Mirror {
    fn new() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let dir = tempfile::tempdir()?;
        let spec = || RepoSpec::new("core").packages(6, 5_000).package("big", 2_100_000);
        Repo::create(dir.path().join("old"), spec())?;
        Repo::create(dir.path().join("new"), spec())?.update(&["pkg1", "big"])?;
        let this = Self { dir };
        this.show("old")?;
        Ok(this)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn show(&self, state: &str) -> io::Result<()> {
        symlink(state, self.at("link"))?;
        fs_err::rename(self.at("link"), self.at("mirror"))
    }
}

async fn stopped_everywhere(kind: io::ErrorKind, stride: usize) -> TestResult {
    let mirror = Mirror::new()?;
    let spec = of_directory(&mirror.at("mirror"));
    let (old, new) = (cid_of(&mirror.at("old")), cid_of(&mirror.at("new")));
    let mut stops = 0;
    for step in (0..500).step_by(stride) {
        mirror.show("old")?;
        let gate = Arc::new(StopAt {
            left: AtomicUsize::new(usize::MAX),
            kind,
        });
        let tuning = Tuning {
            steps: Some(Arc::<StopAt>::clone(&gate)),
            ..Tuning::default()
        };
        let bench = Bench::with(tempfile::tempdir()?, 1 << 40, &tuning);
        assert_eq!(bench.round(&spec).await?.tree, old);
        let files = bench.files(&old);

        mirror.show("new")?;
        gate.left.store(step, Ordering::SeqCst);
        let done = bench.round(&spec).await;
        let bench = bench.reopen(&Tuning::default());
        if let Err(error) = &done {
            stops += 1;
            assert!(
                kind != io::ErrorKind::StorageFull || error.is_disk_full(),
                "step {step}: {error:?}"
            );
            let held: Vec<_> = bench
                .store
                .retained()?
                .into_iter()
                .map(|(_, tree)| tree)
                .collect();
            bench.store.gc(Some(0))?;
            if held.contains(&old) {
                assert_eq!(bench.files(&old), files, "step {step}: the last tree is whole");
            } else {
                // All was done but for the tidying up.
                assert!(
                    held.contains(&new) && !bench.files(&new).is_empty(),
                    "step {step}: a tree is held"
                );
            }
        }
        let round = bench.round(&spec).await?;
        assert_eq!(round.tree, new, "step {step}: the next round converges");
        assert_eq!(bench.files(&round.tree).len() as u64, round.counts.files);
        let labels: Vec<_> = bench
            .store
            .retained()?
            .into_iter()
            .map(|(label, _)| label)
            .collect();
        assert_eq!(labels, ["import/test.mirror/staged"], "step {step}");
        bench.store.gc(Some(0))?;
        assert_eq!(bench.store.stats().evictable, 0, "step {step}");
        assert_eq!(
            bench.store.stats().files,
            distinct(&bench, &new),
            "step {step}: nothing else is left"
        );
        if done.is_ok() {
            break;
        }
    }
    assert!(10 < stops, "only {stops} steps were stopped");
    Ok(())
}

fn distinct(bench: &Bench, tree: &cid::Cid) -> u64 {
    bench
        .files(tree)
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect::<BTreeSet<_>>()
        .len() as u64
}

#[tokio::test]
async fn a_process_that_ends_at_any_step_loses_nothing() -> TestResult {
    stopped_everywhere(io::ErrorKind::Other, 1).await
}

/// Also what the importer itself wrote is as before the round: its manifest is older than the store.
#[tokio::test]
async fn power_that_fails_at_any_step_loses_nothing_that_was_told() -> TestResult {
    let mirror = Mirror::new()?;
    let spec = of_directory(&mirror.at("mirror"));
    let (old, new) = (cid_of(&mirror.at("old")), cid_of(&mirror.at("new")));
    for step in (0..500).step_by(3) {
        mirror.show("old")?;
        let bench = Bench::new();
        assert_eq!(bench.round(&spec).await?.tree, old);
        let files = bench.files(&old);
        let power = Power::watch(bench.dir.path())?;
        let bench = bench.reopen(&Tuning {
            steps: Some(Arc::<Power>::clone(&power)),
            ..Tuning::default()
        });
        mirror.show("new")?;
        power.cut_after(step);
        let done = bench.round(&spec).await;
        power.cut();
        let Bench { dir, store, tasks } = bench;
        drop((tasks, store));
        power.restore(Loss::Unsynced)?;
        let bench = Bench::with(dir, 1 << 40, &Tuning::default());
        let trees: Vec<_> = bench
            .store
            .retained()?
            .into_iter()
            .map(|(_, tree)| tree)
            .collect();
        bench.store.gc(Some(0))?;
        assert!(
            done.is_err() || trees.contains(&new),
            "step {step}: what was told is kept"
        );
        if trees.contains(&old) {
            assert_eq!(bench.files(&old), files, "step {step}: the last tree is whole");
        } else {
            assert!(
                trees.contains(&new) && !bench.files(&new).is_empty(),
                "step {step}"
            );
        }
        let round = bench.round(&spec).await?;
        assert_eq!(round.tree, new, "step {step}: the next round converges");
        assert_eq!(bench.files(&new).len() as u64, round.counts.files, "step {step}");
        if !power.was_cut_by_step() {
            assert!(30 < step, "only {step} steps were seen");
            return Ok(());
        }
    }
    panic!("the round never came to its end");
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_the_next_round_goes_on() -> TestResult {
    stopped_everywhere(io::ErrorKind::StorageFull, 4).await
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
            Err(RoundError::Intake(pacstore_import::IntakeError::Manifest(_))) => {
                tokio::task::yield_now().await;
            }
            Err(e) => return Err(e.into()),
        }
    };
    assert_eq!(round.tree, cid_of(dir.path()));
    assert_eq!(bench.files(&round.tree).len() as u64, round.counts.files);
    Ok(())
}
