//! Who is connected, as the swarm task knows it and as others may read it.
//!
//! - Invariant: a peer is in the table exactly while at least one connection to it is open.
//! - Not here: dialling (`crate::dialing`), the DHT's routing tables.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::time::Instant;

use crate::address::{is_lan, without_peer};
use crate::budget::Connections;
use crate::config::GRACE;
use crate::fetch::Fetch;
use crate::lookup::Lookup;
use crate::share::Share;
use crate::wire::Messages as _;

/// Longest agent text that is kept of a peer, in characters.
const MAX_AGENT: usize = 64;

/// One connected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who it is.
    pub id: PeerId,
    /// The remote address of one of its connections, without `/p2p/ID`; a LAN one where there is one.
    pub address: Multiaddr,
    /// Whether that address is loopback, private or link-local. A peer dialled by a DNS name is not
    /// taken for one, whatever the name stands for: the transport does not tell.
    pub lan: bool,
    /// What it calls itself, printable and short; empty until it told.
    pub agent: String,
    /// Since when it has been connected without a gap.
    pub since: SystemTime,
    /// Whether it stands in `[swarm] peers`: private records and blocks may go to it.
    pub configured: bool,
    /// Whether it speaks Bitswap; `None` until it told.
    pub bitswap: Option<bool>,
    /// Whether it answers `/libp2p/fetch/0.0.1`; `None` until it told.
    pub fetch: Option<bool>,
    /// Whether it answers `/pacstore/lookup/1`; `None` until it told.
    pub lookup: Option<bool>,
    /// Whether it answers `/pacstore/share/1`; `None` until it told.
    pub share: Option<bool>,
    /// How long a ping takes; `None` before the first. A longer one counts at once, a shorter one little by little.
    pub round_trip: Option<Duration>,
    /// How long it takes to say how it stands to a block, counted in the same way, late answers too.
    pub answers_within: Option<Duration>,
}

/// The table that handles read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerView(Arc<RwLock<HashMap<PeerId, PeerInfo>>>);

/// Which connected peers are of the LAN. Cheap to clone, and holds nothing of the network but that table.
#[derive(Clone, Debug, Default)]
pub struct LanPeers(pub(crate) PeerView);

impl LanPeers {
    /// Whether `peer` is connected by a loopback, private or link-local address.
    pub fn holds(&self, peer: &PeerId) -> bool {
        self.0.is_lan(peer)
    }
}

impl PeerView {
    pub(crate) fn all(&self) -> Vec<PeerInfo> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<PeerInfo> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(peer)
            .cloned()
    }

    pub(crate) fn is_lan(&self, peer: &PeerId) -> bool {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.get(peer).is_some_and(|peer| peer.lan)
    }

    fn set(&self, peer: PeerId, info: Option<PeerInfo>) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match info {
            Some(info) => table.insert(peer, info),
            None => table.remove(&peer),
        };
    }
}

struct Connection {
    remote: Multiaddr,
    inbound: bool,
    opened: Instant,
    missed_pings: u8,
}

struct Peer {
    connections: HashMap<ConnectionId, Connection>,
    info: PeerInfo,
    protected: bool,
}

/// The swarm task's own table.
pub(crate) struct Peers {
    table: HashMap<PeerId, Peer>,
    view: PeerView,
    most: Connections,
}

impl Peers {
    pub(crate) fn new(view: PeerView, most: Connections) -> Self {
        Self {
            table: HashMap::new(),
            view,
            most,
        }
    }

    /// Takes in a new connection; the peer's information if it was not connected before.
    pub(crate) fn opened(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        configured: bool,
        now: SystemTime,
    ) -> Option<PeerInfo> {
        let remote = without_peer(endpoint.get_remote_address().clone());
        let fresh = !self.table.contains_key(&peer);
        let entry = self.table.entry(peer).or_insert_with(|| Peer {
            connections: HashMap::new(),
            info: PeerInfo {
                id: peer,
                address: remote.clone(),
                lan: is_lan(&remote),
                agent: String::new(),
                since: now,
                configured,
                bitswap: None,
                fetch: None,
                lookup: None,
                share: None,
                round_trip: None,
                answers_within: None,
            },
            protected: false,
        });
        let inbound = endpoint.is_listener();
        entry.connections.insert(
            id,
            Connection {
                remote,
                inbound,
                opened: Instant::now(),
                missed_pings: 0,
            },
        );
        entry.info.configured |= configured;
        let info = self.publish(&peer);
        info.filter(|_| fresh)
    }

    /// Forgets a connection; how long the last one was open, if this was the last of its peer.
    pub(crate) fn closed(&mut self, peer: &PeerId, id: ConnectionId) -> Option<Duration> {
        let entry = self.table.get_mut(peer)?;
        let gone = entry.connections.remove(&id)?;
        if entry.connections.is_empty() {
            self.table.remove(peer);
            self.view.set(*peer, None);
            return Some(gone.opened.elapsed());
        }
        self.publish(peer);
        None
    }

    /// Takes in what a peer said of itself; its information if that is news.
    pub(crate) fn identified(
        &mut self,
        peer: &PeerId,
        agent: &str,
        protocols: &[StreamProtocol],
    ) -> Option<PeerInfo> {
        let info = &mut self.table.get_mut(peer)?.info;
        let before = info.clone();
        info.agent = agent
            .chars()
            .filter(|letter| !letter.is_control())
            .take(MAX_AGENT)
            .collect();
        info.bitswap = Some(
            protocols
                .iter()
                .any(|name| name.as_ref().starts_with("/ipfs/bitswap")),
        );
        info.fetch = Some(protocols.contains(&Fetch::PROTOCOL));
        info.lookup = Some(protocols.contains(&Lookup::PROTOCOL));
        info.share = Some(protocols.contains(&Share::PROTOCOL));
        self.publish(peer).filter(|now| *now != before)
    }

    /// The connection must not be closed to make room.
    pub(crate) fn protect(&mut self, peer: &PeerId, protected: bool) {
        if let Some(peer) = self.table.get_mut(peer) {
            peer.protected = protected;
        }
    }

    /// A ping took so long.
    pub(crate) fn measured(&mut self, peer: &PeerId, took: Duration) {
        self.note(peer, |info| info.round_trip = Some(slower(info.round_trip, took)));
    }

    /// It has said how it stands to blocks, so long after it was asked.
    pub(crate) fn answered(&mut self, peer: &PeerId, took: Duration) {
        self.note(peer, |info| {
            info.answers_within = Some(slower(info.answers_within, took));
        });
    }

    fn note(&mut self, peer: &PeerId, note: impl FnOnce(&mut PeerInfo)) {
        if let Some(entry) = self.table.get_mut(peer) {
            note(&mut entry.info);
            self.publish(peer);
        }
    }

    /// Counts a ping; `true` if the connection has missed so many that it is dead.
    pub(crate) fn pinged(&mut self, peer: &PeerId, id: ConnectionId, answered: bool, limit: u8) -> bool {
        let connection = self
            .table
            .get_mut(peer)
            .and_then(|peer| peer.connections.get_mut(&id));
        connection.is_some_and(|connection| {
            connection.missed_pings = if answered {
                0
            } else {
                connection.missed_pings.saturating_add(1)
            };
            connection.missed_pings >= limit
        })
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.table.contains_key(peer)
    }

    pub(crate) fn is_lan(&self, peer: &PeerId) -> bool {
        self.table.get(peer).is_some_and(|peer| peer.info.lan)
    }

    pub(crate) fn is_configured(&self, peer: &PeerId) -> bool {
        self.table.get(peer).is_some_and(|peer| peer.info.configured)
    }

    /// The remote address of a connection, and whether the peer opened it.
    pub(crate) fn remote_of(&self, peer: &PeerId, id: ConnectionId) -> Option<(&Multiaddr, bool)> {
        let connection = self.table.get(peer)?.connections.get(&id)?;
        Some((&connection.remote, connection.inbound))
    }

    /// The remote addresses of all open connections to a peer.
    pub(crate) fn remotes(&self, peer: &PeerId) -> impl Iterator<Item = &Multiaddr> {
        self.table
            .get(peer)
            .into_iter()
            .flat_map(|peer| peer.connections.values().map(|open| &open.remote))
    }

    /// Which peers to disconnect now because there are too many: never configured, protected or LAN
    /// ones, nor young ones; those without Bitswap first, then the oldest.
    pub(crate) fn surplus(&self) -> Vec<PeerId> {
        let strangers = || {
            let all = self.table.values();
            all.filter(|peer| !(peer.info.configured || peer.info.lan))
        };
        let open = strangers().map(|peer| peer.connections.len()).sum();
        let count = self.most.surplus_of(open);
        if count == 0 {
            return Vec::new();
        }
        let mut candidates: Vec<_> = strangers()
            .filter(|peer| !peer.protected)
            .filter_map(|peer| {
                let youngest = peer
                    .connections
                    .values()
                    .map(|open| open.opened.elapsed())
                    .min()?;
                let useful = peer.info.bitswap == Some(true);
                (youngest >= GRACE).then_some((useful, std::cmp::Reverse(youngest), peer.info.id))
            })
            .collect();
        candidates.sort_unstable();
        candidates.into_iter().take(count).map(|(_, _, id)| id).collect()
    }

    /// Brings the public view of a peer up to date.
    fn publish(&mut self, peer: &PeerId) -> Option<PeerInfo> {
        let entry = self.table.get_mut(peer)?;
        let remotes = || entry.connections.values().map(|open| &open.remote);
        let best = remotes()
            .find(|remote| is_lan(remote))
            .or_else(|| remotes().next())?;
        entry.info.lan = is_lan(best);
        entry.info.address = best.clone();
        self.view.set(*peer, Some(entry.info.clone()));
        Some(entry.info.clone())
    }
}

/// What counts of two measured times.
fn slower(old: Option<Duration>, new: Duration) -> Duration {
    new.max((old.unwrap_or(new) + new) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;

    const MOST: Connections = Connections(20);

    fn dialed(address: &str) -> ConnectedPoint {
        ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        }
    }

    #[test]
    fn a_peer_is_a_lan_peer_while_one_of_its_connections_is() {
        let view = PeerView::default();
        let mut peers = Peers::new(view.clone(), MOST);
        let peer = PeerId::random();
        let (far, near) = (ConnectionId::new_unchecked(1), ConnectionId::new_unchecked(2));
        let now = SystemTime::UNIX_EPOCH;
        assert!(
            peers
                .opened(peer, far, &dialed("/ip4/8.8.8.8/tcp/1"), false, now)
                .is_some()
        );
        assert!(!view.get(&peer).unwrap().lan);
        assert!(
            peers
                .opened(peer, near, &dialed("/ip4/10.0.0.1/tcp/1"), true, now)
                .is_none()
        );
        assert!(view.get(&peer).unwrap().lan && view.get(&peer).unwrap().configured);
        assert!(peers.closed(&peer, near).is_none());
        assert!(!view.get(&peer).unwrap().lan);
        assert!(peers.closed(&peer, far).is_some());
        assert_eq!(view.get(&peer), None);
    }

    #[test]
    fn what_a_peer_calls_itself_is_cut_and_cleaned() {
        let mut peers = Peers::new(PeerView::default(), MOST);
        let peer = PeerId::random();
        let id = ConnectionId::new_unchecked(1);
        peers.opened(
            peer,
            id,
            &dialed("/ip4/8.8.8.8/tcp/1"),
            false,
            SystemTime::UNIX_EPOCH,
        );
        let info = peers
            .identified(
                &peer,
                &format!("\u{1b}[31m{}", "x".repeat(500)),
                &[Fetch::PROTOCOL],
            )
            .unwrap();
        assert_eq!(info.agent.chars().count(), MAX_AGENT);
        assert!(info.agent.starts_with("[31m"));
        assert_eq!((info.bitswap, info.fetch), (Some(false), Some(true)));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_connections_are_trimmed_but_never_the_needed_ones() {
        let mut peers = Peers::new(PeerView::default(), MOST);
        let now = SystemTime::UNIX_EPOCH;
        let mut kept = Vec::new();
        // Ten of the LAN and a configured one come on top.
        for number in 0..=11 + MOST.0 {
            let peer = PeerId::random();
            let address = if number < 10 {
                "/ip4/192.168.1.1/tcp/1"
            } else {
                "/ip4/8.8.8.8/tcp/1"
            };
            peers.opened(
                peer,
                ConnectionId::new_unchecked(number),
                &dialed(address),
                number == 10,
                now,
            );
            peers.protect(&peer, number == 11);
            if number <= 11 {
                kept.push(peer);
            }
        }
        assert!(peers.surplus().is_empty(), "all are young");
        tokio::time::advance(GRACE).await;
        let surplus = peers.surplus();
        assert_eq!(surplus.len(), MOST.surplus_of(MOST.0 + 1));
        assert!(!surplus.is_empty());
        assert!(kept.iter().all(|peer| !surplus.contains(peer)));
    }
}
