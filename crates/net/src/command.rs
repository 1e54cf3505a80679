//! What a handle asks of the swarm task. Each request carries its own reply channel.
//!
//! - Invariant: every reply channel is bounded; whoever stops waiting drops it, and the task then
//!   stops working for it.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use crate::error::{DialError, FetchError, FindError, ProvideError};
use crate::fetch::Answer;
use crate::lookup::Digest;
use crate::lookups;
use crate::share::{self, ShareState};

/// A value that a DHT peer holds under a key. Not validated.
#[derive(Clone, Debug)]
pub(crate) struct FoundValue {
    pub(crate) from: PeerId,
    pub(crate) value: Vec<u8>,
}

/// A peer that announced a CID, with the addresses that it may be dialled at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Who has it, by its own word.
    pub id: PeerId,
    /// Where it may be, without `/p2p/ID`; empty where it is connected already.
    pub addresses: Vec<Multiaddr>,
}

/// Where [`Command::Dial`] goes to.
#[derive(Debug)]
pub(crate) enum Target {
    /// This peer, at one of these addresses.
    Peer(PeerId, Vec<Multiaddr>),
    /// Whoever answers there.
    Address(Multiaddr),
}

/// Asks the swarm task for something.
#[derive(Debug)]
pub(crate) enum Command {
    Dial {
        target: Target,
        reply: oneshot::Sender<Result<PeerId, DialError>>,
    },
    Fetch {
        peer: PeerId,
        key: Vec<u8>,
        reply: oneshot::Sender<Result<Answer, FetchError>>,
    },
    Lookup {
        peer: PeerId,
        digests: Vec<Digest>,
        reply: lookups::Reply,
    },
    Share {
        peer: PeerId,
        request: share::Request,
        reply: oneshot::Sender<Vec<ShareState>>,
    },
    /// Puts the record of this key from the table; each DHT sends how many peers took it.
    Publish {
        key: Vec<u8>,
        reply: mpsc::Sender<usize>,
    },
    Unpublish {
        key: Vec<u8>,
    },
    FindValue {
        key: Vec<u8>,
        found: mpsc::Sender<FoundValue>,
        reply: oneshot::Sender<Result<(), FindError>>,
    },
    FindProviders {
        key: Vec<u8>,
        found: mpsc::Sender<Provider>,
        reply: oneshot::Sender<Result<(), FindError>>,
    },
    Provide {
        key: Vec<u8>,
        reply: oneshot::Sender<Result<(), ProvideError>>,
    },
    StopProviding {
        key: Vec<u8>,
    },
    Protect {
        peer: PeerId,
        protected: bool,
    },
    Disconnect {
        peer: PeerId,
    },
    Ban {
        peer: PeerId,
        duration: Duration,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}
