//! The libp2p swarm of pacstore behind typed handles.
//!
//! One task owns the swarm ([`Net::start`] spawns it); [`Net`] is the handle that everything else
//! holds. Transports: QUIC and TCP (TLS or Noise, yamux), over IPv4, IPv6 and DNS names. Peers are
//! found by configuration, multicast DNS and two DHTs: `/ipfs/lan/kad/1.0.0` among loopback and
//! private addresses, `/ipfs/kad/1.0.0` among public ones. IPNS records go by `/libp2p/fetch/0.0.1`
//! between connected peers and through the DHTs; blocks by `pacstore-bitswap`; which root a SHA-256 has
//! by `/pacstore/lookup/1`.
//!
//! - Invariant: what strangers send is bounded and verified before it is kept or handed on; every
//!   request has a deadline; nothing is announced that the caller did not ask to announce.
//! - Not here: which records and heads count (`node`), the block protocol (`bitswap`), what IPNS
//!   records look like (`names`).
//! - Read first: `net.rs` (the handle), `task.rs` (the loop), `behaviour.rs` (the parts).
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use pacstore_bitswap::Blocks;
//! # use pacstore_names::IpnsName;
//! # use pacstore_net::{Net, NetConfig};
//! # use pacstore_runtime::{Clock, Tasks};
//! # async fn example(blocks: Arc<dyn Blocks>, name: IpnsName) -> Result<(), Box<dyn std::error::Error>> {
//! let tasks = Tasks::new();
//! let mut config = NetConfig::new([7; 32]);
//! config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
//! let net = Net::start(config, blocks, &tasks, Clock::system())?;
//! for found in net.find_record(&name, Duration::from_secs(10)).await? {
//!     println!("sequence {} from {}", found.record.sequence(), found.from);
//! }
//! net.shutdown().await;
//! # Ok(()) }
//! ```

mod address;
mod announce;
mod askers;
mod behaviour;
mod budget;
mod chosen;
mod command;
mod config;
mod cork;
mod dht;
mod dht_store;
mod dialing;
mod error;
mod event;
mod fetch;
mod listen;
mod lookup;
mod lookups;
mod muxer;
mod net;
mod peers;
mod reach;
mod records;
mod scoped;
mod share;
mod shares;
mod task;
mod wire;

pub use address::{is_lan, is_lan_ip, peer_of};
pub use command::Provider;
pub use config::{DhtMode, NetConfig, STRANGERS, public_bootstrap};
pub use error::{
    Closed, DialError, FetchError, FindError, LookupError, NetError, ProvideError, RecordRefused,
};
pub use event::NetEvent;
/// The types of libp2p that this crate's methods take and give.
pub use libp2p::{Multiaddr, PeerId, identity};
pub use lookup::{Digest, LookedUp, Lookups, MAX_LOOKUP};
pub use net::{FoundRecord, Net, Published};
pub use peers::{LanPeers, PeerInfo};
pub use share::{MAX_SHARE, ShareAsk, ShareRequest, ShareState};
