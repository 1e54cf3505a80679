//! Helia, which nobody here wrote, takes our records and blocks, and we take its.
//!
//! Runs where `PACSTORE_HELIA` names a directory with the Helia peer and its installed modules
//! (`npm ci`, then `client.mjs`, `server.mjs`); else it is skipped with a word.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pacstore_dag::{HashKind, raw_cid};
use pacstore_names::{IpnsName, SigningKey};
use pacstore_net::Multiaddr;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::{DEADLINE, Memory, Node, TestResult, config, record, start, start_with};

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn helia() -> Option<PathBuf> {
    let place = std::env::var_os("PACSTORE_HELIA").map(PathBuf::from);
    let place = place.filter(|place| place.join("node_modules").is_dir());
    if place.is_none() {
        eprintln!("skipped: PACSTORE_HELIA names no directory with an installed Helia peer");
        assert_ne!(std::env::var("PACSTORE_REQUIRE").as_deref(), Ok("all"));
    }
    place
}

fn script(place: &Path, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("node");
    command
        .current_dir(place)
        .args(["--import", "./node20.mjs", name])
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What the Helia client prints, once it has ended well.
async fn client(place: &Path, arguments: &[&str]) -> String {
    let running = script(place, "client.mjs", arguments).output();
    let output = tokio::time::timeout(DEADLINE, running)
        .await
        .expect("Helia ends in time")
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// A Helia server that keeps its record on the LAN DHT.
struct Server {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Server {
    fn start(place: &Path, arguments: &[&str]) -> Self {
        let mut child = script(place, "server.mjs", arguments).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { lines, _child: child }
    }

    /// The value of `field` in the first line that tells of `event`.
    async fn told(&mut self, event: &str, field: &str) -> String {
        let reading = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("Helia runs");
                if line.contains(&format!("\"event\":\"{event}\"")) {
                    let (_, rest) = line
                        .split_once(&format!("\"{field}\":"))
                        .expect("the field is there");
                    let value = rest.trim_start_matches(['[', '"']);
                    return value.split('"').next().unwrap_or_default().to_owned();
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .unwrap_or_else(|_| panic!("never told: {event}"))
    }
}

async fn address_of(node: &Node) -> String {
    node.address().await.to_string()
}

#[tokio::test]
async fn helia_fetches_and_verifies_our_record() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    let node = start(config());
    let key = SigningKey::from_seed([31; 32]);
    node.net.set_record(&key.name(), record(&key, 5).bytes())?;
    let told = client(
        &place,
        &["ipns-fetch", &address_of(&node).await, &key.name().to_string()],
    )
    .await;
    assert!(
        told.contains("\"via\":\"/libp2p/fetch/0.0.1\"") && told.contains("\"sequence\":5"),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn helia_resolves_our_name_through_our_part_of_the_dht() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    let node = start(config());
    let key = SigningKey::from_seed([32; 32]);
    node.net
        .publish_record(&key.name(), record(&key, 6).bytes())
        .await?;
    let (address, name) = (address_of(&node).await, key.name().to_string());
    let dht = [
        "--pubsub-off",
        "--dht",
        "client",
        "--dhtProtocol",
        "/ipfs/lan/kad/1.0.0",
    ];
    let told = client(&place, &[["ipns", &address, &name].as_slice(), &dht].concat()).await;
    assert!(
        told.contains("\"event\":\"resolved\"") && told.contains("\"sequence\":6"),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn helia_takes_a_block_from_us() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    let data = b"a block for Helia".to_vec();
    let cid = raw_cid(HashKind::Sha2_256, &data);
    let node = start_with(config(), Memory::with(&[(cid, data.clone())]));
    let told = client(&place, &["block", &address_of(&node).await, &cid.to_string()]).await;
    assert!(told.contains(&format!("\"size\":{}", data.len())), "{told}");
    Ok(())
}

#[tokio::test]
async fn we_find_a_record_and_a_provider_that_helia_put() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    let arguments = [
        "--text",
        "from Helia",
        "--ipns",
        "k1",
        "--dht",
        "server",
        "--provide",
        "--seconds",
        "60",
    ];
    let mut node = start(config());
    let address = address_of(&node).await;
    let dht = ["--dhtProtocol", "/ipfs/lan/kad/1.0.0", "--dial", &address];
    let mut server = Server::start(&place, &[arguments.as_slice(), &dht].concat());
    let peer = server.told("ready", "peerId").await.parse()?;
    let cid = server.told("added", "cid").await.parse()?;
    node.identified(peer).await;
    let name = server.told("published", "name").await;
    let name: IpnsName = name.trim_start_matches("/ipns/").parse()?;
    server.told("serving", "event").await;
    let found = node.net.find_record(&name, Duration::from_secs(10)).await?;
    assert!(!found.is_empty(), "the record of Helia is found");
    let providers = node.net.find_providers(&cid, 1, Duration::from_secs(10)).await?;
    assert_eq!(providers.iter().map(|one| one.id).collect::<Vec<_>>(), [peer]);
    assert!(
        providers[0]
            .addresses
            .iter()
            .all(|address: &Multiaddr| pacstore_net::is_lan(address))
    );
    Ok(())
}

/// Each record of the vectors, good and bad, is put by Helia into our part of the DHT and asked back.
#[tokio::test]
async fn what_helia_finds_invalid_is_not_kept_by_us_and_the_rest_is() -> TestResult {
    let Some(place) = helia() else { return Ok(()) };
    let vectors = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/vectors/ipns-vectors.json"
    );
    if !Path::new(vectors).is_file() {
        eprintln!("skipped: the IPNS vectors are not there");
        assert_ne!(std::env::var("PACSTORE_REQUIRE").as_deref(), Ok("all"));
        return Ok(());
    }
    let node = start(config());
    let address = address_of(&node).await;
    let running = script(&place, "dhtput.mjs", &[&address, vectors]).output();
    let output = tokio::time::timeout(DEADLINE, running).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut good, mut bad) = (0, 0);
    for line in text.lines() {
        let kept = line.contains("\"get\":\"returns this record\"");
        let valid = line.contains("\"helia\":true");
        assert_eq!(kept, valid, "{line}");
        good += usize::from(valid);
        bad += usize::from(!valid);
    }
    assert!(good > 0 && bad > 0, "{text}");
    Ok(())
}
