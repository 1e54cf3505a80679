//! Changes of files: shown as a diff, made whole or not at all.
//!
//! - Invariant: a file has its old or its new bytes at every moment; mode and owner stay.
//! - Invariant: what changed since it was read is not overwritten.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{Gid, Uid};

use crate::machine::read_file;

/// One file's change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// As the user knows it; a symbolic link is followed.
    pub(crate) path: PathBuf,
    /// `None`: it is not there.
    pub(crate) before: Option<Vec<u8>>,
    /// `None`: it goes.
    pub(crate) after: Option<Vec<u8>>,
    /// Its folder comes and goes with it.
    pub(crate) folder: bool,
}

impl Change {
    /// Nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.before == self.after
    }

    /// `created`, `changed` or `removed`.
    pub(crate) fn what(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "created",
            (_, None) => "removed",
            _ => "changed",
        }
    }

    /// As `diff -u` shows it; line ends other than `\n` are not shown.
    pub(crate) fn diff(&self) -> String {
        let text = |bytes: &Option<Vec<u8>>| {
            let bytes = bytes.as_deref().unwrap_or_default();
            String::from_utf8_lossy(bytes).replace("\r\n", "\n")
        };
        let (before, after) = (text(&self.before), text(&self.after));
        let name = |there: bool| {
            if there {
                self.path.display().to_string()
            } else {
                "/dev/null".to_owned()
            }
        };
        let mut out = format!(
            "--- {}\n+++ {}\n",
            name(self.before.is_some()),
            name(self.after.is_some())
        );
        let diff = similar::TextDiff::from_lines(&before, &after);
        for hunk in diff.unified_diff().context_radius(2).iter_hunks() {
            let _ = write!(out, "{hunk}");
        }
        out
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// If the file is another than the one that was read, or cannot be written; it is then as it was.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        // A link to another place stays a link.
        let path = fs_err::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let now = path.exists().then(|| read_file(&path)).transpose()?;
        if now != self.before {
            bail!("`{}` changed meanwhile; run it again", self.path.display());
        }
        match &self.after {
            Some(bytes) => write(&path, bytes),
            None => fs_err::remove_file(&path).map_err(Into::into),
        }?;
        if self.after.is_none()
            && self.folder
            && let Some(dir) = path.parent()
            // Somebody else's file in it keeps it.
            && fs_err::remove_dir(dir).is_ok()
        {
            return sync_folder(dir);
        }
        sync_folder(&path)
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let dir = path.parent().context("a file stands in a folder")?;
    fs_err::create_dir_all(dir)?;
    let mut new = tempfile::Builder::new().prefix(".pacstore-").tempfile_in(dir)?;
    new.write_all(bytes)?;
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
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        Err(error) => return Err(error.into()),
    }
    file.sync_all()?;
    new.persist(path)
        .with_context(|| format!("cannot replace `{}`", path.display()))?;
    Ok(())
}

fn sync_folder(path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().context("a file stands in a folder")?;
    fs_err::File::open(dir)?.sync_all()?;
    Ok(())
}
