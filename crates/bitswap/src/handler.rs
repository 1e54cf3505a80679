//! One connection's handler: takes every inbound stream, opens one outbound when asked.
//!
//! - Invariant: an inbound stream is never dropped for want of room; it waits for a reader.
//!   (rust-libp2p's own stream behaviour drops bursts, and Kubo opens a stream for each block.)
//! - Not here: reading and writing, which run in tasks of their own.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ProtocolsChange,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{Stream, StreamProtocol};
use tokio::time::Instant;

use crate::link::{Link, OpenError, Peer, Speaks};
use crate::reader;
use crate::shared::Shared;

const PROTOCOLS: [(StreamProtocol, Speaks); 4] = [
    (StreamProtocol::new("/ipfs/bitswap/1.2.0"), Speaks::V12),
    (StreamProtocol::new("/ipfs/bitswap/1.1.0"), Speaks::V11),
    (StreamProtocol::new("/ipfs/bitswap/1.0.0"), Speaks::V10),
    (StreamProtocol::new("/ipfs/bitswap"), Speaks::V10),
];
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Negotiates any Bitswap and says which.
#[derive(Debug, Clone, Copy)]
pub struct Upgrade;

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = std::array::IntoIter<StreamProtocol, 4>;

    fn protocol_info(&self) -> Self::InfoIter {
        PROTOCOLS.map(|(name, _)| name).into_iter()
    }
}

fn speaks(name: &StreamProtocol) -> Option<Speaks> {
    PROTOCOLS
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, speaks)| *speaks)
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
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

/// The handler of one connection.
#[derive(Debug)]
pub struct Handler {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    link: Arc<Link>,
    opening: bool,
    reading: bool,
}

impl Handler {
    pub(crate) fn new(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>) -> Self {
        Self {
            shared,
            peer,
            link,
            opening: false,
            reading: false,
        }
    }

    fn inbound(&mut self, mut stream: Stream) {
        // Kubo keeps its stream open for ever; whether the connection is of use, we know better.
        stream.ignore_for_keep_alive();
        self.shared.client().speaks(self.peer.id, true);
        if !self.link.arrive(stream) {
            self.shared.strike(&self.peer, "too many streams");
        }
        if !self.reading {
            self.reading = true;
            let task = reader::run(
                Arc::clone(&self.shared),
                Arc::clone(&self.peer),
                Arc::clone(&self.link),
            );
            self.shared
                .tasks
                .spawn(format!("bitswap reader {}", self.peer.id), task);
        }
    }

    /// Identify told what the peer speaks.
    fn protocols(&self, change: ProtocolsChange<'_>) {
        match change {
            ProtocolsChange::Added(mut added) => {
                let bitswap = added.any(|name| speaks(name).is_some());
                if bitswap {
                    self.shared.client().speaks(self.peer.id, true);
                    self.shared.clockwork.notify_one();
                    self.peer.wake.notify_one();
                }
            }
            ProtocolsChange::Removed(mut removed) => {
                let newest = removed.any(|name| speaks(name) == Some(Speaks::V12));
                if newest {
                    self.shared.client().unsupported(self.peer.id, Instant::now());
                }
            }
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.link.close();
        self.shared.disconnect(&self.peer, self.link.id);
    }
}

impl ConnectionHandler for Handler {
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
        self.peer.busy()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, (), Infallible>> {
        self.link.waker.register(cx.waker());
        if self.opening || !self.link.wants_stream() {
            return Poll::Pending;
        }
        self.opening = true;
        let protocol = SubstreamProtocol::new(Upgrade, ()).with_timeout(OPEN_TIMEOUT);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), ()>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.inbound(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.opening = false;
                let (mut stream, name) = protocol;
                stream.ignore_for_keep_alive();
                self.link
                    .opened(Ok((stream, speaks(&name).unwrap_or(Speaks::V12))));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.opening = false;
                self.link.opened(Err(match error {
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    _ => OpenError::Failed,
                }));
            }
            ConnectionEvent::RemoteProtocolsChange(change) => self.protocols(change),
            _ => {}
        }
    }
}
