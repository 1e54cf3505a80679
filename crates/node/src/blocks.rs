//! What we give to peers: the store's blocks, without those that are not theirs.
//!
//! - Invariant: a block that only private heads reach goes to configured peers alone.
//! - Not here: how it is sent (`pacstore-bitswap`).

use std::collections::HashSet;
use std::sync::{Arc, RwLock};

use cid::Cid;
use pacstore_bitswap::Blocks;
use pacstore_net::PeerId;
use pacstore_store::Store;
use tracing::warn;

/// Who may have private content, and whether there is any.
#[derive(Debug, Default)]
pub(crate) struct Privacy {
    /// Peers of `[swarm] peers`.
    pub(crate) friends: HashSet<PeerId>,
    /// Some served or imported mirror is private: then only friends are answered at all,
    /// because a block does not tell which mirrors reach it.
    pub(crate) private: bool,
}

/// The store as peers see it.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    store: Store,
    privacy: Arc<RwLock<Privacy>>,
}

impl Shared {
    pub(crate) fn new(store: Store, privacy: Arc<RwLock<Privacy>>) -> Self {
        Self { store, privacy }
    }

    fn may_have(&self, peer: &PeerId) -> bool {
        let privacy = self
            .privacy
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        !privacy.private || privacy.friends.contains(peer)
    }
}

impl Blocks for Shared {
    fn len(&self, cid: &Cid, peer: &PeerId) -> Option<u64> {
        if !self.may_have(peer) {
            return None;
        }
        match self.store.block_len(cid) {
            Ok(len) => len,
            Err(error) => {
                warn!(%cid, error = &error as &dyn std::error::Error, "cannot look a block up");
                None
            }
        }
    }

    fn read(&self, cid: &Cid, peer: &PeerId, out: &mut Vec<u8>) -> bool {
        if !self.may_have(peer) {
            return false;
        }
        match self.store.block_into(cid, out) {
            Ok(found) => found,
            Err(error) => {
                warn!(%cid, error = &error as &dyn std::error::Error, "cannot read a block");
                false
            }
        }
    }
}
