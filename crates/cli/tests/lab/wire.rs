//! Network namespaces on a bridge in one of them.
//!
//! - Invariant: all namespaces of a wire are gone when it is dropped.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pacstore_testkit::require;

/// One test at a time.
static SERIAL: Mutex<()> = Mutex::new(());

/// Numbers the wires of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A bridge, and the machines on it.
#[derive(Debug)]
pub(crate) struct Wire {
    prefix: String,
    names: Vec<String>,
    _serial: MutexGuard<'static, ()>,
}

fn ip(arguments: &[&str]) -> Result<Output, String> {
    let done = Command::new("ip").args(arguments).output();
    let done = done.map_err(|error| error.to_string())?;
    if done.status.success() {
        Ok(done)
    } else {
        Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
    }
}

impl Wire {
    /// An empty one; `None` (and a line) where the kernel denies it.
    pub(crate) fn new() -> Option<Self> {
        require("ip")?;
        let serial = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut wire = Self {
            prefix: format!("ps{}-{number}", std::process::id()),
            names: Vec::new(),
            _serial: serial,
        };
        if let Err(why) = wire.bridge() {
            eprintln!("skipped: no network namespaces here: {why}");
            return None;
        }
        Some(wire)
    }

    fn bridge(&mut self) -> Result<(), String> {
        let hub = self.add("hub")?;
        ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "br0", "up"])?;
        // A network of its own, for those who have a second interface.
        ip(&["-n", &hub, "link", "add", "br1", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "br1", "up"])?;
        Ok(())
    }

    fn add(&mut self, name: &str) -> Result<String, String> {
        let full = format!("{}-{name}", self.prefix);
        ip(&["netns", "add", &full])?;
        self.names.push(full.clone());
        ip(&["-n", &full, "link", "set", "lo", "up"])?;
        Ok(full)
    }

    /// A machine with these addresses (`10.0.0.1/24`); the name of its namespace.
    #[track_caller]
    pub(crate) fn machine(&mut self, name: &str, addresses: &[&str]) -> String {
        let made = self.plug(name, addresses);
        made.unwrap_or_else(|why| panic!("{name}: {why}"))
    }

    /// The same in the second network.
    #[track_caller]
    pub(crate) fn on_second(&mut self, name: &str, address: &str) -> String {
        let made = self.add(name).and_then(|ns| {
            self.cable(&ns, &format!("p-{name}"), "br1", "eth0", &[address])?;
            Ok(ns)
        });
        made.unwrap_or_else(|why| panic!("{name}: {why}"))
    }

    /// Gives a machine `eth1` in the second network.
    #[track_caller]
    pub(crate) fn second(&self, name: &str, address: &str) {
        let ns = format!("{}-{name}", self.prefix);
        let made = self.cable(&ns, &format!("q-{name}"), "br1", "eth1", &[address]);
        made.unwrap_or_else(|why| panic!("{name}: {why}"));
    }

    fn plug(&mut self, name: &str, addresses: &[&str]) -> Result<String, String> {
        let ns = self.add(name)?;
        self.cable(&ns, &format!("p-{name}"), "br0", "eth0", addresses)?;
        Ok(ns)
    }

    /// From a port of a bridge to an interface of a machine.
    fn cable(
        &self,
        ns: &str,
        port: &str,
        bridge: &str,
        interface: &str,
        addresses: &[&str],
    ) -> Result<(), String> {
        let hub = format!("{}-hub", self.prefix);
        ip(&[
            "-n", &hub, "link", "add", port, "type", "veth", "peer", "name", interface, "netns", ns,
        ])?;
        ip(&["-n", &hub, "link", "set", port, "master", bridge, "up"])?;
        for address in addresses {
            // Without `nodad` an IPv6 address is not to be used for a second.
            let flag = if address.contains(':') {
                &["nodad"][..]
            } else {
                &[]
            };
            ip(&[&["-n", ns, "addr", "add", address, "dev", interface][..], flag].concat())?;
        }
        ip(&["-n", ns, "link", "set", interface, "up"])?;
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(why) = ip(&["netns", "del", name]) {
                eprintln!("the namespace {name} stays: {why}");
            }
        }
    }
}

/// A command in a namespace. It replaces itself by the program, so its process is that one.
pub(crate) fn inside(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}
