//! A Kademlia behaviour that knows only the addresses of its own network.
//!
//! libp2p's Kademlia shares all addresses with all others: a public peer could make us dial into the
//! LAN, our private addresses would stand in the public DHT, and any external address, even a
//! loopback one, would make it a server. This wrapper filters what goes in and what is dialled.
//!
//! - Invariant: an address outside of the scope neither leaves by this DHT nor is dialled for it.
//! - Invariant: no host name that was learned by this DHT is looked up.
//! - Not here: what comes in as a record (`crate::dht`, `crate::dht_store`).

use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, kad};

use crate::address::{Scope, is_dns, without_peer};
use crate::dht_store::DhtStore;

type Inner = kad::Behaviour<DhtStore>;

/// Kademlia within one [`Scope`].
pub(crate) struct ScopedKad {
    inner: Inner,
    scope: Scope,
}

impl ScopedKad {
    pub(crate) fn new(inner: Inner, scope: Scope) -> Self {
        Self { inner, scope }
    }

    pub(crate) fn kad(&mut self) -> &mut Inner {
        &mut self.inner
    }

    /// Peers in the routing table.
    pub(crate) fn table_len(&mut self) -> usize {
        self.inner.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    /// Takes a connected peer into the routing table under exactly these addresses. Older ones go:
    /// libp2p would keep all that a peer ever claimed, without bound.
    pub(crate) fn learn(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        if addresses.is_empty() {
            return;
        }
        let stale = self.in_table(peer);
        for address in addresses {
            self.inner.add_address(&peer, address.clone());
        }
        for address in stale
            .into_iter()
            .filter(|old| !addresses.contains(&without_peer(old.clone())))
        {
            self.inner.remove_address(&peer, &address);
        }
    }

    fn in_table(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let Some(bucket) = self.inner.kbucket(peer) else {
            return Vec::new();
        };
        let entry = bucket.iter().find(|entry| *entry.node.key.preimage() == peer);
        entry.map_or_else(Vec::new, |entry| entry.node.value.iter().cloned().collect())
    }

    /// What is known of a peer's addresses, also from look-ups under way: the results of a provider
    /// look-up name the peers only.
    pub(crate) fn addresses_of(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let probe = ConnectionId::new_unchecked(usize::MAX);
        self.handle_pending_outbound_connection(probe, Some(peer), &[], Endpoint::Dialer)
            .unwrap_or_default()
    }
}

impl NetworkBehaviour for ScopedKad {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

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

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut known = self
            .inner
            .handle_pending_outbound_connection(id, peer, addresses, role)?;
        // Whoever tells a name of its own choice would see, by its name server, who looks it up.
        known.retain(|address| self.scope.admits(address) && !is_dns(address));
        known.sort_unstable();
        known.dedup();
        Ok(known)
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
        let admitted = match &event {
            FromSwarm::ExternalAddrConfirmed(confirmed) => self.scope.admits(confirmed.addr),
            FromSwarm::ExternalAddrExpired(expired) => self.scope.admits(expired.addr),
            // Confirmed addresses say enough of us. A new listen address would only make libp2p
            // bootstrap an empty table, and warn that it cannot.
            FromSwarm::NewListenAddr(_) | FromSwarm::ExpiredListenAddr(_) => false,
            _ => true,
        };
        if admitted {
            self.inner.on_swarm_event(event);
        }
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
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Records;
    use pacstore_runtime::Clock;

    fn scoped(scope: Scope) -> ScopedKad {
        let local = PeerId::random();
        let store = DhtStore::new(local, scope, Records::new(Clock::system()));
        ScopedKad::new(kad::Behaviour::new(local, store), scope)
    }

    #[test]
    fn what_strangers_tell_is_dialled_in_its_own_network_and_never_by_a_name() {
        let lan = "/ip4/192.168.7.1/tcp/4001";
        let public = "/ip4/93.184.216.34/tcp/4001";
        let names = [
            "/dns4/track.example/tcp/4001",
            "/dnsaddr/track.example",
            "/dns6/track.example/tcp/1",
        ];
        for (scope, usable) in [(Scope::Lan, lan), (Scope::Public, public)] {
            let (mut kad, peer) = (scoped(scope), PeerId::random());
            let told = [lan, public].into_iter().chain(names);
            let told: Vec<Multiaddr> = told.map(|address| address.parse().unwrap()).collect();
            kad.learn(peer, &told);
            let dialled = kad.addresses_of(peer).into_iter().map(without_peer);
            let dialled: Vec<String> = dialled.map(|address| address.to_string()).collect();
            assert_eq!(dialled, [usable], "{scope:?}");
        }
    }
}
