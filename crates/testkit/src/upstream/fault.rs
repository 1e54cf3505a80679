//! The list of bad mirrors: what can be wrong with an answer, each one line to use.
//!
//! Offsets are those of the file, not of one answer: a range that begins behind a fault
//! is not hit by it, so a client that resumes elsewhere or later gets on.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before the byte with this offset.
    Byte(u64),
    /// After so many percent of the file.
    Percent(u8),
}

impl At {
    pub(crate) fn of(self, len: u64) -> u64 {
        match self {
            Self::Byte(n) => n.min(len),
            Self::Percent(p) => len * u64::from(p.min(100)) / 100,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is read, nothing comes back.
    NoAnswer,
    /// The connection is closed instead of an answer.
    Hangup,
    /// The header comes, the body never.
    StallAfterHeader,
    /// The body stops here; the connection stays open.
    StallAt(At),
    /// So many bytes a second, each response for itself. ([`Upstream::limit`](super::Upstream::limit): all together.)
    Slow(u64),
    /// One byte in each period.
    Drip(Duration),
    /// The connection breaks here.
    Truncate(At),
    /// The announced length is wrong by so much; if it is too long the connection ends early.
    WrongLength(i64),
    /// The byte at this offset is another one.
    Flip(u64),
    /// From here on the bytes of another version come (the file was overwritten in place while it was read).
    SwapAt(At, Bytes),
    /// `Range` is ignored: 200 and the whole file.
    NoRanges,
    /// 206 with a range that begins so many bytes later than asked.
    WrongRange(u64),
    /// `If-Range` is ignored: 206 of whatever is there now.
    IgnoreIfRange,
    /// 302 to this URL.
    Redirect(String),
    /// 302 to itself, for ever.
    RedirectLoop,
    /// This status and an empty page.
    Status(u16),
    /// 200 and an HTML page instead of the file: an error page or a captive portal.
    ErrorPage,
    /// Zeros without end, no length announced.
    Endless,
    /// The length is not announced (chunked).
    NoLength,
    /// Neither `ETag` nor `Last-Modified`.
    NoValidators,
    /// No `ETag`: only a date tells versions apart.
    NoEtag,
    /// `Content-Encoding: gzip` is claimed (the bytes stay as they are).
    ClaimsGzip,
}

/// Requests that a server takes, by the second.
#[derive(Debug)]
pub(crate) struct Allowed {
    a_second: f64,
    now: f64,
    at: Instant,
}

impl Allowed {
    pub(crate) fn new(a_second: u32) -> Self {
        let a_second = f64::from(a_second);
        let (now, at) = (a_second, Instant::now());
        Self { a_second, now, at }
    }

    /// Whether one more may come now.
    pub(crate) fn one(&mut self) -> bool {
        let more = self.at.elapsed().as_secs_f64() * self.a_second;
        self.now = (self.now + more).min(self.a_second);
        self.at = Instant::now();
        let may = 1.0 <= self.now;
        if may {
            self.now -= 1.0;
        }
        may
    }
}

#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<(String, Fault, u32)>);

impl Faults {
    pub(crate) fn add(&mut self, pattern: &str, fault: Fault, times: u32) {
        self.0.push((pattern.to_owned(), fault, times));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The faults of one request for `path`; counted ones are used up.
    pub(crate) fn take(&mut self, path: &str) -> Vec<Fault> {
        let mut found = Vec::new();
        for (pattern, fault, times) in &mut self.0 {
            if *times > 0 && matches(pattern, path) {
                found.push(fault.clone());
                *times = if *times == u32::MAX { u32::MAX } else { *times - 1 };
            }
        }
        self.0.retain(|(_, _, times)| *times > 0);
        found
    }
}

/// Whether `path` (no leading slash) matches: `*` is anything; without `/` the last component counts.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let pattern = pattern.trim_start_matches('/');
    if pattern.contains('/') {
        return glob(pattern.as_bytes(), path.as_bytes());
    }
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    glob(pattern.as_bytes(), name.as_bytes()) || (pattern == "*")
}

/// Greedy with one point to come back to, so linear in practice.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_paths_and_names() {
        assert!(matches("*.pkg.tar.zst", "core/os/x86_64/a-1-1-any.pkg.tar.zst"));
        assert!(!matches(
            "*.pkg.tar.zst",
            "core/os/x86_64/a-1-1-any.pkg.tar.zst.sig"
        ));
        assert!(matches("core.db", "core/os/x86_64/core.db"));
        assert!(matches("core/*/core.db", "core/os/x86_64/core.db"));
        assert!(!matches("core/*", "extra/os/core/x"));
        assert!(
            matches("*", "") && matches("*", "a/b/") && matches("x", "x/") && matches("*a*b*", "zzazzbzz")
        );
    }
}
