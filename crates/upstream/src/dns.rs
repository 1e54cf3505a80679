//! Name resolution that drops the addresses a request may not reach.
//!
//! - Invariant: what comes out was checked by [`Reach`]; the client dials nothing else
//!   for a name, so a second look-up cannot answer otherwise (no rebinding).
//! - Not here: literal addresses, which the client never resolves (`crate::address`).

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::Reach;
use crate::error::Refused;

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 32;

/// The system's resolver behind a filter.
#[derive(Debug)]
pub(crate) struct Within(pub(crate) Reach);

impl Resolve for Within {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let first = found.first().map(SocketAddr::ip);
            let kept: Vec<SocketAddr> = found
                .into_iter()
                .filter(|a| Reach::of(a.ip()).is_some_and(|r| r <= reach))
                .take(MAX_ADDRESSES)
                .collect();
            match (kept.is_empty(), first) {
                (true, Some(refused)) => Err(Refused::Address(refused).into()),
                _ => Ok(Box::new(kept.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_is_refused_within_public_reach() {
        let name = || "localhost".parse::<Name>().expect("a name");
        let refused = Within(Reach::Public)
            .resolve(name())
            .await
            .err()
            .expect("refused");
        assert!(refused.downcast_ref::<Refused>().is_some(), "{refused}");
        assert!(Within(Reach::Loopback).resolve(name()).await.is_ok());
    }
}
