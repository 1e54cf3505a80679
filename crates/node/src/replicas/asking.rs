//! Asking connected peers whether they have all of a head's directories and databases.
//!
//! What is asked: each node of each directory of the tree, then each block of the databases of the head's repositories
//! and of their signatures; the first [`MOST`] of them in this order. A peer is asked for 64 at a time, and further on
//! where it had everything; what it said before is not asked again.
//!
//! - Invariant: a peer counts once, only when it said of every block that it has it, and only while it is connected.
//! - Invariant: it is a claim. Whoever says that he has a block may not give it; such a peer delays nothing, and a head
//!   that goes out too early is where it would be without `replicas`.
//! - Not here: what follows from it (`super`).

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};
use pacstore_bitswap::SessionOptions;
use pacstore_dag::{self as dag, BlockSource as _, ReadError};
use pacstore_names::Head;
use pacstore_net::{Net, PeerId};
use pacstore_runtime::{Pool, note};
use pacstore_store::Store;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::bring::databases_of;
use crate::mirror::Mirror;
use crate::node::Node;

/// Blocks that are asked, at most. A mirror of 100,000 files in one folder has some hundreds.
const MOST: usize = 100_000;

/// Blocks asked of one peer at once.
const AT_ONCE: usize = 64;

/// Peers asked at once.
const PEERS_AT_ONCE: usize = 16;

/// Peers that are asked for one head, at most.
const PEERS: usize = 1024;

/// How long one peer is asked without a pause.
const TURN: Duration = Duration::from_secs(20);

/// What peers said of one tree.
#[derive(Debug, Default)]
pub(super) struct Asked {
    tree: Option<Cid>,
    blocks: Arc<Vec<Cid>>,
    /// How many of the blocks, from the first on, a peer has.
    told: HashMap<PeerId, usize>,
}

impl Asked {
    /// Asks those who have not said yet that they have all of `head`; how many have.
    pub(super) async fn ask(&mut self, node: &Node, mirror: &Arc<Mirror>, head: &Head) -> usize {
        let Some(net) = &node.inner.net else { return 0 };
        if self.tree != Some(head.tree) && !self.begin(node, mirror, head).await {
            return 0;
        }
        note("asking peers");
        let all = self.blocks.len();
        let askable = node.inner.fetch.askable(mirror.audience(Some(head)));
        // Who left holds nothing for anybody; if it comes back, it is asked anew.
        self.told.retain(|peer, _| askable.contains(peer));
        let mut open = Vec::new();
        for peer in askable {
            let room = self.told.len() < PEERS;
            let at = self.told.get(&peer).copied();
            if let Some(at) = at.or(room.then_some(0)).filter(|at| *at < all) {
                self.told.insert(peer, at);
                open.push((peer, at));
            }
        }
        let asked = open.into_iter().map(|(peer, at)| {
            let blocks = Arc::clone(&self.blocks);
            async move { (peer, has_up_to(net, peer, &blocks, at).await) }
        });
        let answers: Vec<(PeerId, usize)> = stream::iter(asked)
            .buffer_unordered(PEERS_AT_ONCE)
            .collect()
            .await;
        self.told.extend(answers);
        self.told.values().filter(|at| **at == all).count()
    }

    /// Makes the list of what is asked.
    async fn begin(&mut self, node: &Node, mirror: &Arc<Mirror>, head: &Head) -> bool {
        *self = Self::default();
        let (store, mirror_, head_) = (node.inner.store.clone(), Arc::clone(mirror), head.clone());
        let work = move || needed(&store, &mirror_, &head_);
        match node.inner.tasks.blocking(Pool::Disk, work).await {
            Ok(Ok(blocks)) => {
                (self.tree, self.blocks) = (Some(head.tree), Arc::new(blocks));
                true
            }
            Ok(Err(error)) => {
                warn!(mirror = %mirror.config.name, tree = %head.tree, error = &error as &dyn Error, "cannot read the tree that waits for replicas; will retry");
                false
            }
            Err(_) => false,
        }
    }
}

/// How many of `blocks`, from the first on, `peer` says that it has; known to be at least `at`.
async fn has_up_to(net: &Net, peer: PeerId, blocks: &[Cid], mut at: usize) -> usize {
    let session = net.bitswap().session(SessionOptions::with_peers([peer]));
    let until = Instant::now() + TURN;
    while at < blocks.len() && Instant::now() < until {
        let batch = &blocks[at..blocks.len().min(at + AT_ONCE)];
        let answers = join_all(batch.iter().map(|cid| session.have(*cid))).await;
        let has = answers.iter().take_while(|who| who.contains(&peer)).count();
        at += has;
        if has < batch.len() {
            debug!(%peer, at, of = blocks.len(), "does not have all of the coming head");
            break;
        }
    }
    at
}

/// All that is asked of `head`.
fn needed(store: &Store, mirror: &Mirror, head: &Head) -> Result<Vec<Cid>, ReadError> {
    let mut list = Vec::new();
    let mut seen = HashSet::from([head.tree]);
    let mut open = vec![head.tree];
    while let Some(cid) = open.pop() {
        let data = store.get(&cid)?.ok_or_else(|| ReadError::Missing(vec![cid]))?;
        if dag::kind(&cid, &data)? != dag::Kind::Directory {
            continue;
        }
        list.push(cid);
        for link in dag::links(&cid, &data)? {
            if link.cid.codec() == dag::DAG_PB && seen.insert(link.cid) {
                open.push(link.cid);
            }
        }
        if list.len() >= MOST {
            return Ok(list);
        }
    }
    for (_, root, _) in databases_of(mirror, head)? {
        let mut open = vec![root];
        while let Some(cid) = open.pop() {
            if list.len() >= MOST {
                return Ok(list);
            }
            if cid.codec() == dag::DAG_PB {
                let data = store.get(&cid)?.ok_or_else(|| ReadError::Missing(vec![cid]))?;
                open.extend(dag::links(&cid, &data)?.into_iter().map(|link| link.cid));
            }
            // One that holds its own bytes is nobody's to have.
            if dag::inline_data(&cid).is_none() && seen.insert(cid) {
                list.push(cid);
            }
        }
    }
    Ok(list)
}
