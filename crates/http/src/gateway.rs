//! The gateway: a request in, an answer out.
//!
//! - Invariant: only GET and HEAD, and neither changes anything.
//! - Invariant: a Host that is not ours is refused before the path is looked at.
//! - Not here: what a path gets (`pacstore-node`, `serve`), sockets (`crate::server`).
//! - Read first: `docs/semantics.md`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use cid::Cid;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use pacstore_node::{Answer, AskError, Client, Node};
use tracing::{debug, warn};

use crate::answer::{Asked, directory, file, moved, text};
use crate::body::Body;
use crate::form::Form;
use crate::host::{self, Host};
use crate::leaving::Leaving;
use crate::listing;
use crate::route::{Route, route};

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) address: IpAddr,
    pub(crate) connection: u64,
}

/// Whether a request has a body, however its length is told. GET and HEAD need none, and where two
/// readers disagree on its length, one takes it for a second request.
fn brings_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// Tells in the header how long the body is that a HEAD does without. A file's length stands there already.
fn say_length(response: &mut Response<Body>) {
    let is_told = response.headers().contains_key(header::CONTENT_LENGTH);
    if is_told || response.status() == StatusCode::NOT_MODIFIED {
        return;
    }
    if let Some(length) = response.body().size_hint().exact() {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
    }
}

/// Answers requests from a node.
#[derive(Clone, Debug)]
pub struct Gateway {
    node: Node,
    hosts: Arc<Vec<String>>,
    pub(crate) leaving: Leaving,
}

impl Gateway {
    /// A gateway that answers to `hosts` (names) and to addresses.
    pub fn new(node: Node, hosts: Vec<String>) -> Self {
        let hosts = hosts
            .into_iter()
            .map(|host| host.trim_end_matches('.').to_ascii_lowercase())
            .collect();
        Self {
            node,
            hosts: Arc::new(hosts),
            leaving: Leaving::default(),
        }
    }

    /// Lets go of pacman where that fails no update, within two seconds; to be awaited before anything is stopped that
    /// answers need. From now on files are refused.
    pub async fn leave(&self) {
        self.leaving.leave().await;
    }

    /// The answer to one request; never fails.
    pub(crate) async fn answer(&self, request: Request<Incoming>, caller: Caller) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let head = request.method() == Method::HEAD;
        let mut response = self.decide(&request, caller).await;
        debug!(method = %request.method(), path, status = response.status().as_u16(), "answered");
        if head {
            say_length(&mut response);
            *response.body_mut() = crate::body::full("");
        }
        if brings_body(request.headers()) || response.status() == StatusCode::BAD_REQUEST {
            // Nobody reads a body, so that nothing in it is taken for another request; and who writes what
            // two readers may understand differently gets no second try on this connection.
            let close = header::HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    async fn decide(&self, request: &Request<Incoming>, caller: Caller) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            refused
                .headers_mut()
                .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        if brings_body(request.headers()) {
            return text(StatusCode::BAD_REQUEST, "a request without a body, please");
        }
        let Some(host) = self.host(request) else {
            return text(StatusCode::BAD_REQUEST, "one Host header, please");
        };
        if host == Host::Foreign {
            return text(
                StatusCode::FORBIDDEN,
                "this name is not served here; add it to gateway.hosts if it should be",
            );
        }
        let asked = Asked::of(request);
        match route(&host, request.uri().path()) {
            Err(error) => text(
                StatusCode::BAD_REQUEST,
                &format!("this path cannot be served: {error}"),
            ),
            Ok(Route::Home) => self.home(),
            Ok(Route::Unknown) => text(
                StatusCode::NOT_FOUND,
                "no such path; mirrors are under /ipns/NAME/ and /pacman/REPO/ARCH/",
            ),
            Ok(Route::Ipns { name, path, slash }) => self.ipns(&name, &path, slash, &asked, caller).await,
            Ok(Route::Ipfs { cid, path, slash }) => self.ipfs(&cid, &path, slash, &asked).await,
            Ok(Route::Pacman { repo, arch, file }) => self.pacman(&repo, &arch, file, &asked, caller).await,
        }
    }

    /// Whom the request is for; nothing if it names none (HTTP/1.1) or several. The authority of an
    /// absolute URI counts more than the Host header (RFC 9112, 3.2.2), but both must be ours.
    fn host(&self, request: &Request<Incoming>) -> Option<Host> {
        let mut lines = request.headers().get_all(header::HOST).iter();
        let line = lines.next().map(|value| value.to_str().unwrap_or("?"));
        let needed = request.version() != Version::HTTP_10;
        if lines.next().is_some() || (needed && line.is_none()) {
            return None;
        }
        let named = host::parse(line, &self.hosts);
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        match authority {
            Some(authority) if named != Host::Foreign => Some(host::parse(Some(authority), &self.hosts)),
            _ => Some(named),
        }
    }

    async fn ipns(
        &self,
        name: &str,
        path: &[Vec<u8>],
        slash: bool,
        asked: &Asked,
        caller: Caller,
    ) -> Response<Body> {
        let Some(mirror) = self.node.mirror(name) else {
            return text(StatusCode::NOT_FOUND, "no mirror of this name is configured here");
        };
        let client = Client {
            address: caller.address,
            connection: caller.connection,
        };
        let answer = self.node.ask(client, &mirror, path).await;
        self.give(answer, slash, asked).await
    }

    async fn ipfs(&self, cid: &str, path: &[Vec<u8>], slash: bool, asked: &Asked) -> Response<Body> {
        let Ok(cid) = cid.parse::<Cid>() else {
            return text(StatusCode::BAD_REQUEST, "this is no CID");
        };
        let answer = self.node.ask_cid(&cid, path).await;
        self.give(answer, slash, asked).await
    }

    async fn pacman(
        &self,
        repo: &str,
        arch: &str,
        file: Vec<u8>,
        asked: &Asked,
        caller: Caller,
    ) -> Response<Body> {
        let client = Client {
            address: caller.address,
            connection: caller.connection,
        };
        let answer = self.node.ask_pacman(client, repo, arch, file).await;
        self.give(answer, false, asked).await
    }

    async fn give(&self, answer: Result<Answer, AskError>, slash: bool, asked: &Asked) -> Response<Body> {
        let fits = match &answer {
            Ok(Answer::File(file)) => asked.form.fits(file),
            Ok(Answer::Directory(_) | Answer::Redirect(_)) => asked.form == Form::Plain,
            Ok(Answer::NotFound(_) | Answer::NotNow(_)) | Err(_) => true,
        };
        if !fits {
            return text(
                StatusCode::NOT_ACCEPTABLE,
                "only files, listings and files that are one raw block are given here, no other blocks, CARs or records",
            );
        }
        match answer {
            Ok(Answer::File(answer)) => file(&self.node, *answer, asked).await,
            Ok(Answer::Directory(answer)) if slash => directory(&answer, asked),
            Ok(Answer::Directory(_)) => moved(&asked.path),
            Ok(Answer::Redirect(redirect)) => {
                if !asked.is_head() {
                    let path = percent_encoding::percent_decode_str(&asked.path).decode_utf8_lossy();
                    self.node
                        .sent_elsewhere(path.rsplit('/').next().unwrap_or_default(), &redirect);
                }
                let mut response = text(StatusCode::FOUND, "an ordinary mirror has it");
                if let Ok(value) = header::HeaderValue::from_str(redirect.as_str()) {
                    response.headers_mut().insert(header::LOCATION, value);
                }
                response
            }
            Ok(Answer::NotFound(why)) => text(StatusCode::NOT_FOUND, &why),
            Ok(Answer::NotNow(why)) => text(StatusCode::GATEWAY_TIMEOUT, why),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot answer");
                text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the store cannot be read; the log says more",
                )
            }
        }
    }

    fn home(&self) -> Response<Body> {
        let mut rows = String::new();
        for mirror in self.node.mirrors() {
            let summary = self.node.summary(mirror);
            let name = listing::escape(&summary.name);
            let age = summary
                .age_s
                .map_or_else(|| "no head yet".to_owned(), |age| format!("checked {age} s ago"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                rows,
                "<tr><td><a href=\"/ipns/{name}/\">{name}</a></td><td>{}</td><td>{age}</td></tr>",
                pacstore_node::state_name(summary.state)
            );
        }
        for one in self.node.repositories() {
            let age = one.age_s.map_or_else(
                || "nothing here yet".to_owned(),
                |age| format!("checked {age} s ago"),
            );
            let (name, arch) = (listing::escape(&one.name), listing::escape(&one.arch));
            let _ = writeln!(
                rows,
                "<tr><td>{name} {arch}</td><td>{}</td><td>{age}</td></tr>",
                one.state
            );
        }
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>pacstore</title>\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:50rem;padding:0 1rem}}\
             td{{padding:.15rem .75rem .15rem 0}}</style></head><body><h1>pacstore</h1>\
             <p>A pacman mirror that lives in the IPFS network. <code>pacstore status</code> says more.</p>\
             <table>{rows}</table></body></html>\n"
        );
        let mut response = Response::new(crate::body::full(page));
        crate::answer::page_headers(response.headers_mut());
        response
    }
}
