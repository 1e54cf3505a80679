//! The walk through a directory: each name that lies in it, once it is known what is there.
//!
//! - Invariant: a name that vanishes while we walk is left out; the next look notices.
//! - Invariant: nothing is held of a name but by who takes it ([`Names`]).
//! - Not here: that nothing outside of the root is opened (`crate::scan`).

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, openat, readlinkat, statat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::names;
use crate::scan::{FOLDER, Filter, MAX_DEPTH, Root, ScanError, stamp};
use crate::stat::{self, Stat};
use crate::view::{Item, NoFile, Place, View};

/// Takes names as they are found, in no order.
pub(crate) trait Names {
    fn file(&mut self, path: &[u8], item: Item);
    fn folder(&mut self, path: &[u8]);
}

impl Names for View {
    fn file(&mut self, path: &[u8], item: Item) {
        self.files.push((path.into(), item));
    }

    fn folder(&mut self, path: &[u8]) {
        self.folders.push(path.into());
    }
}

/// Compares names to those of a view.
#[derive(Debug)]
pub(crate) struct Same<'a> {
    view: &'a View,
    found: usize,
    differs: bool,
}

impl<'a> Same<'a> {
    pub(crate) fn new(view: &'a View) -> Self {
        Self {
            view,
            found: 0,
            differs: false,
        }
    }

    /// Whether each name was found as it is there, and no other. A name that came twice is told as a difference.
    pub(crate) fn is_all(&self) -> bool {
        !self.differs && self.found == self.view.files.len() + self.view.folders.len()
    }
}

impl Names for Same<'_> {
    fn file(&mut self, path: &[u8], item: Item) {
        self.found += 1;
        self.differs |= self.view.get(path) != Some(&item);
    }

    fn folder(&mut self, path: &[u8]) {
        self.found += 1;
        self.differs |= self
            .view
            .folders
            .binary_search_by(|known| (**known).cmp(path))
            .is_err();
    }
}

/// One walk; each name goes to `out`.
pub(crate) struct Walk<'a> {
    root: &'a Root,
    filter: &'a Filter,
    stop: &'a CancellationToken,
    out: &'a mut dyn Names,
    count: usize,
    /// The folders that we stand in, by device and inode: a link to one of them leads for ever.
    above: Vec<(u64, u64)>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(
        root: &'a Root,
        filter: &'a Filter,
        stop: &'a CancellationToken,
        out: &'a mut dyn Names,
    ) -> Self {
        Self {
            root,
            filter,
            stop,
            out,
            count: 0,
            above: Vec::new(),
        }
    }

    /// Walks all that lies below the root.
    pub(crate) fn all(&mut self) -> Result<(), ScanError> {
        let top = openat(self.root.fd.as_fd(), c".", FOLDER, Mode::empty());
        let top = top.map_err(|e| ScanError::Read(self.root.path.clone(), e.into()))?;
        self.folder(&top, &mut Vec::new(), &mut Vec::new(), 0)
    }

    /// `path` is where the names stand in the view, `real` where the folder lies without links.
    fn folder(
        &mut self,
        fd: &OwnedFd,
        path: &mut Vec<u8>,
        real: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), ScanError> {
        let fail = |e: Errno| ScanError::Read(self.root.absolute(path), e.into());
        if self.stop.is_cancelled() {
            return Err(ScanError::Stopped(self.root.path.clone()));
        }
        let stat = stat::of_open(fd).map_err(fail)?;
        let mut entries = Dir::read_from(fd).map_err(fail)?;
        self.above.push((stat.dev, stat.ino));
        let mut seen = HashSet::new();
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::NOENT) => break,
                Err(e) => return Err(ScanError::Read(self.root.absolute(path), e.into())),
            };
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if bytes == b"." || bytes == b".." || (!self.filter.hidden && names::is_hidden(bytes)) {
                continue;
            }
            // A folder that changes while it is read may give a name twice.
            if entry.file_type() == FileType::Directory && !seen.insert(name.to_owned()) {
                continue;
            }
            self.count += 1;
            if self.filter.limit < self.count {
                return Err(ScanError::TooMany {
                    path: self.root.path.clone(),
                    limit: self.filter.limit,
                });
            }
            let (path_len, real_len) = (path.len(), real.len());
            for buffer in [&mut *path, &mut *real] {
                if !buffer.is_empty() {
                    buffer.push(b'/');
                }
                buffer.extend_from_slice(bytes);
            }
            self.name(fd, name, path, real, depth)?;
            path.truncate(path_len);
            real.truncate(real_len);
        }
        self.above.pop();
        Ok(())
    }

    fn name(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        path: &mut Vec<u8>,
        real: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), ScanError> {
        let stat = match stat::of_name(folder, name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(ScanError::Read(self.root.absolute(path), e.into())),
        };
        if FileType::from_raw_mode(stat.mode) == FileType::Symlink {
            let target = readlinkat(folder, name, Vec::new());
            let target = match target {
                Ok(target) => target,
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                Err(e) => return Err(ScanError::Read(self.root.absolute(path), e.into())),
            };
            let (above, _) = names::split(real);
            return match self.root.resolve(above, target.as_bytes()) {
                Ok((mut target, stat)) => self.take(folder, None, &stat, path, &mut target, depth),
                Err(why) => {
                    self.nothing(path, why);
                    Ok(())
                }
            };
        }
        self.take(folder, Some(name), &stat, path, real, depth)
    }

    /// Takes what lies at `real`; `name` is its name in `folder` where no link led to it.
    fn take(
        &mut self,
        folder: &OwnedFd,
        name: Option<&CStr>,
        stat: &Stat,
        path: &mut Vec<u8>,
        real: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), ScanError> {
        match FileType::from_raw_mode(stat.mode) {
            FileType::RegularFile => {
                if !self.filter.exclude.takes_file(path) {
                    let place = if path == real {
                        Place::Here
                    } else {
                        Place::At(real.as_slice().into())
                    };
                    let stamp = stamp(stat);
                    self.out.file(path, Item::File { stamp, place });
                }
                Ok(())
            }
            FileType::Directory => {
                if self.filter.exclude.takes_folder(path) {
                    return Ok(());
                }
                if self.above.contains(&(stat.dev, stat.ino)) {
                    self.nothing(path, NoFile::Loop);
                    return Ok(());
                }
                if MAX_DEPTH <= depth {
                    self.nothing(path, NoFile::Deep);
                    return Ok(());
                }
                let opened = match name {
                    Some(name) => openat(folder, name, FOLDER, Mode::empty()).map_err(io::Error::from),
                    None => self.root.open_folder(real).and_then(|fd| match fd {
                        Some(fd) => Ok(fd),
                        None => Ok(openat(self.root.fd.as_fd(), c".", FOLDER, Mode::empty())?),
                    }),
                };
                // One that may be listed and not entered has names, and nothing behind them.
                let entered = |fd: OwnedFd| statat(&fd, c".", AtFlags::empty()).map(|_| fd);
                match opened.and_then(|fd| Ok(entered(fd)?)) {
                    Ok(fd) => {
                        self.out.folder(path);
                        self.folder(&fd, path, real, depth + 1)
                    }
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                        self.nothing(path, NoFile::Denied);
                        Ok(())
                    }
                    Err(e) => Err(ScanError::Read(self.root.absolute(path), e)),
                }
            }
            _ => {
                self.nothing(path, NoFile::Special);
                Ok(())
            }
        }
    }

    fn nothing(&mut self, path: &[u8], why: NoFile) {
        if !self.filter.exclude.takes_file(path) {
            self.out.file(path, Item::None(why));
        }
    }
}
