//! A whole node for tests: a real swarm on loopback, blocks in memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, noise, tcp, yamux};
use pacstore_bitswap::{Behaviour, Bitswap, Blocks, Config, Event};
use pacstore_dag::{HashKind, raw_cid};
use pacstore_runtime::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Deadline of every wait in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Tcp,
    Quic,
}

#[derive(Debug)]
pub(crate) enum Command {
    Dial(Multiaddr),
    Disconnect(PeerId),
}

/// Blocks in memory; some peers may be refused.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    blocks: Mutex<HashMap<Multihash<64>, Bytes>>,
    refused: Mutex<HashSet<PeerId>>,
}

impl Memory {
    pub(crate) fn put(&self, data: impl Into<Bytes>) -> Cid {
        let data = data.into();
        let cid = raw_cid(HashKind::Sha2_256, &data);
        self.blocks.lock().unwrap().insert(*cid.hash(), data);
        cid
    }

    pub(crate) fn refuse(&self, peer: PeerId) {
        self.refused.lock().unwrap().insert(peer);
    }

    fn get(&self, cid: &Cid, peer: &PeerId) -> Option<Bytes> {
        if self.refused.lock().unwrap().contains(peer) {
            return None;
        }
        self.blocks.lock().unwrap().get(cid.hash()).cloned()
    }
}

impl Blocks for Memory {
    fn len(&self, cid: &Cid, peer: &PeerId) -> Option<u64> {
        self.get(cid, peer).map(|data| data.len() as u64)
    }

    fn read(&self, cid: &Cid, peer: &PeerId, out: &mut Vec<u8>) -> bool {
        let data = self.get(cid, peer);
        out.extend_from_slice(data.as_deref().unwrap_or_default());
        data.is_some()
    }
}

/// Reproducible bytes that differ by seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    Bytes::from(out)
}

pub(crate) fn swarm<B: NetworkBehaviour>(behaviour: B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_quic()
        .with_behaviour(|_| behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_mins(1)))
        .build()
}

/// Waits with the deadline of all tests.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let out = timeout(DEADLINE, future).await;
    out.unwrap_or_else(|_| panic!("{what} did not happen in {DEADLINE:?}"))
}

/// Waits until `check` holds, looking again every few milliseconds, with the deadline of all tests.
pub(crate) async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let looking = async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while !check() {
            tick.tick().await;
        }
    };
    soon(what, looking).await;
}

/// A swarm in a task: its id, its address, and its connections as they come and go.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: PeerId,
    pub(crate) addr: Multiaddr,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) connected: watch::Receiver<HashSet<PeerId>>,
    pub(crate) tasks: Tasks,
}

impl Host {
    pub(crate) async fn start<B>(
        mut swarm: Swarm<B>,
        transport: Transport,
        tasks: Tasks,
        mut event: impl FnMut(B::ToSwarm) + Send + 'static,
    ) -> Self
    where
        B: NetworkBehaviour + Send,
        B::ToSwarm: std::fmt::Debug,
    {
        let listen = match transport {
            Transport::Tcp => "/ip4/127.0.0.1/tcp/0",
            Transport::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        swarm.listen_on(listen.parse().unwrap()).unwrap();
        let id = *swarm.local_peer_id();
        let (commands, mut todo) = mpsc::channel(16);
        let (known, connected) = watch::channel(HashSet::new());
        let addr = soon("listening", async {
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    return address.with(Protocol::P2p(id));
                }
            }
        })
        .await;
        let stop = tasks.stop();
        tasks.spawn("swarm", async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    command = todo.recv() => match command {
                        Some(Command::Dial(addr)) => swarm.dial(addr).unwrap(),
                        Some(Command::Disconnect(peer)) => drop(swarm.disconnect_peer_id(peer)),
                        None => return,
                    },
                    out = swarm.select_next_some() => match out {
                        SwarmEvent::Behaviour(out) => event(out),
                        SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                            known.send_if_modified(|all| all.insert(peer_id));
                        }
                        SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                            known.send_if_modified(|all| all.remove(&peer_id));
                        }
                        _ => {}
                    },
                }
            }
        });
        Self {
            id,
            addr,
            commands,
            connected,
            tasks,
        }
    }

    pub(crate) async fn connect(&self, other: &Self) {
        self.commands
            .send(Command::Dial(other.addr.clone()))
            .await
            .unwrap();
        let (mut mine, mut theirs) = (self.connected.clone(), other.connected.clone());
        soon("connecting", mine.wait_for(|all| all.contains(&other.id)))
            .await
            .unwrap();
        soon("connecting", theirs.wait_for(|all| all.contains(&self.id)))
            .await
            .unwrap();
    }

    pub(crate) async fn disconnect(&self, other: &Self) {
        self.commands.send(Command::Disconnect(other.id)).await.unwrap();
        let (mut mine, mut theirs) = (self.connected.clone(), other.connected.clone());
        soon("disconnecting", mine.wait_for(|all| !all.contains(&other.id)))
            .await
            .unwrap();
        soon("disconnecting", theirs.wait_for(|all| !all.contains(&self.id)))
            .await
            .unwrap();
    }
}

/// A node that speaks Bitswap as the product does.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) bitswap: Bitswap,
    pub(crate) blocks: Arc<Memory>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default(), Transport::Tcp).await
    }

    pub(crate) async fn with(config: Config, transport: Transport) -> Self {
        let tasks = Tasks::new();
        let blocks = Arc::new(Memory::default());
        let served: Arc<dyn Blocks> = Arc::<Memory>::clone(&blocks);
        let (behaviour, bitswap) = Behaviour::new(config, served, tasks.clone());
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let seen = Arc::clone(&events);
        let host = Host::start(swarm(behaviour), transport, tasks, move |event| {
            seen.lock().unwrap().push(event);
        })
        .await;
        Self {
            host,
            bitswap,
            blocks,
            events,
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.host.id
    }

    pub(crate) async fn connect(&self, other: &Self) {
        self.host.connect(&other.host).await;
    }
}
