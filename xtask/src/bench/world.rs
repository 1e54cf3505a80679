//! What stands around a node: mirrors and lines with a rate (the testkit's `lab`), and curl.
//!
//! - Invariant: a server ends with its handle.
//! - Not here: nodes (`super::lab`).

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::lab;

/// The testkit's `lab`, built.
#[derive(Debug)]
pub(super) struct World(PathBuf);

/// A mirror or a line; it obeys a line at a time.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// `http://ADDRESS:PORT/` of a mirror, `ADDRESS:PORT` of a line.
    pub(super) address: String,
}

impl World {
    pub(super) fn build() -> anyhow::Result<Self> {
        let dir = lab::build(&["--package", "pacstore-testkit", "--example", "lab"])?;
        Ok(Self(dir.join("examples/lab")))
    }

    /// A signed repository `lab` of these packages and sizes in bytes.
    pub(super) fn repository(&self, dir: &Path, packages: &[(String, u64)]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.0);
        command.arg("repo").arg(dir).arg(dir.with_extension("gpg"));
        command.args(packages.iter().map(|(name, size)| format!("{name}={size}")));
        ensure!(
            command.status()?.success(),
            "no repository in `{}`",
            dir.display()
        );
        Ok(())
    }

    /// A mirror of `dir` that gives `rate` bytes a second in all (0 = no limit).
    pub(super) fn mirror(&self, dir: &Path, rate: u64) -> anyhow::Result<Server> {
        self.serve(&["upstream", &dir.to_string_lossy(), &rate.to_string()])
    }

    /// A line to `target` of `rate` bytes a second each way.
    pub(super) fn line(&self, target: &str, rate: u64) -> anyhow::Result<Server> {
        self.serve(&["relay", target, &rate.to_string()])
    }

    fn serve(&self, arguments: &[&str]) -> anyhow::Result<Server> {
        let mut child = Command::new(&self.0)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.as_mut().context("a pipe was asked for")?;
        BufReader::new(out).read_line(&mut line)?;
        ensure!(!line.is_empty(), "{arguments:?} does not start");
        let address = line.trim().to_owned();
        Ok(Server { child, address })
    }
}

impl Server {
    /// Another rate from now on.
    pub(super) fn rate(&mut self, rate: u64) -> anyhow::Result<()> {
        let orders = self.child.stdin.as_mut().context("a pipe was asked for")?;
        writeln!(orders, "rate {rate}")?;
        Ok(orders.flush()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        lab::end(&mut self.child);
    }
}

/// What curl needed for a set of files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetched {
    pub(super) seconds: f64,
    pub(super) bytes: u64,
}

/// Gets `base` + each name with curl, `at_once` at a time, as pacman does: following redirects. Throws the bytes away.
pub(super) fn curl(base: &str, names: &[&str], at_once: usize, dir: &Path) -> anyhow::Result<Fetched> {
    let mut config = String::new();
    for name in names {
        let _ = writeln!(config, "url = \"{base}{name}\"\noutput = \"/dev/null\"");
    }
    let list = dir.join("curl.config");
    std::fs::write(&list, config)?;
    let begun = Instant::now();
    let out = Command::new("curl")
        .args([
            "-sSfL",
            "-Z",
            "--parallel-max",
            &at_once.to_string(),
            "-w",
            "%{size_download}\\n",
            "-K",
        ])
        .arg(&list)
        .output()?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(
        out.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    let bytes = told.lines().filter_map(|line| line.parse::<u64>().ok()).sum();
    Ok(Fetched { seconds, bytes })
}

/// Seconds until the first byte of a URL, and its redirects.
pub(super) fn first_byte(url: &str) -> anyhow::Result<(f64, u32)> {
    let out = Command::new("curl")
        .args([
            "-sSfL",
            "-o",
            "/dev/null",
            "-w",
            "%{time_starttransfer} %{num_redirects}",
            url,
        ])
        .output()?;
    ensure!(
        out.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (seconds, redirects) = text.split_once(' ').context("curl tells two numbers")?;
    Ok((seconds.parse()?, redirects.parse()?))
}
