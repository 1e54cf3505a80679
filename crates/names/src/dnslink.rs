//! DNSLink: what the TXT records of a domain say that it points at.
//!
//! - Invariant: two valid answers are an error, never a choice of ours.
//! - Not here: asking DNS, and following one link to the next (`net`, `node`).
//! - Read first: <https://dnslink.dev>.

use cid::Cid;

use crate::mirror_name::MirrorName;
use crate::name::IpnsName;

/// What a DNSLink points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// `/ipfs/<cid>` and the rest of the path, without its first slash.
    Ipfs(Cid, String),
    /// `/ipns/<key>` and the rest.
    Key(IpnsName, String),
    /// `/ipns/<domain>` and the rest: to be asked in turn.
    Domain(MirrorName, String),
}

/// Why a domain's TXT records are no DNSLink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnslinkError {
    /// None of them is one.
    #[error("no TXT record is a valid DNSLink")]
    None,
    /// More than one is.
    #[error("several TXT records are DNSLinks; exactly one may be")]
    Several,
}

/// Reads the TXT records of `_dnslink.<domain>`. Those that are none are skipped.
///
/// # Errors
/// [`DnslinkError`] unless exactly one is valid.
///
/// ```
/// use pacstore_names::{LinkTarget, parse_dnslink};
///
/// let key = "k51qzi5uqu5djujjnsq8fs9inng2b89zjaxh4svr593txa01mk9rjctjbzxpz4";
/// let texts = ["v=spf1 -all".to_owned(), format!("dnslink=/ipns/{key}/core")];
/// let target = parse_dnslink(texts.iter().map(String::as_str))?;
/// assert_eq!(target, LinkTarget::Key(key.parse().expect("a key"), "core".to_owned()));
/// # Ok::<(), pacstore_names::DnslinkError>(())
/// ```
pub fn parse_dnslink<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<LinkTarget, DnslinkError> {
    let mut valid = texts.into_iter().filter_map(target);
    let first = valid.next().ok_or(DnslinkError::None)?;
    if valid.next().is_some() {
        Err(DnslinkError::Several)
    } else {
        Ok(first)
    }
}

fn target(text: &str) -> Option<LinkTarget> {
    // A TXT record has at most 64 KiB; a path of that length helps nobody.
    let path = text
        .strip_prefix("dnslink=")
        .filter(|path| path.len() <= crate::path::MAX_PATH)?;
    let (namespace, rest) = path.strip_prefix('/')?.split_once('/')?;
    let (root, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let rest = rest.to_owned();
    match namespace {
        "ipfs" => root.parse().ok().map(|cid| LinkTarget::Ipfs(cid, rest)),
        "ipns" => match root.parse() {
            Ok(key) => Some(LinkTarget::Key(key, rest)),
            Err(_) => root.parse().ok().map(|domain| LinkTarget::Domain(domain, rest)),
        },
        _ => None,
    }
}
