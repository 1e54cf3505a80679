//! Nodes to measure: the release binary with a home of its own, run as a child.
//!
//! - Invariant: a child is ended by its process id when its handle goes.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Args;

/// The mirror's NAME in all benchmarks.
pub(super) const NAME: &str = "bench.test";

/// How long a child may take to get ready or to end.
const DEADLINE: Duration = Duration::from_mins(10);

/// Builds what is measured and makes the directory for it.
pub(super) fn prepare(args: &Args) -> anyhow::Result<(PathBuf, tempfile::TempDir)> {
    let bin = match &args.bin {
        Some(bin) => bin.clone(),
        None => build(&["--package", "pacstore"])?.join("pacstore"),
    };
    let dir = tempfile::Builder::new()
        .prefix("pacstore-bench-")
        .tempdir_in(&args.dir)?;
    Ok((bin, dir))
}

/// Builds something in release mode and gives the directory with the result.
pub(super) fn build(what: &[&str]) -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release"]).args(what).current_dir(&root);
    ensure!(cargo.status()?.success(), "cannot build {what:?}");
    // This program lies where the others do.
    let own = std::env::current_exe()?;
    Ok(own.parent().context("a program lies in a directory")?.to_owned())
}

/// The home of a node.
#[derive(Debug)]
pub(super) struct Home {
    bin: PathBuf,
    dir: PathBuf,
    /// The network namespace that its programs run in.
    namespace: Option<String>,
}

impl Home {
    /// A node that imports `from`; `more` goes into its `[[import]]`.
    pub(super) fn importer(bin: &Path, dir: &Path, from: &Path, more: &str) -> anyhow::Result<Self> {
        let import = format!(
            "\n[[import]]\nmirror = \"{NAME}\"\nfrom = \"{}\"\nkey = \"signs\"\nevery = \"manual\"\n{more}\n",
            from.display()
        );
        let home = Self::new(bin, dir, "", "")?;
        home.run(&["key", "new", "signs"])?;
        home.configure("", &import)?;
        Ok(home)
    }

    /// A node that imports `0.NAME`, `1.NAME` and so on, one from each of these folders, when its daemon starts.
    pub(super) fn importer_of(bin: &Path, dir: &Path, from: &[PathBuf], more: &str) -> anyhow::Result<Self> {
        let import = |(number, from): (usize, &PathBuf)| {
            format!(
                "\n[[import]]\nmirror = \"{number}.{NAME}\"\nfrom = \"{}\"\nkey = \"signs{number}\"\nevery = \"1h\"\n{more}\n",
                from.display()
            )
        };
        let imports: String = from.iter().enumerate().map(import).collect();
        let home = Self::new(bin, dir, "", "")?;
        for number in 0..from.len() {
            home.run(&["key", "new", &format!("signs{number}")])?;
        }
        home.configure("", &imports)?;
        Ok(home)
    }

    /// A node that follows the importer with `key` at the multiaddr `peer`.
    pub(super) fn client(bin: &Path, dir: &Path, key: &str, peer: &str) -> anyhow::Result<Self> {
        Self::new(
            bin,
            dir,
            &format!("\"{peer}\""),
            &format!("\n[[mirror]]\nname = \"{NAME}\"\nimporters = [\"{key}\"]\n"),
        )
    }

    /// A node with these peers and these further lines of configuration.
    pub(super) fn new(bin: &Path, dir: &Path, peers: &str, more: &str) -> anyhow::Result<Self> {
        let home = Self {
            bin: bin.to_owned(),
            dir: dir.to_owned(),
            namespace: None,
        };
        fs::DirBuilder::new().recursive(true).create(dir)?;
        home.configure(peers, more)?;
        Ok(home)
    }

    /// The same node in a network namespace.
    pub(super) fn inside(mut self, namespace: Option<&str>) -> Self {
        self.namespace = namespace.map(str::to_owned);
        self
    }

    /// Where all of it lies.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn configure(&self, peers: &str, more: &str) -> anyhow::Result<()> {
        let text = format!(
            "[gateway]\nlisten = \"127.0.0.1:0\"\n\n[swarm]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
             bootstrap = []\nmdns = false\ndht = \"off\"\npeers = [{peers}]\n\n[store]\nmax_size = \"100GB\"\n{more}"
        );
        Ok(fs::write(self.dir.join("pacstore.toml"), text)?)
    }

    fn command(&self, args: &[&str]) -> Command {
        // `ip` replaces itself by the program, so the process is that one.
        let mut command = match &self.namespace {
            None => Command::new(&self.bin),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(&self.bin);
                command
            }
        };
        command
            .arg("--home")
            .arg(&self.dir)
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end and gives what it printed.
    pub(super) fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let out = self.command(args).output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "pacstore {args:?} failed: {said}");
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Imports once: seconds and peak memory in MB. `codes` are the exit codes that are fine.
    pub(super) fn import(&self, codes: &[i32]) -> anyhow::Result<(f64, f64)> {
        self.import_watched(codes, |_| ())
    }

    /// The same; `look` is called with the process's number every few milliseconds.
    pub(super) fn import_watched(
        &self,
        codes: &[i32],
        mut look: impl FnMut(u32),
    ) -> anyhow::Result<(f64, f64)> {
        let log = File::create(self.dir.join("import.log"))?;
        let start = Instant::now();
        let mut child = self
            .command(&["import", NAME, "--once"])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut most = 0.0_f64;
        let code = loop {
            most = most.max(peak_mb(child.id()));
            look(child.id());
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = start.elapsed().as_secs_f64();
        let said = || fs::read_to_string(self.dir.join("import.log")).unwrap_or_default();
        ensure!(
            code.is_some_and(|code| codes.contains(&code)),
            "import ended with {code:?}: {}",
            said()
        );
        Ok((took, most))
    }

    /// The key that signs what an importer publishes.
    pub(super) fn key(&self) -> anyhow::Result<String> {
        self.run(&["key", "show", "signs"])
    }

    /// Bytes of the store's index.
    pub(super) fn index_bytes(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(self.dir.join("state/store/index.redb"))?.len())
    }

    /// Starts the daemon and waits until it is ready.
    pub(super) fn start(&self) -> anyhow::Result<Daemon> {
        let log = File::create(self.dir.join("daemon.log"))?;
        let mut child = self
            .command(&["daemon"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let mut daemon = Daemon {
            child,
            gateway: String::new(),
        };
        let mut line = String::new();
        out.read_line(&mut line)?;
        let gateway = line
            .split(' ')
            .find_map(|word| word.strip_prefix("gateway=http://"));
        let Some(gateway) = gateway else {
            bail!(
                "no ready line but `{line}`: {}",
                fs::read_to_string(self.dir.join("daemon.log"))?
            );
        };
        gateway.clone_into(&mut daemon.gateway);
        Ok(daemon)
    }

    /// Waits until the running daemon knows the head of mirror `number` of [`Self::importer_of`].
    pub(super) fn await_head(&self, number: usize) -> anyhow::Result<()> {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.run(&["resolve", &format!("{number}.{NAME}")]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Waits until the running daemon is connected to so many peers.
    pub(super) fn await_peers(&self, count: usize) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_mins(1);
        let wanted = format!("\"peers\": {count}");
        while !self.run(&["status", "--json"])?.contains(&wanted) {
            ensure!(Instant::now() < until, "not connected to {count} peers");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The first multiaddr that a running daemon of this home listens on.
    pub(super) fn address(&self) -> anyhow::Result<String> {
        let id = self.run(&["id", "--json"])?;
        let start = id.find("/ip4/").context("the daemon listens")?;
        Ok(id[start..].split('"').next().unwrap_or_default().to_owned())
    }
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    /// `ADDRESS:PORT` of its gateway.
    pub(super) gateway: String,
}

impl Daemon {
    /// The most memory it had resident so far, in MB.
    pub(super) fn peak_mb(&self) -> f64 {
        peak_mb(self.child.id())
    }

    /// Its resident memory now, in MB.
    pub(super) fn resident_mb(&self) -> f64 {
        memory_mb(self.child.id(), "VmRSS:")
    }

    /// Bytes that it had written to the disk so far.
    pub(super) fn bytes_written(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(line.context("the kernel counts writes")?.trim().parse()?)
    }

    /// Seconds of processor time that it used so far.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let ticks: f64 = after
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<f64>().ok())
            .sum();
        ticks / 100.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a child in order, or by force if it does not.
pub(super) fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let until = Instant::now() + Duration::from_secs(10).min(DEADLINE);
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The most memory that a process had resident, in MB (10^6 bytes).
fn peak_mb(pid: u32) -> f64 {
    memory_mb(pid, "VmHWM:")
}

fn memory_mb(pid: u32, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0 / 1e6
}
