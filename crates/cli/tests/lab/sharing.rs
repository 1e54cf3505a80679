//! Three machines of one LAN update at once: what comes over the line comes once.
//!
//! - Not here: what neighbours that lie achieve (`crates/node/tests/it/share.rs`).

use std::path::Path;
use std::process::{Child, Stdio};

use pacstore_testkit::{TestResult, random, require};

use crate::machine::{Machine, output, until};
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
        let ready = machine.start();
        let gateway = ready
            .split(' ')
            .nth(1)
            .and_then(|word| word.strip_prefix("gateway="));
        machines.push((machine, gateway.unwrap().to_owned()));
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
