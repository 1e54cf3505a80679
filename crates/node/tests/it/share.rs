//! Machines of one LAN that want the same at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use futures::{StreamExt as _, stream};
use pacstore_bitswap::Blocks;
use pacstore_import::Files;
use pacstore_net::{DhtMode, Multiaddr, Net, NetConfig, PeerId, ShareAsk, ShareRequest, ShareState};
use pacstore_runtime::{Clock, Tasks};
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream, random};
use tokio::sync::mpsc;

use crate::nodes::{Plan, SOON, TestNode};
use crate::solo::{on_disk, solo};

const MIB: usize = 1 << 20;

/// Files as a `pacman -Syu` has them: many small, some larger.
fn files() -> Vec<(String, Vec<u8>)> {
    let small = (0..16).map(|n| (format!("small-{n:02}"), 200_000 + 10_000 * n));
    let large = (0..5).map(|n| (format!("large-{n}"), (2 + n) * MIB + 7));
    small
        .chain(large)
        .enumerate()
        .map(|(seed, (name, len))| (name, random(seed as u64, len).to_vec()))
        .collect()
}

/// Waits until `node` knows `count` neighbours that share.
pub(crate) async fn neighbours(node: &TestNode, count: usize) {
    let net = node.node.net().unwrap();
    let mut events = net.subscribe();
    let told = || {
        let peers = net.peers();
        peers.iter().filter(|peer| peer.share == Some(true)).count()
    };
    let reached = async {
        while told() < count {
            events.recv().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, reached).await.expect("it connects");
}

/// All files of the set, five at a time in their order, as pacman asks.
async fn update(client: &TestNode, set: &[(String, Vec<u8>)]) {
    let asked = set.iter().map(|(name, bytes)| async move {
        let got = client.get(name).await;
        assert!(got.is_ok_and(|got| got == *bytes), "{name}");
    });
    let mut asked = stream::iter(asked).buffered(5);
    while asked.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_machines_that_want_the_same_at_once_bring_it_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    let set = files();
    for (name, bytes) in &set {
        fs_err::write(dir.path().join(name), bytes)?;
    }
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let relay = importer.relay(None).await;
    let mirror = Upstream::folder(dir.path())?;
    let key = importer.plan.key();
    let mut clients: Vec<TestNode> = Vec::new();
    for _ in 0..3 {
        let mut peers = vec![importer.behind(&relay)];
        for other in &clients {
            peers.push(other.address().await);
        }
        let client = Plan::client(vec![key], peers).upstream(&mirror).start().await;
        client.follows(&importer).await;
        clients.push(client);
    }
    // From now on the mirror is the only source outside.
    relay.close();
    for client in &clients {
        neighbours(client, 2).await;
    }
    mirror.clear_log();
    mirror.limit(Some(20_000_000));
    let all = clients.iter().map(|client| update(client, &set));
    futures::future::join_all(all).await;
    let total: usize = set.iter().map(|(_, bytes)| bytes.len()).sum();
    let ratio = mirror.sent() as f64 / total as f64;
    let each: Vec<_> = clients.iter().map(|client| client.node.bytes_out()).collect();
    assert!(
        ratio <= 1.1,
        "{ratio:.2} times the set came from outside: {each:?}; twice: {:?}",
        twice(&mirror)
    );
    assert!(
        each.iter().all(|bytes| bytes.lan > 0),
        "nobody brings all: {each:?}"
    );
    Ok(())
}

/// What the mirror sent more than once: path, leaf, and how often.
fn twice(mirror: &Upstream) -> Vec<(String, u64, usize)> {
    let mut times = BTreeMap::new();
    for request in mirror.log() {
        for leaf in request.from / MIB as u64..(request.from + request.sent).div_ceil(MIB as u64) {
            *times.entry((request.path.clone(), leaf)).or_insert(0) += 1;
        }
    }
    let twice = times.into_iter().filter(|(_, times)| *times > 1);
    twice.map(|((path, leaf), times)| (path, leaf, times)).collect()
}

/// How a neighbour behaves that is no help.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// It says that it is bringing everything, and never does.
    Promises,
    /// It says that it has everything, and gives nothing.
    Boasts,
    /// It never answers.
    IsSilent,
    /// It answers for more blocks than it was asked for.
    Babbles,
    /// It says at once that it has nothing, and does nothing.
    HasNothing,
    /// It says that it has nothing, after [`LATE`].
    IsLate,
}

/// Longer than one that was never asked is waited for, where a round trip takes a millisecond.
const LATE: Duration = Duration::from_millis(500);

struct Nothing;

impl Blocks for Nothing {
    fn len(&self, _: &Cid, _: &PeerId) -> Option<u64> {
        None
    }

    fn read(&self, _: &Cid, _: &PeerId, _: &mut Vec<u8>) -> bool {
        false
    }
}

async fn answer(manner: Manner, mut requests: mpsc::Receiver<ShareRequest>) {
    let mut kept = Vec::new();
    while let Some(request) = requests.recv().await {
        let count = request.digests.len();
        if let Manner::IsLate = manner {
            tokio::time::sleep(LATE).await;
        }
        let states = match (manner, request.ask) {
            (Manner::Promises, ShareAsk::MayI) => vec![ShareState::Coming; count],
            (Manner::Boasts, _) => vec![ShareState::Here; count],
            (Manner::Babbles, _) => vec![ShareState::Coming; count + 1],
            (Manner::HasNothing | Manner::IsLate, _) => vec![ShareState::Free; count],
            (Manner::Promises, ShareAsk::TellMe) | (Manner::IsSilent, _) => {
                kept.push(request);
                continue;
            }
        };
        let _ = request.reply.send(states);
    }
}

/// A neighbour that has nothing, and what it is asked.
pub(crate) async fn stranger(seed: u8, tasks: &Tasks) -> (Net, Multiaddr, mpsc::Receiver<ShareRequest>) {
    let (sender, requests) = mpsc::channel(64);
    let mut config = NetConfig::new([seed; 32]);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.dht = DhtMode::Off;
    config.shares = Some(sender);
    let net = Net::start(config, Arc::new(Nothing), tasks, Clock::system()).unwrap();
    let address = net.listen_addresses().await.remove(0);
    let address = address.with_p2p(net.peer_id()).unwrap();
    (net, address, requests)
}

async fn bad(manner: Manner, tasks: &Tasks) -> (Net, Multiaddr) {
    let (net, address, requests) = stranger(manner as u8 + 60, tasks).await;
    tasks.spawn("bad neighbour", answer(manner, requests));
    (net, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_is_no_help_keeps_no_file_from_coming() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (small, large) = (random(1, 200_000), random(2, 4 * MIB + 1));
    fs_err::write(dir.path().join("small"), &small)?;
    fs_err::write(dir.path().join("large"), &large)?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mirror = Upstream::folder(dir.path())?;
    for manner in [
        Manner::Promises,
        Manner::Boasts,
        Manner::IsSilent,
        Manner::Babbles,
    ] {
        let tasks = Tasks::new();
        let (net, address) = bad(manner, &tasks).await;
        let relay = importer.relay(None).await;
        let peers = vec![importer.behind(&relay), address];
        let client = Plan::client(vec![importer.plan.key()], peers)
            .upstream(&mirror)
            .start()
            .await;
        client.follows(&importer).await;
        relay.close();
        neighbours(&client, 1).await;
        let both = Box::pin(futures::future::join(client.get("small"), client.get("large")));
        let (small_got, large_got) = both.await;
        assert!(small_got? == small && large_got? == large, "{manner:?}");
        client.stop().await;
        net.shutdown().await;
        tasks.shutdown(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// How a neighbour is waited for follows its round trip and its answers, which count when they are late, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_of_a_neighbour_is_measured() -> TestResult {
    let dir = tempfile::tempdir()?;
    let small = random(1, 60_000);
    fs_err::write(dir.path().join("small"), &small)?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mirror = Upstream::folder(dir.path())?;
    let tasks = Tasks::new();
    let (net, address) = bad(Manner::IsLate, &tasks).await;
    let relay = importer.relay(None).await;
    let peers = vec![importer.behind(&relay), address];
    let client = Plan::client(vec![importer.plan.key()], peers).upstream(&mirror);
    let client = client.start().await;
    client.follows(&importer).await;
    relay.close();
    neighbours(&client, 1).await;
    let known = || client.node.net().and_then(|own| own.peer(&net.peer_id()));
    let reached = async {
        while known().is_none_or(|peer| peer.round_trip.is_none()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.expect("it is pinged");
    assert!(known().is_some_and(|peer| peer.answers_within.is_none()));
    assert!(client.get("small").await? == small);
    let reached = async {
        while known().is_none_or(|peer| peer.answers_within.is_none()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.expect("it is measured");
    assert!(known().is_some_and(|peer| peer.answers_within >= Some(LATE)));
    client.stop().await;
    net.shutdown().await;
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// Small files one after the other, as `XferCommand` asks: each is asked of the neighbour, then of the mirror, once.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_that_a_neighbour_has_not_come_from_the_mirror_one_after_the_other() -> TestResult {
    let dir = tempfile::tempdir()?;
    let set: Vec<_> = (0..12)
        .map(|seed| (format!("file-{seed:02}"), random(seed, 60_000).to_vec()))
        .collect();
    for (name, bytes) in &set {
        fs_err::write(dir.path().join(name), bytes)?;
    }
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mirror = Upstream::folder(dir.path())?;
    for manner in [Manner::HasNothing, Manner::IsSilent] {
        let tasks = Tasks::new();
        let (net, address) = bad(manner, &tasks).await;
        let relay = importer.relay(None).await;
        let peers = vec![importer.behind(&relay), address];
        let client = Plan::client(vec![importer.plan.key()], peers).upstream(&mirror);
        let client = client.start().await;
        client.follows(&importer).await;
        relay.close();
        neighbours(&client, 1).await;
        mirror.clear_log();
        for (number, (name, bytes)) in set.iter().enumerate() {
            let file = client.file(name).await;
            let (mut giving, first) = client.node.give(&file, 0, file.len).await?;
            let mut got = first.to_vec();
            while (got.len() as u64) < file.len {
                got.extend_from_slice(&giving.read(got.len() as u64, file.len).await?);
            }
            assert!(got == *bytes, "{name}");
            // In the order in which they are asked for, none ahead, none twice.
            let asked: Vec<_> = mirror.log().into_iter().map(|request| request.path).collect();
            let wanted: Vec<_> = set[..=number]
                .iter()
                .map(|(name, _)| format!("/{name}"))
                .collect();
            assert_eq!(asked, wanted, "{manner:?}");
        }
        // Who wants to see where the time goes reads this; nothing is asserted of it.
        let took = |(name, _): &(String, Vec<u8>)| client.node.why(name).first().map(|one| one.took_ms);
        println!("{manner:?}: ms {:?}", set.iter().map(took).collect::<Vec<_>>());
        client.stop().await;
        net.shutdown().await;
        tasks.shutdown(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Without an importer a package of several leaves is known by its SHA-256 alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_machines_without_importer_bring_packages_of_several_leaves_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut spec = RepoSpec::new("core").packages(8, 150_000);
    let large: Vec<String> = (0..5).map(|n| format!("large{n}")).collect();
    for (n, name) in large.iter().enumerate() {
        spec = spec.package(name, (2 + n as u64) * MIB as u64 + 7);
    }
    let repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    let mut clients: Vec<TestNode> = Vec::new();
    for _ in 0..3 {
        let mut plan = solo(&[&mirror]);
        plan.config.repositories[0].public = true;
        let mut peers = Vec::new();
        for other in &clients {
            peers.push(other.address().await);
        }
        plan.config.swarm.peers = peers;
        clients.push(plan.start().await);
    }
    for client in &clients {
        neighbours(client, 2).await;
        client.pacman_bytes("core.db").await?;
    }
    mirror.clear_log();
    mirror.limit(Some(20_000_000));
    let names = (0..8).map(|n| format!("pkg{n}")).chain(large);
    let names: Vec<String> = names
        .map(|name| repo.file_name(&name))
        .collect::<Result<_, _>>()?;
    let all = clients.iter().map(async |client| {
        let (names, repo) = (&names, &repo);
        let asked = names.iter().map(|name| async move {
            let got = client.pacman_bytes(name).await;
            assert!(got.is_ok_and(|got| got == on_disk(repo, name)), "{name}");
        });
        stream::iter(asked).buffered(5).collect::<Vec<_>>().await;
    });
    futures::future::join_all(all).await;
    let total: usize = names.iter().map(|name| on_disk(&repo, name).len()).sum();
    let ratio = mirror.sent() as f64 / total as f64;
    let each: Vec<_> = clients.iter().map(|client| client.node.bytes_out()).collect();
    assert!(
        ratio <= 1.1,
        "{ratio:.2} times the set came from outside: {each:?}; twice: {:?}",
        twice(&mirror)
    );
    assert!(
        each.iter().all(|bytes| bytes.lan > 0),
        "nobody brings all: {each:?}"
    );
    Ok(())
}
