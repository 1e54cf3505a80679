//! Thin lines: pacman gives up a download on which nothing comes for ten seconds.
//!
//! The client here is as patient as pacman (`facts` of libcurl's low-speed rule: headers do
//! not count, neither does a redirect), so a test fails where pacman would.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use pacstore_import::Files;
use pacstore_testkit::{At, Fault, TestResult, Upstream, random};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Served, serve};
use crate::nodes::{NAME, Plan, TestNode};

const MIB: usize = 1 << 20;

/// 4 Mbit/s.
const THIN: u64 = 500_000;

/// pacman's patience.
const SILENCE: Duration = Duration::from_secs(10);

/// What a download came to.
struct Got {
    body: Vec<u8>,
    /// The gateway sent it elsewhere.
    redirected: bool,
}

/// Downloads as pacman does: follows redirects, gives up after ten seconds without a byte of a body.
async fn download(address: SocketAddr, path: &str) -> Result<Got, String> {
    let mut at = (address, path.to_owned());
    let mut last = Instant::now();
    for redirected in [false, true] {
        let mut stream = TcpStream::connect(at.0).await.map_err(|e| e.to_string())?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            at.1, at.0
        );
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        let mut header = None;
        loop {
            let left = SILENCE.saturating_sub(last.elapsed());
            let read = tokio::time::timeout(left, stream.read_buf(&mut all)).await;
            let read =
                read.map_err(|_| format!("nothing of {path} for ten seconds, redirected: {redirected}"))?;
            if read.map_err(|e| e.to_string())? == 0 {
                break;
            }
            header = header.or_else(|| all.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4));
            if header.is_some_and(|end| end < all.len()) && !all.starts_with(b"HTTP/1.1 302") {
                last = Instant::now();
            }
        }
        let end = header.ok_or("no header")?;
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        let value = |name: &str| {
            let lines = head.lines().find(|line| line.to_lowercase().starts_with(name));
            lines
                .and_then(|line| line.split_once(": "))
                .map(|(_, value)| value.to_owned())
        };
        if head.starts_with("HTTP/1.1 302") {
            let location: url::Url = value("location")
                .ok_or("no location")?
                .parse()
                .map_err(|_| "no URL")?;
            let port = location.port().ok_or("no port")?;
            at = (
                SocketAddr::from(([127, 0, 0, 1], port)),
                location.path().to_owned(),
            );
            continue;
        }
        let body = all.split_off(end);
        if !head.starts_with("HTTP/1.1 200") || value("content-length") != Some(body.len().to_string()) {
            return Err(format!("{path} broke after {} bytes: {head}", body.len()));
        }
        return Ok(Got { body, redirected });
    }
    Err("redirected twice".to_owned())
}

fn folder(count: u64, bytes: usize) -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<Vec<u8>> = (0..count).map(|n| random(n, bytes).to_vec()).collect();
    for (n, data) in files.iter().enumerate() {
        fs_err::write(dir.path().join(format!("file{n}")), data).unwrap();
    }
    (dir, files)
}

async fn importer(dir: &Path) -> TestNode {
    let importer = Plan::importer(dir, Files::All).start().await;
    importer.import().await;
    importer
}

/// All files, five at a time as pacman does by default; how many came through the gateway.
async fn five_at_a_time(served: &Served, files: &[Vec<u8>]) -> Result<usize, String> {
    let address = served.address;
    let all = stream::iter(files.iter().enumerate()).map(|(n, data)| async move {
        let got = download(address, &format!("/ipns/{NAME}/file{n}")).await?;
        assert!(got.body == *data, "file{n}");
        Ok::<bool, String>(got.redirected)
    });
    let redirected: Vec<Result<bool, String>> = all.buffer_unordered(5).collect().await;
    let redirected = redirected.into_iter().collect::<Result<Vec<bool>, String>>()?;
    Ok(redirected.iter().filter(|elsewhere| !**elsewhere).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_downloads_at_once_over_a_thin_line_never_wait_ten_seconds_for_a_byte() -> TestResult {
    let (dir, files) = folder(5, 3 * MIB / 2);
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = plan.start().await;
    client.follows(&importer).await;
    importer.stop().await;
    mirror.limit(Some(THIN));
    let served = serve(client).await;
    // One after the other three leaves come within 8 s; side by side none would.
    let through_us = five_at_a_time(&served, &files).await?;
    assert!(through_us >= 2, "{through_us} of 5");
    Ok(())
}

/// Three first leaves take 6.3 s: each in time only if they do not wait for later ones.
#[tokio::test(flavor = "multi_thread")]
async fn first_leaves_come_before_later_ones_from_a_peer_behind_a_thin_line() -> TestResult {
    let (dir, files) = folder(3, 5 * MIB / 2);
    let importer = importer(dir.path()).await;
    let relay = importer.relay(None).await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)])
        .start()
        .await;
    client.follows(&importer).await;
    relay.set_rate(Some(THIN));
    let served = serve(client).await;
    assert_eq!(five_at_a_time(&served, &files).await?, 3);
    Ok(())
}

/// Where the line cannot give the first leaf in time, pacman is sent to the mirror before it gives up.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_too_thin_for_a_single_leaf_leads_to_the_mirror_in_time() -> TestResult {
    let (dir, files) = folder(1, 5 * MIB / 4);
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = plan.start().await;
    client.follows(&importer).await;
    importer.stop().await;
    mirror.limit(Some(90_000));
    let served = serve(client).await;
    assert_eq!(five_at_a_time(&served, &files).await?, 0);
    Ok(())
}

/// Every mirror stalls: the answer says so in time, or the connection breaks, so that pacman goes
/// on to its next Server. It is not sent to a mirror that is known to stall.
#[tokio::test(flavor = "multi_thread")]
async fn where_every_mirror_stalls_pacman_is_let_go_in_time_wherever_they_do() -> TestResult {
    let (dir, files) = folder(5, 4 * MIB + 12_345);
    let importer = importer(dir.path()).await;
    let mirrors = [Upstream::folder(dir.path())?, Upstream::folder(dir.path())?];
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .upstream(&mirrors[0])
        .upstream(&mirrors[1]);
    let client = plan.start().await;
    client.follows(&importer).await;
    importer.stop().await;
    let served = serve(client).await;
    let stalls = [
        Fault::NoAnswer,
        Fault::StallAfterHeader,
        Fault::StallAt(At::Percent(1)),
        Fault::StallAt(At::Percent(50)),
        Fault::StallAt(At::Percent(99)),
    ];
    for (n, stall) in stalls.iter().enumerate() {
        for mirror in &mirrors {
            mirror.fault(&format!("file{n}"), stall.clone());
        }
    }
    let address = served.address;
    let all = stalls.iter().enumerate().map(|(n, stall)| async move {
        let got = download(address, &format!("/ipns/{NAME}/file{n}")).await;
        let Err(error) = got else {
            panic!("{stall:?}: the end cannot have come")
        };
        assert!(error.contains(" broke after "), "{stall:?}: {error}");
    });
    futures::future::join_all(all).await;
    // Healed, they come, and what was verified before is not asked again.
    for mirror in &mirrors {
        mirror.heal();
        mirror.clear_log();
    }
    assert_eq!(five_at_a_time(&served, &files).await?, 5);
    let last = mirrors.iter().flat_map(|mirror| mirror.requests("file4"));
    let again: u64 = last.map(|request| request.sent).sum();
    assert!(again <= 2 * MIB as u64, "{again} bytes for what was missing");
    Ok(())
}
