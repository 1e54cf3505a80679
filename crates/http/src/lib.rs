//! HTTP for pacman and for browsers: the gateway, and the admin socket.
//!
//! - Invariant: the gateway changes nothing; only the admin socket, which file rights
//!   guard, does.
//! - Not here: what a path gets (`pacstore-node`).
//! - Read first: `gateway.rs`.

mod admin;
mod answer;
mod body;
mod gateway;
mod host;
mod listing;
mod range;
mod route;
mod server;

pub use admin::{Admin, AdminError, ErrorBody, GetRequest, NameRequest, serve_admin};
pub use gateway::Gateway;
pub use server::{Limits, serve, serve_with};
