//! The task set and its pools.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pacstore_runtime::{Pool, PoolLimits, Stopped, TaskState, Tasks, note};
use tokio::sync::oneshot;

const GRACE: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_tasks_that_listen_to_the_stop_token() {
    let tasks = Tasks::new();
    let stop = tasks.stop();
    let (tell, told) = oneshot::channel();
    tasks.spawn("tidy", async move {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(2)).await; // paused time
        tell.send(()).expect("the test waits");
    });
    assert_eq!(tasks.shutdown(GRACE).await, Vec::<String>::new());
    told.await.expect("it finished its work");
    assert_eq!(tasks.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_aborts_and_names_the_rest_after_the_grace() {
    let tasks = Tasks::new();
    tasks.spawn("deaf", pending());
    tasks.spawn(format!("peer {}", 7), pending());
    let start = tokio::time::Instant::now();
    assert_eq!(tasks.shutdown(GRACE).await, ["deaf", "peer 7"]);
    assert!(start.elapsed() < GRACE + Duration::from_secs(1));
    assert_eq!(tasks.live(), 0, "aborted tasks are gone");
    assert!(tasks.shutdown(GRACE).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_after_shutdown() {
    let tasks = Tasks::new();
    tasks.shutdown(GRACE).await;
    let handle = tasks.spawn("late", async { panic!("must not run") });
    handle.ended().await;
    handle.abort();
    assert!(handle.is_finished());
    assert_eq!(tasks.blocking(Pool::Disk, || 1).await, Err(Stopped::Stopping));
    assert!(tasks.report().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tasks_may_still_use_the_pools_within_the_grace() {
    let tasks = Tasks::new();
    let (stop, set) = (tasks.stop(), tasks.clone());
    let (tell, told) = oneshot::channel();
    tasks.spawn("flush", async move {
        stop.cancelled().await;
        tell.send(set.blocking(Pool::Disk, || "flushed").await)
            .expect("the test waits");
    });
    assert!(tasks.shutdown(GRACE).await.is_empty());
    assert_eq!(told.await.expect("it ran"), Ok("flushed"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_reported_and_the_others_go_on() {
    let tasks = Tasks::new();
    tasks.spawn("fine", pending());
    let bad = tasks.spawn("bad", async { panic!("out of {}", "luck") });
    bad.ended().await;
    assert!(bad.is_finished());
    assert!(!tasks.stop().is_cancelled());
    let report = tasks.report();
    assert_eq!(report.len(), 2);
    assert_eq!(
        (report[0].name.as_str(), &report[0].state),
        ("fine", &TaskState::Running(None))
    );
    assert_eq!(report[1].name, "bad");
    assert_eq!(report[1].state, TaskState::Panicked("out of luck".to_owned()));
    assert_eq!(tasks.fault(), None);
}

#[tokio::test(start_paused = true)]
async fn the_panic_of_a_critical_task_stops_the_node() {
    let tasks = Tasks::new();
    tasks.spawn_critical("swarm", async { panic!("no network") });
    tasks.stop().cancelled().await;
    assert_eq!(tasks.fault().as_deref(), Some("swarm: no network"));
}

#[tokio::test(start_paused = true)]
async fn the_report_remembers_a_bounded_number_of_panics() {
    let tasks = Tasks::new();
    for n in 0..100 {
        tasks
            .spawn(format!("bad {n}"), async { panic!("again") })
            .ended()
            .await;
    }
    let report = tasks.report();
    assert_eq!(report.len(), 32);
    assert_eq!(report[31].name, "bad 99");
}

#[tokio::test(start_paused = true)]
async fn a_task_says_what_it_does() {
    let tasks = Tasks::new();
    let (tell, told) = oneshot::channel();
    tasks.spawn("import", async move {
        note("core: 3 of 10 files");
        tell.send(()).expect("the test waits");
        pending::<()>().await;
    });
    told.await.expect("it runs");
    let state = tasks.report().remove(0).state;
    assert_eq!(state, TaskState::Running(Some("core: 3 of 10 files".to_owned())));
    note("nobody listens outside of a task");
}

#[tokio::test(start_paused = true)]
async fn a_guard_aborts_its_task_when_dropped() {
    let tasks = Tasks::new();
    let guard = tasks.spawn("session", pending()).abort_on_drop();
    let handle = guard.handle().clone();
    assert!(!handle.is_finished());
    assert_eq!(handle.name(), "session");
    drop(guard);
    handle.ended().await;
    assert_eq!(tasks.live(), 0);
}

#[tokio::test]
async fn blocking_work_never_exceeds_its_pool() {
    let tasks = Tasks::with_limits(PoolLimits { disk: 3, hash: 1 });
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work = (0..40).map(|n| {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        tasks.blocking(Pool::Disk, move || {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            n
        })
    });
    let got = futures::future::join_all(work).await;
    assert_eq!(got, (0..40).map(Ok).collect::<Vec<_>>());
    assert!(most.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_panic_in_blocking_work_is_an_error_and_frees_its_place() {
    let tasks = Tasks::with_limits(PoolLimits { disk: 1, hash: 1 });
    for _ in 0..3 {
        let got = tasks.blocking(Pool::Disk, || -> u8 { panic!("bad disk") }).await;
        assert_eq!(got, Err(Stopped::Panicked("bad disk".to_owned())));
    }
    assert_eq!(tasks.blocking(Pool::Disk, || 1).await, Ok(1));
    assert_eq!(tasks.report().len(), 3);
}

#[tokio::test]
async fn blocking_work_whose_caller_left_still_counts_until_it_ends() {
    let tasks = Tasks::with_limits(PoolLimits { disk: 1, hash: 1 });
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(0);
    let (begun, began) = oneshot::channel();
    let work = tasks.blocking(Pool::Disk, move || {
        begun.send(()).expect("the test waits");
        wait.recv().expect("the test lets it go on");
    });
    let mut work = Box::pin(work);
    tokio::select! {
        _ = &mut work => unreachable!("it waits for us"),
        told = began => told.expect("it began"),
    }
    drop(work);
    let next = tasks.blocking(Pool::Disk, || 2);
    tokio::pin!(next);
    assert!(futures::poll!(&mut next).is_pending(), "its place is still taken");
    assert_eq!(tasks.live(), 1);
    go.send(()).expect("it waits");
    assert_eq!(next.await, Ok(2));
}

#[tokio::test]
async fn blocking_work_that_does_not_end_is_named() {
    let tasks = Tasks::new();
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(0);
    let (begun, began) = oneshot::channel();
    let set = tasks.clone();
    tasks.spawn("reader", async move {
        let work = set.blocking(Pool::Disk, move || {
            begun.send(()).expect("the test waits");
            wait.recv().ok();
        });
        work.await.ok();
    });
    began.await.expect("it began");
    assert_eq!(tasks.shutdown(Duration::ZERO).await, ["reader", "blocking disk"]);
    go.send(()).expect("it waits");
}
