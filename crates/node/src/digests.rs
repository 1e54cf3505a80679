//! The worker that learns the SHA-256 of files that came by their CID, when nobody waits.
//!
//! Such a file was verified leaf by leaf; its SHA-256 is needed only by those who know it from a
//! database. Hashing it while it arrives would cost the reader a third of the client's processor time.
//!
//! - Invariant: nothing is hashed here while a download is under way, but for [`AT_MOST`] of patience.
//! - Invariant: one file at a time, [`PIECE`] bytes a turn.
//! - Not here: what the digest is for (`pacstore_store::Store::file_by_sha256`).

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cid::Cid;
use pacstore_runtime::Pool;
use pacstore_store::{FileInfo, OpenFile};
use ring::digest::{Context, SHA256};
use tracing::{debug, warn};

use crate::error::StoreError;
use crate::node::Node;

/// How long a new file waits for others that come with it.
const QUIET: Duration = Duration::from_secs(1);

/// How long downloads are waited for; on a node that never rests a piece is hashed this often all the same.
const AT_MOST: Duration = Duration::from_secs(10);

/// Between two looks for files without a digest, in any case.
const PERIOD: Duration = Duration::from_mins(5);

/// Bytes hashed a turn.
const PIECE: usize = 4 << 20;

/// Files looked up at once.
const BATCH: usize = 64;

/// Hashes what has come in until the node stops.
pub(crate) async fn run(node: Node) {
    let stop = node.inner.tasks.stop();
    loop {
        let round = async {
            if let Err(error) = all(&node).await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot hash files that came in; will retry"
                );
            }
            let came = node.inner.fetch.whole_file_came();
            let _ = tokio::time::timeout(PERIOD, came).await;
            tokio::time::sleep(QUIET).await;
        };
        if stop.run_until_cancelled(Box::pin(round)).await.is_none() {
            return;
        }
    }
}

/// Every file that has no digest yet, once.
async fn all(node: &Node) -> Result<(), StoreError> {
    let mut from = 0;
    loop {
        let store = node.inner.store.clone();
        let look = move || store.files_without_sha256(from, BATCH).map_err(StoreError::from);
        let files = blocking(node, look).await?;
        let Some(last) = files.last() else { return Ok(()) };
        from = last.id + 1;
        // What was imported here without a digest belongs to a folder that no database describes.
        for file in files.into_iter().filter(|file| file.by_origin.disk == 0) {
            if let Err(error) = one(node, &file).await {
                debug!(cid = %file.root, error = &error as &dyn std::error::Error, "a file is not hashed");
            }
        }
    }
}

/// Learns the digest of the file `root` now, if it is here without one: whoever asks looks for it by that.
///
/// # Errors
/// [`StoreError`] if it cannot be read or noted.
pub(crate) async fn learn(node: &Node, root: &Cid) -> Result<(), StoreError> {
    let (store, wanted) = (node.inner.store.clone(), *root);
    let found = blocking(node, move || store.file(&wanted).map_err(StoreError::from)).await?;
    match found {
        Some(info) if info.sha256.is_none() => one(node, &info).await,
        _ => Ok(()),
    }
}

async fn one(node: &Node, info: &FileInfo) -> Result<(), StoreError> {
    let (store, root) = (node.inner.store.clone(), info.root);
    let Some(file) = blocking(node, move || store.open_shared(&root).map_err(StoreError::from)).await? else {
        return Ok(());
    };
    let mut context = Context::new(&SHA256);
    let mut at = 0;
    while at < info.len {
        quiet(node).await;
        context = match hash(node, &file, context, at).await? {
            Some(context) => context,
            None => return Ok(()),
        };
        at += PIECE as u64;
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    let (store, id) = (node.inner.store.clone(), info.id);
    let learned = move || store.learn_sha256(id, &root, sha256).map_err(StoreError::from);
    blocking(node, learned).await?;
    Ok(())
}

/// `context` with the bytes at `at`; none if they cannot be read.
async fn hash(
    node: &Node,
    file: &Arc<OpenFile>,
    mut context: Context,
    at: u64,
) -> Result<Option<Context>, StoreError> {
    let file = Arc::clone(file);
    let read = move || {
        let len = file.info.len.saturating_sub(at).min(PIECE as u64) as usize;
        let mut data = vec![0; len];
        let read = file.file.read_exact_at(&mut data, at);
        Ok(read.ok().map(|()| {
            context.update(&data);
            context
        }))
    };
    let done = node.inner.tasks.blocking(Pool::Hash, read).await;
    done.map_err(|_| StoreError::Stopping)?
}

/// Waits while downloads are under way.
async fn quiet(node: &Node) {
    let until = Instant::now() + AT_MOST;
    while node.inner.fetch.active() > 0 && Instant::now() < until {
        tokio::time::sleep(QUIET / 5).await;
    }
}

async fn blocking<T: Send + 'static>(
    node: &Node,
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = node.inner.tasks.blocking(Pool::Disk, call).await;
    done.unwrap_or(Err(StoreError::Stopping))
}
