//! An ordinary HTTP mirror as a source: runs of leaves by range, each leaf verified alone.
//!
//! An untrusted mirror is as good as a peer this way: a leaf that does not match its CID
//! is thrown away and the mirror is not asked again for this file. A mirror that ignores
//! ranges is read from a file's beginning, in one piece, where nobody else brings any.
//!
//! - Invariant: bytes of a response that is longer or other than asked are not used.
//! - Not here: which leaf next (`super::plan`), HTTP itself (`pacstore-upstream`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pacstore_dag as dag;
use pacstore_runtime::Pool;
use pacstore_store::Origin;
use pacstore_upstream::{Get, HttpError, Mirrors, Observation, Response};
use tracing::{debug, warn};
use url::Url;

use super::job::Shared;
use super::line::{Go, Host, Turn};
use super::peers::MAKE_WAY;
use super::plan::SourceId;
use super::turns;

/// Upstreams that are read side by side for one file.
const AT_ONCE: usize = 2;

/// A run takes about this long at the upstream's own rate, so that little is lost or
/// asked twice when somebody else turns out to be faster.
const RUN: Duration = Duration::from_millis(1500);

/// Leaves in one run, at most.
const MAX_RUN: usize = 8;

/// How long a mirror may take for an answer's header, when a file waits for it.
pub(crate) const HEADER: Duration = Duration::from_secs(5);

/// How long a mirror may send nothing within an answer before its leaves go to others.
pub(crate) const STALL: Duration = Duration::from_secs(2);

/// How often it is looked whether the peers still would be sooner.
const LOOK: Duration = Duration::from_millis(50);

/// Nobody else brings anything while no byte came for so long.
const ALONE: Duration = Duration::from_secs(1);

/// Tries of one upstream in a row before it is given up for this file.
const TRIES: u32 = 3;

/// Brings leaves of one job from `urls` (best first) until it is over or none is left.
pub(crate) async fn run(shared: Arc<Shared>, source: SourceId, urls: Vec<Url>) {
    let mirrors = shared.inner.http.mirrors();
    // Who gives ranges helps beside others, so those come first.
    let (whole, ranges): (Vec<Url>, _) = urls
        .into_iter()
        .partition(|url| How::of(mirrors, url) == How::InOnePiece);
    let mut urls: VecDeque<Url> = [ranges, whole].concat().into();
    let Some(mut url) = urls.pop_front() else { return };
    let mut failures = 0;
    // Since when it has been left to the peers.
    let mut left: Option<Instant> = None;
    loop {
        if shared.stop.is_cancelled() || shared.complete() {
            return;
        }
        let how = How::of(mirrors, &url);
        if how == How::InOnePiece && !shared.is_alone(ALONE) {
            idle(&shared).await;
            continue;
        }
        if shared.is_better_from_peers(&url) && left.get_or_insert_with(Instant::now).elapsed() < MAKE_WAY {
            tokio::select! {
                () = idle(&shared) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            continue;
        }
        left = None;
        let turn = shared.inner.line.turn(shared.file.root, host(&url));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = turn.start(|| shared.held()) => {}
        }
        let leaf_bytes = shared.file.leaves.first().map_or(1, |leaf| leaf.len).max(1);
        let most = match how {
            How::ByRange => run_length(shared.rate(source), leaf_bytes),
            How::InOnePiece => shared.file.leaves.len(),
        };
        let run = shared.pick(source, most);
        let picked = !run.is_empty();
        let run = turns::ours(&shared, source, run).await;
        if picked && run.is_empty() {
            continue;
        }
        if run.is_empty() {
            drop(turn);
            idle(&shared).await;
            continue;
        }
        let started = Instant::now();
        let mut bytes = 0;
        let ended = tokio::select! {
            () = shared.stop.cancelled() => Ok(()),
            ended = bring(&shared, (source, &url, how), &run, (&turn, &mut bytes)) => ended,
        };
        drop(turn);
        for leaf in run {
            shared.give_back(leaf, source);
        }
        shared.measured(source, bytes, started.elapsed());
        let Err(error) = ended else {
            failures = 0;
            continue;
        };
        if matches!(error, RunError::Yielded) {
            continue;
        }
        if how != How::of(mirrors, &url) {
            debug!(%url, "a mirror ignores ranges");
            urls.push_back(url);
            let Some(next) = urls.pop_front() else { return };
            (url, failures) = (next, 0);
            continue;
        }
        if matches!(error, RunError::TooFarIn(_)) {
            if !shared.is_alone(ALONE) {
                idle(&shared).await;
                continue;
            }
            shared.comes_in_one_piece();
        }
        failures += 1;
        error.note(&shared, &url);
        debug!(%url, error = &error as &dyn std::error::Error, failures, "upstream failed");
        // Who is slower is no worse for it: it rests, and is still there when the faster one goes away.
        let overtaken = matches!(error, RunError::Overtaken { .. });
        if overtaken
            && failures >= TRIES
            && let Some(next) = urls.pop_front()
        {
            (url, failures) = (next, 0);
            continue;
        }
        if overtaken || (failures < TRIES && error.worth_another_try()) {
            let wait = Duration::from_millis(200 << failures.min(TRIES));
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => continue,
            }
        }
        warn!(%url, error = &error as &dyn std::error::Error, "upstream given up for this file");
        let wrong = matches!(error, RunError::Wrong { .. });
        shared.gave_up(format!("{url}: {}", crate::status::chain(&error)), wrong);
        match urls.pop_front() {
            Some(next) => url = next,
            None => return,
        }
        failures = 0;
    }
}

/// Waits until there may be something to do, or the job is over.
async fn idle(shared: &Shared) {
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = shared.idle() => {}
    }
}

/// How many are read side by side for a file at `urls`: those that give one piece only make no second.
pub(crate) fn workers(mirrors: &Mirrors, urls: &[Url]) -> usize {
    let by_range = urls.iter().filter(|url| How::of(mirrors, url) == How::ByRange);
    by_range.count().clamp(usize::from(!urls.is_empty()), AT_ONCE)
}

/// How a mirror is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// For just the leaves that it is to bring.
    ByRange,
    /// For the file from its beginning: it ignores ranges.
    InOnePiece,
}

impl How {
    fn of(mirrors: &Mirrors, url: &Url) -> Self {
        if mirrors.ignores_ranges(url) {
            Self::InOnePiece
        } else {
            Self::ByRange
        }
    }
}

/// How a mirror is told from others on the line.
pub(crate) fn host(url: &Url) -> Host {
    Host::Mirror(url.origin().ascii_serialization())
}

/// Leaves to ask at once at `rate` bytes a second.
fn run_length(rate: f64, leaf_bytes: u64) -> usize {
    ((rate * RUN.as_secs_f64() / leaf_bytes as f64) as usize).clamp(1, MAX_RUN)
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("the mirror did not give the range")]
    Http(#[source] HttpError),
    #[error("the mirror ignores ranges, and {0} bytes are not wanted before those that are")]
    TooFarIn(u64),
    #[error("the mirror ended before leaf {leaf}")]
    Short { leaf: usize },
    #[error("the mirror sent nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("leaf {leaf} has other bytes than the tree says")]
    Wrong { leaf: usize },
    #[error("leaf {leaf} came sooner from elsewhere")]
    Overtaken { leaf: usize },
    #[error("others go first on this line")]
    Yielded,
    #[error("the node is stopping")]
    Stopping,
}

impl RunError {
    /// Remembers what it says of the mirror, for other files and for pacman.
    fn note(&self, shared: &Shared, url: &Url) {
        if matches!(self, Self::Wrong { .. } | Self::Stalled(_)) {
            shared.inner.http.mirrors().observe(url, Observation::Failed);
        }
        let hopeless = match self {
            Self::Wrong { .. } | Self::Stalled(_) | Self::Short { .. } => true,
            Self::Http(error) => matches!(
                error,
                HttpError::Connect { .. }
                    | HttpError::NoAnswer { .. }
                    | HttpError::Stalled { .. }
                    | HttpError::TooSlow { .. }
                    | HttpError::ShortBody { .. }
            ),
            Self::TooFarIn(_) | Self::Overtaken { .. } | Self::Yielded | Self::Stopping => false,
        };
        if hopeless {
            shared.inner.bad.note(&shared.file.root, url);
        }
    }

    fn worth_another_try(&self) -> bool {
        match self {
            Self::Http(error) => error.is_transient(),
            Self::Short { .. } | Self::Stalled(_) | Self::Overtaken { .. } | Self::Yielded => true,
            Self::Wrong { .. } | Self::TooFarIn(_) | Self::Stopping => false,
        }
    }
}

/// One request for the touching leaves `run`.
async fn bring(
    shared: &Arc<Shared>,
    (source, url, how): (SourceId, &Url, How),
    run: &[usize],
    (turn, bytes): (&Turn, &mut u64),
) -> Result<(), RunError> {
    let helps_out = run.iter().any(|leaf| shared.is_second(*leaf, source));
    let range = span(shared, run);
    let wanted = range.end - range.start;
    let (range, in_memory) = match how {
        How::ByRange => (range, wanted),
        How::InOnePiece if wanted < range.start => return Err(RunError::TooFarIn(range.start)),
        // For as long as the file takes: no more than what is not verified yet.
        How::InOnePiece => (0..shared.file.len, wanted.min(shared.largest_leaf())),
    };
    let lease = shared.inner.budget.acquire(in_memory).await;
    let _under_way = shared.inner.balance.of_mirror(in_memory);
    let mut response = ask(shared, url, &range).await?;
    let mut rest = if how == How::InOnePiece {
        let before = run.first().and_then(|leaf| shared.file.leaves.get(*leaf));
        skip(shared, &mut response, before.map_or(0, |leaf| leaf.offset)).await?
    } else {
        Bytes::new()
    };
    for &leaf in run {
        let wanted = shared.file.leaves[leaf];
        let mut data = BytesMut::with_capacity(wanted.len as usize);
        while (data.len() as u64) < wanted.len {
            if rest.is_empty() {
                let (got, all) = (data.len() as u64, wanted.len);
                if turn.go(got, all, || shared.held()).await == Go::Yield {
                    return Err(RunError::Yielded);
                }
                if shared.is_done(leaf) {
                    // Who was asked because another was late is not late itself.
                    return if helps_out {
                        Ok(())
                    } else {
                        Err(RunError::Overtaken { leaf })
                    };
                }
                let from = Instant::now();
                let chunk = tokio::time::timeout(STALL, response.chunk())
                    .await
                    .map_err(|_| RunError::Stalled(STALL))?
                    .map_err(RunError::Http)?;
                rest = chunk.ok_or(RunError::Short { leaf })?;
                *bytes += rest.len() as u64;
                turn.came(rest.len() as u64, from);
                shared.progressed(leaf);
            }
            let take = rest.len().min(wanted.len as usize - data.len());
            data.extend_from_slice(&rest.split_to(take));
        }
        let data = data.freeze();
        if !check(shared, &wanted.cid, &data).await? {
            return Err(RunError::Wrong { leaf });
        }
        if !shared.is_done(leaf) {
            shared.inner.givers.mirror(&shared.file.root, url, wanted.len);
        }
        shared.keep(leaf, data, Origin::Upstream).await;
        // The rest came from elsewhere meanwhile: nothing is asked twice.
        if run.iter().all(|leaf| shared.is_done(*leaf)) {
            break;
        }
    }
    drop(lease);
    Ok(())
}

/// The answer to a request for `range`. That the mirror ignores ranges is noted.
async fn ask(shared: &Shared, url: &Url, range: &Range<u64>) -> Result<Response, RunError> {
    let (mirrors, len) = (shared.inner.http.mirrors(), shared.file.len);
    let part = *range != (0..len);
    let mut get = Get::new(url);
    get.range = part.then(|| range.clone());
    get.max_len = Some(range.end - range.start);
    let answer = tokio::time::timeout(HEADER, shared.inner.http.get(&get))
        .await
        .map_err(|_| RunError::Stalled(HEADER))?;
    match &answer {
        Ok(_) if part => mirrors.observe(url, Observation::Range { ignored: false }),
        // Any other length is a page of error's, say.
        Err(HttpError::RangeIgnored { len: Some(came), .. }) if *came == len => {
            mirrors.observe(url, Observation::Range { ignored: true });
        }
        _ => {}
    }
    answer.map_err(RunError::Http)
}

/// Reads past the first `bytes`; gives what came of those behind them.
async fn skip(shared: &Shared, response: &mut Response, mut bytes: u64) -> Result<Bytes, RunError> {
    while bytes > 0 {
        let chunk = tokio::time::timeout(STALL, response.chunk())
            .await
            .map_err(|_| RunError::Stalled(STALL))?
            .map_err(RunError::Http)?;
        let mut chunk = chunk.ok_or(RunError::Short { leaf: 0 })?;
        shared.heard();
        let past = bytes.min(chunk.len() as u64);
        let rest = chunk.split_off(past as usize);
        bytes -= past;
        if !rest.is_empty() {
            return Ok(rest);
        }
    }
    Ok(Bytes::new())
}

fn span(shared: &Shared, run: &[usize]) -> Range<u64> {
    let first = run.first().and_then(|leaf| shared.file.leaves.get(*leaf));
    let last = run.last().and_then(|leaf| shared.file.leaves.get(*leaf));
    first.map_or(0, |leaf| leaf.offset)..last.map_or(0, |leaf| leaf.offset + leaf.len)
}

async fn check(shared: &Shared, cid: &cid::Cid, data: &Bytes) -> Result<bool, RunError> {
    let (cid, data) = (*cid, data.clone());
    let checked = shared
        .inner
        .tasks
        .blocking(Pool::Hash, move || dag::verify(&cid, &data).is_ok())
        .await;
    checked.map_err(|_| RunError::Stopping)
}
