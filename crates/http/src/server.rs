//! The gateway's sockets: accept, bound, serve, stop.
//!
//! - Invariant: at most [`Limits::connections`] connections; above that whoever asks for nothing makes
//!   way, else new ones wait in the kernel's queue.
//! - Invariant: of an address that is not allowed nothing is read.
//! - Invariant: a connection that sends no complete header in time ([`Limits::header`]), or takes none
//!   of our bytes for [`TAKES_NOTHING`], is closed.
//! - Not here: what a request means (`crate::gateway`).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pacstore_runtime::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::allow::Allow;
use crate::body::holding;
use crate::gateway::{Caller, Gateway};
use crate::leaving::refusal;
use crate::slots::{Slot, Slots};

/// How long a client may take nothing of what we send.
const TAKES_NOTHING: Duration = Duration::from_mins(10);

/// What clients may take of us.
#[derive(Clone, Debug)]
pub struct Limits {
    /// To send a request's whole header, or to begin the next request.
    pub header: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Of them, those of one address that is not this machine's.
    pub each: usize,
    /// Whose connections are served.
    pub allow: Allow,
}

impl Default for Limits {
    /// 75 s for a header, 4096 connections, 1024 of one other machine, everybody who reaches us.
    fn default() -> Self {
        Self {
            header: Duration::from_secs(75),
            connections: 4096,
            each: 1024,
            allow: Allow::All,
        }
    }
}

/// One socket or several.
#[derive(Debug)]
pub struct Listeners(Vec<TcpListener>);

impl From<TcpListener> for Listeners {
    fn from(one: TcpListener) -> Self {
        Self(vec![one])
    }
}

impl From<Vec<TcpListener>> for Listeners {
    fn from(several: Vec<TcpListener>) -> Self {
        Self(several)
    }
}

impl Listeners {
    /// The next connection of any of them. Dropping the future loses none.
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        // Whoever was asked last is asked first no more: a flood at one starves no other.
        if !self.0.is_empty() {
            self.0.rotate_left(1);
        }
        poll_fn(|cx| {
            for listener in &self.0 {
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// How long open downloads may go on once the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves `gateway` on `listeners` until the task set stops.
pub async fn serve(listeners: impl Into<Listeners>, gateway: Gateway, tasks: Tasks) {
    serve_with(listeners, gateway, tasks, Limits::default()).await;
}

/// As [`serve`], with other limits.
pub async fn serve_with(listeners: impl Into<Listeners>, gateway: Gateway, tasks: Tasks, limits: Limits) {
    let mut listeners = listeners.into();
    let stop = tasks.stop();
    let slots = Slots::new(limits.connections, limits.each);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                slots.room().await;
                listeners.accept().await
            } => accepted,
        };
        match accepted {
            Ok((stream, peer))
                if !limits
                    .allow
                    .admits(peer.ip(), stream.local_addr().ok().map(|local| local.ip())) =>
            {
                debug!(%peer, "not allowed here; see `[lan] allow`");
            }
            Ok((stream, peer)) => {
                let Some(slot) = slots.enter(peer.ip()) else {
                    debug!(%peer, "this address has too many connections");
                    continue;
                };
                let (gateway, stop, header) = (gateway.clone(), stop.clone(), limits.header);
                tasks.spawn("http/connection", async move {
                    connection(stream, peer, gateway, slot, header, stop).await;
                });
            }
            Err(error) => {
                // Out of file descriptors and the like: others end first.
                warn!(%error, "cannot accept a connection");
                slots.make_way();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    gateway: Gateway,
    slot: Slot,
    header: Duration,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    let nothing = TAKES_NOTHING.as_millis() as u32;
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, nothing) {
        debug!(%error, %peer, "cannot set TCP_USER_TIMEOUT");
    }
    let caller = Caller {
        address: peer.ip().to_canonical(),
        connection: slot.number(),
    };
    let make_way = slot.closed();
    let slot = Arc::new(slot);
    let service = service_fn(move |request| {
        let (gateway, slot) = (gateway.clone(), Arc::clone(&slot));
        async move {
            let (busy, under_way) = (slot.busy(), gateway.leaving.enter(request.uri().path()));
            let answer = tokio::select! {
                biased;
                () = under_way.refused() => refusal(),
                answer = gateway.answer(request, caller) => answer,
            };
            let breaks = under_way.breaks();
            Ok::<_, std::convert::Infallible>(answer.map(|body| holding(body, breaks, (busy, under_way))))
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = make_way.cancelled() => {
            debug!(%peer, "closed to make room");
            return;
        }
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, %peer, "connection ended");
    }
}
