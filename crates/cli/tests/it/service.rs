//! The daemon as a service: what the manager hears, who is told, numbers, and the days before.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::daemon::Daemon;
use crate::home::{DEADLINE, Home, LOOPBACK};
use crate::web;

const NAME: &str = "core.example";

#[test]
fn the_service_manager_hears_ready_then_life_and_at_last_the_stop() -> TestResult {
    let home = Home::with(LOOPBACK);
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let mut daemon = Daemon::spawn_with(
        &home,
        &[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "2000000"),
        ],
    );
    let hear = |wanted: &str| -> std::io::Result<Vec<String>> {
        let mut heard = Vec::new();
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let mut text = [0; 4096];
            let len = socket.recv(&mut text)?;
            heard.extend(String::from_utf8_lossy(&text[..len]).lines().map(str::to_owned));
            if heard.iter().any(|line| line == wanted) {
                return Ok(heard);
            }
        }
        panic!("never `{wanted}` in {heard:?}");
    };
    let first = hear("READY=1")?;
    assert!(
        !first.iter().any(|line| line == "WATCHDOG=1"),
        "ready comes first: {first:?}"
    );
    daemon.ready();
    for _ in 0..3 {
        hear("WATCHDOG=1")?;
    }
    let pid = daemon.pid();
    let stopping = std::thread::spawn(move || daemon.stop());
    hear("STOPPING=1")?;
    stopping.join().unwrap();
    assert!(pid > 0);
    Ok(())
}

/// Head and body of a request.
type Posted = (String, Vec<u8>);

/// A web server that answers each request with `status` and gives what was posted.
fn hook(status: &'static str) -> std::io::Result<(String, Receiver<Posted>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/hook/secret", listener.local_addr()?);
    let (send, posted) = sync_channel(16);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if let Ok(request) = one_request(&stream, status)
                && send.send(request).is_err()
            {
                return;
            }
        }
    });
    Ok((url, posted))
}

fn one_request(stream: &TcpStream, status: &str) -> std::io::Result<Posted> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut reader = BufReader::new(stream);
    let (mut head, mut len) = (String::new(), 0);
    loop {
        let start = head.len();
        if reader.read_line(&mut head)? == 0 || head[start..].trim().is_empty() {
            break;
        }
        if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    Ok((head, body))
}

fn with_alert(keys: &str) -> String {
    format!("{LOOPBACK}\n[alert]\n{keys}\n")
}

#[test]
fn alert_test_sends_by_every_channel_and_says_how_that_went() -> TestResult {
    let home = Home::with(LOOPBACK);
    home.run(["alert", "test"]).exits(3);
    let (url, posted) = hook("204 No Content")?;
    let mails = home.path().join("mails");
    let sendmail = home.path().join("sendmail");
    std::fs::write(&sendmail, format!("#!/bin/sh\ncat >> {}\n", mails.display()))?;
    std::fs::set_permissions(&sendmail, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let keys = format!(
        "webhook = \"{url}\"\nmail = \"root@localhost\"\nsendmail = \"{}\"\ncommand = [\"/bin/false\"]",
        sendmail.display()
    );
    home.configure(&with_alert(&keys));
    let ran = home.run(["alert", "test"]).exits(1);
    assert!(ran.out.contains("webhook  delivered"), "{}", ran.out);
    assert!(ran.out.contains("mail     delivered"), "{}", ran.out);
    assert!(
        ran.out.contains("command  failed: `/bin/false` ended with"),
        "{}",
        ran.out
    );
    let (head, body) = posted.recv_timeout(DEADLINE)?;
    assert!(head.starts_with("POST /hook/secret HTTP/1.1"), "{head}");
    let message: serde_json::Value = serde_json::from_slice(&body)?;
    assert_eq!(
        (&message["kind"], &message["key"]),
        (&"test".into(), &"test".into())
    );
    let mail = std::fs::read_to_string(&mails)?;
    assert!(
        mail.starts_with("To: root@localhost\nSubject: pacstore test: test\n"),
        "{mail}"
    );
    let (headers, _) = mail.split_once("\n\n").expect("headers and a body");
    let one = |name: &str| {
        let found: Vec<&str> = headers
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .collect();
        assert_eq!(found.len(), 1, "{name} in: {headers}");
        found[0].to_owned()
    };
    let date = jiff::fmt::rfc2822::parse(&one("Date: "))?;
    let age = std::time::SystemTime::now().duration_since(date.timestamp().into())?;
    assert!(age < DEADLINE, "{mail}");
    let id = one("Message-ID: ");
    assert!(id.starts_with('<') && id.ends_with("@pacstore.invalid>"), "{id}");

    // The same through a daemon, by its owner.
    home.configure(&with_alert(&format!("webhook = \"{url}\"")));
    let daemon = Daemon::start(&home);
    home.run(["alert", "test"]).done();
    posted.recv_timeout(DEADLINE)?;
    daemon.stop();
    Ok(())
}

#[test]
fn a_web_hook_that_refuses_or_leads_elsewhere_is_a_failure_without_its_secret() -> TestResult {
    let (elsewhere, posted) = hook("200 OK")?;
    let lead: &'static str = Box::leak(format!("307 Go\r\nLocation: {elsewhere}").into_boxed_str());
    for status in ["500 No", lead] {
        let (url, _posted) = hook(status)?;
        let home = Home::with(&with_alert(&format!("webhook = \"{url}\"")));
        let ran = home.run(["alert", "test"]).exits(1);
        assert!(ran.out.contains(&status[..3]), "{}", ran.out);
        assert!(
            !ran.out.contains("secret") && !ran.err.contains("secret"),
            "{}{}",
            ran.out,
            ran.err
        );
    }
    assert!(posted.try_recv().is_err(), "redirects are not followed");
    Ok(())
}

#[test]
fn keys_of_alerts_that_cannot_work_are_refused() {
    for (keys, word) in [
        ("webhook = \"ftp://x/\"", "alert.webhook"),
        ("mail = \"a b\"", "alert.mail"),
        ("mail = \"-oops\"", "alert.mail"),
        ("command = [\"relative\"]", "alert.command"),
        ("after = \"15m\"", "alert.after"),
        ("sendmail = \"sendmail\"", "alert.sendmail"),
    ] {
        let home = Home::with(&with_alert(keys));
        home.run(["config", "check"]).fails_with(&[word]);
    }
    for (listen, right) in [("127.0.0.1:0", true), ("0.0.0.0:9640", false), ("9640", false)] {
        let home = Home::with(&format!("{LOOPBACK}\n[metrics]\nlisten = \"{listen}\"\n"));
        home.run(["config", "check"]).exits(i32::from(!right));
    }
}

#[test]
fn metrics_are_given_on_their_address_and_on_the_admin_socket() -> TestResult {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let home = Home::with(&format!("{LOOPBACK}\n[metrics]\nlisten = \"{address}\"\n"));
    let daemon = Daemon::start(&home);
    let answer = web::get(&address, "/metrics", &[])?;
    assert_eq!(answer.status, 200);
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = String::from_utf8(answer.body)?;
    assert!(text.contains("\npacstore_peers 0"), "{text}");
    assert_eq!(web::get(&address, "/", &[])?.status, 404);
    let mut stream = TcpStream::connect(&address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")?;
    let mut refused = String::new();
    stream.read_to_string(&mut refused)?;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");

    let mut socket = UnixStream::connect(home.path().join("pacstore.sock"))?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: pacstore\r\nConnection: close\r\n\r\n")?;
    let mut given = String::new();
    socket.read_to_string(&mut given)?;
    assert!(given.contains("# EOF"), "{given}");
    daemon.stop();
    Ok(())
}

#[test]
fn heads_lists_the_days_before_and_the_gateway_serves_them() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut repo = Repo::create(folder.path(), RepoSpec::new("core").packages(2, 5_000))?;
    let home = Home::importer(NAME, repo.folder().to_str().unwrap());
    home.run(["heads", NAME]).exits(3);
    home.run(["heads", "nobody.example"])
        .fails_with(&["no mirror `nobody.example`"]);
    home.run(["import", NAME, "--once"]).done();
    let before = (repo.file_name("pkg0")?, repo.bytes("pkg0")?);
    repo.update(&["pkg0"])?;
    home.run(["import", NAME, "--once"]).done();
    let offline = home.run(["heads", NAME, "--json"]).done().json();
    let daemon = Daemon::start(&home);
    let heads = home.run(["heads", NAME, "--json"]).done().json();
    assert_eq!(heads, offline);
    let heads = heads.as_array().unwrap();
    assert_eq!(heads.len(), 2, "{heads:?}");
    assert!(heads.iter().all(|one| one["kept"] == true), "{heads:?}");
    let old = heads[1]["tree"].as_str().unwrap();
    assert_ne!(heads[0]["tree"], old);
    assert_eq!(daemon.file(&format!("/ipfs/{old}/{}", before.0)), before.1);
    let text = home.run(["heads", NAME, "--kept"]).done().out;
    assert!(text.lines().count() == 2 && text.contains("  kept  "), "{text}");
    daemon.stop();
    Ok(())
}
