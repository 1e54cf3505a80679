//! The line between the demo's two nodes: a TCP relay that can be slowed.
//!
//! On one machine a package is over before anybody could kill a node in the middle of
//! it. So node 2 reaches node 1 through this line, which is as fast as it can be until
//! the demo makes it as slow as a line on the internet.
//!
//! - Invariant: bytes are passed on unchanged and in order; only their time is touched.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use pacstore_runtime::{RateLimit, Tasks};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A line to one node.
#[derive(Debug)]
pub(super) struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    rate: RateLimit,
    down: AtomicU64,
}

impl Line {
    /// A line to `target` until `tasks` stop.
    pub(super) async fn start(target: SocketAddr, tasks: &Tasks) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("the line between the nodes cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            rate: RateLimit::new(None),
            down: AtomicU64::new(0),
        });
        tasks.spawn("demo/line", accept(listener, Arc::clone(&shared), tasks.clone()));
        Ok(Self { address, shared })
    }

    /// Where it begins.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead from now on.
    pub(super) fn set_target(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Bytes a second from the target from now on; `None` = no limit.
    pub(super) fn set_rate(&self, rate: Option<u64>) {
        self.shared.rate.set_rate(rate);
    }

    /// Bytes that came from the target so far.
    pub(super) fn down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: Tasks) {
    let stop = tasks.stop();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((client, _)) = accepted else { return };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tasks.spawn("demo/line connection", async move {
            if let Some(Err(error)) = stop.run_until_cancelled(pass(client, &shared)).await {
                tracing::debug!(%error, "a connection over the line ended");
            }
        });
    }
}

async fn pass(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_in, client_out) = client.split();
    let (server_in, server_out) = server.split();
    // When one end is gone, so is the line.
    tokio::select! {
        ended = copy(client_in, server_out, None) => ended,
        ended = copy(server_in, client_out, Some(shared)) => ended,
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    slowed: Option<&Shared>,
) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut piece).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        if let Some(shared) = slowed {
            shared.rate.take(n as u64).await;
            shared.down.fetch_add(n as u64, Ordering::Relaxed);
        }
        to.write_all(&piece[..n]).await?;
    }
}
