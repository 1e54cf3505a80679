//! Peers as a source of a package of which only the SHA-256 is known: they may tell its DAG.
//!
//! What they tell is a hint. The file is fetched by it from peers and mirrors at once, leaf by leaf; then its whole
//! SHA-256 decides. Who told a root whose bytes are others is banned.
//!
//! - Invariant: nothing is asked for a repository that is not public.
//! - Invariant: a root is given back only after the SHA-256 of the whole file was right.
//! - Not here: the question itself (`crate::lookup`), mirrors that give it whole (`super::whole`).

use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use pacstore_runtime::Pool;
use pacstore_store::{FileInfo, Store};
use pacstore_upstream::Url;
use ring::digest::{Context, SHA256};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::package::PackageOf;
use crate::error::StoreError;
use crate::fetch::{AskPeers, Sources};
use crate::lookup::Hint;
use crate::node::Node;
use crate::serve::FileAnswer;
use crate::status::chain;

/// Roots that are tried for one file.
const MAX_ROOTS: usize = 3;

/// Left for a mirror, should the first root be a lie.
const RESERVE: Duration = Duration::from_millis(2500);

/// What connected peers say of the package.
pub(super) async fn hints(node: &Node, answer: &FileAnswer, package: &PackageOf) -> Vec<Hint> {
    if !package.repository.config.public {
        return Vec::new();
    }
    let mut hints = node.lookup(&[package.sha256], AskPeers::Everyone).await;
    hints.retain(|hint| hint.sha256 == package.sha256 && hint.size == answer.len);
    hints
}

/// Fetches the package under a root that peers told, and checks it.
pub(super) async fn fetch(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    hints: Vec<Hint>,
    until: Instant,
) -> Option<Cid> {
    let mirrors = answer.sources.upstreams.clone();
    by_roots(node, package, hints, mirrors, until - RESERVE).await
}

/// The same from peers alone: one of them is known to have all of it.
pub(super) async fn fetch_inside(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    hints: Vec<Hint>,
    until: Instant,
) -> Option<Cid> {
    let fetched = by_roots(node, package, hints, Vec::new(), until).await;
    if fetched.is_none() {
        debug!(name = package.name, cid = %answer.root, "a neighbour does not give what it brought");
    }
    fetched
}

async fn by_roots(
    node: &Node,
    package: &Arc<PackageOf>,
    hints: Vec<Hint>,
    upstreams: Vec<Url>,
    until: Instant,
) -> Option<Cid> {
    let mut roots: Vec<Cid> = Vec::new();
    for hint in &hints {
        if !roots.contains(&hint.root) && roots.len() < MAX_ROOTS {
            roots.push(hint.root);
        }
    }
    let sources = Sources {
        len: None,
        profile: None,
        peers: AskPeers::Everyone,
        upstreams,
    };
    for root in roots {
        let taken = tokio::time::timeout_at(until, node.inner.fetch.take(&root, &sources));
        let info = match taken.await {
            Ok(Ok(info)) => info,
            Ok(Err(error)) => {
                debug!(name = package.name, %root, error = chain(&error), "no file comes by what peers told");
                continue;
            }
            Err(_) => return None,
        };
        match digest(node, &info).await {
            Ok(sha256) if sha256 == package.sha256 => return Some(root),
            Ok(_) => {
                warn!(name = package.name, %root, "peers told the root of another file");
                for hint in hints.iter().filter(|hint| hint.root == root) {
                    node.ban(hint.peer).await;
                }
            }
            Err(error) => debug!(%root, error = chain(&error), "cannot check what peers gave"),
        }
    }
    None
}

/// SHA-256 of a stored file, computed where the store has not done so.
async fn digest(node: &Node, info: &FileInfo) -> Result<[u8; 32], StoreError> {
    if let Some(sha256) = info.sha256 {
        return Ok(sha256);
    }
    let (store, root, id) = (node.inner.store.clone(), info.root, info.id);
    let hashed = node.inner.tasks.blocking(Pool::Hash, move || {
        let sha256 = hash(&store, &root)?;
        store.learn_sha256(id, &root, sha256)?;
        Ok(sha256)
    });
    hashed.await.unwrap_or(Err(StoreError::Stopping))
}

fn hash(store: &Store, root: &Cid) -> Result<[u8; 32], StoreError> {
    use std::os::unix::fs::FileExt as _;
    let Some(file) = store.open_file(root)? else {
        return Err(StoreError::State(root.to_string()));
    };
    let (mut sha256, mut at) = (Context::new(&SHA256), 0);
    let mut piece = vec![0; 256 << 10];
    loop {
        let read = file.file.read_at(&mut piece, at);
        let read = read.map_err(|error| StoreError::Disk(*root, error))?;
        if read == 0 {
            break;
        }
        sha256.update(&piece[..read]);
        at += read as u64;
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(sha256.finish().as_ref());
    Ok(digest)
}
