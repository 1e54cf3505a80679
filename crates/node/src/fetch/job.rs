//! One file on its way in: its sources, its leaves on disk, its readers.
//!
//! The job owns a [`Partial`] in the store and a [`Plan`]. Each source is a task of its
//! own that picks runs of leaves, brings them, verifies them and writes them. Readers
//! wait until the leaf they stand at is there. The job ends when the file is whole,
//! when nothing new came for [`super::PATIENCE`], or when its last reader is gone.
//!
//! - Invariant: a leaf is marked done only after its bytes were verified and written.
//! - Not here: how a source gets its bytes (`super::peers`, `super::upstreams`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::FileDag;
use pacstore_store::{Origin, Partial, Sha256};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::plan::{Plan, SourceId};
use super::{FetchError, Inner, PATIENCE, Sources, peers, upstreams};

/// Bytes that a reader hands out at once: 256 KiB.
const PIECE: u64 = 256 << 10;

/// One file on its way in. Dropped with its last reader.
#[derive(Debug)]
pub(crate) struct Job {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What the job's readers and sources share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inner: Arc<Inner>,
    pub(crate) file: Arc<FileDag>,
    pub(crate) partial: Partial,
    pub(crate) stop: CancellationToken,
    plan: Mutex<Plan>,
    /// Where each leaf came from; those of an earlier job count as from peers.
    origins: Mutex<Vec<Origin>>,
    /// Grows with each leaf and at the end.
    changed: watch::Sender<Progress>,
    /// Wakes sources that found nothing to do.
    given_back: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    leaves: usize,
    /// Set once: the file is whole, or why it never will be.
    end: Option<Result<(), FetchError>>,
}

impl Job {
    /// Starts the tasks that bring `file` in.
    pub(crate) async fn start(
        inner: &Arc<Inner>,
        file: FileDag,
        sources: &Sources,
    ) -> Result<Arc<Self>, FetchError> {
        let root = file.root;
        let store = inner.store.clone();
        let layout = file.clone();
        let partial = inner.blocking(root, move || store.begin_partial(&layout)).await?;
        let have: Vec<bool> = (0..file.leaves.len()).map(|leaf| partial.has(leaf)).collect();
        let count = usize::from(sources.peers && inner.net.is_some())
            + sources.upstreams.len().min(upstreams::AT_ONCE);
        let stop = inner.tasks.stop().child_token();
        let shared = Arc::new(Shared {
            inner: Arc::clone(inner),
            plan: Mutex::new(Plan::new(&have, count)),
            origins: Mutex::new(vec![earlier(&partial); have.len()]),
            file: Arc::new(file),
            partial,
            stop: stop.clone(),
            changed: watch::Sender::new(Progress::default()),
            given_back: watch::Sender::new(0),
        });
        let mut source = 0;
        if sources.peers && inner.net.is_some() {
            inner
                .tasks
                .spawn("fetch/peers", peers::run(Arc::clone(&shared), source));
            source += 1;
        }
        if !sources.upstreams.is_empty() {
            for worker in 0..sources.upstreams.len().min(upstreams::AT_ONCE) {
                let mut urls = sources.upstreams.clone();
                urls.rotate_left(worker);
                inner.tasks.spawn(
                    "fetch/upstream",
                    upstreams::run(Arc::clone(&shared), source, urls),
                );
                source += 1;
            }
        }
        inner
            .tasks
            .spawn("fetch/job", watch_over(Arc::clone(&shared), count));
        Ok(Arc::new(Self {
            shared,
            _stop: stop.drop_guard(),
        }))
    }

    /// Whole, failed or stopped: joining it makes no sense.
    pub(crate) fn over(&self) -> bool {
        self.shared.stop.is_cancelled() || self.shared.changed.borrow().end.is_some()
    }
}

/// Waits for the end of the job, finishes the file or says why not.
async fn watch_over(shared: Arc<Shared>, sources: usize) {
    let mut seen = shared.changed.subscribe();
    let end = loop {
        if shared.plan().complete() {
            break shared.finish().await;
        }
        if sources == 0 {
            let why = "neither peers nor upstreams to ask".to_owned();
            break Err(FetchError::NoSource {
                cid: shared.file.root,
                why,
            });
        }
        tokio::select! {
            () = shared.stop.cancelled() => break Err(FetchError::Stopping),
            waited = tokio::time::timeout(PATIENCE, seen.changed()) => match waited {
                Ok(Ok(())) => {
                    if let Some(Err(error)) = seen.borrow_and_update().end.clone() { break Err(error) }
                }
                Ok(Err(_)) => break Err(FetchError::Stopping),
                Err(_) => {
                    let why = format!("no new bytes for {} s", PATIENCE.as_secs());
                    break Err(FetchError::NoSource { cid: shared.file.root, why });
                }
            },
        }
    };
    match &end {
        Ok(()) => debug!(cid = %shared.file.root, bytes = shared.file.len, "fetched"),
        Err(FetchError::Stopping) => debug!(cid = %shared.file.root, "fetch stopped; what came is kept"),
        Err(error) => {
            warn!(cid = %shared.file.root, error = error as &dyn std::error::Error, "fetch failed; what came is kept")
        }
    }
    shared.end(end);
    shared.stop.cancel();
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next run for `source`.
    pub(crate) fn pick(&self, source: SourceId, max: usize) -> Vec<usize> {
        let leaf_bytes = self.file.leaves.first().map_or(0, |leaf| leaf.len);
        self.plan().pick(source, max, leaf_bytes, Instant::now())
    }

    /// `source` does not bring `leaf` after all.
    pub(crate) fn give_back(&self, leaf: usize, source: SourceId) {
        self.plan().give_back(leaf, source);
        self.given_back.send_modify(|n| *n += 1);
    }

    /// Bytes of `leaf` are coming in.
    pub(crate) fn progressed(&self, leaf: usize) {
        self.plan().progressed(leaf, Instant::now());
    }

    /// `source` brought `bytes` in `busy`.
    pub(crate) fn measured(&self, source: SourceId, bytes: u64, busy: std::time::Duration) {
        self.plan().measured(source, bytes, busy);
    }

    /// Bytes a second of `source`, 0 while unknown.
    pub(crate) fn rate(&self, source: SourceId) -> f64 {
        self.plan().rate(source)
    }

    /// `leaf` is here already.
    pub(crate) fn is_done(&self, leaf: usize) -> bool {
        self.plan().is_done(leaf)
    }

    /// Nothing is left to do.
    pub(crate) fn complete(&self) -> bool {
        self.plan().complete()
    }

    /// Waits until a leaf was given back, one came in, or a little time passed (a leaf may
    /// have become late).
    pub(crate) async fn idle(&self) {
        let mut back = self.given_back.subscribe();
        let mut changed = self.changed.subscribe();
        tokio::select! {
            _ = back.changed() => {}
            _ = changed.changed() => {}
            () = tokio::time::sleep(super::plan::LATE / 4) => {}
        }
    }

    /// Writes a verified leaf and tells the readers.
    pub(crate) async fn keep(&self, leaf: usize, data: Bytes, origin: Origin) {
        if self.is_done(leaf) {
            return;
        }
        match self
            .inner
            .keep(&self.partial, self.file.root, leaf, data, origin)
            .await
        {
            Ok(()) => {
                if let Some(known) = self
                    .origins
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_mut(leaf)
                {
                    *known = origin;
                }
                if self.plan().finish(leaf) {
                    self.changed.send_modify(|p| p.leaves += 1);
                }
            }
            Err(error) => self.end(Err(error)),
        }
    }

    /// Waits until `leaf` is here, or the job is over.
    pub(crate) async fn arrived(&self, leaf: usize) {
        let mut changed = self.changed.subscribe();
        while !self.is_done(leaf) && changed.borrow_and_update().end.is_none() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn end(&self, end: Result<(), FetchError>) {
        self.changed.send_modify(|p| {
            if p.end.is_none() {
                p.end = Some(end);
            }
        });
    }

    async fn finish(&self) -> Result<(), FetchError> {
        let partial = self.partial.clone();
        self.inner
            .blocking(self.file.root, move || partial.finish(Sha256::Compute))
            .await
            .map(drop)
    }
}

/// Where most of what an earlier job brought came from.
fn earlier(partial: &Partial) -> Origin {
    let by = partial.by_origin();
    [
        (by.upstream, Origin::Upstream),
        (by.lan, Origin::Lan),
        (by.peer, Origin::Peer),
    ]
    .into_iter()
    .max_by_key(|(bytes, _)| *bytes)
    .map_or(Origin::Peer, |(_, origin)| origin)
}

/// Reads a file in order while it arrives.
#[derive(Debug)]
pub struct Reader {
    job: Arc<Job>,
}

impl Reader {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        Self { job }
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
        let index = shared
            .file
            .leaves
            .partition_point(|leaf| leaf.offset + leaf.len <= offset);
        let Some(leaf) = shared.file.leaves.get(index) else {
            return Ok(None);
        };
        shared.plan().set_front(index);
        let mut changed = shared.changed.subscribe();
        while !shared.is_done(index) {
            if let Some(Err(error)) = changed.borrow_and_update().end.clone() {
                return Err(error);
            }
            if changed.changed().await.is_err() {
                return Err(FetchError::Stopping);
            }
        }
        let stop = end.min(leaf.offset + leaf.len).min(offset + PIECE);
        let partial = shared.partial.clone();
        let read = move || {
            let mut data = vec![0; (stop - offset) as usize];
            partial.read_at(offset, &mut data).map(|()| data)
        };
        let data = shared.inner.blocking(shared.file.root, read).await?;
        let origin = shared
            .origins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(index)
            .copied();
        Ok(Some((Bytes::from(data), origin.unwrap_or(Origin::Peer))))
    }

    /// Waits until the whole file is on disk under its final name.
    ///
    /// # Errors
    /// Why it never will be.
    pub async fn wait_complete(&mut self) -> Result<(), FetchError> {
        let mut changed = self.job.shared.changed.subscribe();
        loop {
            if let Some(end) = changed.borrow_and_update().end.clone() {
                return end;
            }
            if changed.changed().await.is_err() {
                return Err(FetchError::Stopping);
            }
        }
    }
}
