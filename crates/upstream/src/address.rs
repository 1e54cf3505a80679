//! Which addresses the client may dial: the hosts that were configured, and what they redirect to.
//!
//! A configured host may be anything, also this machine or the LAN: whoever wrote the
//! configuration meant it. A redirect was written by somebody else, so it never leads
//! further in than the host that sent it: a public mirror cannot make us talk to the
//! LAN or to loopback, a loopback upstream may redirect to loopback.
//!
//! - Invariant: the check looks at the address that is dialled, not at the name, so a
//!   name that resolves into the LAN does not help (`crate::dns` filters with it).
//! - Not here: following the redirect (`crate::http`).
//! - Read first: design.md, "Never".

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use url::{Host, Url};

use crate::error::Refused;

/// How far in an address lies. Ordered: a larger one includes the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Anybody's: routed on the internet.
    Public,
    /// Private, link-local, carrier or benchmark networks: around this machine.
    Private,
    /// This machine.
    Loopback,
}

impl Reach {
    /// Where `address` lies; `None` for what is no single host (multicast, broadcast).
    pub fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }
}

fn of_v4(a: Ipv4Addr) -> Option<Reach> {
    let [o0, o1, o2, _] = a.octets();
    if a.is_multicast() || a.is_broadcast() {
        return None;
    }
    // 0.0.0.0/8 reaches this machine on Linux.
    if a.is_loopback() || o0 == 0 {
        return Some(Reach::Loopback);
    }
    let shared = o0 == 100 && (64..128).contains(&o1);
    let benchmark = o0 == 198 && (18..20).contains(&o1);
    let protocol = o0 == 192 && o1 == 0 && o2 == 0;
    let reserved = 240 <= o0;
    if a.is_private() || a.is_link_local() || shared || benchmark || protocol || reserved {
        return Some(Reach::Private);
    }
    Some(Reach::Public)
}

fn of_v6(a: Ipv6Addr) -> Option<Reach> {
    if a.is_multicast() {
        return None;
    }
    if a.is_loopback() || a.is_unspecified() {
        return Some(Reach::Loopback);
    }
    if let Some(inner) = embedded_v4(a) {
        return of_v4(inner);
    }
    let s = a.segments();
    let unique_local = s[0] & 0xfe00 == 0xfc00;
    let link_local = s[0] & 0xffc0 == 0xfe80;
    let site_local = s[0] & 0xffc0 == 0xfec0;
    let teredo = s[0] == 0x2001 && s[1] == 0;
    if unique_local || link_local || site_local || teredo {
        return Some(Reach::Private);
    }
    Some(Reach::Public)
}

/// The IPv4 address that an IPv6 one carries, where the network turns it back into it.
fn embedded_v4(a: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |hi: u16, lo: u16| Ipv4Addr::from(u32::from(hi) << 16 | u32::from(lo));
    match a.segments() {
        // v4-mapped and v4-compatible; NAT64 (well-known prefix); 6to4.
        [0, 0, 0, 0, 0, 0xffff | 0, hi, lo]
        | [0x64, 0xff9b, 0, 0, 0, 0, hi, lo]
        | [0x2002, hi, lo, _, _, _, _, _] => Some(join(hi, lo)),
        _ => None,
    }
}

/// `host:port`, the unit in which hosts are configured and counted.
pub(crate) fn authority(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// The hosts that may be dialled first, and the rule for redirects.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    /// `None`: whoever calls has checked already.
    configured: Option<Arc<HashSet<String>>>,
}

impl AddressRules {
    /// Any first URL is dialled: for a caller that takes URLs from the configuration alone.
    ///
    /// Redirects are checked all the same.
    pub fn any_first() -> Self {
        Self::default()
    }

    /// Only the hosts (with port) of these URLs are dialled first.
    pub fn only<'a>(upstreams: impl IntoIterator<Item = &'a Url>) -> Self {
        let configured = upstreams.into_iter().filter_map(authority).collect();
        Self {
            configured: Some(Arc::new(configured)),
        }
    }

    /// How far the first request for `url` may reach.
    ///
    /// # Errors
    /// [`Refused`] if its scheme is not HTTP or its host is not configured.
    pub(crate) fn first(&self, url: &Url) -> Result<Reach, Refused> {
        let host = checked_host(url)?;
        match &self.configured {
            Some(hosts) if !hosts.contains(&host) => Err(Refused::NotConfigured),
            _ => literal_within(url, Reach::Loopback),
        }
    }

    /// How far a redirect to `url` may reach, sent by a host that was reached at `from`.
    ///
    /// # Errors
    /// [`Refused`] if the scheme is not HTTP or the address lies further in than allowed.
    pub(crate) fn redirect(&self, from: Option<SocketAddr>, url: &Url) -> Result<Reach, Refused> {
        let host = checked_host(url)?;
        if self
            .configured
            .as_ref()
            .is_some_and(|hosts| hosts.contains(&host))
        {
            return literal_within(url, Reach::Loopback);
        }
        let reach = from.and_then(|a| Reach::of(a.ip())).unwrap_or(Reach::Public);
        literal_within(url, reach)
    }
}

fn checked_host(url: &Url) -> Result<String, Refused> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refused::Scheme);
    }
    authority(url).ok_or(Refused::Scheme)
}

/// A literal address is checked here (it is never resolved); a name passes, `crate::dns` checks it.
fn literal_within(url: &Url, reach: Reach) -> Result<Reach, Refused> {
    let literal = match url.host() {
        Some(Host::Ipv4(a)) => IpAddr::V4(a),
        Some(Host::Ipv6(a)) => IpAddr::V6(a),
        _ => return Ok(reach),
    };
    match Reach::of(literal) {
        Some(found) if found <= reach => Ok(reach),
        _ => Err(Refused::Address(literal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(s: &str) -> Option<Reach> {
        Reach::of(s.parse().expect("an address"))
    }

    #[test]
    fn addresses_are_told_apart_by_how_far_in_they_lie() {
        for a in [
            "127.0.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert_eq!(reach(a), Some(Reach::Loopback), "{a}");
        }
        for a in [
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.9",
            "169.254.1.1",
            "100.64.0.1",
            "fe80::1",
            "fd00::1",
        ] {
            assert_eq!(reach(a), Some(Reach::Private), "{a}");
        }
        for a in ["9.9.9.9", "2a01:4f8::1", "100.128.0.1"] {
            assert_eq!(reach(a), Some(Reach::Public), "{a}");
        }
        for a in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert_eq!(reach(a), None, "{a}");
        }
    }

    #[test]
    fn a_redirect_never_leads_further_in_than_its_sender() {
        let rules = AddressRules::any_first();
        let public: SocketAddr = "9.9.9.9:443".parse().expect("address");
        let lan: SocketAddr = "192.168.0.2:80".parse().expect("address");
        let here: SocketAddr = "127.0.0.1:80".parse().expect("address");
        let to = |s: &str| Url::parse(s).expect("url");
        assert!(
            rules
                .redirect(Some(public), &to("http://127.0.0.1:8080/x"))
                .is_err()
        );
        assert!(rules.redirect(Some(public), &to("http://[::1]/x")).is_err());
        assert!(rules.redirect(Some(public), &to("http://192.168.0.9/x")).is_err());
        assert!(rules.redirect(None, &to("http://192.168.0.9/x")).is_err());
        assert!(rules.redirect(Some(public), &to("http://9.9.9.10/x")).is_ok());
        assert!(rules.redirect(Some(lan), &to("http://127.0.0.1/x")).is_err());
        assert!(rules.redirect(Some(lan), &to("http://192.168.0.9/x")).is_ok());
        assert!(rules.redirect(Some(here), &to("http://127.0.0.1:9/x")).is_ok());
        assert!(rules.redirect(Some(here), &to("file:///etc/passwd")).is_err());
        assert_eq!(
            rules.redirect(Some(public), &to("https://name.example/x")).ok(),
            Some(Reach::Public)
        );
    }

    #[test]
    fn only_configured_hosts_are_dialled_first() {
        let one = Url::parse("http://mirror.example/archlinux/").expect("url");
        let rules = AddressRules::only([&one]);
        assert!(
            rules
                .first(&Url::parse("http://mirror.example/other").expect("url"))
                .is_ok()
        );
        assert!(
            rules
                .first(&Url::parse("http://mirror.example:81/other").expect("url"))
                .is_err()
        );
        assert!(
            rules
                .first(&Url::parse("http://else.example/").expect("url"))
                .is_err()
        );
    }
}
