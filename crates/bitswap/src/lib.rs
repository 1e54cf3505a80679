//! Bitswap 1.2 on libp2p: blocks asked from peers by CID, checked, and given to peers that ask.
//!
//! [`Behaviour`] goes into a swarm; [`Bitswap`] is the handle that everything else holds. A
//! [`Session`] asks the peers it was given, and nobody else, so what is wanted leaves the machine
//! only where the caller allows it. What we hold is served through [`Blocks`].
//!
//! - Invariant: [`Session::get`] returns bytes whose hash is the one in the CID, never others.
//! - Invariant: no block byte passes through a swarm event; stream tasks hand `Bytes` to sessions.
//! - Invariant: memory is bounded whatever peers send: frames by a budget, wants by a cap, answers
//!   by byte credits for each peer and for all.
//! - Not here: who has a block (DHT, mDNS: crate `net`), where blocks are kept (crate `store`).
//! - Read first: `session.rs` (the API), `client/mod.rs` (how wants become blocks), `server.rs`.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use pacstore_bitswap::{Behaviour, Blocks, Config, SessionOptions};
//! # async fn example(blocks: Arc<dyn Blocks>, peer: libp2p::PeerId, cid: cid::Cid) -> Result<(), Box<dyn std::error::Error>> {
//! let tasks = pacstore_runtime::Tasks::new();
//! let (behaviour, bitswap) = Behaviour::new(Config::default(), blocks, tasks);
//! // ... `behaviour` is driven by a swarm that is connected to `peer` ...
//! let session = bitswap.session(SessionOptions::with_peers([peer]));
//! let block = session.get(cid).await?;
//! println!("{} bytes from {}", block.data.len(), block.from);
//! # drop(behaviour);
//! # Ok(()) }
//! ```

mod behaviour;
mod client;
mod config;
mod frame;
mod handle;
mod handler;
mod ledger;
mod link;
mod reader;
mod server;
mod session;
mod shared;
mod throttle;
pub mod wire;
mod writer;

pub use behaviour::{Behaviour, Event};
pub use client::BanReason;
pub use config::{Blocks, Config, LocalPeers};
pub use handle::{Banned, Bitswap};
pub use ledger::Traffic;
pub use session::{GetError, Got, PeerStats, Session, SessionOptions};
