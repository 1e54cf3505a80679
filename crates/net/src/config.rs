//! What the caller decides about the network, and the numbers that nobody has to decide.
//!
//! - Invariant: every limit of this crate that bounds memory or waiting stands here.
//! - Not here: reading a configuration file (`cli`).

use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use pacstore_runtime::RateLimit;
use tokio::sync::mpsc;

use crate::lookup::Lookups;
use crate::share::ShareRequest;

/// How this node takes part in the two DHTs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DhtMode {
    /// Server in the LAN DHT; client in the public one until we know that we can be reached.
    #[default]
    Auto,
    /// Asks, but keeps nothing for others, in both.
    Client,
    /// Keeps records for others, in both.
    Server,
    /// Speaks neither protocol.
    Off,
}

/// How to start a [`crate::Net`].
#[derive(Clone)]
pub struct NetConfig {
    /// The 32 secret bytes of the node's ed25519 key (RFC 8032 seed).
    pub key: [u8; 32],
    /// Where to listen. Port 0 means any free one; an unspecified IP address means every interface.
    pub listen: Vec<Multiaddr>,
    /// Where to enter the DHTs, each with `/p2p/ID`; [`public_bootstrap`] is Kubo's list. May be empty.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers that stay connected. With `/p2p/ID` only that peer is accepted at the address.
    pub peers: Vec<Multiaddr>,
    /// Whether to look for peers on the local network by multicast DNS, and to dial them.
    pub mdns: bool,
    /// Names of the interfaces on which that counts, such as `eth0`; none = all.
    pub mdns_interfaces: Vec<String>,
    /// Part in the DHTs.
    pub dht: DhtMode,
    /// Bound on the blocks that we send to peers that are not on the LAN; `None`: none.
    pub upload: Option<RateLimit>,
    /// Connections to peers that are neither configured nor of the LAN; up to a quarter more for seconds.
    pub strangers: usize,
    /// Whether others get anything from us but blocks, which are up to the caller: records, what we look up for
    /// them, a place in the DHTs. `false`: nothing is announced or put anywhere either.
    pub shares_back: bool,
    /// What others may look up here by SHA-256; `None`: nobody is answered.
    pub lookups: Option<Arc<dyn Lookups>>,
    /// Where requests of LAN peers go that want to share downloads; `None`: nobody is answered.
    pub shares: Option<mpsc::Sender<ShareRequest>>,
    /// What we call ourselves to other peers, such as `pacstore/0.1.0`.
    pub agent: String,
}

impl NetConfig {
    /// A quiet node: listens nowhere, knows nobody, asks nobody.
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            listen: Vec::new(),
            bootstrap: Vec::new(),
            peers: Vec::new(),
            mdns: false,
            mdns_interfaces: Vec::new(),
            dht: DhtMode::Auto,
            upload: None,
            strangers: STRANGERS,
            shares_back: true,
            lookups: None,
            shares: None,
            agent: concat!("pacstore/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl NetConfig {
    /// Our part in the DHTs: who gives nothing keeps nothing for others either.
    pub(crate) fn part(&self) -> DhtMode {
        match self.dht {
            DhtMode::Auto | DhtMode::Server if !self.shares_back => DhtMode::Client,
            dht => dht,
        }
    }
}

impl std::fmt::Debug for NetConfig {
    /// Everything but the secret key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetConfig")
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .field("peers", &self.peers)
            .field("mdns", &self.mdns)
            .field("dht", &self.dht)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// The nodes at which Kubo enters the public DHT.
///
/// Source: kubo `config/bootstrap_peers.go`.
pub fn public_bootstrap() -> Vec<Multiaddr> {
    [
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmQCU2EcMqAqQPR2i9bChDtGNJchTbq5TbXJJ16u19uLTa",
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmbLHAnMoJPWSCR5Zhtx6BHJX9KiKNN6tpvbUcqanj75Nb",
        "/dnsaddr/bootstrap.libp2p.io/p2p/QmcZf59bWwK5XFi76CZX8cbJ4BhTzzA3gU1ZjYZcYW3dwt",
        "/ip4/104.131.131.82/tcp/4001/p2p/QmaCpDMGvV2BGHeYERUEnRQAwe3N8SzbUtfsmvsqQLuvuJ",
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .collect()
}

/// Commands that may wait for the swarm task.
pub(crate) const COMMANDS: usize = 256;
/// Events that a slow subscriber may lag behind before it loses the oldest.
pub(crate) const EVENTS: usize = 256;

/// Trap 8: at the default of 10 s an idle Rust side closes even connections that Kubo protects, and
/// Kubo then has no peer to ask. We close by our own choice instead (`crate::budget`).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_hours(24);
/// Connections to strangers where nobody says how many: the peers of some trees, and a walk through the DHT beside.
pub const STRANGERS: usize = 160;
/// A connection younger than this is not closed for that reason.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// How often connections are counted.
pub(crate) const TRIM_EVERY: Duration = Duration::from_secs(15);

/// Hard limits of the connection-limits behaviour; configured peers are exempt.
pub(crate) const MAX_PENDING: u32 = 128;
/// Of these, inbound ones of one other machine: handshakes that stop half-way keep their room for 10 s.
pub(crate) const MAX_PENDING_OF_ONE: usize = 16;
pub(crate) const MAX_INBOUND: u32 = 512;
pub(crate) const MAX_CONNECTIONS: u32 = 768;
/// Trap 10: Kubo takes 8 connections from one IPv4 address in all, so one peer must not need many.
pub(crate) const MAX_PER_PEER: u32 = 4;
/// Pings of 20 s each that a connection may miss in a row before it is closed as dead.
pub(crate) const MISSED_PINGS: u8 = 3;

/// How long a dial may take in all.
pub(crate) const DIAL_DEADLINE: Duration = Duration::from_secs(20);
/// One request and answer of `/libp2p/fetch/0.0.1`; go-libp2p waits as long.
pub(crate) const FETCH_DEADLINE: Duration = Duration::from_secs(10);
/// Requests of one connection that are answered at the same time.
pub(crate) const FETCH_STREAMS: usize = 16;
/// One request and answer of `/pacstore/lookup/1`; callers wait shorter than that.
pub(crate) const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// Lookups of one connection that are under way at the same time, both ways.
pub(crate) const LOOKUP_STREAMS: usize = 8;
/// Lookups of all peers that wait for the disk; one above is not answered.
pub(crate) const LOOKUPS_WAITING: usize = 64;
/// Digests that one peer may look up within one minute: all packages of a large update many times.
pub(crate) const LOOKUPS_PER_MINUTE: usize = 16_384;
/// One request and answer of `/pacstore/share/1`: as long as a neighbour is waited for.
pub(crate) const SHARE_DEADLINE: Duration = Duration::from_secs(8);
/// Such requests of one connection at the same time, both ways.
pub(crate) const SHARE_STREAMS: usize = 128;
/// Such requests of all neighbours that wait for an answer.
pub(crate) const SHARES_WAITING: usize = 1024;
/// Blocks that one neighbour may ask about within one minute: 60 GiB of leaves.
pub(crate) const SHARES_PER_MINUTE: usize = 60_000;
/// Connected peers that one [`crate::Net::find_record`] asks.
pub(crate) const FETCH_PEERS: usize = 32;
/// One walk through a DHT.
pub(crate) const QUERY_DEADLINE: Duration = Duration::from_mins(1);
/// Walks through the DHTs that callers may have under way at the same time.
pub(crate) const MAX_QUERIES: usize = 128;
/// Values that one look-up of a record collects.
pub(crate) const MAX_FOUND: usize = 64;
/// Addresses that are kept of one peer.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Size limit of an IPNS record (IPNS specification), in bytes.
pub(crate) const MAX_RECORD: usize = 10 * 1024;
/// Names that we answer for.
pub(crate) const MAX_NAMES: usize = 4096;
/// CIDs that we announce.
pub(crate) const MAX_PROVIDED: usize = 4096;
/// A record of ours is put again while we live.
pub(crate) const RECORD_EVERY: Duration = Duration::from_hours(4);
/// What is kept for others in the DHT lives this long at most (IPFS Kademlia specification).
pub(crate) const DHT_TTL: Duration = Duration::from_hours(48);
/// Provider records are told again well before [`DHT_TTL`].
pub(crate) const PROVIDE_EVERY: Duration = Duration::from_hours(22);
/// Announcements under way at the same time, in each DHT.
pub(crate) const ANNOUNCING: usize = 4;
/// An announcement that reached nobody is tried again after this long, at first.
pub(crate) const ANNOUNCE_RETRY: Duration = Duration::from_secs(30);
/// A new DHT peer gets what we announce at most this often (LAN: few peers, and they come and go).
pub(crate) const ANNOUNCE_TO_NEW: Duration = Duration::from_secs(15);

/// How often each DHT's routing table is refreshed.
pub(crate) const REFRESH_EVERY: Duration = Duration::from_mins(10);
/// Back-off between dials of a configured or bootstrap peer.
pub(crate) const REDIAL_BASE: Duration = Duration::from_millis(500);
pub(crate) const REDIAL_MAX: Duration = Duration::from_mins(1);
/// Peers that multicast DNS may make us keep connected.
pub(crate) const MDNS_PEERS: usize = 64;
/// Values that one peer may put into our part of the DHT within one minute.
pub(crate) const PUTS_PER_MINUTE: u32 = 120;
/// Peers that may be banned at the same time; the oldest ban goes first.
pub(crate) const MAX_BANS: usize = 1024;
/// How long a clean stop waits for connections to close.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Scope, peer_of};

    #[test]
    fn all_public_bootstrap_addresses_name_a_peer_of_the_internet() {
        let list = public_bootstrap();
        assert_eq!(list.len(), 5);
        assert!(
            list.iter()
                .all(|address| peer_of(address).is_some() && Scope::Public.admits(address))
        );
    }

    #[test]
    fn a_configuration_that_is_logged_does_not_tell_the_key() {
        let text = format!("{:?}", NetConfig::new([77; 32]));
        assert!(!text.contains("77"), "{text}");
    }
}
