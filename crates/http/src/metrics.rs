//! Numbers for Prometheus on an address of their own.
//!
//! - Invariant: `/metrics` by GET or HEAD is all that is answered, and only to who names the
//!   address or `localhost` as its host, so that no web page can read it.
//! - Not here: the numbers (`pacstore-node`, `metrics.rs`); the admin socket gives them too.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use pacstore_node::{Node, metrics};
use tokio::net::TcpListener;

use crate::host::{self, Host};

/// Serves the metrics of `node` on `listener` until its tasks stop.
pub async fn serve_metrics(listener: TcpListener, node: Node) {
    let stop = node.tasks().stop();
    let router = Router::new().route("/metrics", get(checked)).with_state(node);
    let serving = axum::serve(listener, router);
    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::error!(%error, "metrics are not served any more");
            }
        }
        () = stop.cancelled() => {}
    }
}

async fn checked(State(node): State<Node>, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match host::parse(host, &["localhost".to_owned()]) {
        Host::Plain => answer(&node).await,
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

/// The numbers now.
pub(crate) async fn answer(node: &Node) -> Response {
    let text = metrics::render(&node.status(None).await);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}
