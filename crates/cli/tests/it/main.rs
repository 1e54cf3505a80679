//! The binary as users and scripts meet it; "What scripts rely on" of docs/design.md, word by word.

mod cid;
mod config;
mod daemon;
mod daemon_run;
mod demo;
mod get;
mod home;
mod import;
mod init;
mod keys;
mod kill;
mod usage;
mod web;
