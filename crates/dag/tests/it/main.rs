//! Integration tests of pacstore-dag: golden vectors, properties, hostile nodes.

mod car;
mod cids;
mod edits;
mod files;
mod golden;
mod hostile;
mod metadata;
mod resolving;
mod support;
mod trees;
