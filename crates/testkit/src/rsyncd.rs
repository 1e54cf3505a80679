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
use std::sync::{Arc, Mutex, PoisonError};

use fs_err as fs;
use tokio::net::TcpStream;

use crate::require::require;
use crate::worker::Worker;

/// An rsync daemon with one module, `mirror`.
#[derive(Debug)]
pub struct RsyncDaemon {
    address: SocketAddr,
    children: Arc<Mutex<Vec<Child>>>,
    worker: Mutex<Option<Worker>>,
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
        let children = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&children);
        let (worker, address) = Worker::listen("rsyncd", 0, move |stream| {
            hand_over(stream, &program, &conf, &kept);
            std::future::ready(())
        })?;
        Ok(Some(Self {
            address,
            children,
            worker: Mutex::new(Some(worker)),
            folder: own,
        }))
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

/// Starts a daemon on the connection; the children that ended meanwhile are reaped.
fn hand_over(stream: TcpStream, program: &PathBuf, conf: &Path, children: &Mutex<Vec<Child>>) {
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
