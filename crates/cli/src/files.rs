//! Files of the system that are replaced: whole or not at all, by whoever had them.
//!
//! - Invariant: a file has its old or its new bytes at every moment; mode and owner stay.
//! - Not here: what is written (`crate::commands`).

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{Gid, Uid};

/// The new bytes of a file, durable beside it; gone again unless they are put in its place.
#[derive(Debug)]
pub(crate) struct Replacement {
    new: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Replacement {
    /// Writes `bytes` beside `path`; a file that is new gets `mode`.
    ///
    /// # Errors
    /// If they cannot be written there.
    pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<Self> {
        let dir = path.parent().context("a file stands in a folder")?;
        fs_err::create_dir_all(dir)?;
        let fail = || format!("cannot write beside `{}`", path.display());
        let new = tempfile::Builder::new().prefix(".pacstore-").tempfile_in(dir);
        let mut new = new.with_context(fail)?;
        new.write_all(bytes).with_context(fail)?;
        let file = new.as_file();
        match fs_err::metadata(path) {
            Ok(meta) => {
                let own = fs_err::metadata(new.path())?;
                if (own.uid(), own.gid()) != (meta.uid(), meta.gid()) {
                    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
                    rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid))
                        .with_context(|| format!("cannot keep the owner of `{}`", path.display()))?;
                }
                file.set_permissions(meta.permissions())?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            }
            Err(error) => return Err(error.into()),
        }
        file.sync_all()?;
        let path = path.to_owned();
        Ok(Self { new, path })
    }

    /// They are the file's from here on; [`sync_folder`] makes that durable.
    ///
    /// # Errors
    /// If the file cannot be replaced; it is then as it was.
    pub(crate) fn put(self) -> anyhow::Result<()> {
        let Self { new, path } = self;
        new.persist(&path)
            .with_context(|| format!("cannot replace `{}`", path.display()))?;
        Ok(())
    }
}

/// Puts `bytes` in the place of `path`; a file that is new gets `mode`.
///
/// # Errors
/// If it cannot be written; it is then as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    Replacement::write(path, bytes, mode)?.put()
}

/// Makes the names in the folder of `path` durable.
pub(crate) fn sync_folder(path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().context("a file stands in a folder")?;
    fs_err::File::open(dir)?.sync_all()?;
    Ok(())
}
