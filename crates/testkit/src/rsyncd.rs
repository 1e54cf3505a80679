//! A real rsync daemon, for as long as a test needs it.
//!
//! The listener is ours; each connection is handed to an `rsync --daemon` of its own as
//! inetd does it. So there is no port to guess, no start to wait for, and no daemon left behind.
//!
//! - Invariant: its processes are ended when it is dropped.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fs_err as fs;
use tokio::net::TcpStream;

use crate::require::require;
use crate::worker::Worker;

/// An rsync daemon with one module, `mirror`.
#[derive(Debug)]
pub struct RsyncDaemon {
    address: SocketAddr,
    program: PathBuf,
    children: Arc<Mutex<Vec<Child>>>,
    worker: Mutex<Option<Worker>>,
    hangs: Arc<AtomicBool>,
    folder: tempfile::TempDir,
}

impl RsyncDaemon {
    /// Serves `folder`, read-only. `None` if rsync is not installed.
    pub fn serve(folder: &Path) -> io::Result<Option<Self>> {
        Self::serve_with(folder, &[])
    }

    /// The same with more lines in the module, such as `max connections = -1`.
    pub fn serve_with(folder: &Path, lines: &[&str]) -> io::Result<Option<Self>> {
        let Some(program) = require("rsync") else {
            return Ok(None);
        };
        let own = tempfile::tempdir()?;
        let conf = own.path().join("rsyncd.conf");
        fs::write(&conf, configuration(folder, own.path(), lines))?;
        let (children, hangs) = (Arc::default(), Arc::default());
        let (worker, address) = listen(0, &program, &conf, &children, &hangs)?;
        Ok(Some(Self {
            address,
            program,
            children,
            worker: Mutex::new(Some(worker)),
            hangs,
            folder: own,
        }))
    }

    /// Listens again on the same port, after [`RsyncDaemon::stop`].
    ///
    /// # Errors
    /// If somebody else took the port meanwhile.
    pub fn start(&self) -> io::Result<()> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            let conf = self.folder.path().join("rsyncd.conf");
            let port = self.address.port();
            *worker = Some(listen(port, &self.program, &conf, &self.children, &self.hangs)?.0);
        }
        Ok(())
    }

    /// Whether new connections are accepted and never hear a word. Those that hang stay so.
    pub fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `rsync://127.0.0.1:PORT/mirror/PATH`.
    pub fn url(&self, path: &str) -> String {
        self.url_at(self.address, path)
    }

    /// The same through another address, such as a relay's.
    pub fn url_at(&self, address: SocketAddr, path: &str) -> String {
        format!("rsync://{address}/mirror/{path}")
    }

    /// What the daemons logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends all connections and listens no more.
    pub fn stop(&self) {
        drop(self.worker.lock().unwrap_or_else(PoisonError::into_inner).take());
        for mut child in self
            .children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for RsyncDaemon {
    fn drop(&mut self) {
        self.stop();
    }
}

fn configuration(folder: &Path, own: &Path, lines: &[&str]) -> String {
    let mut text = format!(
        "use chroot = no\nlog file = {log}\nlock file = {lock}\nreverse lookup = no\n",
        log = own.join("log").display(),
        lock = own.join("lock").display(),
    );
    if rustix::process::getuid().is_root() {
        text.push_str("uid = 0\ngid = 0\n");
    }
    let _ = write!(
        text,
        "[mirror]\npath = {}\nread only = yes\nmunge symlinks = no\n",
        folder.display()
    );
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn listen(
    port: u16,
    program: &Path,
    conf: &Path,
    children: &Arc<Mutex<Vec<Child>>>,
    hangs: &Arc<AtomicBool>,
) -> io::Result<(Worker, SocketAddr)> {
    let (program, conf) = (program.to_owned(), conf.to_owned());
    let (children, hangs) = (Arc::clone(children), Arc::clone(hangs));
    Worker::listen("rsyncd", port, move |stream| {
        let mut hanging = Some(stream);
        if !hangs.load(Ordering::SeqCst)
            && let Some(stream) = hanging.take()
        {
            hand_over(stream, &program, &conf, &children);
        }
        async move {
            if let Some(stream) = hanging {
                std::future::pending::<()>().await;
                drop(stream);
            }
        }
    })
}

/// Starts a daemon on the connection; the children that ended meanwhile are reaped.
fn hand_over(stream: TcpStream, program: &Path, conf: &Path, children: &Mutex<Vec<Child>>) {
    let started = (|| -> io::Result<Child> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        let (stdin, stdout) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream));
        let mut config = std::ffi::OsString::from("--config=");
        config.push(conf);
        Command::new(program)
            .arg("--daemon")
            .arg(config)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::null())
            .spawn()
    })();
    let mut children = children.lock().unwrap_or_else(PoisonError::into_inner);
    children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    match started {
        Ok(child) => children.push(child),
        Err(error) => tracing::error!(%error, "the rsync daemon did not start"),
    }
}
