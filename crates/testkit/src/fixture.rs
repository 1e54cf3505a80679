//! The real repository in `../shared/fixtures`: 45 consecutive updates of it.
//!
//! Its bytes are other people's; they are read where they are and never copied into this repository.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::require::{require, shared};

/// How files are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Materialize {
    /// Plain copies.
    Copy,
    /// Hard links to the fixture where possible: fast, but nothing may ever be written into them.
    Link,
}

/// `arcolinux_repo_testing`, updates 1 to 45.
#[derive(Clone, Debug)]
pub struct Fixture(PathBuf);

impl Fixture {
    /// The number of its last update.
    pub const LAST: u32 = 45;
    /// The repository's name.
    pub const REPO: &'static str = "arcolinux_repo_testing";

    /// `None` (and a line on stderr) if the fixture, `sh` or `python3` is not there.
    pub fn arcolinux() -> Option<Self> {
        let folder = shared("fixtures/arcolinux-testing")?;
        require("sh")?;
        require("python3")?;
        Some(Self(folder))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes `dir` hold exactly update `n`; on a `dir` with another update, moves it there as rsync would.
    ///
    /// # Errors
    /// If there is no update `n` or the disk refuses.
    pub fn materialize(&self, n: u32, dir: &Path, how: Materialize) -> io::Result<()> {
        let how = match how {
            Materialize::Copy => "copy",
            Materialize::Link => "link",
        };
        let run = Command::new("sh")
            .arg(self.0.join("materialize.sh"))
            .args([
                self.0.as_os_str(),
                format!("{n:03}").as_ref(),
                dir.as_os_str(),
                how.as_ref(),
            ])
            .output()?;
        if run.status.success() {
            return Ok(());
        }
        Err(io::Error::other(
            String::from_utf8_lossy(&run.stderr).into_owned(),
        ))
    }
}
