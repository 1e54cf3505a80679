//! Nodes of tests: an importer over a directory, clients beside it, and what one asks of them.
//!
//! - Invariant: each node has a home of its own, listens on 127.0.0.1 at a free port, and
//!   knows only the peers that the test names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use cid::Cid;
use pacstore_import::{Files, ImportSpec, Source};
use pacstore_names::{IpnsName, Layout};
use pacstore_net::{DhtMode, Multiaddr};
use pacstore_node::config::{AlertConfig, Config, Every, ImportConfig, Importing, Keep, MirrorConfig, Swarm};
use pacstore_node::{Answer, Client, Content, FileAnswer, Keys, Node, Online, Outcome, RoundReport};
use pacstore_runtime::{Clock, Tasks};
use pacstore_testkit::{ThrottledRelay, Upstream};
use tempfile::TempDir;

/// The mirror of all tests.
pub(crate) const NAME: &str = "test.mirror";

/// How long anything may take that must happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Whatever went wrong; tests print it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a node is made from; change it before [`Plan::start`].
pub(crate) struct Plan {
    pub(crate) home: TempDir,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
}

/// A running node.
pub(crate) struct TestNode {
    pub(crate) node: Node,
    pub(crate) plan: Plan,
    tasks: Tasks,
}

impl Plan {
    /// A node that serves, imports and knows nothing.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: home.path().join("state"),
            store_dir: home.path().join("store"),
            max_size: 1 << 40,
            swarm: Swarm {
                listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
                bootstrap: Vec::new(),
                peers: Vec::new(),
                mdns: false,
                mdns_interfaces: Vec::new(),
                dht: DhtMode::Off,
                strangers: pacstore_net::STRANGERS,
            },
            mirrors: Vec::new(),
            repositories: Vec::new(),
            imports: Vec::new(),
            sharing: pacstore_node::config::Sharing::default(),
            open: false,
            machine: pacstore_node::config::MachineConfig::default(),
            // What else this machine does must not decide over a test.
            importing: Importing {
                pressure: None,
                ..Importing::default()
            },
            alert: AlertConfig::default(),
            tuning: pacstore_store::Tuning::default(),
        };
        let clock = Clock::system();
        Self { home, config, clock }
    }

    /// An importer of the directory `from` with a key of its own; it looks only when told.
    pub(crate) fn importer(from: &Path, files: Files) -> Self {
        let mut plan = Self::new();
        let key = Keys::new(&plan.config.state_dir).create("k").unwrap().name();
        let mut spec = ImportSpec::new(NAME, vec![Source::Directory(from.to_owned())]);
        spec.files = files;
        plan.config.imports.push(ImportConfig {
            name: NAME.parse().unwrap(),
            layout: Layout::Plain,
            spec,
            key: "k".to_owned(),
            every: Every::Manual,
            keep: Keep {
                age: Duration::ZERO,
                count: 3,
            },
            max_age: Some(Duration::from_hours(24)),
            public: true,
            replicas: 0,
        });
        plan.config.mirrors.push(mirror(vec![key]));
        plan
    }

    /// The KEY of the only import.
    pub(crate) fn key(&self) -> IpnsName {
        Keys::new(&self.config.state_dir).load("k").unwrap().name()
    }

    /// A client that trusts `importers` and stays connected to `peers`.
    pub(crate) fn client(importers: Vec<IpnsName>, peers: Vec<Multiaddr>) -> Self {
        let mut plan = Self::new();
        plan.config.mirrors.push(mirror(importers));
        plan.config.swarm.peers = peers;
        plan
    }

    /// The same with an ordinary mirror behind it.
    pub(crate) fn upstream(mut self, upstream: &Upstream) -> Self {
        self.config.mirrors[0]
            .upstreams
            .push(upstream.url("").parse().unwrap());
        self
    }

    pub(crate) fn clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// The node alone, in `tasks`.
    pub(crate) async fn start_in(&self, online: Online, tasks: &Tasks) -> Node {
        let started = Node::start(self.config.clone(), online, tasks, self.clock.clone());
        started.await.unwrap()
    }

    pub(crate) async fn start(self) -> TestNode {
        let tasks = Tasks::new();
        let node = self.start_in(Online::Yes, &tasks).await;
        TestNode {
            node,
            plan: self,
            tasks,
        }
    }
}

/// A mirror that trusts `importers`.
pub(crate) fn mirror(importers: Vec<IpnsName>) -> MirrorConfig {
    MirrorConfig {
        name: NAME.parse().unwrap(),
        importers,
        quorum: 1,
        upstreams: Vec::new(),
        layout: Layout::Plain,
        folder: String::new(),
        public: true,
    }
}

/// Client number `n`.
pub(crate) fn caller(n: u8) -> Client {
    Client {
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)),
        connection: u64::from(n),
    }
}

/// The names of a path.
pub(crate) fn split(path: &str) -> Vec<Vec<u8>> {
    path.split('/')
        .filter(|s| !s.is_empty())
        .map(|s| s.as_bytes().to_vec())
        .collect()
}

impl TestNode {
    /// Where others reach it, with its peer id.
    pub(crate) async fn address(&self) -> Multiaddr {
        let addresses = self.node.addresses().await;
        addresses.into_iter().next().expect("it listens")
    }

    /// Where it listens.
    pub(crate) async fn socket(&self) -> SocketAddr {
        let text = self.address().await.to_string();
        let port = text.split('/').nth(4).unwrap().parse().unwrap();
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Its address behind `relay`.
    pub(crate) fn behind(&self, relay: &ThrottledRelay) -> Multiaddr {
        let id = self.node.peer_id().unwrap();
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{id}", relay.address().port())
            .parse()
            .unwrap()
    }

    /// A relay to it.
    pub(crate) async fn relay(&self, rate: Option<u64>) -> ThrottledRelay {
        ThrottledRelay::start(self.socket().await, rate).unwrap()
    }

    /// One round of its import, which must not fail.
    pub(crate) async fn import(&self) -> RoundReport {
        let report = self.round().await;
        assert!(
            matches!(report.outcome, Outcome::Published | Outcome::Unchanged),
            "{report:#?}"
        );
        report
    }

    /// One round of its import.
    pub(crate) async fn round(&self) -> RoundReport {
        let import = self.node.import(NAME).expect("it imports");
        tokio::time::timeout(SOON, self.node.import_now(&import))
            .await
            .expect("a round ends")
    }

    /// The tree that it serves now.
    pub(crate) fn tree(&self) -> Option<String> {
        let mirror = self.node.mirror(NAME).expect("it serves the mirror");
        mirror.current().map(|head| head.head.tree.to_string())
    }

    /// Waits until it serves what `other` serves.
    pub(crate) async fn follows(&self, other: &Self) {
        let wanted = other.tree().expect("the other serves something");
        let mirror = self.node.mirror(NAME).expect("it serves the mirror");
        let mut changes = mirror.watch();
        let reached = async {
            while self.tree().as_deref() != Some(&wanted) {
                changes.changed().await.unwrap();
            }
        };
        assert!(
            tokio::time::timeout(SOON, reached).await.is_ok(),
            "no new head: {:#?}",
            self.node.status(None).await.mirrors
        );
    }

    /// Waits until it is connected to somebody.
    pub(crate) async fn connected(&self) {
        self.connected_to(1).await;
    }

    /// Waits until it is connected to `count` peers that told what they speak.
    pub(crate) async fn connected_to(&self, count: usize) {
        let net = self.node.net().unwrap();
        let mut events = net.subscribe();
        let told = || net.peers().iter().filter(|peer| peer.bitswap.is_some()).count();
        let reached = async {
            while told() < count {
                events.recv().await.unwrap();
            }
        };
        tokio::time::timeout(SOON, reached).await.expect("it connects");
    }

    /// Waits until no file is on its way any more.
    pub(crate) async fn idle(&self) {
        let reached = async {
            let busy = || {
                self.node
                    .tasks()
                    .report()
                    .iter()
                    .any(|t| t.name.starts_with("fetch/"))
            };
            while busy() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, reached).await.expect("fetches end");
    }

    /// Looks for newer heads now.
    pub(crate) async fn refresh(&self) {
        let mirror = self.node.mirror(NAME).unwrap();
        tokio::time::timeout(SOON, self.node.refresh(&mirror))
            .await
            .expect("a look ends");
    }

    /// What caller `n` gets for `path`.
    pub(crate) async fn ask(&self, n: u8, path: &str) -> Answer {
        let mirror = self.node.mirror(NAME).unwrap();
        self.node.ask(caller(n), &mirror, &split(path)).await.unwrap()
    }

    /// The file at `path`.
    pub(crate) async fn file(&self, path: &str) -> FileAnswer {
        match self.ask(1, path).await {
            Answer::File(file) => *file,
            other => panic!("{path} is {other:?}"),
        }
    }

    /// All bytes of `path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let file = self.file(path).await;
        let len = file.len;
        self.part(&file, 0, len).await
    }

    /// Bytes `start..end` of a file.
    pub(crate) async fn part(&self, file: &FileAnswer, start: u64, end: u64) -> Result<Vec<u8>, Failure> {
        let mut content = self.node.open(file).await?;
        read(&self.node, &mut content, start, end).await
    }

    /// Waits until it finds a file by `sha256`, and gives its root.
    pub(crate) async fn learns(&self, sha256: &[u8; 32]) -> Result<Cid, Failure> {
        let found = tokio::time::timeout(Duration::from_mins(1), async {
            loop {
                if let Some(info) = self.node.store().file_by_sha256(sha256)? {
                    return Ok(info.root);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        found.await?
    }

    /// Stops it and waits until its store is closed.
    pub(crate) async fn stop(self) -> Plan {
        let Self { node, plan, tasks } = self;
        let late = tasks.shutdown(pacstore_node::STOP_GRACE).await;
        assert!(late.is_empty(), "tasks that did not end in time: {late:?}");
        node.close();
        plan
    }
}

/// Copies all below `from` to `to`, with its modes.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
}

/// Bytes `start..end` of an opened file, or why they do not come; a minute at most.
pub(crate) async fn read(
    node: &Node,
    content: &mut Content,
    start: u64,
    end: u64,
) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::new();
    let all = async {
        while start + (data.len() as u64) < end {
            let at = start + data.len() as u64;
            data.extend_from_slice(&content.read(node, at, end).await?);
        }
        Ok::<(), Failure>(())
    };
    tokio::time::timeout(Duration::from_mins(1), all)
        .await
        .map_err(|_| "a minute without the end")??;
    Ok(data)
}
