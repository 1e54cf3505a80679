//! A node's home in a temporary directory, and commands run on it as a user runs them.
//!
//! - Invariant: every command has a deadline; one that misses it is killed and fails the test.
//! - Invariant: nothing outside the home is used, nothing leaves the loopback interface.
//! - Not here: a running daemon (`crate::daemon`).

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long one command may take, on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// The binary under test.
pub(crate) const PACSTORE: &str = env!("CARGO_BIN_EXE_pacstore");

/// The gateway and the swarm on free ports of the loopback interface, nobody else asked.
pub(crate) const LOOPBACK: &str = "[gateway]\nlisten = \"127.0.0.1:0\"\n\n[swarm]\n\
     listen = [\"/ip4/127.0.0.1/tcp/0\"]\nbootstrap = []\nmdns = false\npeers = []\n";

/// A home of its own; gone when dropped.
#[derive(Debug)]
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    /// Without a configuration.
    pub(crate) fn empty() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pacstore-")
            .tempdir()
            .expect("a folder");
        Self { folder }
    }

    /// With this configuration.
    pub(crate) fn with(config: &str) -> Self {
        let home = Self::empty();
        home.configure(config);
        home
    }

    /// An importer of `upstream` (a URL or folder) under `name`, rounds only when asked for.
    pub(crate) fn importer(name: &str, upstream: &str) -> Self {
        let home = Self::with(LOOPBACK);
        home.run(["key", "new", "signs"]).done();
        home.configure(&format!("{LOOPBACK}{}", import_block(name, upstream)));
        home
    }

    /// A client of `name`, whose importer runs on `home` as `importer`.
    pub(crate) fn client(name: &str, key: &str, peers: &[String]) -> Self {
        Self::with(&client_config(name, key, peers, &[]))
    }

    /// The directory given to `--home`.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.path().join("pacstore.toml")
    }

    /// Replaces the configuration.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.config_file(), text).expect("a writable home");
    }

    /// The key that signs what this importer publishes.
    pub(crate) fn key(&self) -> String {
        self.run(["key", "show", "signs"]).done().line()
    }

    /// A command on this home, not started yet.
    pub(crate) fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(PACSTORE);
        command.arg("--home").arg(self.path()).args(arguments);
        command.env_remove("PACSTORE_HOME").env_remove("PACSTORE_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Ran {
        run(self.command(arguments))
    }

    /// Sets the permission bits of something in this home.
    pub(crate) fn chmod(&self, path: &str, mode: u32) {
        let path = self.path().join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
}

/// An `[[import]]` that runs only when asked for, signed with the key `signs`.
pub(crate) fn import_block(name: &str, upstream: &str) -> String {
    format!("\n[[import]]\nmirror = \"{name}\"\nfrom = \"{upstream}\"\nkey = \"signs\"\nevery = \"manual\"\n")
}

/// A client's whole configuration.
pub(crate) fn client_config(name: &str, key: &str, peers: &[String], upstreams: &[String]) -> String {
    let base = LOOPBACK.replace("peers = []", &format!("peers = {peers:?}"));
    format!("{base}\n[[mirror]]\nname = \"{name}\"\nimporters = [\"{key}\"]\nupstreams = {upstreams:?}\n")
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; none after a signal.
    pub(crate) code: Option<i32>,
    /// Stdout.
    pub(crate) out: String,
    /// Stderr.
    pub(crate) err: String,
}

impl Ran {
    /// It must have ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.out,
            self.err
        );
        self
    }

    /// It must have ended with 0.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        self.exits(0)
    }

    /// It must have failed with 1, said nothing on stdout, and named all of `words` on stderr.
    #[track_caller]
    pub(crate) fn fails_with(self, words: &[&str]) -> Self {
        let ran = self.exits(1);
        for word in words {
            assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
        }
        assert!(
            ran.err.starts_with("error: ") || ran.err.contains("\nerror: "),
            "{}",
            ran.err
        );
        ran
    }

    /// Stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in: {}{}", self.out, self.err))
    }

    /// The one line of stdout.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        assert_eq!(self.out.lines().count(), 1, "{}{}", self.out, self.err);
        self.out.trim_end().to_owned()
    }
}

/// Runs `command` to its end, or kills it at the deadline.
#[track_caller]
pub(crate) fn run(mut command: Command) -> Ran {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary starts");
    let pid = child.id();
    let (done, ended) = sync_channel(1);
    let waiting = std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(DEADLINE) else {
        signal(pid, Signal::KILL);
        let _ = waiting.join();
        let said = ended.recv().expect("a dead child").expect("its output");
        panic!(
            "{command:?} did not end: {}",
            String::from_utf8_lossy(&said.stderr)
        );
    };
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("its output");
    Ran {
        code: status.code(),
        out: String::from_utf8(stdout).expect("UTF-8 on stdout"),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Waits for a child, at most `within`; `None` if it still runs then (it is left running).
pub(crate) fn wait(mut child: Child, within: Duration) -> Option<ExitStatus> {
    let (done, ended) = sync_channel(1);
    std::thread::spawn(move || done.send(child.wait()));
    ended
        .recv_timeout(within)
        .ok()
        .map(|status| status.expect("a child"))
}

/// Sends a signal to a process that this test started and did not wait for yet.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    // It may have ended meanwhile.
    let _ = kill_process(pid, signal);
}
