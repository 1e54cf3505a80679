//! One peer's writer: our wants and our answers on one long-lived stream.
//!
//! While one message is written the next answer is built, so disk and network work at the
//! same time; more than these two are never held.
//!
//! - Invariant: what was not written is written again on a new stream; a want is never lost.
//! - Invariant: a peer that does not read holds at most one answer's credit, and loses its stream. After a second that
//!   credit is none that others wait for.
//! - Not here: what is asked (`crate::client`), what an answer holds (`crate::server`).

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use libp2p::Stream;
use pacstore_runtime::{Backoff, ByteBudget, ByteLease, Pool};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, trace};

use crate::client::{Full, Next};
use crate::config::{MAX_MESSAGE, TARGET_MESSAGE};
use crate::link::{OpenError, Peer, Speaks};
use crate::server::{self, Answer};
use crate::shared::Shared;
use crate::wire::Builder;

/// Credit of an answer before its size is known: a message of the usual size, or one largest block.
const ANSWER: u64 = (TARGET_MESSAGE + pacstore_dag::MAX_BLOCK) as u64;
/// Credit of an answer without blocks.
const PRESENCES: u64 = 256 * 1024;
/// How long an answer that its peer does not take may keep others from theirs.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// Streams that may fail before the peer's queue is thrown away.
const FAILURES: u32 = 4;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);

type Task<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// An answer with the credit that it holds.
#[derive(Debug)]
struct Ready {
    answer: Answer,
    lease: ByteLease,
    from: Lane,
}

/// Which credit an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// That of all peers to whom no rate holds.
    Near,
    /// That of all others.
    Limited,
    /// The small one of those who did not take their last answer.
    Slow,
}

impl Lane {
    fn credit(self, shared: &Shared) -> &ByteBudget {
        match self {
            Self::Near => &shared.sending,
            Self::Limited => &shared.limited,
            Self::Slow => &shared.slow,
        }
    }
}

/// What a write was given, and what became of it.
struct Written {
    stream: Stream,
    wants: bool,
    answer: Option<Ready>,
    result: io::Result<()>,
}

/// Runs until the peer's last connection is gone or the node stops.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let writer = Writer {
        backoff: Backoff::new(RETRY_FIRST, RETRY_LAST),
        shared: Arc::clone(&shared),
        peer: Arc::clone(&peer),
        speaks: Speaks::V12,
        stream: None,
        opening: None,
        building: None,
        writing: None,
        ready: VecDeque::new(),
        half_closed: false,
        spare: Vec::new(),
        failures: 0,
        slow: false,
    };
    tokio::select! {
        () = writer.drive() => {}
        () = peer.gone.cancelled() => {}
        () = shared.stop.cancelled() => {}
    }
}

struct Writer {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    speaks: Speaks,
    stream: Option<Stream>,
    opening: Task<Result<(Stream, Speaks), OpenError>>,
    building: Task<Option<Ready>>,
    writing: Task<Written>,
    /// Built and not written; two only after a stream broke.
    ready: VecDeque<Ready>,
    /// The peer will say nothing on our stream, as it should: there is no use in listening.
    half_closed: bool,
    /// Memory of the last answer, for the next.
    spare: Vec<u8>,
    failures: u32,
    backoff: Backoff,
    /// It did not take its last answer in time.
    slow: bool,
}

/// Waits for a task that may not be there, and takes it away once it is done.
async fn done<T>(task: &mut Task<T>) -> T {
    let Some(running) = task else {
        return pending().await;
    };
    let out = running.await;
    *task = None;
    out
}

impl Writer {
    async fn drive(mut self) {
        loop {
            self.build();
            let linger = self.write();
            let idle = self.building.is_none() && self.writing.is_none() && self.ready.is_empty();
            if idle {
                self.spare = Vec::new();
            }
            self.peer.busy_server.store(!idle, Ordering::Relaxed);
            let later = async {
                match linger {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                opened = done(&mut self.opening) => self.opened(opened),
                ready = done(&mut self.building) => self.ready.extend(ready),
                written = done(&mut self.writing) => self.written(written),
                broken = listen(&mut self.stream, self.half_closed) => self.heard(broken),
                () = self.peer.wake.notified() => {}
                () = later => {}
            }
        }
    }

    /// Starts building the next answer, if the peer waits for one and none is ready.
    fn build(&mut self) {
        if self.building.is_some()
            || !self.ready.is_empty()
            || self.stream.is_none() && self.writing.is_none()
        {
            // Without a stream there is no saying what the peer speaks; `write` opens one.
            return;
        }
        let (empty, blocks) = {
            let queue = self.peer.queue();
            (queue.is_empty(), queue.has_blocks())
        };
        if empty {
            return;
        }
        let (shared, peer, speaks) = (Arc::clone(&self.shared), Arc::clone(&self.peer), self.speaks);
        let buffer = std::mem::take(&mut self.spare);
        let ahead = self.writing.is_some();
        let slow = self.slow;
        self.building = Some(
            async move {
                let credit = if blocks { ANSWER } else { PRESENCES };
                let rate = shared.config.upload.as_ref();
                let rate = rate.filter(|_| !shared.is_local(&peer.id));
                let from = match rate {
                    _ if slow => Lane::Slow,
                    Some(_) => Lane::Limited,
                    None => Lane::Near,
                };
                let mut lease = credit_for(from.credit(&shared), credit, ahead).await;
                let work = {
                    let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
                    move || server::answer(&peer, shared.blocks.as_ref(), buffer, speaks)
                };
                let answer = shared.tasks.blocking(Pool::Disk, work).await.ok().flatten()?;
                lease.shrink_to(answer.buffer.capacity() as u64);
                if let Some(rate) = rate
                    && answer.bytes > 0
                {
                    rate.take(answer.bytes).await;
                }
                Some(Ready { answer, lease, from })
            }
            .boxed(),
        );
    }

    /// Starts writing what waits: wants first, they are short. Returns until when wants linger.
    fn write(&mut self) -> Option<Instant> {
        if self.writing.is_some() || self.opening.is_some() {
            return None;
        }
        let now = Instant::now();
        if self.stream.is_none() {
            let waits = !self.ready.is_empty()
                || !self.peer.queue().is_empty()
                || self.shared.client().has_wants(&self.peer.id);
            if waits {
                self.open();
            }
            return None;
        }
        let (wants, linger) = match self.shared.client().next_wants(&self.peer.id, now) {
            Next::Nothing => (None, None),
            Next::At(at) => (None, Some(at)),
            Next::Wants(entries, full) => {
                let mut out = Builder::new(Vec::new());
                out.wantlist(entries.iter(), full == Full::Yes);
                trace!(peer = %self.peer.id, entries = entries.len(), ?full, "wants");
                debug_assert!(
                    out.len() < MAX_MESSAGE,
                    "2048 entries of 200 bytes are below 4 MiB"
                );
                (Some(out.finish()), None)
            }
        };
        let answer = self.ready.pop_front();
        if wants.is_none() && answer.is_none() {
            return linger;
        }
        let stream = self.stream.take()?;
        self.writing = Some(write(Arc::clone(&self.shared), stream, wants, answer).boxed());
        None
    }

    fn open(&mut self) {
        let wait = (self.failures > 0).then(|| self.backoff.next());
        let peer = Arc::clone(&self.peer);
        self.opening = Some(
            async move {
                if let Some(wait) = wait {
                    sleep(wait).await;
                }
                let Some(link) = peer.link() else {
                    return Err(OpenError::Failed);
                };
                link.open().await.unwrap_or(Err(OpenError::Failed))
            }
            .boxed(),
        );
    }

    fn opened(&mut self, outcome: Result<(Stream, Speaks), OpenError>) {
        match outcome {
            Ok((stream, speaks)) => {
                self.speaks = speaks;
                self.stream = Some(stream);
                self.half_closed = false;
                self.shared.client().negotiated(self.peer.id, speaks);
            }
            Err(error) => {
                debug!(peer = %self.peer.id, ?error, "no outbound stream");
                self.failed();
                if error == OpenError::Unsupported {
                    self.shared.client().unsupported(self.peer.id, Instant::now());
                    self.give_up();
                }
            }
        }
    }

    fn written(&mut self, written: Written) {
        match written.result {
            Ok(()) => {
                self.failures = 0;
                self.slow = false;
                self.backoff.reset();
                self.stream = Some(written.stream);
                if written.wants {
                    self.shared.client().flushed(&self.peer.id, Instant::now());
                }
                if let Some(ready) = written.answer {
                    drop(ready.lease);
                    self.spare = ready.answer.buffer;
                }
            }
            Err(error) => {
                debug!(peer = %self.peer.id, %error, "outbound stream broke");
                self.shared.client().resend(&self.peer.id, Instant::now());
                let late = error.kind() == io::ErrorKind::TimedOut;
                self.slow |= late;
                match written.answer {
                    // Others wait for its credit, and there is no other for it.
                    Some(first) if late && first.from != Lane::Slow => self.give_up(),
                    Some(first) => self.ready.push_front(first),
                    None => {}
                }
                self.failed();
            }
        }
    }

    /// Our stream ended while nothing was written.
    fn heard(&mut self, broken: bool) {
        self.half_closed = true;
        if broken {
            debug!(peer = %self.peer.id, "peer closed our stream");
            self.stream = None;
            self.shared.client().resend(&self.peer.id, Instant::now());
        }
    }

    fn failed(&mut self) {
        self.failures += 1;
        if self.failures >= FAILURES {
            self.give_up();
        }
    }

    /// The peer takes no answers: drop them with their credit. Wants of ours are told again.
    fn give_up(&mut self) {
        self.ready.clear();
        self.building = None;
        self.peer.queue().clear();
    }
}

/// Notices that the peer closed our stream: true if it takes no more, false if it only closed its side.
async fn listen(stream: &mut Option<Stream>, half_closed: bool) -> bool {
    let Some(stream) = stream.as_mut().filter(|_| !half_closed) else {
        return pending().await;
    };
    let mut ignored = [0; 64];
    loop {
        match stream.read(&mut ignored).await {
            // A reset looks like this with yamux; only a write tells.
            Ok(0) => return stream.write(&[]).await.is_err(),
            Ok(_) => {}
            Err(_) => return true,
        }
    }
}

/// Waits for credit; an answer that is built ahead of need takes it only where there is plenty.
async fn credit_for(credit: &ByteBudget, bytes: u64, ahead: bool) -> ByteLease {
    if ahead && credit.in_use() > credit.limit() / 2 {
        let mut wait = Duration::from_millis(2);
        while credit.in_use() > credit.limit() / 2 {
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }
    credit.acquire(bytes).await
}

async fn write(
    shared: Arc<Shared>,
    mut stream: Stream,
    wants: Option<(Vec<u8>, usize)>,
    mut answer: Option<Ready>,
) -> Written {
    let had_wants = wants.is_some();
    let result = write_both(&shared, &mut stream, wants, answer.as_mut()).await;
    Written {
        stream,
        wants: had_wants,
        answer,
        result,
    }
}

async fn write_both(
    shared: &Shared,
    stream: &mut Stream,
    wants: Option<(Vec<u8>, usize)>,
    answer: Option<&mut Ready>,
) -> io::Result<()> {
    let (buffer, lease) = match answer {
        None => (None, None),
        Some(Ready { answer, lease, from }) => (Some(&answer.buffer[answer.start..]), Some((lease, from))),
    };
    let mut pace = Pace { shared, lease };
    if let Some((buffer, start)) = &wants {
        write_all(stream, &buffer[*start..], &mut pace).await?;
    }
    if let Some(buffer) = buffer {
        write_all(stream, buffer, &mut pace).await?;
    }
    pace.within(stream.flush()).await
}

/// Writes everything, as long as the peer takes a byte now and then.
async fn write_all(stream: &mut Stream, mut bytes: &[u8], pace: &mut Pace<'_>) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = pace.within(stream.write(bytes)).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
    }
    Ok(())
}

/// How long a peer may take nothing, and with which credit.
struct Pace<'a> {
    shared: &'a Shared,
    /// That of the answer that is being written, if one is.
    lease: Option<(&'a mut ByteLease, &'a mut Lane)>,
}

impl Pace<'_> {
    /// Waits for one step. If it takes long, and others may wait for its credit, that is exchanged for one that fewer wait
    /// for; where there is none left, it is as if it had taken too long.
    async fn within<T>(&mut self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let until = Instant::now() + self.shared.config.stream_stall;
        let mut step = std::pin::pin!(step);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Ok(done) = timeout(GIVES_WAY.min(left), step.as_mut()).await {
                return done;
            }
            if left <= GIVES_WAY {
                return Err(late());
            }
            if let Some((lease, from)) = &mut self.lease {
                let credit = from.credit(self.shared);
                let is_short = credit.limit() < credit.in_use() + ANSWER;
                if **from != Lane::Slow && is_short {
                    **lease = self.shared.slow.try_acquire(lease.len()).ok_or_else(late)?;
                    **from = Lane::Slow;
                }
            }
        }
    }
}
