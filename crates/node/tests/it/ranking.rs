//! Which mirror is asked first: by what was seen, also after a restart.

use std::time::{Duration, SystemTime};

use pacstore_import::Files;
use pacstore_runtime::Clock;
use pacstore_testkit::{Fault, TestResult, Upstream, random};

use crate::nodes::{Plan, TestNode};

/// The ports of the mirrors that are asked for `path`, in order.
async fn order(client: &TestNode, path: &str) -> Vec<u16> {
    let file = client.file(path).await;
    file.sources.upstreams.iter().filter_map(url::Url::port).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_failed_is_asked_last_also_after_a_restart_until_its_pause_is_over() -> TestResult {
    let dir = tempfile::tempdir()?;
    let big = random(1, (3 << 20) + 7).to_vec();
    fs_err::write(dir.path().join("big"), &big)?;
    fs_err::write(dir.path().join("other"), random(2, 3 << 20))?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let (bad, good) = (Upstream::folder(dir.path())?, Upstream::folder(dir.path())?);
    let ports = [bad.address().port(), good.address().port()];
    good.limit(Some(4_000_000));
    bad.fault("big", Fault::Status(503));
    // Slow enough for its rate to be told.
    good.limit(Some(6_000_000));
    let (clock, hand) = Clock::fake(SystemTime::now());
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .upstream(&bad)
        .upstream(&good)
        .clock(&clock);
    let client = plan.start().await;
    client.follows(&importer).await;
    importer.stop().await;
    assert_eq!(order(&client, "other").await, ports, "as configured");
    assert!(client.get("big").await? == big);
    let turned = [ports[1], ports[0]];
    assert_eq!(order(&client, "other").await, turned);
    let rate = good.url("").parse().map(|url| client.node.ranking().rate(&url))?;
    assert!(rate.is_some_and(|rate| rate > 1000), "{rate:?}");
    let client = client.stop().await.start().await;
    assert_eq!(order(&client, "other").await, turned, "remembered");
    hand.advance(Duration::from_mins(11));
    assert_eq!(order(&client, "other").await, ports, "it gets another chance");
    client.stop().await;
    Ok(())
}
