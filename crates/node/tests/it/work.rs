//! Long work on the store tells how far it is, to whoever asks meanwhile.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::time::Duration;

use pacstore_import::Files;
use pacstore_node::{Online, Repair, WorkStatus};
use pacstore_runtime::Tasks;
use pacstore_store::{Steps, Tuning};
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};
use tokio::sync::mpsc;

use crate::nodes::{Plan, SOON, TestNode};
use crate::solo::{LARGE, solo};

/// Holds these steps of the store, once it is told to, until it may go on.
#[derive(Debug)]
struct Hold {
    armed: AtomicBool,
    reached: mpsc::Sender<()>,
    go: Mutex<std_mpsc::Receiver<()>>,
}

impl Steps for Hold {
    fn before(&self, step: &'static str) -> io::Result<()> {
        let held = matches!(step, "compare tables" | "evict files");
        if held && self.armed.swap(false, Ordering::SeqCst) {
            let _ = self.reached.blocking_send(());
            let _ = self.go.lock().unwrap().recv_timeout(SOON);
        }
        Ok(())
    }
}

/// What is seen of the work while it is held.
async fn seen(
    node: &TestNode,
    reached: &mut mpsc::Receiver<()>,
    go: &std_mpsc::SyncSender<()>,
) -> Vec<WorkStatus> {
    tokio::time::timeout(SOON, reached.recv()).await.unwrap();
    let work = node.node.status(None).await.work;
    go.send(()).unwrap();
    work
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_and_a_clean_up_of_the_store_tell_how_far_they_are() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core").package("large", LARGE).packages(5, 20_000);
    let repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    let ((told, mut reached), (go, wait)) = (mpsc::channel(1), std_mpsc::sync_channel(1));
    let hold = Arc::new(Hold {
        armed: AtomicBool::new(false),
        reached: told,
        go: Mutex::new(wait),
    });
    let mut plan = solo(&[&mirror]);
    plan.config.tuning = Tuning {
        steps: Some(Arc::clone(&hold) as _),
        ..Tuning::default()
    };
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    for name in ["large", "pkg0", "pkg1", "pkg2", "pkg3", "pkg4"] {
        node.pacman_bytes(&repo.file_name(name)?).await?;
    }
    node.idle().await;
    let stats = node.node.store().stats();
    hold.armed.store(true, Ordering::SeqCst);
    let (checked, work) = Box::pin(futures::future::join(
        node.node.fsck(Repair::No),
        seen(&node, &mut reached, &go),
    ))
    .await;
    assert!(checked?.damages.is_empty());
    let [check] = &work[..] else { panic!("{work:?}") };
    assert_eq!((&*check.what, check.files), ("fsck", (stats.files, stats.files)));
    assert!(
        LARGE < check.bytes.0 && check.bytes.0 <= check.bytes.1,
        "{check:?}"
    );
    hold.armed.store(true, Ordering::SeqCst);
    let (freed, work) = Box::pin(futures::future::join(
        node.node.gc(Some(0)),
        seen(&node, &mut reached, &go),
    ))
    .await;
    assert!(freed?.files > 0);
    let [free] = &work[..] else { panic!("{work:?}") };
    assert_eq!((&*free.what, free.bytes), ("gc", (0, stats.evictable)));
    assert_eq!(node.node.work(), []);
    Ok(())
}

/// What looks at the files of the store by itself would find a damage before `pacstore fsck` does, and drop it.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_nothing_reads_the_store_but_the_command() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut plan = Plan::importer(dir.path(), Files::All);
    plan.config.machine.scrub = Some(Duration::from_hours(24));
    for (online, expected) in [(Online::Yes, true), (Online::No, false)] {
        let tasks = Tasks::new();
        let node = plan.start_in(online, &tasks).await;
        let names: Vec<String> = tasks.report().into_iter().map(|task| task.name).collect();
        for worker in ["scrub", "digests"] {
            assert_eq!(
                names.iter().any(|name| name == worker),
                expected,
                "{worker} in {names:?}"
            );
        }
        tasks.shutdown(Duration::from_secs(4)).await;
        node.close();
    }
    Ok(())
}
