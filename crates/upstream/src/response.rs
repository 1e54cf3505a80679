//! The body of an answer, piece by piece, and the checks on what its header promised.
//!
//! - Invariant: what [`Response::chunk`] gave until it returns `None` is exactly as
//!   many bytes as the header said; fewer, more or none for too long is an error.
//! - Not here: joining pieces of several answers (`crate::fetch`).
//! - Read first: [`Response::chunk`].

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use pacstore_runtime::RateLimit;
use reqwest::header::{self, HeaderMap};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use crate::error::{HttpError, shown};
use crate::http::{Get, HttpOptions, IfRangeIgnored, MinRate};
use crate::mirrors::Body;

/// What [`Response::bytes`] takes at most where the request set no `max_len`.
const SMALL_BODY: u64 = 16 << 20;

/// The bytes that a 206 answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedRange {
    /// The first byte's offset in the file.
    pub start: u64,
    /// One past the last byte's offset.
    pub end: u64,
    /// The file's length, unless the server hides it.
    pub total: Option<u64>,
}

/// The bounds of one body.
#[derive(Debug)]
pub(crate) struct Limits {
    stall: Duration,
    min_rate: Option<MinRate>,
    rate: Option<RateLimit>,
    until: Option<(Instant, Duration)>,
    max_len: Option<u64>,
}

impl Limits {
    pub(crate) fn new(get: &Get<'_>, until: Option<Instant>, options: &HttpOptions) -> Self {
        Self {
            stall: options.stall_timeout,
            min_rate: options.min_rate,
            rate: options.rate.clone(),
            until: until.zip(get.deadline),
            max_len: get.max_len,
        }
    }
}

/// An answer whose header was right; its body is still to be read.
#[derive(Debug)]
pub struct Response {
    /// 200 or 206.
    pub status: u16,
    /// Length of this body in bytes, if announced.
    pub len: Option<u64>,
    /// Which bytes of the file, if a range was asked and came.
    pub range: Option<ServedRange>,
    /// As it came, with quotes and `W/`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<SystemTime>,
    /// The server's own clock (`Date`).
    pub date: Option<SystemTime>,
    /// Where it came from in the end.
    pub url: Url,
    body: reqwest::Response,
    limits: Limits,
    received: u64,
    /// Bytes given out that the rate has not been charged for.
    owed: u64,
    window: Window,
    done: bool,
    /// What it shows of the mirror is noted here.
    seen: Box<Body>,
    _permit: OwnedSemaphorePermit,
}

/// Bytes and time of waiting, for the least rate.
#[derive(Debug, Default)]
struct Window {
    bytes: u64,
    waited: Duration,
}

impl Response {
    /// Looks at the header; the connection is given up with the permit if it is not right.
    pub(crate) fn new(
        body: reqwest::Response,
        url: Url,
        permit: OwnedSemaphorePermit,
        limits: Limits,
        (get, seen): (&Get<'_>, Box<Body>),
    ) -> Result<Self, HttpError> {
        let status = body.status().as_u16();
        let headers = body.headers();
        let len = content_length(headers);
        let range = match status {
            200 if get.range.is_some() && get.if_range_ignored == IfRangeIgnored::Fail => {
                return Err(HttpError::RangeIgnored {
                    url: shown(&url),
                    len,
                });
            }
            200 => None,
            206 => Some(served_range(headers, get, &url)?),
            _ => return Err(status_error(status, headers, get, &url)),
        };
        let too_long = |limit| {
            Err(HttpError::TooLong {
                url: shown(&url),
                limit,
            })
        };
        match (limits.max_len, len) {
            (Some(limit), Some(len)) if len > limit => return too_long(limit),
            _ => {}
        }
        if let (Some(r), Some(len)) = (range, len)
            && len != r.end - r.start
        {
            return Err(wrong_range(headers, &url));
        }
        Ok(Self {
            status,
            len: range.map(|r| r.end - r.start).or(len),
            range,
            etag: text(headers, header::ETAG.as_str()),
            last_modified: date(headers, header::LAST_MODIFIED.as_str()),
            date: date(headers, header::DATE.as_str()),
            url,
            body,
            limits,
            received: 0,
            owed: 0,
            window: Window::default(),
            done: false,
            seen,
            _permit: permit,
        })
    }

    /// Body bytes that came so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next piece of the body, `None` after the last.
    ///
    /// Dropping the future loses no bytes: it may be called again. After an error
    /// the body is over.
    ///
    /// # Errors
    /// [`HttpError::Stalled`], [`HttpError::TooSlow`], [`HttpError::Deadline`],
    /// [`HttpError::TooLong`] or [`HttpError::ShortBody`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        if self.done {
            return Ok(None);
        }
        let step = self.step().await;
        if !matches!(step, Ok(Some(_))) {
            self.done = true;
        }
        if let Err(error) = &step
            && error.counts_against_mirror()
        {
            self.seen.failed();
        }
        step
    }

    /// The whole body in memory; at most the request's `max_len`, else 16 MiB.
    ///
    /// # Errors
    /// As [`Response::chunk`].
    pub async fn bytes(&mut self) -> Result<Bytes, HttpError> {
        let limit = self.limits.max_len.unwrap_or(SMALL_BODY);
        let mut all = BytesMut::new();
        while let Some(piece) = self.chunk().await? {
            if all.len() as u64 + piece.len() as u64 > limit {
                self.done = true;
                return Err(HttpError::TooLong {
                    url: shown(&self.url),
                    limit,
                });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    async fn step(&mut self) -> Result<Option<Bytes>, HttpError> {
        self.pay().await?;
        let began = Instant::now();
        let (wait, by_deadline) = self.patience(began)?;
        let mut waiting = self.seen.waiting();
        let piece = timeout(wait, self.body.chunk()).await;
        waiting.bytes = match &piece {
            Ok(Ok(Some(piece))) => piece.len() as u64,
            _ => 0,
        };
        drop(waiting);
        let piece = match piece {
            Ok(Ok(piece)) => piece,
            Ok(Err(source)) => return Err(self.short(Some(source.without_url()))),
            Err(_) => return Err(self.late(by_deadline)),
        };
        let Some(piece) = piece else {
            return if self.len.is_some_and(|len| self.received < len) {
                Err(self.short(None))
            } else {
                Ok(None)
            };
        };
        self.received += piece.len() as u64;
        let limit = self.len.into_iter().chain(self.limits.max_len).min();
        match limit {
            Some(limit) if self.received > limit => {
                return Err(HttpError::TooLong {
                    url: shown(&self.url),
                    limit,
                });
            }
            _ => {}
        }
        self.too_slow(began.elapsed(), piece.len() as u64)?;
        self.owed += piece.len() as u64;
        Ok(Some(piece))
    }

    /// Waits as the common rate demands, for the bytes of the last piece; no stall, but the deadline counts.
    async fn pay(&mut self) -> Result<(), HttpError> {
        if let Some(rate) = &self.limits.rate {
            let turn = rate.take(self.owed);
            match self.limits.until {
                Some((until, after)) => timeout_at(until, turn).await.map_err(|_| HttpError::Deadline {
                    url: shown(&self.url),
                    after,
                })?,
                None => turn.await,
            }
        }
        self.owed = 0;
        Ok(())
    }

    /// How long to wait for the next piece, and whether the deadline comes before the stall.
    fn patience(&self, now: Instant) -> Result<(Duration, bool), HttpError> {
        let Some((until, after)) = self.limits.until else {
            return Ok((self.limits.stall, false));
        };
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return Err(HttpError::Deadline {
                url: shown(&self.url),
                after,
            });
        }
        Ok((left.min(self.limits.stall), left < self.limits.stall))
    }

    fn late(&self, by_deadline: bool) -> HttpError {
        let url = shown(&self.url);
        match self.limits.until {
            Some((_, after)) if by_deadline => HttpError::Deadline { url, after },
            _ => HttpError::Stalled {
                url,
                after: self.limits.stall,
            },
        }
    }

    fn short(&self, source: Option<reqwest::Error>) -> HttpError {
        HttpError::ShortBody {
            url: shown(&self.url),
            expected: self.len,
            got: self.received,
            source,
        }
    }

    fn too_slow(&mut self, waited: Duration, bytes: u64) -> Result<(), HttpError> {
        let Some(least) = self.limits.min_rate else {
            return Ok(());
        };
        self.window.bytes += bytes;
        self.window.waited += waited;
        if self.window.waited < least.within {
            return Ok(());
        }
        let Window { bytes, waited } = std::mem::take(&mut self.window);
        if bytes < least.bytes {
            return Err(HttpError::TooSlow {
                url: shown(&self.url),
                bytes,
                within: waited,
            });
        }
        Ok(())
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn date(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The range of a 206, which must be the one that was asked (cut at the file's end).
fn served_range(headers: &HeaderMap, get: &Get<'_>, url: &Url) -> Result<ServedRange, HttpError> {
    let wrong = || wrong_range(headers, url);
    let asked = get.range.as_ref().ok_or_else(wrong)?;
    let value = headers
        .get(header::CONTENT_RANGE)
        .and_then(|v| v.to_str().ok())
        .ok_or_else(wrong)?;
    let served = parse_content_range(value).ok_or_else(wrong)?;
    let wanted_end = served.total.map_or(asked.end, |t| asked.end.min(t));
    let open = asked.end == u64::MAX && served.total.is_none();
    if served.start != asked.start || !(open || served.end == wanted_end) {
        return Err(wrong());
    }
    Ok(served)
}

fn wrong_range(headers: &HeaderMap, url: &Url) -> HttpError {
    let got = headers
        .get(header::CONTENT_RANGE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("none");
    HttpError::WrongRange {
        url: shown(url),
        got: got.chars().take(64).collect(),
    }
}

/// `bytes FIRST-LAST/TOTAL` or `bytes FIRST-LAST/*` (RFC 9110, 14.4).
fn parse_content_range(value: &str) -> Option<ServedRange> {
    let (first, rest) = value.trim().strip_prefix("bytes ")?.trim().split_once('-')?;
    let (last, total) = rest.split_once('/')?;
    let start: u64 = first.trim().parse().ok()?;
    let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
    let total = match total.trim() {
        "*" => None,
        n => Some(n.parse::<u64>().ok()?),
    };
    let sane = start < end && total.is_none_or(|t| end <= t);
    sane.then_some(ServedRange { start, end, total })
}

fn status_error(status: u16, headers: &HeaderMap, get: &Get<'_>, url: &Url) -> HttpError {
    let url = shown(url);
    let conditional = get.if_modified_since.is_some() || get.if_none_match.is_some();
    match status {
        304 if conditional => HttpError::NotModified { url },
        416 => {
            let value = text(headers, header::CONTENT_RANGE.as_str());
            let total = value
                .as_deref()
                .and_then(|v| v.strip_prefix("bytes */"))
                .and_then(|n| n.trim().parse().ok());
            HttpError::NoSuchRange { url, total }
        }
        code => HttpError::Status {
            url,
            code,
            retry_after: retry_after(headers),
        },
    }
}

/// `Retry-After` in seconds; its date form is rare and left out. At most a day.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = text(headers, header::RETRY_AFTER.as_str())?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_strictly() {
        let some = |start, end, total| Some(ServedRange { start, end, total });
        assert_eq!(parse_content_range("bytes 0-9/10"), some(0, 10, Some(10)));
        assert_eq!(parse_content_range("bytes 5-5/*"), some(5, 6, None));
        for bad in [
            "bytes 5-4/10",
            "bytes 0-10/10",
            "bytes */10",
            "0-9/10",
            "bytes 0-18446744073709551615/*",
            "",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
