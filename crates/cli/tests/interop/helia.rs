//! Helia takes our trees and names, and we take its trees.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use pacstore_names::{IpnsName, Record};
use pacstore_testkit::{TestResult, require};
use serde_json::Value;

use crate::apart::{Without, apart};
use crate::daemon::Daemon;
use crate::process::{Given, Running, output};
use crate::tree::{Item, Listing, assert_same, of_disk, write_all, write_some};

/// What we ask of Helia beside its own client and server; read from standard input.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/helia.mjs");

/// Longest time of one run of Helia.
const DEADLINE: Duration = Duration::from_mins(2);

/// The folder of the Helia peer, if there is one.
fn helia() -> Option<PathBuf> {
    require("node")?;
    let place = std::env::var_os("PACSTORE_HELIA").map(PathBuf::from);
    let place = place.filter(|place| place.join("node_modules").is_dir());
    if place.is_none() {
        crate::apart::missing(
            "PACSTORE_HELIA names no copy of ../shared/interop/helia in which `npm ci` was run",
        );
    }
    place
}

/// Node over `script` (a file of the Helia peer, or `-` for ours) with `arguments`.
fn node(place: &Path, script: &str, arguments: &[&str]) -> Given<Command> {
    let mut command = Command::new("node");
    command.current_dir(place).args(["--import", "./node20.mjs"]);
    if script == "-" {
        command
            .arg("--input-type=module")
            .stdin(Stdio::from(fs::File::open(SCRIPT)?.into_parts().0));
    } else {
        command.stdin(Stdio::null());
    }
    command.arg(script).args(arguments);
    Ok(command)
}

/// The last line that tells of `event`.
fn told(text: &str, event: &str) -> Given<Value> {
    let mut told = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["event"] == event);
    told.next_back()
        .ok_or_else(|| format!("no `{event}` in {text}").into())
}

/// What `fetch` printed, as a listing.
fn listing(text: &str) -> Given<Listing> {
    let mut listing = Listing::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let Some(path) = line["path"].as_str() else {
            continue;
        };
        let item = match line["sha256"].as_str() {
            Some(sha256) => Item::File {
                len: line["size"].as_u64().ok_or("no size")?,
                sha256: bytes(sha256)?.try_into().map_err(|_| "no SHA-256")?,
            },
            None => Item::Folder,
        };
        listing.insert(path.as_bytes().to_vec(), item);
    }
    told(text, "done")?;
    Ok(listing)
}

fn bytes(hex: &str) -> Given<Vec<u8>> {
    let pairs = (0..hex.len()).step_by(2);
    let parsed = pairs.map(|at| u8::from_str_radix(hex.get(at..at + 2).unwrap_or(""), 16));
    Ok(parsed.collect::<Result<_, _>>()?)
}

#[test]
fn helia_fetches_a_whole_tree_from_us_by_cid() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    apart(
        "helia::helia_fetches_a_whole_tree_from_us_by_cid",
        Without::Runs,
        || {
            let upstream = tempfile::tempdir()?;
            write_all(upstream.path())?;
            let daemon = Daemon::importer(upstream.path())?;
            let published = daemon.import()?;
            let address = daemon.address("/tcp/")?;
            let text = output(
                node(&place, "-", &["fetch", &address, &published.tree])?,
                DEADLINE,
            )?;
            assert_same(&listing(&text)?, &of_disk(upstream.path())?);
            Ok(())
        },
    )
}

#[test]
fn helia_verifies_and_resolves_our_name() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    apart(
        "helia::helia_verifies_and_resolves_our_name",
        Without::Runs,
        || {
            let upstream = tempfile::tempdir()?;
            write_some(upstream.path())?;
            let daemon = Daemon::importer(upstream.path())?;
            let tree = daemon.import()?.tree;
            let (address, key) = (daemon.address("/tcp/")?, daemon.key.clone());

            // The record as it is on the wire, which Helia found good, carries our head.
            let text = output(node(&place, "-", &["record", &address, &key])?, DEADLINE)?;
            let record = bytes(told(&text, "record")?["hex"].as_str().unwrap_or_default())?;
            let record = Record::from_bytes(&record)?;
            let head = daemon.json(&["resolve", crate::daemon::NAME])?["head"].clone();
            assert_eq!(record.head().map(|cid| cid.to_string()).as_deref(), head.as_str());

            let value = format!("/ipfs/{tree}");
            let text = output(
                node(&place, "client.mjs", &["ipns-fetch", &address, &key])?,
                DEADLINE,
            )?;
            assert_eq!(told(&text, "record")?["value"], value.as_str());

            // Its whole resolver, which knows us only by the DHT of private addresses.
            let lan = [
                "--dht",
                "client",
                "--dhtProtocol",
                "/ipfs/lan/kad/1.0.0",
                "--pubsub-off",
            ];
            let arguments = [["ipns", &address, &key].as_slice(), &lan].concat();
            let text = output(node(&place, "client.mjs", &arguments)?, DEADLINE)?;
            assert_eq!(told(&text, "resolved")?["value"], value.as_str());
            Ok(())
        },
    )
}

#[test]
fn we_fetch_a_whole_tree_from_helia_by_cid() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    apart(
        "helia::we_fetch_a_whole_tree_from_helia_by_cid",
        Without::Runs,
        || {
            let upstream = tempfile::tempdir()?;
            write_all(upstream.path())?;
            let dir = upstream.path().to_str().ok_or("a path that is text")?;
            let mut helia = Running::start("Helia", node(&place, "-", &["serve", dir])?)?;
            let serving = told(&helia.line_with("\"serving\"", DEADLINE)?, "serving")?;
            let root = serving["cid"].as_str().ok_or("no CID")?;
            let peer = serving["address"].as_str().ok_or("no address")?.to_owned();

            let daemon = Daemon::client(&[peer])?;
            daemon.connected()?;
            let linux = fs::read(upstream.path().join("core/linux-1.1-1-x86_64.pkg.tar.zst"))?;
            let got = daemon.get(&format!("/ipfs/{root}/core/linux-1.1-1-x86_64.pkg.tar.zst"))?;
            assert!(
                got == linux,
                "got {} bytes, not those of {}",
                got.len(),
                linux.len()
            );
            let wanted = of_disk(upstream.path())?;
            let got = daemon.get_all(&format!("/ipfs/{root}"), &wanted)?;
            assert_same(&got, &wanted);
            let status = daemon.json(&["status"])?;
            assert_eq!(status["bytes"]["disk"], 0, "{status}");
            assert_eq!(status["bytes"]["upstream"], 0, "{status}");
            Ok(())
        },
    )
}

#[test]
fn a_record_that_helia_makes_now_verifies_here() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    apart(
        "helia::a_record_that_helia_makes_now_verifies_here",
        Without::Runs,
        || {
            let arguments = ["--text", "from Helia", "--ipns", "k1", "--seconds", "60"];
            let mut helia = Running::start("Helia", node(&place, "server.mjs", &arguments)?)?;
            let line = helia.line_with("\"published\"", DEADLINE)?;
            let published = told(&line, "published")?;
            let record = bytes(published["recordHex"].as_str().unwrap_or_default())?;
            let name = published["name"].as_str().unwrap_or_default();
            let name: IpnsName = name.trim_start_matches("/ipns/").parse()?;
            let record = Record::from_bytes(&record)?;
            record.verify(&name, SystemTime::now())?;
            assert_eq!(
                published["value"].as_str().map(str::as_bytes),
                Some(record.value())
            );
            assert_eq!(record.head(), None);
            Ok(())
        },
    )
}
