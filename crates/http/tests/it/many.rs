//! Many connections, slow ones, and a stop in the middle of them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use pacstore_http::Limits;
use pacstore_import::Files;
use pacstore_testkit::{TestResult, random};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{serve, serve_within};
use crate::nodes::{NAME, Plan, TestNode};

async fn importer(bytes: &[u8]) -> (TestNode, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("file"), bytes).unwrap();
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    (importer, dir)
}

/// As many files open as the system lets us have; how many those are.
pub(crate) fn more_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        },
    )
    .unwrap();
    now.maximum
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_do_not_harm_256_active_ones() -> TestResult {
    more_files();
    let bytes = random(3, 100_000);
    let (importer, _dir) = importer(&bytes).await;
    let served = serve(importer).await;
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(TcpStream::connect(served.address).await?);
    }
    let path = format!("/ipns/{NAME}/file");
    let all = join_all((0..256).map(|_| served.get(&path, &[]))).await;
    assert!(all.iter().all(|got| got.status == 200 && got.body == bytes));
    let mut last = idle.pop().unwrap();
    last.write_all(b"HEAD / HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), last.read_to_end(&mut answer)).await??;
    assert!(
        answer.starts_with(b"HTTP/1.0 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_does_not_come_to_its_end_is_not_waited_for() -> TestResult {
    let (importer, _dir) = importer(b"x").await;
    let served = serve_within(
        importer,
        Limits {
            header: Duration::from_millis(500),
            ..Limits::default()
        },
    )
    .await;
    let mut slow = TcpStream::connect(served.address).await?;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local").await?;
    let mut silent = TcpStream::connect(served.address).await?;
    let mut answer = Vec::new();
    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut answer)).await??;
    tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut answer)).await??;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    // A header of megabytes is refused, not kept.
    let mut large = TcpStream::connect(served.address).await?;
    let line = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(4 << 20));
    // It may break while we still write.
    let _ = large.write_all(line.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), large.read_to_end(&mut answer)).await?;
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    assert_eq!(served.get("/", &[]).await.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_less_than_five_seconds_with_downloads_open() -> TestResult {
    let bytes = random(4, 40 << 20);
    let (importer, _dir) = importer(&bytes).await;
    let served = serve(importer).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(served.address).await?;
        let text = format!("GET /ipns/{NAME}/file HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(text.as_bytes()).await?;
        let mut first = vec![0; 1000];
        stream.read_exact(&mut first).await?;
        open.push(stream);
    }
    let began = Instant::now();
    served.node.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for mut stream in open {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await?;
        assert!(rest.len() < bytes.len(), "it was cut");
    }
    Ok(())
}
