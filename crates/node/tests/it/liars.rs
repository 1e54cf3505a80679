//! Peers that lie, hang or know nothing, beside good ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use pacstore_bitswap::Blocks;
use pacstore_import::Files;
use pacstore_net::{DhtMode, Multiaddr, Net, NetConfig, NetEvent, PeerId};
use pacstore_runtime::{Clock, Tasks};
use pacstore_testkit::{TestResult, Upstream, random};

use crate::nodes::{Plan, SOON};

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

/// A peer that behaves badly, with its address.
async fn bad(manner: Manner, tasks: &Tasks) -> (Net, Multiaddr) {
    let mut config = NetConfig::new([manner as u8 + 1; 32]);
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
        let mut events = client.node.net().unwrap().subscribe();
        let began = Instant::now();
        assert!(client.get("big").await? == big, "{manner:?}");
        assert!(client.get("small").await? == small, "{manner:?}");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{manner:?} took {:?}",
            began.elapsed()
        );
        if let Manner::Lies = manner {
            let banned =
                async { while events.recv().await.unwrap() != NetEvent::Misbehaved(net.peer_id()) {} };
            tokio::time::timeout(SOON, banned)
                .await
                .expect("who lies is banned");
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
