//! What we give to peers: the store's blocks, without those that are not theirs.
//!
//! - Invariant: a block that only private heads reach goes to configured peers alone, one of a private
//!   repository's file to nobody (`crate::hidden`), and none beyond what we may upload (`crate::uploads`).
//! - Not here: how it is sent (`pacstore-bitswap`).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cid::Cid;
use pacstore_bitswap::Blocks;
use pacstore_net::{Digest, LookedUp, Lookups, PeerId};
use pacstore_store::Store;
use tracing::warn;

use crate::hidden::Hidden;
use crate::uploads::Uploads;

/// Who may have private content, and whether there is any.
#[derive(Debug)]
pub(crate) struct Privacy {
    /// Peers of `[swarm] peers`.
    friends: HashSet<PeerId>,
    /// Some served or imported mirror is private: then only friends are answered at all,
    /// because a block does not tell which mirrors reach it.
    private: AtomicBool,
    /// Files of private repositories.
    pub(crate) hidden: Arc<Hidden>,
}

impl Privacy {
    /// No head is private yet.
    pub(crate) fn new(friends: HashSet<PeerId>, hidden: Hidden) -> Self {
        Self {
            friends,
            private: AtomicBool::new(false),
            hidden: Arc::new(hidden),
        }
    }

    /// From now on there is private content here; until the next start.
    pub(crate) fn close(&self) {
        self.private.store(true, Ordering::Relaxed);
    }

    /// `peer` may have the block `cid`, and may learn that it is here.
    pub(crate) fn may_have(&self, cid: &Cid, peer: &PeerId) -> bool {
        !self.hidden.hides(cid) && self.is_open_to(peer)
    }

    /// `peer` is a friend, or there is nothing here that only friends may know.
    fn is_open_to(&self, peer: &PeerId) -> bool {
        !self.is_closed() || self.friends.contains(peer)
    }

    /// There is private content here.
    pub(crate) fn is_closed(&self) -> bool {
        self.private.load(Ordering::Relaxed)
    }
}

/// The store as peers see it.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    store: Store,
    privacy: Arc<Privacy>,
    uploads: Arc<Uploads>,
}

impl Shared {
    pub(crate) fn new(store: Store, privacy: Arc<Privacy>, uploads: Arc<Uploads>) -> Self {
        Self {
            store,
            privacy,
            uploads,
        }
    }

    /// `peer` is answered at all.
    pub(crate) fn is_open_to(&self, peer: &PeerId) -> bool {
        self.uploads.is_on() && self.privacy.is_open_to(peer)
    }
}

impl Lookups for Shared {
    fn find(&self, sha256: &Digest, peer: &PeerId) -> Option<LookedUp> {
        match self.store.file_by_sha256(sha256) {
            Ok(found) => found
                .filter(|file| self.privacy.may_have(&file.root, peer))
                .filter(|file| self.uploads.has_room(peer, file.len))
                .map(|file| LookedUp {
                    root: file.root,
                    size: file.len,
                }),
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot look a file up by its SHA-256"
                );
                None
            }
        }
    }
}

impl Blocks for Shared {
    fn len(&self, cid: &Cid, peer: &PeerId) -> Option<u64> {
        if !self.privacy.may_have(cid, peer) {
            return None;
        }
        match self.store.block_len(cid) {
            Ok(len) => len.filter(|len| self.uploads.has_room(peer, *len)),
            Err(error) => {
                warn!(%cid, error = &error as &dyn std::error::Error, "cannot look a block up");
                None
            }
        }
    }

    fn read(&self, cid: &Cid, peer: &PeerId, out: &mut Vec<u8>) -> bool {
        if !self.privacy.may_have(cid, peer) {
            return false;
        }
        let before = out.len();
        match self.store.block_into(cid, out) {
            Ok(found) => found && self.uploads.take(peer, (out.len() - before) as u64),
            Err(error) => {
                warn!(%cid, error = &error as &dyn std::error::Error, "cannot read a block");
                false
            }
        }
    }
}
