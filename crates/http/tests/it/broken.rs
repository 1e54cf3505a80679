//! Downloads that cannot go on: pacman must see that they broke, or be sent elsewhere.

use pacstore_import::Files;
use pacstore_testkit::{Fault, TestResult, Upstream, random};

use crate::client::serve;
use crate::nodes::{NAME, Plan};

const MIB: usize = 1 << 20;

fn folder(mib: usize) -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let bytes = random(7, mib * MIB + 99).to_vec();
    fs_err::write(dir.path().join("big"), &bytes).unwrap();
    (dir, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_breaks_when_the_only_peer_dies_in_the_middle_of_a_file() -> TestResult {
    let (dir, bytes) = folder(16);
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let relay = importer.relay(Some(12_000_000)).await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)])
        .start()
        .await;
    client.follows(&importer).await;
    let served = serve(client).await;
    relay.cut_after(8 * MIB as u64);
    let got = served.get(&format!("/ipns/{NAME}/big"), &[]).await;
    assert_eq!(got.status, 200);
    assert!(
        !got.is_whole() && got.body.len() < bytes.len(),
        "{} bytes",
        got.body.len()
    );
    assert!(
        got.body == bytes[..got.body.len()],
        "what came is right, so that it can be resumed"
    );
    relay.heal();
    served.node.connected().await;
    // pacman resumes where it was.
    let from = got.body.len();
    let rest = served
        .get(&format!("/ipns/{NAME}/big"), &[&format!("Range: bytes={from}-")])
        .await;
    assert!(rest.status == 206 && rest.body == bytes[from..]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_nobody_gives_is_an_error_status_and_not_a_broken_answer() -> TestResult {
    let (dir, _) = folder(3);
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    client.follows(&importer).await;
    importer.stop().await;
    let served = serve(client).await;
    let began = std::time::Instant::now();
    let got = served.get(&format!("/ipns/{NAME}/big"), &[]).await;
    assert_eq!(got.status, 504, "{}", got.text());
    assert!(
        began.elapsed().as_secs() < 9,
        "before pacman gives up: {:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_sent_to_the_mirror_where_that_may_help_and_never_to_wrong_bytes() -> TestResult {
    let (dir, bytes) = folder(3);
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mirror = Upstream::folder(dir.path())?;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = plan.start().await;
    client.follows(&importer).await;
    importer.stop().await;
    let served = serve(client).await;
    let path = format!("/ipns/{NAME}/big");
    mirror.fault("big", Fault::Status(500));
    let sent = served.get(&path, &[]).await;
    assert_eq!((sent.status, sent.header("location")), (302, &*mirror.url("big")));
    mirror.heal();
    mirror.fault("big", Fault::Flip(10));
    let wrong = served.get(&path, &[]).await;
    assert_eq!(wrong.status, 504, "{}", wrong.text());
    mirror.heal();
    mirror.fault("big", Fault::Status(500));
    let again = served.get(&path, &[]).await;
    assert_eq!(
        again.status,
        504,
        "what it has may still be wrong: {}",
        again.text()
    );
    mirror.heal();
    let got = served.get(&path, &[]).await;
    assert!(got.status == 200 && got.is_whole() && got.body == bytes);
    Ok(())
}
