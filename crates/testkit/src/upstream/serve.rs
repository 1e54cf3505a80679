//! One connection: requests in, answers with their faults out.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::body::{self, Body, Broken, Plan};
use super::content::{Found, Source};
use super::fault::{Fault, matches};
use super::io::Flushing;
use super::listing::{Listing, page};
use super::log::{Entry, Request};
use super::{State, lock};

pub(crate) async fn connection(stream: TcpStream, state: Arc<State>) {
    let flushes = watch::Sender::new(0);
    let io = Flushing::new(stream, flushes.clone());
    let service = service_fn(move |request| answer(request, Arc::clone(&state), flushes.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection broke");
    }
}

pub(super) async fn answer(
    request: http::Request<Incoming>,
    state: Arc<State>,
    flushes: watch::Sender<u64>,
) -> Result<Response<Body>, Broken> {
    let path = request.uri().path().to_owned();
    let plain = path.trim_start_matches('/').to_owned();
    let entry = state.log.begin(logged(&request));
    for (pattern, hook) in lock(&state.hooks).iter_mut() {
        if matches(pattern, &plain) {
            hook(&plain);
        }
    }
    let faults = lock(&state.faults).take(&plain);
    for fault in &faults {
        match fault {
            Fault::NoAnswer => std::future::pending::<()>().await,
            Fault::Hangup => return Err("the fault hangs up".into()),
            _ => {}
        }
    }
    let context = Context {
        faults: &faults,
        state: &state,
        entry: &entry,
        flushes,
    };
    let refused = lock(&state.allowed)
        .as_mut()
        .is_some_and(|allowed| !allowed.one());
    let response = if refused {
        simple(StatusCode::TOO_MANY_REQUESTS)
    } else {
        early(&faults, &path).unwrap_or_else(|| regular(&request, &path, &context))
    };
    // `regular` notes offset and status of what it sends itself.
    if !matches!(response.status().as_u16(), 200 | 206) || response.headers().get(PAGE).is_some() {
        entry.answered(response.status().as_u16(), 0);
        entry.complete();
    }
    Ok(response)
}

/// Marks answers that are a page, not a file.
const PAGE: HeaderName = HeaderName::from_static("x-testkit-page");

fn logged(request: &http::Request<Incoming>) -> Request {
    let text = |name: HeaderName| {
        let value = request.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Request {
        method: request.method().to_string(),
        version: request.version(),
        path: request.uri().path().to_owned(),
        range: text(header::RANGE),
        if_range: text(header::IF_RANGE),
        if_none_match: text(header::IF_NONE_MATCH),
        if_modified_since: text(header::IF_MODIFIED_SINCE),
        user_agent: text(header::USER_AGENT),
        status: 0,
        from: 0,
        sent: 0,
        complete: false,
        at: SystemTime::now(),
    }
}

/// Answers that do not look at the file.
fn early(faults: &[Fault], path: &str) -> Option<Response<Body>> {
    faults.iter().find_map(|fault| match fault {
        Fault::Status(code) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some(simple(status))
        }
        Fault::ErrorPage => Some(html(
            "<html><body><h1>Please log in</h1></body></html>\n".to_owned(),
        )),
        Fault::Redirect(to) => Some(redirect(to)),
        Fault::RedirectLoop => Some(redirect(path)),
        _ => None,
    })
}

fn simple(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = status;
    response
}

fn html(text: String) -> Response<Body> {
    let mut response = Response::new(body::page(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    response.headers_mut().insert(PAGE, HeaderValue::from_static("1"));
    response
}

fn redirect(to: &str) -> Response<Body> {
    let mut response = simple(StatusCode::FOUND);
    set(response.headers_mut(), header::LOCATION, to);
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What an answer is made with, beside the request.
struct Context<'a> {
    faults: &'a [Fault],
    state: &'a State,
    entry: &'a Arc<Entry>,
    flushes: watch::Sender<u64>,
}

fn regular(request: &http::Request<Incoming>, path: &str, context: &Context<'_>) -> Response<Body> {
    let state = context.state;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return simple(StatusCode::METHOD_NOT_ALLOWED);
    }
    let decoded: Vec<u8> = percent_decode_str(path.trim_start_matches('/')).collect();
    let found = lock(&state.content).find(&decoded);
    match found {
        Found::Missing => simple(StatusCode::NOT_FOUND),
        Found::Folder(_) if !path.ends_with('/') => redirect(&format!("{path}/")),
        Found::Folder(names) => match *lock(&state.listing) {
            Listing::Off => simple(StatusCode::NOT_FOUND),
            style => html(page(style, &String::from_utf8_lossy(&decoded), &names)),
        },
        Found::File {
            source,
            len,
            mtime,
            etag,
        } => {
            let file = File {
                source,
                len,
                mtime: httpdate::fmt_http_date(mtime),
                etag,
            };
            send(request, file, context)
        }
    }
}

struct File {
    source: Source,
    len: u64,
    mtime: String,
    etag: String,
}

fn send(request: &http::Request<Incoming>, file: File, context: &Context<'_>) -> Response<Body> {
    let faults = context.faults;
    let has = |wanted: fn(&Fault) -> bool| faults.iter().any(wanted);
    let mut headers = HeaderMap::new();
    if !has(|f| matches!(f, Fault::NoValidators)) {
        set(&mut headers, header::LAST_MODIFIED, &file.mtime);
        if !has(|f| matches!(f, Fault::NoEtag)) {
            set(&mut headers, header::ETAG, &file.etag);
        }
    }
    if unchanged(request.headers(), &file) {
        let mut response = simple(StatusCode::NOT_MODIFIED);
        response.headers_mut().extend(headers);
        return response;
    }
    let mut range = None;
    if !has(|f| matches!(f, Fault::NoRanges)) {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let same = has(|f| matches!(f, Fault::IgnoreIfRange)) || still_same(request.headers(), &file);
        match wanted_range(request.headers(), file.len) {
            Some(Err(())) if same => {
                let mut response = simple(StatusCode::RANGE_NOT_SATISFIABLE);
                set(
                    response.headers_mut(),
                    header::CONTENT_RANGE,
                    &format!("bytes */{}", file.len),
                );
                return response;
            }
            Some(Ok(wanted)) if same => range = Some(wanted),
            _ => {}
        }
    }
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    let bytes = range.clone().unwrap_or(0..file.len);
    let plan = plan(bytes, file, context);
    finish(request.method(), plan, range.is_some(), headers, faults)
}

fn plan(bytes: Range<u64>, file: File, context: &Context<'_>) -> (Plan, u64) {
    let len = file.len;
    let mut plan = Plan {
        source: file.source,
        pos: bytes.start,
        end: bytes.end,
        stall_at: None,
        cut_at: None,
        swap: None,
        flips: Vec::new(),
        slow: None,
        drip: None,
        endless: false,
        limit: context.state.limit.clone(),
        entry: Arc::clone(context.entry),
        flushes: context.flushes.subscribe(),
    };
    // What lies at or before the first byte that is sent does not hit this answer.
    let ahead = |at: u64| (bytes.start < at || (at == 0 && bytes.start == 0)).then_some(at);
    for fault in context.faults {
        match fault {
            Fault::StallAfterHeader => plan.stall_at = Some(bytes.start),
            Fault::StallAt(at) => plan.stall_at = ahead(at.of(len)),
            Fault::Truncate(at) => plan.cut_at = ahead(at.of(len)),
            Fault::SwapAt(at, other) => plan.swap = Some((at.of(len), other.clone())),
            Fault::Flip(at) => plan.flips.push(*at),
            Fault::Slow(rate) => plan.slow = Some(*rate),
            Fault::Drip(period) => plan.drip = Some(*period),
            Fault::Endless => plan.endless = true,
            _ => {}
        }
    }
    (plan, len)
}

fn finish(
    method: &Method,
    (mut plan, len): (Plan, u64),
    partial: bool,
    mut headers: HeaderMap,
    faults: &[Fault],
) -> Response<Body> {
    let mut announced = Some((plan.end - plan.pos).cast_signed());
    let mut shift = 0;
    for fault in faults {
        match fault {
            Fault::WrongLength(by) => {
                announced = announced.map(|n| n + by);
                // More than there is: the connection ends early. Less: the rest is never sent.
                if *by < 0 {
                    plan.end = plan.end.saturating_add_signed(*by).max(plan.pos);
                } else {
                    plan.cut_at = Some(plan.end);
                }
            }
            Fault::NoLength | Fault::Endless => announced = None,
            Fault::WrongRange(by) => shift = *by,
            Fault::ClaimsGzip => {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            _ => {}
        }
    }
    if let Some(n) = announced {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(n.max(0)));
    }
    let status = if partial {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    if partial {
        let last = plan.end.saturating_sub(1);
        set(
            &mut headers,
            header::CONTENT_RANGE,
            &format!("bytes {}-{}/{len}", plan.pos + shift, last + shift),
        );
    }
    plan.entry.answered(status.as_u16(), plan.pos);
    let mut response = Response::new(if *method == Method::HEAD {
        body::empty()
    } else {
        body::planned(plan)
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a condition says that the client has it already (RFC 9110, 13.2.2).
fn unchanged(headers: &HeaderMap, file: &File) -> bool {
    if let Some(etags) = text(headers, header::IF_NONE_MATCH) {
        return etags
            .split(',')
            .any(|e| e.trim().trim_start_matches("W/") == file.etag || e.trim() == "*");
    }
    let since = text(headers, header::IF_MODIFIED_SINCE).and_then(|d| httpdate::parse_http_date(d).ok());
    let mtime = httpdate::parse_http_date(&file.mtime).ok();
    since.zip(mtime).is_some_and(|(since, mtime)| mtime <= since)
}

fn still_same(headers: &HeaderMap, file: &File) -> bool {
    text(headers, header::IF_RANGE).is_none_or(|v| v == file.etag || v == file.mtime)
}

/// A single range; several, or ones that make no sense, are ignored. `Err`: not satisfiable.
fn wanted_range(headers: &HeaderMap, len: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = text(headers, header::RANGE)?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    if first.is_empty() {
        let n: u64 = last.parse().ok()?;
        return Some(if n == 0 || len == 0 {
            Err(())
        } else {
            Ok(len.saturating_sub(n)..len)
        });
    }
    let start: u64 = first.parse().ok()?;
    let end = if last.is_empty() {
        len
    } else {
        last.parse::<u64>().ok()?.checked_add(1)?.min(len)
    };
    if len <= start {
        return Some(Err(()));
    }
    (start < end).then_some(Ok(start..end))
}
