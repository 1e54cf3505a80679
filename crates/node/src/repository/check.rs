//! A look at the mirrors of a repository: has one of them a newer database?
//!
//! One look at a time for each database, however many ask. The first mirror is asked; one that does not answer soon
//! gets company, and whoever answers first is read. A mirror that is behind, torn, or gives something else is passed over.
//!
//! - Invariant: a state is taken whole or not at all: a database with the signature that is of its bytes.
//! - Invariant: never an older state than the one that is here (`super::order`).
//! - Invariant: only configured mirrors are asked, never peers.
//! - Not here: what pacman is told meanwhile (`super::ask`).

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pacstore_runtime::Pool;
use pacstore_upstream::Url;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::line::{Candidate, Line, Seen, Trouble, id, seconds};
use super::pair::{self, Header, LookError};
use super::{Repository, line, shown};
use crate::node::Node;
use crate::status::chain;

/// A mirror that has not answered in this time is not waited for alone.
const HEDGE: Duration = Duration::from_millis(700);

/// All of one look.
const LONGEST: Duration = Duration::from_mins(4);

/// A look that ended less than this ago is as good as a new one.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// From then on a mirror that is behind is named.
const FROZEN: Duration = Duration::from_hours(24);

/// A mirror is behind, and nothing says by how much.
const UNKNOWN_LAG: Duration = Duration::from_hours(1);

/// How far a look is.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// No mirror has answered yet, or those that did were of no use.
    Asking,
    /// This mirror has other bytes, which are coming in.
    Receiving(Url),
    /// It is over.
    Over(Outcome),
}

/// How a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A mirror has what is here.
    Confirmed,
    /// There is something newer, and it is here now.
    New,
    /// All mirrors that answered have something older.
    Behind,
    /// No mirror gave anything of use.
    Failed,
}

/// One look, under way or just over.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) phase: watch::Sender<Phase>,
    /// Mirrors that were asked and have not said a word, and since when; nothing once they are given up.
    unheard: std::sync::Mutex<HashMap<Url, Option<Instant>>>,
    /// It has another database, which cannot be kept here.
    unkept: std::sync::OnceLock<Url>,
    pub(super) began: Instant,
    ended: std::sync::Mutex<Option<Instant>>,
}

/// However the task ends, nobody waits for it for ever.
struct Guard(Arc<Flight>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end(Outcome::Failed);
    }
}

impl Flight {
    fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Asking),
            unheard: std::sync::Mutex::default(),
            unkept: std::sync::OnceLock::new(),
            began: Instant::now(),
            ended: std::sync::Mutex::default(),
        }
    }

    fn end(&self, outcome: Outcome) {
        let mut ended = self
            .ended
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if ended.is_none() {
            *ended = Some(Instant::now());
            self.phase.send_replace(Phase::Over(outcome));
        }
    }

    /// Mirrors that send nothing, as far as this look shows.
    pub(super) fn silent(&self) -> Vec<Url> {
        let unheard = self.unheard();
        let long = unheard
            .iter()
            .filter(|(_, since)| since.is_none_or(|since| HEDGE <= since.elapsed()));
        long.map(|(mirror, _)| mirror.clone()).collect()
    }

    /// The mirror whose database pacman has to get from there: it cannot be kept here.
    pub(super) fn unkept(&self) -> Option<&Url> {
        self.unkept.get()
    }

    fn unheard(&self) -> std::sync::MutexGuard<'_, HashMap<Url, Option<Instant>>> {
        self.unheard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// `mirror` gave something, or failed by `error` at least with a word.
    fn heard(&self, mirror: &Url, error: Option<&LookError>) {
        if error.is_some_and(LookError::is_silence) {
            self.unheard().insert(mirror.clone(), None);
        } else {
            self.unheard().remove(mirror);
        }
    }

    /// It ended less than `within` ago, and found nothing of use.
    pub(super) fn failed_within(&self, within: Duration) -> bool {
        let ended = *self
            .ended
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let vain = matches!(
            *self.phase.borrow(),
            Phase::Over(Outcome::Failed | Outcome::Behind)
        );
        vain && ended.is_some_and(|at| at.elapsed() < within)
    }

    /// It runs, or what it found still holds.
    fn joinable(&self) -> bool {
        let ended = *self
            .ended
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        ended.is_none_or(|at| at.elapsed() < FRESH)
    }
}

impl Node {
    /// Joins the look at `line` that is under way, or begins one.
    pub(super) fn look(&self, repository: &Arc<Repository>, line: &Arc<Line>) -> Arc<Flight> {
        let mut slot = line
            .flight
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(flight) = slot.as_ref().filter(|flight| flight.joinable()) {
            return Arc::clone(flight);
        }
        let flight = Arc::new(Flight::new());
        *slot = Some(Arc::clone(&flight));
        drop(slot);
        let guard = Guard(Arc::clone(&flight));
        let (node, repository, line) = (self.clone(), Arc::clone(repository), Arc::clone(line));
        self.inner.tasks.spawn("repository/look", async move {
            let stop = node.inner.tasks.stop();
            let look = tokio::time::timeout(LONGEST, all(&node, &repository, &line, &guard.0));
            if let Some(Ok(outcome)) = stop.run_until_cancelled(Box::pin(look)).await {
                guard.0.end(outcome);
            }
        });
        flight
    }
}

/// Asks mirror after mirror until one is of use.
async fn all(node: &Node, repository: &Arc<Repository>, line: &Arc<Line>, flight: &Flight) -> Outcome {
    let mut left = repository.mirrors();
    let (mut behind, mut failed): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    while let Some((mirror, header)) = first(node, repository, line, (flight, &mut left, &mut failed)).await {
        let is_other = matches!(header, Header::Other(..));
        if is_other {
            flight.phase.send_replace(Phase::Receiving(mirror.clone()));
        }
        let looked = pair::whole(node, repository, line, &mirror, header).await;
        flight.heard(&mirror, looked.as_ref().err());
        match take(node, repository, line, &mirror, looked).await {
            Ok(outcome) => {
                settle(node, repository, line, &mirror);
                return outcome;
            }
            Err(Passed::Behind(why)) => behind.push(why),
            Err(Passed::Unkept(why)) if is_other => {
                // Our own disk: no other mirror can help, and what is here may be older than what this one has.
                let _ = flight.unkept.set(mirror);
                let rollback = false;
                trouble(line, Some(Trouble { rollback, text: why }));
                return Outcome::Failed;
            }
            Err(Passed::Unkept(why) | Passed::Failed(why)) => failed.push(why),
        }
        flight.phase.send_replace(Phase::Asking);
    }
    let (rollback, list) = if behind.is_empty() {
        (false, failed)
    } else {
        (true, behind)
    };
    trouble(
        line,
        Some(Trouble {
            rollback,
            text: list.join("; "),
        }),
    );
    if rollback {
        Outcome::Behind
    } else {
        Outcome::Failed
    }
}

/// Why a mirror was passed over.
enum Passed {
    Behind(String),
    Failed(String),
    /// It is not the mirror's fault.
    Unkept(String),
}

/// What a mirror has becomes ours, if it is not older.
async fn take(
    node: &Node,
    repository: &Arc<Repository>,
    line: &Arc<Line>,
    mirror: &Url,
    looked: Result<Looked, LookError>,
) -> Result<Outcome, Passed> {
    let failed = |error: &dyn Error| {
        debug!(
            mirror = shown(mirror),
            line = line.name,
            error = chain(error),
            "a mirror is of no use now"
        );
        repository.failed(mirror);
        Passed::Failed(chain(error))
    };
    let unkept = |error: &dyn Error| Passed::Unkept(chain(error));
    let now = node.inner.clock.unix_seconds();
    let candidate = match looked {
        Err(error) if error.is_ours() => return Err(unkept(&error)),
        Err(error) => return Err(failed(&error)),
        Ok(Looked::Same(seen)) => {
            let line = Arc::clone(line);
            return match node.disk(move || line.confirmed(seen, now)).await {
                Ok(()) => Ok(Outcome::Confirmed),
                Err(error) => Err(unkept(&error)),
            };
        }
        Ok(Looked::Other(candidate)) => *candidate,
    };
    let root = candidate.database.dag.root;
    let new = id(&root, candidate.signature.as_ref().map(|s| s.dag.root).as_ref());
    if line.current().is_some_and(|held| held.id == new) {
        let (line, mut seen) = (Arc::clone(line), candidate.seen);
        seen.state = new.to_string();
        return match node.disk(move || line.confirmed(seen, now)).await {
            Ok(()) => Ok(Outcome::Confirmed),
            Err(error) => Err(failed(&error)),
        };
    }
    if let Some(why) = line.older(&candidate, now) {
        let by = line.lag(&candidate).unwrap_or(UNKNOWN_LAG);
        let since = repository.behind(mirror, by, now);
        let hours = now.saturating_sub(since) / 3600;
        debug!(
            mirror = shown(mirror),
            line = line.name,
            reason = why.reason(),
            hours,
            "a mirror is behind"
        );
        return Err(Passed::Behind(format!(
            "the database of {} {}",
            shown(mirror),
            why.reason()
        )));
    }
    let (inner, of_task, private) = (node.inner.clone(), Arc::clone(line), !repository.config.public);
    let in_use = node.inner.runs.in_use();
    let accepted = node.disk(move || {
        let hidden = private.then_some(&*inner.privacy.hidden);
        let state = of_task.accept(candidate, hidden, now)?;
        of_task.prune(now, &in_use)?;
        Ok(state)
    });
    match accepted.await {
        Ok(state) => {
            info!(mirror = shown(mirror), line = line.name, state = %state.id, "a newer database");
            node.inner.machine.look_now();
            Ok(Outcome::New)
        }
        Err(error) => Err(unkept(&error)),
    }
}

/// What a mirror has.
pub(super) enum Looked {
    /// The state that is here.
    Same(Seen),
    /// Another one, read whole.
    Other(Box<Candidate>),
}

/// The first of the mirrors `left` that answers; it and those that failed are taken off the list.
async fn first(
    node: &Node,
    repository: &Repository,
    line: &Arc<Line>,
    (flight, left, failed): (&Flight, &mut Vec<Url>, &mut Vec<String>),
) -> Option<(Url, Header)> {
    let mut asked = FuturesUnordered::new();
    let mut next = 0;
    loop {
        if asked.is_empty() {
            let mirror = left.get(next)?.clone();
            asked.push(ask(node, line, flight, mirror));
            next += 1;
        }
        let more = left.get(next).cloned();
        let answered = tokio::select! {
            Some(answered) = asked.next() => answered,
            () = tokio::time::sleep(HEDGE), if more.is_some() => {
                asked.extend(more.map(|mirror| ask(node, line, flight, mirror)));
                next += 1;
                continue;
            }
        };
        let (mirror, header) = answered;
        let at = left.iter().position(|one| *one == mirror)?;
        left.remove(at);
        next -= 1;
        match header {
            Ok(header) => return Some((mirror, header)),
            Err(error) => {
                flight.heard(&mirror, Some(&error));
                if matches!(error, LookError::Stalled(_)) {
                    repository.failed(&mirror);
                }
                debug!(
                    mirror = shown(&mirror),
                    line = line.name,
                    error = chain(&error),
                    "a mirror does not answer"
                );
                failed.push(chain(&error));
            }
        }
    }
}

async fn ask(
    node: &Node,
    line: &Arc<Line>,
    flight: &Flight,
    mirror: Url,
) -> (Url, Result<Header, LookError>) {
    flight
        .unheard()
        .entry(mirror.clone())
        .or_insert_with(|| Some(Instant::now()));
    let header = pair::header(node, line, &mirror).await;
    (mirror, header)
}

/// A mirror was of use: nothing is wrong, save that others may be far behind.
fn settle(node: &Node, repository: &Repository, line: &Line, mirror: &Url) {
    let frozen = repository.settled(mirror, node.inner.clock.unix_seconds(), FROZEN);
    let text = frozen.join("; ");
    let found = (!text.is_empty()).then_some(Trouble {
        rollback: false,
        text,
    });
    trouble(line, found);
}

/// Notes what is wrong; it is logged when it is new.
fn trouble(line: &Line, trouble: Option<Trouble>) {
    let mut held = line
        .trouble
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if *held == trouble {
        return;
    }
    match &trouble {
        Some(Trouble { rollback: true, text }) => {
            warn!(
                line = line.name,
                text, "no mirror has a database as new as the one that is here"
            );
        }
        Some(Trouble { text, .. }) => warn!(line = line.name, text, "mirrors of a repository"),
        None => info!(line = line.name, "the mirrors are well again"),
    }
    *held = trouble;
}

/// Upstream's newest time of a pair, else when it was first seen here.
pub(super) fn modified(told: Option<u64>, now: SystemTime) -> SystemTime {
    told.map_or(now, |told| SystemTime::UNIX_EPOCH + Duration::from_secs(told))
}

impl Node {
    /// Runs a call on the disk pool.
    pub(super) async fn disk<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T, crate::StoreError> + Send + 'static,
    ) -> Result<T, crate::StoreError> {
        let done = self.inner.tasks.blocking(Pool::Disk, call).await;
        done.unwrap_or(Err(crate::StoreError::Stopping))
    }
}

/// As it stands in a [`line::Tag`].
pub(super) fn tag(response: &pacstore_upstream::Response) -> line::Tag {
    line::Tag {
        etag: response.etag.clone(),
        modified: response.last_modified.map(seconds),
        len: response.len,
    }
}
