//! Which network an address belongs to, and small operations on multiaddrs.
//!
//! One rule decides everywhere what counts as "the LAN": the origin of bytes in
//! `status`, the upload limit, the two DHTs, what may be dialled on the word of
//! a stranger. It looks at the first IP address of a multiaddr only.
//!
//! - Invariant: an address is never of both scopes; a relayed one is of none.
//! - Not here: who is connected (`crate::peers`), what the DHT keeps (`crate::dht_store`).
//! - Read first: go-multiaddr `net/private.go`; Kubo sorts addresses by the same ranges.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// One of the two networks that a node stands in at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Loopback, private and link-local addresses; `/ipfs/lan/kad/1.0.0`.
    Lan,
    /// Addresses that the whole internet can reach; `/ipfs/kad/1.0.0`.
    Public,
}

impl Scope {
    /// Both, LAN first: it is the nearer one.
    pub(crate) const BOTH: [Self; 2] = [Self::Lan, Self::Public];

    /// Whether `address` may be used, told or kept in this network.
    ///
    /// A DNS name is taken as public: what it resolves to is only known when it is dialled.
    pub(crate) fn admits(self, address: &Multiaddr) -> bool {
        if is_relayed(address) {
            return false;
        }
        match (self, ip_of(address)) {
            (Self::Lan, Some(ip)) => is_lan_ip(ip),
            (Self::Public, Some(ip)) => is_global_ip(ip),
            (Self::Lan, None) => false,
            (Self::Public, None) => is_dns(address),
        }
    }
}

/// Whether a peer at `address` counts as a LAN peer: loopback (127/8, ::1), private (10/8,
/// 172.16/12, 192.168/16, 100.64/10, fc00::/7) or link-local (169.254/16, fe80::/10).
///
/// The shared range 100.64/10 is private to go-libp2p as well; home VPNs live in it.
/// A relayed address is never one, wherever the relay stands.
pub fn is_lan(address: &Multiaddr) -> bool {
    Scope::Lan.admits(address)
}

/// [`is_lan`] for a bare IP address.
pub fn is_lan_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_lan_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(
            || v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
            is_lan_v4,
        ),
    }
}

fn is_lan_v4(v4: Ipv4Addr) -> bool {
    let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
    v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
}

fn is_global_ip(ip: IpAddr) -> bool {
    let reserved = match ip {
        IpAddr::V4(v4) => {
            v4.is_broadcast() || v4.is_documentation() || v4.octets()[0] == 0 || v4.octets()[0] >= 240
        }
        // Only 2000::/3 is assigned to the internet; 2001:db8::/32 is for documentation.
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            v6.to_ipv4_mapped().is_some()
                || (first & 0xe000) != 0x2000
                || (first == 0x2001 && second == 0xdb8)
        }
    };
    !(reserved || is_lan_ip(ip) || ip.is_unspecified() || ip.is_multicast())
}

/// The IP address that `address` begins with, if it does.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(v4) => Some(IpAddr::V4(v4)),
        Protocol::Ip6(v6) => Some(IpAddr::V6(v6)),
        // `/ip6zone/eth0/ip6/fe80::1`: the zone belongs to the address behind it.
        Protocol::Ip6zone(_) => match address.iter().nth(1)? {
            Protocol::Ip6(v6) => Some(IpAddr::V6(v6)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether another machine or process could dial a LAN listener by this address: link-local IPv6
/// addresses mean nothing without the zone, which differs from machine to machine.
pub(crate) fn is_dialable_by_others(address: &Multiaddr) -> bool {
    match ip_of(address) {
        Some(IpAddr::V6(v6)) => !v6.is_unicast_link_local(),
        Some(IpAddr::V4(_)) => true,
        None => false,
    }
}

pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(|ip| ip.is_loopback())
}

fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether it begins with the name of a host.
pub(crate) fn is_dns(address: &Multiaddr) -> bool {
    matches!(
        address.iter().next(),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_))
    )
}

/// The peer that `address` ends with (`/p2p/ID`), if it names one.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

/// `address` without a trailing `/p2p/ID`.
pub(crate) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

/// A group of addresses that one operator is likely to hold: /16 of IPv4, /32 of IPv6.
pub(crate) fn network_of(ip: IpAddr) -> [u8; 4] {
    match ip {
        IpAddr::V4(v4) => [4, v4.octets()[0], v4.octets()[1], 0],
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            [octets[0], octets[1], octets[2], octets[3]]
        }
    }
}

/// Binds the TCP port that `address` names for an instant, to learn whether another process has it.
///
/// libp2p's TCP listener sets `SO_REUSEPORT`: it would bind the port of another daemon of the same
/// user without an error, and the kernel would deal connections out to both. A plain bind fails.
/// UDP needs no probe, there libp2p binds plainly.
pub(crate) fn probe(address: &Multiaddr) -> io::Result<()> {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let (Some(ip), Some(port)) = (ip_of(address), port.filter(|port| *port != 0)) else {
        return Ok(());
    };
    // std binds `::` for both families, libp2p for IPv6 only: our own IPv4 listener on the same port
    // is no conflict. A foreign IPv6 listener on every interface also holds the loopback one.
    let probed = if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    } else {
        ip
    };
    TcpListener::bind(SocketAddr::new(probed, port)).map(drop)
}

/// `address` with its TCP or UDP port replaced by 0, "any free one".
pub(crate) fn with_any_port(address: &Multiaddr) -> Multiaddr {
    address
        .iter()
        .map(|part| match part {
            Protocol::Tcp(_) => Protocol::Tcp(0),
            Protocol::Udp(_) => Protocol::Udp(0),
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn lan_is_loopback_private_shared_and_link_local_and_nothing_else() {
        for lan in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.9.9.9/tcp/1",
            "/ip4/10.1.2.3/udp/4001/quic-v1",
            "/ip4/172.16.0.1/tcp/1",
            "/ip4/172.31.255.255/tcp/1",
            "/ip4/192.168.7.7/tcp/1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/169.254.1.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6zone/eth0/ip6/fe80::1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
        ] {
            assert!(is_lan(&address(lan)), "{lan}");
            assert!(!Scope::Public.admits(&address(lan)), "{lan}");
        }
        for public in [
            "/ip4/172.32.0.1/tcp/1",
            "/ip4/100.128.0.1/tcp/1",
            "/ip4/8.8.8.8/tcp/1",
            "/ip6/2a00::1/tcp/1",
        ] {
            assert!(!is_lan(&address(public)), "{public}");
            assert!(Scope::Public.admits(&address(public)), "{public}");
        }
    }

    #[test]
    fn nonsense_relays_and_names_are_of_no_lan() {
        for none in [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/224.0.0.1/udp/1",
            "/ip4/192.0.2.1/tcp/1",
            "/ip6/::/tcp/1",
            "/tcp/1",
        ] {
            assert!(
                !Scope::Lan.admits(&address(none)) && !Scope::Public.admits(&address(none)),
                "{none}"
            );
        }
        let relayed = address("/ip4/10.0.0.1/tcp/1/p2p-circuit");
        assert!(!is_lan(&relayed));
        assert!(Scope::Public.admits(&address("/dns4/example.org/tcp/1")));
        assert!(!is_lan(&address("/dns4/example.org/tcp/1")));
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_seen_before_libp2p_would_share_it() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = address(&format!(
            "/ip4/127.0.0.1/tcp/{}",
            held.local_addr().unwrap().port()
        ));
        assert_eq!(probe(&taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(probe(&with_any_port(&taken)).is_ok());
        assert_eq!(
            with_any_port(&address("/ip4/1.2.3.4/udp/9/quic-v1")),
            address("/ip4/1.2.3.4/udp/0/quic-v1")
        );
    }

    #[test]
    fn the_peer_is_the_last_part_only() {
        let peer = PeerId::random();
        let full = address(&format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}"));
        assert_eq!(peer_of(&full), Some(peer));
        assert_eq!(without_peer(full), address("/ip4/127.0.0.1/tcp/1"));
        assert_eq!(peer_of(&address("/ip4/127.0.0.1/tcp/1")), None);
    }
}
