//! Real nodes on loopback addresses: transports, records, both roles of the DHT, blocks, strangers.
//!
//! Nothing here leaves the machine. Each wait has a deadline and is for an event, never for time.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod blocks;
mod connect;
mod dht;
mod helia;
mod hostile;
mod keep;
mod listen;
mod lookup;
mod records;
mod support;
