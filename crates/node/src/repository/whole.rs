//! A package of several leaves of which only the SHA-256 is known: fetched whole, checked, then given.
//!
//! That takes as long as the download, and pacman waits ten seconds without a byte. So the rate is watched: as soon as
//! it shows that the file will not be whole in time, another mirror goes on if it may be much faster, else pacman is sent
//! to a mirror, and nothing is downloaded here beside it; or, where neighbours want it as well, pacman is held for as long
//! as it takes (`super::hold`). What a mirror left off with, the next one goes on with; the
//! hash of the whole decides.
//!
//! - Invariant: no byte leaves before the SHA-256 of all of them is the database's.
//! - Invariant: a mirror whose own bytes were wrong, or that just sent nothing, is not what pacman is sent to.
//! - Invariant: one fetch a file, however many ask; it ends when nobody waits for it any more.
//! - Not here: files of one leaf (`crate::fetch`), peers that know a DAG (`super::peers`).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cid::Cid;
use pacstore_runtime::CancellationToken;
use pacstore_store::Reservation;
use pacstore_upstream::{Get, HttpError, IfRangeIgnored, Response, Url, url_of};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tracing::{debug, warn};

use super::hold::Hold;
use super::incoming::{Arrived, Held, Incoming};
use super::package::{PackageOf, failed};
use super::{agree, loading, peers, plain, shown};
use crate::error::StoreError;
use crate::fetch::{FetchError, Opened};
use crate::node::Node;
use crate::serve::FileAnswer;
use crate::status::chain;

/// How long a mirror may take for its header, and may send nothing within the body, while others are asked first.
const STALL: Duration = Duration::from_millis(1500);

/// The same where there are so many mirrors that not all could be asked.
const LEAST_STALL: Duration = Duration::from_millis(500);

/// A rate is believed after this time.
const WATCHED: Duration = Duration::from_secs(1);

/// How long a fetch goes on after pacman was sent back to us, until it asks again.
const ASKS_AGAIN: Duration = Duration::from_secs(3);

/// Fetches under way, by SHA-256.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<[u8; 32], Weak<Flight>>>);

/// One fetch. It stops with the last who waits for it.
#[derive(Debug)]
struct Flight {
    end: watch::Receiver<Option<Result<Cid, FetchError>>>,
    hold: Arc<Hold>,
    _stop: DropGuard,
}

impl Node {
    /// Opens a package of several leaves, fetched whole.
    pub(super) async fn open_whole(
        &self,
        answer: &FileAnswer,
        package: &Arc<PackageOf>,
    ) -> Result<Opened, FetchError> {
        let flight = self.flight(answer, package);
        let mut end = flight.end.clone();
        let waited = async {
            // Without an end its task is gone: everything stops.
            let ended = end.wait_for(Option::is_some).await.ok()?;
            ended.clone()
        };
        let ended = match tokio::time::timeout(package.patience, waited).await {
            Ok(ended) => ended.unwrap_or(Err(FetchError::Stopping)),
            Err(_) if flight.hold.is_held() && package.holds.is_some_and(|holds| 0 < holds) => {
                Err(self.not_yet(answer, package, flight))
            }
            Err(_) => Err(self.elsewhere(answer, package, "it does not come in time")),
        };
        let root = ended?;
        let store = self.inner.store.clone();
        let file = self.disk(move || Ok(store.open_shared(&root)?)).await;
        match file.map_err(|error| failed(&root, error))? {
            Some(file) => Ok(Opened::Stored(file)),
            None => Err(self.elsewhere(answer, package, "it was evicted at once")),
        }
    }

    /// pacman asks again, and finds the same fetch.
    fn not_yet(&self, answer: &FileAnswer, package: &PackageOf, flight: Arc<Flight>) -> FetchError {
        let stop = self.inner.tasks.stop();
        self.inner.tasks.spawn("repository/held", async move {
            stop.run_until_cancelled(tokio::time::sleep(ASKS_AGAIN)).await;
            drop(flight);
        });
        FetchError::NotYet {
            cid: answer.root,
            held: package.times_held() + 1,
        }
    }

    fn flight(&self, answer: &FileAnswer, package: &Arc<PackageOf>) -> Arc<Flight> {
        let mut flights = self
            .inner
            .repositories
            .whole
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&package.sha256).and_then(Weak::upgrade) {
            flight.hold.joined(package.patience, package.holds);
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let stop = self.inner.tasks.stop().child_token();
        let (ended, end) = watch::channel(None);
        let hold = Arc::new(Hold::new(package.patience, package.holds));
        let flight = Arc::new(Flight {
            end,
            hold: Arc::clone(&hold),
            _stop: stop.clone().drop_guard(),
        });
        flights.insert(package.sha256, Arc::downgrade(&flight));
        drop(flights);
        let (node, answer, package) = (self.clone(), answer.clone(), Arc::clone(package));
        self.inner.tasks.spawn("repository/package", async move {
            let fetched = fetch(&node, &answer, &package, (&hold, &stop)).await;
            if let Err(error) = &fetched {
                debug!(
                    name = package.name,
                    error = chain(error),
                    "a package is not fetched whole"
                );
            }
            ended.send_replace(Some(fetched));
        });
        flight
    }

    /// pacman gets it from a mirror that may give it; then it has it in its cache soon.
    pub(super) fn elsewhere(&self, answer: &FileAnswer, package: &PackageOf, why: &str) -> FetchError {
        let (cid, why) = (answer.root, why.to_owned());
        let mut urls = package.repository.urls(&package.name).into_iter();
        match urls.find(|url| self.inner.fetch.may_lead_to(&cid, url)) {
            Some(url) => {
                self.is_in_pacmans_cache_soon(package);
                FetchError::Elsewhere {
                    cid,
                    url: Box::new(plain(&url)),
                    why: why.into(),
                }
            }
            None => FetchError::NoSource { cid, why },
        }
    }

    /// pacman is not sent there for this package for a while.
    fn do_not_lead_to(&self, answer: &FileAnswer, package: &PackageOf, mirror: &Url) {
        if let Ok(url) = url_of(mirror, package.name.as_bytes()) {
            self.inner.fetch.do_not_lead_to(&answer.root, &url);
        }
    }
}

/// How a package came.
enum Got {
    /// From mirrors; to be kept.
    Bytes(Arrived),
    /// By its DAG; kept under this root.
    Root(Cid),
}

/// Why a package does not come whole from these mirrors.
enum Failed {
    /// These are not its bytes.
    Wrong(String),
    /// Not in time.
    Late(String),
    /// No mirror goes on.
    Nobody(String),
    /// The disk, or its cap.
    Disk(String),
    Stopping,
}

async fn fetch(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    (hold, stop): (&Arc<Hold>, &CancellationToken),
) -> Result<Cid, FetchError> {
    let (store, len) = (node.inner.store.clone(), answer.len);
    // What is larger than the cap is not kept, so it is not fetched.
    let room = node.disk(move || Ok(store.reserve(len)?)).await;
    let room = match room {
        Ok(room) => room,
        Err(error) => return Err(node.elsewhere(answer, package, &chain(&error))),
    };
    let turn = stop.run_until_cancelled(Box::pin(agree::turn(node, answer, package, hold)));
    match turn.await {
        None => return Err(FetchError::Stopping),
        Some(Ok(root)) => return Ok(root),
        Some(Err(ticket)) => {
            hold.claimed(ticket);
            hold.let_go();
        }
    }
    let fetched = from_outside(node, answer, package, (hold, room), stop).await;
    match &fetched {
        Ok(_) => hold.done(),
        Err(FetchError::Elsewhere { .. }) => loading::keep_claim(node, package, hold),
        Err(_) => hold.claimed(None),
    }
    fetched
}

/// From mirrors, and from peers that have it.
async fn from_outside(
    node: &Node,
    answer: &FileAnswer,
    package: &Arc<PackageOf>,
    (hold, room): (&Hold, Reservation),
    stop: &CancellationToken,
) -> Result<Cid, FetchError> {
    let (mut caught, mut why) = (Vec::new(), String::new());
    // First all mirrors together; when that gave wrong bytes, each alone, to tell which one it was.
    let order = package.repository.mirrors();
    let alone: Vec<Vec<Url>> = order.iter().map(|mirror| vec![mirror.clone()]).collect();
    let mut peers = Box::pin(peers::hints(node, answer, package));
    let mut asked = false;
    for mirrors in std::iter::once(order).chain(alone) {
        if mirrors.iter().all(|mirror| caught.contains(mirror)) {
            continue;
        }
        let mut seen = Seen::default();
        let got = async {
            let mut received = Box::pin(receive(node, answer, package, &mirrors, hold, &mut seen));
            tokio::select! {
                got = &mut received => return got.map(Got::Bytes),
                hints = &mut peers, if !asked => {
                    asked = true;
                    if hints.is_empty() {
                        return received.await.map(Got::Bytes);
                    }
                    drop(received);
                    if let Some(root) = peers::fetch(node, answer, package, hints, hold.until()).await {
                        return Ok(Got::Root(root));
                    }
                }
            }
            receive(node, answer, package, &mirrors, hold, &mut seen)
                .await
                .map(Got::Bytes)
        };
        let got = stop.run_until_cancelled(Box::pin(got));
        let failure = match got.await.unwrap_or(Err(Failed::Stopping)) {
            Ok(Got::Root(root)) => return Ok(root),
            Ok(Got::Bytes(arrived)) => {
                let kept = keep(node, package, arrived, room).await;
                return kept.map_err(|error| node.elsewhere(answer, package, &chain(&error)));
            }
            Err(failure) => failure,
        };
        for mirror in &seen.silent {
            node.do_not_lead_to(answer, package, mirror);
        }
        match failure {
            Failed::Stopping => return Err(FetchError::Stopping),
            Failed::Wrong(text) => {
                if let [mirror] = &seen.gave[..] {
                    package.repository.failed(mirror);
                    warn!(
                        mirror = shown(mirror),
                        name = package.name,
                        "a mirror has other bytes than the database says"
                    );
                    node.do_not_lead_to(answer, package, mirror);
                    caught.push(mirror.clone());
                }
                why = text;
            }
            Failed::Late(text) | Failed::Disk(text) => {
                return Err(node.elsewhere(answer, package, &text));
            }
            Failed::Nobody(text) => {
                why = text;
                if seen.gave.len() <= 1 {
                    break;
                }
            }
        }
    }
    Err(match node.elsewhere(answer, package, &why) {
        FetchError::NoSource { cid, .. } if !caught.is_empty() => FetchError::Wrong { cid, why },
        error => error,
    })
}

async fn keep(
    node: &Node,
    package: &Arc<PackageOf>,
    arrived: Arrived,
    room: Reservation,
) -> Result<Cid, StoreError> {
    let (inner, private) = (Arc::clone(&node.inner), !package.repository.config.public);
    node.disk(move || {
        let hidden = private.then_some(&*inner.privacy.hidden);
        Ok(arrived.keep(&inner.store, hidden, Held::Within(room))?.root)
    })
    .await
}

/// How the mirrors that were asked behaved.
#[derive(Default)]
struct Seen {
    gave: Vec<Url>,
    /// They sent no byte when they were asked last, for all the time that they had.
    silent: Vec<Url>,
}

impl Seen {
    fn note(&mut self, mirror: &Url, bytes: u64, (asked, stall): (Instant, Duration)) {
        self.silent.retain(|known| known != mirror);
        if bytes == 0 && stall <= asked.elapsed() {
            self.silent.push(mirror.clone());
        }
        if bytes > 0 && !self.gave.contains(mirror) {
            self.gave.push(mirror.clone());
        }
    }
}

/// Reads the file from `mirrors` in turn; each goes on where the one before left off.
async fn receive(
    node: &Node,
    answer: &FileAnswer,
    package: &PackageOf,
    mirrors: &[Url],
    hold: &Hold,
    seen: &mut Seen,
) -> Result<Arrived, Failed> {
    let tasks = &node.inner.tasks;
    let disk = |error: io::Error| Failed::Disk(error.to_string());
    let mut incoming = Incoming::new(&node.inner.store, tasks).await.map_err(disk)?;
    let mut why = "no mirror to ask".to_owned();
    let mut shares = Vec::new();
    let mut slow: Option<Slow<'_>> = None;
    // Twice around: a mirror that stalled may go on, and then all the time that there is counts.
    let mut order: VecDeque<(usize, &Url)> = mirrors.iter().chain(mirrors).enumerate().collect();
    loop {
        let Some((turn, mirror)) = order.pop_front() else {
            // None is fast enough for one request.
            let Some(first) = &slow else { break };
            if !first.goes_on(node, answer, hold, incoming.len()).await {
                break;
            }
            order.push_back((0, first.mirror));
            slow = None;
            continue;
        };
        let left = hold.left();
        if left.is_zero() {
            break;
        }
        if let Some(slow) = &slow
            && (mirrors.len() <= turn || !package.repository.may_be_faster(mirror, slow.rate))
        {
            continue;
        }
        let stall = stall(turn, mirrors.len(), left);
        if let Some(rate) = hopeless(package, mirror, answer.len - incoming.len(), hold) {
            slow.get_or_insert(Slow { mirror, rate });
            continue;
        }
        let asked = Instant::now();
        let wanted = incoming.len()..answer.len;
        let mut response = match ask(node, package, mirror, wanted, (hold, stall)).await {
            Ok(response) => response,
            Err(error) => {
                why = chain(&error);
                // A request that was dropped tells the ranking nothing by itself.
                if matches!(error, HttpError::Stalled { .. }) {
                    package.repository.failed(mirror);
                }
                seen.note(mirror, 0, (asked, stall));
                continue;
            }
        };
        if incoming.len() != 0 && response.range.is_none() {
            continue;
        }
        let start = incoming.len();
        let ended = loop {
            let (before, began) = (incoming.len(), Instant::now());
            let ended;
            (incoming, ended) = stretch(node, &mut response, incoming, answer.len, (hold, stall))
                .await
                .map_err(disk)?;
            let got = incoming.len() - before;
            shares.push((mirror, got));
            seen.note(mirror, incoming.len() - start, (asked, stall));
            package.repository.measured(mirror, got, began.elapsed());
            let Ended::Late = ended else { break ended };
            let rate = got as f64 / began.elapsed().as_secs_f64().max(1e-6);
            let this = Slow { mirror, rate };
            let may_be_faster = |(turn, other): &(usize, &Url)| {
                *turn < mirrors.len() && package.repository.may_be_faster(other, rate)
            };
            match slow.take() {
                // Another one is tried first.
                None if order.iter().any(may_be_faster) => slow = Some(this),
                None if this.goes_on(node, answer, hold, incoming.len()).await => continue,
                None => slow = Some(this),
                Some(first) => {
                    first.is_left_behind_by(rate, package);
                    let best = if first.rate < rate { &this } else { &first };
                    if !best.goes_on(node, answer, hold, incoming.len()).await {
                        return Err(first.failure());
                    }
                    if best.mirror == mirror {
                        continue;
                    }
                    order.push_front((0, first.mirror));
                }
            }
            break Ended::Late;
        };
        match ended {
            Ended::Whole => break,
            Ended::Late => {}
            Ended::Broken(text) => {
                why = text;
                package.repository.failed(mirror);
            }
        }
    }
    if incoming.len() != answer.len {
        if let Some(slow) = slow {
            return Err(slow.failure());
        }
        return Err(if hold.left().is_zero() {
            Failed::Late(why)
        } else {
            Failed::Nobody(why)
        });
    }
    hold.beats();
    let arrived = incoming.finish(tasks).await.map_err(disk)?;
    if arrived.sha256 == package.sha256 {
        for (mirror, bytes) in shares.into_iter().filter(|(_, bytes)| *bytes > 0) {
            node.inner.fetch.came_from(&arrived.dag.root, mirror, bytes);
        }
        Ok(arrived)
    } else {
        Err(Failed::Wrong("other bytes than the database says".to_owned()))
    }
}

/// How long the mirror of this turn may send nothing, of the time that is `left`. All are asked once, with a share for
/// who gives at last.
fn stall(turn: usize, mirrors: usize, left: Duration) -> Duration {
    let share = |turns: usize| left / u32::try_from(turns).unwrap_or(u32::MAX).max(1);
    if turn < mirrors {
        share(mirrors - turn + 1).clamp(LEAST_STALL, STALL)
    } else {
        STALL.max(share((2 * mirrors).saturating_sub(turn)))
    }
}

/// The mirror that was asked first and is too slow. One other is tried then, if it may be faster.
struct Slow<'a> {
    mirror: &'a Url,
    /// Bytes a second.
    rate: f64,
}

impl Slow<'_> {
    fn failure(&self) -> Failed {
        Failed::Late(format!("{} is too slow for it", shown(self.mirror)))
    }

    /// Whether it is fast enough for neighbours and us together, from the first `here` bytes on.
    async fn goes_on(&self, node: &Node, answer: &FileAnswer, hold: &Hold, here: u64) -> bool {
        let needed = time_for(answer.len - here, self.rate);
        let neighbours = node.inner.fetch.neighbours();
        hold.goes_on(&answer.root, needed, neighbours).await
    }

    /// Another one gave `rate`: what is so slow that its rate is no measurement is known to be slower all the same.
    fn is_left_behind_by(&self, rate: f64, package: &PackageOf) {
        if self.rate * 2.0 <= rate && package.repository.ranking.rate(self.mirror).is_none() {
            package.repository.failed(self.mirror);
        }
    }
}

/// How long so many bytes take at `rate`.
pub(super) fn time_for(bytes: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(Duration::MAX)
}

/// Its rate, if what was seen of the mirror lately says that `bytes` cannot be here in time.
fn hopeless(package: &PackageOf, mirror: &Url, bytes: u64, hold: &Hold) -> Option<f64> {
    let left = hold.left().as_secs_f64();
    // Lines are shared and change: only what is clearly too much counts.
    package
        .repository
        .rate(mirror)
        .filter(|rate| left * 2.0 < bytes as f64 / rate)
}

async fn ask(
    node: &Node,
    package: &PackageOf,
    mirror: &Url,
    wanted: Range<u64>,
    (hold, stall): (&Hold, Duration),
) -> Result<Response, HttpError> {
    let stalled = || HttpError::Stalled {
        url: shown(mirror),
        after: stall,
    };
    let url = url_of(mirror, package.name.as_bytes()).map_err(|_| stalled())?;
    let mut get = Get::new(&url);
    get.max_len = Some(wanted.end - wanted.start);
    get.range = Some(wanted).filter(|wanted| wanted.start > 0);
    get.if_range_ignored = IfRangeIgnored::Fail;
    get.deadline = Some(hold.at_most());
    let answered = tokio::time::timeout(stall, node.inner.http.get(&get)).await;
    answered.map_err(|_| stalled())?
}

/// How one mirror's answer ended.
enum Ended {
    Whole,
    Late,
    Broken(String),
}

async fn stretch(
    node: &Node,
    response: &mut Response,
    mut incoming: Incoming,
    len: u64,
    (hold, stall): (&Hold, Duration),
) -> io::Result<(Incoming, Ended)> {
    let (began, start) = (Instant::now(), incoming.len());
    loop {
        // Who has begun is given the time to go on.
        let patience = if incoming.len() == start {
            stall
        } else {
            stall.max(STALL)
        };
        let piece = match tokio::time::timeout(patience.min(hold.left()), response.chunk()).await {
            Err(_) if hold.left().is_zero() => return Ok((incoming, Ended::Late)),
            Err(_) => return Ok((incoming, Ended::Broken("a mirror stalled".to_owned()))),
            Ok(Err(HttpError::Deadline { .. })) if hold.left().is_zero() => {
                return Ok((incoming, Ended::Late));
            }
            Ok(Err(error)) => return Ok((incoming, Ended::Broken(chain(&error)))),
            Ok(Ok(None)) if incoming.len() == len => return Ok((incoming, Ended::Whole)),
            Ok(Ok(None)) => return Ok((incoming, Ended::Broken("a mirror ended early".to_owned()))),
            Ok(Ok(Some(piece))) => piece,
        };
        incoming = incoming.push(&node.inner.tasks, piece).await?;
        let elapsed = began.elapsed();
        if WATCHED < elapsed {
            let rate = (incoming.len() - start) as f64 / elapsed.as_secs_f64();
            let needed = time_for(len - incoming.len(), rate);
            if hold.left() < needed {
                return Ok((incoming, Ended::Late));
            }
            hold.moves(needed);
        }
    }
}
