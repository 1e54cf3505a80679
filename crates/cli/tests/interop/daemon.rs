//! A real `pacstore daemon` in a home of its own, and what is asked of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fs_err as fs;
use pacstore_testkit::TestResult;
use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::get_all;
use crate::process::{Given, Running, output};
use crate::tree::Listing;

/// The mirror that an importer publishes.
pub(crate) const NAME: &str = "interop.example";

/// Longest time until a daemon serves, or a verb has ended.
const DEADLINE: Duration = Duration::from_mins(1);

/// A daemon under way.
#[derive(Debug)]
pub(crate) struct Daemon {
    home: TempDir,
    gateway: SocketAddr,
    /// The key it publishes under, if it imports.
    pub(crate) key: String,
    _running: Running,
}

/// What was published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) tree: String,
}

impl Daemon {
    /// One that imports `tree` whole, once it is told to.
    pub(crate) fn importer(tree: &Path) -> Given<Self> {
        let import = format!(
            "[[import]]\nmirror = \"{NAME}\"\nfrom = \"{}\"\nkey = \"main\"\nfiles = \"all\"\nevery = \"manual\"\n",
            tree.display()
        );
        Self::start(&[], &import)
    }

    /// One that stays connected to `peers` and asks them for whatever it is asked for.
    pub(crate) fn client(peers: &[String]) -> Given<Self> {
        Self::start(peers, "")
    }

    fn start(peers: &[String], more: &str) -> Given<Self> {
        let home = tempfile::tempdir()?;
        let key = output(verb(home.path(), &["key", "new", "main"]), DEADLINE)?;
        let peers = serde_json::to_string(peers)?;
        let config = format!(
            "[gateway]\nlisten = \"127.0.0.1:0\"\nopen = true\n[swarm]\n\
             listen = [\"/ip4/127.0.0.1/tcp/0\", \"/ip4/127.0.0.1/udp/0/quic-v1\"]\n\
             bootstrap = []\npeers = {peers}\nmdns = false\n{more}"
        );
        fs::write(home.path().join("pacstore.toml"), config)?;
        let mut command = verb(home.path(), &["daemon"]);
        command.env("PACSTORE_LOG", "info,pacstore_node=debug,pacstore_net=debug");
        let mut running = Running::start("pacstore daemon", command)?;
        let ready = running.line_with("ready gateway=http://", DEADLINE)?;
        let gateway = ready
            .split("gateway=http://")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .ok_or("no address on the ready line")?
            .parse()?;
        Ok(Self {
            home,
            gateway,
            key: key.trim().to_owned(),
            _running: running,
        })
    }

    /// Imports what is upstream now.
    pub(crate) fn import(&self) -> Given<Published> {
        let told = self.json(&["import", NAME, "--once"])?;
        let tree = told["tree"].as_str().ok_or("no tree was published")?.to_owned();
        Ok(Published { tree })
    }

    /// Its address whose text holds `transport`, with its peer id.
    pub(crate) fn address(&self, transport: &str) -> Given<String> {
        let told = self.json(&["id"])?;
        let all = told["addresses"].as_array().ok_or("no addresses")?;
        let found = all
            .iter()
            .filter_map(Value::as_str)
            .find(|address| address.contains(transport));
        Ok(found
            .ok_or_else(|| format!("{told} has no {transport}"))?
            .to_owned())
    }

    /// Waits until a peer is connected.
    pub(crate) fn connected(&self) -> TestResult {
        let until = Instant::now() + DEADLINE;
        while self.json(&["status"])?["peers"].as_u64() == Some(0) {
            assert!(Instant::now() < until, "no peer is connected");
        }
        Ok(())
    }

    /// What a verb says with `--json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Given<Value> {
        let mut command = verb(self.home.path(), arguments);
        command.arg("--json");
        Ok(serde_json::from_str(&output(command, DEADLINE)?)?)
    }

    /// The bytes that `pacstore get` of `path` brings.
    pub(crate) fn get(&self, path: &str) -> Given<Vec<u8>> {
        let to = self.home.path().join("got");
        let mut command = verb(self.home.path(), &["get", path, "-o"]);
        command.arg(&to);
        output(command, DEADLINE)?;
        let bytes = fs::read(&to)?;
        fs::remove_file(&to)?;
        Ok(bytes)
    }

    /// All of `wanted` as its gateway has it below `root`.
    pub(crate) fn get_all(&self, root: &str, wanted: &Listing) -> Given<Listing> {
        get_all(self.gateway, root, wanted)
    }
}

/// The CIDs that `pacstore cid` gives `paths`.
pub(crate) fn cids(profile: &str, paths: &[PathBuf]) -> Given<Vec<String>> {
    let mut command = verb(
        Path::new("/nonexistent"),
        &["cid", "--hidden", "--profile", profile],
    );
    command.args(paths);
    let told = output(command, DEADLINE)?;
    let first = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    Ok(told
        .lines()
        .map(first)
        .filter(|cid| cid.starts_with('b'))
        .collect())
}

fn verb(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacstore"));
    command
        .arg("--home")
        .arg(home)
        .args(arguments)
        .env_remove("PACSTORE_HOME");
    command
}
