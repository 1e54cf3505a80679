//! The mirror, asked in raw HTTP, so that no client's cleverness hides what it does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pacstore_testkit::{At, Fault, Listing, TestResult, Upstream, random};

/// One request on a connection of its own; everything until it ends (or 5 s pass, or `most` bytes came).
fn ask(mirror: &Upstream, head: &str, most: usize) -> std::io::Result<(String, Vec<u8>)> {
    let mut s = TcpStream::connect(mirror.address())?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(s, "{head}Host: x\r\nConnection: close\r\n\r\n")?;
    let mut all = Vec::new();
    let mut buf = [0; 4096];
    while all.len() < most {
        match s.read(&mut buf) {
            Ok(0) | Err(_) => break,
            Ok(n) => all.extend_from_slice(&buf[..n]),
        }
    }
    let split = all
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map_or(all.len(), |n| n + 4);
    let header = String::from_utf8_lossy(&all[..split]).into_owned();
    Ok((header, all[split..].to_vec()))
}

fn get(mirror: &Upstream, path: &str, headers: &str) -> std::io::Result<(String, Vec<u8>)> {
    ask(mirror, &format!("GET {path} HTTP/1.1\r\n{headers}"), usize::MAX)
}

#[test]
fn a_good_mirror_serves_files_ranges_and_conditions() -> TestResult {
    let mirror = Upstream::memory()?;
    let bytes = random(1, 100_000);
    mirror.put("core/a b.pkg", bytes.clone())?;
    let (header, body) = get(&mirror, "/core/a%20b.pkg", "")?;
    assert!(
        header.starts_with("HTTP/1.1 200") && header.contains("content-length: 100000"),
        "{header}"
    );
    assert!(body == bytes);
    let etag = header
        .lines()
        .find_map(|l| l.strip_prefix("etag: "))
        .ok_or("no etag")?
        .to_owned();
    let date = header
        .lines()
        .find_map(|l| l.strip_prefix("last-modified: "))
        .ok_or("no date")?
        .to_owned();

    let (header, body) = get(&mirror, "/core/a%20b.pkg", "Range: bytes=10-19\r\n")?;
    assert!(
        header.contains("206") && header.contains("content-range: bytes 10-19/100000"),
        "{header}"
    );
    assert_eq!(body, bytes[10..20]);
    let (_, body) = get(&mirror, "/core/a%20b.pkg", "Range: bytes=-5\r\n")?;
    assert_eq!(body, bytes[99_995..]);
    let (header, _) = get(&mirror, "/core/a%20b.pkg", "Range: bytes=100000-\r\n")?;
    assert!(
        header.contains("416") && header.contains("bytes */100000"),
        "{header}"
    );
    let (header, _) = get(&mirror, "/core/a%20b.pkg", &format!("If-None-Match: {etag}\r\n"))?;
    assert!(header.contains("304"), "{header}");
    let (header, _) = get(
        &mirror,
        "/core/a%20b.pkg",
        &format!("If-Modified-Since: {date}\r\n"),
    )?;
    assert!(header.contains("304"), "{header}");
    let (header, _) = get(
        &mirror,
        "/core/a%20b.pkg",
        "Range: bytes=5-\r\nIf-Range: \"other\"\r\n",
    )?;
    assert!(header.contains("200 OK"), "{header}");
    assert!(get(&mirror, "/no/such", "")?.0.contains("404"));
    assert!(get(&mirror, "/..%2f..%2fetc/passwd", "")?.0.contains("404"));
    assert!(get(&mirror, "/core", "")?.0.contains("location: /core/"));
    let page = String::from_utf8(get(&mirror, "/core/", "")?.1)?;
    assert!(page.contains("<a href=\"a%20b.pkg\">"), "{page}");
    mirror.listing(Listing::Off);
    assert!(get(&mirror, "/core/", "")?.0.contains("404"));

    let log = mirror.requests("a%20b.pkg");
    assert_eq!(
        (log[0].status, log[0].sent, log[0].complete),
        (200, 100_000, true)
    );
    assert_eq!((log[1].status, log[1].bytes()), (206, 10..20));
    assert_eq!(log[1].range.as_deref(), Some("bytes=10-19"));
    Ok(())
}

#[test]
fn each_fault_does_what_it_says() -> TestResult {
    let mirror = Upstream::memory()?;
    let bytes = random(2, 50_000);
    mirror.put("f", bytes.clone())?;
    let with = |fault: Fault, headers: &str, most: usize| {
        mirror.heal();
        mirror.fault("f", fault);
        ask(&mirror, &format!("GET /f HTTP/1.1\r\n{headers}"), most)
    };
    assert!(with(Fault::Truncate(At::Percent(50)), "", usize::MAX)?.1 == bytes[..25_000]);
    assert_eq!(
        with(
            Fault::Truncate(At::Byte(100)),
            "Range: bytes=100-199\r\n",
            usize::MAX
        )?
        .1,
        bytes[100..200]
    );
    let (header, body) = with(Fault::WrongLength(7), "", usize::MAX)?;
    assert!(header.contains("content-length: 50007"), "{header}");
    assert!(body == bytes);
    assert!(with(Fault::WrongLength(-7), "", usize::MAX)?.1 == bytes[..49_993]);
    let (_, body) = with(Fault::Flip(30_000), "", usize::MAX)?;
    assert_eq!(body.iter().zip(&bytes).filter(|(a, b)| a != b).count(), 1);
    assert_ne!(body[30_000], bytes[30_000]);
    let other = random(3, 50_000);
    let (_, body) = with(Fault::SwapAt(At::Byte(10_000), other.clone()), "", usize::MAX)?;
    assert!(body[..10_000] == bytes[..10_000] && body[10_000..] == other[10_000..]);
    assert!(
        with(Fault::NoRanges, "Range: bytes=1-2\r\n", usize::MAX)?
            .0
            .contains("200 OK")
    );
    assert!(
        with(Fault::WrongRange(3), "Range: bytes=1-2\r\n", usize::MAX)?
            .0
            .contains("bytes 4-5/50000")
    );
    assert!(
        with(Fault::Redirect("http://127.0.0.1:1/x".into()), "", usize::MAX)?
            .0
            .contains("location: http://127.0.0.1:1/x")
    );
    assert!(
        with(Fault::RedirectLoop, "", usize::MAX)?
            .0
            .contains("location: /f")
    );
    assert!(with(Fault::Status(503), "", usize::MAX)?.0.contains("503"));
    let (header, body) = with(Fault::ErrorPage, "", usize::MAX)?;
    assert!(
        header.contains("200 OK") && body.starts_with(b"<html>"),
        "{header}"
    );
    assert!(
        with(Fault::NoLength, "", usize::MAX)?
            .0
            .contains("transfer-encoding: chunked")
    );
    let (header, _) = with(Fault::NoValidators, "", usize::MAX)?;
    assert!(
        !header.contains("etag") && !header.contains("last-modified"),
        "{header}"
    );
    assert!(with(Fault::Endless, "", 300_000)?.1.len() > 290_000);
    assert_eq!(with(Fault::Hangup, "", usize::MAX)?.0, "");
    assert!(
        with(Fault::Drip(Duration::from_millis(1)), "", 300)?
            .0
            .contains("200 OK")
    );
    Ok(())
}

#[tokio::test]
async fn a_stall_holds_the_connection_open_and_the_log_shows_where() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", random(4, 200_000))?;
    mirror.fault("f", Fault::StallAt(At::Byte(70_000)));
    let mut s = TcpStream::connect(mirror.address())?;
    write!(s, "GET /f HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let log = mirror
        .wait_for(Duration::from_secs(20), |log| {
            log.iter().any(|r| r.sent == 70_000)
        })
        .await?;
    assert!(!log[0].complete);
    assert!(
        mirror
            .wait_for(Duration::from_millis(50), |log| log[0].complete)
            .await
            .is_err()
    );
    Ok(())
}

#[test]
fn it_stops_and_starts_again_on_the_same_port_and_a_fault_ends_after_its_times() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", "x")?;
    mirror.fault_times("f", 2, Fault::Status(500));
    let port = mirror.address().port();
    mirror.stop();
    assert!(TcpStream::connect(mirror.address()).is_err());
    mirror.start()?;
    assert_eq!(mirror.address().port(), port);
    let codes: Vec<bool> = (0..3)
        .map(|_| get(&mirror, "/f", "").is_ok_and(|r| r.0.contains("200 OK")))
        .collect();
    assert_eq!(codes, [false, false, true]);
    Ok(())
}

#[test]
fn a_folder_is_served_as_it_is_now_and_a_hook_changes_it_between_requests() -> TestResult {
    let tree = tempfile::tempdir()?;
    let mirror = Upstream::folder(tree.path())?;
    mirror.put("a/f", "old")?;
    let root = tree.path().to_owned();
    let mut first = true;
    mirror.on_request("f", move |_| {
        if !std::mem::take(&mut first) {
            let _ = pacstore_testkit::put_file(&root.join("a/f"), b"newer", std::time::SystemTime::now());
        }
    });
    assert_eq!(get(&mirror, "/a/f", "")?.1, b"old");
    assert_eq!(get(&mirror, "/a/f", "")?.1, b"newer");
    mirror.remove("a/f")?;
    assert!(get(&mirror, "/a/g", "")?.0.contains("404"));
    Ok(())
}

#[test]
fn the_limit_is_shared_by_all_connections() -> TestResult {
    let mirror = Upstream::memory()?;
    mirror.put("f", random(5, 300_000))?;
    mirror.limit(Some(1_000_000));
    let began = std::time::Instant::now();
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| get(&mirror, "/f", "").map(|r| r.1.len()));
        }
    });
    // 900 kB at 1 MB/s, of which at most a quarter of a second comes at once.
    assert!(
        began.elapsed() > Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(mirror.sent(), 900_000);
    Ok(())
}
