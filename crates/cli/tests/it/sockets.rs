//! The gateway's socket in the care of the service manager: what pacman asks while no daemon runs waits for the next one.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Instant;

use pacstore_testkit::{TestResult, require};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::daemon::{Daemon, until};
use crate::home::{DEADLINE, Home, LOOPBACK, PACSTORE, signal, wait};

/// The manager's side of `sd_notify`.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

/// Lines of a message, and what came with it.
type Told = (Vec<String>, Vec<OwnedFd>);

impl Manager {
    fn of(home: &Home) -> std::io::Result<Self> {
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Self {
            socket,
            path: path.to_str().expect("UTF-8").to_owned(),
        })
    }

    /// The next message that has `line`.
    #[track_caller]
    fn hears(&self, line: &str) -> Told {
        // It says that it lives, time and again.
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let told = self.hear().unwrap_or_else(|error| panic!("`{line}`: {error}"));
            if told.0.iter().any(|told| told == line) {
                return told;
            }
        }
        panic!("never `{line}`");
    }

    fn hear(&self) -> std::io::Result<Told> {
        let mut text = [0; 4096];
        let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let into = &mut [IoSliceMut::new(&mut text)];
        let len = recvmsg(&self.socket, into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let fds = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let fds = fds.collect();
        let lines = String::from_utf8_lossy(&text[..len]);
        Ok((lines.lines().map(str::to_owned).collect(), fds))
    }

    /// The gateway's socket, once the daemon gives it.
    #[track_caller]
    fn keeps(&self) -> OwnedFd {
        self.hears("FDSTOREREMOVE=1");
        let (lines, mut fds) = self.hears("FDSTORE=1");
        assert!(lines.contains(&"FDNAME=gateway".to_owned()), "{lines:?}");
        assert_eq!(fds.len(), 1);
        fds.remove(0)
    }
}

fn at(address: &str) -> String {
    LOOPBACK.replacen("127.0.0.1:0", address, 1)
}

/// A request that waits for whoever accepts it.
fn ask(address: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(
        stream,
        "GET /no HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    Ok(stream)
}

fn answer(mut stream: TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn what_pacman_asks_while_a_killed_daemon_is_started_again_is_answered() -> TestResult {
    let home = Home::with(LOOPBACK);
    let manager = Manager::of(&home)?;
    let mut daemon = Daemon::spawn_with(&home, &[("NOTIFY_SOCKET", &manager.path)]);
    daemon.ready();
    let socket = manager.keeps();
    let address = daemon.gateway.clone();
    daemon.kill();
    let waits = ask(&address)?;

    home.configure(&at(&address));
    let mut next = Daemon::spawn_handing(&home, socket.try_clone()?, "gateway", &manager.path);
    next.ready();
    assert_eq!(next.gateway, address);
    assert_eq!(answer(waits)?, "HTTP/1.1 404 Not Found");
    // It is given back for the one after it, which gets it where the configuration is the same.
    drop(manager.keeps());
    next.stop();

    // Another address: the old one is closed as soon as the manager lets go of it.
    home.configure(LOOPBACK);
    let mut moved = Daemon::spawn_handing(&home, socket, "gateway", &manager.path);
    moved.ready();
    assert_ne!(moved.gateway, address);
    drop(manager.keeps());
    until("the old address is refused", || {
        TcpStream::connect(&address).is_err().then_some(())
    });
    assert!(!moved.log_text().contains("nobody answers"), "that is no fault");
    moved.stop();
    Ok(())
}

#[test]
fn a_daemon_that_cannot_start_leaves_no_socket_open() -> TestResult {
    for wrong in ["[gateway]\nlisten = 5\n".to_owned(), at("192.0.2.1:80")] {
        let home = Home::with(&wrong);
        let manager = Manager::of(&home)?;
        let daemon = Daemon::spawn_with(&home, &[("NOTIFY_SOCKET", &manager.path)]);
        daemon.ends().exits(1);
        let (lines, _) = manager.hears("FDSTOREREMOVE=1");
        assert!(lines.contains(&"FDNAME=gateway".to_owned()), "{lines:?}");
    }
    Ok(())
}

#[test]
fn a_socket_unit_for_another_address_is_told() -> TestResult {
    let home = Home::with(LOOPBACK);
    let manager = Manager::of(&home)?;
    let other = TcpListener::bind("127.0.0.1:0")?;
    let address = other.local_addr()?;
    let mut daemon = Daemon::spawn_handing(&home, other.into(), "pacstore.socket", &manager.path);
    daemon.ready();
    let told = format!("pacstore.socket listens on {address}, where nobody answers");
    assert!(daemon.log_text().contains(&told), "{}", daemon.log_text());
    daemon.stop();
    Ok(())
}

/// The real program that stands for systemd's socket units.
#[test]
fn a_socket_unit_starts_the_daemon_with_the_first_request() -> TestResult {
    let Some(activate) = require("systemd-socket-activate") else {
        return Ok(());
    };
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let home = Home::with(&at(&free));
    let child = Command::new(activate)
        .args(["--listen", &free, "--fdname=pacstore.socket", PACSTORE, "--home"])
        .arg(home.path())
        .arg("daemon")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let waits = until("it listens", || ask(&free).ok());
    let answered = answer(waits);
    // It is the daemon by now: the one was executed in place of the other.
    signal(child.id(), rustix::process::Signal::TERM);
    let ended = wait(child, DEADLINE);
    assert_eq!(answered?, "HTTP/1.1 404 Not Found");
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    Ok(())
}
