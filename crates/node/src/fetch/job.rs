//! One file on its way in: its sources, its leaves on disk, its readers.
//!
//! The job owns a [`Partial`] in the store and a [`Plan`]. Each source is a task of its
//! own that picks runs of leaves, brings them, verifies them and writes them. Readers
//! wait until the leaf they stand at is there. The job ends when the file is whole,
//! when nothing new came for [`super::PATIENCE`], or when its last reader is gone.
//!
//! - Invariant: a leaf is marked done only after its bytes were verified and written.
//! - Not here: what a reader sees (`super::reader`), how a source gets its bytes (`super::peers`, `super::upstreams`).

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pacstore_dag::{FileDag, ReadError};
use pacstore_store::{Origin, Partial, Sha256};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};
use url::Url;

use crate::error::StoreError;

use super::fresh::Fresh;
use super::here::{self, Same};
use super::plan::{Plan, SourceId};
use super::reader::{Reader, leaf_at};
use super::turns::Tickets;
use super::{AskPeers, FetchError, Inner, PATIENCE, Sources, balance, peers, upstreams};

/// How long a job goes on without a byte when only peers are left to ask and none is connected.
const LONELY: Duration = Duration::from_secs(3);

/// How long a job goes on without a single whole leaf, however bytes drip in.
const NO_LEAF: Duration = Duration::from_mins(1);

/// How often a job is looked after.
const LOOK: Duration = Duration::from_millis(250);

/// One file on its way in. Dropped with its last reader.
#[derive(Debug)]
pub(crate) struct Job {
    pub(super) shared: Arc<Shared>,
    _stop: DropGuard,
}

/// What the job's readers and sources share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) inner: Arc<Inner>,
    pub(crate) file: Arc<FileDag>,
    pub(crate) partial: Partial,
    /// Its bytes, for readers.
    pub(super) body: Arc<File>,
    /// Those of them that just came.
    pub(super) fresh: Fresh,
    pub(crate) stop: CancellationToken,
    plan: Mutex<Plan>,
    /// Where each leaf came from; those of an earlier job count as from peers.
    origins: Mutex<Vec<Origin>>,
    same: Same,
    /// Grows with each leaf and at the end.
    changed: watch::Sender<Progress>,
    /// Wakes sources that found nothing to do.
    given_back: watch::Sender<u64>,
    /// Which peers may be asked.
    pub(crate) ask: AskPeers,
    pub(super) sources: Sources,
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
    /// See [`Shared::comes_in_one_piece`].
    in_one_piece: AtomicBool,
    /// What was asked of peers last did not come.
    peers_failed: AtomicBool,
    readers: AtomicU64,
    /// Some reader reads while the rest arrives.
    read_on: AtomicBool,
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
            for (leaf, data) in here::in_nodes(&layout) {
                // Peers gave its nodes, now or before a restart.
                partial.write_leaf(leaf, &data, Origin::Peer)?;
            }
            let body = Arc::new(partial.file()?);
            Ok((partial, body))
        };
        let (partial, body) = inner.blocking(root, begin).await?;
        let have: Vec<bool> = (0..file.leaves.len()).map(|leaf| partial.has(leaf)).collect();
        let ask_peers = sources.peers != AskPeers::Nobody && inner.net.is_some();
        let workers = upstreams::workers(inner.http.mirrors(), &sources.upstreams);
        let count = usize::from(ask_peers) + workers;
        let stop = inner.tasks.stop().child_token();
        let mut plan = Plan::new(&have, count);
        // Sources must not begin elsewhere before the reader says where it stands.
        plan.set_front(0, leaf_at(&file, offset));
        let shared = Arc::new(Shared {
            inner: Arc::clone(inner),
            plan: Mutex::new(plan),
            origins: Mutex::new(vec![earlier(&partial); have.len()]),
            same: Same::of(&file),
            file: Arc::new(file),
            partial,
            body,
            fresh: Fresh::default(),
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
            in_one_piece: AtomicBool::new(false),
            peers_failed: AtomicBool::new(false),
            readers: AtomicU64::new(1),
            read_on: AtomicBool::new(false),
            tickets: Tickets::default(),
        });
        let mut source = 0;
        if ask_peers {
            inner
                .tasks
                .spawn("fetch/peers", peers::run(Arc::clone(&shared), source));
            source += 1;
        }
        for worker in 0..workers {
            let mut urls = sources.upstreams.clone();
            urls.rotate_left(worker);
            let of_mirror = Arc::clone(&shared);
            inner.tasks.spawn("fetch/upstream", async move {
                upstreams::run(Arc::clone(&of_mirror), source, urls).await;
                of_mirror.source_ended();
            });
            source += 1;
        }
        inner.tasks.spawn("fetch/job", watch_over(Arc::clone(&shared)));
        inner.active.fetch_add(1, Ordering::Relaxed);
        let job = Arc::new(Self {
            shared,
            _stop: stop.drop_guard(),
        });
        Ok(Reader::first(job))
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

    /// No source but the one that asks is there, or no byte came from anybody for longer than `quiet`.
    pub(crate) fn is_alone(&self, quiet: Duration) -> bool {
        let asks_peers = self.ask != AskPeers::Nobody && self.inner.net.is_some();
        let no_peer = asks_peers && peers::nobody(&self.inner, self.ask);
        self.alive.load(Ordering::Relaxed) <= 1 + usize::from(no_peer) || quiet < self.quiet()
    }

    /// A mirror gives the file in one piece only, and too little of that is wanted: the reader goes there sooner.
    pub(crate) fn comes_in_one_piece(&self) {
        self.in_one_piece.store(true, Ordering::Relaxed);
    }

    /// Whether the peers gave what was asked of them last.
    pub(crate) fn peers_give(&self, give: bool) {
        self.peers_failed.store(!give, Ordering::Relaxed);
    }

    /// Whether the next leaf had better be left to the peers than asked of the mirror `url`: they would be sooner, and have
    /// not failed in this file.
    pub(crate) fn is_better_from_peers(&self, url: &Url) -> bool {
        if self.ask == AskPeers::Nobody || self.peers_failed.load(Ordering::Relaxed) {
            return false;
        }
        let peers = peers::may_be_asked(&self.inner, self.ask);
        !peers.is_empty() && balance::are_peers_sooner(&self.inner, &peers, url, self.largest_leaf())
    }

    /// Since when no byte came from anybody.
    fn quiet(&self) -> Duration {
        let last = self.last_byte.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
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
        let quiet = self.quiet();
        let asks_peers = self.ask != AskPeers::Nobody && self.inner.net.is_some();
        let lonely = LONELY < quiet || self.in_one_piece.load(Ordering::Relaxed);
        if asks_peers && alive == 1 && lonely && peers::nobody(&self.inner, self.ask) {
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

    /// Writes a verified leaf, wherever it stands in the file, and tells the readers.
    pub(crate) async fn keep(&self, leaf: usize, data: Bytes, origin: Origin) {
        self.heard();
        self.keep_at(leaf, &data, origin).await;
        for other in self.same.others(&self.file, leaf) {
            self.keep_at(other, &data, origin).await;
        }
    }

    async fn keep_at(&self, leaf: usize, data: &Bytes, origin: Origin) {
        if self.is_done(leaf) {
            return;
        }
        match self
            .inner
            .keep(&self.partial, self.file.root, leaf, data.clone(), origin)
            .await
        {
            Ok(()) => {
                // Only for a reader that streams: many files are fetched to be kept.
                if self.read_on.load(Ordering::Relaxed) {
                    self.fresh.put(&self.inner.fresh, leaf, data);
                }
                let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
                origins
                    .get_mut(leaf)
                    .into_iter()
                    .for_each(|known| *known = origin);
                drop(origins);
                self.tickets.done(leaf);
                if self.plan().finish(leaf) {
                    self.changed.send_modify(|p| p.leaves += 1);
                }
            }
            Err(error) => self.end(Err(error)),
        }
    }

    /// The block of `leaf` is right, and has not the bytes that the file's nodes promise: nobody can give this file.
    pub(crate) fn is_contradicted_by(&self, leaf: usize) {
        let cid = self.file.leaves.get(leaf).map_or(self.file.root, |leaf| leaf.cid);
        let what = "this leaf is not as long as its file says";
        self.end(Err(FetchError::Dag {
            cid: self.file.root,
            source: Arc::new(ReadError::Malformed { cid, what }),
        }));
    }

    /// Another reader: its number.
    pub(super) fn new_reader(&self) -> u64 {
        self.readers.fetch_add(1, Ordering::Relaxed)
    }

    /// The reader `number` needs `leaf` next.
    pub(super) fn stands_at(&self, number: u64, leaf: usize) {
        self.plan().set_front(number, leaf);
        self.read_on.store(true, Ordering::Relaxed);
        self.fresh.passed(leaf);
    }

    /// The reader `number` needs nothing any more.
    pub(super) fn leaves(&self, number: u64) {
        self.plan().leave(number);
    }

    /// Where `leaf`, which is here, came from.
    pub(super) fn origin(&self, leaf: usize) -> Origin {
        let origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        origins.get(leaf).copied().unwrap_or(Origin::Peer)
    }

    /// Waits until `leaf` is here.
    pub(super) async fn until_here(&self, leaf: usize) -> Result<(), FetchError> {
        let mut changed = self.changed.subscribe();
        while !self.is_done(leaf) {
            if let Some(Err(error)) = changed.borrow_and_update().end.clone() {
                return Err(error);
            }
            if changed.changed().await.is_err() {
                return Err(FetchError::Stopping);
            }
        }
        Ok(())
    }

    /// Waits until the file is whole or never will be.
    pub(super) async fn ended(&self) -> Result<(), FetchError> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(end) = changed.borrow_and_update().end.clone() {
                return end;
            }
            if changed.changed().await.is_err() {
                return Err(FetchError::Stopping);
            }
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
