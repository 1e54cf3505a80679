//! `pacstore status --watch`: a small screen that follows the daemon.
//!
//! The terminal is put into its mode by `stty` and drawn by a handful of escape sequences, a
//! whole screen in one write, so that nothing flickers: a library for it would be forty crates.
//!
//! - Invariant: however it ends (`q`, SIGTERM, SIGINT, an error, a panic) the terminal is as it was.
//! - Invariant: a daemon that goes away is said on the screen; the screen stays and finds it again.
//! - Not here: what the screen shows (`super::screen`).

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _, Write as _, stdin, stdout};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use pacstore_node::Status;
use tokio::signal::unix::{SignalKind, signal};

use super::screen::{Rates, View, screen};
use crate::context::{Context, Exit, Hinted};

/// How often the daemon is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The size where the terminal does not tell it.
const SIZE: (usize, usize) = (24, 80);

/// Runs until `q` or a signal.
pub(super) async fn run(ctx: &Context) -> anyhow::Result<Exit> {
    if !stdout().is_terminal() || !stdin().is_terminal() {
        let hint = "`pacstore status` prints it once, `--json` for scripts";
        return Err(Hinted::new("--watch needs a terminal", hint).into());
    }
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let terminal = Terminal::take()?;
    let mut last: Option<(Status, Instant)> = None;
    let mut due = Instant::now();
    loop {
        if due <= Instant::now() {
            let status = ask(ctx).await;
            let now = Instant::now();
            let rates = match (&last, &status) {
                (Some((before, at)), Some(status)) => Rates::between(before, status, now - *at),
                _ => Rates::default(),
            };
            last = status.clone().map(|status| (status, now));
            terminal.draw(&View { status, rates })?;
            due = now + EVERY;
        }
        let stopped = term.recv().now_or_never().is_some() || int.recv().now_or_never().is_some();
        if stopped || tokio::task::block_in_place(wants_out)? {
            return Ok(Exit::Done);
        }
    }
}

async fn ask(ctx: &Context) -> Option<Status> {
    let asking = async { ctx.daemon().await?.get("/v1/status").await.ok() };
    tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
}

/// Waits a tenth of a second for a key: that is how the terminal was set.
fn wants_out() -> std::io::Result<bool> {
    let mut keys = [0; 64];
    match stdin().lock().read(&mut keys) {
        Ok(count) => Ok(keys.iter().take(count).any(|key| matches!(key, b'q' | b'Q'))),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// The terminal in our hands; dropping it gives it back as it was.
#[derive(Debug)]
struct Terminal {
    /// In the form that `stty` takes back.
    before: String,
}

impl Terminal {
    fn take() -> anyhow::Result<Self> {
        let before = stty(&["-g"])?.trim().to_owned();
        let terminal = Self { before };
        // Keys come at once and unseen; a read without one ends after 0.1 s.
        stty(&["-icanon", "-echo", "min", "0", "time", "1"])?;
        // The other screen, without a cursor.
        put("\x1b[?1049h\x1b[?25l")?;
        Ok(terminal)
    }

    #[expect(clippy::unused_self, reason = "only who holds the terminal may draw on it")]
    fn draw(&self, view: &View) -> anyhow::Result<()> {
        let (height, width) = size().unwrap_or(SIZE);
        let lines = screen(view, width, height);
        let mut text = String::new();
        for (row, line) in lines.iter().enumerate() {
            let _ = write!(text, "\x1b[{};1H\x1b[2K{line}", row + 1);
        }
        if lines.len() < height {
            let _ = write!(text, "\x1b[{};1H\x1b[J", lines.len() + 1);
        }
        put(&text)?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing helps if the terminal itself is gone.
        let _ = put("\x1b[?25h\x1b[?1049l");
        let _ = stty(&[&self.before]);
    }
}

fn put(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Rows and columns.
fn size() -> Option<(usize, usize)> {
    let told = stty(&["size"]).ok()?;
    let (rows, columns) = told.trim().split_once(' ')?;
    let size = (rows.parse().ok()?, columns.parse().ok()?);
    (size.0 > 0 && size.1 > 0).then_some(size)
}

/// `stty` on our terminal.
fn stty(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .context("cannot start `stty` (of coreutils)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`stty` cannot set this terminal: {said}");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
