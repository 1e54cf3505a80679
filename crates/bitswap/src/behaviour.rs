//! The part that a swarm drives: it makes a handler for each connection and reports bans.
//!
//! - Invariant: no block byte and no want passes here.
//! - Not here: streams (`crate::handler`), everything that decides (`crate::client`, `crate::server`).

use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use pacstore_runtime::Tasks;
use tokio::sync::mpsc;

use crate::client::{BanReason, clockwork};
use crate::config::{Blocks, Config};
use crate::handle::Bitswap;
use crate::handler::Handler;
use crate::link::Link;
use crate::shared::Shared;

/// Events that may wait for the swarm.
const EVENTS: usize = 64;

/// What the swarm's owner should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer misbehaved and is not asked for a while ([`Config::ban`]).
    Banned {
        /// Who.
        peer: PeerId,
        /// For what.
        reason: BanReason,
    },
}

/// Bitswap as a libp2p behaviour.
#[derive(Debug)]
pub struct Behaviour {
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
}

impl Behaviour {
    /// A behaviour that serves `blocks`, and the handle to ask with. Its tasks are spawned on
    /// `tasks` and end with it; so this must be called inside of a tokio runtime.
    pub fn new(config: Config, blocks: Arc<dyn Blocks>, tasks: Tasks) -> (Self, Bitswap) {
        let (tx, events) = mpsc::channel(EVENTS);
        let shared = Arc::new(Shared::new(config, blocks, tasks, tx));
        shared
            .tasks
            .spawn("bitswap sessions", clockwork(Arc::clone(&shared)));
        let bitswap = Bitswap::new(Arc::clone(&shared));
        (Self { shared, events }, bitswap)
    }

    fn handler(&self, id: ConnectionId, peer: PeerId) -> Handler {
        let link = Arc::new(Link::new(id));
        let peer = self.shared.connect(peer, &link);
        Handler::new(Arc::clone(&self.shared), peer, link)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(id, peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(id, peer))
    }

    // A handler tells of its own end by being dropped, also if another behaviour denied its connection.
    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.events.poll_recv(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
