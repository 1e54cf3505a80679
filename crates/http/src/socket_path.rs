//! Paths of unix sockets that are longer than the kernel takes.
//!
//! - Invariant: the path that is given leads to the same name, as long as the [`SocketPath`] lives.
//! - Read first: unix(7), `sun_path`; proc(5), `/proc/self/fd`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Bytes of a path that fit into an address, less the NUL behind it.
const LONGEST: usize = 107;

/// A path that a socket can be bound to or reached at.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Open while the path goes by it.
    _folder: Option<File>,
}

impl SocketPath {
    /// For the socket `path`; a long one goes by its open folder.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(Self::plain(path));
        };
        if path.as_os_str().as_bytes().len() <= LONGEST {
            return Ok(Self::plain(path));
        }
        let folder = File::open(folder)?;
        let at = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        Ok(Self {
            path: at.join(name),
            _folder: Some(folder),
        })
    }

    fn plain(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _folder: None,
        }
    }

    /// What to give to the kernel.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
