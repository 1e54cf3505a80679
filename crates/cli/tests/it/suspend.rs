//! The daemon's process stands still for a while, as when a machine sleeps, with a download under way.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};
use rustix::process::Signal;

use crate::daemon::{Daemon, until};
use crate::home::{DEADLINE, Home, LOOPBACK, client_config, import_block, signal};

const NAME: &str = "suspend.example";

/// How long it stands still: longer than any wait for a single source.
const STANDS: Duration = Duration::from_secs(4);

/// Longer than a package of this takes on the mirror's line until it is half here.
const BYTES: u64 = 8_000_000;

/// A GET in a thread of its own: what comes is told piece by piece, until the connection ends.
fn download(gateway: &str, path: &str) -> Receiver<Vec<u8>> {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let (send, pieces) = sync_channel(1 << 16);
    std::thread::spawn(move || {
        let mut piece = [0; 16 << 10];
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            if send.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

#[test]
fn a_download_goes_on_after_the_daemon_stood_still_and_so_does_the_daemon() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(
        folder.path(),
        RepoSpec::new("core")
            .package("big", BYTES)
            .package("small", 50_000),
    )?;
    let mirror = Upstream::folder(folder.path())?;
    let importer_home = Home::with(LOOPBACK);
    let from = repo.folder().to_str().ok_or("a path")?.to_owned();
    importer_home.run(["key", "new", "signs"]).done();
    importer_home.configure(&format!("{LOOPBACK}{}", import_block(NAME, &from)));
    let importer = Daemon::start(&importer_home);
    importer_home.run(["import", NAME, "--once"]).done();
    let id = importer_home.run(["id", "--json"]).done().json();
    let peers: Vec<String> = serde_json::from_value(id["addresses"].clone())?;
    let key = importer_home.key();
    let home = Home::with(&client_config(NAME, &key, &peers, &[mirror.url("")]));
    let client = Daemon::start(&home);
    let wanted = std::fs::read(repo.folder().join("core.db"))?;
    until("the client has the head", || {
        let got = client.get(&format!("/ipns/{NAME}/core.db"));
        (got.status == 200 && got.body == wanted).then_some(())
    });
    // All of it has to come over the mirror's line.
    importer.stop();
    mirror.limit(Some(BYTES / 6));
    let pieces = download(
        &client.gateway,
        &format!("/ipns/{NAME}/{}", repo.file_name("big")?),
    );
    let mut got = Vec::new();
    while (got.len() as u64) < BYTES / 4 {
        got.extend(pieces.recv_timeout(DEADLINE)?);
    }
    signal(client.pid(), Signal::STOP);
    std::thread::park_timeout(STANDS);
    signal(client.pid(), Signal::CONT);
    mirror.limit(None);
    loop {
        match pieces.recv_timeout(DEADLINE) {
            Ok(piece) => got.extend(piece),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let body = got
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or("a header")?
        + 4;
    assert!(got.starts_with(b"HTTP/1.1 200"));
    assert!(got[body..] == repo.bytes("big")?, "all of it, and nothing else");
    // What comes afterwards is taken as ever, and nothing is damaged.
    for package in ["small", "big"] {
        let path = format!("/ipns/{NAME}/{}", repo.file_name(package)?);
        assert_eq!(client.file(&path), repo.bytes(package)?, "{package}");
    }
    home.run(["fsck"]).done();
    client.stop();
    Ok(())
}

/// Neither a question nor an order waits for ever for a daemon that was stopped or hangs.
#[test]
fn a_daemon_that_stands_still_is_told_instead_of_waited_for() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 1_000))?;
    let home = Home::importer(NAME, repo.folder().to_str().ok_or("a path")?);
    let daemon = Daemon::start(&home);
    home.run(["import", NAME, "--once"]).done();
    signal(daemon.pid(), Signal::STOP);
    let said = "the daemon takes connections and does not answer";
    let ended = std::thread::scope(|scope| {
        let orders = [&["status"][..], &["import", NAME, "--once"], &["gc"]];
        let asked = &home;
        let waiting = orders.map(|order| scope.spawn(move || asked.run(order)));
        waiting.map(|one| one.join().expect("it ended"))
    });
    signal(daemon.pid(), Signal::CONT);
    for one in ended {
        one.fails_with(&[said, "hint: "]);
    }
    home.run(["status"]).done();
    daemon.stop();
    Ok(())
}
