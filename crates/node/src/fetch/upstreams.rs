//! An ordinary HTTP mirror as a source: runs of leaves by range, each leaf verified alone.
//!
//! An untrusted mirror is as good as a peer this way: a leaf that does not match its CID
//! is thrown away and the mirror is not asked again for this file.
//!
//! - Invariant: bytes of a response that is longer or other than asked are not used.
//! - Not here: which leaf next (`super::plan`), HTTP itself (`pacstore-upstream`).

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pacstore_dag as dag;
use pacstore_runtime::Pool;
use pacstore_store::Origin;
use pacstore_upstream::{Get, HttpError, Observation};
use tracing::{debug, warn};
use url::Url;

use super::job::Shared;
use super::line::{Go, Host, Turn};
use super::plan::SourceId;
use super::turns;

/// Upstreams that are read side by side for one file.
pub(crate) const AT_ONCE: usize = 2;

/// A run takes about this long at the upstream's own rate, so that little is lost or
/// asked twice when somebody else turns out to be faster.
const RUN: Duration = Duration::from_millis(1500);

/// Leaves in one run, at most.
const MAX_RUN: usize = 8;

/// How long a mirror may take for an answer's header, when a file waits for it.
pub(crate) const HEADER: Duration = Duration::from_secs(5);

/// How long a mirror may send nothing within an answer before its leaves go to others.
pub(crate) const STALL: Duration = Duration::from_secs(2);

/// Tries of one upstream in a row before it is given up for this file.
const TRIES: u32 = 3;

/// Brings leaves of one job from `urls` (best first) until it is over or none is left.
pub(crate) async fn run(shared: Arc<Shared>, source: SourceId, urls: Vec<Url>) {
    let mut urls = urls.into_iter();
    let Some(mut url) = urls.next() else { return };
    let mut failures = 0;
    loop {
        if shared.stop.is_cancelled() || shared.complete() {
            return;
        }
        let turn = shared.inner.line.turn(shared.file.root, host(&url));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = turn.start(|| shared.held()) => {}
        }
        let leaf_bytes = shared.file.leaves.first().map_or(1, |leaf| leaf.len).max(1);
        let run = shared.pick(source, run_length(shared.rate(source), leaf_bytes));
        let picked = !run.is_empty();
        let run = turns::ours(&shared, source, run).await;
        if picked && run.is_empty() {
            continue;
        }
        if run.is_empty() {
            drop(turn);
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = shared.idle() => {}
            }
            continue;
        }
        let started = Instant::now();
        let mut bytes = 0;
        let ended = tokio::select! {
            () = shared.stop.cancelled() => Ok(()),
            ended = bring(&shared, (source, &url), &run, (&turn, &mut bytes)) => ended,
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
        failures += 1;
        error.note(&shared, &url);
        debug!(%url, error = &error as &dyn std::error::Error, failures, "upstream failed");
        // Who is slower is no worse for it: it rests, and is still there when the faster one goes away.
        let overtaken = matches!(error, RunError::Overtaken { .. });
        if overtaken
            && failures >= TRIES
            && let Some(next) = urls.next()
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
        match urls.next() {
            Some(next) => url = next,
            None => return,
        }
        failures = 0;
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
            Self::Overtaken { .. } | Self::Yielded | Self::Stopping => false,
        };
        if hopeless {
            shared.inner.bad.note(&shared.file.root, url);
        }
    }

    fn worth_another_try(&self) -> bool {
        match self {
            Self::Http(error) => error.is_transient(),
            Self::Short { .. } | Self::Stalled(_) | Self::Overtaken { .. } | Self::Yielded => true,
            Self::Wrong { .. } | Self::Stopping => false,
        }
    }
}

/// One range request for the touching leaves `run`.
async fn bring(
    shared: &Arc<Shared>,
    (source, url): (SourceId, &Url),
    run: &[usize],
    (turn, bytes): (&Turn, &mut u64),
) -> Result<(), RunError> {
    let helps_out = run.iter().any(|leaf| shared.is_second(*leaf, source));
    let range = span(shared, run);
    let whole = range == (0..shared.file.len);
    let lease = shared.inner.budget.acquire(range.end - range.start).await;
    let _under_way = shared.inner.balance.of_mirror(range.end - range.start);
    let mut get = Get::new(url);
    get.range = (!whole).then(|| range.clone());
    get.max_len = Some(range.end - range.start);
    let mut response = tokio::time::timeout(HEADER, shared.inner.http.get(&get))
        .await
        .map_err(|_| RunError::Stalled(HEADER))?
        .map_err(RunError::Http)?;
    let mut rest = Bytes::new();
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
