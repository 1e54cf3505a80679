//! What the network tells those who subscribe.

use libp2p::{Multiaddr, PeerId};

use crate::peers::PeerInfo;

/// Something changed. Sent on a bounded channel: a subscriber that lags loses the oldest ones, and
/// must then look at [`crate::Net::peers`] itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetEvent {
    /// The first connection to a peer opened.
    PeerConnected(PeerInfo),
    /// A connected peer told what it is and what it speaks.
    PeerIdentified(PeerInfo),
    /// The last connection to a peer closed.
    PeerDisconnected(PeerId),
    /// Multicast DNS found a peer on the local network; it is being dialled.
    Discovered {
        /// Who it says it is.
        peer: PeerId,
        /// Where.
        address: Multiaddr,
    },
    /// Bitswap caught a peer cheating and does not ask it for a while.
    Misbehaved(PeerId),
    /// We listen at one more address.
    Listening(Multiaddr),
    /// We listen there no more.
    ListenExpired(Multiaddr),
    /// Several peers of the internet have dialled us here: we are reachable.
    Reachable(Multiaddr),
}
