//! Listening on every interface, for the machines of the LAN.
//!
//! - Invariant: IPv4 and IPv6 have a socket each at one port, so that an address is never seen in two
//!   forms.
//! - Not here: who is served there (`crate::allow`).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};
use tracing::warn;

/// Connections that may wait in the kernel's queue.
const BACKLOG: u32 = 1024;

/// Free ports that are tried where any will do.
const TRIES: usize = 16;

/// Listens on `0.0.0.0` and `[::]` at `port`; 0 takes one that is free in both. A machine without
/// IPv6 has the first alone.
///
/// # Errors
/// What the system says, most often that somebody has the port.
pub fn listen_everywhere(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut tries = 0;
    loop {
        let first = bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        let taken = first.local_addr()?.port();
        match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, taken))) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 && tries < TRIES => {
                tries += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => {
                warn!(%error, "the gateway does not listen on IPv6");
                return Ok(vec![first]);
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
