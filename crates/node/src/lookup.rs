//! Which connected peers have files with given SHA-256 digests, and under which roots.
//!
//! Without an importer a file larger than one leaf is known by its SHA-256 alone. A peer that has it
//! can say its root, and so its leaves can be asked for.
//!
//! - Invariant: what is told is a hint. Nothing of the file may leave before its whole SHA-256 is
//!   right; who told a wrong root is banned ([`Node::ban`]).
//! - Not here: what is told to others (`crate::blocks`), the protocol (`pacstore-net`).

use std::time::Duration;

use cid::Cid;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pacstore_net::{Digest, LookupError, MAX_LOOKUP, Net, PeerId};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::fetch::AskPeers;
use crate::node::Node;

/// How long peers may take to answer in all.
const DEADLINE: Duration = Duration::from_secs(1);

/// Peers that are asked, at most.
const MAX_PEERS: usize = 32;

/// Digests that one call asks for, at most: 16 requests to each peer.
const MAX_DIGESTS: usize = 16 * MAX_LOOKUP;

/// How long a liar is not spoken to.
const BAN: Duration = Duration::from_hours(1);

/// What one peer says of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The file's SHA-256, as asked.
    pub sha256: Digest,
    /// Who says so.
    pub peer: PeerId,
    /// The root that it says the file has.
    pub root: Cid,
    /// The length in bytes that it says the file has.
    pub size: u64,
}

impl Node {
    /// Asks connected peers for the roots of the files with these SHA-256 digests; what was told
    /// within a second, configured peers first, then LAN peers. Whoever is asked learns what is
    /// wanted: `ask` says who may. Digests above 4096 are not asked for.
    pub async fn lookup(&self, digests: &[Digest], ask: AskPeers) -> Vec<Hint> {
        let Some(net) = self.net() else { return Vec::new() };
        let digests = &digests[..digests.len().min(MAX_DIGESTS)];
        let peers = to_ask(net, ask);
        if digests.is_empty() || peers.is_empty() {
            return Vec::new();
        }
        let until = Instant::now() + DEADLINE;
        let mut asked: FuturesUnordered<_> = peers
            .iter()
            .enumerate()
            .map(|(rank, peer)| async move { (rank, one(net, *peer, digests, until).await) })
            .collect();
        let mut told = Vec::new();
        while let Some((rank, (hints, impossible))) = asked.next().await {
            if impossible {
                self.ban(peers[rank]).await;
            } else {
                told.push((rank, hints));
            }
        }
        told.sort_unstable_by_key(|(rank, _)| *rank);
        told.into_iter().flat_map(|(_, hints)| hints).collect()
    }

    /// Speaks no more with a peer that gave wrong roots or wrong bytes, for an hour.
    pub async fn ban(&self, peer: PeerId) {
        let Some(net) = self.net() else { return };
        info!(%peer, "a peer lied");
        // Refused only by a network that is shut down: then nobody is spoken to anyway.
        let _ = net.ban(peer, BAN).await;
    }
}

/// Connected peers that answer lookups and may be asked.
fn to_ask(net: &Net, ask: AskPeers) -> Vec<PeerId> {
    let mut peers = net.peers();
    peers.retain(|peer| {
        let may = match ask {
            AskPeers::Nobody => false,
            AskPeers::Friends => peer.configured,
            AskPeers::Everyone => true,
        };
        may && peer.lookup == Some(true)
    });
    peers.sort_by_key(|peer| (!peer.configured, !peer.lan, peer.since));
    peers.into_iter().take(MAX_PEERS).map(|peer| peer.id).collect()
}

/// What one peer tells until then, and whether something of it cannot be true.
async fn one(net: &Net, peer: PeerId, digests: &[Digest], until: Instant) -> (Vec<Hint>, bool) {
    let mut hints = Vec::new();
    for digests in digests.chunks(MAX_LOOKUP) {
        let left = until.saturating_duration_since(Instant::now());
        let answers = match net.lookup(peer, digests, left).await {
            Ok(answers) => answers,
            Err(LookupError::Impossible(_)) => return (hints, true),
            Err(error) => {
                debug!(%peer, error = &error as &dyn std::error::Error, "no answer to a lookup");
                break;
            }
        };
        hints.extend(digests.iter().zip(answers).filter_map(|(sha256, told)| {
            told.map(|told| Hint {
                sha256: *sha256,
                peer,
                root: told.root,
                size: told.size,
            })
        }));
    }
    (hints, false)
}
