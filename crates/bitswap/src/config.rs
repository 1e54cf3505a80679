//! What a node may tune, and what it serves.
//!
//! - Not here: options of one session (`crate::session`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;
use pacstore_runtime::RateLimit;

/// The largest message that either side may send, in bytes (Kubo's `MessageSizeMax`).
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The longest CID that a peer may name, in bytes (boxo `defaults.MaximumHashLength` and a prefix).
pub(crate) const MAX_CID: usize = 168;
/// Answers are packed up to about this many bytes a message; one larger block goes alone.
pub(crate) const TARGET_MESSAGE: usize = 1024 * 1024;
/// A WANT-HAVE for a block of at most this many bytes is answered with the block (as Kubo does).
pub(crate) const SMALL_BLOCK: u64 = 1024;
/// The most wants that may be outstanding at one peer: Kubo drops the surplus without a word.
pub(crate) const MAX_OUTSTANDING: usize = 1024;

/// What this node serves. Called on the blocking pool, never on the network task.
///
/// `peer` is who asks, so that private data can be kept from strangers: for them the
/// answer is the same as for a block that is not here.
pub trait Blocks: Send + Sync + 'static {
    /// Length of a block in bytes; `None` if it is not here or not for this peer.
    fn len(&self, cid: &Cid, peer: &PeerId) -> Option<u64>;

    /// Appends exactly the block's bytes to `out` and returns true; false if it is not here,
    /// not for this peer, or could not be read (what was appended is then thrown away).
    fn read(&self, cid: &Cid, peer: &PeerId, out: &mut Vec<u8>) -> bool;
}

/// Says whether a peer is on the local network; such peers are not limited by [`Config::upload`].
pub type LocalPeers = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;

/// Limits and periods. The default is what the project ships.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// A peer with outstanding wants that sends no byte for this long loses them to others. Earlier, where a round trip
    /// to it was measured ([`Bitswap::round_trip`](crate::Bitswap::round_trip)) and it does not use to take so long.
    pub stall: Duration,
    /// How long a banned peer is not asked.
    pub ban: Duration,
    /// A message that has begun but gets no byte (in or out) for this long breaks its stream.
    pub stream_stall: Duration,
    /// Inbound streams of one connection that are read at the same time; others wait.
    pub readers: usize,
    /// Bytes of received messages held at once, from all peers.
    pub receive_bytes: u64,
    /// Bytes of received messages held at once, from one peer (at least one message of 4 MiB).
    pub receive_bytes_per_peer: u64,
    /// Bytes of built answers held at once, for all peers; half as many more for those to whom [`Config::upload`] holds, and
    /// 8 MiB for those that do not take theirs.
    pub send_bytes: u64,
    /// Wants queued for one peer; the surplus is answered DONT_HAVE if asked to.
    pub wants_per_peer: usize,
    /// Gets waiting in all sessions; more fail at once.
    pub max_gets: usize,
    /// Bound on what we send to peers that are not local.
    pub upload: Option<RateLimit>,
    /// Which peers are local; `None`: nobody is.
    pub local: Option<LocalPeers>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(1),
            ban: Duration::from_mins(10),
            stream_stall: Duration::from_secs(10),
            readers: 64,
            receive_bytes: 48 * 1024 * 1024,
            receive_bytes_per_peer: 12 * 1024 * 1024,
            send_bytes: 32 * 1024 * 1024,
            wants_per_peer: 1024,
            max_gets: 16_384,
            upload: None,
            local: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("stall", &self.stall)
            .field("ban", &self.ban)
            .field("receive_bytes", &self.receive_bytes)
            .field("send_bytes", &self.send_bytes)
            .field("wants_per_peer", &self.wants_per_peer)
            .finish_non_exhaustive()
    }
}
