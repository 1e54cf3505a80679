//! Nodes, strangers and waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, identify, kad};
use pacstore_bitswap::Blocks;
use pacstore_dag::Cid;
use pacstore_names::{Record, RecordData, SigningKey};
use pacstore_net::{Net, NetConfig, NetEvent};
use pacstore_runtime::{Clock, Tasks};
use tokio::sync::broadcast;

pub(crate) type TestResult = Result<(), Box<dyn std::error::Error>>;

/// No step of any test here takes longer than this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// Blocks in memory, for anybody.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<Cid, Vec<u8>>>);

impl Memory {
    pub(crate) fn with(blocks: &[(Cid, Vec<u8>)]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(blocks.iter().cloned().collect())))
    }
}

impl Blocks for Memory {
    fn len(&self, cid: &Cid, _: &PeerId) -> Option<u64> {
        self.0.lock().unwrap().get(cid).map(|block| block.len() as u64)
    }

    fn read(&self, cid: &Cid, _: &PeerId, out: &mut Vec<u8>) -> bool {
        let blocks = self.0.lock().unwrap();
        let block = blocks.get(cid);
        out.extend(block.into_iter().flatten());
        block.is_some()
    }
}

/// One node under test. Its tasks end when it is dropped.
pub(crate) struct Node {
    pub(crate) net: Net,
    pub(crate) tasks: Tasks,
    pub(crate) events: broadcast::Receiver<NetEvent>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

/// A key that no other node of this test run has.
pub(crate) fn fresh_key() -> [u8; 32] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let mut key = [7; 32];
    key[0] = NEXT.fetch_add(1, Ordering::Relaxed);
    key
}

/// A configuration that listens on a free TCP port of 127.0.0.1.
pub(crate) fn config() -> NetConfig {
    let mut config = NetConfig::new(fresh_key());
    config.listen = vec![TCP.parse().unwrap()];
    config
}

pub(crate) fn start(config: NetConfig) -> Node {
    start_with(config, Arc::<Memory>::default())
}

pub(crate) fn start_with(config: NetConfig, blocks: Arc<dyn Blocks>) -> Node {
    let tasks = Tasks::new();
    let net = Net::start(config, blocks, &tasks, Clock::system()).unwrap();
    let events = net.subscribe();
    Node { net, tasks, events }
}

impl Node {
    /// The first address that it listens on, with its id.
    pub(crate) async fn address(&self) -> Multiaddr {
        let address = self.net.listen_addresses().await.first().cloned();
        address
            .expect("the node listens")
            .with(Protocol::P2p(self.net.peer_id()))
    }

    /// Waits for an event.
    pub(crate) async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&NetEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = self
                    .events
                    .recv()
                    .await
                    .expect("the node runs and the test keeps up");
                if let Some(picked) = pick(&event) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(DEADLINE, waiting)
            .await
            .unwrap_or_else(|_| panic!("never came: {what}"))
    }

    /// Waits until `peer` told what it speaks: from then on it is in the DHT's table if it serves.
    pub(crate) async fn identified(&mut self, peer: PeerId) {
        self.wait("identify", |event| match event {
            NetEvent::PeerIdentified(info) if info.id == peer => Some(()),
            _ => None,
        })
        .await;
    }
}

/// Connects `from` to `to`, and waits until each knows what the other speaks.
pub(crate) async fn join(from: &mut Node, to: &mut Node) {
    let (here, there) = (from.net.peer_id(), to.net.peer_id());
    assert_eq!(from.net.dial(to.address().await).await.unwrap(), there);
    from.identified(there).await;
    to.identified(here).await;
}

/// A record of `key` that is in force for a day.
pub(crate) fn record(key: &SigningKey, sequence: u64) -> Record {
    record_until(key, sequence, SystemTime::now() + Duration::from_hours(24))
}

pub(crate) fn record_until(key: &SigningKey, sequence: u64, validity: SystemTime) -> Record {
    let value = b"/ipfs/bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".to_vec();
    let ttl = Duration::from_mins(5);
    Record::create(
        key,
        RecordData {
            value,
            sequence,
            validity,
            ttl,
            head: None,
        },
    )
    .unwrap()
}

/// A DHT peer that is not ours: stock libp2p, which checks nothing.
#[derive(NetworkBehaviour)]
pub(crate) struct StrangerBehaviour {
    pub(crate) identify: identify::Behaviour,
    pub(crate) kad: kad::Behaviour<MemoryStore>,
}

pub(crate) type Stranger = Swarm<StrangerBehaviour>;

/// A stranger that serves the LAN DHT and listens on 127.0.0.1.
pub(crate) async fn stranger() -> (Stranger, Multiaddr) {
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key| {
            let peer = key.public().to_peer_id();
            let room = MemoryStoreConfig {
                max_provided_keys: 100_000,
                ..MemoryStoreConfig::default()
            };
            let config = kad::Config::new(StreamProtocol::new("/ipfs/lan/kad/1.0.0"));
            let mut kad = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, room), config);
            kad.set_mode(Some(kad::Mode::Server));
            let identify = identify::Config::new("ipfs/0.1.0".to_owned(), key.public());
            StrangerBehaviour {
                identify: identify::Behaviour::new(identify),
                kad,
            }
        })
        .unwrap()
        .build();
    swarm.listen_on(TCP.parse().unwrap()).unwrap();
    let address = drive(&mut swarm, "a listen address", |event| match event {
        SwarmEvent::NewListenAddr { address, .. } => Some(address.clone()),
        _ => None,
    })
    .await;
    swarm.add_external_address(address.clone());
    let full = address.with(Protocol::P2p(*swarm.local_peer_id()));
    (swarm, full)
}

/// Drives a stranger until `pick` is content with one of its events.
pub(crate) async fn drive<B, T>(
    swarm: &mut Swarm<B>,
    what: &str,
    mut pick: impl FnMut(&SwarmEvent<B::ToSwarm>) -> Option<T>,
) -> T
where
    B: NetworkBehaviour,
{
    let driving = async {
        loop {
            let event = swarm.select_next_some().await;
            if let Some(picked) = pick(&event) {
                return picked;
            }
        }
    };
    tokio::time::timeout(DEADLINE, driving)
        .await
        .unwrap_or_else(|_| panic!("never came: {what}"))
}

/// Drives a stranger beside `work`, and gives back what the work gives.
pub(crate) async fn beside<B: NetworkBehaviour, T>(swarm: &mut Swarm<B>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let driving = async {
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = swarm.select_next_some() => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, driving)
        .await
        .expect("the work ends in time")
}

/// Connects a stranger to a node and tells its DHT side where the node is.
pub(crate) async fn meet(stranger: &mut Stranger, node: &mut Node) {
    let address = node.address().await;
    let (peer, id) = (node.net.peer_id(), *stranger.local_peer_id());
    stranger.dial(address.clone()).unwrap();
    drive(stranger, "identify of the node", |event| match event {
        SwarmEvent::Behaviour(StrangerBehaviourEvent::Identify(identify::Event::Received {
            peer_id,
            ..
        })) => (*peer_id == peer).then_some(()),
        _ => None,
    })
    .await;
    stranger.behaviour_mut().kad.add_address(&peer, address);
    beside(stranger, node.identified(id)).await;
}
