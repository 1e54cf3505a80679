//! What others get: the bytes of a month, the off switch, and that our own downloads go on.
//!
//! - Not here: how the bytes of a month are counted over kills and clocks that jump (`crates/node`, `uploads.rs`).

use std::path::Path;

use pacstore_testkit::{TestResult, random, require};
use serde_json::Value;

use crate::machine::{Machine, curl, gateway, until};
use crate::wire::Wire;

const NAME: &str = "limits.example";
const QUIET: &str = "[gateway]\nlisten = \"127.0.0.1:0\"\n";
/// Bytes of each of the files.
const LEN: usize = 700_000;
const FILES: usize = 3;

fn swarm(address: &str, peers: &[&str]) -> String {
    format!(
        "[swarm]\nbootstrap = []\nmdns = false\nlisten = [\"/ip4/{address}/tcp/4001\"]\npeers = {peers:?}\n"
    )
}

fn upload(machine: &Machine) -> Value {
    machine.json(&["status", "--json"])["upload"].clone()
}

/// Files of which the client gets all their bytes.
fn got(client: &Machine, gateway: &str, folder: &Path) -> usize {
    let whole = |n: &usize| {
        let url = format!("{gateway}/ipns/{NAME}/file-{n}");
        let (status, body) = curl(&client.namespace, &url, &["--max-time", "30"]);
        status == 200 && body == std::fs::read(folder.join(format!("file-{n}"))).unwrap()
    };
    (0..FILES).filter(whole).count()
}

/// The giver is a client of the importer, too; it stands between the importer and the taker, which knows only it.
struct Line {
    giver: Machine,
    giver_at: String,
    taker: Machine,
    taker_at: String,
    _importer: Machine,
    giver_conf: String,
}

impl Line {
    /// All on one wire of addresses that are of no LAN.
    fn new(wire: &mut Wire, folder: &Path, limits: &str) -> Self {
        let mut importer = Machine::new(wire.machine("imp", &["203.0.113.1/24"]));
        let base = format!("{QUIET}{}", swarm("203.0.113.1", &[]));
        importer.configure(&base);
        importer.run(&["key", "new", "k"]);
        let from = folder.display();
        importer.configure(&format!(
            "{base}[[import]]\nmirror = \"{NAME}\"\nfrom = \"{from}\"\nkey = \"k\"\nfiles = \"all\"\nevery = \"manual\"\n"
        ));
        importer.run(&["import", NAME, "--once"]);
        let key = importer.run(&["key", "show", "k"]);
        let id = peer(&importer.start());
        let mirror = format!("[[mirror]]\nname = \"{NAME}\"\nimporters = [\"{key}\"]\nlayout = \"plain\"\n");

        let mut giver = Machine::new(wire.machine("giver", &["203.0.113.2/24"]));
        let at = format!("/ip4/203.0.113.1/tcp/4001/p2p/{id}");
        let giver_conf = format!("{QUIET}{}{mirror}", swarm("203.0.113.2", &[&at]));
        giver.configure(&giver_conf);
        let ready = giver.start();
        follows(&giver);
        let giver_at = gateway(&ready);
        let id = peer(&ready);

        let mut taker = Machine::new(wire.machine("taker", &["203.0.113.3/24"]));
        let at = format!("/ip4/203.0.113.2/tcp/4001/p2p/{id}");
        taker.configure(&format!("{QUIET}{}{mirror}", swarm("203.0.113.3", &[&at])));
        let ready = taker.start();
        follows(&taker);
        let mut line = Self {
            giver,
            giver_at,
            taker,
            taker_at: gateway(&ready),
            _importer: importer,
            giver_conf,
        };
        line.restart_giver(limits);
        line
    }

    /// Stops the giver and starts it with `limits`; waits until the taker is connected to it again.
    fn restart_giver(&mut self, limits: &str) {
        self.giver.stop();
        self.giver.configure(&format!("{}{limits}", self.giver_conf));
        self.giver_at = gateway(&self.giver.start());
        for (machine, wanted) in [(&self.giver, 2), (&self.taker, 1)] {
            until("they are connected again", || {
                let peers = machine.json(&["status", "--json"])["peers"].as_u64();
                (peers >= Some(wanted)).then_some(())
            });
        }
    }
}

fn peer(ready: &str) -> String {
    ready.rsplit('=').next().unwrap().to_owned()
}

fn follows(machine: &Machine) {
    until("it follows", || {
        let status = machine.json(&["status", "--json"]);
        status["mirrors"][0]["tree"].is_string().then_some(())
    });
}

#[test]
fn a_peer_gets_no_more_than_the_month_has_and_nothing_from_who_is_switched_off() -> TestResult {
    if require("curl").is_none() {
        return Ok(());
    }
    let Some(mut wire) = Wire::new() else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    for n in 0..FILES {
        std::fs::write(folder.path().join(format!("file-{n}")), random(n as u64, LEN))?;
    }
    // Room for two files and a half; directories and records of the head have been fetched before.
    let most = LEN * 5 / 2;
    let month = format!("[limits]\nupload_month = \"{most}\"\n");
    let mut line = Line::new(&mut wire, folder.path(), &month);
    let before = upload(&line.giver)["month_bytes"].as_u64().unwrap();
    assert_eq!(upload(&line.giver)["open"], true);
    // What the giver downloads is its own business.
    assert_eq!(got(&line.giver, &line.giver_at, folder.path()), FILES);
    assert_eq!(upload(&line.giver)["month_bytes"], before);
    let first = got(&line.taker, &line.taker_at, folder.path());
    assert_eq!(
        first,
        (most - usize::try_from(before)?) / LEN,
        "as many as the month has room for"
    );
    let given = upload(&line.giver);
    assert!(given["month_bytes"].as_u64() <= Some(most as u64), "{given}");
    line.restart_giver(&month);
    assert_eq!(
        upload(&line.giver)["month_bytes"],
        given["month_bytes"],
        "a restart forgets nothing"
    );
    assert_eq!(got(&line.taker, &line.taker_at, folder.path()), first);

    // Switched off: no more, whatever the month has. The taker's own files are served on.
    line.restart_giver("[share]\nenable = false\n");
    let off = upload(&line.giver);
    assert_eq!(
        (&off["open"], &off["why"]),
        (&false.into(), &"switched off".into())
    );
    assert_eq!(got(&line.taker, &line.taker_at, folder.path()), first);
    assert_eq!(got(&line.giver, &line.giver_at, folder.path()), FILES);

    // Where no stranger is met, the taker is none of those that the giver knows.
    line.giver.stop();
    line.giver
        .configure(&format!("{}[limits]\npeers = 0\n", line.giver_conf));
    line.giver_at = gateway(&line.giver.start());
    until("the importer is connected, which is configured", || {
        let status = line.giver.json(&["status", "--json"]);
        (status["peers"] == 1 && status["upload"]["peers_max"] == 0).then_some(())
    });
    assert_eq!(got(&line.taker, &line.taker_at, folder.path()), first);
    assert_eq!(line.giver.json(&["status", "--json"])["peers"], 1);

    // On again without a limit: the rest comes.
    line.restart_giver("");
    assert_eq!(got(&line.taker, &line.taker_at, folder.path()), FILES);
    Ok(())
}
