//! Changes of files: shown as a diff, made whole or not at all.
//!
//! - Invariant: a file has its old or its new bytes at every moment; mode and owner stay.
//! - Invariant: what changed since it was read is not overwritten.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::bail;

use crate::files::{replace, sync_folder};
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
            Some(bytes) => replace(&path, bytes, 0o644),
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
