//! What the importer does with real directories, HTTP servers and rsync daemons.
//!
//! - Not here: pure parts, whose tests stand beside them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod changing;
mod common;
mod crash;
mod early;
mod faults;
mod http2;
mod incremental;
mod keyring;
mod layouts;
mod limits;
mod links;
mod sources;
mod stamps;
mod stops;
mod torn;
mod trees;
mod twins;
mod unread;
mod upstreams;
mod year;
