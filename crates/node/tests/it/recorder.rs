//! A stranger that writes down every byte that a node sends it, on whatever protocol: a peer, a server of the DHT, a
//! neighbour on the LAN. It gives nothing and answers so that the node goes on.
//!
//! - Invariant: what a node says to it after the handshake is in its log, byte for byte.
//! - Not here: what is looked for in there.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, SwarmEvent, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, identify};
use pacstore_runtime::{CancellationToken, Tasks};
use tokio::sync::mpsc;

use crate::nodes::TestNode;

const KAD: [StreamProtocol; 2] = [
    StreamProtocol::new("/ipfs/lan/kad/1.0.0"),
    StreamProtocol::new("/ipfs/kad/1.0.0"),
];
const LOOKUP: StreamProtocol = StreamProtocol::new("/pacstore/lookup/1");
const SHARE: StreamProtocol = StreamProtocol::new("/pacstore/share/1");
const FETCH: StreamProtocol = StreamProtocol::new("/libp2p/fetch/0.0.1");
const BITSWAP: StreamProtocol = StreamProtocol::new("/ipfs/bitswap/1.2.0");

/// What was sent on one stream, in the order it came.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) protocol: StreamProtocol,
    pub(crate) bytes: Vec<u8>,
}

/// All that was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Said>>>);

impl Log {
    fn begin(&self, protocol: StreamProtocol) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Said {
            protocol,
            bytes: Vec::new(),
        });
        all.len() - 1
    }

    fn add(&self, at: usize, bytes: &[u8]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all[at].bytes.extend_from_slice(bytes);
    }

    pub(crate) fn all(&self) -> Vec<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The protocols on which `needle` was said.
    pub(crate) fn said(&self, needle: &[u8]) -> Vec<String> {
        let all = self.all();
        let found = all
            .iter()
            .filter(|said| said.bytes.windows(needle.len()).any(|window| window == needle));
        let mut names: Vec<String> = found.map(|said| said.protocol.to_string()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Takes streams of all these protocols.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade;

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::array::IntoIter<StreamProtocol, 6>;

    fn protocol_info(&self) -> Self::InfoIter {
        let [lan, public] = KAD;
        [lan, public, LOOKUP, SHARE, FETCH, BITSWAP].into_iter()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

#[derive(Debug)]
pub(crate) struct Ears {
    log: Log,
    tasks: Tasks,
}

#[derive(Debug)]
pub(crate) struct Ear {
    log: Log,
    tasks: Tasks,
}

impl Ears {
    fn ear(&self) -> Ear {
        Ear {
            log: self.log.clone(),
            tasks: self.tasks.clone(),
        }
    }
}

impl NetworkBehaviour for Ears {
    type ConnectionHandler = Ear;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Ear, ConnectionDenied> {
        Ok(self.ear())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Ear, ConnectionDenied> {
        Ok(self.ear())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

impl ConnectionHandler for Ear {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade, ()> {
        SubstreamProtocol::new(Upgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, (), Infallible>> {
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), ()>) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) = event {
            let (stream, name) = protocol;
            let listening = listen(self.log.clone(), stream, name);
            self.tasks.spawn("recorder stream", listening);
        }
    }
}

/// Writes down what comes and answers each message, until the stream ends.
async fn listen(log: Log, mut stream: Stream, protocol: StreamProtocol) {
    let at = log.begin(protocol.clone());
    let (mut pending, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        log.add(at, &buffer[..count]);
        pending.extend_from_slice(&buffer[..count]);
        while let Some(message) = next_message(&mut pending) {
            let Some(answer) = answer(&protocol, &message) else {
                continue;
            };
            let sent = async {
                stream.write_all(&framed(&answer)).await?;
                stream.flush().await
            };
            if sent.await.is_err() {
                return;
            }
        }
    }
}

/// What says as little as can be.
fn answer(protocol: &StreamProtocol, message: &[u8]) -> Option<Vec<u8>> {
    if *protocol == LOOKUP {
        // Nothing is here.
        return Some(vec![0; message.len() / 32]);
    }
    if *protocol == SHARE {
        // All is free.
        return Some(vec![0; message.len().saturating_sub(1) / 32]);
    }
    if *protocol == FETCH {
        return Some(vec![0x08, 0x01]);
    }
    if !KAD.contains(protocol) {
        return None;
    }
    match message {
        // PUT_VALUE is answered with what was put, ADD_PROVIDER not at all.
        [0x08, 0, ..] => Some(message.to_vec()),
        [0x08, 2, ..] => None,
        // Looked up: no closer peer, no value, no provider.
        [0x08, kind, ..] => Some(vec![0x08, *kind]),
        // protobuf leaves a zero out.
        _ => Some(message.to_vec()),
    }
}

/// Takes the next whole message off.
fn next_message(pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (mut len, mut at) = (0_usize, 0);
    loop {
        let byte = *pending.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte < 0x80 || at == 4 {
            break;
        }
    }
    if pending.len() < at + len {
        return None;
    }
    let message = pending[at..at + len].to_vec();
    pending.drain(..at + len);
    Some(message)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut len = message.len();
    while len >= 0x80 {
        out.push(u8::try_from(len & 0x7f).unwrap() | 0x80);
        len >>= 7;
    }
    out.push(u8::try_from(len).unwrap());
    out.extend_from_slice(message);
    out
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    ears: Ears,
    identify: identify::Behaviour,
}

/// The stranger.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) log: Log,
    pub(crate) id: PeerId,
    dials: mpsc::Sender<Multiaddr>,
    tasks: Tasks,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        let (log, tasks) = (Log::default(), Tasks::new());
        let ears = Ears {
            log: log.clone(),
            tasks: tasks.clone(),
        };
        let mut swarm = libp2p::SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                libp2p::tcp::Config::default(),
                libp2p::noise::Config::new,
                libp2p::yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|key| Behaviour {
                ears,
                identify: identify::Behaviour::new(identify::Config::new(
                    "ipfs/0.1.0".to_owned(),
                    key.public(),
                )),
            })
            .unwrap()
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let id = *swarm.local_peer_id();
        let (dials, mut orders) = mpsc::channel::<Multiaddr>(8);
        let (stop, heard) = (tasks.stop(), log.clone());
        tasks.spawn("recorder", async move {
            loop {
                tokio::select! {
                    () = stopped(&stop) => return,
                    Some(address) = orders.recv() => swarm.dial(address).unwrap(),
                    event = swarm.select_next_some() => match event {
                        SwarmEvent::NewListenAddr { address, .. } => swarm.add_external_address(address),
                        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { info, .. })) => {
                            let at = heard.begin(StreamProtocol::new("/identify"));
                            heard.add(at, format!("{info:?}").as_bytes());
                        }
                        _ => {}
                    },
                }
            }
        });
        Self {
            log,
            id,
            dials,
            tasks,
        }
    }

    /// Connects to `node` and waits until that one knows what it may ask here.
    pub(crate) async fn meets(&self, node: &TestNode) {
        self.dials.send(node.address().await).await.unwrap();
        let net = node.node.net().unwrap();
        let mut events = net.subscribe();
        let known = || net.peer(&self.id).is_some_and(|peer| peer.share == Some(true));
        let met = async {
            while !known() {
                events.recv().await.unwrap();
            }
        };
        tokio::time::timeout(crate::nodes::SOON, met)
            .await
            .expect("they meet");
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

async fn stopped(stop: &CancellationToken) {
    stop.cancelled().await;
}
