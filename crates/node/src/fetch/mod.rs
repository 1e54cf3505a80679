//! Getting a file: one job a file, all sources at once, every leaf verified alone.
//!
//! [`Fetcher::open`] joins the job that is already under way for a root or starts one.
//! Readers stream what is verified while the rest arrives; when the last reader goes,
//! the job stops and what is verified stays on disk, so that a later job goes on there.
//!
//! - Invariant: no byte reaches a reader that was not verified against its leaf's CID.
//! - Invariant: the bytes in flight of all jobs together stay under one budget.
//! - Not here: which paths there are (`crate::mirror`), what pacman is told (`pacstore-http`).
//! - Read first: `docs/design/fetch.md`.

mod bad;
mod balance;
mod error;
mod fresh;
mod givers;
mod hedge;
mod here;
mod job;
mod keep;
mod line;
mod peers;
mod plan;
mod queue;
mod reader;
mod small;
mod through;
mod turns;
mod unkept;
mod upstreams;
mod whole;

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::{self as dag, FileDag};
use pacstore_net::Net;
use pacstore_runtime::{Buffers, ByteBudget, Tasks};
use pacstore_store::{FileInfo, OpenFile, Origin, Partial, Store};
use pacstore_upstream::Http;
use tokio::sync::Notify;
use url::Url;

use crate::error::StoreError;
use crate::neighbours::Neighbours;

use balance::Balance;
pub use error::FetchError;
use job::Job;
use line::{FirstByte, Line};
pub use reader::Reader;
pub(crate) use small::InFlight;
pub use through::Through;

/// Bytes of leaves that all jobs together may have in flight: 24 MiB.
const IN_FLIGHT: u64 = 24 << 20;

/// Leaves that all jobs together ask of peers, as long as each gets a few.
pub(crate) const ALL_WINDOWS: usize = 20;

/// How long a job goes on without a single new leaf before it gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

/// How long peers may take to tell a file's DAG where mirrors could give it whole.
const DESCRIBE: Duration = Duration::from_millis(2500);

/// How long a file waits for room under the cap while others arrive. After that it is
/// given without being kept.
const ROOM: Duration = Duration::from_secs(3);

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(200);

/// Which peers may learn that something is wanted, and give it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AskPeers {
    /// None.
    #[default]
    Nobody,
    /// Those of `[swarm] peers`: it belongs to a private mirror.
    Friends,
    /// All that are connected.
    Everyone,
}

/// Where a file may come from beside this disk.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's length in bytes where the directory tells it (raw roots).
    pub len: Option<u64>,
    /// The profile by which the tree was made, if known.
    pub profile: Option<String>,
    /// Which peers are asked too.
    pub peers: AskPeers,
    /// The file's URLs on ordinary mirrors, best first.
    pub upstreams: Vec<Url>,
}

/// Whether a file must be kept to be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// It is fetched to be kept.
    Must,
    /// It is fetched to be given.
    IfPossible,
}

/// All jobs of a node.
#[derive(Clone, Debug)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    store: Store,
    net: Option<Net>,
    neighbours: Neighbours,
    http: Http,
    tasks: Tasks,
    buffers: Buffers,
    /// A file of several leaves became whole.
    came: Notify,
    budget: ByteBudget,
    /// Leaves that came in and may go out from memory.
    fresh: ByteBudget,
    line: Line,
    /// Leaves of files that cannot be kept.
    passing: ByteBudget,
    unkept: unkept::Unkept,
    balance: Balance,
    bad: bad::Bad,
    givers: givers::Givers,
    jobs: Mutex<HashMap<Cid, Weak<Job>>>,
    small: InFlight<Small>,
    written: keep::Written,
    room: small::Room,
    whole: InFlight<()>,
    nodes: InFlight<Bytes>,
    /// Jobs under way.
    active: AtomicUsize,
    starting: tokio::sync::Mutex<()>,
}

/// A file to read: on disk already, or on its way.
#[derive(Debug)]
pub enum Opened {
    /// Whole and on disk.
    Stored(Arc<OpenFile>),
    /// Being fetched; read through this.
    Arriving(Reader),
    /// One leaf that just came in, verified; it is being kept.
    Small(Small),
    /// It cannot be kept; read through this.
    Through(Box<Through>),
}

/// A file of one leaf that just came in. It may not be on disk yet.
#[derive(Clone, Debug)]
pub struct Small {
    /// Its bytes.
    pub data: Bytes,
    /// Where they came from.
    pub origin: Origin,
    /// How keeping it ended, once it has.
    kept: keep::Kept,
}

impl Opened {
    /// The file's length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Stored(file) => file.info.len,
            Self::Arriving(reader) => reader.len(),
            Self::Small(small) => small.data.len() as u64,
            Self::Through(through) => through.len(),
        }
    }

    /// The file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Fetcher {
    /// A fetcher over `store`; without `net` only upstreams are asked.
    pub(crate) fn new(store: Store, net: Option<Net>, http: Http, tasks: Tasks, buffers: Buffers) -> Self {
        let inner = Inner {
            store,
            neighbours: Neighbours::new(net.clone()),
            net,
            http,
            tasks,
            buffers,
            came: Notify::new(),
            budget: ByteBudget::new(IN_FLIGHT),
            fresh: ByteBudget::new(fresh::ROOM),
            line: Line::default(),
            passing: ByteBudget::new(through::PASSING),
            unkept: unkept::Unkept::default(),
            balance: Balance::default(),
            bad: bad::Bad::default(),
            givers: givers::Givers::default(),
            jobs: Mutex::new(HashMap::new()),
            small: InFlight::default(),
            written: keep::Written::default(),
            room: small::Room::default(),
            whole: InFlight::default(),
            nodes: InFlight::default(),
            active: AtomicUsize::new(0),
            starting: tokio::sync::Mutex::new(()),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Opens the file `root`, from disk or by a job that asks `sources`.
    ///
    /// # Errors
    /// [`FetchError`] if its DAG cannot be had or it cannot be kept.
    pub async fn open(&self, root: &Cid, sources: &Sources) -> Result<Opened, FetchError> {
        self.open_to(root, sources, 0, Keep::Must).await
    }

    /// The same for a reader that begins at `offset`: what is there comes first. A file that
    /// cannot be kept is given all the same.
    ///
    /// # Errors
    /// [`FetchError`] if its DAG cannot be had, or nobody gives it.
    pub async fn open_at(&self, root: &Cid, sources: &Sources, offset: u64) -> Result<Opened, FetchError> {
        self.open_to(root, sources, offset, Keep::IfPossible).await
    }

    async fn open_to(
        &self,
        root: &Cid,
        sources: &Sources,
        offset: u64,
        keep: Keep,
    ) -> Result<Opened, FetchError> {
        if let Some(file) = self.stored(root).await? {
            return Ok(Opened::Stored(file));
        }
        if let Some(job) = self.running(root) {
            return Ok(Opened::Arriving(Reader::new(job)));
        }
        let is_block = |len: u64| len <= dag::MAX_BLOCK as u64;
        if root.codec() == dag::RAW && sources.len.is_some_and(is_block) {
            let data = small::fetch(&self.inner, root, sources).await?;
            return Ok(Opened::Small(data));
        }
        let described = self.describe(root, sources);
        let file = if sources.upstreams.is_empty() {
            described.await?
        } else {
            // Peers that do not answer must leave time for the mirrors.
            match tokio::time::timeout(DESCRIBE, described).await {
                Ok(Ok(file)) => file,
                Ok(Err(error)) => return whole::fetch(&self.inner, root, sources, error).await,
                Err(_) => {
                    let why = "no peer told its DAG in time".to_owned();
                    let error = FetchError::NoSource { cid: *root, why };
                    return whole::fetch(&self.inner, root, sources, error).await;
                }
            }
        };
        let until = Instant::now() + ROOM;
        loop {
            match self.start(root, &file, sources, offset).await {
                // Files on their way, or just being put in their place, take the room; after that
                // they can be evicted.
                Err(error) if error.is_for_room() && Instant::now() < until => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) if error.is_about_keeping() && keep == Keep::IfPossible => {
                    self.inner.unkept.note(root, &error);
                    let through = Through::new(&self.inner, Arc::new(file), sources.clone())?;
                    return Ok(Opened::Through(Box::new(through)));
                }
                started => return started,
            }
        }
    }

    /// Joins or starts the job for `file`.
    async fn start(
        &self,
        root: &Cid,
        file: &FileDag,
        sources: &Sources,
        offset: u64,
    ) -> Result<Opened, FetchError> {
        let _one = self.inner.starting.lock().await;
        if let Some(job) = self.running(root) {
            return Ok(Opened::Arriving(Reader::new(job)));
        }
        // Finished between the two looks.
        if let Some(stored) = self.stored(root).await? {
            return Ok(Opened::Stored(stored));
        }
        let file = file.clone();
        let reader = Job::start(&self.inner, file, sources, offset).await?;
        let mut jobs = self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, job| job.strong_count() > 0);
        jobs.insert(*root, Arc::downgrade(reader.job()));
        drop(jobs);
        Ok(Opened::Arriving(reader))
    }

    /// Somebody waits for the first byte of `root`, which is at `offset` of `len`. None if it
    /// is at hand.
    pub(crate) fn first_byte(&self, root: &Cid, len: u64, offset: u64) -> Option<FirstByte> {
        if self.inner.store.opened(root).is_some() {
            return None;
        }
        let leaf = len.saturating_sub(offset).min(dag::MAX_BLOCK as u64 / 2);
        Some(self.inner.line.wait_for(*root, leaf))
    }

    /// Whether pacman may be sent to `url` for `root`: not if it just stalled, broke off or
    /// gave other bytes.
    pub(crate) fn may_lead_to(&self, root: &Cid, url: &Url) -> bool {
        !self.inner.bad.is(root, url)
    }

    /// `url` gave nothing of `root`, or other bytes.
    pub(crate) fn do_not_lead_to(&self, root: &Cid, url: &Url) {
        self.inner.bad.note(root, url);
    }

    /// Who brought `root` lately.
    pub(crate) fn givers(&self, root: &Cid) -> Vec<crate::receipts::Giver> {
        self.inner.givers.of(root)
    }

    /// A mirror brought `bytes` of `root`, checked.
    pub(crate) fn came_from(&self, root: &Cid, mirror: &Url, bytes: u64) {
        self.inner.givers.mirror(root, mirror, bytes);
    }

    /// Fetches the whole file and waits until it is on disk.
    ///
    /// # Errors
    /// As [`Fetcher::open`], and what stops it half-way.
    pub async fn take(&self, root: &Cid, sources: &Sources) -> Result<FileInfo, FetchError> {
        match self.open(root, sources).await? {
            Opened::Stored(file) => return Ok(file.info.clone()),
            Opened::Arriving(mut reader) => reader.wait_complete().await?,
            Opened::Small(small) => small.kept().await?,
            // Only for those that open a file to give it.
            Opened::Through(_) => {}
        }
        let file = self.stored(root).await?;
        file.map(|f| f.info.clone()).ok_or(FetchError::NoSource {
            cid: *root,
            why: "evicted at once".into(),
        })
    }

    /// The raw block `root`, of which nothing tells the length, as the file that it is.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] if it is not here, and no connected peer has it.
    pub(crate) async fn raw(&self, root: &Cid, peers: AskPeers) -> Result<Small, FetchError> {
        let sources = Sources {
            peers,
            ..Sources::default()
        };
        small::fetch(&self.inner, root, &sources).await
    }

    /// One block, from disk or from peers, kept in the node table.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] if no connected peer has it.
    pub async fn block(&self, cid: &Cid, ask: AskPeers) -> Result<Bytes, FetchError> {
        let store = self.inner.store.clone();
        let wanted = *cid;
        let here = self.inner.blocking(*cid, move || store.block(&wanted)).await?;
        match here {
            Some(data) => Ok(data),
            None => peers::nodes(&self.inner, &[*cid], ask)
                .await
                .map(|mut blocks| blocks.remove(0).data),
        }
    }

    /// Fetches `cids` as inner nodes and keeps them; those that are here are skipped by the caller.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] names the first that no peer gives.
    pub async fn nodes(&self, cids: &[Cid], ask: AskPeers) -> Result<Vec<dag::Block>, FetchError> {
        peers::nodes(&self.inner, cids, ask).await
    }

    /// Waits until a file of several leaves has come in whole; its SHA-256 is not known yet.
    pub(crate) async fn whole_file_came(&self) {
        self.inner.came.notified().await;
    }

    /// Connected peers that may be asked.
    pub(crate) fn askable(&self, ask: AskPeers) -> Vec<pacstore_net::PeerId> {
        peers::may_be_asked(&self.inner, ask)
    }

    /// Those who share downloads with us.
    pub(crate) fn neighbours(&self) -> &Neighbours {
        &self.inner.neighbours
    }

    /// Jobs under way.
    pub fn active(&self) -> usize {
        let jobs = self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.values().filter(|job| job.strong_count() > 0).count()
    }

    fn running(&self, root: &Cid) -> Option<Arc<Job>> {
        let jobs = self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(root).and_then(Weak::upgrade).filter(|job| !job.over())
    }

    /// The file if it is on disk. One that was opened lately needs no other thread, nor does one that is not here.
    async fn stored(&self, root: &Cid) -> Result<Option<Arc<OpenFile>>, FetchError> {
        if let Some(file) = self.inner.store.opened(root) {
            return Ok(Some(file));
        }
        if !here::may_be_file(&self.inner, root) {
            return Ok(None);
        }
        let store = self.inner.store.clone();
        let wanted = *root;
        self.inner
            .blocking(*root, move || crate::read::open_shared(&store, &wanted))
            .await
    }

    /// The file's layout: from its CID alone where it is one raw leaf, else from its
    /// inner nodes, which are fetched from peers where they are not here.
    async fn describe(&self, root: &Cid, sources: &Sources) -> Result<FileDag, FetchError> {
        // Depth of a file DAG is small; each turn fetches one level.
        for _ in 0..=dag::MAX_FILE_DEPTH {
            let store = self.inner.store.clone();
            let wanted = *root;
            let found = self
                .inner
                .tasks
                .blocking(pacstore_runtime::Pool::Disk, move || {
                    dag::describe(&wanted, &store)
                })
                .await
                .map_err(|_| FetchError::Stopping)?;
            match found {
                Ok(file) => return Ok(file),
                Err(dag::ReadError::Missing(cids))
                    if sources.peers != AskPeers::Nobody && self.inner.net.is_some() =>
                {
                    if cids.iter().any(|cid| cid.codec() == dag::RAW) {
                        let leaf = self.raw_leaf(root, sources).await?;
                        return Ok(leaf);
                    }
                    peers::nodes(&self.inner, &cids, sources.peers).await?;
                }
                Err(dag::ReadError::Missing(cids)) => {
                    if cids.contains(root) && root.codec() == dag::RAW {
                        return self.raw_leaf(root, sources).await;
                    }
                    return Err(FetchError::NoSource {
                        cid: *root,
                        why: "no peer to ask for its DAG".into(),
                    });
                }
                Err(source) => {
                    return Err(FetchError::Dag {
                        cid: *root,
                        source: Arc::new(source),
                    });
                }
            }
        }
        Err(FetchError::NoSource {
            cid: *root,
            why: "its DAG is too deep".into(),
        })
    }

    /// A raw root whose length nobody told us: the block itself tells it.
    async fn raw_leaf(&self, root: &Cid, sources: &Sources) -> Result<FileDag, FetchError> {
        let small = self.raw(root, sources.peers).await?;
        small.kept().await?;
        Ok(one_leaf(root, small.data.len() as u64))
    }
}

/// The layout of a file that is one raw leaf of `len` bytes.
pub fn one_leaf(root: &Cid, len: u64) -> FileDag {
    let leaf = dag::Leaf {
        cid: *root,
        offset: 0,
        len,
    };
    FileDag {
        root: *root,
        len,
        tsize: len,
        leaves: vec![leaf],
        nodes: Vec::new(),
    }
}

impl Inner {
    /// Runs a store call on the disk pool.
    async fn blocking<T: Send + 'static, E: Into<StoreError> + Send + 'static>(
        &self,
        cid: Cid,
        call: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, FetchError> {
        match self.tasks.blocking(pacstore_runtime::Pool::Disk, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(FetchError::Store {
                cid,
                source: Arc::new(source.into()),
            }),
            Err(_) => Err(FetchError::Stopping),
        }
    }

    /// Under which origin bytes from `peer` are booked.
    fn origin(&self, peer: &pacstore_net::PeerId) -> Origin {
        let info = self.net.as_ref().and_then(|net| net.peer(peer));
        if info.is_some_and(|info| info.lan) {
            Origin::Lan
        } else {
            Origin::Peer
        }
    }

    /// Writes a verified leaf and books it.
    async fn keep(
        &self,
        partial: &Partial,
        cid: Cid,
        leaf: usize,
        data: Bytes,
        origin: Origin,
    ) -> Result<(), FetchError> {
        let partial = partial.clone();
        self.blocking(cid, move || partial.write_leaf(leaf, &data, origin))
            .await
    }
}
