//! Bitswap between real swarms on 127.0.0.1, and against peers that break every rule.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod exchange;
mod faults;
mod node;
mod raw;
mod serving;
mod streams;
mod vectors;
