//! Processes with deadlines, whose output is kept and shown where a test fails.
//!
//! - Invariant: a process ends when its [`Running`] is dropped.
//! - Invariant: no wait is longer than its deadline.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pacstore_testkit::TestResult;

/// A result that a test can give up with.
pub(crate) type Given<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Lines that wait to be read; a process that writes more waits itself.
const LINES: usize = 20_000;

/// Lines of a process's log that are shown.
const SHOWN: usize = 60;

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs `command` to its end.
pub(crate) fn finish(command: Command, deadline: Duration) -> Given<Ended> {
    let mut running = Running::start("", command)?;
    let mut out = String::new();
    let until = Instant::now() + deadline;
    while let Some(line) = running.line(until)? {
        out.push_str(&line);
        out.push('\n');
    }
    let status = running.child.wait()?;
    let err = running.said();
    Ok(Ended { status, out, err })
}

/// Runs `command` to its end, which must be a good one, and gives what it wrote.
pub(crate) fn output(command: Command, deadline: Duration) -> Given<String> {
    let shown = format!("{command:?}");
    let ended = finish(command, deadline)?;
    if ended.status.success() {
        return Ok(ended.out);
    }
    Err(format!("{shown}: {}\n{}\n{}", ended.status, ended.out, ended.err).into())
}

/// A process under way.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    child: Child,
    lines: Receiver<String>,
    said: Arc<Mutex<String>>,
}

impl Running {
    /// Starts `command`. One with a `name` shows the end of its stderr if the test fails.
    pub(crate) fn start(name: &'static str, mut command: Command) -> Given<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let (sender, lines) = sync_channel(LINES);
        let said = Arc::new(Mutex::new(String::new()));
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || hand_on(out, &sender));
        }
        if let Some(err) = child.stderr.take() {
            let said = Arc::clone(&said);
            thread::spawn(move || remember(err, &said));
        }
        Ok(Self {
            name,
            child,
            lines,
            said,
        })
    }

    /// The next line of its output, nothing once it has closed it.
    pub(crate) fn line(&mut self, until: Instant) -> Given<Option<String>> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self
            .lines
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            Ok(line) => Ok(Some(line)),
            Err(Disconnected) => Ok(None),
            Err(Timeout) => Err(format!("{} is late; it said: {}", self.name, self.said()).into()),
        }
    }

    /// The first line for which `wanted` is true.
    pub(crate) fn line_with(&mut self, wanted: &str, deadline: Duration) -> Given<String> {
        let until = Instant::now() + deadline;
        let mut seen = String::new();
        while let Some(line) = self.line(until).map_err(|error| format!("{error}\n{seen}"))? {
            if line.contains(wanted) {
                return Ok(line);
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        Err(format!("{} ended without `{wanted}`:\n{seen}{}", self.name, self.said()).into())
    }

    /// What it wrote to stderr so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it now.
    pub(crate) fn kill(&mut self) -> TestResult {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed; there is nothing else to do about it.
        let _ = self.kill();
        // Only shown where the test fails: the test binary keeps it, or the outer run does.
        if !self.name.is_empty() {
            let said = self.said();
            let from = said.rmatch_indices('\n').nth(SHOWN).map_or(0, |(at, _)| at + 1);
            eprintln!("--- {} said at last:\n{}", self.name, &said[from..]);
        }
    }
}

fn hand_on(out: impl Read, lines: &SyncSender<String>) {
    for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
        if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}

fn remember(err: impl Read, said: &Mutex<String>) {
    for line in BufReader::new(err).split(b'\n').map_while(Result::ok) {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&String::from_utf8_lossy(&line));
        said.push('\n');
    }
}
