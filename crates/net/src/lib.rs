//! The libp2p swarm of pacstore behind typed handles.
//!
//! One task owns the swarm ([`Net::start`] spawns it); [`Net`] is the handle that everything else
//! holds. Transports: QUIC and TCP (TLS or Noise, yamux), over IPv4, IPv6 and DNS names. Peers are
//! found by configuration, multicast DNS and two DHTs: `/ipfs/lan/kad/1.0.0` among loopback and
//! private addresses, `/ipfs/kad/1.0.0` among public ones. IPNS records go by `/libp2p/fetch/0.0.1`
//! between connected peers and through the DHTs; blocks by `pacstore-bitswap`.
//!
//! - Invariant: what strangers send is bounded and verified before it is kept or handed on; every
//!   request has a deadline; nothing is announced that the caller did not ask to announce.
//! - Not here: which records and heads count (`node`), the block protocol (`bitswap`), what IPNS
//!   records look like (`names`).
//! - Read first: `net.rs` (the handle), `task.rs` (the loop), `behaviour.rs` (the parts).

mod address;
mod announce;
mod behaviour;
mod command;
mod config;
mod dht;
mod dht_store;
mod dialing;
mod error;
mod event;
mod fetch;
mod listen;
mod net;
mod peers;
mod reach;
mod records;
mod scoped;
mod task;

pub use address::{is_lan, is_lan_ip, peer_of};
pub use command::Provider;
pub use config::{DhtMode, NetConfig, public_bootstrap};
pub use error::{Closed, DialError, FetchError, FindError, NetError, ProvideError, RecordRefused};
pub use event::NetEvent;
/// The types of libp2p that this crate's methods take and give.
pub use libp2p::{Multiaddr, PeerId, identity};
pub use net::{FoundRecord, Net, Published};
pub use peers::PeerInfo;
