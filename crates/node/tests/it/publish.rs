//! Publishing: stopped at every step, the last head stays good and the next round converges; what a head says of times.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pacstore_import::{Files, StampSource};
use pacstore_node::{Node, Online, Outcome};
use pacstore_pacman::build::SigningKey;
use pacstore_runtime::{Clock, Tasks};
use pacstore_store::{Steps, Tuning};
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::nodes::{NAME, Plan};

/// What happens at a step.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// It and every later one fails, as where a process is gone or a disk is full.
    Fails(io::ErrorKind),
    /// The node is told to stop, as by SIGTERM.
    Stops,
}

#[derive(Debug)]
pub(crate) struct StopAt {
    pub(crate) left: AtomicUsize,
    then: Then,
    /// Of the node under way.
    tasks: Mutex<Option<Tasks>>,
}

impl StopAt {
    /// Nothing happens until `left` says at which step.
    pub(crate) fn never(then: Then) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(usize::MAX),
            then,
            tasks: Mutex::new(None),
        })
    }
}

impl Steps for StopAt {
    fn before(&self, _: &'static str) -> io::Result<()> {
        let before = self.left.load(Ordering::SeqCst);
        match &self.then {
            Then::Fails(kind) if before == 0 => return Err((*kind).into()),
            Then::Stops if before == 0 => {
                for tasks in self.tasks.lock().unwrap().iter() {
                    tasks.stop().cancel();
                }
            }
            _ => self.left.store(before - 1, Ordering::SeqCst),
        }
        Ok(())
    }
}

/// A node without network, for as long as one round.
pub(crate) struct Short {
    pub(crate) node: Node,
    tasks: Tasks,
}

impl Short {
    pub(crate) async fn start(plan: &Plan) -> Self {
        let tasks = Tasks::new();
        let node = plan.start_in(Online::No, &tasks).await;
        Self { node, tasks }
    }

    pub(crate) async fn round(&self) -> Outcome {
        let import = self.node.import(NAME).unwrap();
        self.node.import_now(&import).await.outcome
    }

    pub(crate) fn head(&self) -> (String, u64) {
        let head = self.node.mirror(NAME).unwrap().current().unwrap();
        (head.head.tree.to_string(), head.head.sequence)
    }

    /// Every block of the current tree is here, also after gc.
    pub(crate) async fn is_whole(&self) -> bool {
        self.node.gc(Some(0)).await.unwrap();
        let store = self.node.store().clone();
        let damages = store.fsck(false, &mut |_| ()).unwrap().damages;
        let head = self.node.mirror(NAME).unwrap().current().unwrap();
        damages.is_empty() && pacstore_dag::list(&head.head.tree, &store).is_ok_and(|tree| !tree.is_empty())
    }

    pub(crate) async fn stop(self) {
        let late = self.tasks.shutdown(Duration::from_secs(30)).await;
        assert!(late.is_empty(), "{late:?}");
    }
}

async fn stopped_everywhere(then: Then) -> TestResult {
    let dir = tempfile::tempdir()?;
    let show = |state: &str| fs_err::write(dir.path().join("file"), state);
    let mut stops = 0;
    for step in 0.. {
        assert!(step < 300, "a round has no more steps than that");
        show("old")?;
        let gate = StopAt::never(then.clone());
        let mut plan = Plan::importer(dir.path(), Files::All);
        plan.config.tuning = Tuning {
            steps: Some(Arc::<StopAt>::clone(&gate)),
            ..Tuning::default()
        };
        let node = Short::start(&plan).await;
        assert_eq!(node.round().await, Outcome::Published);
        let old = node.head();
        show("newer")?;
        *gate.tasks.lock().unwrap() = Some(node.tasks.clone());
        gate.left.store(step, Ordering::SeqCst);
        let stopped = node.round().await;
        let all_done = gate.left.load(Ordering::SeqCst) > 0;
        *gate.tasks.lock().unwrap() = None;
        node.stop().await;

        plan.config.tuning = Tuning::default();
        let node = Short::start(&plan).await;
        let (tree, sequence) = node.head();
        assert!(node.is_whole().await, "step {step}: the published tree is whole");
        if stopped == Outcome::Failed {
            stops += 1;
            assert!(
                tree == old.0 || sequence > old.1,
                "step {step}: an old head or a newer one"
            );
        }
        let again = node.round().await;
        assert!(
            matches!(again, Outcome::Published | Outcome::Unchanged),
            "step {step}: {again:?}"
        );
        let new = node.head();
        assert!(
            new.0 != old.0 && new.1 > old.1,
            "step {step}: it converges upwards"
        );
        assert!(node.is_whole().await, "step {step}");
        let past = node.node.mirror(NAME).unwrap().history()?;
        let trees: Vec<_> = past.iter().map(|one| one.tree.clone()).collect();
        assert_eq!(trees, [new.0, old.0], "step {step}: each tree once");
        node.stop().await;
        if all_done {
            assert!(stops > 10, "{stops} stops in {step} steps");
            return Ok(());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_the_last_head_and_the_next_round_converges() -> TestResult {
    stopped_everywhere(Then::Fails(io::ErrorKind::Interrupted)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_any_step_leaves_the_last_head_and_the_next_round_converges() -> TestResult {
    stopped_everywhere(Then::Fails(io::ErrorKind::StorageFull)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_at_any_step_leaves_the_last_head() -> TestResult {
    stopped_everywhere(Then::Fails(io::ErrorKind::ReadOnlyFilesystem)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_step_is_clean_and_leaves_the_last_head() -> TestResult {
    stopped_everywhere(Then::Stops).await
}

/// Of two mirrors of one state the one whose change stamp is older does not make that state older.
#[tokio::test]
async fn an_older_stamp_over_the_same_tree_does_not_age_it() -> TestResult {
    for files in [Files::Listed, Files::All] {
        let dir = tempfile::tempdir()?;
        if files == Files::Listed {
            Repo::create(dir.path(), RepoSpec::new("core").packages(2, 3_000))?;
        } else {
            fs_err::write(dir.path().join("image.iso"), "bytes")?;
        }
        let mut plan = Plan::importer(dir.path(), files);
        let spec = &mut plan.config.imports[0].spec;
        spec.stamp = Some(StampSource::Path("lastupdate".to_owned()));
        spec.exclude = vec!["lastupdate".to_owned()];
        let short = Short::start(&plan).await;
        let mut told = Vec::new();
        for stamp in [1_700_000_100, 1_700_000_000, 1_700_000_200] {
            fs_err::write(dir.path().join("lastupdate"), format!("{stamp}\n"))?;
            short.round().await;
            let head = short.node.mirror(NAME).unwrap().current().unwrap();
            told.push(head.head.upstream_time());
        }
        assert_eq!(told, [1_700_000_100, 1_700_000_100, 1_700_000_200], "{files:?}");
        short.stop().await;
    }
    Ok(())
}

/// An upstream whose clock was wrong once: what it said then is above nothing that comes later, in heads and at pacman's.
#[tokio::test]
async fn a_time_that_is_still_to_come_stands_in_no_head() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 3_000))?;
    let mut plan = Plan::importer(dir.path(), Files::Listed);
    let spec = &mut plan.config.imports[0].spec;
    spec.stamp = Some(StampSource::Path("lastupdate".to_owned()));
    spec.exclude = vec!["lastupdate".to_owned()];
    let short = Short::start(&plan).await;
    let head = || short.node.mirror(NAME).unwrap().current().unwrap().head.clone();
    let set = |stamp: u64, database: u64| -> TestResult {
        fs_err::write(dir.path().join("lastupdate"), format!("{stamp}\n"))?;
        let time = UNIX_EPOCH + Duration::from_secs(database);
        for end in ["db", "files"] {
            let file = dir.path().join(format!("core.{end}"));
            let file = fs_err::File::options().write(true).open(file)?;
            file.file().set_modified(time)?;
        }
        Ok(())
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for update in [false, true] {
        if update {
            repo.update(&["pkg1"])?;
        }
        set(9_999_999_999, 4_102_444_800)?;
        short.round().await;
        let sequence = head().sequence;
        let told = head().repositories[0].clone();
        let times = [told.upstream_time, told.db_time, told.files_time.unwrap_or(0)];
        assert!(
            times.iter().all(|time| (now..now + 600).contains(time)),
            "{told:?}"
        );
        assert_eq!(head().upstream_time(), told.upstream_time);
        short.round().await;
        assert_eq!(head().sequence, sequence, "no head for each round");
    }
    set(now + 60, now + 50)?;
    short.round().await;
    let told = head().repositories[0].clone();
    assert_eq!((told.upstream_time, told.db_time), (now + 60, now + 50));
    short.stop().await;
    Ok(())
}

/// Each round knows anew, to the second, until when it is held: that is nothing a client needs a head for.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_repository_is_held_no_round_makes_another_head() -> TestResult {
    let (dir, keys) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut repo = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(2, 500))?;
    let (clock, hand) = Clock::fake(SystemTime::now());
    let mut plan = Plan::importer(dir.path(), Files::Listed).clock(&clock);
    let keyring = keys.path().join("own.gpg");
    fs_err::write(&keyring, repo.key().public_key())?;
    plan.config.imports[0].spec.keyring = Some(keyring.clone());
    let node = plan.start().await;
    assert_eq!(node.import().await.outcome, Outcome::Published);

    repo.update(&["pkg0"])?;
    let stranger = SigningKey::from_seed([7; 32], "Stranger <stranger@example.org>", 1_700_000_000)?;
    fs_err::write(&keyring, stranger.public_key())?;
    let mut heads = Vec::new();
    for _ in 0..3 {
        hand.advance(Duration::from_secs(61));
        assert_eq!(node.round().await.outcome, Outcome::Torn);
        let mirror = node.node.mirror(NAME).expect("it imports");
        heads.push(mirror.current().expect("it was published").cid);
    }
    assert_eq!(heads[1..], [heads[0], heads[0]]);
    Ok(())
}
