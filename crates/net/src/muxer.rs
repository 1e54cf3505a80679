//! yamux, with a bound on what peers sent and nobody has read yet.
//!
//! A stream may be sent 256 KiB before anybody reads of it, and a connection has many: streams that wait for their turn
//! could fill hundreds of MB for each connection. What waits is counted here, by the headers of the frames that come in
//! and by what is read. Where all connections together hold more than [`ALL`], one that goes on sending and holds no less
//! than the average of them ends.
//!
//! - Invariant: all connections together hold no more than [`ALL`] and what [`FAIR`] allows each of them.
//! - Invariant: a connection that holds less than [`FAIR`] never ends for what others do.
//! - Not here: QUIC, which bounds what a connection may send; how many connections there are (`crate::budget`).
//! - Read first: decision 19.

use std::collections::{HashMap, VecDeque};
use std::future::{Ready, ready};
use std::io;
use std::iter::{Once, once};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use tracing::debug;
use yamux::{Connection, ConnectionError, Mode};

/// What all connections together may hold unread, in bytes.
const ALL: u64 = 128 << 20;

/// What one may hold whatever the others do, in bytes: two windows of a stream at their largest.
const FAIR: u64 = 2 << 20;

/// New streams that wait until the swarm takes them; as in libp2p's own muxer, more are reset.
const WAITING: usize = 256;

/// Bytes of the header of a frame.
const HEADER: usize = 12;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
#[error("the peer sends on, and {0} bytes of what it sent are not read")]
struct Unread(u64);

/// What all connections hold.
#[derive(Debug)]
struct All {
    unread: AtomicU64,
    connections: AtomicUsize,
    most: u64,
    fair: u64,
}

/// What one connection holds.
#[derive(Debug)]
struct Held {
    all: Arc<All>,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    /// Those that somebody may still read of.
    unread: HashMap<u32, u64>,
    sum: u64,
}

impl Held {
    fn new(all: &Arc<All>) -> Arc<Self> {
        all.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            all: Arc::clone(all),
            streams: Mutex::default(),
        })
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, stream: u32) {
        self.streams().unread.entry(stream).or_default();
    }

    /// `bytes` came. What comes for a stream that is gone is thrown away by yamux.
    fn came(&self, stream: u32, bytes: u64) -> io::Result<()> {
        let mut streams = self.streams();
        let Some(unread) = streams.unread.get_mut(&stream) else {
            return Ok(());
        };
        *unread += bytes;
        streams.sum += bytes;
        let all = self.all.unread.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let average = all / self.all.connections.load(Ordering::Relaxed).max(1) as u64;
        if self.all.most < all && self.all.fair.max(average) <= streams.sum {
            return Err(io::Error::other(Unread(streams.sum)));
        }
        Ok(())
    }

    fn read(&self, stream: u32, bytes: u64) {
        let mut streams = self.streams();
        if let Some(unread) = streams.unread.get_mut(&stream) {
            let bytes = bytes.min(*unread);
            *unread -= bytes;
            self.less(&mut streams, bytes);
        }
    }

    fn end(&self, stream: u32) {
        let mut streams = self.streams();
        let unread = streams.unread.remove(&stream).unwrap_or_default();
        self.less(&mut streams, unread);
    }

    fn less(&self, streams: &mut Streams, bytes: u64) {
        streams.sum -= bytes;
        self.all.unread.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.unread.fetch_sub(self.streams().sum, Ordering::Relaxed);
        self.all.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What comes in, taken apart into frames on its way to yamux.
#[derive(Debug)]
pub(crate) struct Counted<C> {
    socket: C,
    held: Arc<Held>,
    header: [u8; HEADER],
    /// Bytes of the header that came.
    at: usize,
    /// Bytes of the body that are to come, and of which stream.
    body: (u64, u32),
}

impl<C> Counted<C> {
    fn new(socket: C, held: &Arc<Held>) -> Self {
        Self {
            socket,
            held: Arc::clone(held),
            header: [0; HEADER],
            at: 0,
            body: (0, 0),
        }
    }

    fn see(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (left, stream) = self.body;
            if left > 0 {
                let here = left.min(bytes.len() as u64);
                self.body.0 -= here;
                self.held.came(stream, here)?;
                bytes = &bytes[here as usize..];
                continue;
            }
            let here = (HEADER - self.at).min(bytes.len());
            self.header[self.at..self.at + here].copy_from_slice(&bytes[..here]);
            self.at += here;
            bytes = &bytes[here..];
            if self.at == HEADER {
                self.at = 0;
                self.frame();
            }
        }
        Ok(())
    }

    /// Source: the yamux specification, "framing". What is malformed yamux refuses.
    fn frame(&mut self) {
        let [_, kind, _, flags, number @ ..] = self.header;
        let [a, b, c, d, len @ ..] = number;
        let (stream, len) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(len));
        let (data, window_update, syn, rst) = (0, 1, 1, 8);
        // yamux makes no stream of one that is reset with its first frame: nobody would ever end it.
        if (kind == data || kind == window_update) && flags & (syn | rst) == syn {
            self.held.begin(stream);
        }
        if kind == data {
            self.body = (u64::from(len), stream);
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        self.see(&buf[..count])?;
        Poll::Ready(Ok(count))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

/// A stream whose unread bytes are counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    stream: yamux::Stream,
    held: Arc<Held>,
}

impl Stream {
    fn new(stream: yamux::Stream, held: &Arc<Held>) -> Self {
        held.begin(stream.id().val());
        Self {
            stream,
            held: Arc::clone(held),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.held.end(self.stream.id().val());
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.held.read(self.stream.id().val(), count as u64);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: Connection<Counted<C>>,
    held: Arc<Held>,
    /// Streams that came while nobody asked for one: yamux makes progress only by looking for them.
    waiting: VecDeque<Stream>,
    waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(socket: C, config: &Config, mode: Mode) -> Self {
        let held = Held::new(&config.all);
        Self {
            connection: Connection::new(Counted::new(socket, &held), config.yamux.clone(), mode),
            held,
            waiting: VecDeque::new(),
            waker: None,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(cx)).unwrap_or(Err(ConnectionError::Closed));
        Poll::Ready(next.map(|stream| Stream::new(stream, &self.held)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_next(cx);
        if next.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(self.connection.poll_new_outbound(cx))?;
        Poll::Ready(Ok(Stream::new(stream, &self.held)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let stream = ready!(self.poll_next(cx))?;
        if self.waiting.len() < WAITING {
            self.waiting.push_back(stream);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        } else {
            debug!("a new stream is reset: too many wait");
        }
        // Others have their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Makes connections that count together.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    yamux: yamux::Config,
    all: Arc<All>,
}

impl Config {
    /// So many streams for each connection.
    pub(crate) fn new(streams: usize) -> Self {
        Self::with(streams, ALL, FAIR)
    }

    fn with(streams: usize, most: u64, fair: u64) -> Self {
        let mut yamux = yamux::Config::default();
        yamux.set_max_num_streams(streams);
        let all = Arc::new(All {
            unread: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            most,
            fair,
        });
        Self { yamux, all }
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(socket, &self, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Config {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(socket, &self, Mode::Client)))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::future::{join, join_all};
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const KIB: u64 = 1024;

    #[derive(Debug, Default)]
    struct Way {
        bytes: VecDeque<u8>,
        is_over: bool,
        reader: Option<Waker>,
    }

    /// One end of a line without bounds.
    #[derive(Debug)]
    struct End {
        to: Arc<Mutex<Way>>,
        from: Arc<Mutex<Way>>,
    }

    fn line() -> (End, End) {
        let ways: [Arc<Mutex<Way>>; 2] = std::array::from_fn(|_| Arc::default());
        let end = |to: usize| End {
            to: Arc::clone(&ways[to]),
            from: Arc::clone(&ways[1 - to]),
        };
        (end(0), end(1))
    }

    impl Drop for End {
        fn drop(&mut self) {
            let mut way = self.to.lock().unwrap();
            way.is_over = true;
            way.reader.take().into_iter().for_each(Waker::wake);
        }
    }

    impl AsyncRead for End {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            let mut way = self.from.lock().unwrap();
            if way.bytes.is_empty() && !way.is_over {
                way.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(io::Read::read(&mut way.bytes, buf))
        }
    }

    impl AsyncWrite for End {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let mut way = self.to.lock().unwrap();
            way.bytes.extend(buf);
            way.reader.take().into_iter().for_each(Waker::wake);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A peer that sends `each` bytes on each of so many streams, until all are sent or the connection is over. It
    /// hangs up when what is returned is dropped.
    async fn send(end: End, streams: usize, each: u64) -> (bool, Connection<End>, Vec<yamux::Stream>) {
        let mut connection = Connection::new(end, yamux::Config::default(), Mode::Client);
        let mut open = Vec::new();
        for _ in 0..streams {
            open.push(poll_fn(|cx| connection.poll_new_outbound(cx)).await.unwrap());
        }
        let data = vec![7; usize::try_from(each).unwrap()];
        let sending = async {
            let sent = join_all(open.iter_mut().map(async |stream| {
                stream.write_all(&data).await?;
                stream.close().await
            }));
            sent.await.into_iter().all(|sent| sent.is_ok())
        };
        let driving = poll_fn(|cx| connection.poll_next_inbound(cx));
        let sent = tokio::select! {
            sent = sending => sent,
            _ = driving => false,
        };
        // What was written waits in the connection until it is driven again.
        poll_fn(|cx| {
            let _ = connection.poll_next_inbound(cx);
            Poll::Ready(())
        })
        .await;
        (sent, connection, open)
    }

    /// Takes streams, and reads nothing of them, until so many are there or the connection ends.
    async fn take(muxer: &mut Muxer<End>, streams: usize) -> (Vec<Stream>, Option<ConnectionError>) {
        let mut taken = Vec::new();
        while taken.len() < streams {
            match poll_fn(|cx| Pin::new(&mut *muxer).poll_inbound(cx)).await {
                Ok(stream) => taken.push(stream),
                Err(error) => return (taken, Some(error)),
            }
        }
        (taken, None)
    }

    /// Drives it until all that was sent is in; why it ended, if it did.
    async fn drive(muxer: &mut Muxer<End>, line: &Mutex<Way>) -> Option<ConnectionError> {
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut *muxer).poll(cx) {
                    return Poll::Ready(ended.err());
                }
                if line.lock().unwrap().bytes.is_empty() {
                    return Poll::Ready(None);
                }
            }
        })
        .await
    }

    fn unread(config: &Config) -> u64 {
        config.all.unread.load(Ordering::Relaxed)
    }

    /// A connection, the peer's end of it, and what is on its way to us.
    fn server(config: &Config) -> (Muxer<End>, End, Arc<Mutex<Way>>) {
        let (ours, theirs) = line();
        let coming = Arc::clone(&ours.from);
        (Muxer::new(ours, config, Mode::Server), theirs, coming)
    }

    /// A peer floods until it is let go.
    async fn flood(config: &Config) {
        let (mut muxer, to, coming) = server(config);
        let (_sent, (_streams, ended)) = join(send(to, 60, 200 * KIB), take(&mut muxer, 60)).await;
        let ended = match ended {
            Some(ended) => Some(ended),
            None => drive(&mut muxer, &coming).await,
        };
        let ended = ended.expect("it ends").to_string();
        assert!(ended.contains("are not read"), "{ended}");
        let held = unread(config);
        assert!((900 * KIB..1100 * KIB).contains(&held), "{held}");
    }

    #[tokio::test]
    async fn who_sends_more_than_is_read_loses_its_connection_and_nobody_else_does() {
        let config = Config::with(512, 1024 * KIB, 300 * KIB);
        flood(&config).await;
        assert_eq!(unread(&config), 0, "alone as well");
        let (mut other, to_other, coming) = server(&config);
        let (sent, (mut taken, _)) = join(send(to_other, 1, 100 * KIB), take(&mut other, 1)).await;
        assert!(sent.0);
        assert!(drive(&mut other, &coming).await.is_none());
        assert_eq!(unread(&config), 100 * KIB);

        flood(&config).await;
        assert_eq!(unread(&config), 100 * KIB, "its memory is free");

        let mut all = Vec::new();
        taken[0].read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len() as u64, 100 * KIB);
        assert!(drive(&mut other, &coming).await.is_none());
        assert_eq!(unread(&config), 0);
    }

    /// No stream comes of such frames, so none could ever be dropped.
    #[tokio::test]
    async fn streams_that_are_reset_as_they_begin_leave_nothing() {
        let config = Config::new(512);
        let (mut muxer, mut to, coming) = server(&config);
        for number in 0..10_000_u32 {
            let (data, window_update, syn_and_rst) = (0, 1, 9);
            let kind = if number % 2 == 0 { data } else { window_update };
            let mut frame = [0, kind, 0, syn_and_rst, 0, 0, 0, 0, 0, 0, 0, 0];
            frame[4..8].copy_from_slice(&(2 * number + 1).to_be_bytes());
            to.write_all(&frame).await.unwrap();
        }
        assert!(drive(&mut muxer, &coming).await.is_none());
        assert_eq!(muxer.held.streams().unread.len(), 0);
    }

    #[tokio::test]
    async fn what_was_read_or_is_given_up_counts_no_more() {
        let config = Config::with(512, 600 * KIB, 0);
        let (mut muxer, to, coming) = server(&config);
        let (_sent, (mut taken, _)) = join(send(to, 2, 200 * KIB), take(&mut muxer, 2)).await;
        assert!(drive(&mut muxer, &coming).await.is_none());
        assert_eq!(unread(&config), 400 * KIB);
        let mut all = Vec::new();
        taken[0].read_to_end(&mut all).await.unwrap();
        assert_eq!((all.len() as u64, unread(&config)), (200 * KIB, 200 * KIB));
        drop(taken);
        assert_eq!(unread(&config), 0);
        drop(muxer);
        assert_eq!(config.all.connections.load(Ordering::Relaxed), 0);
    }
}
