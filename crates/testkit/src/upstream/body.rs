//! The body of one answer, with what is to go wrong in it.
//!
//! - Invariant: without faults it is the bytes `pos..end` of the source, each once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use pacstore_runtime::RateLimit;
use tokio::sync::watch;
use tokio::time::sleep;

use super::content::Source;
use super::log::Entry;

/// The longest piece that is sent at once.
const PIECE: u64 = 64 * 1024;

/// A piece of an endless body.
const ZEROS: &[u8] = &[0; 16 * 1024];

pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, Broken>;

/// What is sent, and what goes wrong with it. Offsets are the file's.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) source: Source,
    pub(crate) pos: u64,
    pub(crate) end: u64,
    pub(crate) stall_at: Option<u64>,
    pub(crate) cut_at: Option<u64>,
    pub(crate) swap: Option<(u64, Bytes)>,
    pub(crate) flips: Vec<u64>,
    pub(crate) slow: Option<u64>,
    pub(crate) drip: Option<Duration>,
    pub(crate) endless: bool,
    pub(crate) limit: RateLimit,
    pub(crate) entry: Arc<Entry>,
    pub(crate) flushes: watch::Receiver<u64>,
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

pub(crate) fn page(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(never).boxed_unsync()
}

fn never(never: Infallible) -> Broken {
    match never {}
}

pub(crate) fn planned(plan: Plan) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(stream(plan)))
}

fn stream(plan: Plan) -> impl Stream<Item = Result<Frame<Bytes>, Broken>> + Send {
    futures::stream::unfold(Some(plan), |plan| async move {
        let mut plan = plan?;
        match plan.step().await {
            Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), Some(plan))),
            Ok(None) => None,
            Err(broken) => Some((Err(broken), None)),
        }
    })
}

impl Plan {
    async fn step(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.endless {
            let zeros = Bytes::from_static(ZEROS);
            self.pace(zeros.len() as u64).await;
            return Ok(Some(zeros));
        }
        if self.stall_at == Some(self.pos) {
            std::future::pending::<()>().await;
        }
        if self.cut_at == Some(self.pos) {
            // While this waits hyper writes out what it holds.
            self.flushes.mark_unchanged();
            let _ = self.flushes.changed().await;
            return Err("the fault cuts the connection here".into());
        }
        if self.pos >= self.end {
            self.entry.complete();
            return Ok(None);
        }
        let n = self.piece();
        let bytes = self.read(n)?;
        if bytes.is_empty() {
            return Err("the file became shorter".into());
        }
        self.pace(bytes.len() as u64).await;
        self.pos += bytes.len() as u64;
        self.entry.sent(bytes.len() as u64);
        // hyper asks for no more once the announced length is there.
        if self.pos == self.end && ![self.cut_at, self.stall_at].contains(&Some(self.end)) {
            self.entry.complete();
        }
        Ok(Some(bytes))
    }

    /// Up to the end, a place where something happens, or what is sent at once.
    fn piece(&self) -> u64 {
        let most = match (self.drip, self.slow) {
            (Some(_), _) => 1,
            (None, Some(rate)) => (rate / 20).clamp(1, PIECE),
            (None, None) => PIECE,
        };
        let places = [self.stall_at, self.cut_at, self.swap.as_ref().map(|(at, _)| *at)];
        let next = places.into_iter().flatten().filter(|at| self.pos < *at).min();
        most.min(self.end - self.pos)
            .min(next.map_or(u64::MAX, |at| at - self.pos))
    }

    fn read(&self, n: u64) -> Result<Bytes, Broken> {
        let swapped = self.swap.as_ref().filter(|(at, _)| *at <= self.pos);
        let bytes = match swapped {
            Some((_, other)) => Source::Memory(other.clone()).read(self.pos, n as usize)?,
            None => self.source.read(self.pos, n as usize)?,
        };
        let here = self.pos..self.pos + bytes.len() as u64;
        if !self.flips.iter().any(|at| here.contains(at)) {
            return Ok(bytes);
        }
        let mut bytes = bytes.to_vec();
        for at in self.flips.iter().filter(|at| here.contains(at)) {
            bytes[(at - self.pos) as usize] ^= 0x55;
        }
        Ok(bytes.into())
    }

    async fn pace(&self, n: u64) {
        self.limit.take(n).await;
        if let Some(period) = self.drip {
            sleep(period).await;
        } else if let Some(rate) = self.slow {
            sleep(Duration::from_secs_f64(n as f64 / rate.max(1) as f64)).await;
        }
    }
}
