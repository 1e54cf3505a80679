//! A line of a fixed rate between a server and who reads from it: the loopback interface of a network namespace of our
//! own under `tc tbf`, or, where the kernel denies that, the testkit's relay.
//!
//! - Invariant: nothing leaves the machine; the namespace is gone when the handle is.
//! - Not here: servers (`super::serve`, `super::importer`), what is read through the line (`super::wire`).

use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::lab;
use super::world::{Server, World};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A line, and which kind it is.
pub(super) enum Link {
    /// Everything that runs in this namespace speaks over its capped loopback interface.
    Namespace(String),
    /// Servers listen as ever, readers go through a relay.
    Relay(Box<World>),
}

/// A server and the address at which it is read.
pub(super) struct Served {
    child: Child,
    /// The relay, if there is one; it ends with this.
    relay: Option<Server>,
    /// `ADDRESS:PORT`, at the end of the line.
    pub(super) host: String,
}

impl Link {
    /// A line of so many Mbit/s.
    pub(super) fn of(mbit: u64) -> anyhow::Result<Self> {
        match namespace(mbit) {
            Ok(name) => Ok(Self::Namespace(name)),
            Err(why) => {
                super::say(&format!(
                    "# no namespace of our own here ({why:#}); a relay instead"
                ));
                Ok(Self::Relay(Box::new(World::build()?)))
            }
        }
    }

    /// What the rows call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "tbf in a namespace",
            Self::Relay(_) => "a relay",
        }
    }

    /// A program at the end of the line. It replaces itself by the program, so its process is that one.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Namespace(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
            Self::Relay(_) => Command::new(program),
        }
    }

    /// The namespace, for what starts its programs itself.
    pub(super) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Namespace(name) => Some(name),
            Self::Relay(_) => None,
        }
    }

    /// Starts a server that listens at `host` and gives it when it does.
    pub(super) fn serve(&self, command: &mut Command, host: &str, rate: u64) -> anyhow::Result<Served> {
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut served = Served {
            child,
            relay: None,
            host: host.to_owned(),
        };
        let until = Instant::now() + PATIENCE;
        while !self.listens(host)? {
            ensure!(served.child.try_wait()?.is_none(), "{command:?} ended");
            ensure!(Instant::now() < until, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Self::Relay(world) = self {
            let relay = world.line(host, rate)?;
            relay.address.clone_into(&mut served.host);
            served.relay = Some(relay);
        }
        Ok(served)
    }

    /// Whether somebody listens there, asked from where the server is.
    fn listens(&self, host: &str) -> anyhow::Result<bool> {
        match self {
            Self::Relay(_) => Ok(TcpStream::connect(host).is_ok()),
            Self::Namespace(_) => {
                let (address, port) = host.split_once(':').context("ADDRESS:PORT")?;
                let try_it = format!("exec 3<>/dev/tcp/{address}/{port}");
                let tried = self.command("bash").args(["-c", &try_it]).output()?;
                Ok(tried.status.success())
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Self::Namespace(name) = self {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.relay.take());
        lab::end(&mut self.child);
    }
}

fn namespace(mbit: u64) -> anyhow::Result<String> {
    let name = format!("pacstore-bench-{}", std::process::id());
    run("ip", &["netns", "add", &name])?;
    let rate = format!("{mbit}mbit");
    let capped = run("ip", &["-n", &name, "link", "set", "lo", "mtu", "1500", "up"]).and_then(|()| {
        let queue = ["rate", &rate, "burst", "256kb", "latency", "50ms"];
        run(
            "tc",
            &[
                &["-n", &name, "qdisc", "add", "dev", "lo", "root", "tbf"][..],
                &queue,
            ]
            .concat(),
        )
    });
    if let Err(error) = capped {
        let _ = run("ip", &["netns", "del", &name]);
        return Err(error);
    }
    Ok(name)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let out = Command::new(program).args(arguments).output()?;
    if !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// Bytes that a process's network namespace has sent over its loopback interface so far; nothing if it is ours.
pub(super) fn bytes_over_loopback(pid: u32) -> Option<u64> {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    // `ip` has not entered it yet, or there is none.
    if namespace(&pid.to_string())? == namespace("self")? {
        return None;
    }
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:"))?;
    line.split_whitespace().nth(8)?.parse().ok()
}
