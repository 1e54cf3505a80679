//! The moment in which updates are fetched ahead, and its end.

use std::time::{Duration, SystemTime};

use pacstore_node::config::{Hours, PrefetchConfig};
use pacstore_runtime::Clock;
use pacstore_testkit::{Fault, Repo, RepoSpec, TestResult, Upstream};

use crate::machine::{Machine, folder};
use crate::service::until;
use crate::solo::solo;

/// What began in time does not go on for hours: the line is somebody else's by then.
#[tokio::test(flavor = "multi_thread")]
async fn updates_stop_coming_when_their_hours_are_over_save_those_that_are_ordered() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(6, 20_000))?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    let names: Vec<String> = (0..6).map(|at| format!("pkg{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        machine.has(&folder(&repo, name));
    }
    repo.update(&names)?;
    let now = SystemTime::now();
    let local = jiff::Timestamp::try_from(now)?.to_zoned(jiff::tz::TimeZone::system());
    let hour = u8::try_from(local.hour())?;
    let (clock, hand) = Clock::fake(now);
    let mut plan = machine.under(solo(&[&mirror])).clock(&clock);
    plan.config.machine.prefetch = Some(PrefetchConfig {
        // A file a second.
        rate: Some(20_000),
        hours: Some(Hours {
            from: hour,
            to: (hour + 1) % 24,
        }),
        metered: true,
        battery: true,
    });
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    until("the first update is here", async || {
        node.node.prefetch_status().await.ready > 0
    })
    .await;
    hand.advance(Duration::from_hours(1));
    until("no more of them come", async || {
        !node.node.prefetch_status().await.running
    })
    .await;
    let status = node.node.prefetch_status().await;
    assert_eq!(
        status.waiting.as_deref(),
        Some("outside of its hours"),
        "{status:?}"
    );
    assert!(0 < status.missing, "{status:?}");
    // Who orders it gets it whatever the hour.
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing, status.waiting), (6, 0, None));
    Ok(())
}

/// "Nothing to update" is something that nobody can know then.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_database_came_yet_the_status_says_so() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(1, 3_000))?;
    let mirror = Upstream::folder(dir.path())?;
    mirror.fault("*", Fault::Status(503));
    let machine = Machine::new("");
    let node = machine.under(solo(&[&mirror])).start().await;
    let status = node.node.prefetch().await?;
    let why = status.waiting.unwrap_or_default();
    assert!(
        (status.ready, status.missing) == (0, 0) && why.contains("no database"),
        "{why}"
    );
    mirror.heal();
    let status = node.node.prefetch().await?;
    assert_eq!((status.ready, status.missing, status.waiting), (0, 0, None));
    Ok(())
}
