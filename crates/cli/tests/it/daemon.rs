//! A running `pacstore daemon`, as a service manager sees it: started, ready, stopped.
//!
//! - Invariant: it is ended by its process id when dropped; its log is printed if the test failed.
//! - Not here: what it answers (the tests).

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::home::{DEADLINE, Home, Ran, signal, wait};
use crate::web::{self, Response};

/// A clean stop takes at most this long, says the contract.
pub(crate) const STOP: Duration = Duration::from_secs(5);

/// A daemon that serves, or (after [`Daemon::spawn`]) is about to.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Option<Child>,
    lines: Receiver<String>,
    log: PathBuf,
    /// `ADDR:PORT` of the gateway, once ready.
    pub(crate) gateway: String,
    /// The peer id of the ready line, once ready.
    pub(crate) peer: String,
}

impl Daemon {
    /// Starts it and waits for its ready line.
    #[track_caller]
    pub(crate) fn start(home: &Home) -> Self {
        let mut daemon = Self::spawn(home);
        daemon.ready();
        daemon
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(home: &Home) -> Self {
        Self::spawn_with(home, &[])
    }

    /// The same with this in its environment.
    pub(crate) fn spawn_with(home: &Home, environment: &[(&str, &str)]) -> Self {
        let log = home.path().join("daemon.log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        Self::spawn_into(home, environment, file)
    }

    /// The same with its log in `file`, of which nothing is read.
    pub(crate) fn spawn_into(home: &Home, environment: &[(&str, &str)], file: File) -> Self {
        let mut command = home.command(["daemon"]);
        command.envs(environment.iter().copied());
        Self::run(home, command, file)
    }

    /// The same where no more than `files` files may be open.
    pub(crate) fn spawn_with_files(home: &Home, files: u32) -> Self {
        let daemon = home.command(["daemon"]);
        let limited = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(limited).arg(daemon.get_program());
        command.args(daemon.get_args());
        for (name, value) in daemon.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let file = File::create(home.path().join("daemon.log")).expect("a log");
        Self::run(home, command, file)
    }

    /// The same as a service manager does it that has a socket for the daemon: as descriptor 3, told in the environment.
    pub(crate) fn spawn_handing(home: &Home, socket: OwnedFd, name: &str, notify: &str) -> Self {
        let daemon = home.command(["daemon"]);
        let handing = "LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 0</dev/null";
        let mut command = Command::new("sh");
        command.arg("-c").arg(handing).arg(daemon.get_program());
        command.args(daemon.get_args()).stdin(socket);
        command.envs([
            ("LISTEN_FDS", "1"),
            ("LISTEN_FDNAMES", name),
            ("NOTIFY_SOCKET", notify),
        ]);
        let file = File::create(home.path().join("daemon.log")).expect("a log");
        Self::run(home, command, file)
    }

    fn run(home: &Home, mut command: Command, file: File) -> Self {
        let log = home.path().join("daemon.log");
        if let Ok(filter) = std::env::var("PACSTORE_TEST_LOG") {
            command.env("PACSTORE_LOG", filter);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        let (send, lines) = sync_channel(16);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child: Some(child),
            lines,
            log,
            gateway: String::new(),
            peer: String::new(),
        }
    }

    /// The same with its stdout in `out`, so that it is never seen to be ready here.
    pub(crate) fn spawn_mute(home: &Home, out: File) -> Self {
        let log = home.path().join("daemon.log");
        let file = File::create(&log).expect("a log");
        let mut command = home.command(["daemon"]);
        let child = command.stdout(out).stderr(file).spawn();
        Self {
            child: Some(child.expect("the binary starts")),
            lines: sync_channel(1).1,
            log,
            gateway: String::new(),
            peer: String::new(),
        }
    }

    /// Waits for the ready line, which must be the first on stdout and exactly as the contract has it.
    #[track_caller]
    pub(crate) fn ready(&mut self) {
        let Ok(line) = self.lines.recv_timeout(DEADLINE) else {
            panic!("the daemon did not get ready: {}", self.log_text());
        };
        let words: Vec<&str> = line.split(' ').collect();
        let [ready, gateway, peer] = words[..] else {
            panic!("not a ready line: {line}")
        };
        assert_eq!(ready, "ready", "{line}");
        let gateway = gateway.strip_prefix("gateway=http://").expect("the gateway");
        let peer = peer.strip_prefix("peer=").expect("the peer id");
        assert!(!gateway.ends_with(":0") && peer.starts_with("12D3KooW"), "{line}");
        (self.gateway, self.peer) = (gateway.to_owned(), peer.to_owned());
    }

    /// What it wrote on stderr so far, of all its starts on this home.
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// A GET of its gateway.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        web::get(&self.gateway, path, &[])
            .unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.log_text()))
    }

    /// A GET of a file, which must be there.
    #[track_caller]
    pub(crate) fn file(&self, path: &str) -> Vec<u8> {
        let response = self.get(path);
        let said = String::from_utf8_lossy(&response.body[..response.body.len().min(200)]).into_owned();
        assert_eq!(response.status, 200, "{path}: {said}");
        response.body
    }

    /// SIGTERM; it must end well and in time.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Ran {
        let child = self.child.take().expect("it runs");
        let pid = child.id();
        let begun = Instant::now();
        signal(pid, Signal::TERM);
        let Some(status) = wait(child, DEADLINE) else {
            signal(pid, Signal::KILL);
            panic!("SIGTERM did not stop it: {}", self.log_text());
        };
        let took = begun.elapsed();
        assert!(took <= STOP, "it took {took:?} to stop: {}", self.log_text());
        Ran {
            code: status.code(),
            out: self.lines.try_iter().collect::<Vec<_>>().join("\n"),
            err: self.log_text(),
        }
        .done()
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Waits until it ends by itself, which it must.
    #[track_caller]
    pub(crate) fn ends(mut self) -> Ran {
        let child = self.child.take().expect("it runs");
        let pid = child.id();
        let Some(status) = wait(child, DEADLINE) else {
            signal(pid, Signal::KILL);
            panic!("it runs on: {}", self.log_text());
        };
        Ran {
            code: status.code(),
            out: self.lines.iter().collect::<Vec<_>>().join("\n"),
            err: self.log_text(),
        }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let text = self.log_text();
            let tail: Vec<&str> = text.lines().rev().take(60).collect();
            for line in tail.into_iter().rev() {
                eprintln!("{}: {line}", self.log.display());
            }
        }
    }
}

/// Asks again and again until `wanted` holds; for what no event announces (another process).
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
