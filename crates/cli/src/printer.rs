//! What a command prints: data on stdout, everything else on stderr.
//!
//! - Invariant: with `--json` stdout is one JSON document (or one a line where a verb
//!   says so) and nothing else.
//! - Invariant: a closed stdout (`| head`) ends the command quietly.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

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

    /// One line of data.
    #[expect(clippy::unused_self, reason = "all that is printed goes through the printer")]
    pub(crate) fn line(&self, line: impl Display) {
        let mut out = io::stdout().lock();
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            // Nobody reads any more.
            std::process::exit(0);
        }
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

    /// A bar on terminals, nothing elsewhere.
    pub(crate) fn bar(&self, what: &'static str, total: u64) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template(
            "{prefix:>10} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        bar
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
