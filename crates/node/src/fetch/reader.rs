//! Reading a file in order while it arrives.
//!
//! A leaf that just came in goes out from memory (`super::fresh`), any other one from the file. The end
//! of a leaf goes out slowly until the next one is here, so that pacman sees progress.
//!
//! - Invariant: a job lives as long as one of its readers.
//! - Not here: how leaves come in (`super::job`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::FileDag;
use pacstore_store::Origin;

use super::FetchError;
use super::job::Job;
use super::through::Through;

/// Bytes that a reader hands out at once: 256 KiB.
const PIECE: u64 = 256 << 10;

/// The end of a leaf is kept back until the next leaf is here, in bytes ...
pub(super) const KEPT_BACK: u64 = 64 << 10;

/// ... but a little of it goes out this often: pacman leaves a connection that is silent
/// for ten seconds (and one byte in two seconds does not count as more).
pub(super) const DRIP: Duration = Duration::from_millis(400);

/// The leaf that holds the byte at `offset`.
pub(super) fn leaf_at(file: &FileDag, offset: u64) -> usize {
    file.leaves
        .partition_point(|leaf| leaf.offset + leaf.len <= offset)
}

/// Bytes that go out of the `left` ones that are kept back: they last for minutes.
pub(super) fn drip(left: u64) -> u64 {
    (left / 128).max(16).min(left)
}

/// Reads a file in order while it arrives.
#[derive(Debug)]
pub struct Reader {
    job: Arc<Job>,
    number: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.job.shared.leaves(self.number);
    }
}

impl Reader {
    pub(crate) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    pub(crate) fn new(job: Arc<Job>) -> Self {
        let number = job.shared.new_reader();
        Self { job, number }
    }

    /// The one for which the job was started.
    pub(super) fn first(job: Arc<Job>) -> Self {
        Self { job, number: 0 }
    }

    /// The same file through memory: it cannot be kept after all.
    pub(crate) fn through(&self) -> Result<Through, FetchError> {
        let shared = &self.job.shared;
        Through::new(&shared.inner, Arc::clone(&shared.file), shared.sources.clone())
    }

    /// The file's length in bytes.
    pub fn len(&self) -> u64 {
        self.job.shared.file.len
    }

    /// The file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file's root.
    pub fn root(&self) -> Cid {
        self.job.shared.file.root
    }

    /// The next bytes at `offset`, at most 256 KiB and never past `end`; waits for them.
    /// Nothing at the end.
    ///
    /// # Errors
    /// Why the file will never be whole.
    pub async fn read(&self, offset: u64, end: u64) -> Result<Option<(Bytes, Origin)>, FetchError> {
        let shared = &self.job.shared;
        let end = end.min(shared.file.len);
        if offset >= end {
            return Ok(None);
        }
        let index = leaf_at(&shared.file, offset);
        shared.stands_at(self.number, index);
        shared.until_here(index).await?;
        let stop = self.paced(index, offset, end).await;
        let data = match shared.fresh.get(index) {
            Some(leaf) => {
                let start = shared.file.leaves[index].offset;
                leaf.slice((offset - start) as usize..(stop - start) as usize)
            }
            None => self.stored(offset, stop).await?,
        };
        Ok(Some((data, shared.origin(index))))
    }

    async fn stored(&self, offset: u64, stop: u64) -> Result<Bytes, FetchError> {
        let shared = &self.job.shared;
        let (inner, root) = (&shared.inner, shared.file.root);
        crate::read::stored(&inner.tasks, &inner.buffers, &shared.body, root, offset, stop).await
    }

    /// Where a piece that begins at `offset` in the leaf `index`, which is here, ends. The end
    /// of a leaf goes out slowly until the next one is here, so that pacman sees progress.
    async fn paced(&self, index: usize, offset: u64, end: u64) -> u64 {
        let shared = &self.job.shared;
        let leaf_end = shared
            .file
            .leaves
            .get(index)
            .map_or(end, |leaf| leaf.offset + leaf.len);
        let stop = end.min(leaf_end).min(offset + PIECE);
        if end <= leaf_end || shared.is_done(index + 1) {
            return stop;
        }
        let kept_back = leaf_end.saturating_sub(KEPT_BACK);
        if offset < kept_back {
            return stop.min(kept_back);
        }
        tokio::select! {
            () = shared.arrived(index + 1) => stop,
            () = tokio::time::sleep(DRIP) => stop.min(offset + drip(leaf_end - offset)),
        }
    }

    /// Waits until the whole file is on disk under its final name.
    ///
    /// # Errors
    /// Why it never will be.
    pub async fn wait_complete(&mut self) -> Result<(), FetchError> {
        self.job.shared.ended().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_back_of_a_leaf_lasts_for_minutes_and_ends() {
        let (mut left, mut drips) = (KEPT_BACK, 0_u32);
        while left > 0 {
            let out = drip(left);
            assert!((1..=left).contains(&out));
            left -= out;
            drips += 1;
        }
        let lasts = DRIP * drips;
        assert!(lasts > Duration::from_mins(2), "{lasts:?}");
    }
}
