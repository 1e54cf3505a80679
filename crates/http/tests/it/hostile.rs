//! Clients that attack: floods, drips, requests that two readers could read differently, foreign names.

use std::net::SocketAddr;
use std::time::Duration;

use pacstore_http::Limits;
use pacstore_import::Files;
use pacstore_testkit::{TestResult, random};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Served, serve_within};
use crate::many::more_files;
use crate::nodes::{NAME, Plan};

/// What a test waits at most.
const SOON: Duration = Duration::from_mins(1);

/// How long a header may take here.
const HEADER: Duration = Duration::from_millis(700);

struct Kept {
    served: Served,
    bytes: Vec<u8>,
    _dir: tempfile::TempDir,
}

async fn serving(len: usize, limits: Limits) -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let bytes = random(5, len);
    fs_err::write(dir.path().join("file"), &bytes).unwrap();
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let served = serve_within(importer, limits).await;
    Kept {
        served,
        bytes: bytes.to_vec(),
        _dir: dir,
    }
}

/// Closes what asks nothing soon, so that an answer ends.
fn impatient() -> Limits {
    Limits {
        header: HEADER,
        ..Limits::default()
    }
}

/// Sends `request` as it is; all that comes until the end of the connection.
async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be refused before all is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = async { while stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(SOON, read).await.expect("it ends");
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_half_open_connections_keep_nobody_from_being_served() -> TestResult {
    let files = more_files();
    // Both ends of each connection are files of this process; others of its tests need some too.
    let connections = 4096.min(files / 5);
    let count = (files - connections - 4000).clamp(connections + 100, 10_000);
    let limits = Limits {
        connections,
        ..Limits::default()
    };
    let kept = serving(8 << 20, limits).await;
    let address = kept.served.address;
    let mut download = TcpStream::connect(address).await?;
    let request = format!("GET /ipns/{NAME}/file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    download.write_all(request.as_bytes()).await?;
    let mut got = vec![0; 1000];
    download.read_exact(&mut got).await?;
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = tokio::time::timeout(SOON, TcpStream::connect(address)).await??;
        // Those that had to make way may break.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: local").await;
        open.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(kept.served.get("/", &[]).await.status, 200, "{count} are open");
    }
    tokio::time::timeout(SOON, download.read_to_end(&mut got)).await??;
    assert!(
        got.ends_with(&kept.bytes),
        "who is served is never closed for others"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_drips_is_not_waited_for_longer_than_one_that_stalls() -> TestResult {
    let kept = serving(10, impatient()).await;
    let mut drip = TcpStream::connect(kept.served.address).await?;
    drip.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await?;
    let mut answer = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let dripping = async {
        loop {
            tokio::select! {
                _ = tick.tick() => if drip.write_all(b"X-A: b\r\n").await.is_err() { return },
            }
            let mut some = [0; 1000];
            match drip.try_read(&mut some) {
                Ok(0) => return,
                Ok(read) => answer.extend_from_slice(&some[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    tokio::time::timeout(SOON, dripping).await.expect("it is closed");
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    assert_eq!(kept.served.get("/", &[]).await.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_two_readers_could_read_differently_are_refused_and_end_the_connection() -> TestResult {
    let kept = serving(10, impatient()).await;
    let hidden = "GET /ipns/test.mirror/file HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = hidden.len();
    let chunked = format!("0\r\n\r\n{hidden}");
    let cases = [
        (
            "length and chunks",
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        ),
        (
            "chunks and length",
            format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{chunked}"),
        ),
        (
            "two lengths",
            format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "two lengths, turned",
            format!("Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
        (
            "lengths in one line",
            format!("Content-Length: 0, {length}\r\n\r\n{hidden}"),
        ),
        (
            "a length with a sign",
            format!("Content-Length: +{length}\r\n\r\n{hidden}"),
        ),
        ("a length in hex", format!("Content-Length: 0x0\r\n\r\n{hidden}")),
        (
            "a body that is honest",
            format!("Content-Length: {length}\r\n\r\n{hidden}"),
        ),
        (
            "an unknown coding",
            format!("Transfer-Encoding: xchunked\r\n\r\n{chunked}"),
        ),
        (
            "chunked not last",
            format!("Transfer-Encoding: chunked, identity\r\n\r\n{chunked}"),
        ),
        (
            "a space before the colon",
            format!("Transfer-Encoding : chunked\r\n\r\n{chunked}"),
        ),
        (
            "a space in the length's name",
            format!("Content-Length : {length}\r\n\r\n{hidden}"),
        ),
        (
            "a folded line",
            format!("X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n{chunked}"),
        ),
        (
            "a folded coding",
            format!("Transfer-Encoding:\r\n chunked\r\n\r\n{chunked}"),
        ),
        (
            "a chunk without a length",
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n".to_owned(),
        ),
        (
            "a chunk above all bounds",
            "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_owned(),
        ),
        ("NUL in a value", format!("X-A: b\0c\r\n\r\n{hidden}")),
        ("two Hosts", format!("Host: localhost\r\n\r\n{hidden}")),
    ];
    for (what, rest) in cases {
        let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{rest}");
        let answer = raw(kept.served.address, request.as_bytes()).await;
        assert_eq!(status(&answer), Some(400), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
    }
    let nobody = format!("GET / HTTP/1.1\r\n\r\n{hidden}");
    let nobody = raw(kept.served.address, nobody.as_bytes()).await;
    assert_eq!(status(&nobody), Some(400), "HTTP/1.1 without Host: {nobody}");
    assert_eq!(
        nobody.matches("HTTP/1.1 ").count(),
        1,
        "HTTP/1.1 without Host: {nobody}"
    );
    let post = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n{hidden}");
    let answer = raw(kept.served.address, post.as_bytes()).await;
    assert_eq!(status(&answer), Some(405));
    let empty = "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(
        status(&raw(kept.served.address, empty.as_bytes()).await),
        Some(200)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_counts_wherever_it_stands_and_we_are_nobodys_proxy() -> TestResult {
    let kept = serving(10, impatient()).await;
    let path = format!("/ipns/{NAME}/file");
    for (target, host, expected) in [
        (format!("http://localhost{path}"), "localhost", 200),
        (format!("http://127.0.0.1{path}"), "localhost", 200),
        (format!("http://evil.example{path}"), "localhost", 403),
        (format!("http://localhost{path}"), "evil.example", 403),
        (format!("https://evil.example:443{path}"), "localhost", 403),
        (path.clone(), "evil.example", 403),
        (path.clone(), "localhost.evil.example:80", 403),
        (path.clone(), "127.0.0.1.evil.example", 403),
        (path.clone(), "localhost@evil.example", 403),
        (path.clone(), "evil.example#localhost", 403),
        (path.clone(), "0x7f000001", 403),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw(kept.served.address, request.as_bytes()).await;
        assert_eq!(status(&answer), Some(expected), "{target} at {host}: {answer}");
    }
    let tunnel = raw(
        kept.served.address,
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    )
    .await;
    assert!(matches!(status(&tunnel), Some(400 | 405)), "{tunnel}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_leads_out_of_the_mirror() -> TestResult {
    let kept = serving(10, impatient()).await;
    for path in [
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2E%2E%2Fetc/passwd",
        "..%5c..%5cetc/passwd",
        "..\\..\\etc\\passwd",
        "%c0%ae%c0%ae/etc/passwd",
        "%252e%252e/etc/passwd",
        "..;/etc/passwd",
        "./file",
        "file/..",
        "file%00",
        "//etc/passwd",
        "%",
        "%zz",
    ] {
        let request =
            format!("GET /ipns/{NAME}/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = raw(kept.served.address, request.as_bytes()).await;
        assert!(matches!(status(&answer), Some(400 | 404)), "{path}: {answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_above_all_bounds_is_refused_in_each_of_its_parts() -> TestResult {
    let kept = serving(10, impatient()).await;
    let long = "y".repeat(1 << 20);
    let many = "X-A: b\r\n".repeat(10_000);
    for (what, request) in [
        (
            "a long path",
            format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ),
        (
            "a long method",
            format!("{long} / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ),
        (
            "a long value",
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        ),
        (
            "a long name",
            format!("GET / HTTP/1.1\r\nHost: localhost\r\n{long}: x\r\n\r\n"),
        ),
        (
            "many lines",
            format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        ),
        ("no HTTP", long.clone()),
    ] {
        let answer = raw(kept.served.address, request.as_bytes()).await;
        assert!(!answer.contains(" 200 "), "{what}: {answer}");
    }
    assert_eq!(kept.served.get("/", &[]).await.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pipelined_requests_is_answered_in_order_and_harms_nobody() -> TestResult {
    let kept = serving(10, impatient()).await;
    let one = |n: usize| format!("HEAD /none-{n} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let all: String = (0..2000).map(one).collect();
    let mut polite = TcpStream::connect(kept.served.address).await?;
    let (mut from, mut to) = polite.split();
    let send = async {
        to.write_all(all.as_bytes()).await.unwrap();
    };
    let mut answers = Vec::new();
    let read = async { while from.read_buf(&mut answers).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(SOON, futures::future::join(send, read)).await?;
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 404").count(), 2000);
    // One that never reads is held up by its own full socket.
    let mut rude = TcpStream::connect(kept.served.address).await?;
    let endless = async { while rude.write_all(all.as_bytes()).await.is_ok() {} };
    let others = async {
        for _ in 0..50 {
            assert_eq!(kept.served.get("/", &[]).await.status, 200);
        }
    };
    tokio::select! {
        () = endless => panic!("the flood was taken without end, or closed while it went on"),
        () = others => {}
    }
    Ok(())
}
