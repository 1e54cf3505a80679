//! How a file of one leaf that just came is kept, and how it is read meanwhile.
//!
//! It goes through three places, and whoever asks for it again looks in this order: the cell of its fetch, in memory
//! (`super::small`); once it is written, [`Written`]; once it is durable, the index.
//!
//! - Invariant: it is in the next place before it goes from the one before.
//! - Invariant: nothing but the index outlives the process: a file that was written and not named there is swept.
//! - Not here: fetching and verifying it (`super::small`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cid::Cid;
use pacstore_dag as dag;
use pacstore_store::{Origin, Sha256};
use tokio::sync::watch;

use crate::error::StoreError;

use super::{FetchError, Inner, Small, here, one_leaf};

/// How keeping a file ends, once it has.
pub(super) type Kept = watch::Receiver<Option<Result<(), FetchError>>>;

/// Files that are written and not durable yet, with where they came from. They are not in the cell of their fetch any more, and
/// not in the index yet.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<Cid, (Origin, Kept)>>);

impl Written {
    fn begin(&self, root: Cid, of: (Origin, Kept)) {
        self.lock().insert(root, of);
    }

    pub(super) fn end(&self, root: &Cid) {
        self.lock().remove(root);
    }

    /// The file `root`, if it is one of them. To be asked before the index: in there it is before it goes from here.
    pub(super) async fn read(&self, inner: &Inner, root: &Cid) -> Result<Option<Small>, FetchError> {
        let Some((origin, kept)) = self.lock().get(root).cloned() else {
            return Ok(None);
        };
        let (store, wanted) = (inner.store.clone(), *root);
        let data = inner.blocking(*root, move || store.block(&wanted)).await?;
        Ok(data.map(|data| Small { data, origin, kept }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Cid, (Origin, Kept)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Small {
    /// Waits until it is on disk.
    ///
    /// # Errors
    /// Why it cannot be kept.
    pub(crate) async fn kept(&self) -> Result<(), FetchError> {
        let mut kept = self.kept.clone();
        let ended = kept.wait_for(Option::is_some).await;
        // The task went without a word: everything stops.
        ended.map_or(Err(FetchError::Stopping), |ended| {
            ended.clone().unwrap_or(Err(FetchError::Stopping))
        })
    }
}

/// The file, if it is on disk.
pub(super) async fn stored(inner: &Inner, root: &Cid) -> Result<Option<Small>, FetchError> {
    if !here::may_be_file(inner, root) {
        return Ok(None);
    }
    let (store, wanted) = (inner.store.clone(), *root);
    let read = move || -> Result<Option<Small>, StoreError> {
        let Some(info) = store.file(&wanted)? else {
            return Ok(None);
        };
        let by = info.by_origin;
        let origin = [
            (by.disk, Origin::Disk),
            (by.lan, Origin::Lan),
            (by.peer, Origin::Peer),
            (by.upstream, Origin::Upstream),
        ];
        let origin = origin.into_iter().max_by_key(|(bytes, _)| *bytes);
        let origin = origin.map_or(Origin::Disk, |(_, origin)| origin);
        let (_, kept) = watch::channel(Some(Ok(())));
        let small = |data| Small { data, origin, kept };
        Ok(store.block(&wanted)?.map(small))
    };
    inner.blocking(*root, read).await
}

/// Writes it and makes it durable. `held` goes in between: by then it can be read from where it was written.
pub(super) async fn keep(
    inner: &Arc<Inner>,
    root: &Cid,
    small: Small,
    held: impl Send + 'static,
) -> Result<(), FetchError> {
    let (of_write, written) = (Arc::clone(inner), *root);
    let Small { data, origin, kept } = small;
    let layout = one_leaf(root, data.len() as u64);
    let sha256 = match (
        root.hash().code() == dag::HashKind::Sha2_256.code(),
        root.hash().digest().try_into(),
    ) {
        (true, Ok(digest)) => Sha256::Known(digest),
        _ => Sha256::Compute,
    };
    let write = move || -> Result<(), StoreError> {
        let partial = of_write.store.begin_partial(&layout)?;
        if !partial.is_complete() {
            partial.write_leaf(0, &data, origin)?;
        }
        // A sync takes long, and others need the room.
        of_write.written.begin(written, (origin, kept));
        drop((data, held));
        partial.finish(sha256)?;
        Ok(())
    };
    inner.blocking(*root, write).await
}
