//! The world that tests stand on must itself be right: each piece against plain sockets and programs.

mod fixture;
mod relay;
mod repo;
mod rsyncd;
mod upstream;
