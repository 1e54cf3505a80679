//! How many connections there may be: those to strangers are counted, those that we want are not.
//!
//! A configured peer and a peer of the LAN must find room whoever else came first. So the budget is one of
//! strangers: what lies above it is closed soon ([`Connections::surplus_of`]), what lies above it by more than a
//! quarter is refused at once.
//!
//! - Invariant: connections of peers that are neither configured nor of the LAN never exceed [`Connections::hard`].
//! - Invariant: no other machine takes all of [`MAX_PENDING`](crate::config::MAX_PENDING) with handshakes that it does
//!   not go on with.
//! - Not here: which ones are closed (`crate::peers`); the limits of all connections together, which protect the
//!   machine and not its line (`crate::behaviour`).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::address::{ip_of, is_lan};
use crate::config::MAX_PENDING_OF_ONE;

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

/// Why the handshake of a connection was not begun.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_PENDING_OF_ONE} handshakes of {0} are under way already")]
pub(crate) struct Crowded(IpAddr);

/// Counts connections to strangers, and handshakes of one address.
#[derive(Debug)]
pub(crate) struct Budget {
    most: Connections,
    open: HashSet<ConnectionId>,
    exempt: HashSet<PeerId>,
    /// From where the inbound connections came whose handshake is under way.
    pending: HashMap<ConnectionId, IpAddr>,
}

/// The machine or line behind an address, as far as that tells: of IPv6 one has 2^64 of them. Nothing for this machine.
fn whose(remote: &Multiaddr) -> Option<IpAddr> {
    let ip = ip_of(remote)?.to_canonical();
    if ip.is_loopback() {
        return None;
    }
    Some(match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    })
}

impl Budget {
    pub(crate) fn new(most: Connections) -> Self {
        Self {
            most,
            open: HashSet::new(),
            exempt: HashSet::new(),
            pending: HashMap::new(),
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

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(from) = whose(remote) else { return Ok(()) };
        let others = self.pending.values().filter(|other| **other == from).count();
        if MAX_PENDING_OF_ONE <= others {
            return Err(ConnectionDenied::new(Crowded(from)));
        }
        self.pending.insert(id, from);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&id);
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
            FromSwarm::ListenFailure(failed) => {
                self.pending.remove(&failed.connection_id);
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
    fn one_machine_does_not_take_all_handshakes_and_gets_on_as_they_end() {
        let mut budget = Budget::new(Connections(8));
        let mut number = 0;
        let mut begin = |budget: &mut Budget, remote: &str| {
            number += 1;
            let id = ConnectionId::new_unchecked(number);
            let begun = budget.handle_pending_inbound_connection(
                id,
                &address("/ip4/10.0.0.1/tcp/1"),
                &address(remote),
            );
            begun.is_ok().then_some(id)
        };
        let mut all = |budget: &mut Budget, remotes: &mut dyn Iterator<Item = String>| {
            let begun: Vec<_> = remotes.filter_map(|remote| begin(budget, &remote)).collect();
            (begun.len(), begun)
        };
        let of = |ip: &'static str| (1..=100).map(move |port| format!("/{ip}/tcp/{port}"));
        let (count, first) = all(&mut budget, &mut of("ip4/8.8.8.8"));
        assert_eq!(count, MAX_PENDING_OF_ONE);
        assert_eq!(all(&mut budget, &mut of("ip4/192.168.1.2")).0, MAX_PENDING_OF_ONE);
        // The addresses of one line.
        let mut line = (1..=100).map(|host| format!("/ip6/2600:1:2:3::{host:x}/udp/1/quic-v1"));
        assert_eq!(all(&mut budget, &mut line).0, MAX_PENDING_OF_ONE);
        assert_eq!(
            all(&mut budget, &mut of("ip6/2600:1:2:4::1")).0,
            MAX_PENDING_OF_ONE
        );
        assert_eq!(
            all(&mut budget, &mut of("ip4/127.0.0.1")).0,
            100,
            "this machine may"
        );

        let remote = address("/ip4/8.8.8.8/tcp/1");
        let (ended, failed) = (first[0], first[1]);
        budget
            .handle_established_inbound_connection(ended, PeerId::random(), &remote, &remote)
            .unwrap();
        budget.on_swarm_event(FromSwarm::ListenFailure(
            libp2p::swarm::behaviour::ListenFailure {
                local_addr: &remote,
                send_back_addr: &remote,
                error: &libp2p::swarm::ListenError::Aborted,
                connection_id: failed,
                peer_id: None,
            },
        ));
        assert_eq!(all(&mut budget, &mut of("ip4/8.8.8.8")).0, 2);
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
