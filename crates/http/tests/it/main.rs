//! The gateway over real nodes and real sockets on 127.0.0.1.
//!
//! Each wait has a deadline and is for an event, never for time.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod broken;
mod client;
mod hostile;
mod leaving;
mod many;
#[path = "../../../node/tests/it/nodes.rs"]
#[expect(dead_code, reason = "tests of two crates use it")]
mod nodes;
mod paths;
mod requests;
mod solo;
mod stale;
mod thin;
