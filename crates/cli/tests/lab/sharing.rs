//! Three machines of one LAN update at once: what comes over the line comes once.
//!
//! - Not here: what neighbours that lie achieve (`crates/node/tests/it/share.rs`).

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use pacstore_testkit::{Repo, RepoSpec, TestResult, random, require};

use crate::machine::{Machine, gateway, output, until};
use crate::wire::{Wire, inside};

const NAME: &str = "update.example";

/// Files as a `pacman -Syu` has them: many small, some larger.
fn files() -> Vec<(String, Vec<u8>)> {
    let small = (0..20).map(|n| (format!("small-{n:02}"), 150_000 + 20_000 * n));
    let large = (0..6).map(|n| (format!("large-{n}"), 1_500_000 + 900_000 * n));
    let all = small.chain(large).enumerate();
    all.map(|(seed, (name, len))| (name, random(seed as u64, len).to_vec()))
        .collect()
}

/// An ordinary mirror in a namespace; ends when dropped.
struct Nginx {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start(namespace: &str, root: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let conf = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; server {{ listen 203.0.113.1:80; root {root}; limit_rate 3m; }} }}\n",
            root = root.display()
        );
        std::fs::write(folder.path().join("conf"), conf).unwrap();
        let mut command = inside(namespace, "nginx");
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("conf"));
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        Self {
            child,
            _folder: folder,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that a machine has sent so far, headers of all layers included.
fn sent(namespace: &str) -> u64 {
    let mut command = inside(namespace, "cat");
    command.arg("/sys/class/net/eth0/statistics/tx_bytes");
    let text = String::from_utf8(output(command).stdout).unwrap();
    text.trim().parse().unwrap()
}

/// Gets all files through the gateway of a machine, five at a time in their order, as pacman does.
fn update(namespace: &str, gateway: &str, set: &[(String, Vec<u8>)], to: &Path) {
    let mut command = inside(namespace, "curl");
    command.args(["-s", "-f", "-Z", "--parallel-max", "5", "--max-time", "100"]);
    for (name, _) in set {
        command.arg("-o").arg(to.join(name));
        command.arg(format!("{gateway}/ipns/{NAME}/{name}"));
    }
    let done = output(command);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for (name, bytes) in set {
        assert!(std::fs::read(to.join(name)).unwrap() == *bytes, "{name}");
    }
}

#[test]
fn three_machines_that_update_at_once_bring_it_over_the_line_once() -> TestResult {
    let programs = [require("curl"), require("nginx"), require("tc")];
    if programs.iter().any(Option::is_none) {
        return Ok(());
    }
    let Some(mut wire) = Wire::new() else {
        return Ok(());
    };
    let outside = wire.machine("out", &["203.0.113.1/24"]);
    let folder = tempfile::tempdir()?;
    let set = files();
    for (name, bytes) in &set {
        std::fs::write(folder.path().join(name), bytes)?;
    }
    let mirror = Nginx::start(&outside, folder.path());
    // The importer is outside, too; what it sends counts as well.
    let mut importer = Machine::new(outside.clone());
    let quiet = "[gateway]\nlisten = \"127.0.0.1:0\"\n[swarm]\nbootstrap = []\n";
    let base = format!("{quiet}listen = [\"/ip4/203.0.113.1/tcp/4001\"]\nmdns = false\n");
    importer.configure(&base);
    importer.run(&["key", "new", "k"]);
    let from = folder.path().display();
    importer.configure(&format!(
        "{base}[[import]]\nmirror = \"{NAME}\"\nfrom = \"{from}\"\nkey = \"k\"\nfiles = \"all\"\nevery = \"manual\"\n"
    ));
    importer.run(&["import", NAME, "--once"]);
    let key = importer.run(&["key", "show", "k"]);
    let ready = importer.start();
    let id = ready.rsplit('=').next().unwrap();

    let mut machines = Vec::new();
    for number in 1..=3 {
        let addresses = [format!("10.77.0.{number}/24"), format!("203.0.113.1{number}/24")];
        let addresses = [addresses[0].as_str(), addresses[1].as_str()];
        let mut machine = Machine::new(wire.machine(&format!("m{number}"), &addresses));
        // They find each other by multicast DNS alone.
        machine.configure(&format!(
            "{quiet}listen = [\"/ip4/10.77.0.{number}/tcp/4001\", \"/ip4/203.0.113.1{number}/tcp/4001\"]\n\
             peers = [\"/ip4/203.0.113.1/tcp/4001/p2p/{id}\"]\n\
             [[mirror]]\nname = \"{NAME}\"\nimporters = [\"{key}\"]\nupstreams = [\"http://203.0.113.1/\"]\nlayout = \"plain\"\n"
        ));
        let gateway = gateway(&machine.start());
        machines.push((machine, gateway));
    }
    for (machine, _) in &machines {
        until("it follows, and has found the others", || {
            let status = machine.json(&["status", "--json"]);
            let follows = status["mirrors"][0]["tree"].is_string();
            (follows && status["peers"].as_u64() >= Some(3)).then_some(())
        });
    }
    let before = sent(&outside);
    let places: Vec<_> = machines.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    std::thread::scope(|scope| {
        for ((machine, gateway), to) in machines.iter().zip(&places) {
            let set = &set;
            scope.spawn(move || update(&machine.namespace, gateway, set, to.path()));
        }
    });
    let total: usize = set.iter().map(|(_, bytes)| bytes.len()).sum();
    let ratio = (sent(&outside) - before) as f64 / total as f64;
    let bytes: Vec<_> = machines
        .iter()
        .map(|(machine, _)| machine.json(&["status", "--json"])["bytes"].to_string())
        .collect();
    eprintln!("three machines: {ratio:.3} times the set ({total} bytes) came from outside: {bytes:?}");
    assert!(
        ratio <= 1.1,
        "{ratio:.3} times the set came from outside: {bytes:?}"
    );
    drop(mirror);
    Ok(())
}

/// pacman in an empty system of its own.
struct Pacman {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Pacman {
    fn new(program: &Path, server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["root", "db", "cache", "gpg", "hooks"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let text = format!(
            "[options]\nArchitecture = x86_64\nSigLevel = Never\n[core]\nServer = {server}/pacman/$repo/$arch\n"
        );
        std::fs::write(folder.path().join("pacman.conf"), text).unwrap();
        Self {
            program: program.to_owned(),
            folder,
        }
    }

    /// Runs it in a namespace; it has to do without a complaint.
    #[track_caller]
    fn run(&self, namespace: &str, arguments: &[&str]) {
        let mut command = inside(namespace, &self.program);
        for (flag, name) in [
            ("--config", "pacman.conf"),
            ("--root", "root"),
            ("--dbpath", "db"),
            ("--cachedir", "cache"),
            ("--gpgdir", "gpg"),
            ("--hookdir", "hooks"),
            ("--logfile", "log"),
        ] {
            command.arg(flag).arg(self.folder.path().join(name));
        }
        command.args(["--noconfirm", "--noprogressbar"]).args(arguments);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        let done = output(command);
        let said = String::from_utf8_lossy(&done.stderr);
        let complains = ["error", "warning", "slow"]
            .iter()
            .any(|word| said.contains(word));
        assert!(done.status.success() && !complains, "{arguments:?}: {said}");
    }

    fn cached(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join("cache").join(name)).unwrap()
    }
}

/// Machines without importer that know each other, and their gateways.
fn house(wire: &mut Wire) -> Vec<(Machine, String)> {
    let mut machines = Vec::new();
    for number in 1..=3 {
        let addresses = [format!("10.77.0.{number}/24"), format!("203.0.113.1{number}/24")];
        let addresses = [addresses[0].as_str(), addresses[1].as_str()];
        let mut machine = Machine::new(wire.machine(&format!("m{number}"), &addresses));
        machine.configure(&format!(
            "[gateway]\nlisten = \"127.0.0.1:0\"\n[swarm]\nbootstrap = []\nlisten = [\"/ip4/10.77.0.{number}/tcp/4001\"]\n\
             [[repository]]\nname = \"core\"\nupstreams = [\"http://203.0.113.1/\"]\npublic = true\n"
        ));
        let gateway = gateway(&machine.start());
        machines.push((machine, gateway));
    }
    for (machine, _) in &machines {
        until("it has found the others", || {
            let status = machine.json(&["status", "--json"]);
            (status["peers"].as_u64() >= Some(2)).then_some(())
        });
    }
    machines
}

/// No byte of a package without importer is given before all of it was checked, and pacman waits ten seconds for one.
#[test]
fn three_machines_without_importer_bring_a_package_once_that_takes_longer_than_pacman_waits() -> TestResult {
    let programs = [require("pacman"), require("nginx"), require("tc")];
    let newer = std::env::var_os("PACSTORE_PACMAN71").map(PathBuf::from);
    let [Some(pacman), Some(_), Some(_)] = programs else {
        return Ok(());
    };
    let Some(mut wire) = Wire::new() else {
        return Ok(());
    };
    let outside = wire.machine("out", &["203.0.113.1/24"]);
    let mut slower = inside(&outside, "tc");
    slower.args(["qdisc", "add", "dev", "eth0", "root", "tbf"]);
    slower.args(["rate", "8mbit", "burst", "64k", "latency", "200ms"]);
    assert!(output(slower).status.success());
    let folder = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("first", 13_000_000)
        .package("second", 14_000_000);
    let repo = Repo::create(folder.path(), spec)?;
    let mirror = Nginx::start(&outside, folder.path());
    let machines = house(&mut wire);
    for (pacman, package) in std::iter::once(pacman).chain(newer).zip(["first", "second"]) {
        let pacmans: Vec<Pacman> = machines
            .iter()
            .map(|(_, gateway)| Pacman::new(&pacman, gateway))
            .collect();
        for ((machine, _), pacman) in machines.iter().zip(&pacmans) {
            pacman.run(&machine.namespace, &["-Sy"]);
        }
        let before = sent(&outside);
        std::thread::scope(|scope| {
            for ((machine, _), pacman) in machines.iter().zip(&pacmans) {
                scope.spawn(|| pacman.run(&machine.namespace, &["-Sw", package]));
            }
        });
        let (name, wanted) = (repo.file_name(package)?, repo.bytes(package)?);
        let ratio = (sent(&outside) - before) as f64 / wanted.len() as f64;
        let bytes: Vec<_> = machines
            .iter()
            .map(|(machine, _)| machine.json(&["status", "--json"])["bytes"].to_string())
            .collect();
        let version = pacman.display();
        eprintln!(
            "three machines without importer, {version}: {ratio:.3} times {package} came from outside: {bytes:?}"
        );
        assert!(pacmans.iter().all(|pacman| pacman.cached(&name) == wanted));
        assert!(
            ratio <= 1.1,
            "{version}: {ratio:.3} times from outside: {bytes:?}"
        );
    }
    drop(mirror);
    Ok(())
}
