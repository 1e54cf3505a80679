//! Several machines on one wire: network namespaces on a bridge, real daemons in them.
//!
//! Runs where the kernel lets us make namespaces (root), else says so in one line.
//!
//! - Invariant: all addresses are of namespaces that the test made; nothing leaves the machine.
//! - Invariant: one test at a time, each wait with a deadline; what was started ends with its test.
//! - Not here: what two nodes do on loopback (`crates/node/tests/it`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what fails here fails the test; what is not run or broken is told"
)]

mod interfaces;
mod limits;
mod machine;
mod mirror_box;
mod resolver;
mod sharing;
mod wire;
