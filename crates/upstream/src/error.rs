//! What can go wrong with one HTTP request.
//!
//! One variant for each thing that a caller does differently: try the next mirror,
//! start the file again, wait, or give up because the request itself was wrong.
//!
//! - Invariant: URLs in here carry no password.
//! - Not here: errors of files on disk (`crate::fetch`) and of rsync (`crate::rsync`).

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use url::Url;

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Only `http` and `https` with a host are spoken.
    #[error("it is not an HTTP address")]
    Scheme,
    /// The host is none of the configured upstreams.
    #[error("its host is not among the configured upstreams")]
    NotConfigured,
    /// The address lies in a network that this request may not enter.
    #[error("{0} is an address that it may not lead to")]
    Address(IpAddr),
}

/// Why an HTTP request gave no (whole) answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The rules for addresses forbid it.
    #[error("`{url}` is refused")]
    Forbidden {
        /// The URL in question (of the redirect, if one led there).
        url: String,
        /// Which rule.
        #[source]
        why: Refused,
    },
    /// No connection within the connect timeout, or none at all.
    #[error("cannot connect to `{url}`")]
    Connect {
        /// What was asked.
        url: String,
        /// The transport's words.
        #[source]
        source: reqwest::Error,
    },
    /// The connection ended before the answer's header.
    #[error("`{url}` gave no answer")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// The transport's words.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is not that of the file: an error status, or one that makes no sense here.
    #[error("`{url}` answered {code}")]
    Status {
        /// What was asked last.
        url: String,
        /// The status code.
        code: u16,
        /// How long the server asks us to stay away (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// A conditional request found nothing new (304). Not a fault.
    #[error("`{url}` has not changed")]
    NotModified {
        /// What was asked.
        url: String,
    },
    /// The range lies outside of the file (416).
    #[error("`{url}` has no such range")]
    NoSuchRange {
        /// What was asked.
        url: String,
        /// The file's length, if the server said it.
        total: Option<u64>,
    },
    /// A range was asked, the whole file came.
    #[error("`{url}` ignores ranges")]
    RangeIgnored {
        /// What was asked.
        url: String,
        /// Bytes of what came, if announced.
        len: Option<u64>,
    },
    /// A range was asked, another one came.
    #[error("`{url}` sent another range than the one asked (`{got}`)")]
    WrongRange {
        /// What was asked.
        url: String,
        /// The `Content-Range` that came, shortened.
        got: String,
    },
    /// A redirect without a usable target, or too many.
    #[error("`{url}` redirects for ever or to nowhere")]
    Redirect {
        /// Where the chain ended.
        url: String,
    },
    /// No byte came for as long as the stall timeout.
    #[error("`{url}` stalled: no byte for {after:?}")]
    Stalled {
        /// What was asked.
        url: String,
        /// How long nothing came.
        after: Duration,
    },
    /// Bytes come, but fewer than the least rate.
    #[error("`{url}` is too slow: {bytes} bytes in {within:?}")]
    TooSlow {
        /// What was asked.
        url: String,
        /// How many came.
        bytes: u64,
        /// In which time of waiting for them.
        within: Duration,
    },
    /// The request's own deadline passed.
    #[error("`{url}` did not finish within {after:?}")]
    Deadline {
        /// What was asked.
        url: String,
        /// The deadline.
        after: Duration,
    },
    /// More bytes than the caller takes, announced or sent.
    #[error("`{url}` is longer than {limit} bytes")]
    TooLong {
        /// What was asked.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The body ended, or its connection broke, before it was whole.
    #[error("the body of `{url}` ended after {got} bytes")]
    ShortBody {
        /// What was asked.
        url: String,
        /// How many bytes were announced.
        expected: Option<u64>,
        /// How many came.
        got: u64,
        /// The transport's words, if the connection broke.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// All connections that one host gets were in use for too long.
    #[error("no free connection to the host of `{url}`")]
    Busy {
        /// What was asked.
        url: String,
    },
}

impl HttpError {
    /// Whether the same request may succeed later at the same host.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 408 | 425 | 429 | 500..=599),
            Self::Connect { .. }
            | Self::NoAnswer { .. }
            | Self::Stalled { .. }
            | Self::TooSlow { .. }
            | Self::Deadline { .. }
            | Self::ShortBody { .. }
            | Self::Busy { .. } => true,
            _ => false,
        }
    }

    /// Whether this speaks against the mirror (and not only against this one file or us).
    pub fn counts_against_mirror(&self) -> bool {
        match self {
            Self::NotModified { .. } | Self::NoSuchRange { .. } | Self::Busy { .. } => false,
            Self::Status { code, .. } => !matches!(code, 404 | 410),
            _ => true,
        }
    }

    /// Whether nobody was there, or who was said nothing: another client would wait in vain, too. A certificate that is not
    /// trusted here is none of that.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Stalled { .. } | Self::TooSlow { .. } | Self::Deadline { .. } => true,
            Self::Connect { source, .. } => !causes(source).any(is_of_tls),
            _ => false,
        }
    }

    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Forbidden {
                why: Refused::NotConfigured,
                ..
            } => Some("list the host among the mirror's `upstreams`"),
            Self::Forbidden {
                why: Refused::Scheme, ..
            } => Some("the mirror redirects to what is no web address; use another mirror"),
            Self::Forbidden { .. } => Some("the mirror redirects into a private network; use another mirror"),
            Self::Connect { source, .. } if says(source, "certificate expired") => {
                Some("its certificate is over, unless the clock of this machine is wrong")
            }
            Self::Connect { source, .. } if says(source, "certificate not valid for name") => {
                Some("its certificate is of another name: take the mirror's own name for its URL")
            }
            Self::Connect { source, .. } if says(source, "invalid peer certificate") => Some(
                "its certificate is not trusted: if it is of your own authority, add that by `trust anchor FILE` and restart",
            ),
            Self::Connect { .. } | Self::Stalled { .. } | Self::TooSlow { .. } => {
                Some("the mirror may be down or overloaded; list another one beside it")
            }
            Self::Status { code: 404, .. } => {
                Some("check the upstream's URL: it must lead to the mirror's root")
            }
            _ => None,
        }
    }
}

/// `url` as shown in errors and logs: without user and password.
pub(crate) fn shown(url: &Url) -> String {
    if url.username().is_empty() && url.password().is_none() {
        return url.as_str().to_owned();
    }
    let mut clean = url.clone();
    // Both fail only for URLs without a host, which carry no user either.
    let _ = clean.set_username("");
    let _ = clean.set_password(None);
    clean.into()
}

/// Whether a cause of it has these words, such as why the certificate of the other side kept us from connecting. The
/// library of TLS is not ours to name; its texts are stable.
fn says(error: &reqwest::Error, words: &str) -> bool {
    causes(error).any(|e| e.to_string().contains(words))
}

/// The library of TLS tells its errors as those of bad data.
fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData)
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |&e| e.source())
}

/// The rule that refused an address, if that is why a connection was not made.
pub(crate) fn refusal(error: &reqwest::Error) -> Option<Refused> {
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(e) = next {
        if let Some(refused) = e.downcast_ref::<Refused>() {
            return Some(*refused);
        }
        next = e.source();
    }
    None
}
