//! How many connections there may be: those to strangers are counted, those that we want are not.
//!
//! A configured peer and a peer of the LAN must find room whoever else came first. So the budget is one of
//! strangers: what lies above it is closed soon ([`Connections::surplus_of`]), what lies above it by more than a
//! quarter is refused at once.
//!
//! - Invariant: connections of peers that are neither configured nor of the LAN never exceed [`Connections::hard`].
//! - Not here: which ones are closed (`crate::peers`); the limits of all connections together, which protect the
//!   machine and not its line (`crate::behaviour`).

use std::collections::HashSet;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::is_lan;

/// How many connections to strangers there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connections(pub(crate) usize);

impl Connections {
    /// One more than this is refused: looking something up in a DHT takes connections for seconds only.
    pub(crate) fn hard(self) -> usize {
        self.0 + self.0 / 4
    }

    /// How many of `open` connections are to be closed now.
    pub(crate) fn surplus_of(self, open: usize) -> usize {
        // Well below the budget, so that it is not done for each new one.
        let low = self.0 * 3 / 5;
        if open > self.0 { open - low } else { 0 }
    }
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
#[error("no room for more than {0} connections to strangers")]
pub(crate) struct Full(usize);

/// Counts connections to strangers.
#[derive(Debug)]
pub(crate) struct Budget {
    most: Connections,
    open: HashSet<ConnectionId>,
    exempt: HashSet<PeerId>,
}

impl Budget {
    pub(crate) fn new(most: Connections) -> Self {
        Self {
            most,
            open: HashSet::new(),
            exempt: HashSet::new(),
        }
    }

    /// This peer is configured: its connections are not counted.
    pub(crate) fn exempt(&mut self, peer: PeerId) {
        self.exempt.insert(peer);
    }

    fn is_counted(&self, peer: &PeerId, remote: &Multiaddr) -> bool {
        !self.exempt.contains(peer) && !is_lan(remote)
    }

    fn admit(&self, peer: &PeerId, remote: &Multiaddr) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        let hard = self.most.hard();
        if self.is_counted(peer, remote) && hard <= self.open.len() {
            return Err(ConnectionDenied::new(Full(hard)));
        }
        Ok(dummy::ConnectionHandler)
    }
}

impl NetworkBehaviour for Budget {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(&peer, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(&peer, remote)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened)
                if self.is_counted(&opened.peer_id, opened.endpoint.get_remote_address()) =>
            {
                self.open.insert(opened.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.open.remove(&closed.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn open(budget: &mut Budget, id: usize, peer: PeerId, remote: &Multiaddr) -> bool {
        let id = ConnectionId::new_unchecked(id);
        let local = address("/ip4/10.0.0.1/tcp/1");
        let admitted = budget
            .handle_established_inbound_connection(id, peer, &local, remote)
            .is_ok();
        if admitted {
            let endpoint = libp2p::core::ConnectedPoint::Listener {
                local_addr: local,
                send_back_addr: remote.clone(),
            };
            budget.on_swarm_event(FromSwarm::ConnectionEstablished(
                libp2p::swarm::behaviour::ConnectionEstablished {
                    peer_id: peer,
                    connection_id: id,
                    endpoint: &endpoint,
                    failed_addresses: &[],
                    other_established: 0,
                },
            ));
        }
        admitted
    }

    #[test]
    fn strangers_find_no_room_above_the_budget_and_those_we_want_always_do() {
        let far = address("/ip4/8.8.8.8/tcp/1");
        let mut budget = Budget::new(Connections(8));
        let admitted = (0..100)
            .filter(|n| open(&mut budget, *n, PeerId::random(), &far))
            .count();
        assert_eq!(admitted, 10);
        let friend = PeerId::random();
        assert!(!open(&mut budget, 200, friend, &far));
        budget.exempt(friend);
        assert!(open(&mut budget, 201, friend, &far));
        for n in 300..400 {
            let lan = address("/ip4/192.168.1.2/tcp/1");
            assert!(open(&mut budget, n, PeerId::random(), &lan), "{n}");
        }
    }

    #[test]
    fn none_means_that_no_stranger_is_met() {
        let mut none = Budget::new(Connections(0));
        let far = address("/ip4/8.8.8.8/tcp/1");
        assert!(!open(&mut none, 1, PeerId::random(), &far));
        assert!(open(
            &mut none,
            2,
            PeerId::random(),
            &address("/ip4/10.0.0.2/tcp/1")
        ));
    }

    #[test]
    fn so_many_are_closed_that_it_lasts_for_a_while() {
        let most = Connections(160);
        assert_eq!((most.surplus_of(160), most.surplus_of(161)), (0, 65));
        assert_eq!(most.hard(), 200);
    }
}
