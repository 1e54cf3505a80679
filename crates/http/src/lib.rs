//! HTTP for pacman and for browsers: the gateway, and the admin socket.
//!
//! - Invariant: the gateway changes nothing; only the admin socket, which file rights
//!   guard, does.
//! - Not here: what a path gets (`pacstore-node`).
//! - Read first: `gateway.rs`.

mod admin;
mod allow;
mod answer;
mod body;
mod form;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod host;
mod leaving;
mod listen;
mod listing;
mod metrics;
mod range;
mod route;
mod server;
mod slots;
mod socket_path;

pub use admin::{Admin, AdminError, ErrorBody, GetRequest, NameRequest, RotateRequest, serve_admin};
pub use allow::{Allow, Network, NetworkError};
pub use gateway::Gateway;
pub use listen::listen_everywhere;
pub use metrics::serve_metrics;
pub use server::{Limits, Listeners, serve, serve_with};
pub use socket_path::SocketPath;
