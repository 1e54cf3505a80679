//! The store, tested through its public interface on a real disk.

#![expect(
    clippy::unwrap_used,
    reason = "what helpers of tests cannot do fails the test"
)]

mod admission;
mod blocks;
mod class;
mod crash;
mod damage;
mod files;
mod inline;
mod kit;
mod many;
mod model;
mod open;
mod partial;
mod power;
mod retain;
mod shared;
