//! Peers that lie, hang or know nothing, beside good ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use pacstore_bitswap::Blocks;
use pacstore_import::Files;
use pacstore_net::{DhtMode, Multiaddr, Net, NetConfig, PeerId};
use pacstore_runtime::{Clock, Tasks};
use pacstore_testkit::{TestResult, Upstream, random};

use crate::nodes::{Failure, Plan, SOON, TestNode};

const MIB: usize = 1 << 20;

/// What a bad peer does when asked for a block.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Other bytes.
    Lies,
    /// It says that it has it and never sends.
    Hangs,
    /// It has nothing.
    Knows,
}

struct Bad(Manner);

impl Blocks for Bad {
    fn len(&self, _: &Cid, _: &PeerId) -> Option<u64> {
        match self.0 {
            Manner::Knows => None,
            Manner::Lies | Manner::Hangs => Some(MIB as u64),
        }
    }

    fn read(&self, _: &Cid, _: &PeerId, out: &mut Vec<u8>) -> bool {
        match self.0 {
            Manner::Knows => false,
            Manner::Lies => {
                out.extend(std::iter::repeat_n(7, MIB));
                true
            }
            Manner::Hangs => {
                // Longer than anybody waits, shorter than the test may take.
                std::thread::sleep(Duration::from_secs(12));
                false
            }
        }
    }
}

/// Waits until `client` has seen a wrong answer of one of `liars`.
async fn caught(client: &TestNode, liars: &[PeerId]) {
    let bitswap = client.node.net().unwrap().bitswap();
    let seen = || liars.iter().any(|liar| bitswap.ledger(liar).unwanted > 0);
    let seen = async {
        while !seen() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, seen)
        .await
        .expect("a liar was asked, and caught");
}

/// A peer that behaves badly, with its address.
async fn bad(manner: Manner, tasks: &Tasks) -> (Net, Multiaddr) {
    numbered(manner as u8 + 1, manner, tasks).await
}

/// Bad peer number `n`.
async fn numbered(n: u8, manner: Manner, tasks: &Tasks) -> (Net, Multiaddr) {
    let mut config = NetConfig::new([n; 32]);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.dht = DhtMode::Off;
    let net = Net::start(config, Arc::new(Bad(manner)), tasks, Clock::system()).unwrap();
    let address = net
        .listen_addresses()
        .await
        .remove(0)
        .with_p2p(net.peer_id())
        .unwrap();
    (net, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_whatever_a_bad_peer_does() -> TestResult {
    let dir = tempfile::tempdir()?;
    let big = random(1, 12 * MIB + 5);
    let small = random(2, 200_000);
    fs_err::write(dir.path().join("big"), &big)?;
    fs_err::write(dir.path().join("small"), &small)?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    for manner in [Manner::Lies, Manner::Hangs, Manner::Knows] {
        let tasks = Tasks::new();
        let (net, address) = bad(manner, &tasks).await;
        let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
        plan.config.swarm.peers.push(address);
        let client = plan.start().await;
        client.connected_to(2).await;
        client.follows(&importer).await;
        let began = Instant::now();
        assert!(client.get("big").await? == big, "{manner:?}");
        assert!(client.get("small").await? == small, "{manner:?}");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{manner:?} took {:?}",
            began.elapsed()
        );
        if let Manner::Lies = manner {
            caught(&client, &[net.peer_id()]).await;
        }
        client.stop().await;
        net.shutdown().await;
        tasks.shutdown(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gives_the_file_when_all_peers_are_bad() -> TestResult {
    let dir = tempfile::tempdir()?;
    let big = random(1, 6 * MIB + 5);
    let small = random(2, 200_000);
    fs_err::write(dir.path().join("big"), &big)?;
    fs_err::write(dir.path().join("small"), &small)?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mirror = Upstream::folder(dir.path())?;
    for manner in [Manner::Lies, Manner::Hangs, Manner::Knows] {
        let tasks = Tasks::new();
        let (net, address) = bad(manner, &tasks).await;
        let relay = importer.relay(None).await;
        let peers = vec![importer.behind(&relay), address];
        let client = Plan::client(vec![importer.plan.key()], peers)
            .upstream(&mirror)
            .start()
            .await;
        client.connected_to(2).await;
        client.follows(&importer).await;
        // The good one goes away; only the bad one is left.
        relay.close();
        let began = Instant::now();
        assert!(client.get("small").await? == small, "{manner:?}");
        assert!(client.get("big").await? == big, "{manner:?}");
        assert!(
            began.elapsed() < Duration::from_secs(12),
            "{manner:?} took {:?}",
            began.elapsed()
        );
        assert_eq!(
            client.node.bytes_out().upstream,
            (big.len() + small.len()) as u64,
            "{manner:?}"
        );
        client.stop().await;
        net.shutdown().await;
        tasks.shutdown(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Eight peers: three lie, two hang, one knows nothing, one is dead, one is good.
#[tokio::test(flavor = "multi_thread")]
async fn one_good_peer_of_eight_is_enough() -> TestResult {
    let dir = tempfile::tempdir()?;
    let big = random(1, 6 * MIB + 5);
    let small = random(2, 200_000);
    fs_err::write(dir.path().join("big"), &big)?;
    fs_err::write(dir.path().join("small"), &small)?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let tasks = Tasks::new();
    let manners = [
        Manner::Lies,
        Manner::Lies,
        Manner::Lies,
        Manner::Hangs,
        Manner::Hangs,
        Manner::Knows,
        Manner::Knows,
    ];
    let (mut nets, mut peers) = (Vec::new(), Vec::new());
    for (n, manner) in (10..).zip(manners) {
        let (net, address) = numbered(n, manner, &tasks).await;
        nets.push(net);
        peers.push(address);
    }
    // The last one is dead before anybody asks it.
    nets.pop().unwrap().shutdown().await;
    peers.push(importer.address().await);
    let client = Plan::client(vec![importer.plan.key()], peers).start().await;
    client.connected_to(7).await;
    client.follows(&importer).await;
    let liars: Vec<PeerId> = nets[..3].iter().map(Net::peer_id).collect();
    let good = importer.node.peer_id().unwrap().to_string();
    for (path, data) in [("big", &big), ("small", &small)] {
        let file = client.file(path).await;
        let given = async {
            let mut giving = client.node.give_slowly(&file, 0, file.len).await?;
            let mut given = Vec::new();
            while (given.len() as u64) < file.len {
                given.extend_from_slice(&giving.read(given.len() as u64, file.len).await?);
            }
            Ok::<_, Failure>(given)
        };
        let given = tokio::time::timeout(Duration::from_mins(1), given).await??;
        assert!(given == *data, "{path}");
        // Not a byte of it is another one's.
        let receipt = client.node.why(path).remove(0);
        let [giver] = &receipt.givers[..] else {
            panic!("{path}: {:?}", receipt.givers)
        };
        assert_eq!((&giver.who, giver.bytes), (&good, data.len() as u64), "{path}");
    }
    // At least one liar was asked, and caught.
    caught(&client, &liars).await;
    client.stop().await;
    for net in nets {
        net.shutdown().await;
    }
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
