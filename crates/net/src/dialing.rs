//! Dials: those that a caller waits for, those that keep configured peers connected, those that
//! enter the DHT, and those that multicast DNS suggests.
//!
//! - Invariant: one dial per peer at a time (trap 10: Kubo takes 8 connections from one address), no
//!   retry without back-off, a bounded number of waiters.
//! - Not here: what happens once a connection stands (`crate::task`).

use std::collections::HashMap;
use std::num::NonZeroU8;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, ConnectionId};
use libp2p::{Multiaddr, PeerId, Swarm};
use pacstore_runtime::Backoff;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use crate::address::{is_lan, peer_of, without_peer};
use crate::behaviour::Behaviour;
use crate::command::Target;
use crate::config::{DIAL_DEADLINE, MAX_ADDRESSES, MAX_PENDING, MDNS_PEERS, REDIAL_BASE, REDIAL_MAX};
use crate::error::DialError;
use crate::peers::Peers;

/// A connection that lived this long was a good one: the next redial starts from the smallest pause.
const STABLE: Duration = Duration::from_secs(10);

type Reply = oneshot::Sender<Result<PeerId, DialError>>;

/// Why we keep a peer connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `[swarm] peers`: always.
    Configured,
    /// Bootstrap: while we know hardly anybody.
    Bootstrap,
    /// Multicast DNS: while it is heard of.
    Discovered,
}

struct Kept {
    role: Role,
    /// Named by the configuration.
    peer: Option<PeerId>,
    /// Who answered at an address without `/p2p/ID`. Dialled by address again, never pinned.
    met: Option<PeerId>,
    addresses: Vec<Multiaddr>,
    backoff: Backoff,
    next: Instant,
    dialing: Option<ConnectionId>,
}

impl Kept {
    fn is(&self, peer: &PeerId) -> bool {
        self.peer.as_ref() == Some(peer) || self.met.as_ref() == Some(peer)
    }

    fn is_connected(&self, peers: &Peers) -> bool {
        let known = [self.peer, self.met];
        known.iter().flatten().any(|peer| peers.is_connected(peer))
    }

    fn options(&self) -> Option<DialOpts> {
        Some(match self.peer {
            Some(peer) => to_peer(peer, self.addresses.clone()),
            None => DialOpts::unknown_peer_id()
                .address(self.addresses.first()?.clone())
                .build(),
        })
    }
}

struct Waiter {
    /// `None` while the dial of somebody else is awaited.
    dial: Option<ConnectionId>,
    peer: Option<PeerId>,
    addresses: Vec<Multiaddr>,
    reply: Reply,
    until: Instant,
}

/// All dials of the node.
pub(crate) struct Dialer {
    kept: Vec<Kept>,
    waiters: Vec<Waiter>,
}

impl Dialer {
    /// Keeps `peers` and, while we are lonely, `bootstrap` connected; never ourselves (`local`).
    pub(crate) fn new(local: PeerId, peers: &[Multiaddr], bootstrap: &[Multiaddr]) -> Self {
        let now = Instant::now();
        let mut dialer = Self {
            kept: Vec::new(),
            waiters: Vec::new(),
        };
        dialer.keep(peers, Role::Configured, now);
        dialer.keep(bootstrap, Role::Bootstrap, now);
        dialer.kept.retain(|kept| kept.peer != Some(local));
        dialer
    }

    /// Several addresses of one peer are one entry.
    fn keep(&mut self, addresses: &[Multiaddr], role: Role, now: Instant) {
        let mut known: HashMap<PeerId, usize> = HashMap::new();
        for address in addresses {
            let peer = peer_of(address);
            let address = without_peer(address.clone());
            if let Some(at) = peer.and_then(|peer| known.get(&peer).copied()) {
                self.kept[at].addresses.push(address);
                continue;
            }
            if let Some(peer) = peer {
                known.insert(peer, self.kept.len());
            }
            let backoff = Backoff::new(REDIAL_BASE, REDIAL_MAX);
            let addresses = vec![address];
            self.kept.push(Kept {
                role,
                peer,
                met: None,
                addresses,
                backoff,
                next: now,
                dialing: None,
            });
        }
    }

    /// The peers that the configuration names by their id.
    pub(crate) fn configured(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.kept
            .iter()
            .filter(|kept| kept.role == Role::Configured)
            .filter_map(|kept| kept.peer)
    }

    /// Takes in a connection; whether its peer is a configured one.
    pub(crate) fn connected(&mut self, peer: PeerId, id: ConnectionId) -> bool {
        for kept in &mut self.kept {
            if kept.dialing == Some(id) {
                kept.dialing = None;
                kept.met = Some(peer);
            }
        }
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.dial == Some(id) || waiter.peer == Some(peer));
        self.waiters = waiting;
        for waiter in done {
            let _ = waiter.reply.send(Ok(peer));
        }
        self.kept
            .iter()
            .any(|kept| kept.role == Role::Configured && kept.is(&peer))
    }

    /// Takes in that the last connection of a peer closed, after `lived`.
    pub(crate) fn disconnected(&mut self, peer: &PeerId, lived: Duration) {
        for kept in self.kept.iter_mut().filter(|kept| kept.is(peer)) {
            if lived >= STABLE {
                kept.backoff.reset();
            }
            kept.next = Instant::now() + kept.backoff.next();
        }
    }

    /// Takes in a failed dial.
    pub(crate) fn failed(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        id: ConnectionId,
        peer: Option<PeerId>,
        error: swarm::DialError,
    ) {
        for kept in self.kept.iter_mut().filter(|kept| kept.dialing == Some(id)) {
            kept.dialing = None;
            let pause = kept.backoff.next();
            kept.next = Instant::now() + pause;
            debug!(address = ?kept.addresses.first(), ?pause, error = &error as &dyn std::error::Error, "cannot reach a kept peer; will retry");
        }
        if let Some(at) = self.waiters.iter().position(|waiter| waiter.dial == Some(id)) {
            let waiter = self.waiters.swap_remove(at);
            let _ = waiter.reply.send(Err(DialError::Refused(Box::new(error))));
        }
        // Those who hung on this dial go their own way now.
        let stranded: Vec<_> = std::mem::take(&mut self.waiters);
        for waiter in stranded {
            match (waiter.dial, waiter.peer) {
                (None, waited) if waited.is_some() && waited == peer => self.start(swarm, waiter),
                _ => self.waiters.push(waiter),
            }
        }
    }

    /// Dials for a caller.
    pub(crate) fn dial(&mut self, swarm: &mut Swarm<Behaviour>, target: Target, reply: Reply) {
        if self.waiters.len() >= MAX_PENDING as usize {
            let _ = reply.send(Err(DialError::Busy));
            return;
        }
        let (peer, addresses) = match target {
            Target::Peer(peer, addresses) => (Some(peer), addresses.into_iter().map(without_peer).collect()),
            Target::Address(address) => (peer_of(&address), vec![address]),
        };
        let until = Instant::now() + DIAL_DEADLINE;
        match peer.filter(|peer| swarm.is_connected(peer)) {
            Some(connected) => {
                let _ = reply.send(Ok(connected));
            }
            None => self.start(
                swarm,
                Waiter {
                    dial: None,
                    peer,
                    addresses,
                    reply,
                    until,
                },
            ),
        }
    }

    fn start(&mut self, swarm: &mut Swarm<Behaviour>, mut waiter: Waiter) {
        let options = match (waiter.peer, waiter.addresses.first()) {
            (Some(peer), None) => DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build(),
            (Some(peer), Some(_)) => to_peer(peer, waiter.addresses.clone()),
            (None, Some(address)) => DialOpts::unknown_peer_id().address(address.clone()).build(),
            (None, None) => {
                let _ = waiter
                    .reply
                    .send(Err(DialError::Refused(Box::new(swarm::DialError::NoAddresses))));
                return;
            }
        };
        let id = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => waiter.dial = Some(id),
            // Somebody else dials it already: wait for that.
            Err(swarm::DialError::DialPeerConditionFalse(_)) => waiter.dial = None,
            Err(error) => {
                let _ = waiter.reply.send(Err(DialError::Refused(Box::new(error))));
                return;
            }
        }
        self.waiters.push(waiter);
    }

    /// Trap 9: libp2p's multicast DNS only discovers; dialling is ours. It also tells of each peer only
    /// once, so the peer is kept until it expires: it may restart at the same address. A flood of
    /// invented peers makes us dial a bounded number of them. `true` if this peer is news.
    pub(crate) fn discovered(&mut self, peer: PeerId, address: Multiaddr) -> bool {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.is(&peer)) {
            let room = kept.role == Role::Discovered && kept.addresses.len() < MAX_ADDRESSES;
            if room && !kept.addresses.contains(&address) {
                kept.addresses.push(address);
            }
            return false;
        }
        let discovered = self.kept.iter().filter(|kept| kept.role == Role::Discovered);
        if discovered.count() >= MDNS_PEERS {
            return false;
        }
        self.kept.push(Kept {
            role: Role::Discovered,
            peer: Some(peer),
            met: None,
            addresses: vec![address],
            backoff: Backoff::new(REDIAL_BASE, REDIAL_MAX),
            next: Instant::now(),
            dialing: None,
        });
        true
    }

    /// Takes in that multicast DNS has not heard of a peer at this address for long.
    pub(crate) fn expired(&mut self, peer: &PeerId, address: &Multiaddr) {
        let discovered = |kept: &Kept| kept.role == Role::Discovered && kept.is(peer);
        for kept in self.kept.iter_mut().filter(|kept| discovered(kept)) {
            kept.addresses.retain(|known| known != address);
        }
        self.kept
            .retain(|kept| !(discovered(kept) && kept.addresses.is_empty()));
    }

    /// Whether somebody is waited for, or is to be dialled.
    pub(crate) fn is_busy(&self, peers: &Peers, lonely: bool) -> bool {
        let wanted = |kept: &Kept| kept.role != Role::Bootstrap || lonely;
        !self.waiters.is_empty()
            || self
                .kept
                .iter()
                .any(|kept| wanted(kept) && !kept.is_connected(peers))
    }

    /// Dials kept peers whose time has come, and lets go of waiters that nobody waits with.
    /// `lonely` says whether bootstrap peers are wanted.
    pub(crate) fn tick(&mut self, swarm: &mut Swarm<Behaviour>, peers: &Peers, lonely: bool) {
        let now = Instant::now();
        self.waiters
            .retain(|waiter| !waiter.reply.is_closed() && now < waiter.until);
        for kept in &mut self.kept {
            let wanted = kept.role != Role::Bootstrap || lonely;
            if !wanted || kept.is_connected(peers) || kept.dialing.is_some() || now < kept.next {
                continue;
            }
            let Some(options) = kept.options() else { continue };
            let id = options.connection_id();
            match swarm.dial(options) {
                Ok(()) => kept.dialing = Some(id),
                Err(swarm::DialError::DialPeerConditionFalse(_)) => kept.next = now + REDIAL_BASE,
                Err(error) => {
                    kept.next = now + kept.backoff.next();
                    debug!(
                        error = &error as &dyn std::error::Error,
                        "a kept peer cannot be dialled"
                    );
                }
            }
        }
    }
}

/// One dial of a peer at all of its addresses.
///
/// On the LAN TCP goes first and alone: it is 1.5 to 2 times as fast as QUIC there, for half of the
/// CPU time, but would lose the race of handshakes. Elsewhere all addresses race.
fn to_peer(peer: PeerId, mut addresses: Vec<Multiaddr>) -> DialOpts {
    let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing);
    if addresses.len() > 1 && addresses.iter().all(is_lan) {
        addresses.sort_by_key(|address| !address.iter().any(|part| matches!(part, Protocol::Tcp(_))));
        return options
            .override_dial_concurrency_factor(NonZeroU8::MIN)
            .addresses(addresses)
            .build();
    }
    options.addresses(addresses).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn discovered_peers_are_kept_until_they_expire_and_never_too_many() {
        let mut dialer = Dialer::new(PeerId::random(), &[], &[]);
        let peer = PeerId::random();
        assert!(dialer.discovered(peer, address(1)));
        assert!(!dialer.discovered(peer, address(2)));
        dialer.expired(&peer, &address(1));
        assert_eq!(dialer.kept[0].addresses, [address(2)]);
        dialer.expired(&peer, &address(2));
        assert!(dialer.kept.is_empty());
        let taken = (0..1000)
            .filter(|_| dialer.discovered(PeerId::random(), address(1)))
            .count();
        assert_eq!(taken, MDNS_PEERS);
        for port in 0..1000 {
            dialer.discovered(dialer.kept[0].peer.unwrap(), address(port));
        }
        assert_eq!(dialer.kept[0].addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn several_addresses_of_one_peer_are_one_dial_and_we_never_dial_ourselves() {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let to = |peer, port| address(port).with(Protocol::P2p(peer));
        let dialer = Dialer::new(
            local,
            &[to(peer, 1), to(peer, 2), to(local, 3), address(4)],
            &[to(peer, 5)],
        );
        let kept: Vec<_> = dialer
            .kept
            .iter()
            .map(|kept| (kept.role, kept.peer, kept.addresses.len()))
            .collect();
        assert_eq!(
            kept,
            [
                (Role::Configured, Some(peer), 2),
                (Role::Configured, None, 1),
                (Role::Bootstrap, Some(peer), 1)
            ]
        );
    }
}
