//! The HTTP client: one request, its redirects, and what its answer's header must say.
//!
//! Redirects are followed by hand, because each one is an address that somebody else
//! wrote. Environment proxies are not used, bodies are never decompressed, certificates are checked always.
//!
//! - Invariant: each step has a deadline: waiting for a free connection, connecting,
//!   the header, each piece of the body ([`Response`]), and the whole.
//! - Invariant: at most `per_host` requests are under way at one `host:port`.
//! - Not here: the body (`crate::response`), files (`crate::fetch`), which mirror (`crate::mirrors`).
//! - Read first: `crate::address`.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use pacstore_runtime::RateLimit;
use reqwest::header::{self, HeaderMap, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::address::{AddressRules, Reach, authority};
use crate::dns::Within;
use crate::error::{HttpError, refusal, shown};
use crate::mirrors::{Mirrors, Observation};
use crate::response::{Limits, Response};

/// Redirects of one request that are followed; curl's own limit for pacman is the same.
const MAX_REDIRECTS: usize = 10;
/// Hosts whose connection counts are remembered before idle ones are forgotten.
const MAX_HOSTS: usize = 256;
/// How long an idle connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);

/// The least rate of a body: fewer than `bytes` in `within` of waiting for them fails.
///
/// Only time spent waiting for the network counts, not the caller's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes that must come,
    pub bytes: u64,
    /// in this time.
    pub within: Duration,
}

/// What all requests of one client have in common.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// `User-Agent`; mirrors want to know whom to write to.
    pub user_agent: String,
    /// Which addresses may be dialled.
    pub allow_private: AddressRules,
    /// Name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
    /// The longest time without any byte, for header and body.
    pub stall_timeout: Duration,
    /// The longest wait for one of the host's connections.
    pub busy_timeout: Duration,
    /// Fails bodies that only drip.
    pub min_rate: Option<MinRate>,
    /// Bytes a second over all requests.
    pub rate: Option<RateLimit>,
    /// Requests under way at one `host:port`.
    pub per_host: usize,
    /// Further certificates (DER) that vouch for hosts, beside the built-in ones.
    pub roots: Vec<Vec<u8>>,
}

impl Default for HttpOptions {
    /// 10 s to connect and without a byte, at least 1 KiB in 30 s, 8 requests a host, no rate cap.
    fn default() -> Self {
        Self {
            user_agent: concat!("pacstore/", env!("CARGO_PKG_VERSION")).to_owned(),
            allow_private: AddressRules::any_first(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            busy_timeout: Duration::from_mins(1),
            min_rate: Some(MinRate {
                bytes: 1024,
                within: Duration::from_secs(30),
            }),
            rate: None,
            per_host: 8,
            roots: Vec::new(),
        }
    }
}

/// What to do if a range was asked and the whole file comes (a plain 200).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfRangeIgnored {
    /// [`HttpError::RangeIgnored`]; nothing of the body is read.
    #[default]
    Fail,
    /// The answer is given, with `range: None`: the caller skips or starts again.
    Stream,
}

/// One GET. [`Get::new`] and set what differs.
#[derive(Clone, Debug)]
pub struct Get<'a> {
    /// What.
    pub url: &'a Url,
    /// Which bytes; an end of `u64::MAX` asks for all from the start on.
    pub range: Option<Range<u64>>,
    /// Only if the validator still fits (`If-Range`: a strong ETag or an HTTP date).
    pub if_range: Option<String>,
    /// If the server does not do ranges.
    pub if_range_ignored: IfRangeIgnored,
    /// Only if newer than this.
    pub if_modified_since: Option<SystemTime>,
    /// Only if its ETag is another one (as it came, with quotes).
    pub if_none_match: Option<String>,
    /// The most body bytes that are taken.
    pub max_len: Option<u64>,
    /// For all of it: connections, redirects, header and body.
    pub deadline: Option<Duration>,
}

impl<'a> Get<'a> {
    /// The whole of `url`, unconditionally, of any length.
    pub fn new(url: &'a Url) -> Self {
        Self {
            url,
            range: None,
            if_range: None,
            if_range_ignored: IfRangeIgnored::Fail,
            if_modified_since: None,
            if_none_match: None,
            max_len: None,
            deadline: None,
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut set = |name, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                map.insert(name, value);
            }
        };
        if let Some(Range { start, end }) = self.range {
            let last = if end == u64::MAX {
                String::new()
            } else {
                end.saturating_sub(1).to_string()
            };
            set(header::RANGE, format!("bytes={start}-{last}"));
        }
        if let (Some(_), Some(validator)) = (&self.range, &self.if_range) {
            set(header::IF_RANGE, validator.clone());
        }
        if let Some(time) = self.if_modified_since {
            set(header::IF_MODIFIED_SINCE, httpdate::fmt_http_date(time));
        }
        if let Some(etag) = &self.if_none_match {
            set(header::IF_NONE_MATCH, etag.clone());
        }
        map
    }
}

/// The client. Cheap to clone; clones share connections, counts and the rate.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    options: HttpOptions,
    /// One client for each reach, by the resolver's filter. Each has authorities of its own, some MB: made when it is needed.
    clients: [OnceLock<reqwest::Client>; 3],
    mirrors: Mirrors,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Http").field(&self.0.options).finish()
    }
}

impl Http {
    /// A client with these options.
    pub fn new(options: HttpOptions) -> Self {
        Self::with_mirrors(options, Mirrors::default())
    }

    /// A client with these options that notes in `mirrors` what each request shows.
    pub fn with_mirrors(options: HttpOptions, mirrors: Mirrors) -> Self {
        Self(Arc::new(Inner {
            options,
            clients: Default::default(),
            mirrors,
            hosts: Mutex::default(),
        }))
    }

    /// The options it was made with.
    pub fn options(&self) -> &HttpOptions {
        &self.0.options
    }

    /// What this client's requests showed of mirrors.
    pub fn mirrors(&self) -> &Mirrors {
        &self.0.mirrors
    }

    /// Sends one GET, follows redirects, and gives the answer once its header is right.
    ///
    /// The body is read through [`Response::chunk`]. Dropping it ends the transfer.
    ///
    /// # Errors
    /// Each variant of [`HttpError`] but those that only a body can show.
    ///
    /// # Panics
    /// If the user agent is no header value, or the machine gives no TLS (neither depends on input).
    pub async fn get(&self, get: &Get<'_>) -> Result<Response, HttpError> {
        let answer = self.follow(get).await;
        if let Err(error) = &answer
            && error.counts_against_mirror()
        {
            self.0.mirrors.observe(get.url, Observation::Failed);
        }
        answer
    }

    async fn follow(&self, get: &Get<'_>) -> Result<Response, HttpError> {
        let until = get.deadline.map(|d| Instant::now() + d);
        let headers = get.headers();
        let mut url = get.url.clone();
        let mut reach = self
            .0
            .options
            .allow_private
            .first(&url)
            .map_err(|why| HttpError::Forbidden {
                url: shown(&url),
                why,
            })?;
        let mut latency = Duration::ZERO;
        for _ in 0..=MAX_REDIRECTS {
            let permit = self.permit(&url, until).await?;
            let sent = Instant::now();
            let answer = self.send(&url, reach, &headers, get, until).await?;
            latency += sent.elapsed();
            let Some(next) = redirect_target(&answer, &url)? else {
                // Redirects are part of what the mirror that was asked does.
                let mirrors = &self.0.mirrors;
                mirrors.observe(get.url, Observation::Answered(latency));
                let seen = Box::new(mirrors.body_of(get.url));
                let limits = Limits::new(get, until, &self.0.options);
                return Response::new(answer, url, permit, limits, (get, seen));
            };
            reach = self
                .0
                .options
                .allow_private
                .redirect(answer.remote_addr(), &next)
                .map_err(|why| HttpError::Forbidden {
                    url: shown(&next),
                    why,
                })?;
            tracing::trace!(from = %shown(&url), to = %shown(&next), "redirect");
            url = next;
        }
        Err(HttpError::Redirect { url: shown(get.url) })
    }

    /// Sends one POST of `body` and takes any 2xx for yes; the answer's body is not read.
    ///
    /// Redirects are not followed: what is posted is meant for that host alone. Errors name the
    /// host only, because the paths of web hooks are secrets.
    ///
    /// # Errors
    /// [`HttpError::Status`] for every other answer, else as [`Http::get`].
    pub async fn post(
        &self,
        url: &Url,
        content_type: &'static str,
        body: Vec<u8>,
        within: Duration,
    ) -> Result<(), HttpError> {
        let until = Instant::now() + within;
        let mut host = url.clone();
        host.set_path("");
        host.set_query(None);
        let allowed = self.0.options.allow_private.first(url);
        let reach = allowed.map_err(|why| HttpError::Forbidden {
            url: shown(&host),
            why,
        })?;
        let _permit = self.permit(url, Some(until)).await?;
        let request = self
            .client(reach)
            .post(url.clone())
            .header(header::CONTENT_TYPE, content_type)
            .body(body)
            .send();
        match timeout_at(until, request).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(HttpError::Status {
                url: shown(&host),
                code: answer.status().as_u16(),
                retry_after: None,
            }),
            Ok(Err(source)) => Err(send_error(&host, source)),
            Err(_) => Err(HttpError::Deadline {
                url: shown(&host),
                after: within,
            }),
        }
    }

    async fn send(
        &self,
        url: &Url,
        reach: Reach,
        headers: &HeaderMap,
        get: &Get<'_>,
        until: Option<Instant>,
    ) -> Result<reqwest::Response, HttpError> {
        let options = &self.0.options;
        let patience = options.connect_timeout + options.stall_timeout;
        let stalled = Instant::now() + patience;
        let by = until.map_or(stalled, |u| u.min(stalled));
        let request = self
            .client(reach)
            .get(url.clone())
            .headers(headers.clone())
            .send();
        match timeout_at(by, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(send_error(url, source)),
            Err(_) => Err(match get.deadline {
                Some(after) if until.is_some_and(|u| u <= stalled) => HttpError::Deadline {
                    url: shown(url),
                    after,
                },
                _ => HttpError::Stalled {
                    url: shown(url),
                    after: patience,
                },
            }),
        }
    }

    /// One of the host's connections, or [`HttpError::Busy`] after a bounded wait.
    async fn permit(&self, url: &Url, until: Option<Instant>) -> Result<OwnedSemaphorePermit, HttpError> {
        let host = self.host(url);
        let patience = Instant::now() + self.0.options.busy_timeout;
        let by = until.map_or(patience, |u| u.min(patience));
        match timeout_at(by, host.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(HttpError::Busy { url: shown(url) }),
        }
    }

    fn client(&self, reach: Reach) -> &reqwest::Client {
        self.0.clients[reach as usize].get_or_init(|| client(&self.0.options, reach))
    }

    fn host(&self, url: &Url) -> Arc<Semaphore> {
        let per_host = self.0.options.per_host.max(1);
        let mut hosts = self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_HOSTS {
            hosts.retain(|_, s| Arc::strong_count(s) > 1);
        }
        let name = authority(url).unwrap_or_default();
        Arc::clone(
            hosts
                .entry(name)
                .or_insert_with(|| Arc::new(Semaphore::new(per_host))),
        )
    }
}

/// Trusts Mozilla's authorities, and those that the administrator of this machine trusts, as pacman's curl does. What the
/// machine has of them may be damaged; then Mozilla's remain.
fn client(options: &HttpOptions, reach: Reach) -> reqwest::Client {
    let build = |of_this_machine| {
        let roots = options.roots.iter();
        let roots = roots.filter_map(|der| reqwest::Certificate::from_der(der).ok());
        let client = roots.fold(reqwest::Client::builder(), |client, root| {
            client.add_root_certificate(root)
        });
        client
            .user_agent(&options.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(options.per_host)
            .http2_adaptive_window(true)
            .tls_built_in_native_certs(of_this_machine)
            .dns_resolver(Arc::new(Within(reach)))
            .build()
    };
    build(true)
        .or_else(|_| build(false))
        .expect("the user agent is a header value and the TLS roots parse")
}

fn send_error(url: &Url, source: reqwest::Error) -> HttpError {
    let url = shown(url);
    if let Some(why) = refusal(&source) {
        return HttpError::Forbidden { url, why };
    }
    let source = source.without_url();
    if source.is_connect() {
        HttpError::Connect { url, source }
    } else {
        HttpError::NoAnswer { url, source }
    }
}

/// Where an answer leads, `None` if it is no redirect.
fn redirect_target(answer: &reqwest::Response, from: &Url) -> Result<Option<Url>, HttpError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let nowhere = || HttpError::Redirect { url: shown(from) };
    let location = answer.headers().get(header::LOCATION).ok_or_else(nowhere)?;
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| nowhere())?;
    let mut next = from.join(location).map_err(|_| nowhere())?;
    next.set_fragment(None);
    Ok(Some(next))
}
