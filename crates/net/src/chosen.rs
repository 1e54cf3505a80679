//! Multicast DNS on some interfaces only.
//!
//! libp2p's multicast DNS speaks on every interface. Here it hears of our listen addresses only where they are of a
//! chosen interface, and what it finds counts only where it lies in the network of one. On the others its questions
//! ("which libp2p nodes are here?") and answers go out all the same, but the answers name neither our id nor an
//! address, and nobody who answers there is dialled.
//!
//! - Invariant: with interfaces chosen, no packet on another one tells who we are, and no peer of another one is met
//!   by it.
//! - Not here: dialling what is found (`crate::dialing`).
//! - Read first: `docs/decisions/`, "Multicast DNS on chosen interfaces".

use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, mdns};
use tracing::warn;

use crate::address::ip_of;

type Inner = mdns::tokio::Behaviour;

/// An address of an interface, and how many of its bits are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: IpAddr,
    prefix: u8,
}

impl Place {
    /// Link-local addresses are the same on every interface: without its name they tell of none.
    fn holds(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (_, IpAddr::V4(other)) if other.is_link_local() => false,
            (_, IpAddr::V6(other)) if other.is_unicast_link_local() => false,
            (IpAddr::V4(own), IpAddr::V4(other)) => same_bits(&own.octets(), &other.octets(), self.prefix),
            (IpAddr::V6(own), IpAddr::V6(other)) => same_bits(&own.octets(), &other.octets(), self.prefix),
            _ => false,
        }
    }
}

/// Whether the first `bits` bits are the same.
fn same_bits(one: &[u8], other: &[u8], bits: u8) -> bool {
    let bits = usize::from(bits).min(one.len() * 8);
    let (whole, rest) = (bits / 8, bits % 8);
    let mask = !(0xff_u8.checked_shr(u32::try_from(rest).unwrap_or(0)).unwrap_or(0));
    one[..whole] == other[..whole] && (rest == 0 || one[whole] & mask == other[whole] & mask)
}

/// Which interfaces count.
#[derive(Clone, Debug)]
enum Chosen {
    All,
    Named(Vec<String>),
}

impl Chosen {
    /// Where the chosen ones stand now; `None` = everywhere. Interfaces come and go, so it is asked each time.
    fn places(&self) -> Option<Vec<Place>> {
        let Self::Named(names) = self else { return None };
        let all = if_addrs::get_if_addrs().unwrap_or_else(|error| {
            warn!(%error, "cannot list the interfaces; multicast DNS finds nobody");
            Vec::new()
        });
        let named = all.into_iter().filter(|one| names.contains(&one.name));
        let place = |one: if_addrs::Interface| match one.addr {
            if_addrs::IfAddr::V4(v4) => Place {
                address: v4.ip.into(),
                prefix: v4.prefixlen,
            },
            if_addrs::IfAddr::V6(v6) => Place {
                address: v6.ip.into(),
                prefix: v6.prefixlen,
            },
        };
        Some(named.map(place).collect())
    }
}

/// Multicast DNS that counts on some interfaces.
pub(crate) struct ChosenMdns {
    inner: Inner,
    chosen: Chosen,
}

impl ChosenMdns {
    /// On the interfaces with these names, such as `eth0`; on all if there are none.
    pub(crate) fn new(inner: Inner, interfaces: &[String]) -> Self {
        let chosen = if interfaces.is_empty() {
            Chosen::All
        } else {
            Chosen::Named(interfaces.to_vec())
        };
        Self { inner, chosen }
    }

    /// Whether our own `address` is one of a chosen interface.
    fn is_ours(&self, address: &Multiaddr) -> bool {
        let Some(places) = self.chosen.places() else {
            return true;
        };
        ip_of(address).is_some_and(|ip| places.iter().any(|place| place.address == ip))
    }
}

/// Leaves what lies in the network of a chosen interface.
fn near(places: Option<&[Place]>, found: Vec<(PeerId, Multiaddr)>) -> Vec<(PeerId, Multiaddr)> {
    let Some(places) = places else { return found };
    let near = |address: &Multiaddr| ip_of(address).is_some_and(|ip| places.iter().any(|at| at.holds(ip)));
    found.into_iter().filter(|(_, address)| near(address)).collect()
}

impl NetworkBehaviour for ChosenMdns {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = mdns::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(id, peer, local, remote)
    }

    /// What multicast DNS knows of a peer is dialled by `crate::dialing` or not at all.
    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::NewListenAddr(new) = &event
            && !self.is_ours(new.addr)
        {
            return;
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let Poll::Ready(event) = self.inner.poll(cx) else {
                return Poll::Pending;
            };
            match event {
                ToSwarm::GenerateEvent(mdns::Event::Discovered(found)) => {
                    let found = near(self.chosen.places().as_deref(), found);
                    if !found.is_empty() {
                        return Poll::Ready(ToSwarm::GenerateEvent(mdns::Event::Discovered(found)));
                    }
                }
                // The same once more, for behaviours that would dial it without asking us.
                ToSwarm::NewExternalAddrOfPeer { .. } => {}
                event => return Poll::Ready(event),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, prefix: u8) -> Place {
        Place {
            address: address.parse().unwrap(),
            prefix,
        }
    }

    #[test]
    fn a_peer_is_near_if_it_lies_in_the_network_of_a_chosen_interface() {
        let near = |place: Place, ip: &str| place.holds(ip.parse().unwrap());
        assert!(near(place("10.77.0.1", 24), "10.77.0.9") && !near(place("10.77.0.1", 24), "10.78.0.9"));
        assert!(near(place("10.77.0.1", 20), "10.77.15.1") && !near(place("10.77.0.1", 20), "10.77.16.1"));
        assert!(near(place("10.77.0.1", 32), "10.77.0.1") && !near(place("10.77.0.1", 32), "10.77.0.2"));
        assert!(near(place("10.77.0.1", 0), "8.8.8.8") && near(place("fd00::1", 64), "fd00::2"));
        assert!(
            !near(place("fe80::1", 64), "fe80::2"),
            "any interface may have it"
        );
        assert!(!near(place("169.254.0.1", 16), "169.254.9.9"));
        assert!(!near(place("10.77.0.1", 0), "::1") && !near(place("fd00::1", 64), "fe80::2"));
    }

    #[test]
    fn others_are_left_out_where_interfaces_are_chosen() {
        let found = || {
            [
                "/ip4/10.77.0.2/tcp/1",
                "/ip4/192.168.1.2/tcp/1",
                "/dns4/a.example/tcp/1",
            ]
            .map(|text| (PeerId::random(), text.parse::<Multiaddr>().unwrap()))
            .to_vec()
        };
        assert_eq!(near(None, found()).len(), 3);
        assert_eq!(near(Some(&[]), found()), []);
        let left = near(Some(&[place("10.77.0.1", 24)]), found());
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].1.to_string(), "/ip4/10.77.0.2/tcp/1");
    }

    #[test]
    fn the_loopback_interface_has_its_place() {
        let chosen = Chosen::Named(vec!["lo".to_owned()]);
        assert!(
            chosen
                .places()
                .unwrap()
                .iter()
                .any(|place| place.address.is_loopback())
        );
        assert_eq!(Chosen::Named(vec!["none".to_owned()]).places(), Some(Vec::new()));
    }
}
