//! Bodies: a file's bytes, from disk or while they arrive.
//!
//! A body that cannot go on ends in an error, which makes hyper break the connection:
//! pacman then sees a cut download and goes on at its next Server. It never ends early
//! as if it were whole.
//!
//! - Invariant: exactly the announced bytes, or a broken connection.
//! - Invariant: bytes are counted under the source this node first got them from.
//! - Not here: headers (`crate::answer`).

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use pacstore_node::{FetchError, FileAnswer, Giving, Node};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Any body of ours.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// No source goes on.
    #[error("the file cannot be given to its end")]
    Fetch(#[source] FetchError),
    /// Time is over.
    #[error("the daemon stops")]
    Leaving,
}

/// `body`, which keeps `held` until it is sent or given up, and breaks with `breaks`.
pub(crate) fn holding<T: Send + Unpin + 'static>(
    body: Body,
    breaks: Option<CancellationToken>,
    held: T,
) -> Body {
    let breaks = breaks.map(|token| Box::pin(token.cancelled_owned()));
    Holding {
        body,
        breaks,
        _held: held,
    }
    .boxed_unsync()
}

struct Holding<T> {
    body: Body,
    breaks: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _held: T,
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(breaks) = &mut this.breaks
            && breaks.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(BodyError::Leaving)));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A short text or page.
pub(crate) fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Bytes `range` of the file of `answer`, of which the first are there when this returns.
///
/// # Errors
/// Why not even the first can be had.
pub(crate) async fn file(node: Node, answer: &FileAnswer, range: Range<u64>) -> Result<Body, FetchError> {
    if range.is_empty() {
        // Nobody needs it for that, but whoever has not got it does not give it.
        node.open(answer).await?;
        return Ok(full(""));
    }
    let (giving, first) = node.give(answer, range.start, range.end).await?;
    Ok(begun(giving, first, range))
}

/// The same for somebody who is in no hurry, as pacman is.
///
/// # Errors
/// As [`file`].
pub(crate) async fn patient(node: Node, answer: &FileAnswer, range: Range<u64>) -> Result<Body, FetchError> {
    if range.is_empty() {
        node.open(answer).await?;
        return Ok(full(""));
    }
    let mut giving = node.give_slowly(answer, range.start, range.end).await?;
    let first = giving.read(range.start, range.end).await?;
    Ok(begun(giving, first, range))
}

fn begun(giving: Giving, first: Bytes, range: Range<u64>) -> Body {
    let rest = range.start + first.len() as u64..range.end;
    body(giving, first, rest)
}

fn body(giving: Giving, first: Bytes, rest: Range<u64>) -> Body {
    let state = (giving, rest, Some(first));
    let frames = stream::unfold(Some(state), |state| async {
        let (mut giving, range, first) = state?;
        if let Some(first) = first {
            return Some((Ok(Frame::data(first)), Some((giving, range, None))));
        }
        if range.is_empty() {
            return None;
        }
        match giving.read(range.start, range.end).await {
            Ok(data) => {
                let rest = range.start + data.len() as u64..range.end;
                Some((Ok(Frame::data(data)), Some((giving, rest, None))))
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "breaking a download off"
                );
                Some((Err(BodyError::Fetch(error)), None))
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}
