//! The parts of the swarm and how they are put together.
//!
//! Gossipsub, AutoNAT, relay and hole punching will be further fields of [`Behaviour`].
//!
//! - Invariant: connection limits, budget and bans stand first, so that what they refuse costs nothing else.
//! - Not here: what happens on their events (`crate::task`); Bitswap's own traps 1 to 4, one stream
//!   kept per peer, every want answered, no stream dropped (`pacstore-bitswap`).
//! - Read first: Kubo interoperability, "what breaks if forgotten" (eleven traps, numbered here).

use std::sync::Arc;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::kad::{self, store::RecordStore};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, identify, mdns, noise, ping, tcp, tls};
use pacstore_bitswap::{Bitswap, Blocks};
use pacstore_runtime::Tasks;
use tracing::warn;

use crate::address::Scope;
use crate::budget::{Budget, Connections};
use crate::chosen::ChosenMdns;
use crate::config::{
    DHT_TTL, DhtMode, IDLE_TIMEOUT, MAX_CONNECTIONS, MAX_INBOUND, MAX_PENDING, MAX_PER_PEER, NetConfig,
    QUERY_DEADLINE,
};
use crate::cork::Cork;
use crate::dht_store::DhtStore;
use crate::error::NetError;
use crate::fetch::Fetch;
use crate::lookup::Lookup;
use crate::muxer;
use crate::peers::PeerView;
use crate::records::Records;
use crate::scoped::ScopedKad;
use crate::share::Share;
use crate::wire::{self, Answers};

/// Kubo does not look at it; go-libp2p's own default.
const IDENTIFY_VERSION: &str = "ipfs/0.1.0";
/// What Kubo speaks with peers at private addresses.
pub(crate) const LAN_KAD: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");
/// The public DHT ("Amino").
pub(crate) const PUBLIC_KAD: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

/// Streams of one yamux connection. One above the limit closes the WHOLE connection (trap 1), so
/// a low limit protects nobody.
///
/// What they are guaranteed, 256 KiB each, is taken from the 1 GiB that the windows of a
/// connection may have in all; what is left, 768 KiB, is all that one window can grow by. So no
/// window is larger than 1 MiB, and nor is a frame of a peer that fills its window with one
/// (js-libp2p does): yamux closes the connection over a larger frame.
/// Pinned by `crates/cli/tests/interop/helia.rs`.
const YAMUX_STREAMS: usize = ((1 << 30) - (768 << 10)) / (256 << 10);

/// Everything that speaks on our connections.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) budget: Budget,
    pub(crate) bans: allow_block_list::Behaviour<BlockedPeers>,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) fetch: wire::Behaviour<Fetch>,
    pub(crate) lookup: wire::Behaviour<Lookup>,
    pub(crate) share: wire::Behaviour<Share>,
    pub(crate) lan_dht: Toggle<ScopedKad>,
    pub(crate) public_dht: Toggle<ScopedKad>,
    pub(crate) mdns: Toggle<ChosenMdns>,
    pub(crate) bitswap: pacstore_bitswap::Behaviour,
}

impl Behaviour {
    /// The DHT of one network, if it is switched on.
    pub(crate) fn dht(&mut self, scope: Scope) -> Option<&mut ScopedKad> {
        match scope {
            Scope::Lan => self.lan_dht.as_mut(),
            Scope::Public => self.public_dht.as_mut(),
        }
    }
}

/// What a swarm is built from.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a NetConfig,
    pub(crate) key: &'a Keypair,
    pub(crate) records: &'a Records,
    pub(crate) peers: &'a PeerView,
}

/// Builds the swarm; nothing listens or dials yet.
pub(crate) fn build(
    parts: &Parts<'_>,
    blocks: Arc<dyn Blocks>,
    tasks: &Tasks,
) -> Result<(Swarm<Behaviour>, Bitswap), NetError> {
    let peers = parts.peers.clone();
    let mut config = pacstore_bitswap::Config::default();
    config.upload.clone_from(&parts.config.upload);
    config.local = Some(Arc::new(move |peer| peers.is_lan(peer)));
    let (bitswap, handle) = pacstore_bitswap::Behaviour::new(config, blocks, tasks.clone());
    let behaviour = behaviour(parts, bitswap);
    let swarm = with_system_dns(parts.key, behaviour)?;
    Ok((swarm, handle))
}

/// A machine without a resolver configuration still reaches numeric addresses.
fn with_system_dns(key: &Keypair, behaviour: Behaviour) -> Result<Swarm<Behaviour>, NetError> {
    // One count for all connections, whichever way the swarm is built.
    let config = muxer::Config::new(YAMUX_STREAMS);
    let muxer = || config.clone();
    let transports = || {
        let builder = SwarmBuilder::with_existing_identity(key.clone()).with_tokio();
        let security = (
            |key: &Keypair| tls::Config::new(key).map(Cork),
            |key: &Keypair| noise::Config::new(key).map(Cork),
        );
        match builder.with_tcp(tcp::Config::default(), security, muxer) {
            Ok(builder) => Ok(builder.with_quic()),
            Err(error) => Err(NetError::Security(Box::new(error))),
        }
    };
    // Trap 8, and see `crate::budget`.
    let patient = |config: libp2p::swarm::Config| config.with_idle_connection_timeout(IDLE_TIMEOUT);
    match transports()?.with_dns() {
        Ok(builder) => {
            let Ok(builder) = builder.with_behaviour(|_| behaviour);
            Ok(builder.with_swarm_config(patient).build())
        }
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "no DNS: peers are reached by numeric addresses only"
            );
            let Ok(builder) = transports()?.with_behaviour(|_| behaviour);
            Ok(builder.with_swarm_config(patient).build())
        }
    }
}

fn behaviour(parts: &Parts<'_>, bitswap: pacstore_bitswap::Behaviour) -> Behaviour {
    let Parts {
        config, key, records, ..
    } = *parts;
    let identify = identify::Config::new(IDENTIFY_VERSION.to_owned(), key.public())
        .with_agent_version(config.agent.clone())
        .with_push_listen_addr_updates(true)
        // No cache: addresses that a stranger claims are dialled only after our own filters saw them.
        .with_cache_size(0);
    Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        budget: Budget::new(Connections(config.strangers)),
        bans: allow_block_list::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::default(),
        fetch: wire::behaviour(Answers::Yes),
        lookup: wire::behaviour(Answers::if_some(config.lookups.as_ref())),
        share: wire::behaviour(Answers::if_some(config.shares.as_ref())),
        lan_dht: dht(config.part(), Scope::Lan, key, records).into(),
        public_dht: dht(config.part(), Scope::Public, key, records).into(),
        mdns: mdns(config, key).into(),
        bitswap,
    }
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established_incoming(Some(MAX_INBOUND))
        .with_max_established(Some(MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(MAX_PER_PEER))
}

fn dht(mode: DhtMode, scope: Scope, key: &Keypair, records: &Records) -> Option<ScopedKad> {
    let local = key.public().to_peer_id();
    let mut config = kad::Config::new(match scope {
        Scope::Lan => LAN_KAD,
        Scope::Public => PUBLIC_KAD,
    });
    config
        // Trap 7: libp2p neither validates nor selects; what comes in waits for `crate::dht`.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // Only peers whose addresses lie in this network may enter the table: `crate::task` adds them.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_query_timeout(QUERY_DEADLINE)
        .set_record_ttl(Some(DHT_TTL))
        .set_provider_record_ttl(Some(DHT_TTL))
        // Republishing is our own clockwork (`crate::announce`): it knows what reached nobody.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        // libp2p warns each time it would bootstrap an empty table; we refresh tables that are not.
        .set_periodic_bootstrap_interval(None);
    let store = DhtStore::new(local, scope, records.clone());
    let mut kad = kad::Behaviour::with_config(local, store, config);
    match (mode, scope) {
        (DhtMode::Off, _) => return None,
        (DhtMode::Client, _) => kad.set_mode(Some(kad::Mode::Client)),
        // Trap 6: by itself libp2p stays a client on loopback, and Kubo never adds us to its table.
        (DhtMode::Server, _) | (DhtMode::Auto, Scope::Lan) => kad.set_mode(Some(kad::Mode::Server)),
        // Server as soon as a global address is confirmed; `ScopedKad` lets it see no others.
        (DhtMode::Auto, Scope::Public) => kad.set_mode(None),
    }
    debug_assert_eq!(
        kad.store_mut().records().count(),
        0,
        "libp2p has nothing to republish"
    );
    Some(ScopedKad::new(kad, scope))
}

/// Trap 9: Kubo never finds libp2p's responder; we dial what we discover (`crate::dialing`).
fn mdns(config: &NetConfig, key: &Keypair) -> Option<ChosenMdns> {
    if !config.mdns {
        return None;
    }
    match mdns::tokio::Behaviour::new(mdns::Config::default(), key.public().to_peer_id()) {
        Ok(behaviour) => Some(ChosenMdns::new(behaviour, &config.mdns_interfaces)),
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "no multicast DNS: LAN peers must be configured"
            );
            None
        }
    }
}
