//! A client of a gateway, in pacman's place: asks, and hashes what comes.
//!
//! - Invariant: every wait has a deadline.
//! - Not here: what the bytes should be (`super::steps`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use pacstore_dag::{HashKind, Hasher};
use pacstore_runtime::{Tasks, deadline};
use tokio::net::TcpStream;

/// How long nothing may come before it is an error: pacman's own limit is 10 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest body that is kept: 256 MiB.
const MAX_KEPT: u64 = 256 << 20;

/// A connection to a gateway.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    tasks: Tasks,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

/// What came.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) len: u64,
    pub(super) sha256: [u8; 32],
    /// From the request to the first byte of the body.
    pub(super) first_byte: Duration,
}

impl Client {
    pub(super) fn new(address: SocketAddr, tasks: &Tasks) -> Self {
        Self {
            address,
            tasks: tasks.clone(),
            sender: None,
        }
    }

    /// Asks for `path`; `None` if there is no such path.
    pub(super) async fn open(&mut self, path: &str) -> anyhow::Result<Option<Body>> {
        let asked = Instant::now();
        let response = deadline("the gateway", PATIENCE, self.send(path)).await?;
        let response = response.with_context(|| format!("GET http://{}{path}", self.address))?;
        match response.status() {
            StatusCode::OK => Ok(Some(Body {
                path: path.to_owned(),
                asked,
                first_byte: None,
                announced: content_length(&response),
                len: 0,
                hasher: Hasher::new(HashKind::Sha2_256),
                incoming: response.into_body(),
            })),
            StatusCode::NOT_FOUND => {
                // The connection is used again only when the answer was read.
                response.into_body().collect().await?;
                Ok(None)
            }
            status => bail!("GET http://{}{path} gives {status}", self.address),
        }
    }

    /// Asks for `path`, which must be there, and hashes it.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<Got> {
        let mut body = self.must(path).await?;
        while body.next().await?.is_some() {}
        body.end()
    }

    /// Asks for a small file, which must be there.
    pub(super) async fn read(&mut self, path: &str) -> anyhow::Result<(Vec<u8>, Got)> {
        let mut body = self.must(path).await?;
        let mut kept = Vec::new();
        while let Some(piece) = body.next().await? {
            kept.extend_from_slice(&piece);
            if body.len > MAX_KEPT {
                bail!("{path} is longer than {MAX_KEPT} bytes");
            }
        }
        Ok((kept, body.end()?))
    }

    /// Asks for `path`, which must be there.
    pub(super) async fn must(&mut self, path: &str) -> anyhow::Result<Body> {
        let body = self.open(path).await?;
        body.with_context(|| format!("http://{}{path} is not there", self.address))
    }

    async fn send(&mut self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let request = Request::get(path)
            .header(header::HOST, self.address.to_string())
            .body(Empty::new())?;
        let sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let sender = self.sender.insert(sender);
        sender.ready().await?;
        Ok(sender.send_request(request).await?)
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn("demo/client", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the gateway ended");
            }
        });
        Ok(sender)
    }
}

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Body {
    path: String,
    asked: Instant,
    first_byte: Option<Duration>,
    announced: Option<u64>,
    pub(super) len: u64,
    hasher: Hasher,
    incoming: Incoming,
}

impl Body {
    /// The next bytes; nothing at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let frame = deadline("the next bytes", PATIENCE, self.incoming.frame()).await;
            let frame = frame.with_context(|| format!("{} stands still at byte {}", self.path, self.len))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.with_context(|| format!("{} broke off at byte {}", self.path, self.len))?;
            let Ok(data) = frame.into_data() else { continue };
            self.first_byte.get_or_insert_with(|| self.asked.elapsed());
            self.len += data.len() as u64;
            self.hasher.update(&data);
            return Ok(Some(data));
        }
    }

    /// What it was, once [`Body::next`] gave nothing any more.
    pub(super) fn end(self) -> anyhow::Result<Got> {
        if self.announced.is_some_and(|announced| announced != self.len) {
            bail!("{} has other than the announced length", self.path);
        }
        Ok(Got {
            len: self.len,
            first_byte: self.first_byte.unwrap_or_else(|| self.asked.elapsed()),
            sha256: self.hasher.finish(),
        })
    }
}

fn content_length(response: &Response<Incoming>) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}
