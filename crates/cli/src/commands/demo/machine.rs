//! One node of the demo: a home of its own, a configuration as a user would write it.
//!
//! - Invariant: everything of a node lies under its home, every address is of 127.0.0.1.
//! - Not here: what a node does (`crate::serving`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fs_err as fs;
use pacstore_names::SigningKey;
use pacstore_net::Multiaddr;
use pacstore_node::{BytesOut, Keys, Mirror, Node};

use crate::config::load;
use crate::home::Home;
use crate::listeners::HandedOver;
use crate::serving::Serving;

/// A node that may run.
#[derive(Debug)]
pub(super) struct Machine {
    home: Home,
    serving: Option<Serving>,
}

impl Machine {
    /// A node whose home is `dir`; nothing is there yet.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            home: Home::at(dir),
            serving: None,
        }
    }

    /// Makes the key `label`, as `pacstore key new` does.
    pub(super) fn new_key(&self, label: &str) -> anyhow::Result<SigningKey> {
        self.home.create()?;
        Ok(Keys::new(self.home.state_dir()).create(label)?)
    }

    /// Writes its `pacstore.toml`: no public network, free ports, and `more`.
    pub(super) fn configure(&self, peers: &[String], more: &str) -> anyhow::Result<()> {
        self.home.create()?;
        let peers = toml::Value::from(peers.to_vec());
        let text = format!(
            "[gateway]\nlisten = \"127.0.0.1:0\"\n\n[swarm]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nbootstrap = []\n\
             mdns = false\ndht = \"off\"\npeers = {peers}\n\n{more}"
        );
        Ok(fs::write(self.home.config_file(), text)?)
    }

    /// Starts it, as `pacstore daemon` does.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let loaded = load(&self.home)?;
        self.serving = Some(Box::pin(Serving::start(loaded, &self.home, HandedOver::default())).await?);
        Ok(())
    }

    /// Stops it, as SIGTERM does.
    pub(super) async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.stop().await;
        }
    }

    /// Ends it at once: no word to its peers, nothing written.
    pub(super) async fn kill(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.tasks.shutdown(Duration::ZERO).await;
        }
    }

    /// It runs.
    pub(super) fn serving(&self) -> anyhow::Result<&Serving> {
        self.serving.as_ref().context("this node does not run")
    }

    /// The node itself.
    pub(super) fn node(&self) -> anyhow::Result<&Node> {
        Ok(&self.serving()?.node)
    }

    /// Where its gateway listens.
    pub(super) fn gateway(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.serving()?.gateway)
    }

    /// Its peer id.
    pub(super) fn peer_id(&self) -> anyhow::Result<String> {
        let id = self.node()?.peer_id().context("this node has no network")?;
        Ok(id.to_string())
    }

    /// The TCP port on which other nodes reach it.
    pub(super) async fn swarm(&self) -> anyhow::Result<SocketAddr> {
        let addresses = self.node()?.addresses().await;
        let tcp = addresses.iter().find_map(tcp_of);
        tcp.context("this node listens on no TCP port of 127.0.0.1")
    }

    /// The mirror `name`.
    pub(super) fn mirror(&self, name: &str) -> anyhow::Result<Arc<Mirror>> {
        let mirror = self.node()?.mirror(name);
        mirror.with_context(|| format!("this node does not know {name}"))
    }

    /// Bytes that left its gateway, by first source.
    pub(super) async fn bytes(&self) -> anyhow::Result<BytesOut> {
        Ok(self.node()?.status(None).await.bytes)
    }
}

fn tcp_of(address: &Multiaddr) -> Option<SocketAddr> {
    let text = address.to_string();
    let (ip, rest) = text.strip_prefix("/ip4/")?.split_once("/tcp/")?;
    let port = rest.split('/').next()?;
    format!("{ip}:{port}").parse().ok()
}

/// What came in between two looks.
pub(super) fn since(before: BytesOut, after: BytesOut) -> BytesOut {
    BytesOut {
        disk: after.disk.saturating_sub(before.disk),
        lan: after.lan.saturating_sub(before.lan),
        peer: after.peer.saturating_sub(before.peer),
        upstream: after.upstream.saturating_sub(before.upstream),
    }
}
