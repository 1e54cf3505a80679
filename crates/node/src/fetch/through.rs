//! A file that cannot be kept: given leaf by leaf through memory.
//!
//! The file is larger than `store.max_size`, the disk is full or cannot be written: pacman
//! gets its bytes all the same, verified as ever. Nothing is retained, so nobody shares it.
//!
//! - Invariant: one such reader holds at most [`HELD`] leaves, and all of them together at
//!   most [`PASSING`] bytes; one more is told so and goes to a mirror.
//! - Invariant: no byte leaves that was not verified against its leaf's CID.
//! - Not here: how one leaf is brought (`super::small`).

use std::sync::Arc;

use bytes::Bytes;
use pacstore_dag::FileDag;
use pacstore_runtime::ByteLease;
use pacstore_store::Origin;
use tokio::sync::oneshot;

use super::reader::{DRIP, KEPT_BACK, drip, leaf_at};
use super::small::{self, Got, Wanted};
use super::{FetchError, Inner, Sources};

/// Bytes of leaves of all such readers together: 24 MiB.
pub(crate) const PASSING: u64 = 24 << 20;

/// The leaf that goes out, the next one, and what of them is still on its way to the client.
const HELD: u64 = 3;

/// Bytes that are handed out at once: 256 KiB.
const PIECE: u64 = 256 << 10;

/// Reads a file in order without keeping it.
#[derive(Debug)]
pub struct Through {
    inner: Arc<Inner>,
    file: Arc<FileDag>,
    sources: Sources,
    /// The leaf that goes out.
    here: Option<(usize, Got)>,
    next: Option<Next>,
    _room: ByteLease,
}

/// The leaf after it, on its way.
#[derive(Debug)]
struct Next {
    index: usize,
    coming: oneshot::Receiver<Result<Got, String>>,
    came: Option<Result<Got, String>>,
}

impl Through {
    /// A reader of `file`, because it cannot be kept.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] if too many files pass through already.
    pub(crate) fn new(inner: &Arc<Inner>, file: Arc<FileDag>, sources: Sources) -> Result<Self, FetchError> {
        let leaf = file.leaves.iter().map(|leaf| leaf.len).max().unwrap_or(0);
        let room = inner.passing.try_acquire(leaf * HELD);
        let room = room.ok_or_else(|| FetchError::NoSource {
            cid: file.root,
            why: "it cannot be kept, and too many files pass through already".to_owned(),
        })?;
        Ok(Self {
            inner: Arc::clone(inner),
            file,
            sources,
            here: None,
            next: None,
            _room: room,
        })
    }

    /// The file's length in bytes.
    pub fn len(&self) -> u64 {
        self.file.len
    }

    /// The file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next bytes at `offset`, at most 256 KiB and never past `end`; waits for them.
    ///
    /// # Errors
    /// Why the leaf that holds them does not come.
    pub async fn read(&mut self, offset: u64, end: u64) -> Result<(Bytes, Origin), FetchError> {
        let index = leaf_at(&self.file, offset);
        let Some(leaf) = self.file.leaves.get(index).copied() else {
            return Err(self.no_source("past its end".to_owned()));
        };
        if self.here.as_ref().is_none_or(|(here, _)| *here != index) {
            self.here = None;
            let got = self.arrived(index).await?;
            self.here = Some((index, got));
        }
        let leaf_end = leaf.offset + leaf.len;
        let mut stop = end.min(leaf_end).min(offset + PIECE);
        if leaf_end < end {
            stop = self.paced(index + 1, offset, (leaf_end, stop)).await;
        }
        let Some((_, got)) = &self.here else {
            return Err(self.no_source("its leaf went".to_owned()));
        };
        let from = (offset - leaf.offset) as usize;
        let to = (stop - leaf.offset) as usize;
        Ok((got.data.slice(from..to), got.origin))
    }

    /// As `super::job` does: the end of a leaf goes out slowly until the next one is here.
    async fn paced(&mut self, next: usize, offset: u64, (leaf_end, stop): (u64, u64)) -> u64 {
        let next = self.ask(next);
        if next.came.is_none()
            && let Ok(came) = next.coming.try_recv()
        {
            next.came = Some(came);
        }
        if next.came.is_some() {
            return stop;
        }
        let kept_back = leaf_end.saturating_sub(KEPT_BACK);
        if offset < kept_back {
            return stop.min(kept_back);
        }
        tokio::select! {
            came = &mut next.coming => {
                next.came = Some(came.unwrap_or_else(|_| Err("stopping".to_owned())));
                stop
            }
            () = tokio::time::sleep(DRIP) => stop.min(offset + drip(leaf_end - offset)),
        }
    }

    async fn arrived(&mut self, index: usize) -> Result<Got, FetchError> {
        self.ask(index);
        let Some(next) = self.next.take() else {
            return Err(FetchError::Stopping);
        };
        let came = match next.came {
            Some(came) => came,
            None => next.coming.await.map_err(|_| FetchError::Stopping)?,
        };
        came.map_err(|why| self.no_source(why))
    }

    /// The leaf `index`, asked for if it is not on its way.
    fn ask(&mut self, index: usize) -> &mut Next {
        if self.next.as_ref().is_some_and(|next| next.index != index) {
            self.next = None;
        }
        let (inner, sources, file) = (&self.inner, &self.sources, &self.file);
        self.next.get_or_insert_with(|| {
            let (mut tell, coming) = oneshot::channel();
            let wanted = Wanted::leaf(file, index);
            let (brings, sources) = (Arc::clone(inner), sources.clone());
            inner.tasks.spawn("fetch/through", async move {
                tokio::select! {
                    got = small::found(&brings, &wanted, &sources) => {
                        let _ = tell.send(got);
                    }
                    // Nobody waits for it any more.
                    () = tell.closed() => {}
                }
            });
            Next {
                index,
                coming,
                came: None,
            }
        })
    }

    fn no_source(&self, why: String) -> FetchError {
        let cid = self.file.root;
        FetchError::NoSource { cid, why }
    }
}
