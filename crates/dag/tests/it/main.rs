//! Integration tests of pacstore-dag: golden vectors, properties, hostile nodes.

#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps nothing fails, as it should"
)]

mod car;
mod cids;
mod damage;
mod edits;
mod files;
mod golden;
mod hostile;
mod metadata;
mod resolving;
mod support;
mod trees;
