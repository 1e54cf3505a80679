//! Why an operation of this crate failed: one enum an operation.

use std::io;

use libp2p::{Multiaddr, PeerId};
use pacstore_names::{IpnsName, RecordError};

/// Why the network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The secret key is none of ed25519.
    #[error("the node key is not an ed25519 key")]
    Key(#[source] libp2p::identity::DecodingError),
    /// The ciphers could not be set up.
    #[error("cannot set up the encrypted transport")]
    Security(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Listen addresses were given, and not one could be bound.
    #[error("cannot listen on any of the {tried} configured addresses; the last was {address}")]
    Listen {
        /// How many were tried, each also with any free port.
        tried: usize,
        /// The last one.
        address: Multiaddr,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

impl NetError {
    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { .. } => Some("see which process has the port, or change `[swarm] listen`"),
            Self::Key(_) | Self::Security(_) => None,
        }
    }
}

/// The swarm task has ended, so nothing can be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network has been shut down")]
pub struct Closed;

/// Why a peer could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The network is down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// No address answered, or the peer there was another one.
    #[error("cannot connect")]
    Refused(#[source] Box<libp2p::swarm::DialError>),
    /// Too many dials wait already.
    #[error("too many dials are under way")]
    Busy,
    /// Nothing happened in time.
    #[error("no connection within {0} s")]
    Deadline(u64),
}

/// Why a peer was not asked for a record, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The network is down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// There is no connection to the peer.
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// The peer does not speak `/libp2p/fetch/0.0.1`.
    #[error("{0} does not answer fetch requests")]
    Unsupported(PeerId),
    /// The peer said that it failed, or broke the protocol.
    #[error("{0} could not answer")]
    Failed(PeerId),
    /// The peer answered with a record that does not hold.
    #[error("{peer} sent a record that is not valid")]
    Invalid {
        /// Who sent it.
        peer: PeerId,
        /// What is wrong with it.
        #[source]
        error: RecordError,
    },
    /// Nothing came within 10 s.
    #[error("{0} did not answer in time")]
    Deadline(PeerId),
}

/// Why a peer was not asked under which roots it has files, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The network is down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// None, or more than one request may hold.
    #[error("a lookup holds 1 to {max} digests, not {0}", max = crate::MAX_LOOKUP)]
    Count(usize),
    /// There is no connection to the peer.
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// The peer does not speak `/pacstore/lookup/1`.
    #[error("{0} answers no lookups")]
    Unsupported(PeerId),
    /// The peer closed the stream: it is busy, or we asked too much of it.
    #[error("{0} did not answer this lookup")]
    Refused(PeerId),
    /// The peer's answer cannot be true, or is none.
    #[error("{0} answered a lookup with what cannot be")]
    Impossible(PeerId),
    /// Nothing came in time.
    #[error("{0} did not answer in time")]
    Deadline(PeerId),
}

/// Why a record was not taken as one that we answer with.
#[derive(Debug, thiserror::Error)]
pub enum RecordRefused {
    /// The network is down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The record is not valid for the name, now.
    #[error("the record of {name} is not valid")]
    Invalid {
        /// Whose it should be.
        name: IpnsName,
        /// What is wrong with it.
        #[source]
        error: RecordError,
    },
    /// A better one of the same name is here already.
    #[error("a better record of {0} is already known")]
    Older(IpnsName),
    /// There is room for a bounded number of names.
    #[error("records of {0} names are kept already")]
    Full(usize),
}

/// Why something cannot be announced.
#[derive(Debug, thiserror::Error)]
pub enum ProvideError {
    /// The network is down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// There is room for a bounded number of announcements.
    #[error("{0} CIDs are announced already")]
    Full(usize),
}

/// Why the DHT was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The network is down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// Too many look-ups are under way.
    #[error("too many look-ups are under way")]
    Busy,
}
