//! What a head needs before a request can be answered from it: its directories, and the databases in use.
//!
//! - Invariant: what is here already is not fetched again.
//! - Invariant: at most [`MAX_NODES`] nodes a tree.
//! - Not here: which head (`crate::follow`, `crate::ahead`), how long it may take (there too).

use std::collections::HashSet;
use std::sync::Arc;

use cid::Cid;
use pacstore_dag::{self as dag, BlockSource as _};
use pacstore_names::Head;
use pacstore_runtime::Pool;
use tracing::debug;

use crate::fetch::{AskPeers, FetchError, Sources};
use crate::follow::{FollowError, blocking};
use crate::mirror::{FoundKind, Mirror};
use crate::node::Node;

/// Directory nodes of one tree, at most.
const MAX_NODES: usize = 2_000_000;

/// Inner nodes fetched in one go.
const BATCH: usize = 256;

/// All directory nodes below `root`, and the inner nodes of files of more than one leaf:
/// with them an ordinary mirror alone suffices for the rest.
pub(crate) async fn directories(node: &Node, root: &Cid, ask: AskPeers) -> Result<(), FollowError> {
    let mut seen: HashSet<Cid> = HashSet::from([*root]);
    let mut open = vec![*root];
    while !open.is_empty() {
        let batch: Vec<Cid> = open.split_off(open.len().saturating_sub(BATCH));
        let (store, here) = (node.inner.store.clone(), batch.clone());
        let looked = node
            .inner
            .tasks
            .blocking(Pool::Disk, move || -> Result<Vec<_>, dag::SourceError> {
                here.into_iter().map(|cid| Ok((cid, store.get(&cid)?))).collect()
            });
        let looked = looked.await.map_err(|_| FollowError::Stopping)?;
        let looked = looked.map_err(|e| FollowError::Tree(*root, Some(dag::ReadError::from(e))))?;
        let missing: Vec<Cid> = looked
            .iter()
            .filter(|(_, data)| data.is_none())
            .map(|(cid, _)| *cid)
            .collect();
        let fetched = node
            .inner
            .fetch
            .nodes(&missing, ask)
            .await
            .map_err(|e| FollowError::Fetch(*root, e))?;
        let here = looked.into_iter().filter_map(|(cid, data)| Some((cid, data?)));
        for (cid, data) in here.chain(fetched.into_iter().map(|block| (block.cid, block.data))) {
            let below = children(&cid, &data).map_err(|e| FollowError::Tree(*root, Some(e)))?;
            open.extend(below.into_iter().filter(|child| seen.insert(*child)));
        }
        if seen.len() > MAX_NODES {
            return Err(FollowError::Tree(*root, None));
        }
    }
    Ok(())
}

/// What a node links to that is no raw leaf: directories, and inner nodes of files.
pub(crate) fn children(cid: &Cid, data: &[u8]) -> Result<Vec<Cid>, dag::ReadError> {
    let bears = matches!(
        dag::kind(cid, data)?,
        dag::Kind::Directory | dag::Kind::File { .. }
    );
    if !bears {
        return Ok(Vec::new());
    }
    let links = dag::links(cid, data)?;
    Ok(links
        .into_iter()
        .map(|link| link.cid)
        .filter(|child| child.codec() == dag::DAG_PB)
        .collect())
}

/// Databases that clients use come before the head is current; one that does not come is
/// fetched at its first request instead.
pub(crate) async fn databases(node: &Node, mirror: &Arc<Mirror>, head: &Head) {
    for path in mirror.used_databases() {
        if matches!(mirror.look_up(&head.tree, &segments(&path)), Ok(None)) {
            let (mirror_, path_) = (mirror.clone(), path.clone());
            if let Err(error) = blocking(node, move || mirror_.drop_database(&path_)).await {
                debug!(
                    path,
                    error = &error as &dyn std::error::Error,
                    "a database that is gone is held on"
                );
            }
            continue;
        }
        for path in [path.clone(), format!("{path}.sig")] {
            let Some((root, sources)) = database(node, mirror, head, &path) else {
                continue;
            };
            let (mirror_, path_) = (mirror.clone(), path.clone());
            let held = blocking(node, move || mirror_.hold_database(&path_, &root)).await;
            if let Err(error) = held {
                debug!(
                    path,
                    error = &error as &dyn std::error::Error,
                    "a database is not held"
                );
            }
            if let Err(error) = node.inner.fetch.take(&root, &sources).await {
                debug!(
                    path,
                    error = &error as &dyn std::error::Error,
                    "a database did not come ahead"
                );
            }
        }
    }
}

/// The databases of the repositories of `head` and their signatures, as far as its tree has them: path, root, length.
/// The directories must be here.
pub(crate) fn databases_of(mirror: &Mirror, head: &Head) -> Result<Vec<(String, Cid, u64)>, dag::ReadError> {
    let mut all = Vec::new();
    for one in &head.repositories {
        for name in [format!("{}.db", one.name), format!("{}.db.sig", one.name)] {
            let path = format!("{}/{name}", one.folder)
                .trim_start_matches('/')
                .to_owned();
            if let Some(found) = mirror.look_up(&head.tree, &segments(&path))?
                && let FoundKind::File(len) = found.kind
            {
                all.push((path, found.cid, len));
            }
        }
    }
    Ok(all)
}

/// Fetches the database at `path`; it may be evicted again.
pub(crate) async fn take_database(
    node: &Node,
    mirror: &Mirror,
    head: &Head,
    path: &str,
) -> Result<(), FetchError> {
    match database(node, mirror, head, path) {
        Some((root, sources)) => node.inner.fetch.take(&root, &sources).await.map(drop),
        None => Ok(()),
    }
}

/// The file at `path` in the tree of `head`, and from whom it comes.
fn database(node: &Node, mirror: &Mirror, head: &Head, path: &str) -> Option<(Cid, Sources)> {
    let segments = segments(path);
    let found = mirror.look_up(&head.tree, &segments).ok().flatten()?;
    let FoundKind::File(len) = found.kind else {
        return None;
    };
    let sources = Sources {
        len: (found.cid.codec() == dag::RAW).then_some(len),
        profile: Some(head.profile.clone()),
        peers: mirror.audience(Some(head)),
        upstreams: node.ranked_urls(mirror, head.layout, &segments),
    };
    Some((found.cid, sources))
}

fn segments(path: &str) -> Vec<Vec<u8>> {
    path.split('/').map(|s| s.as_bytes().to_vec()).collect()
}
