//! Whether the internet can dial us, told by those who did.
//!
//! A peer that dialled us reports by identify the address it used. One liar could invent one, so it
//! takes several, in different networks. AutoNAT will ask instead of waiting, later.
//!
//! - Invariant: only addresses of the public scope are ever confirmed; memory is bounded.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use libp2p::Multiaddr;

use crate::address::{Scope, network_of, without_peer};

/// Networks (/16 of IPv4, /32 of IPv6) that must have reached us.
const WITNESSES: usize = 3;
/// Addresses under observation.
const MAX_CANDIDATES: usize = 32;

/// What dialling peers told.
#[derive(Debug, Default)]
pub(crate) struct Reachability {
    candidates: HashMap<Multiaddr, HashSet<[u8; 4]>>,
}

impl Reachability {
    /// Takes in that `witness` dialled us at `observed`; the address once it is beyond doubt, each
    /// time it is told from then on.
    pub(crate) fn dialled_by(&mut self, witness: IpAddr, observed: Multiaddr) -> Option<Multiaddr> {
        let observed = without_peer(observed);
        if !Scope::Public.admits(&observed) || crate::address::is_lan_ip(witness) {
            return None;
        }
        if self.candidates.len() >= MAX_CANDIDATES && !self.candidates.contains_key(&observed) {
            self.candidates
                .retain(|_, witnesses| witnesses.len() >= WITNESSES);
            if self.candidates.len() >= MAX_CANDIDATES {
                return None;
            }
        }
        let witnesses = self.candidates.entry(observed.clone()).or_default();
        if witnesses.len() < WITNESSES {
            witnesses.insert(network_of(witness));
        }
        (witnesses.len() >= WITNESSES).then_some(observed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_alone_makes_no_address_reachable() {
        let mut reach = Reachability::default();
        let ours: Multiaddr = "/ip4/8.8.8.8/tcp/4001".parse().unwrap();
        for host in 0..50_u8 {
            assert_eq!(
                reach.dialled_by(IpAddr::from([9, 9, 9, host]), ours.clone()),
                None
            );
        }
        assert_eq!(reach.dialled_by(IpAddr::from([1, 1, 1, 1]), ours.clone()), None);
        assert_eq!(
            reach.dialled_by(IpAddr::from([192, 168, 1, 1]), ours.clone()),
            None
        );
        assert_eq!(
            reach.dialled_by(IpAddr::from([2, 2, 2, 2]), ours.clone()),
            Some(ours)
        );
    }

    #[test]
    fn private_addresses_are_never_confirmed_and_inventions_are_bounded() {
        let mut reach = Reachability::default();
        for port in 1..1000_u16 {
            let invented: Multiaddr = format!("/ip4/8.8.4.4/tcp/{port}").parse().unwrap();
            assert_eq!(reach.dialled_by(IpAddr::from([9, 9, 9, 9]), invented), None);
        }
        assert!(reach.candidates.len() <= MAX_CANDIDATES);
        for witness in [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]] {
            let private = "/ip4/192.168.1.7/tcp/4001".parse().unwrap();
            assert_eq!(reach.dialled_by(IpAddr::from(witness), private), None);
        }
    }
}
