//! Where things lie: configuration, state, socket; one directory with `--home`.
//!
//! - Invariant: with `--home` or `PACSTORE_HOME` nothing outside that directory is used.
//! - Not here: what the configuration says (`crate::config`).

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::owner::Owner;

/// The places of one node.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    config: PathBuf,
    state: PathBuf,
    socket: PathBuf,
    /// The one directory, where `--home` names it.
    root: Option<PathBuf>,
}

impl Home {
    /// Everything under `dir`.
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self {
            config: dir.join("pacstore.toml"),
            state: dir.join("state"),
            socket: dir.join("pacstore.sock"),
            root: Some(dir),
        }
    }

    /// From `--home`, else `PACSTORE_HOME`, else by who runs us: the system's places for
    /// root and the service user, the XDG directories for everyone else.
    pub(crate) fn find(option: Option<PathBuf>) -> Self {
        if let Some(dir) = option.or_else(|| {
            std::env::var_os("PACSTORE_HOME")
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        }) {
            return Self::at(std::path::absolute(&dir).unwrap_or(dir));
        }
        let uid = rustix::process::geteuid();
        let service = std::fs::metadata("/var/lib/pacstore").is_ok_and(|meta| meta.uid() == uid.as_raw());
        if uid.is_root() || service {
            return Self::system();
        }
        Self::xdg()
    }

    fn system() -> Self {
        Self {
            config: "/etc/pacstore/pacstore.toml".into(),
            state: "/var/lib/pacstore".into(),
            socket: "/run/pacstore/pacstore.sock".into(),
            root: None,
        }
    }

    fn xdg() -> Self {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
        let dir = |variable: &str, default: &str| {
            std::env::var_os(variable)
                .filter(|v| !v.is_empty())
                .map_or_else(|| home.join(default), PathBuf::from)
        };
        let state = dir("XDG_STATE_HOME", ".local/state").join("pacstore");
        let runtime = std::env::var_os("XDG_RUNTIME_DIR")
            .filter(|v| !v.is_empty())
            .map(PathBuf::from);
        Self {
            config: dir("XDG_CONFIG_HOME", ".config").join("pacstore/pacstore.toml"),
            socket: runtime.map_or_else(
                || state.join("pacstore.sock"),
                |dir| dir.join("pacstore/pacstore.sock"),
            ),
            state,
            root: None,
        }
    }

    /// Where the system mounted at `root` has its things; a home that was named stays what it is.
    pub(crate) fn of_system(&self, root: &Path) -> Self {
        if self.root.is_some() {
            return self.clone();
        }
        let system = Self::system();
        let under = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        Self {
            config: under(&system.config),
            state: under(&system.state),
            socket: under(&system.socket),
            root: None,
        }
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.config.clone()
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sockets on which a daemon may answer, first the one of this home.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let mut sockets = vec![self.socket.clone()];
        if self.root.is_none() {
            for other in [Self::system().socket, Self::xdg().socket] {
                if !sockets.contains(&other) {
                    sockets.push(other);
                }
            }
        }
        sockets
    }

    /// Creates what is missing, and goes on as the user whose home it is, where root runs us on the home of another.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        self.create()?;
        Owner::of(&self.state).map_or(Ok(()), Owner::become_it)
    }

    /// Does `work` as the user whose home it is, where root runs us on the home of another; the directories are there.
    pub(crate) fn as_owner<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        match Owner::of(&self.state) {
            Some(owner) => owner.does(work),
            None => work(),
        }
    }

    /// Permission bits of a new configuration: the system's is for everybody, since any user may ask the daemon.
    pub(crate) fn config_mode(&self) -> u32 {
        if self.config == Self::system().config {
            0o644
        } else {
            0o600
        }
    }

    /// Creates the directories that are missing, for their owner alone, save the system's
    /// `/run/pacstore`: any user may ask the daemon there.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        let run = self.socket.parent();
        let run_mode = if self.socket.starts_with("/run/pacstore") {
            0o755
        } else {
            0o700
        };
        let dirs = [
            (self.root.as_deref(), 0o700),
            (Some(&*self.state), 0o700),
            (run, run_mode),
        ];
        for (dir, mode) in dirs.into_iter().filter_map(|(dir, mode)| Some((dir?, mode))) {
            let fail = || format!("cannot create `{}`", dir.display());
            let is_new = !dir.exists();
            let mut builder = std::fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(mode)
                .create(dir)
                .with_context(fail)?;
            // The socket's place, of a service that does not run.
            if let Some(owner) = Owner::of(&self.state).filter(|_| is_new) {
                owner.give(dir).with_context(fail)?;
            }
        }
        Ok(())
    }
}
