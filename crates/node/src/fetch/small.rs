//! Files of one leaf: signatures, databases, small packages. No job, no partial file.
//!
//! Peers are asked first; where there are none or all say that they have it not, or where they have not answered within
//! [`HEAD_START`], an upstream is asked beside them, and who is first wins; where they are so busy that an upstream is sooner
//! (`super::balance`), it is the other way round. Of several upstreams the next is asked where
//! those before fail or are silent. One fetch a file, however many ask: the
//! second waits for the first and takes over if the first goes away.
//!
//! The bytes are given as soon as they are verified; a task puts them on disk meanwhile.
//! Who asks again before they are written gets them from memory, and from the page cache before they are durable.
//!
//! - Invariant: nothing is returned or kept that does not match the CID.
//! - Invariant: the bytes count as in flight until they are written.
//! - Not here: how they are kept (`super::keep`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cid::Cid;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pacstore_bitswap::Session;
use pacstore_dag::{self as dag, FileDag};
use pacstore_runtime::Pool;
use pacstore_store::Origin;
use pacstore_upstream::{Get, HttpError, Observation, Response};
use tokio::sync::{OnceCell, Semaphore, watch};
use tracing::debug;
use url::Url;

use super::hedge::{hedged, mirrors_first};
use super::line::{Go, Host, Turn};
use super::plan::LATE;
use super::{AskPeers, FetchError, Inner, PATIENCE, Small, Sources};
use super::{balance, here, keep, peers, turns, upstreams};

/// How long peers are asked alone.
pub(super) const HEAD_START: Duration = Duration::from_millis(250);

/// How long they are if bytes come, and the line has room for a mirror.
const MOVING_START: Duration = Duration::from_secs(1);

/// How often it is looked whether bytes come.
const LOOK: Duration = Duration::from_millis(100);

/// Files up to here do not wait for their turn on a thin line: 64 KiB.
const TINY: u64 = 64 << 10;

/// Mirrors that are asked for one file at a time, where those asked before are silent.
const MIRRORS_AT_ONCE: usize = 4;

/// How long a mirror may send nothing within the file. Others are asked beside it long before; where there is no other,
/// a second or two of silence on a line that pacman itself fills is no reason to send pacman away with nothing.
const SILENT: Duration = Duration::from_secs(6);

/// How long one source may take in all, while bytes come.
const LONGEST: Duration = Duration::from_mins(2);

/// As which a leaf counts of which nobody told the length: the longest, in bytes.
const UNKNOWN: u64 = dag::MAX_BLOCK as u64;

/// What is said of a mirror whose bytes do not match.
const OTHER_BYTES: &str = " has other bytes than the tree says";

/// Small files that are fetched or wait for the disk, all together.
const AT_ONCE: usize = 256;

/// Of these, how many are put on disk at one time: as many as share one sync. The other
/// threads of the disk pool stay free for reading.
const KEPT_AT_ONCE: usize = 48;

/// How many small files may be under way.
#[derive(Debug)]
pub(crate) struct Room {
    files: Arc<Semaphore>,
    disk: Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            files: Arc::new(Semaphore::new(AT_ONCE)),
            disk: Semaphore::new(KEPT_AT_ONCE),
        }
    }
}

/// Verified bytes.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) data: Bytes,
    pub(crate) origin: Origin,
}

/// One leaf that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The file that it belongs to.
    root: Cid,
    pub(super) cid: Cid,
    /// Its length in bytes; peers alone can be asked for a leaf of which nobody told it.
    pub(super) len: Option<u64>,
    /// Where it lies in the file, unless it is the file.
    range: Option<Range<u64>>,
}

impl Wanted {
    fn file(root: &Cid, len: Option<u64>) -> Self {
        Self {
            root: *root,
            cid: *root,
            len,
            range: None,
        }
    }

    /// The leaf `index` of `file`; an index that it has not is the file's root.
    pub(crate) fn leaf(file: &FileDag, index: usize) -> Self {
        let Some(leaf) = file.leaves.get(index) else {
            return Self::file(&file.root, Some(file.len));
        };
        let range = leaf.offset..leaf.offset + leaf.len;
        Self {
            root: file.root,
            cid: leaf.cid,
            len: Some(leaf.len),
            range: (range != (0..file.len)).then_some(range),
        }
    }
}

/// Fetches under way, by root.
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    cells: Mutex<HashMap<Cid, Weak<OnceCell<T>>>>,
}

impl<T> Default for InFlight<T> {
    fn default() -> Self {
        Self {
            cells: Mutex::default(),
        }
    }
}

impl<T> InFlight<T> {
    /// The place where all who want `root` meet.
    pub(crate) fn cell(&self, root: &Cid) -> Arc<OnceCell<T>> {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(root).and_then(Weak::upgrade) {
            return cell;
        }
        cells.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(OnceCell::new());
        cells.insert(*root, Arc::downgrade(&cell));
        cell
    }
}

/// Fetches the raw leaf `root` and has it kept as a file. Where its length is not told in `sources`, peers are asked alone.
pub(crate) async fn fetch(inner: &Arc<Inner>, root: &Cid, sources: &Sources) -> Result<Small, FetchError> {
    if let Some(Got { data, origin }) = here::carried(root) {
        let (_, kept) = watch::channel(Some(Ok(())));
        return Ok(Small { data, origin, kept });
    }
    let cell = inner.small.cell(root);
    cell.get_or_try_init(|| bring(inner, &cell, root, sources))
        .await
        .cloned()
}

async fn bring(
    inner: &Arc<Inner>,
    cell: &Arc<OnceCell<Small>>,
    root: &Cid,
    sources: &Sources,
) -> Result<Small, FetchError> {
    // Another fetch may have ended between the caller's look at the disk and this one.
    if let Some(small) = inner.written.read(inner, root).await? {
        return Ok(small);
    }
    if let Some(small) = keep::stored(inner, root).await? {
        return Ok(small);
    }
    let files = Arc::clone(&inner.room.files);
    let place = files.acquire_owned().await.map_err(|_| FetchError::Stopping)?;
    let lease = inner.budget.acquire(sources.len.unwrap_or(UNKNOWN)).await;
    let wanted = Wanted::file(root, sources.len);
    let outside = async || found(inner, &wanted, sources).await;
    let (found, ticket) = match sources.len {
        Some(len) => turns::small(inner, root, len, sources, outside).await,
        None => (outside().await, None),
    };
    let got = found.map_err(|why| {
        if why.ends_with(OTHER_BYTES) {
            FetchError::Wrong { cid: *root, why }
        } else {
            FetchError::NoSource { cid: *root, why }
        }
    })?;
    let (ended, kept) = watch::channel(None);
    let small = Small {
        data: got.data,
        origin: got.origin,
        kept,
    };
    let (inner, cell, root, of_task) = (Arc::clone(inner), Arc::clone(cell), *root, small.clone());
    let tasks = inner.tasks.clone();
    tasks.spawn("fetch/keep", async move {
        let turn = inner.room.disk.acquire().await;
        // Until it is written whoever asks finds it in the cell.
        let result = keep::keep(&inner, &root, of_task, (cell, lease)).await;
        inner.written.end(&root);
        drop(turn);
        if let Err(error) = &result {
            inner.unkept.note(&root, error);
        }
        if result.is_ok()
            && let Some(ticket) = ticket
        {
            ticket.done();
        }
        let _ = ended.send(Some(result));
        drop(place);
    });
    Ok(small)
}

/// The leaf from whoever gives it first.
///
/// # Errors
/// What the last source said.
pub(crate) async fn found(inner: &Arc<Inner>, wanted: &Wanted, sources: &Sources) -> Result<Got, String> {
    if let Some(got) = here::leaf(inner, wanted).await {
        return Ok(got);
    }
    let ask_peers = sources.peers != AskPeers::Nobody && inner.net.is_some();
    let Some(len) = wanted.len else {
        let session = peers::session(inner, sources.peers).filter(|_| ask_peers);
        return from_peers(inner, wanted, (sources.peers, session.as_ref())).await;
    };
    match (ask_peers, sources.upstreams.is_empty()) {
        (false, true) => Err("neither peers nor upstreams to ask".to_owned()),
        (true, true) => {
            let session = peers::session(inner, sources.peers);
            from_peers(inner, wanted, (sources.peers, session.as_ref())).await
        }
        (false, false) => from_upstreams(inner, (wanted, len), &sources.upstreams).await,
        (true, false) => {
            let session = peers::session(inner, sources.peers);
            let session = session.as_ref();
            let peers = from_peers(inner, wanted, (sources.peers, session));
            let mirrors = from_upstreams(inner, (wanted, len), &sources.upstreams);
            if session.is_some_and(|of| balance::is_mirror_sooner(inner, of, &sources.upstreams, len)) {
                return mirrors_first(mirrors, tokio::time::sleep(LATE), peers).await;
            }
            hedged(peers, peers_are_late(inner, session, &sources.upstreams), mirrors).await
        }
    }
}

/// Returns once a mirror should be asked too: there are no peers, or they are silent, or slower than need be.
async fn peers_are_late(inner: &Inner, session: Option<&Session>, mirrors: &[Url]) {
    let Some(session) = session.filter(|session| !session.peers().is_empty()) else {
        return;
    };
    tokio::time::sleep(HEAD_START).await;
    let began = Instant::now();
    loop {
        let moving = peers::last_byte(session).is_some_and(|last| last.elapsed() < LATE);
        if !moving || (MOVING_START < began.elapsed() && balance::may_mirrors_help(inner, mirrors)) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn from_peers(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    (ask, session): (AskPeers, Option<&Session>),
) -> Result<Got, String> {
    let session = session.ok_or("no network")?;
    let (root, len) = (&wanted.root, wanted.len.unwrap_or(UNKNOWN));
    let host = Host::Peers(session.peers().len());
    let turn = (TINY < len).then(|| inner.line.turn(*root, host));
    if let Some(turn) = &turn {
        turn.begin();
    }
    let _under_way = inner.balance.of_peers(len);
    let asked = Instant::now();
    let got = peers::with_newcomers(inner, session, ask, session.get(wanted.cid));
    let got = tokio::select! {
        got = got => got.map_err(|error| error.to_string())?,
        () = silence(inner, root, session) => return Err("no peer answered in time".to_owned()),
    };
    if let Some(turn) = &turn {
        turn.came(len, asked);
    }
    // A leaf of old DAGs holds the file's bytes inside.
    let data = dag::leaf_data(&wanted.cid, &got.data).map_err(|error| error.to_string())?;
    let found = data.len() as u64;
    if wanted.len.is_some_and(|len| len != found) {
        return Err(format!("it has {found} bytes, not {len} as its DAG says"));
    }
    let origin = inner.origin(&got.from);
    inner.givers.peer(root, &got.from, origin, found);
    Ok(Got { data, origin })
}

/// Returns once no byte came for too long, or it takes for ever.
async fn silence(inner: &Inner, root: &Cid, session: &Session) {
    let began = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let last = peers::last_byte(session).map_or(began, |last| last.max(began));
        if PATIENCE < last.elapsed() || LONGEST < began.elapsed() {
            return;
        }
        if last.elapsed() < LATE {
            inner.line.peers_move(root);
        }
    }
}

/// From the best mirror that gives it: the next one is asked where one fails, and beside it where one is silent.
async fn from_upstreams(
    inner: &Arc<Inner>,
    (wanted, len): (&Wanted, u64),
    urls: &[Url],
) -> Result<Got, String> {
    let mut why = String::new();
    let mut left = urls.iter();
    let mut asked = FuturesUnordered::new();
    let mut heard: Vec<(&Url, Arc<Heard>)> = Vec::new();
    loop {
        let silent = heard.iter().all(|(_, heard)| heard.is_silent());
        if (asked.is_empty() || (silent && asked.len() < MIRRORS_AT_ONCE))
            && let Some(url) = left.next()
        {
            let of_this = Arc::new(Heard::default());
            heard.push((url, Arc::clone(&of_this)));
            asked.push(async move { (url, from_upstream(inner, (wanted, len), url, &of_this).await) });
        }
        let answered = tokio::select! {
            answered = asked.next() => answered,
            () = tokio::time::sleep(LOOK) => continue,
        };
        let Some((url, answer)) = answered else {
            return Err(why);
        };
        heard.retain(|(other, _)| *other != url);
        match answer {
            Ok(data) => {
                inner.givers.mirror(&wanted.root, url, len);
                // So that the next file is not asked there first. On a line that is full, silence says nothing of a mirror.
                let silent = heard.iter().filter(|(_, heard)| heard.is_silent());
                for (silent, _) in silent.filter(|_| !inner.line.is_limit()) {
                    inner.http.mirrors().observe(silent, Observation::Failed);
                    inner.bad.note(&wanted.root, silent);
                }
                return Ok(Got {
                    data,
                    origin: Origin::Upstream,
                });
            }
            Err(error) => {
                debug!(%url, error, "upstream does not give this file");
                why = error;
            }
        }
    }
}

/// When a mirror last gave a byte, or waited for its turn on the line.
#[derive(Debug)]
struct Heard(Mutex<Instant>);

impl Default for Heard {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Heard {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_silent(&self) -> bool {
        LATE <= self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

async fn from_upstream(
    inner: &Arc<Inner>,
    (wanted, len): (&Wanted, u64),
    url: &Url,
    heard: &Heard,
) -> Result<Bytes, String> {
    let root = &wanted.root;
    let turn = (TINY < len).then(|| inner.line.turn(*root, upstreams::host(url)));
    let _under_way = inner.balance.of_mirror(len);
    let mut get = Get::new(url);
    get.max_len = Some(len);
    get.range.clone_from(&wanted.range);
    let read = async {
        loop {
            if let Some(turn) = &turn {
                turn.start(|| heard.now()).await;
                heard.now();
            }
            let asked = tokio::time::timeout(upstreams::HEADER, inner.http.get(&get));
            let mut response = asked.await.map_err(|_| SmallError::Stalled)??;
            match body(&mut response, len, turn.as_ref(), heard).await? {
                Some(data) => return Ok(data),
                None => turn.iter().for_each(Turn::yielded),
            }
        }
    };
    let data = tokio::time::timeout(LONGEST, read)
        .await
        .unwrap_or(Err(SmallError::Stalled))
        .map_err(|error| {
            error.note(inner, root, url);
            error.to_string()
        })?;
    let (cid, checked) = (wanted.cid, data.clone());
    let right = inner
        .tasks
        .blocking(Pool::Hash, move || dag::verify(&cid, &checked).is_ok())
        .await;
    if right.unwrap_or(false) && data.len() as u64 == len {
        Ok(data)
    } else {
        inner.http.mirrors().observe(url, Observation::Failed);
        inner.bad.note(root, url);
        Err(format!("{url}{OTHER_BYTES}"))
    }
}

/// Why a mirror did not give a small file.
#[derive(Debug, thiserror::Error)]
enum SmallError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the mirror sent nothing for too long")]
    Stalled,
}

impl SmallError {
    fn note(&self, inner: &Inner, root: &Cid, url: &Url) {
        match self {
            Self::Stalled => inner.http.mirrors().observe(url, Observation::Failed),
            // The client notes it by itself. Whoever answers may answer pacman better.
            Self::Http(HttpError::Status { .. } | HttpError::Busy { .. }) => return,
            Self::Http(_) => {}
        }
        inner.bad.note(root, url);
    }
}

/// All of it, or nothing where others go first.
async fn body(
    response: &mut Response,
    len: u64,
    turn: Option<&Turn>,
    heard: &Heard,
) -> Result<Option<Bytes>, SmallError> {
    let mut data = BytesMut::new();
    loop {
        if let Some(turn) = turn
            && turn.go(data.len() as u64, len, || heard.now()).await == Go::Yield
        {
            return Ok(None);
        }
        let from = Instant::now();
        let chunk = tokio::time::timeout(SILENT, response.chunk());
        let Some(chunk) = chunk.await.map_err(|_| SmallError::Stalled)?? else {
            return Ok(Some(data.freeze()));
        };
        data.extend_from_slice(&chunk);
        heard.now();
        if let Some(turn) = turn {
            turn.came(chunk.len() as u64, from);
        }
    }
}
