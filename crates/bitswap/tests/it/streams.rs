//! A behaviour that hands out bare streams of one protocol, for peers that tests make up.
//!
//! One connection at a time may be asked for outbound streams.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::mpsc;

#[derive(Debug)]
pub(crate) struct Shared {
    protocol: StreamProtocol,
    to_open: AtomicUsize,
    waker: AtomicWaker,
    inbound: mpsc::Sender<Stream>,
    outbound: mpsc::Sender<Stream>,
}

#[derive(Debug)]
pub(crate) struct Streams(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Handler(Arc<Shared>);

/// Asks for outbound streams.
#[derive(Clone, Debug)]
pub(crate) struct Opener(Arc<Shared>);

impl Opener {
    /// One more stream is opened and comes on the outbound channel.
    pub(crate) fn open(&self) {
        self.0.to_open.fetch_add(1, Ordering::SeqCst);
        self.0.waker.wake();
    }
}

impl Streams {
    /// Inbound and outbound streams go to these channels.
    pub(crate) fn new(
        protocol: &'static str,
        inbound: mpsc::Sender<Stream>,
        outbound: mpsc::Sender<Stream>,
    ) -> (Self, Opener) {
        let shared = Arc::new(Shared {
            protocol: StreamProtocol::new(protocol),
            to_open: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            inbound,
            outbound,
        });
        (Self(Arc::clone(&shared)), Opener(shared))
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler(Arc::clone(&self.0)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler(Arc::clone(&self.0)))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>, ()> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.0.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Infallible>> {
        self.0.waker.register(cx.waker());
        let left = self.0.to_open.load(Ordering::SeqCst);
        if left == 0 {
            return Poll::Pending;
        }
        self.0.to_open.fetch_sub(1, Ordering::SeqCst);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
            protocol: self.listen_protocol(),
        })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, ReadyUpgrade<StreamProtocol>, ReadyUpgrade<StreamProtocol>, (), ()>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.0.inbound.try_send(protocol).expect("room for a stream");
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.0.outbound.try_send(protocol).expect("room for a stream");
            }
            ConnectionEvent::DialUpgradeError(error) => panic!("no stream: {:?}", error.error),
            _ => {}
        }
    }
}
