//! What stands on the demo's stage: a mirror, two nodes, the line between them.
//!
//! - Invariant: [`Stage::clear`] ends everything, whatever of it was started.
//! - Not here: what is played (`super::steps`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use pacstore_runtime::{Pool, Tasks};

use super::line::Line;
use super::machine::Machine;
use super::repository::Sample;
use super::upstream::Upstream;

/// The mirror's NAME in the demo: a name that nobody can own.
pub(super) const NAME: &str = "demo.example";

/// Where the repository is from.
#[derive(Debug)]
pub(super) enum From {
    /// Made here; there is a second state of it.
    Sample(Box<Sample>),
    /// Somebody's folder, served by a mirror of ours.
    Folder,
    /// Somebody's mirror.
    Web,
}

/// All that was started.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) dir: PathBuf,
    pub(super) tasks: Tasks,
    pub(super) repo: String,
    /// An architecture of the repository's packages.
    pub(super) arch: String,
    pub(super) from: Option<From>,
    /// The folder behind `upstream`.
    pub(super) folder: Option<PathBuf>,
    pub(super) upstream: Option<Upstream>,
    /// Where an ordinary mirror of the repository is.
    pub(super) url: String,
    pub(super) importer: Machine,
    pub(super) client: Machine,
    pub(super) line: Option<Line>,
    /// The importer's KEY.
    pub(super) key: String,
}

impl Stage {
    /// An empty stage in `dir` for the repository `repo`.
    pub(super) fn new(dir: &Path, repo: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            tasks: Tasks::new(),
            repo: repo.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            from: None,
            folder: None,
            upstream: None,
            url: String::new(),
            importer: Machine::new(dir.join("node1")),
            client: Machine::new(dir.join("node2")),
            line: None,
            key: String::new(),
        }
    }

    /// The line between the nodes.
    pub(super) fn line(&self) -> anyhow::Result<&Line> {
        self.line
            .as_ref()
            .context("the line between the nodes is not there yet")
    }

    /// Writes node 2's configuration: it follows the name through the line.
    pub(super) fn configure_client(&self, upstreams: &[String]) -> anyhow::Result<String> {
        let address = self.line()?.address();
        let peer = format!(
            "/ip4/{}/tcp/{}/p2p/{}",
            address.ip(),
            address.port(),
            self.importer.peer_id()?
        );
        let mirror = format!(
            "[[mirror]]\nname = \"{NAME}\"\nimporters = [\"{}\"]\nupstreams = {}\n",
            self.key,
            toml::Value::from(upstreams.to_vec()),
        );
        self.client.configure(std::slice::from_ref(&peer), &mirror)?;
        Ok(peer)
    }

    /// The line for pacman.conf.
    pub(super) fn server(&self) -> anyhow::Result<String> {
        Ok(format!(
            "Server = http://{}/pacman/$repo/$arch",
            self.client.gateway()?
        ))
    }

    /// Runs `work` where it may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.tasks.blocking(Pool::Disk, work).await?
    }

    /// Ends everything.
    pub(super) async fn clear(&mut self) {
        self.client.stop().await;
        self.importer.stop().await;
        self.tasks.shutdown(Duration::from_secs(1)).await;
    }
}
