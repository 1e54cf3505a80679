//! What was asked of the mirror and what it sent.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::lock;

/// One request, as far as it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD` ...
    pub method: String,
    /// HTTP/1.1 or HTTP/2.
    pub version: http::Version,
    /// The path as it was asked, percent-encoded, with leading `/` and without query.
    pub path: String,
    /// `Range`.
    pub range: Option<String>,
    /// `If-Range`.
    pub if_range: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<String>,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// The status of the answer; 0 before there is one.
    pub status: u16,
    /// The file offset at which the answer's body begins.
    pub from: u64,
    /// Body bytes that were handed to the connection.
    pub sent: u64,
    /// Whether the body came to its proper end.
    pub complete: bool,
    /// When it came.
    pub at: SystemTime,
}

impl Request {
    /// Which bytes of the file went out.
    pub fn bytes(&self) -> Range<u64> {
        self.from..self.from + self.sent
    }
}

/// The log did not become as wanted.
#[derive(Debug, thiserror::Error)]
#[error("after {within:?} the mirror's log still is not as wanted: {log:#?}")]
pub struct TimedOut {
    within: Duration,
    log: Vec<Request>,
}

/// One line of the log, still being written.
#[derive(Debug)]
pub(crate) struct Entry {
    fixed: Mutex<Request>,
    sent: AtomicU64,
    complete: AtomicBool,
    news: watch::Sender<u64>,
}

impl Entry {
    pub(crate) fn answered(&self, status: u16, from: u64) {
        let mut fixed = lock(&self.fixed);
        fixed.status = status;
        fixed.from = from;
        drop(fixed);
        self.tell();
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
        self.tell();
    }

    pub(crate) fn complete(&self) {
        self.complete.store(true, Relaxed);
        self.tell();
    }

    fn tell(&self) {
        self.news.send_modify(|n| *n += 1);
    }

    fn snapshot(&self) -> Request {
        let mut request = lock(&self.fixed).clone();
        request.sent = self.sent.load(Relaxed);
        request.complete = self.complete.load(Relaxed);
        request
    }
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Mutex<Vec<Arc<Entry>>>,
    news: watch::Sender<u64>,
}

impl Log {
    pub(crate) fn begin(&self, request: Request) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            fixed: Mutex::new(request),
            sent: AtomicU64::new(0),
            complete: AtomicBool::new(false),
            news: self.news.clone(),
        });
        lock(&self.entries).push(Arc::clone(&entry));
        entry.tell();
        entry
    }

    pub(crate) fn all(&self) -> Vec<Request> {
        lock(&self.entries).iter().map(|e| e.snapshot()).collect()
    }

    pub(crate) fn clear(&self) {
        lock(&self.entries).clear();
    }

    pub(crate) async fn wait_for(
        &self,
        within: Duration,
        wanted: impl Fn(&[Request]) -> bool,
    ) -> Result<Vec<Request>, TimedOut> {
        let mut news = self.news.subscribe();
        let met = async {
            loop {
                news.mark_unchanged();
                let log = self.all();
                if wanted(&log) || news.changed().await.is_err() {
                    return log;
                }
            }
        };
        tokio::time::timeout(within, met).await.map_err(|_| TimedOut {
            within,
            log: self.all(),
        })
    }
}
