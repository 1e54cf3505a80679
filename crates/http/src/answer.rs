//! Answers with their headers: files whole and in part, not modified, directories, words.
//!
//! - Invariant: the length that is announced is the length that is sent, or the
//!   connection breaks.
//! - Invariant: a 304 and a HEAD open no file and start no fetch.
//! - Not here: which file it is (`pacstore-node`).

use std::time::{SystemTime, UNIX_EPOCH};

use cid::Cid;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use pacstore_node::{DirectoryAnswer, FetchError, FileAnswer, Node};
use tracing::warn;

use crate::body::{self, Body};
use crate::form::{Form, RAW_BLOCK};
use crate::{listing, range};

/// What stands in a query before the number of times that a request was sent back to us.
const HELD: &str = "held=";

/// What a request says beside its path.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) form: Form,
    /// How often we sent it back to us for this file.
    held: u8,
    head: bool,
    range: Option<String>,
    if_range: Option<String>,
    if_match: Option<String>,
    if_unmodified_since: Option<SystemTime>,
    if_none_match: Option<String>,
    if_modified_since: Option<SystemTime>,
}

impl Asked {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let value = |name: HeaderName| {
            let value = headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        // A list may stand in several lines (RFC 9110, 5.3).
        let list = |name: HeaderName| {
            let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
            Some(lines.collect::<Vec<_>>().join(",")).filter(|list| !list.is_empty())
        };
        let date = |name| value(name).and_then(|v| httpdate::parse_http_date(&v).ok());
        Self {
            path: request.uri().path().to_owned(),
            form: Form::of(request.uri().query(), headers),
            held: held(request.uri().query()),
            head: request.method() == Method::HEAD,
            range: value(header::RANGE),
            if_range: value(header::IF_RANGE),
            if_none_match: list(header::IF_NONE_MATCH),
            if_match: list(header::IF_MATCH),
            if_unmodified_since: date(header::IF_UNMODIFIED_SINCE),
            if_modified_since: date(header::IF_MODIFIED_SINCE),
        }
    }

    /// Only the header is wanted.
    pub(crate) fn is_head(&self) -> bool {
        self.head
    }

    /// The client wants another version than this one (RFC 9110, 13.2.2: If-Match wins over the date).
    fn is_for_another(&self, etag: &str, modified: Option<SystemTime>) -> bool {
        match (&self.if_match, self.if_unmodified_since, modified) {
            (Some(tags), _, _) => !tags
                .split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag == etag),
            (None, Some(since), Some(modified)) => seconds(since) < seconds(modified),
            _ => false,
        }
    }

    /// Where the directory above is, if it is one that can be shown.
    fn above(&self) -> Option<&'static str> {
        let mut parts = self.path.split('/').filter(|part| !part.is_empty());
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            // A mirror's or a tree's root: above it is our first page.
            (Some("ipns" | "ipfs"), Some(_), None) => Some("/"),
            _ => Some("../"),
        }
    }

    /// The client has it already (RFC 9110, 13.2.2: If-None-Match wins over the date).
    fn has(&self, etag: &str, modified: Option<SystemTime>) -> bool {
        match (&self.if_none_match, self.if_modified_since, modified) {
            (Some(tags), _, _) => tags
                .split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag),
            (None, Some(since), Some(modified)) => seconds(modified) <= seconds(since),
            _ => false,
        }
    }

    /// The range counts: no If-Range, or one that still fits.
    fn range(&self, etag: &str, modified: Option<SystemTime>) -> Option<&str> {
        let fits = match &self.if_range {
            None => true,
            Some(tag) if tag.starts_with('"') => tag == etag,
            Some(date) => {
                let date = httpdate::parse_http_date(date).ok();
                date.is_some() && date.map(seconds) == modified.map(seconds)
            }
        };
        self.range.as_deref().filter(|_| fits)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Words, as an answer.
pub(crate) fn text(status: StatusCode, words: &str) -> Response<Body> {
    let mut response = Response::new(body::full(format!("{words}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A directory asked for without its slash.
pub(crate) fn moved(path: &str) -> Response<Body> {
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "a directory");
    // `//host/` would lead elsewhere.
    let location = format!("/{}/", path.trim_start_matches('/'));
    if let Ok(value) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// A directory as a page.
pub(crate) fn directory(answer: &DirectoryAnswer, asked: &Asked) -> Response<Body> {
    let etag = format!("\"DirIndex-1_CID-{}\"", answer.cid);
    let mut response = if asked.has(&etag, None) {
        let mut response = Response::new(body::full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let title =
            String::from_utf8_lossy(&percent_encoding::percent_decode_str(&asked.path).collect::<Vec<u8>>())
                .into_owned();
        Response::new(body::full(listing::page(
            &title,
            &answer.cid.to_string(),
            asked.above(),
            &answer.entries,
        )))
    };
    let headers = response.headers_mut();
    page_headers(headers);
    ipfs_headers(headers, &asked.path, &answer.roots, &etag);
    let stale = "stale-while-revalidate=2678400";
    let cache = match answer.ttl {
        Some(ttl) => format!("public, max-age={}, {stale}", ttl.as_secs()),
        None => format!("public, max-age=604800, {stale}"),
    };
    set(headers, header::CACHE_CONTROL, &cache);
    response
}

/// Headers of a page of ours.
pub(crate) fn page_headers(headers: &mut HeaderMap) {
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    );
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
}

/// A file, whole or in part.
pub(crate) async fn file(node: &Node, mut answer: FileAnswer, asked: &Asked) -> Response<Body> {
    let etag = format!("\"{}\"", answer.root);
    let mut response = Response::new(body::full(""));
    let headers = response.headers_mut();
    ipfs_headers(headers, &asked.path, &answer.roots, &etag);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(match asked.form {
            Form::Raw => RAW_BLOCK,
            Form::Plain | Form::Other => content_type(&answer.name),
        }),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(modified) = answer.last_modified {
        set(headers, header::LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    }
    match answer.ttl {
        // A database may change at any time under its name.
        Some(_) if answer.last_modified.is_some() => set(headers, header::CACHE_CONTROL, "no-cache"),
        Some(ttl) => set(
            headers,
            header::CACHE_CONTROL,
            &format!("public, max-age={}", ttl.as_secs()),
        ),
        None => set(
            headers,
            header::CACHE_CONTROL,
            "public, max-age=29030400, immutable",
        ),
    }
    if asked.is_for_another(&etag, answer.last_modified) {
        return text(StatusCode::PRECONDITION_FAILED, "it is another version");
    }
    if asked.has(&etag, answer.last_modified) {
        headers.remove(header::CONTENT_TYPE);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let part = match range::parse(asked.range(&etag, answer.last_modified), answer.len) {
        range::Asked::Whole => 0..answer.len,
        range::Asked::Part { start, end } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {start}-{}/{}", end - 1, answer.len);
            set(response.headers_mut(), header::CONTENT_RANGE, &value);
            start..end
        }
        range::Asked::Unsatisfiable => {
            let mut refused = text(StatusCode::RANGE_NOT_SATISFIABLE, "the file is shorter");
            set(
                refused.headers_mut(),
                header::CONTENT_RANGE,
                &format!("bytes */{}", answer.len),
            );
            return refused;
        }
    };
    set(
        response.headers_mut(),
        header::CONTENT_LENGTH,
        &(part.end - part.start).to_string(),
    );
    if asked.head {
        return response;
    }
    answer.was_held(asked.held);
    // The first bytes before the header: while nothing is sent, another answer is possible.
    match body::file(node.clone(), &answer, part).await {
        Ok(body) => {
            *response.body_mut() = body;
            response
        }
        Err(FetchError::NotYet { held, .. }) => ask_again(&asked.path, held),
        Err(error) => {
            warn!(
                path = asked.path,
                error = &error as &dyn std::error::Error,
                "cannot give a file"
            );
            cannot_give(node, &answer, &error)
        }
    }
}

/// How often a request was sent back to us already, by its query. Others may write there what they want: it only counts
/// down what is left to them.
fn held(query: Option<&str>) -> u8 {
    let mut pairs = query.unwrap_or_default().split('&');
    let times = pairs.find_map(|pair| pair.strip_prefix(HELD));
    times.map_or(0, |times| times.parse().unwrap_or(u8::MAX))
}

/// It is coming, and pacman would not wait for it: it begins to count anew with each redirect.
fn ask_again(path: &str, held: u8) -> Response<Body> {
    let mut response = text(StatusCode::FOUND, "it is still coming; ask again");
    let headers = response.headers_mut();
    // A path with an empty name (`//host/`) is refused before.
    let location = format!("{path}?{HELD}{held}");
    set(headers, header::LOCATION, &location);
    set(headers, header::CACHE_CONTROL, "no-store");
    response
}

/// Nobody gives it, or not in time: an ordinary mirror may, else pacman goes on to its next
/// Server. Never a mirror that just stalled or was caught with other bytes: pacman would
/// wait in vain, or take them and fail.
fn cannot_give(node: &Node, answer: &FileAnswer, error: &FetchError) -> Response<Body> {
    if let FetchError::Elsewhere { url, .. } = error {
        node.not_given(answer, error, Some(url));
        let mut response = text(StatusCode::FOUND, "an ordinary mirror has it");
        set(response.headers_mut(), header::LOCATION, url.as_str());
        return response;
    }
    let instead = node.mirror_instead(answer);
    node.not_given(answer, error, instead.as_ref());
    let Some(url) = instead else {
        return text(StatusCode::GATEWAY_TIMEOUT, "no source gives this file now");
    };
    let mut response = text(
        StatusCode::FOUND,
        "it does not come through here in time; an ordinary mirror has it",
    );
    set(response.headers_mut(), header::LOCATION, url.as_str());
    response
}

fn ipfs_headers(headers: &mut HeaderMap, path: &str, roots: &[Cid], etag: &str) {
    set(headers, header::ETAG, etag);
    set(headers, HeaderName::from_static("x-ipfs-path"), path);
    let roots: Vec<String> = roots.iter().map(Cid::to_string).collect();
    set(headers, HeaderName::from_static("x-ipfs-roots"), &roots.join(","));
}

/// Sets a header whose value comes from a request or a name; one that no header can hold is left out.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn content_type(name: &[u8]) -> &'static str {
    let ending = name.rsplit(|b| *b == b'.').next().unwrap_or_default();
    match ending {
        b"zst" => "application/zstd",
        b"gz" => "application/gzip",
        b"xz" => "application/x-xz",
        b"sig" => "application/pgp-signature",
        b"txt" => "text/plain; charset=utf-8",
        b"iso" => "application/x-iso9660-image",
        _ => "application/octet-stream",
    }
}
