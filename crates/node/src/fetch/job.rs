//! One file on its way in: its sources, its leaves on disk, its readers.
//!
//! The job owns a [`Partial`] in the store and a [`Plan`]. Each source is a task of its
//! own that picks runs of leaves, brings them, verifies them and writes them. Readers
//! wait until the leaf they stand at is there. The job ends when the file is whole,
//! when nothing new came for [`super::PATIENCE`], or when its last reader is gone.
//!
//! - Invariant: a leaf is marked done only after its bytes were verified and written.
//! - Not here: how a source gets its bytes (`super::peers`, `super::upstreams`).

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::FileDag;
use pacstore_store::{Origin, Partial, Sha256};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::error::StoreError;

use super::plan::{Plan, SourceId};
use super::through::Through;
use super::turns::Tickets;
use super::{AskPeers, FetchError, Inner, PATIENCE, Sources, peers, upstreams};

/// Bytes that a reader hands out at once: 256 KiB.
const PIECE: u64 = 256 << 10;

/// How long a job goes on without a byte when only peers are left to ask and none is connected.
const LONELY: Duration = Duration::from_secs(3);

/// How long a job goes on without a single whole leaf, however bytes drip in.
const NO_LEAF: Duration = Duration::from_mins(1);

/// The end of a leaf is kept back until the next leaf is here, in bytes ...
pub(super) const KEPT_BACK: u64 = 64 << 10;

/// ... but a little of it goes out this often: pacman leaves a connection that is silent
/// for ten seconds (and one byte in two seconds does not count as more).
pub(super) const DRIP: Duration = Duration::from_millis(400);

/// How often a job is looked after.
const LOOK: Duration = Duration::from_millis(250);

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
    /// Its bytes, for readers.
    body: Arc<File>,
    pub(crate) stop: CancellationToken,
    plan: Mutex<Plan>,
    /// Where each leaf came from; those of an earlier job count as from peers.
    origins: Mutex<Vec<Origin>>,
    /// Grows with each leaf and at the end.
    changed: watch::Sender<Progress>,
    /// Wakes sources that found nothing to do.
    given_back: watch::Sender<u64>,
    /// Which peers may be asked.
    pub(crate) ask: AskPeers,
    sources: Sources,
    /// Mirrors and peers that still try.
    alive: AtomicUsize,
    /// When bytes of any kind last came in.
    last_byte: Mutex<Instant>,
    /// When a source of it last waited for its turn on the line.
    held: Mutex<Instant>,
    /// What the last source that gave up said.
    said: Mutex<String>,
    /// A mirror gave other bytes than the tree says.
    wrong: AtomicBool,
    readers: AtomicU64,
    /// Our turns to bring leaves, by leaf.
    pub(crate) tickets: Tickets,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    leaves: usize,
    /// Set once: the file is whole, or why it never will be.
    end: Option<Result<(), FetchError>>,
}

impl Job {
    /// Starts the tasks that bring `file` in, and gives the reader that begins at `offset`.
    pub(crate) async fn start(
        inner: &Arc<Inner>,
        file: FileDag,
        sources: &Sources,
        offset: u64,
    ) -> Result<Reader, FetchError> {
        let root = file.root;
        let store = inner.store.clone();
        let layout = file.clone();
        let begin = move || -> Result<_, StoreError> {
            let partial = store.begin_partial(&layout)?;
            // Its leaves are verified; the digest of the whole is learned when nobody waits.
            partial.leave_unhashed();
            let body = Arc::new(partial.file()?);
            Ok((partial, body))
        };
        let (partial, body) = inner.blocking(root, begin).await?;
        let have: Vec<bool> = (0..file.leaves.len()).map(|leaf| partial.has(leaf)).collect();
        let ask_peers = sources.peers != AskPeers::Nobody && inner.net.is_some();
        let count = usize::from(ask_peers) + sources.upstreams.len().min(upstreams::AT_ONCE);
        let stop = inner.tasks.stop().child_token();
        let mut plan = Plan::new(&have, count);
        // Sources must not begin elsewhere before the reader says where it stands.
        plan.set_front(0, leaf_at(&file, offset));
        let shared = Arc::new(Shared {
            inner: Arc::clone(inner),
            plan: Mutex::new(plan),
            origins: Mutex::new(vec![earlier(&partial); have.len()]),
            file: Arc::new(file),
            partial,
            body,
            stop: stop.clone(),
            changed: watch::Sender::new(Progress::default()),
            given_back: watch::Sender::new(0),
            ask: sources.peers,
            sources: sources.clone(),
            alive: AtomicUsize::new(count),
            last_byte: Mutex::new(Instant::now()),
            held: Mutex::new(Instant::now()),
            said: Mutex::new("neither peers nor upstreams to ask".to_owned()),
            wrong: AtomicBool::new(false),
            readers: AtomicU64::new(1),
            tickets: Tickets::default(),
        });
        let mut source = 0;
        if ask_peers {
            inner
                .tasks
                .spawn("fetch/peers", peers::run(Arc::clone(&shared), source));
            source += 1;
        }
        if !sources.upstreams.is_empty() {
            for worker in 0..sources.upstreams.len().min(upstreams::AT_ONCE) {
                let mut urls = sources.upstreams.clone();
                urls.rotate_left(worker);
                let of_mirror = Arc::clone(&shared);
                inner.tasks.spawn("fetch/upstream", async move {
                    upstreams::run(Arc::clone(&of_mirror), source, urls).await;
                    of_mirror.source_ended();
                });
                source += 1;
            }
        }
        inner.tasks.spawn("fetch/job", watch_over(Arc::clone(&shared)));
        inner.active.fetch_add(1, Ordering::Relaxed);
        let job = Arc::new(Self {
            shared,
            _stop: stop.drop_guard(),
        });
        Ok(Reader { job, number: 0 })
    }

    /// Whole, failed or stopped: joining it makes no sense.
    pub(crate) fn over(&self) -> bool {
        self.shared.stop.is_cancelled() || self.shared.changed.borrow().end.is_some()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.shared.inner.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for the end of the job, finishes the file or says why not.
async fn watch_over(shared: Arc<Shared>) {
    let mut seen = shared.changed.subscribe();
    let mut last_leaf = Instant::now();
    let mut leaves = 0;
    let end = loop {
        // Looked at before the stop: a reader that has all it wanted may be gone already.
        if shared.plan().complete() {
            break shared.finish().await;
        }
        let now = seen.borrow_and_update().clone();
        if let Some(Err(error)) = now.end {
            break Err(error);
        }
        if now.leaves != leaves {
            (leaves, last_leaf) = (now.leaves, Instant::now());
        }
        if shared.stop.is_cancelled() {
            break Err(FetchError::Stopping);
        }
        if let Some(why) = shared.hopeless(last_leaf) {
            break Err(shared.failure(why));
        }
        tokio::select! {
            () = shared.stop.cancelled() => {}
            changed = seen.changed() => if changed.is_err() { break Err(FetchError::Stopping) },
            () = tokio::time::sleep(LOOK) => {}
        }
    };
    match &end {
        Ok(()) => debug!(cid = %shared.file.root, bytes = shared.file.len, "fetched"),
        Err(FetchError::Stopping) => debug!(cid = %shared.file.root, "fetch stopped; what came is kept"),
        Err(error) => {
            warn!(cid = %shared.file.root, error = error as &dyn std::error::Error, "fetch failed; what came is kept");
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
        let mut plan = self.plan();
        plan.give_back(leaf, source);
        // Another source may still bring it: neighbours go on waiting for that one.
        if !plan.is_flying(leaf) {
            self.tickets.give_up(leaf);
        }
        drop(plan);
        self.given_back.send_modify(|n| *n += 1);
    }

    /// Bytes of `leaf` are coming in.
    pub(crate) fn progressed(&self, leaf: usize) {
        self.heard();
        self.plan().progressed(leaf, Instant::now());
    }

    /// Nobody is late with `leaf`: see [`Plan::asked_now`].
    pub(crate) fn asked_now(&self, leaf: usize) {
        self.heard();
        self.plan().asked_now(leaf, Instant::now());
    }

    /// Bytes of what `source` was asked for come in; of which leaf is not known.
    pub(crate) fn moves(&self, source: SourceId) {
        self.heard();
        self.plan().moves(source, Instant::now());
        self.inner.line.peers_move(&self.file.root);
    }

    /// `source` was asked for `leaf` because another one was late.
    pub(crate) fn is_second(&self, leaf: usize, source: SourceId) -> bool {
        self.plan().is_second(leaf, source)
    }

    /// A source waits for its turn: that is no silence, as long as the line brings anything.
    pub(crate) fn held(&self) {
        if self.inner.line.quiet() < PATIENCE {
            self.heard();
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    /// `source` brought `bytes` in `busy`.
    pub(crate) fn measured(&self, source: SourceId, bytes: u64, busy: Duration) {
        self.plan().measured(source, bytes, busy);
    }

    /// Bytes a second of `source`, 0 while unknown.
    pub(crate) fn rate(&self, source: SourceId) -> f64 {
        self.plan().rate(source)
    }

    /// This job's part of `most` leaves in flight: less the more jobs there are.
    pub(crate) fn window(&self, most: usize) -> usize {
        let jobs = self.inner.active.load(Ordering::Relaxed).max(1);
        (super::ALL_WINDOWS / jobs).clamp(2, most)
    }

    /// Bytes of the longest leaf.
    pub(crate) fn largest_leaf(&self) -> u64 {
        self.file
            .leaves
            .iter()
            .take(2)
            .map(|leaf| leaf.len)
            .max()
            .unwrap_or(0)
    }

    /// Bytes came in from somebody.
    pub(crate) fn heard(&self) {
        *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A source gave up because of `why`.
    pub(crate) fn gave_up(&self, why: String, wrong: bool) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.wrong.fetch_or(wrong, Ordering::Relaxed);
    }

    fn source_ended(&self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
        self.changed.send_modify(|_| ());
    }

    /// Why the file will not come, if that is so.
    fn hopeless(&self, last_leaf: Instant) -> Option<String> {
        let said = || self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let alive = self.alive.load(Ordering::Relaxed);
        if alive == 0 {
            return Some(said());
        }
        let quiet = self
            .last_byte
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed();
        let asks_peers = self.ask != AskPeers::Nobody && self.inner.net.is_some();
        if asks_peers && alive == 1 && LONELY < quiet && peers::nobody(&self.inner, self.ask) {
            return Some(format!("no peer is connected; before that: {}", said()));
        }
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if PATIENCE < quiet || NO_LEAF < last_leaf.max(held).elapsed() {
            return Some(format!("no new bytes for {} s", quiet.as_secs()));
        }
        None
    }

    fn failure(&self, why: String) -> FetchError {
        let cid = self.file.root;
        if self.wrong.load(Ordering::Relaxed) {
            FetchError::Wrong { cid, why }
        } else {
            FetchError::NoSource { cid, why }
        }
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
        self.heard();
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
                self.tickets.done(leaf);
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
        let finished = self
            .inner
            .blocking(self.file.root, move || partial.finish(Sha256::Skip))
            .await;
        self.inner.came.notify_one();
        finished.map(drop)
    }
}

/// The leaf that holds the byte at `offset`.
pub(super) fn leaf_at(file: &FileDag, offset: u64) -> usize {
    file.leaves
        .partition_point(|leaf| leaf.offset + leaf.len <= offset)
}

/// Bytes that go out of the `left` ones that are kept back: they last for minutes.
pub(super) fn drip(left: u64) -> u64 {
    (left / 128).max(16).min(left)
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
    number: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.job.shared.plan().leave(self.number);
    }
}

impl Reader {
    pub(crate) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    pub(crate) fn new(job: Arc<Job>) -> Self {
        let number = job.shared.readers.fetch_add(1, Ordering::Relaxed);
        Self { job, number }
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
        shared.plan().set_front(self.number, index);
        let mut changed = shared.changed.subscribe();
        while !shared.is_done(index) {
            if let Some(Err(error)) = changed.borrow_and_update().end.clone() {
                return Err(error);
            }
            if changed.changed().await.is_err() {
                return Err(FetchError::Stopping);
            }
        }
        let stop = self.paced(index, offset, end).await;
        let inner = &shared.inner;
        let read = crate::read::stored(
            &inner.tasks,
            &inner.pieces,
            &shared.body,
            shared.file.root,
            offset,
            stop,
        );
        let data = read.await?;
        let origin = shared
            .origins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(index)
            .copied();
        Ok(Some((data, origin.unwrap_or(Origin::Peer))))
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
