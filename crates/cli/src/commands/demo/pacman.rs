//! The real pacman against node 2's gateway, in a throw-away root with a keyring of its own.
//!
//! - Invariant: nothing outside the demo's directory is read or written: not the
//!   machine's pacman.conf, database, cache or keyring.
//! - Not here: other people's repositories get `-Sw` only, because their packages
//!   run scripts.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fs_err as fs;
use tokio::process::Command;

use super::client::Client;
use super::fetching::database;
use super::repository::{HELLO, NEEDED, Sample};
use super::stage::{From, Stage};

/// How long one run of a program may take.
const DEADLINE: Duration = Duration::from_secs(45);

/// What came of it.
#[derive(Debug)]
pub(super) enum Ran {
    /// What pacman did.
    Did(Vec<String>),
    /// Why it was not run.
    Not(&'static str),
}

/// Runs pacman if it is installed and may do what it is asked.
pub(super) async fn run(stage: &Stage) -> anyhow::Result<Ran> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Ran::Not("it installs as root only"));
    }
    if !installed("pacman") {
        return Ok(Ran::Not("it is not installed"));
    }
    let root = Root::new(&stage.dir.join("root"))?;
    match &stage.from {
        Some(From::Sample(sample)) if installed("gpg") => {
            let ended = install(stage, sample, &root).await;
            root.close().await;
            Ok(Ran::Did(ended?))
        }
        Some(From::Sample(_)) => Ok(Ran::Not("gpg, which checks signatures for it, is not installed")),
        _ => Ok(Ran::Did(download(stage, &root).await?)),
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Installs a signed package and what it needs.
async fn install(stage: &Stage, sample: &Sample, root: &Root) -> anyhow::Result<Vec<String>> {
    let (key, fingerprint) = sample.public_key();
    root.keyring(&key, &fingerprint).await?;
    root.configure(stage, "Required TrustedOnly")?;
    root.pacman(&["-Sy"]).await?;
    root.pacman(&["-S", HELLO]).await?;
    let listed = root.pacman(&["-Q"]).await?;
    if !listed.contains(HELLO) || !listed.contains(NEEDED) {
        bail!("pacman did not install {HELLO} and {NEEDED}: {listed}");
    }
    let checked = root.pacman(&["-Qkk"]).await?;
    if checked.matches(", 0 altered files").count() != 2 {
        bail!("what pacman installed is not whole: {checked}");
    }
    let listed: Vec<&str> = listed.lines().collect();
    Ok(vec![
        format!("installed {} with SigLevel = Required", listed.join(" and ")),
        "-Qkk finds every file as packed".to_owned(),
    ])
}

/// Downloads the smallest package.
async fn download(stage: &Stage, root: &Root) -> anyhow::Result<Vec<String>> {
    let mut client = Client::new(stage.client.gateway()?, &stage.tasks);
    let (database, _) = database(stage, &mut client).await?;
    let smallest = database.entries.iter().min_by_key(|entry| entry.csize);
    let smallest = smallest.context("the repository is empty")?;
    root.configure(stage, "Never")?;
    root.pacman(&["-Sy"]).await?;
    root.pacman(&["-Sddw", &smallest.name]).await?;
    if !Path::new(&root.path("cache")).join(&*smallest.filename).is_file() {
        bail!("pacman did not download {}", smallest.filename);
    }
    Ok(vec![format!(
        "downloaded and checked {} (size and SHA-256; its keys are not here)",
        smallest.filename
    )])
}

/// A system that is nothing but directories.
#[derive(Debug)]
struct Root {
    dir: PathBuf,
}

impl Root {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        for name in ["root", "db", "cache", "hooks", "gpg"] {
            fs::create_dir_all(dir.join(name))?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// A keyring that trusts one key, without pacman-key.
    async fn keyring(&self, key: &[u8], fingerprint: &str) -> anyhow::Result<()> {
        // With this file there gpg uses the old format, which every pacman reads.
        fs::write(self.path("gpg/pubring.gpg"), "")?;
        let options = "lock-never\nno-permission-warning\nno-auto-check-trustdb\n";
        fs::write(self.path("gpg/gpg.conf"), options)?;
        fs::write(self.path("key.gpg"), key)?;
        fs::write(self.path("trust"), format!("{fingerprint}:6:\n"))?;
        let home = self.path("gpg");
        let gpg = ["--homedir", &home, "--batch"];
        let (key, trust) = (self.path("key.gpg"), self.path("trust"));
        program("gpg", &[&gpg[..], &["--import", &key]].concat()).await?;
        program("gpg", &[&gpg[..], &["--import-ownertrust", &trust]].concat()).await?;
        program("gpg", &[&gpg[..], &["--check-trustdb"]].concat()).await?;
        Ok(())
    }

    fn configure(&self, stage: &Stage, level: &str) -> anyhow::Result<()> {
        let text = format!(
            "[options]\nArchitecture = {}\nSigLevel = {level}\nCacheDir = {}/\n\n[{}]\n{}\n",
            stage.arch,
            self.path("cache"),
            stage.repo,
            stage.server()?
        );
        Ok(fs::write(self.path("pacman.conf"), text)?)
    }

    async fn pacman(&self, args: &[&str]) -> anyhow::Result<String> {
        let paths = [
            ("--config", "pacman.conf"),
            ("--root", "root"),
            ("--dbpath", "db"),
            ("--gpgdir", "gpg"),
            ("--hookdir", "hooks"),
            ("--logfile", "pacman.log"),
        ];
        let mut all: Vec<String> = ["--noconfirm", "--color", "never"].map(String::from).to_vec();
        for (option, name) in paths {
            all.extend([option.to_owned(), self.path(name)]);
        }
        all.extend(args.iter().map(ToString::to_string));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        program("pacman", &all).await
    }

    /// gpg may have started helpers for this keyring; they end with it.
    async fn close(&self) {
        if let Err(error) = program("gpgconf", &["--homedir", &self.path("gpg"), "--kill", "all"]).await {
            tracing::debug!(error = format!("{error:#}"), "gpgconf");
        }
    }
}

/// What `program` says; an error if it fails, with what it said.
async fn program(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output
        .with_context(|| format!("{program} does not end"))?
        .with_context(|| format!("cannot run {program}"))?;
    let out = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {out}{error}", args.join(" "));
    }
    Ok(out.into_owned())
}
