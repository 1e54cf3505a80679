//! The daemon as scripts and service managers see it: ready, status, stop, one at a time, who may what.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use pacstore_testkit::{At, Fault, Repo, RepoSpec, TestResult, Upstream, require};

use crate::daemon::{Daemon, until};
use crate::home::{Home, LOOPBACK, PACSTORE, client_config, run};

const NAME: &str = "core.example";

#[test]
fn status_has_the_fields_that_scripts_rely_on() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 10_000))?;
    let home = Home::importer(NAME, repo.folder().to_str().unwrap());
    home.run(["import", NAME, "--once"]).done();
    home.run(["status"])
        .fails_with(&["no daemon answers", "hint: start it with `pacstore daemon`"]);
    let daemon = Daemon::start(&home);
    let sent = daemon
        .file(&format!("/ipns/{NAME}/{}", repo.file_name("a")?))
        .len() as u64;
    let status = until("the bytes are counted", || {
        let status = home.run(["status", "--json"]).done().json();
        (status["bytes"]["disk"].as_u64() >= Some(sent)).then_some(status)
    });
    assert_eq!(status["peer_id"], daemon.peer.as_str());
    assert_eq!(status["gateway"], format!("http://{}", daemon.gateway));
    let mirror = &status["mirrors"][0];
    assert_eq!(
        (&mirror["name"], &mirror["state"]),
        (&NAME.into(), &"current".into())
    );
    assert!(mirror["tree"].is_string() && mirror["sequence"].is_u64() && mirror["age_s"].is_u64());
    let bytes: BTreeSet<&str> = status["bytes"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(bytes, BTreeSet::from(["disk", "lan", "peer", "upstream"]));
    assert_eq!(status["bytes"]["disk"], sent);
    for key in ["bytes", "max_bytes", "files"] {
        assert!(status["store"][key].is_u64(), "{key}");
    }
    assert_eq!(status["peers"], 0);
    let human = home.run(["status"]).done().out;
    assert!(human.contains(NAME) && human.contains(&daemon.peer), "{human}");
    daemon.stop();
    // The bytes survive a restart.
    let daemon = Daemon::start(&home);
    assert_eq!(
        home.run(["status", "--json"]).done().json()["bytes"]["disk"],
        sent
    );
    daemon.stop();
    Ok(())
}

/// Its log lies on a disk that is full, or goes to a reader that went away.
#[test]
fn a_log_that_cannot_be_written_harms_no_download() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 10_000))?;
    let home = Home::importer(NAME, repo.folder().to_str().unwrap());
    home.run(["import", NAME, "--once"]).done();
    let (reader, gone) = std::io::pipe()?;
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full")?;
    for log in [full, std::os::fd::OwnedFd::from(gone).into()] {
        let mut daemon = Daemon::spawn_into(&home, &[("PACSTORE_LOG", "debug")], log);
        daemon.ready();
        daemon.file(&format!("/ipns/{NAME}/{}", repo.file_name("a")?));
        home.run(["status"]).done();
        daemon.stop();
    }
    Ok(())
}

#[test]
fn it_serves_with_few_open_files_and_says_that_they_are_few() {
    let home = Home::with(LOOPBACK);
    for (files, is_told) in [(100, true), (2000, false)] {
        let mut daemon = Daemon::spawn_with_files(&home, files);
        daemon.ready();
        assert_eq!(daemon.get("/").status, 200);
        let said = daemon.stop().err;
        assert_eq!(said.contains(&format!("files={files}")), is_told, "{said}");
    }
}

/// Stdout goes to the same full disk as the log, or to somebody who went away.
#[test]
fn a_ready_line_that_nobody_takes_does_not_end_the_daemon() -> TestResult {
    let home = Home::with(LOOPBACK);
    let (reader, gone) = std::io::pipe()?;
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full")?;
    for out in [full, std::os::fd::OwnedFd::from(gone).into()] {
        let daemon = Daemon::spawn_mute(&home, out);
        let status = until("it answers", || {
            let ran = home.run(["status", "--json"]);
            (ran.code == Some(0)).then(|| ran.json())
        });
        let gateway = status["gateway"].as_str().ok_or("a gateway")?;
        let answer = crate::web::get(gateway.trim_start_matches("http://"), "/", &[])?;
        assert_eq!(answer.status, 200);
        let said = daemon.stop().err;
        assert!(said.contains("`ready` line cannot be written"), "{said}");
    }
    Ok(())
}

#[test]
fn a_second_daemon_of_a_home_is_told_which_process_holds_it() {
    let home = Home::with(LOOPBACK);
    let daemon = Daemon::start(&home);
    let second = Daemon::spawn(&home).ends().exits(1);
    assert!(second.err.contains(&daemon.pid().to_string()), "{}", second.err);
    assert!(second.err.contains("hint: "), "{}", second.err);
    assert_eq!(second.out, "", "it was never ready");
    // The first one is not hurt.
    home.run(["status"]).done();
    daemon.stop();
}

/// With fixed ports the second one meets the first's gateway before its store.
#[test]
fn a_second_daemon_with_a_fixed_port_is_told_the_same() -> TestResult {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let home = Home::with(&LOOPBACK.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
    let daemon = Daemon::start(&home);
    let second = Daemon::spawn(&home).ends().exits(1);
    assert!(second.err.contains(&daemon.pid().to_string()), "{}", second.err);
    daemon.stop();
    Ok(())
}

#[test]
fn a_gateway_port_that_is_taken_is_named_with_what_to_do() -> TestResult {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let home = Home::with(&LOOPBACK.replace("127.0.0.1:0", &address.to_string()));
    let ran = Daemon::spawn(&home).ends().exits(1);
    assert!(
        ran.err
            .contains(&format!("the gateway cannot listen on {address}")),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("hint: another program has this port"),
        "{}",
        ran.err
    );
    Ok(())
}

#[test]
fn what_a_dead_daemon_left_behind_does_not_stop_the_next() {
    let home = Home::with(LOOPBACK);
    Daemon::start(&home).kill();
    assert!(home.path().join("pacstore.sock").exists());
    home.run(["status"]).fails_with(&["no daemon answers"]);
    let daemon = Daemon::start(&home);
    home.run(["status"]).done();
    daemon.stop();
    assert!(!home.path().join("pacstore.sock").exists());
}

/// Neither an upstream that stalls nor clients that read slowly or not at all hold up a stop
/// ([`Daemon::stop`] looks at the clock).
#[test]
fn a_stop_in_the_middle_of_an_import_and_of_downloads_is_clean_and_in_time() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 20_000_000))?;
    let upstream = Upstream::folder(folder.path())?;
    let home = Home::importer(NAME, &upstream.url(""));
    home.run(["import", NAME, "--once"]).done();
    let file = repo.file_name("a")?;
    let next = tempfile::tempdir()?;
    let later = Repo::create(next.path(), RepoSpec::new("core").package("b", 3_000_000))?;
    let stalling = Upstream::folder(next.path())?;
    stalling.fault("*.pkg.tar.zst", Fault::StallAt(At::Percent(50)));
    let text = std::fs::read_to_string(home.config_file())?;
    home.configure(&text.replace(&upstream.url(""), &stalling.url("")));
    let daemon = Daemon::start(&home);
    let waiting = home.command(["import", NAME, "--once"]).spawn()?;
    until("the import asks for the package", || {
        (!stalling.requests(&later.file_name("b").unwrap()).is_empty()).then_some(())
    });
    let mut idle = TcpStream::connect(&daemon.gateway)?;
    let mut slow = TcpStream::connect(&daemon.gateway)?;
    write!(
        slow,
        "GET /ipns/{NAME}/{file} HTTP/1.1\r\nHost: {}\r\n\r\n",
        daemon.gateway
    )?;
    slow.read_exact(&mut [0; 100])?;
    idle.write_all(b"GET / HTTP/1.1\r\n")?;
    daemon.stop();
    let ended = crate::home::wait(waiting, crate::home::DEADLINE).expect("the command is told");
    assert_eq!(ended.code(), Some(1));
    // The snapshot is as it was.
    home.run(["verify", NAME]).done();
    Ok(())
}

#[test]
fn another_user_may_look_but_not_change() -> TestResult {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return Ok(());
    }
    let Some(setpriv) = require("setpriv") else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("a", 10_000))?;
    let home = Home::importer(NAME, repo.folder().to_str().unwrap());
    home.run(["import", NAME, "--once"]).done();
    home.chmod("", 0o755);
    // Where the checkout lies, others may not be able to go.
    let binary = home.path().join("pacstore");
    std::fs::copy(PACSTORE, &binary)?;
    let daemon = Daemon::start(&home);
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&setpriv);
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command
            .arg(&binary)
            .arg("--home")
            .arg(home.path())
            .args(arguments)
            .current_dir("/");
        run(command)
    };
    assert_eq!(
        as_nobody(&["status", "--json"]).done().json()["peer_id"],
        daemon.peer.as_str()
    );
    assert_eq!(
        as_nobody(&["resolve", NAME, "--json"]).done().json()["name"],
        NAME
    );
    as_nobody(&["status"]).done();
    assert_eq!(
        as_nobody(&["id", "--json"]).done().json()["peer_id"],
        daemon.peer.as_str()
    );
    assert!(as_nobody(&["heads", NAME]).done().out.contains("kept"));
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o777))?;
    let target = place.path().join("a");
    let path = format!("/ipns/{NAME}/{}", repo.file_name("a")?);
    as_nobody(&["get", &path, "-o", target.to_str().unwrap()]).done();
    assert_eq!(std::fs::read(target)?, repo.bytes("a")?);
    // Of what was just given there is a receipt; who asked for it stands nowhere.
    assert!(
        as_nobody(&["why", &repo.file_name("a")?])
            .done()
            .out
            .contains("given")
    );
    let folder = repo.folder().to_str().unwrap();
    for order in [
        &["import", NAME, "--once"][..],
        &["import", NAME, "--accept"],
        &["publish", folder, "--name", NAME],
        &["prefetch"],
        &["alert", "test"],
        &["gc"],
        &["fsck", "--repair"],
        &["fsck"],
    ] {
        as_nobody(order).fails_with(&[
            "only the daemon's user or root may change something",
            "hint: use sudo",
        ]);
    }
    for order in [
        &["key", "new", "mine"][..],
        &["key", "list"],
        &["key", "show", "signs"],
    ] {
        as_nobody(order).fails_with(&["ermission denied"]);
    }
    assert!(is_private(&home.path().join("state")));
    daemon.stop();
    Ok(())
}

fn is_private(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() % 0o100 == 0)
}

#[test]
fn a_home_that_is_made_is_its_owner_s_alone() {
    let home = Home::empty();
    let inner = home.path().join("new/home");
    let mut command = Command::new(PACSTORE);
    command.arg("--home").arg(&inner).args(["key", "new", "a"]);
    run(command).done();
    assert!(is_private(&inner) && is_private(&inner.join("state")));
    let mut command = Command::new(PACSTORE);
    command.env("PACSTORE_HOME", &inner).args(["key", "list"]);
    assert!(run(command).done().out.starts_with("a\tk51"));
}

/// An importer and a client, side by side; every byte by the other node.
#[test]
fn a_client_gets_everything_from_the_importer_and_counts_it_as_lan() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut repo = Repo::create(
        folder.path(),
        RepoSpec::new("core").packages(3, 9_000).package("big", 5_000_000),
    )?;
    let home = Home::importer(NAME, repo.folder().to_str().unwrap());
    let importer = Daemon::start(&home);
    home.run(["import", NAME, "--once"]).done();
    let peers: Vec<String> =
        serde_json::from_value(home.run(["id", "--json"]).done().json()["addresses"].clone())?;
    let client_home = Home::client(NAME, &home.key(), &peers);
    let client = Daemon::start(&client_home);
    let tree = |home: &Home| home.run(["resolve", NAME, "--json"]).json()["tree"].clone();
    until("the client has the head", || {
        (tree(&client_home) == tree(&home)).then_some(())
    });
    let mut sent = 0;
    for entry in std::fs::read_dir(repo.folder())? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap();
        let body = client.file(&format!("/ipns/{NAME}/{name}"));
        assert_eq!(body, std::fs::read(entry.path())?, "{name}");
        sent += body.len() as u64;
    }
    let status = until("the bytes are counted", || {
        let status = client_home.run(["status", "--json"]).done().json();
        (status["bytes"]["lan"].as_u64() >= Some(sent)).then_some(status)
    });
    assert_eq!(
        status["bytes"],
        serde_json::json!({ "disk": 0, "lan": sent, "peer": 0, "upstream": 0 })
    );
    assert_eq!(status["peers"], 1);
    // A new head reaches a connected client by itself.
    repo.update(&["big"])?;
    home.run(["import", NAME, "--once"]).done();
    until("the client has the next head", || {
        (tree(&client_home) == tree(&home)).then_some(())
    });
    let name = repo.file_name("big")?;
    assert_eq!(client.file(&format!("/ipns/{NAME}/{name}")), repo.bytes("big")?);
    client.stop();
    let report = client_home.run(["verify", NAME, "--json"]).done().json();
    // The packages of the first head that the second still has, and what was fetched since.
    assert!(report["files"].as_u64() > Some(4), "{report}");
    importer.stop();
    Ok(())
}

#[test]
fn a_client_without_peers_takes_its_files_from_the_upstream() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("big", 3_000_000))?;
    let upstream = Upstream::folder(folder.path())?;
    let home = Home::importer(NAME, repo.folder().to_str().unwrap());
    let importer = Daemon::start(&home);
    home.run(["import", NAME, "--once"]).done();
    let peers: Vec<String> =
        serde_json::from_value(home.run(["id", "--json"]).done().json()["addresses"].clone())?;
    let client_home = Home::with(&client_config(NAME, &home.key(), &peers, &[upstream.url("")]));
    let client = Daemon::start(&client_home);
    until("the client has the head", || {
        let resolved = client_home.run(["resolve", NAME, "--json"]).json();
        resolved["tree"].is_string().then_some(())
    });
    importer.stop();
    let name = repo.file_name("big")?;
    assert_eq!(client.file(&format!("/ipns/{NAME}/{name}")), repo.bytes("big")?);
    let status = client_home.run(["status", "--json"]).done().json();
    assert!(
        status["bytes"]["upstream"].as_u64() >= Some(3_000_000),
        "{status}"
    );
    client.stop();
    Ok(())
}

/// The kernel's address of a socket has no room for such a path.
#[test]
fn a_home_with_a_very_long_path_works() -> TestResult {
    let folder = tempfile::tempdir()?;
    let home = folder
        .path()
        .join("a long name ".repeat(10))
        .join("b".repeat(200));
    std::fs::create_dir_all(&home)?;
    std::fs::write(home.join("pacstore.toml"), LOOPBACK)?;
    let pacstore = |arguments: &[&str]| {
        let mut command = Command::new(PACSTORE);
        command.arg("--home").arg(&home).args(arguments);
        command.env_remove("PACSTORE_HOME");
        command
    };
    let mut daemon = pacstore(&["daemon"]);
    let mut daemon = daemon
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let mut line = String::new();
    let mut out = std::io::BufReader::new(daemon.stdout.take().ok_or("stdout")?);
    std::io::BufRead::read_line(&mut out, &mut line)?;
    assert!(line.starts_with("ready "), "{line}");
    let status = run(pacstore(&["status", "--json"])).done().json();
    assert!(
        line.contains(status["peer_id"].as_str().ok_or("a peer id")?),
        "{line}"
    );
    crate::home::signal(daemon.id(), rustix::process::Signal::TERM);
    let ended = crate::home::wait(daemon, crate::home::DEADLINE).ok_or("it ends")?;
    assert!(ended.success() && !home.join("pacstore.sock").exists());
    Ok(())
}
