//! What a command prints: data on stdout, everything else on stderr.
//!
//! - Invariant: with `--json` stdout is one JSON document (or one a line where a verb
//!   says so) and nothing else.
//! - Invariant: a closed stdout (`| head`) ends the command quietly; one that takes no more (a full disk) is a failure.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Where and how a command prints.
#[derive(Debug)]
pub(crate) struct Printer {
    json: bool,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// `--json` was given.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// One line of data. Where it cannot be written the process ends here.
    pub(crate) fn line(&self, line: impl Display) {
        self.bytes(line.to_string().as_bytes());
    }

    /// One line of data that need not be UTF-8, such as the name of a file.
    pub(crate) fn bytes(&self, line: &[u8]) {
        if let Err(error) = self.try_bytes(line) {
            self.leave(&error);
        }
    }

    /// As [`Self::line`], for who has something to clear away before [`Self::leave`].
    pub(crate) fn try_line(&self, line: impl Display) -> io::Result<()> {
        self.try_bytes(line.to_string().as_bytes())
    }

    #[expect(clippy::unused_self, reason = "all that is printed goes through the printer")]
    fn try_bytes(&self, line: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(line)?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Ends the process, whose data nobody takes.
    #[expect(clippy::unused_self, reason = "all that is printed goes through the printer")]
    pub(crate) fn leave(&self, error: &io::Error) -> ! {
        // Nobody reads any more.
        if error.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        let _ = writeln!(io::stderr(), "error: cannot write to stdout: {error}");
        std::process::exit(1)
    }

    /// Data: as JSON, or as `human` writes it.
    pub(crate) fn data<T: Serialize>(
        &self,
        data: &T,
        human: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            self.line(serde_json::to_string_pretty(data)?);
        } else {
            let text = human(data);
            if !text.is_empty() {
                self.line(text.trim_end());
            }
        }
        Ok(())
    }

    /// A word on the side.
    #[expect(clippy::unused_self, reason = "all that is printed goes through the printer")]
    pub(crate) fn note(&self, note: impl Display) {
        let _ = writeln!(io::stderr(), "{note}");
    }

    /// A bar on terminals; elsewhere a line now and then, so that a log shows that something goes on.
    pub(crate) fn bar(&self, what: &'static str, total: u64) -> Bar {
        if self.json || !io::stderr().is_terminal() {
            let bar = ProgressBar::hidden();
            bar.set_length(total);
            let lines = (!self.json).then(|| Lines::new(what, Instant::now()));
            return Bar {
                bar,
                lines: lines.map(Mutex::new),
            };
        }
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template(
            "{prefix:>10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        Bar { bar, lines: None }
    }
}

/// How far something is: a bar, lines, or nothing.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    lines: Option<Mutex<Lines>>,
}

impl Bar {
    pub(crate) fn set_length(&self, length: u64) {
        self.bar.set_length(length);
    }

    pub(crate) fn set_position(&self, position: u64) {
        self.bar.set_position(position);
        self.tell();
    }

    pub(crate) fn inc(&self, by: u64) {
        self.bar.inc(by);
        self.tell();
    }

    pub(crate) fn set_message(&self, message: String) {
        self.bar.set_message(message);
    }

    pub(crate) fn finish_and_clear(&self) {
        self.bar.finish_and_clear();
    }

    fn tell(&self) {
        let Some(lines) = &self.lines else { return };
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        if let Some(line) = lines.next(done, all, Instant::now()) {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

/// What is told where there is no terminal: at most one line in [`BETWEEN`], and none of what is over sooner.
#[derive(Debug)]
struct Lines {
    what: &'static str,
    told: Instant,
    /// Bytes that were done then.
    done: u64,
}

/// Between two lines.
const BETWEEN: Duration = Duration::from_secs(30);

impl Lines {
    fn new(what: &'static str, now: Instant) -> Self {
        Self {
            what,
            told: now,
            done: 0,
        }
    }

    /// The line that is due, if one is.
    fn next(&mut self, done: u64, all: u64, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.told) < BETWEEN || done == self.done {
            return None;
        }
        (self.told, self.done) = (now, done);
        Some(match done.saturating_mul(100).checked_div(all) {
            Some(percent) => {
                let what = self.what;
                format!("{what}: {} of {} ({percent} %)", bytes(done), bytes(all))
            }
            None => format!("{}: {}", self.what, bytes(done)),
        })
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Seconds as people read them.
pub(crate) fn seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_a_line_comes_now_and_then_and_none_of_what_is_over_soon() {
        let begin = Instant::now();
        let mut lines = Lines::new("checking", begin);
        let mut told = Vec::new();
        // A hundred steps in a second, then one in each second.
        for step in 0..100 {
            told.extend(lines.next(step, 10_000, begin + Duration::from_millis(10 * step)));
        }
        assert_eq!(told, Vec::<String>::new());
        for second in 1..=90 {
            told.extend(lines.next(100 * second, 10_000, begin + Duration::from_secs(second)));
        }
        assert_eq!(
            told,
            [
                "checking: 3.0 kB of 10.0 kB (30 %)",
                "checking: 6.0 kB of 10.0 kB (60 %)",
                "checking: 9.0 kB of 10.0 kB (90 %)"
            ]
        );
        // Nothing moves: nothing is said; and without a length there is no percentage.
        let later = begin + Duration::from_mins(5);
        assert_eq!(lines.next(9000, 10_000, later), None);
        assert_eq!(lines.next(9001, 0, later).as_deref(), Some("checking: 9.0 kB"));
    }
}
