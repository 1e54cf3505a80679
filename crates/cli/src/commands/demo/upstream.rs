//! The demo's ordinary mirror: one folder over HTTP on 127.0.0.1, as any web server gives it.
//!
//! - Invariant: GET and HEAD of plain files of that one folder, nothing else.
//! - Invariant: what is sent is counted, and can be slowed at any time.
//! - Not here: faults; those are `testkit`'s.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use pacstore_names::parse_request_path;
use pacstore_runtime::{Pool, RateLimit, Tasks};
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes read and sent at once: 128 KiB.
const PIECE: u64 = 128 << 10;

/// A folder that is served.
#[derive(Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    rate: RateLimit,
    sent: AtomicU64,
    tasks: Tasks,
}

impl Upstream {
    /// Serves `folder` on a free port of 127.0.0.1 until `tasks` stop.
    pub(super) async fn start(folder: PathBuf, tasks: &Tasks) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("the demo's mirror cannot listen on 127.0.0.1")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            folder,
            rate: RateLimit::new(None),
            sent: AtomicU64::new(0),
            tasks: tasks.clone(),
        });
        tasks.spawn("demo/mirror", accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared })
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Bytes of files sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Bytes a second over all answers from now on; `None` = no limit.
    pub(super) fn set_rate(&self, rate: Option<u64>) {
        self.shared.rate.set_rate(rate);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let stop = shared.tasks.stop();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else { return };
        let shared = Arc::clone(&shared);
        let tasks = shared.tasks.clone();
        tasks.spawn("demo/mirror connection", async move {
            let stop = shared.tasks.stop();
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Some(Err(error)) = stop.run_until_cancelled(serving).await {
                tracing::debug!(%error, "a connection to the demo's mirror ended");
            }
        });
    }
}

/// A file that was asked for.
#[derive(Debug)]
struct Found {
    file: File,
    len: u64,
    modified: u64,
}

async fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(path) = local(shared, request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND);
    };
    match shared.tasks.blocking(Pool::Disk, move || open(&path)).await {
        Ok(Ok(Some(found))) => give(request, found, shared),
        Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => plain(StatusCode::INTERNAL_SERVER_ERROR),
        Ok(_) => plain(StatusCode::NOT_FOUND),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// The file that a request path names: one plain name in the folder.
fn local(shared: &Shared, path: &str) -> Option<PathBuf> {
    let parsed = parse_request_path(path).ok()?;
    let [name] = &parsed.segments[..] else { return None };
    Some(shared.folder.join(std::str::from_utf8(name).ok()?))
}

fn open(path: &std::path::Path) -> io::Result<Option<Found>> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(meta.is_file().then(|| Found {
        file,
        len: meta.len(),
        modified: modified.as_secs(),
    }))
}

fn give(request: &Request<Incoming>, found: Found, shared: &Arc<Shared>) -> Response<Body> {
    let mut headers = HeaderMap::new();
    let modified = http_date(found.modified);
    put(&mut headers, header::LAST_MODIFIED, &modified);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let said = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let since = said(header::IF_MODIFIED_SINCE).and_then(seconds_of);
    if since.is_some_and(|since| found.modified <= since) {
        let mut response = plain(StatusCode::NOT_MODIFIED);
        response.headers_mut().extend(headers);
        return response;
    }
    let same = said(header::IF_RANGE).is_none_or(|date| date == modified);
    let (status, range) = match said(header::RANGE).filter(|_| same) {
        None => (StatusCode::OK, 0..found.len),
        Some(text) => match range_of(text, found.len) {
            Some(range) => {
                let value = format!("bytes {}-{}/{}", range.start, range.end - 1, found.len);
                put(&mut headers, header::CONTENT_RANGE, &value);
                (StatusCode::PARTIAL_CONTENT, range)
            }
            None => return plain(StatusCode::RANGE_NOT_SATISFIABLE),
        },
    };
    put(
        &mut headers,
        header::CONTENT_LENGTH,
        &(range.end - range.start).to_string(),
    );
    let mut response = plain(status);
    if *request.method() == Method::GET {
        *response.body_mut() = body(Arc::new(found.file), range, Arc::clone(shared));
    }
    *response.headers_mut() = headers;
    response
}

fn body(file: Arc<File>, range: Range<u64>, shared: Arc<Shared>) -> Body {
    let frames = stream::unfold((file, range, shared), |(file, range, shared)| async move {
        if range.is_empty() {
            return None;
        }
        let n = PIECE.min(range.end - range.start);
        shared.rate.take(n).await;
        let (from, start) = (Arc::clone(&file), range.start);
        let read = shared.tasks.blocking(Pool::Disk, move || {
            let mut piece = vec![0; n as usize];
            from.read_exact_at(&mut piece, start).map(|()| piece)
        });
        match read.await {
            Ok(Ok(piece)) => {
                shared.sent.fetch_add(n, Ordering::Relaxed);
                let frame = Ok(Frame::data(Bytes::from(piece)));
                Some((frame, (file, range.start + n..range.end, shared)))
            }
            Ok(Err(error)) => Some((Err(error), (file, 0..0, shared))),
            Err(_) => Some((Err(io::ErrorKind::Interrupted.into()), (file, 0..0, shared))),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn http_date(seconds: u64) -> String {
    let time = Timestamp::try_from(UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap_or_default();
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .unwrap_or_default()
}

fn seconds_of(date: &str) -> Option<u64> {
    let time = DateTimeParser::new().parse_timestamp(date).ok()?;
    SystemTime::from(time)
        .duration_since(UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

/// The one range of `bytes=A-B`, `bytes=A-` or `bytes=-N`; `None` if it holds no byte.
fn range_of(text: &str, len: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", last) => len.saturating_sub(last.parse().ok()?)..len,
        (first, "") => first.parse().ok()?..len,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(len),
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges_and_dates_as_web_servers_do() {
        assert_eq!(range_of("bytes=0-0", 10), Some(0..1));
        assert_eq!(range_of("bytes=4-", 10), Some(4..10));
        assert_eq!(range_of("bytes=-3", 10), Some(7..10));
        assert_eq!(range_of("bytes=4-99", 10), Some(4..10));
        assert_eq!(range_of("bytes=10-", 10), None);
        assert_eq!(range_of("bytes=x", 10), None);
        let date = http_date(1_704_067_200);
        assert_eq!(date, "Mon, 01 Jan 2024 00:00:00 GMT");
        assert_eq!(seconds_of(&date), Some(1_704_067_200));
    }
}
