//! An ordinary HTTP mirror, good or bad as the test wants it.
//!
//! Real HTTP/1.1 on 127.0.0.1, or HTTP/2 over TLS: ranges, conditions, directory pages. It serves a folder
//! as it is at each request, or files from memory. Faults are set by file name and can
//! be taken back; every request is logged.
//!
//! - Invariant: without faults it is a correct server; a file that was opened is served
//!   whole even if another was renamed over it meanwhile.
//! - Not here: TLS and its key (`tls`).
//! - Read first: [`Fault`].

mod body;
mod content;
mod fault;
mod io;
mod listing;
mod log;
mod serve;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pacstore_runtime::RateLimit;

pub use fault::{At, Fault};
pub use listing::Listing;
pub use log::{Request, TimedOut};

use crate::worker::Worker;
use content::Content;
use fault::{Allowed, Faults};
use log::Log;
use tls::Tls;
use tokio::sync::watch;

type Hook = Box<dyn FnMut(&str) + Send>;

/// A mirror on 127.0.0.1.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    tls: Option<Tls>,
    worker: Mutex<Option<Worker>>,
}

/// What the handle and the server's thread share.
pub(crate) struct State {
    content: Mutex<Content>,
    faults: Mutex<Faults>,
    hooks: Mutex<Vec<(String, Hook)>>,
    listing: Mutex<Listing>,
    log: Log,
    limit: RateLimit,
    allowed: Mutex<Option<Allowed>>,
    connections: AtomicUsize,
    /// Counted up when connections are to be left.
    leave: watch::Sender<u64>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl State {
    fn leave(&self) {
        self.leave.send_modify(|times| *times += 1);
    }
}

/// Locks; a panic elsewhere in a test does not make the mirror useless.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    /// Serves a folder, as it is at each request.
    pub fn folder(folder: impl Into<PathBuf>) -> std::io::Result<Self> {
        Self::start_with(Content::Folder(folder.into()), None)
    }

    /// Serves a folder over HTTP/2, with a certificate that only [`Upstream::certificate`] vouches for.
    pub fn folder_over_http2(folder: impl Into<PathBuf>) -> std::io::Result<Self> {
        Self::start_with(Content::Folder(folder.into()), Some(Tls::new()?))
    }

    /// Serves what [`Upstream::put`] puts there.
    pub fn memory() -> std::io::Result<Self> {
        Self::start_with(Content::memory(), None)
    }

    fn start_with(content: Content, tls: Option<Tls>) -> std::io::Result<Self> {
        let state = Arc::new(State {
            content: Mutex::new(content),
            faults: Mutex::default(),
            hooks: Mutex::default(),
            listing: Mutex::new(Listing::Nginx),
            log: Log::default(),
            limit: RateLimit::new(None),
            allowed: Mutex::default(),
            connections: AtomicUsize::new(0),
            leave: watch::Sender::new(0),
        });
        let (worker, address) = listen(0, &state, tls.as_ref())?;
        Ok(Self {
            address,
            state,
            tls,
            worker: Mutex::new(Some(worker)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificate in DER, where it speaks HTTP/2 over TLS.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.tls.as_ref().map(|tls| &tls.certificate[..])
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Says on each HTTP/2 connection that it goes away (GOAWAY): what was asked is answered, what comes next needs
    /// another connection.
    pub fn go_away(&self) {
        self.state.leave();
    }

    /// `http://127.0.0.1:PORT/PATH`, `https` where it speaks HTTP/2; the path is taken as it is, percent-encoding is the caller's.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/{}", self.address, path.trim_start_matches('/'))
    }

    /// Breaks all connections and refuses new ones, until [`Upstream::start`].
    pub fn stop(&self) {
        drop(lock(&self.worker).take());
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// If somebody else took the port meanwhile.
    pub fn start(&self) -> std::io::Result<()> {
        let mut worker = lock(&self.worker);
        if worker.is_none() {
            *worker = Some(listen(self.address.port(), &self.state, self.tls.as_ref())?.0);
        }
        Ok(())
    }

    /// Puts a file there, now; in a folder by rename.
    pub fn put(&self, path: impl AsRef<[u8]>, bytes: impl Into<Bytes>) -> std::io::Result<()> {
        self.put_at(path, bytes, SystemTime::now())
    }

    /// Puts a file there with this time (`Last-Modified`).
    pub fn put_at(
        &self,
        path: impl AsRef<[u8]>,
        bytes: impl Into<Bytes>,
        mtime: SystemTime,
    ) -> std::io::Result<()> {
        lock(&self.state.content).put(path.as_ref(), bytes.into(), mtime)
    }

    /// Takes a file away. One that is being sent is sent to its end.
    pub fn remove(&self, path: impl AsRef<[u8]>) -> std::io::Result<()> {
        lock(&self.state.content).remove(path.as_ref())
    }

    /// The folder that is served, if it is one.
    pub fn served_folder(&self) -> Option<PathBuf> {
        lock(&self.state.content).folder().map(Path::to_owned)
    }

    /// Answers requests for files that match with this fault, too, until [`Upstream::heal`].
    ///
    /// `pattern` is a path without leading `/`, `*` standing for anything; one without
    /// `/` matches the file's name in any folder. Several faults on one file add up.
    pub fn fault(&self, pattern: &str, fault: Fault) {
        lock(&self.state.faults).add(pattern, fault, u32::MAX);
    }

    /// The same for the next `times` matching requests only.
    pub fn fault_times(&self, pattern: &str, times: u32, fault: Fault) {
        lock(&self.state.faults).add(pattern, fault, times);
    }

    /// Takes all faults back. Responses under way keep theirs.
    pub fn heal(&self) {
        lock(&self.state.faults).clear();
    }

    /// Body bytes a second over all connections; `None` = no limit.
    pub fn limit(&self, rate: Option<u64>) {
        self.state.limit.set_rate(rate);
    }

    /// Answers requests beyond so many a second, and as many at once, with 429.
    pub fn allow(&self, a_second: u32) {
        *lock(&self.state.allowed) = Some(Allowed::new(a_second));
    }

    /// How directory pages look. [`Listing::Off`] answers them with 404.
    pub fn listing(&self, style: Listing) {
        *lock(&self.state.listing) = style;
    }

    /// Runs `hook` on the server's thread before each matching request is answered (it gets the path):
    /// to change the mirror while somebody reads it. The pattern is as in [`Upstream::fault`].
    pub fn on_request(&self, pattern: &str, hook: impl FnMut(&str) + Send + 'static) {
        lock(&self.state.hooks).push((pattern.to_owned(), Box::new(hook)));
    }

    /// All requests so far, oldest first.
    pub fn log(&self) -> Vec<Request> {
        self.state.log.all()
    }

    /// Those whose path (without leading `/`) matches.
    pub fn requests(&self, pattern: &str) -> Vec<Request> {
        let mut log = self.log();
        log.retain(|r| fault::matches(pattern, r.path.trim_start_matches('/')));
        log
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        self.state.log.clear();
    }

    /// Body bytes that were sent so far, over the whole log.
    pub fn sent(&self) -> u64 {
        self.log().iter().map(|r| r.sent).sum()
    }

    /// Waits until the log is as wanted; looked at after each request and each piece that is sent.
    ///
    /// Uses the caller's clock: do not call it with a paused one.
    ///
    /// # Errors
    /// [`TimedOut`] after `within`.
    pub async fn wait_for(
        &self,
        within: Duration,
        wanted: impl Fn(&[Request]) -> bool,
    ) -> Result<Vec<Request>, TimedOut> {
        self.state.log.wait_for(within, wanted).await
    }
}

fn listen(port: u16, state: &Arc<State>, tls: Option<&Tls>) -> std::io::Result<(Worker, SocketAddr)> {
    let (state, tls) = (Arc::clone(state), tls.cloned());
    Worker::listen("upstream", port, move |stream| {
        let (state, tls) = (Arc::clone(&state), tls.clone());
        state.connections.fetch_add(1, Ordering::Relaxed);
        async move {
            match tls {
                Some(tls) => tls::connection(stream, tls, state).await,
                None => serve::connection(stream, state).await,
            }
        }
    })
}
