//! One run of the child: started, read line by line, bounded in time, ended with its group.
//!
//! - Invariant: when [`run`] returns or is dropped, no process of the group is left
//!   running (on drop: all were sent SIGKILL).
//! - Invariant: a line is at most [`MAX_LINE`] bytes, what is kept of stderr [`MAX_STDERR`].
//! - Not here: what lines mean (`super::stats`, `super::list`).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pacstore_runtime::CancellationToken;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{ExitKind, Outcome, RsyncError};

/// The longest line that is read: a path of 4096 bytes, each escaped to five.
const MAX_LINE: usize = 32 * 1024;
/// What is kept of the last words.
const MAX_STDERR: usize = 64 * 1024;
/// What of its output may wait for us; a system that grants less keeps its own measure.
const PIPE: usize = 1 << 20;
/// How long it is not looked for more output after some came, and how long once none came for a while.
const PAUSE: Duration = Duration::from_millis(5);
const LONG_PAUSE: Duration = Duration::from_millis(40);

/// The bounds of one run.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) silence: Duration,
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) stop: CancellationToken,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    stderr: VecDeque<u8>,
}

impl Ended {
    /// The last words, invalid UTF-8 replaced.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.last_words()).into_owned()
    }

    /// The last words, as they came.
    pub(crate) fn last_words(&self) -> Vec<u8> {
        let (a, b) = self.stderr.as_slices();
        [a, b].concat()
    }

    /// Whether the last words are all words.
    pub(crate) fn said_all(&self) -> bool {
        self.stderr.len() < MAX_STDERR
    }

    /// What came of it; codes other than 0, 23 and 24 are errors.
    pub(crate) fn outcome(&self) -> Result<Outcome, RsyncError> {
        match self.status.code() {
            Some(0) => Ok(Outcome::Whole),
            Some(23) => Ok(Outcome::Partial),
            Some(24) => Ok(Outcome::Vanished),
            code => Err(self.exit(code.unwrap_or(-1))),
        }
    }

    /// As [`Ended::outcome`], but only 0 will do.
    pub(crate) fn whole(&self) -> Result<(), RsyncError> {
        match self.status.code() {
            Some(0) => Ok(()),
            code => Err(self.exit(code.unwrap_or(-1))),
        }
    }

    fn exit(&self, code: i32) -> RsyncError {
        let stderr = self.stderr();
        // The code of that is the network's (10), or that of a protocol which breaks off.
        let refuses = stderr.contains("is configured to refuse ");
        let kind = if refuses {
            ExitKind::Usage
        } else {
            ExitKind::of(code)
        };
        RsyncError::Exit { code, kind, stderr }
    }
}

/// The process group of the child; killed when dropped unless it ended.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs `program`; `line` gets each line of stdout, also those that end in `\r`.
pub(crate) async fn run(
    program: &Path,
    arguments: Vec<OsString>,
    bounds: Bounds,
    line: impl FnMut(&[u8]) -> Result<(), RsyncError>,
) -> Result<Ended, RsyncError> {
    let spawn_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RsyncError::NotInstalled(program.to_owned()),
        _ => RsyncError::Spawn {
            program: program.to_owned(),
            source,
        },
    };
    let mut child = command(program, arguments).spawn().map_err(spawn_error)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let mut stderr = VecDeque::new();
    let watched = watch(&mut child, &bounds, line, &mut stderr).await;
    let status = match watched {
        Ok(status) => status,
        Err(error) => {
            end(&mut child, &group, bounds.grace).await;
            group.0 = None;
            return Err(match error {
                Watched::Io(source) => spawn_error(source),
                Watched::Ended(error) => error,
            });
        }
    };
    group.0 = None;
    Ok(Ended { status, stderr })
}

/// Why watching ended before the child did.
enum Watched {
    Io(io::Error),
    Ended(RsyncError),
}

impl From<io::Error> for Watched {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

fn command(program: &Path, arguments: Vec<OsString>) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for name in [
        "RSYNC_RSH",
        "RSYNC_PROXY",
        "RSYNC_CONNECT_PROG",
        "RSYNC_PARTIAL_DIR",
        "RSYNC_PROTECT_ARGS",
        "RSYNC_OLD_ARGS",
        "RSYNC_ICONV",
        "RSYNC_CHECKSUM_LIST",
        "RSYNC_COMPRESS_LIST",
        "RSYNC_MAX_ALLOC",
    ] {
        command.env_remove(name);
    }
    command
}

/// Reads both outputs to their ends, within the bounds; then the exit status.
async fn watch(
    child: &mut Child,
    bounds: &Bounds,
    mut line: impl FnMut(&[u8]) -> Result<(), RsyncError>,
    stderr: &mut VecDeque<u8>,
) -> Result<ExitStatus, Watched> {
    let mut out = child.stdout.take().map(Out::new).transpose()?;
    let mut err = child.stderr.take();
    let (mut out_buf, mut err_buf) = (vec![0; 256 * 1024], vec![0; 4 * 1024]);
    let mut lines = Lines::default();
    let until = Instant::now() + bounds.deadline;
    let mut heard = Instant::now();
    loop {
        if out.is_none() && err.is_none() {
            // All that held the pipes are gone or going.
            return tokio::select! {
                status = child.wait() => Ok(status?),
                () = bounds.stop.cancelled() => Err(Watched::Ended(RsyncError::Stopped)),
                () = sleep_until(until.min(heard + bounds.silence)) => {
                    Err(Watched::Ended(RsyncError::Silent(bounds.silence)))
                }
            };
        }
        tokio::select! {
            biased;
            () = bounds.stop.cancelled() => return Err(Watched::Ended(RsyncError::Stopped)),
            () = sleep_until(until) => return Err(Watched::Ended(RsyncError::Deadline(bounds.deadline))),
            n = look(&mut out, &mut out_buf) => match n? {
                0 => { lines.end(&mut line).map_err(Watched::Ended)?; out = None; }
                n => { heard = Instant::now(); lines.push(&out_buf[..n], &mut line).map_err(Watched::Ended)?; }
            },
            n = read(&mut err, &mut err_buf) => match n? {
                0 => err = None,
                n => { heard = Instant::now(); keep_last(stderr, &err_buf[..n]); }
            },
            () = sleep_until(heard + bounds.silence) => {
                return Err(Watched::Ended(RsyncError::Silent(bounds.silence)));
            }
        }
    }
}

/// The pipe of its output, read in piles: a child that writes its lines one by one (`--list-only` does) would wake us, and
/// wait for us, at each of some hundred thousand.
struct Out {
    pipe: OwnedFd,
    pause: Duration,
}

impl Out {
    fn new(pipe: ChildStdout) -> io::Result<Self> {
        let pipe = pipe.into_owned_fd()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        // An ordinary user may have used up what the system grants.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE);
        Ok(Self { pipe, pause: PAUSE })
    }
}

/// What came, now or in a while; a pipe that is closed never has anything. Who is woken meanwhile by the other output
/// looks at once, so the child's end is not waited for.
async fn look(out: &mut Option<Out>, buf: &mut [u8]) -> io::Result<usize> {
    let Some(out) = out else {
        return std::future::pending().await;
    };
    loop {
        // A child that always has more must not keep others of this thread from their turn.
        tokio::task::coop::consume_budget().await;
        match rustix::io::read(&out.pipe, &mut *buf) {
            Err(rustix::io::Errno::AGAIN) => {
                sleep(out.pause).await;
                out.pause = (out.pause * 2).min(LONG_PAUSE);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(n) => {
                out.pause = PAUSE;
                return Ok(n);
            }
        }
    }
}

/// Reads a pipe that is open; a closed one never becomes ready.
async fn read<R: AsyncRead + Unpin>(pipe: &mut Option<R>, buf: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(buf).await,
        None => std::future::pending().await,
    }
}

fn keep_last(kept: &mut VecDeque<u8>, new: &[u8]) {
    kept.extend(new);
    let over = kept.len().saturating_sub(MAX_STDERR);
    kept.drain(..over);
}

/// TERM first, so that the partial file is put away; KILL after the grace.
async fn end(child: &mut Child, group: &Group, grace: Duration) {
    group.signal(Signal::TERM);
    if timeout(grace, child.wait()).await.is_err() {
        group.signal(Signal::KILL);
        // A killed child is gone at once, save in uninterruptible sleep; then the reaper takes it.
        let _ = timeout(grace, child.wait()).await;
    }
    group.signal(Signal::KILL);
}

/// Splits at `\n` and `\r`; a longer line than [`MAX_LINE`] is cut.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(
        &mut self,
        bytes: &[u8],
        line: &mut impl FnMut(&[u8]) -> Result<(), RsyncError>,
    ) -> Result<(), RsyncError> {
        let mut from = 0;
        for end in memchr::memchr2_iter(b'\n', b'\r', bytes) {
            let part = &bytes[from..end];
            from = end + 1;
            if self.0.is_empty() {
                Self::give(part, line)?;
            } else {
                self.keep(part);
                self.end(line)?;
            }
        }
        self.keep(&bytes[from..]);
        Ok(())
    }

    fn keep(&mut self, part: &[u8]) {
        let room = MAX_LINE - self.0.len();
        self.0.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn give(part: &[u8], line: &mut impl FnMut(&[u8]) -> Result<(), RsyncError>) -> Result<(), RsyncError> {
        match part {
            [] => Ok(()),
            part => line(&part[..part.len().min(MAX_LINE)]),
        }
    }

    fn end(&mut self, line: &mut impl FnMut(&[u8]) -> Result<(), RsyncError>) -> Result<(), RsyncError> {
        let given = Self::give(&self.0, line);
        self.0.clear();
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut keep = |line: &[u8]| {
            found.push(line.to_vec());
            Ok(())
        };
        for chunk in chunks {
            lines.push(chunk, &mut keep).expect("kept");
        }
        lines.end(&mut keep).expect("kept");
        found
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        let text = b"one\ntwo\r\r\n three\n\nfour";
        let whole = split(&[text]);
        assert_eq!(whole, [&b"one"[..], b"two", b" three", b"four"]);
        for size in 1..text.len() {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(split(&chunks), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_cut() {
        let long = vec![b'a'; 3 * MAX_LINE];
        let cut = vec![long[..MAX_LINE].to_vec(), b"b".to_vec()];
        let text = [&long[..], b"\nb\n"].concat();
        assert_eq!(split(&[&text]), cut);
        let chunks: Vec<&[u8]> = text.chunks(1000).collect();
        assert_eq!(split(&chunks), cut);
    }
}
