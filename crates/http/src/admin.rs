//! The admin socket: what goes on, and orders, over HTTP on a unix socket.
//!
//! Any user may look (`status`, `resolve`, `why`, `id`) and fetch public files (`get`); what
//! changes something needs the daemon's user or root, by the kernel's word on who is
//! at the other end.
//!
//! - Invariant: no order is carried out before its sender's rights are known.
//! - Not here: the command line's side of it (`pacstore`, `client.rs`).

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use http::{StatusCode, header};
use pacstore_node::{Answer, Client, Node, Receipt, Repair, Status, chain};
use pacstore_runtime::Pool;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::net::unix::UCred;

use crate::body;
use crate::socket_path::SocketPath;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{}`", path.display())]
pub struct AdminError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What the admin socket answers from.
#[derive(Clone, Debug)]
pub struct Admin {
    node: Node,
    /// `http://ADDR:PORT` of the gateway.
    gateway: String,
}

impl Admin {
    /// Over `node`, whose gateway is at `gateway`.
    pub fn new(node: Node, gateway: String) -> Self {
        Self { node, gateway }
    }
}

/// An order or question about one mirror.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NameRequest {
    /// Its NAME or KEY.
    pub name: String,
    /// Ask the network first.
    #[serde(default)]
    pub fresh: bool,
    /// Publish what is held because of its signatures.
    #[serde(default)]
    pub accept: bool,
}

/// A file to fetch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetRequest {
    /// `/ipns/NAME/PATH`, `/ipfs/CID/PATH`, `/pacman/REPO/ARCH/FILE` or a CID.
    pub path: String,
    /// First byte wanted.
    #[serde(default)]
    pub from: u64,
}

/// A key to rotate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RotateRequest {
    /// Its label.
    pub label: String,
}

/// What an error looks like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct GcRequest {
    target: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct FsckRequest {
    #[serde(default)]
    repair: bool,
}

/// Who is at the other end, by the kernel's word.
#[derive(Clone, Debug)]
struct Peer(Arc<io::Result<UCred>>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(Arc::new(stream.io().peer_cred()))
    }
}

impl Peer {
    /// May change things.
    fn may_change(&self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.0
            .as_ref()
            .as_ref()
            .is_ok_and(|cred| cred.uid() == 0 || cred.uid() == own)
    }
}

/// Serves `admin` on the unix socket `path` until the node's tasks stop.
///
/// # Errors
/// [`AdminError`] if the socket cannot be made. One that a dead daemon left is replaced.
pub fn serve_admin(path: &Path, admin: Admin) -> Result<(), AdminError> {
    let fail = |source| AdminError {
        path: path.to_owned(),
        source,
    };
    // The store's lock says that no other daemon of this home runs, so this is a left-over.
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let short = SocketPath::of(path).map_err(fail)?;
    let listener = UnixListener::bind(short.path()).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(fail)?;
    let tasks = admin.node.tasks().clone();
    let stop = tasks.stop();
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/resolve", get(resolve))
        .route("/v1/why", get(why))
        .route("/v1/get", post(fetch))
        .route("/v1/import", post(import))
        .route("/v1/gc", post(gc))
        .route("/v1/fsck", post(fsck))
        .route("/v1/prefetch", post(prefetch))
        .route("/v1/heads", get(heads))
        .route("/v1/alert/test", post(test_alerts))
        .route("/v1/key/rotate", post(rotate))
        .route("/metrics", get(metrics))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(admin);
    let path = path.to_owned();
    tasks.spawn("http/admin", async move {
        let service = router.into_make_service_with_connect_info::<Peer>();
        let serving = axum::serve(listener, service);
        tokio::select! {
            ended = serving => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the admin socket ended");
                }
            }
            () = stop.cancelled() => {}
        }
        // Gone with us; if not, the next daemon replaces it.
        let _ = std::fs::remove_file(path);
    });
    Ok(())
}

fn refuse(status: StatusCode, error: impl Into<String>, hint: Option<String>) -> Response {
    (
        status,
        Json(ErrorBody {
            error: error.into(),
            hint,
        }),
    )
        .into_response()
}

fn forbidden() -> Response {
    refuse(
        StatusCode::FORBIDDEN,
        "only the daemon's user or root may change something",
        Some("use sudo".to_owned()),
    )
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    Json(admin.node.status(Some(admin.gateway.clone())).await)
}

async fn resolve(State(admin): State<Admin>, Query(asked): Query<NameRequest>) -> Response {
    let Some(mirror) = admin.node.mirror(&asked.name) else {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("no mirror `{}` is configured here", asked.name),
            None,
        );
    };
    if asked.fresh {
        admin.node.refresh(&mirror).await;
    }
    Json(admin.node.summary(&mirror)).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    crate::metrics::answer(&admin.node).await
}

async fn heads(State(admin): State<Admin>, Query(asked): Query<NameRequest>) -> Response {
    let Some(mirror) = admin.node.mirror(&asked.name) else {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("no mirror `{}` is configured here", asked.name),
            None,
        );
    };
    let read = admin.node.tasks().blocking(Pool::Disk, move || mirror.history());
    match read.await {
        Ok(Ok(heads)) => Json(heads).into_response(),
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, chain(&error), None),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping", None),
    }
}

async fn test_alerts(State(admin): State<Admin>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if !peer.may_change() {
        return forbidden();
    }
    Json(admin.node.test_alerts().await).into_response()
}

/// The receipts of a file or package; none is no error.
async fn why(State(admin): State<Admin>, Query(asked): Query<NameRequest>) -> Json<Vec<Receipt>> {
    Json(admin.node.why(&asked.name))
}

async fn import(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(asked): Json<NameRequest>,
) -> Response {
    if !peer.may_change() {
        return forbidden();
    }
    let Some(import) = admin.node.import(&asked.name) else {
        return refuse(
            StatusCode::NOT_FOUND,
            format!("no [[import]] of `{}` is configured here", asked.name),
            None,
        );
    };
    if asked.accept {
        import.accept();
    }
    Json(admin.node.import_now(&import).await).into_response()
}

async fn rotate(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(asked): Json<RotateRequest>,
) -> Response {
    if !peer.may_change() {
        return forbidden();
    }
    match admin.node.rotate(&asked.label).await {
        Ok(rotated) => Json(rotated).into_response(),
        Err(error) => refuse(StatusCode::CONFLICT, chain(&error), error.hint()),
    }
}

async fn gc(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(asked): Json<GcRequest>,
) -> Response {
    if !peer.may_change() {
        return forbidden();
    }
    match admin.node.gc(asked.target).await {
        Ok(report) => Json(serde_json::json!({
            "files": report.files, "nodes": report.nodes, "bytes": report.bytes, "evictable": report.evictable,
        }))
        .into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, chain(&error), error.hint().map(str::to_owned)),
    }
}

async fn prefetch(State(admin): State<Admin>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if !peer.may_change() {
        return forbidden();
    }
    match admin.node.begin_prefetch().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            chain(&error),
            error.hint().map(str::to_owned),
        ),
    }
}

async fn fsck(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(asked): Json<FsckRequest>,
) -> Response {
    if !peer.may_change() {
        return forbidden();
    }
    let repair = if asked.repair { Repair::Yes } else { Repair::No };
    match admin.node.fsck(repair).await {
        Ok(report) => Json(pacstore_node::Checked::from(&report)).into_response(),
        Err(error) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            chain(&error),
            error.hint().map(str::to_owned),
        ),
    }
}

async fn fetch(State(admin): State<Admin>, Json(asked): Json<GetRequest>) -> Response {
    let node = &admin.node;
    let answer = match look_up(node, &asked.path).await {
        Ok(answer) => answer,
        Err(response) => return *response,
    };
    let file = match answer {
        Answer::File(file) => file,
        Answer::Directory(_) => return refuse(StatusCode::BAD_REQUEST, "this is a directory", None),
        Answer::Redirect(redirect) => {
            let hint = Some(format!("an ordinary mirror has it: {}", redirect.url));
            return refuse(StatusCode::NOT_FOUND, redirect.why.as_ref(), hint);
        }
        Answer::NotFound(why) => return refuse(StatusCode::NOT_FOUND, why, None),
        Answer::NotNow(why) => return refuse(StatusCode::GATEWAY_TIMEOUT, why, None),
    };
    if file.len < asked.from {
        return refuse(
            StatusCode::RANGE_NOT_SATISFIABLE,
            format!("the file has {} bytes only", file.len),
            None,
        );
    }
    match body::patient(node.clone(), &file, asked.from..file.len).await {
        Ok(body) => streamed(body, file.len - asked.from, &file.root.to_string()),
        Err(error) => refuse(StatusCode::GATEWAY_TIMEOUT, chain(&error), None),
    }
}

fn streamed(body: body::Body, len: u64, root: &str) -> Response {
    let mut response = Response::new(axum::body::Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, len.into());
    if let Ok(value) = header::HeaderValue::from_str(&format!("\"{root}\"")) {
        headers.insert(header::ETAG, value);
    }
    response
}

/// What `path` is; the daemon's socket may ask the network for any CID.
async fn look_up(node: &Node, path: &str) -> Result<Answer, Box<Response>> {
    let bad = |why: String| Box::new(refuse(StatusCode::BAD_REQUEST, why, None));
    let failed = |error: pacstore_node::AskError| {
        Box::new(refuse(StatusCode::INTERNAL_SERVER_ERROR, chain(&error), None))
    };
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/ipfs/{path}")
    };
    let route =
        crate::route::route(&crate::host::Host::Plain, &path).map_err(|error| bad(error.to_string()))?;
    let client = Client {
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        connection: u64::MAX,
    };
    match route {
        crate::route::Route::Ipns { name, path, .. } => {
            let Some(mirror) = node.mirror(&name) else {
                return Ok(Answer::NotFound(format!("no mirror `{name}` is configured here")));
            };
            node.ask(client, &mirror, &path).await.map_err(failed)
        }
        crate::route::Route::Ipfs { cid, path, .. } => {
            let cid = cid.parse().map_err(|_| bad(format!("`{cid}` is no CID")))?;
            node.ask_any(&cid, &path).await.map_err(failed)
        }
        crate::route::Route::Pacman { repo, arch, file } => {
            node.ask_pacman(client, &repo, &arch, file).await.map_err(failed)
        }
        _ => Err(bad(
            "write /ipns/NAME/PATH, /ipfs/CID/PATH, /pacman/REPO/ARCH/FILE or a CID".to_owned(),
        )),
    }
}
