//! The binary as users and scripts meet it; "What scripts rely on" of docs/design.md, word by word.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what fails here fails the test; what is not run or broken is told"
)]

mod cid;
mod config;
mod daemon;
mod daemon_run;
mod demo;
mod doctor;
mod get;
mod home;
mod import;
mod init;
mod keyring;
mod keys;
mod kill;
mod owner;
mod packaging;
mod presets;
mod screens;
mod service;
mod setup;
mod setup_own;
mod setup_shapes;
mod sockets;
mod suspend;
mod tls;
mod usage;
mod web;
mod why;
mod xfer;
