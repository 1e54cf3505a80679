//! Where we listen: binding, falling back, and which addresses others are told.
//!
//! - Invariant: the addresses that we report carry the port that was really bound.
//! - Not here: the transports (`crate::behaviour`).

use std::collections::HashSet;
use std::io;

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, Swarm, TransportError};
use tokio::sync::watch;
use tracing::warn;

use crate::address::{Scope, is_dialable_by_others, is_loopback, probe, with_any_port};
use crate::behaviour::Behaviour;
use crate::config::DhtMode;
use crate::error::NetError;

/// What is known of our listeners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listening {
    /// Actual addresses, with real ports, one for each interface.
    pub(crate) addresses: Vec<Multiaddr>,
    /// Listeners that have not told their first address yet.
    pub(crate) pending: HashSet<ListenerId>,
}

/// Binds all of `wanted`. A port that is taken is replaced by any free one, with a warning.
///
/// # Errors
/// [`NetError::Listen`] if there were addresses and not one could be bound.
pub(crate) fn listen(
    swarm: &mut Swarm<Behaviour>,
    wanted: &[Multiaddr],
) -> Result<HashSet<ListenerId>, NetError> {
    let mut bound = HashSet::new();
    let mut last = None;
    for address in wanted {
        match bind(swarm, address).or_else(|error| fall_back(swarm, address, error)) {
            Ok(id) => drop(bound.insert(id)),
            Err(error) => {
                warn!(%address, error = &error as &dyn std::error::Error, "cannot listen here");
                last = Some((address.clone(), error));
            }
        }
    }
    match last {
        Some((address, error)) if bound.is_empty() => Err(NetError::Listen {
            tried: wanted.len(),
            address,
            error,
        }),
        _ => Ok(bound),
    }
}

fn bind(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> io::Result<ListenerId> {
    probe(address)?;
    swarm.listen_on(address.clone()).map_err(of_the_system)
}

/// What libp2p wraps into an error that says nothing itself.
fn of_the_system(error: TransportError<io::Error>) -> io::Error {
    match error {
        TransportError::Other(error) => error,
        TransportError::MultiaddrNotSupported(_) => {
            io::Error::new(io::ErrorKind::Unsupported, "no transport has such addresses")
        }
    }
}

fn fall_back(swarm: &mut Swarm<Behaviour>, address: &Multiaddr, error: io::Error) -> io::Result<ListenerId> {
    let any = with_any_port(address);
    if !is_taken(&error) || any == *address {
        return Err(error);
    }
    warn!(%address, error = &error as &dyn std::error::Error, "the port is taken; listening on any free one");
    swarm.listen_on(any).map_err(|_| error)
}

/// libp2p's DNS and QUIC layers wrap the error of the system; look through them.
fn is_taken(error: &io::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            if matches!(
                io.kind(),
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
            ) {
                return true;
            }
            // A custom error inside is no `source` of its wrapper, but of what it wraps.
            if let Some(inner) = io.get_ref() {
                next = Some(inner);
                continue;
            }
        }
        next = current.source();
    }
    // What could not be looked into still says so.
    error.to_string().contains("in use")
}

/// Takes in one more address of a listener.
pub(crate) fn opened(listening: &watch::Sender<Listening>, id: ListenerId, address: &Multiaddr) {
    listening.send_modify(|now| {
        now.pending.remove(&id);
        if !now.addresses.contains(address) {
            now.addresses.push(address.clone());
        }
    });
}

/// Takes in that addresses are gone, and with `id` the whole listener.
pub(crate) fn closed(listening: &watch::Sender<Listening>, id: Option<ListenerId>, addresses: &[Multiaddr]) {
    listening.send_modify(|now| {
        now.addresses.retain(|known| !addresses.contains(known));
        if let Some(id) = id {
            now.pending.remove(&id);
        }
    });
}

/// Trap 5: only external addresses go into provider records, so the LAN DHT needs them too. Loopback
/// ones are told only where nothing else is: to another machine they mean itself.
///
/// Global addresses are taken on trust only by [`DhtMode::Server`]; else `crate::reach` confirms them.
pub(crate) fn update_external(swarm: &mut Swarm<Behaviour>, listening: &[Multiaddr], mode: DhtMode) {
    let lan: Vec<_> = listening
        .iter()
        .filter(|address| Scope::Lan.admits(address) && is_dialable_by_others(address))
        .collect();
    let beyond = lan.iter().any(|address| !is_loopback(address));
    let mut told: HashSet<_> = lan
        .into_iter()
        .filter(|address| !beyond || !is_loopback(address))
        .cloned()
        .collect();
    if mode == DhtMode::Server {
        told.extend(
            listening
                .iter()
                .filter(|address| Scope::Public.admits(address))
                .cloned(),
        );
    }
    let stale: Vec<_> = swarm
        .external_addresses()
        .filter(|address| Scope::Lan.admits(address) && !told.contains(*address))
        .cloned()
        .collect();
    for address in stale {
        swarm.remove_external_address(&address);
    }
    for address in told {
        if !swarm.external_addresses().any(|known| *known == address) {
            swarm.add_external_address(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_seen_through_every_wrapper() {
        let inner = io::Error::from(io::ErrorKind::AddrInUse);
        assert!(is_taken(&inner));
        let wrapped = io::Error::other(io::Error::from(io::ErrorKind::AddrInUse));
        assert!(is_taken(&wrapped));
        assert!(is_taken(&io::Error::other(wrapped)));
        assert!(!is_taken(&io::Error::other("no such device")));
        assert!(!is_taken(&io::Error::from(io::ErrorKind::AddrNotAvailable)));
    }
}
