//! The gateway's sockets: accept, bound, serve, stop.
//!
//! - Invariant: at most [`MAX_CONNECTIONS`] connections; more wait in the kernel's queue.
//! - Invariant: a connection that sends no complete header in time ([`Limits`]), or takes none of
//!   our bytes for [`TAKES_NOTHING`], is closed.
//! - Not here: what a request means (`crate::gateway`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pacstore_runtime::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::gateway::{Caller, Gateway};

/// Connections served at once.
const MAX_CONNECTIONS: usize = 4096;

/// How long a client may take nothing of what we send.
const TAKES_NOTHING: Duration = Duration::from_mins(10);

/// How long clients may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To send a request's header, or to begin the next request.
    pub header: Duration,
}

impl Default for Limits {
    /// 75 s for a header.
    fn default() -> Self {
        Self {
            header: Duration::from_secs(75),
        }
    }
}

/// How long open downloads may go on once the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves `gateway` on `listener` until the task set stops.
pub async fn serve(listener: TcpListener, gateway: Gateway, tasks: Tasks) {
    serve_with(listener, gateway, tasks, Limits::default()).await;
}

/// As [`serve`], with other limits.
pub async fn serve_with(listener: TcpListener, gateway: Gateway, tasks: Tasks, limits: Limits) {
    let stop = tasks.stop();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let numbers = AtomicU64::new(0);
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let caller = Caller {
                    address: peer.ip(),
                    connection: numbers.fetch_add(1, Ordering::Relaxed),
                };
                let (gateway, stop) = (gateway.clone(), stop.clone());
                tasks.spawn("http/connection", async move {
                    connection(stream, peer, gateway, caller, limits, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors and the like: others end first.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    gateway: Gateway,
    caller: Caller,
    limits: Limits,
    stop: tokio_util::sync::CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    let nothing = TAKES_NOTHING.as_millis() as u32;
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, nothing) {
        debug!(%error, %peer, "cannot set TCP_USER_TIMEOUT");
    }
    let service = service_fn(move |request| {
        let gateway = gateway.clone();
        async move { Ok::<_, std::convert::Infallible>(gateway.answer(request, caller).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
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
