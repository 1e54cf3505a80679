//! Who may use the gateway: addresses and networks; this machine always.
//!
//! - Invariant: an address that no entry holds is refused before a byte of it is read.
//! - Not here: which names it may ask by (`crate::host`).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Some addresses that begin with the same bits: `192.168.0.0/16`, `fd00::/8`, `10.0.0.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// IPv4 ones as they are mapped into IPv6.
    base: u128,
    bits: u32,
}

/// Text that is no [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network; write it like 192.168.0.0/16, fd00::/8 or 10.0.0.7")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    /// An address alone is itself; bits behind the prefix are not looked at.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let size = if address.is_ipv4() { 32 } else { 128 };
        let bits: u32 = match bits {
            // `+8` would parse too.
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().map_err(|_| error())?,
            Some(_) => return Err(error()),
            None => size,
        };
        if bits > size {
            return Err(error());
        }
        let bits = bits + (128 - size);
        let base = mapped(address) & mask(bits);
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = Ipv6Addr::from_bits(self.base);
        match base.to_ipv4_mapped() {
            Some(v4) if self.bits >= 96 => write!(f, "{v4}/{}", self.bits - 96),
            _ => write!(f, "{base}/{}", self.bits),
        }
    }
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        mapped(address) & mask(self.bits) == self.base
    }
}

/// Whose connections are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allow {
    /// Everybody's: the listener's own address says who reaches it.
    #[default]
    All,
    /// Those of this machine and of these networks.
    Only(Vec<Network>),
}

impl Allow {
    /// Whether a connection from `address` is served. `local` is what it was made to: who comes from that very
    /// address is this machine, which asks itself by the name that the others know it by.
    pub fn admits(&self, address: IpAddr, local: Option<IpAddr>) -> bool {
        let address = address.to_canonical();
        let is_ours = address.is_loopback() || local.is_some_and(|local| local.to_canonical() == address);
        match self {
            Self::All => true,
            Self::Only(networks) => is_ours || networks.iter().any(|network| network.holds(address)),
        }
    }
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first `bits` bits, at most 128.
fn mask(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(networks: &[&str]) -> Allow {
        Allow::Only(networks.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn admits(allow: &Allow, address: &str) -> bool {
        allow.admits(address.parse().unwrap(), None)
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let home = only(&["192.168.0.0/16", "10.0.0.7", "fd00::/8"]);
        for inside in [
            "192.168.0.1",
            "192.168.255.255",
            "::ffff:192.168.3.4",
            "10.0.0.7",
            "fd12::1",
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(admits(&home, inside), "{inside}");
        }
        for outside in [
            "192.169.0.1",
            "10.0.0.8",
            "fe80::1",
            "8.8.8.8",
            "::ffff:8.8.8.8",
            "::",
        ] {
            assert!(!admits(&home, outside), "{outside}");
        }
        assert!(admits(&only(&["0.0.0.0/0"]), "8.8.8.8"));
        assert!(!admits(&only(&["0.0.0.0/0"]), "2a00::1"), "that is of IPv4 alone");
        assert!(admits(&only(&["::/0"]), "2a00::1"));
        assert!(admits(&only(&[]), "127.0.0.1") && !admits(&only(&[]), "10.0.0.1"));
    }

    #[test]
    fn this_machine_is_served_at_each_of_its_addresses() {
        let nobody = only(&[]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for own in ["10.0.0.1", "fd77::1"] {
            assert!(nobody.admits(ip(own), Some(ip(own))), "{own}");
        }
        assert!(nobody.admits(ip("10.0.0.1"), Some(ip("::ffff:10.0.0.1"))));
        assert!(!nobody.admits(ip("10.0.0.2"), Some(ip("10.0.0.1"))));
    }

    #[test]
    fn what_is_no_network_is_refused_and_what_is_prints_as_it_is_read() {
        for bad in [
            "",
            "home",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10/8",
            "10.0.0.0/8/8",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        for (text, shown) in [
            ("192.168.7.7/16", "192.168.0.0/16"),
            ("10.0.0.7", "10.0.0.7/32"),
            ("fd00::/8", "fd00::/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
    }
}
