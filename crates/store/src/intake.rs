//! How a file's bytes come into the store's folder: reflink, hard link, copy, move.
//!
//! A reflink costs nothing and nobody can change it behind our back, so it is tried first. A hard link is
//! taken only where the caller vouches that the file is replaced by rename and never written in place.
//!
//! - Invariant: what was taken in has the length that was asked for, or it is an error.
//! - Not here: files that stay where they are (`Intake::Reference` touches no disk), the index.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err as fs;

use crate::error::WriteError;
use crate::record::{Facts, Place};
use crate::steps::Hook;

/// How a file may be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// Reflinked where the file system can, else copied.
    Copy,
    /// Reflinked, else hard-linked, else copied. Only for files that are replaced by rename, never in place.
    Link,
    /// Left where it is; size, modification time and inode are checked at each open.
    Reference,
    /// Reflinked where the file system can, else left where it is, as [`Self::Reference`]: never a second copy.
    InPlace,
    /// Given away: its name is gone after the commit.
    Move,
}

/// Files up to this many bytes are copied through memory; above it the kernel copies.
const SMALL: u64 = 256 * 1024;

/// Takes files in; remembers what the file system cannot do.
#[derive(Debug, Default)]
pub(crate) struct Taker {
    no_reflink: AtomicBool,
}

impl Taker {
    /// Takes `source` in as `target`, which must not exist. `len` is what it must have in bytes.
    pub(crate) fn take(
        &self,
        hook: &Hook,
        how: Intake,
        source: &Path,
        target: &Path,
        len: u64,
        seen: Option<&Facts>,
    ) -> Result<Place, WriteError> {
        if how == Intake::Move
            && let Some(place) = link(hook, source, target, len, seen)?
        {
            // The other name goes when the batch is committed, so the file is ours alone.
            debug_assert!(matches!(place, Place::Link(_)));
            return Ok(Place::Own);
        }
        let (from, facts) = open_seen(source, len, seen)?;
        hook.before("take file")
            .map_err(|error| WriteError::file(target, error))?;
        if self
            .reflink(&from, target, len)
            .map_err(|error| WriteError::file(target, error))?
        {
            return unchanged(source, &from, &facts).map(|()| Place::Own);
        }
        if how == Intake::Link
            && let Some(place) = link(hook, source, target, len, Some(&facts))?
        {
            return Ok(place);
        }
        let copied = copy(&from, target, len).map_err(|error| WriteError::file(target, error))?;
        if copied != len {
            return Err(WriteError::SourceChanged(source.to_owned()));
        }
        unchanged(source, &from, &facts).map(|()| Place::Own)
    }

    /// False once a file system has refused to reflink.
    pub(crate) fn may_reflink(&self) -> bool {
        !self.no_reflink.load(Ordering::Relaxed)
    }

    /// Reflinks `source`, or nothing: `None` where the file system cannot.
    pub(crate) fn take_reflink(
        &self,
        hook: &Hook,
        source: &Path,
        target: &Path,
        len: u64,
        seen: Option<&Facts>,
    ) -> Result<Option<Place>, WriteError> {
        let (from, facts) = open_seen(source, len, seen)?;
        hook.before("take file")
            .map_err(|error| WriteError::file(target, error))?;
        let shared = self
            .reflink(&from, target, len)
            .map_err(|error| WriteError::file(target, error))?;
        if !shared {
            return Ok(None);
        }
        unchanged(source, &from, &facts).map(|()| Some(Place::Own))
    }

    /// True if `target` now shares the bytes of `from`.
    fn reflink(&self, from: &File, target: &Path, len: u64) -> io::Result<bool> {
        if len == 0 || self.no_reflink.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let to = fs::OpenOptions::new().write(true).create_new(true).open(target)?;
        match rustix::fs::ioctl_ficlone(&to, from) {
            Ok(()) => Ok(true),
            Err(error) => {
                use rustix::io::Errno;
                fs::remove_file(target)?;
                // Another file system (XDEV) says nothing about the next source.
                if matches!(error, Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) {
                    self.no_reflink.store(true, Ordering::Relaxed);
                }
                if matches!(error, Errno::NOSPC | Errno::DQUOT) {
                    Err(error.into())
                } else {
                    Ok(false)
                }
            }
        }
    }
}

/// Opens a file that must have this length and, where given, these facts.
fn open_seen(source: &Path, len: u64, seen: Option<&Facts>) -> Result<(File, Facts), WriteError> {
    let failed = |error| WriteError::Source(source.to_owned(), error);
    let from = File::open(source).map_err(failed)?;
    let meta = from.metadata().map_err(failed)?;
    let facts = Facts::of(&meta);
    if !meta.is_file() || facts.len != len || seen.is_some_and(|seen| *seen != facts) {
        return Err(WriteError::SourceChanged(source.to_owned()));
    }
    Ok((from, facts))
}

/// Gives the file a second name; `None` where the file system refuses.
fn link(
    hook: &Hook,
    source: &Path,
    target: &Path,
    len: u64,
    seen: Option<&Facts>,
) -> Result<Option<Place>, WriteError> {
    hook.before("link file")
        .map_err(|error| WriteError::file(target, error))?;
    match fs::hard_link(source, target) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(WriteError::Source(source.to_owned(), error));
        }
        Err(error) if crate::error::is_full(&error) => return Err(WriteError::file(target, error)),
        Err(_) => return Ok(None),
    }
    let meta = fs::symlink_metadata(target).map_err(|error| WriteError::file(target, error))?;
    let facts = Facts::of(&meta);
    if !meta.is_file() || facts.len != len || seen.is_some_and(|seen| *seen != facts) {
        return Err(WriteError::SourceChanged(source.to_owned()));
    }
    Ok(Some(Place::Link(facts)))
}

/// Copies at most `len + 1` bytes, so that a file that grows for ever is noticed and not followed.
fn copy(from: &File, target: &Path, len: u64) -> io::Result<u64> {
    use std::io::{Read, Write};
    let mut to = fs::OpenOptions::new().write(true).create_new(true).open(target)?;
    if len <= SMALL {
        let mut bytes = Vec::with_capacity(len as usize + 1);
        from.take(len + 1).read_to_end(&mut bytes)?;
        to.write_all(&bytes)?;
        return Ok(bytes.len() as u64);
    }
    let mut done = 0;
    while done <= len {
        let want = usize::try_from(len + 1 - done).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from.as_fd(), None, to.file().as_fd(), None, want) {
            Ok(0) => return Ok(done),
            Ok(count) => done += count as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::OPNOTSUPP
                | rustix::io::Errno::NOSYS,
            ) => return Ok(done + io::copy(&mut from.take(len + 1 - done), &mut to)?),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// An error if the file was written to while it was read.
fn unchanged(source: &Path, from: &File, facts: &Facts) -> Result<(), WriteError> {
    let meta = from
        .metadata()
        .map_err(|error| WriteError::Source(source.to_owned(), error))?;
    if Facts::of(&meta) == *facts {
        Ok(())
    } else {
        Err(WriteError::SourceChanged(source.to_owned()))
    }
}
