//! A TCP relay with a rate: a thin line between two nodes, that can be cut.
//!
//! - Invariant: bytes are passed on unchanged and in order; only time and end are touched.
//! - Not here: UDP (so no QUIC).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use pacstore_runtime::RateLimit;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::worker::Worker;

/// A listener on 127.0.0.1 that passes each connection on to a target.
#[derive(Debug)]
pub struct ThrottledRelay {
    address: SocketAddr,
    line: Arc<Line>,
    worker: Mutex<Option<Worker>>,
}

#[derive(Debug)]
struct Line {
    target: Mutex<SocketAddr>,
    up: Way,
    down: Way,
    paused: watch::Sender<bool>,
    /// Counted up to cut all connections that were made before.
    cuts: watch::Sender<u64>,
    connections: AtomicU64,
}

#[derive(Debug)]
struct Way {
    rate: RateLimit,
    bytes: AtomicU64,
    /// Connections are cut when `bytes` reaches it.
    most: AtomicU64,
}

impl ThrottledRelay {
    /// To `target`, at most `rate` bytes a second in each direction, over all connections.
    pub fn start(target: SocketAddr, rate: Option<u64>) -> io::Result<Self> {
        let way = || Way {
            rate: RateLimit::new(rate),
            bytes: AtomicU64::new(0),
            most: AtomicU64::new(u64::MAX),
        };
        let line = Arc::new(Line {
            target: Mutex::new(target),
            up: way(),
            down: way(),
            paused: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            connections: AtomicU64::new(0),
        });
        let shared = Arc::clone(&line);
        let (worker, address) = Worker::listen("relay", 0, move |client| pass(client, Arc::clone(&shared)))?;
        Ok(Self {
            address,
            line,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go from now on.
    pub fn set_target(&self, target: SocketAddr) {
        *self.line.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Another rate from now on, each direction; `None` = no limit.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.line.up.rate.set_rate(rate);
        self.line.down.rate.set_rate(rate);
    }

    /// Bytes that went to the target.
    pub fn up(&self) -> u64 {
        self.line.up.bytes.load(Relaxed)
    }

    /// Bytes that came from the target.
    pub fn down(&self) -> u64 {
        self.line.down.bytes.load(Relaxed)
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.line.connections.load(Relaxed)
    }

    /// Nothing passes from now on; connections stay open.
    pub fn pause(&self) {
        self.line.paused.send_replace(true);
    }

    /// It passes again.
    pub fn resume(&self) {
        self.line.paused.send_replace(false);
    }

    /// Breaks all connections; new ones are taken.
    pub fn cut(&self) {
        self.line.cuts.send_modify(|n| *n += 1);
    }

    /// Breaks the connection on which the `bytes`-th byte from the target arrives (counted
    /// from now), and each later one at its first byte, until [`ThrottledRelay::heal`].
    pub fn cut_after(&self, bytes: u64) {
        self.line
            .down
            .most
            .store(self.down().saturating_add(bytes), Relaxed);
    }

    /// Undoes [`ThrottledRelay::cut_after`] and [`ThrottledRelay::pause`].
    pub fn heal(&self) {
        self.line.down.most.store(u64::MAX, Relaxed);
        self.resume();
    }

    /// Breaks all connections and listens no more.
    pub fn close(&self) {
        drop(self.worker.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

async fn pass(mut client: TcpStream, line: Arc<Line>) {
    let mut cuts = line.cuts.subscribe();
    line.connections.fetch_add(1, Relaxed);
    let target = *line.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = server.set_nodelay(true);
    let (client_in, client_out) = client.split();
    let (server_in, server_out) = server.split();
    let both = async {
        // A half that ends lets the other go on; one that is cut ends both.
        tokio::try_join!(
            copy(client_in, server_out, &line, &line.up),
            copy(server_in, client_out, &line, &line.down)
        )
    };
    tokio::select! {
        _ = both => {}
        _ = cuts.changed() => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    line: &Line,
    way: &Way,
) -> io::Result<()> {
    let mut paused = line.paused.subscribe();
    let mut buf = vec![0; 16 * 1024];
    loop {
        let n = from.read(&mut buf).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        // The sender lives in `line`, so this waits for a resume or for ever.
        let _ = paused.wait_for(|paused| !paused).await;
        way.rate.take(n as u64).await;
        let left = way.most.load(Relaxed).saturating_sub(way.bytes.load(Relaxed));
        let n = n.min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buf[..n]).await?;
        way.bytes.fetch_add(n as u64, Relaxed);
        if left <= n as u64 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
}
