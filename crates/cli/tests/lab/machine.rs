//! A machine with a pacstore daemon.
//!
//! - Invariant: the daemon ends with its machine; its log is printed if the test failed.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::wire::inside;

/// How long one step may take, on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

const PACSTORE: &str = env!("CARGO_BIN_EXE_pacstore");

/// A home in a namespace.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) namespace: String,
    home: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Machine {
    pub(crate) fn new(namespace: String) -> Self {
        let home = tempfile::Builder::new().prefix("pacstore-").tempdir().unwrap();
        Self {
            namespace,
            home,
            daemon: None,
        }
    }

    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.home.path().join("pacstore.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = inside(&self.namespace, PACSTORE);
        command.arg("--home").arg(self.home.path()).args(arguments);
        command.env_remove("PACSTORE_HOME").env_remove("PACSTORE_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command, which must do; its stdout.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let done = output(self.command(arguments));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{arguments:?}: {said}");
        String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
    }

    /// The same, as JSON.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(arguments)).unwrap()
    }

    /// Starts the daemon and waits until it serves; its ready line.
    #[track_caller]
    pub(crate) fn start(&mut self) -> String {
        let log = File::create(self.home.path().join("log")).unwrap();
        let mut command = self.command(&["daemon"]);
        if let Ok(filter) = std::env::var("PACSTORE_TEST_LOG") {
            command.env("PACSTORE_LOG", filter);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        self.daemon = Some(child);
        let (send, lines) = sync_channel(4);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let Ok(line) = lines.recv_timeout(DEADLINE) else {
            panic!("the daemon did not get ready");
        };
        assert!(line.starts_with("ready gateway="), "{line}");
        line
    }
}

impl Machine {
    /// Stops the daemon and waits for its end.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.daemon.take() else {
            return;
        };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        until("the daemon ends", || child.try_wait().unwrap());
    }
}

/// The gateway's URL, as the line that [`Machine::start`] gives names it.
pub(crate) fn gateway(ready: &str) -> String {
    let word = ready
        .split(' ')
        .nth(1)
        .and_then(|word| word.strip_prefix("gateway="));
    word.unwrap().to_owned()
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let text = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(60).collect();
            for line in tail.into_iter().rev() {
                eprintln!("{}: {line}", self.namespace);
            }
        }
    }
}

/// What a command says; at the deadline it is killed.
#[track_caller]
pub(crate) fn output(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let killer = child.id();
    let (done, ended) = sync_channel(1);
    // The pipes are read to their end there, so that a talkative child is not held up.
    std::thread::spawn(move || {
        let mut kept = (child.stdout.take(), child.stderr.take());
        let read = |pipe: Option<&mut dyn std::io::Read>| {
            let mut text = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.read_to_end(&mut text);
            }
            text
        };
        let errors = kept.1.take();
        let side = std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = errors {
                let _ = std::io::Read::read_to_end(&mut pipe, &mut text);
            }
            text
        });
        let stdout = read(kept.0.as_mut().map(|pipe| pipe as &mut dyn std::io::Read));
        let stderr = side.join().unwrap_or_default();
        let status = child.wait();
        let _ = done.send(status.map(|status| Output {
            status,
            stdout,
            stderr,
        }));
    });
    let Ok(output) = ended.recv_timeout(DEADLINE) else {
        let pid = rustix::process::Pid::from_raw(i32::try_from(killer).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        panic!("{command:?} did not end");
    };
    output.unwrap()
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

/// GETs `url` from within a namespace by curl: the HTTP status (0 without an answer), and the body.
#[track_caller]
pub(crate) fn curl(namespace: &str, url: &str, more: &[&str]) -> (u16, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    let mut command = inside(namespace, "curl");
    command.args(["-s", "-g", "-w", "%{http_code}", "--max-time", "60", "-o"]);
    command.arg(&body).args(more).arg(url);
    let done = output(command);
    let status = String::from_utf8(done.stdout).unwrap();
    (status.parse().unwrap(), read(&body))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}
