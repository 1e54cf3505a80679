//! Talking to a daemon over its admin socket.
//!
//! - Invariant: a socket on which nobody answers within [`CONNECT`] is no daemon.
//! - Invariant: a daemon that stands still is told: a question has [`ANSWER`], and while an order is carried out, however
//!   long that takes, the daemon must answer another question now and then.
//! - Not here: what the daemon answers (`pacstore-http`, `admin.rs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pacstore_http::{ErrorBody, SocketPath};
use pacstore_runtime::Tasks;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::context::Hinted;
use crate::home::Home;

/// How long a socket may take to answer at all.
const CONNECT: Duration = Duration::from_secs(2);

/// How long the answer to a question may take, and the end of one whose begin is here.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a daemon is asked whether it lives while it carries out an order.
const ALIVE: Duration = Duration::from_secs(30);

/// Largest answer that is no file: 64 MiB.
const MAX_ANSWER: usize = 64 << 20;

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    socket: PathBuf,
    tasks: Tasks,
}

impl Daemon {
    /// The daemon of `home`, else the machine's.
    pub(crate) async fn find(home: &Home) -> Option<Self> {
        for socket in home.sockets() {
            if Self::answers(&socket).await {
                return Some(Self {
                    socket,
                    tasks: Tasks::new(),
                });
            }
        }
        None
    }

    async fn answers(socket: &Path) -> bool {
        matches!(timeout(CONNECT, connect(socket)).await, Ok(Ok(_)))
    }

    /// The process id of the daemon that answers at `socket`, by the kernel's word.
    pub(crate) async fn running_at(socket: &Path) -> Option<i32> {
        let connecting = timeout(CONNECT, connect(socket)).await;
        connecting.ok()?.ok()?.peer_cred().ok()?.pid()
    }

    /// Asks a question.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.parsed(Method::GET, path, Bytes::new()).await
    }

    /// Gives an order.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        self.parsed(Method::POST, path, serde_json::to_vec(body)?.into())
            .await
    }

    /// Gives an order whose answer is a file.
    pub(crate) async fn stream<B: Serialize>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<http::Response<Incoming>> {
        self.send(Method::POST, path, serde_json::to_vec(body)?.into())
            .await
    }

    async fn parsed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let response = self.send(method, path, body).await?;
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER).collect();
        let body = timeout(ANSWER, body).await.map_err(|_| silent())?;
        let body = body
            .map_err(|error| anyhow::anyhow!("the daemon's answer broke off: {error}"))?
            .to_bytes();
        serde_json::from_slice(&body).context("the daemon's answer cannot be read; is it of another version?")
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let answer = if method == Method::GET {
            timeout(ANSWER, self.ask(method, path, body))
                .await
                .map_err(|_| silent())
        } else {
            tokio::select! {
                answer = self.ask(method, path, body) => Ok(answer),
                error = self.stands_still() => Err(error),
            }
        };
        let response = answer??;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER).collect();
        let body = timeout(ANSWER, body).await.map_err(|_| silent())?;
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(said) => Err(Hinted {
                message: said.error,
                hint: said.hint,
            }
            .into()),
            Err(_) if status == StatusCode::NOT_FOUND => {
                bail!("the daemon does not know this order; is it of another version?")
            }
            Err(_) => bail!("the daemon answers {status}"),
        }
    }

    /// Ends when the daemon does not answer a small question in time.
    async fn stands_still(&self) -> anyhow::Error {
        loop {
            tokio::time::sleep(ALIVE).await;
            // Any answer will do; that a connection is refused is for the order itself to tell.
            if timeout(ANSWER, self.ask(Method::GET, "/v1/alive", Bytes::new()))
                .await
                .is_err()
            {
                return silent();
            }
        }
    }

    /// One request on a connection of its own, up to the answer's header.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<http::Response<Incoming>> {
        let stream = connect(&self.socket).await;
        let stream =
            stream.with_context(|| format!("cannot reach the daemon at `{}`", self.socket.display()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn("admin/connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the daemon ended");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "pacstore")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await;
        response.context("the daemon does not answer")
    }
}

async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let short = SocketPath::of(socket)?;
    UnixStream::connect(short.path()).await
}

fn silent() -> anyhow::Error {
    let hint = "it is stopped or hangs: `systemctl status pacstore`; restart it";
    Hinted::new("the daemon takes connections and does not answer", hint).into()
}
