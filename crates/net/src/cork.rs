//! Fewer system calls under the muxer: its small writes go out together, and more is read at a time than it asks for.
//!
//! yamux writes a frame of 16 KiB as twelve bytes and the rest, and flushes after each; TLS makes a record and a system
//! call of every write. [`Corked`] stands between the two: what the muxer writes in one go (up to [`CORK`]) becomes one
//! write below. Under TLS, [`AHEAD`] bytes are read at a time.
//!
//! - Invariant: what is corked leaves before the muxer waits: yamux reads after its last flush, and each read, a full
//!   cork and the end push out what is left. So only a user that always reads before it waits may write here, which yamux
//!   does (and Noise and TLS do while they shake hands, below the cork, without it).
//! - Invariant: an idle connection holds no buffer of a cork, and [`AHEAD`] bytes to read into: 24 MiB for all that there
//!   may be (`crate::config::MAX_CONNECTIONS`).
//! - Not here: what the muxer is told (`crate::behaviour`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::{BoxFuture, FutureExt as _};
use futures::io::{AsyncRead, AsyncWrite, BufReader};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

/// What is written together at most, in bytes: what rustls takes in one piece.
const CORK: usize = 64 << 10;

/// What is read from the system at a time, in bytes.
const AHEAD: usize = 32 << 10;

/// A security upgrade with a cork on its stream.
#[derive(Clone, Debug)]
pub(crate) struct Cork<U>(pub(crate) U);

impl<U: UpgradeInfo> UpgradeInfo for Cork<U> {
    type Info = U::Info;
    type InfoIter = U::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C, U, S> InboundConnectionUpgrade<C> for Cork<U>
where
    C: AsyncRead,
    U: InboundConnectionUpgrade<BufReader<C>, Output = (PeerId, S)>,
    S: AsyncWrite + Unpin,
    U::Future: Send + 'static,
{
    type Output = (PeerId, Corked<S>);
    type Error = U::Error;
    type Future = BoxFuture<'static, Result<Self::Output, U::Error>>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        corked(
            self.0
                .upgrade_inbound(BufReader::with_capacity(AHEAD, socket), info),
        )
    }
}

impl<C, U, S> OutboundConnectionUpgrade<C> for Cork<U>
where
    C: AsyncRead,
    U: OutboundConnectionUpgrade<BufReader<C>, Output = (PeerId, S)>,
    S: AsyncWrite + Unpin,
    U::Future: Send + 'static,
{
    type Output = (PeerId, Corked<S>);
    type Error = U::Error;
    type Future = BoxFuture<'static, Result<Self::Output, U::Error>>;

    fn upgrade_outbound(self, socket: C, info: Self::Info) -> Self::Future {
        corked(
            self.0
                .upgrade_outbound(BufReader::with_capacity(AHEAD, socket), info),
        )
    }
}

fn corked<S: AsyncWrite + Unpin, E>(
    upgrade: impl Future<Output = Result<(PeerId, S), E>> + Send + 'static,
) -> BoxFuture<'static, Result<(PeerId, Corked<S>), E>> {
    upgrade
        .map(|done| done.map(|(peer, stream)| (peer, Corked::new(stream))))
        .boxed()
}

/// A stream whose writes wait for each other; see the module for who may use it.
#[derive(Debug)]
pub(crate) struct Corked<S> {
    stream: S,
    /// What was written here and not yet below; the first `sent` bytes of it are.
    waiting: Vec<u8>,
    sent: usize,
    /// Whether something was written below that is not flushed there.
    unflushed: bool,
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            waiting: Vec::new(),
            sent: 0,
            unflushed: false,
        }
    }

    /// Writes below what waits.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
            self.unflushed = true;
        }
        self.waiting = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes below what waits, and flushes it.
    fn poll_uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_push(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        // Whether it gets through or not, reading goes on: the peer may wait for us to read before it reads.
        if let Poll::Ready(Err(error)) = self.poll_uncork(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= CORK {
            ready!(self.poll_push(cx))?;
        }
        if self.waiting.is_empty() {
            self.waiting.reserve_exact(CORK);
        }
        let taken = bytes.len().min(CORK - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    /// A hint: what waits goes out when the cork is full, or at the next read.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.len() >= CORK {
            return self.poll_uncork(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_uncork(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    /// A stream below that takes `takes` bytes a write, or none while it is `busy`, and has nothing to read.
    #[derive(Default)]
    struct Below {
        takes: usize,
        busy: bool,
        writes: Vec<Vec<u8>>,
        flushed: usize,
        closed: bool,
    }

    impl AsyncRead for Below {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Below {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.busy {
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.takes);
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed = self.writes.len();
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    fn over(takes: usize) -> Corked<Below> {
        Corked::new(Below {
            takes,
            ..Below::default()
        })
    }

    fn write(corked: &mut Corked<Below>, bytes: &[u8]) -> Poll<usize> {
        let cx = &mut Context::from_waker(noop_waker_ref());
        Pin::new(&mut *corked).poll_write(cx, bytes).map(Result::unwrap)
    }

    fn flush(corked: &mut Corked<Below>) -> Poll<()> {
        let cx = &mut Context::from_waker(noop_waker_ref());
        Pin::new(&mut *corked).poll_flush(cx).map(Result::unwrap)
    }

    fn read(corked: &mut Corked<Below>) {
        let cx = &mut Context::from_waker(noop_waker_ref());
        assert!(Pin::new(&mut *corked).poll_read(cx, &mut [0; 16]).is_pending());
    }

    #[test]
    fn frames_of_one_go_leave_as_one_write_before_the_muxer_waits() {
        let mut corked = over(usize::MAX);
        for frame in 0..3_u8 {
            assert_eq!(write(&mut corked, &[frame; 12]), Poll::Ready(12));
            assert_eq!(write(&mut corked, &[frame; 1000]), Poll::Ready(1000));
            assert_eq!(flush(&mut corked), Poll::Ready(()));
        }
        assert!(corked.stream.writes.is_empty());
        read(&mut corked);
        assert_eq!(corked.stream.writes.len(), 1);
        let expected: Vec<u8> = (0..3_u8).flat_map(|frame| [frame; 1012]).collect();
        assert_eq!(corked.stream.writes[0], expected);
        assert_eq!(corked.stream.flushed, 1);
        assert_eq!(corked.waiting.capacity(), 0, "an idle cork holds a buffer");
        // Nothing is left to do.
        read(&mut corked);
        assert_eq!(corked.stream.writes.len(), 1);
    }

    #[test]
    fn a_full_cork_waits_for_the_stream_below_and_loses_nothing() {
        let mut corked = over(10_000);
        corked.stream.busy = true;
        let bytes: Vec<u8> = (0..3 * CORK).map(|at| (at % 251) as u8).collect();
        let mut at = 0;
        while let Poll::Ready(taken) = write(&mut corked, &bytes[at..]) {
            at += taken;
            assert!(at <= CORK, "more than a cork is taken");
        }
        assert_eq!(at, CORK);
        assert!(flush(&mut corked).is_pending(), "a full cork is flushed");
        read(&mut corked);
        corked.stream.busy = false;
        while at < bytes.len() {
            let Poll::Ready(taken) = write(&mut corked, &bytes[at..]) else {
                panic!("the stream below takes bytes");
            };
            at += taken;
        }
        let cx = &mut Context::from_waker(noop_waker_ref());
        assert!(Pin::new(&mut corked).poll_close(cx).is_ready());
        assert!(corked.stream.closed);
        assert_eq!(corked.stream.writes.concat(), bytes);
        assert_eq!(corked.stream.flushed, corked.stream.writes.len());
    }

    #[test]
    fn a_stream_that_takes_nothing_is_an_error() {
        let mut corked = over(0);
        assert_eq!(write(&mut corked, b"frame"), Poll::Ready(5));
        let cx = &mut Context::from_waker(noop_waker_ref());
        let Poll::Ready(Err(error)) = Pin::new(&mut corked).poll_read(cx, &mut [0; 16]) else {
            panic!("no error");
        };
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
