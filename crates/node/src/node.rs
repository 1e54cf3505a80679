//! The node: its parts put together, its workers started, its clean stop.
//!
//! - Invariant: workers run in the task set that the caller owns; when it stops, they end.
//! - Invariant: without a network ([`Online::No`]) nothing leaves the machine; importing
//!   and looking things up work all the same.
//! - Not here: HTTP, the command line, the configuration file.

use std::sync::Arc;
use std::time::Duration;

use pacstore_import::{Source, StampSource};
use pacstore_names::{IpnsName, MirrorName};
use pacstore_net::{Multiaddr, Net, NetConfig, PeerId, ShareRequest};
use pacstore_runtime::{Buffers, Clock, Pool, RateLimit, Tasks};
use pacstore_store::{Options, Store};
use pacstore_upstream::{AddressRules, Http, HttpOptions, Url};
use tokio::sync::mpsc;
use tracing::warn;

use crate::blocks::{Privacy, Shared};
use crate::bytes_out::{BytesOut, Counters};
use crate::config::Config;
use crate::fetch::{FetchError, Fetcher};
use crate::freshness::Times;
use crate::importer::Importing;
use crate::keys::{KeyError, Keys};
use crate::mirror::Mirror;
use crate::ranking::{Ranking, Remember};
use crate::receipts::Receipts;
use crate::repository::Repositories;
use crate::runs::Runs;
use crate::uploads::Uploads;

/// Whether the node joins the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Online {
    /// It does.
    Yes,
    /// Only disk and upstreams.
    No,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Open(#[source] pacstore_store::OpenError),
    /// What the store remembers cannot be read.
    #[error("cannot read what the store remembers")]
    Store(#[from] crate::error::StoreError),
    /// A key cannot be used.
    #[error("cannot use a key")]
    Key(#[from] KeyError),
    /// The network cannot be started.
    #[error("cannot start the network")]
    Net(#[source] pacstore_net::NetError),
    /// An import cannot be set up.
    #[error("cannot set up the import of {mirror}")]
    Import {
        /// Its NAME.
        mirror: MirrorName,
        /// What is wrong.
        #[source]
        source: pacstore_import::SpecError,
    },
    /// Another key lies where the one was that signed until now: it would publish under another name.
    #[error("key `{label}` is {now}, but {mirror} was signed with {before} until now")]
    OtherKey {
        /// Its NAME.
        mirror: MirrorName,
        /// The key's label.
        label: String,
        /// The KEY that signed last.
        before: IpnsName,
        /// The KEY of the file that is there now.
        now: IpnsName,
    },
}

impl StartError {
    /// One sentence on what to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Key(error) => error.hint(),
            Self::Open(error) => error.hint().map(str::to_owned),
            Self::OtherKey { label, .. } => Some(format!(
                "restore the right file from your copy; to change keys use `pacstore key rotate {label}`, and to begin a new name on purpose give the new key a label of its own"
            )),
            _ => None,
        }
    }
}

/// A running node. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) net: Option<Net>,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Clock,
    pub(crate) fetch: Fetcher,
    pub(crate) http: Http,
    pub(crate) mirrors: Vec<Arc<Mirror>>,
    pub(crate) repositories: Repositories,
    pub(crate) imports: Vec<Arc<Importing>>,
    pub(crate) runs: Runs,
    pub(crate) times: Times,
    pub(crate) counters: Counters,
    pub(crate) receipts: Receipts,
    pub(crate) transfers: crate::transfers::Transfers,
    pub(crate) works: crate::work::Works,
    pub(crate) ranking: Ranking,
    pub(crate) buffers: Buffers,
    pub(crate) following: crate::follow::Board,
    pub(crate) privacy: Arc<Privacy>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) machine: crate::machine::Board,
    pub(crate) alerts: crate::alert::Alerts,
    pub(crate) pressure: crate::pressure::Gauge,
    /// One for each round that may be under way.
    pub(crate) turns: tokio::sync::Semaphore,
}

impl Node {
    /// Opens the store and starts what the configuration switches on.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        config: Config,
        online: Online,
        tasks: &Tasks,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let (dir, max_size, store_clock) = (config.store_dir.clone(), config.max_size, clock.clone());
        let tuning = config.tuning.clone();
        let opened = tasks
            .blocking(Pool::Disk, move || {
                let options = Options {
                    max_size,
                    clock: store_clock,
                };
                Store::open_with(&dir, options, tuning)
            })
            .await;
        let store = match opened {
            Ok(store) => store.map_err(StartError::Open)?,
            Err(_) => return Err(StartError::Store(crate::error::StoreError::Stopping)),
        };
        let keys = Keys::new(&config.state_dir);
        let ranking = Ranking::load(&store, clock.clone())?;
        let http = Http::with_mirrors(http_options(&config), ranking.mirrors().clone());
        let for_imports = HttpOptions {
            rate: config.importing.rate.map(|rate| RateLimit::new(Some(rate))),
            ..http_options(&config)
        };
        let for_imports = Http::with_mirrors(for_imports, ranking.mirrors().clone());
        let imports = Importing::load_all(&config, &keys, &store, &for_imports, tasks, &clock)?;
        let mut mirrors = Vec::new();
        for mirror in &config.mirrors {
            let keep = imports
                .iter()
                .find(|i| i.name() == &mirror.name)
                .map(|i| i.config.keep);
            mirrors.push(Arc::new(Mirror::load(mirror.clone(), keep, store.clone())?));
        }
        let friends = config.swarm.peers.iter().filter_map(pacstore_net::peer_of);
        let hidden = crate::hidden::Hidden::load(store.clone())?;
        let privacy = Arc::new(Privacy::new(friends.collect(), hidden));
        let private_heads = mirrors.iter().any(|mirror: &Arc<Mirror>| {
            !mirror.config.public || mirror.heads().iter().any(|head| !head.head.public)
        });
        if private_heads || config.imports.iter().any(|import| !import.public) {
            privacy.close();
        }
        let uploads = Arc::new(Uploads::load(
            config.sharing.clone(),
            store.clone(),
            clock.clone(),
        )?);
        let blocks = Shared::new(store.clone(), Arc::clone(&privacy), Arc::clone(&uploads));
        let (shares, of_neighbours) = mpsc::channel(crate::neighbours::REQUESTS);
        let net = match online {
            Online::Yes => Some(start_net(&config, &keys, &blocks, shares, tasks, &clock)?),
            Online::No => None,
        };
        if let Some(net) = &net {
            uploads.joined(net.lan_peers());
        }
        let buffers = crate::read::buffers();
        let inner = Arc::new(Inner {
            fetch: Fetcher::new(
                store.clone(),
                net.clone(),
                http.clone(),
                tasks.clone(),
                buffers.clone(),
            ),
            http,
            repositories: Repositories::load(&config.repositories, &store, ranking.mirrors())?,
            times: Times::new(store.clone()),
            counters: Counters::load(&store)?,
            receipts: Receipts::load(&store, clock.clone())?,
            transfers: crate::transfers::Transfers::default(),
            works: crate::work::Works::default(),
            ranking,
            alerts: crate::alert::Alerts::load(&store)?,
            pressure: crate::pressure::Gauge::default(),
            turns: tokio::sync::Semaphore::new(config.importing.rounds.max(1)),
            runs: Runs::default(),
            buffers,
            following: crate::follow::Board::default(),
            privacy,
            uploads,
            machine: crate::machine::Board::default(),
            config,
            store,
            net,
            tasks: tasks.clone(),
            clock,
            mirrors,
            imports,
        });
        let node = Self { inner };
        if !node.inner.imports.is_empty() {
            let settling = node.clone();
            let settled = tasks.blocking(Pool::Disk, move || crate::hand_over::settle(&settling));
            settled
                .await
                .unwrap_or(Err(StartError::Store(crate::error::StoreError::Stopping)))?;
        }
        if node.inner.net.is_some() {
            let sweeping = node.clone();
            let swept = tasks.blocking(Pool::Disk, move || crate::strays::release(&sweeping));
            // Stopping: the next start does it.
            let _ = swept.await;
        }
        node.start_workers();
        let neighbours = node.inner.fetch.neighbours().clone();
        tasks.spawn(
            "neighbours",
            neighbours.answer(of_neighbours, blocks, tasks.clone()),
        );
        Ok(node)
    }

    fn start_workers(&self) {
        let tasks = &self.inner.tasks;
        if self.inner.net.is_some() {
            for mirror in &self.inner.mirrors {
                tasks.spawn(
                    format!("follow {}", mirror.config.name),
                    crate::follow::run(self.clone(), Arc::clone(mirror)),
                );
            }
            for mirror in self
                .inner
                .mirrors
                .iter()
                .filter(|_| self.inner.config.sharing.enable)
            {
                tasks.spawn(
                    format!("ahead {}", mirror.config.name),
                    crate::ahead::run(self.clone(), Arc::clone(mirror)),
                );
            }
            if !self.inner.repositories.all.is_empty() {
                tasks.spawn("repositories", crate::repository::run(self.clone()));
            }
            let follows = |mirror: &Arc<Mirror>| self.import(&mirror.name()).is_none();
            if !self.inner.repositories.all.is_empty() || self.inner.mirrors.iter().any(follows) {
                tasks.spawn("wake", crate::wake::run(self.clone()));
            }
            tasks.spawn("announce", crate::publish::announce(self.clone()));
            tasks.spawn("meet", crate::meet::run(self.clone()));
            let sharing = &self.inner.config.sharing;
            if sharing.enable && sharing.announce {
                tasks.spawn("announce files", crate::announce::run(self.clone()));
            }
            for import in &self.inner.imports {
                tasks.spawn(
                    format!("replicas {}", import.name()),
                    crate::replicas::run(self.clone(), Arc::clone(import)),
                );
                tasks.spawn(
                    format!("import {}", import.name()),
                    crate::importer::run(self.clone(), Arc::clone(import)),
                );
            }
        }
        tasks.spawn("gc", crate::gc::run(self.clone()));
        let machine = &self.inner.config.machine;
        if machine.pacman_conf.is_some() || !machine.cache_dirs.is_empty() {
            tasks.spawn("machine", crate::machine::run(self.clone()));
            tasks.spawn("prefetch", crate::machine::prefetch::run(self.clone()));
        }
        // Without a network it is a single command, which says itself what is wrong with the store.
        if self.inner.net.is_some() {
            if let Some(period) = machine.scrub {
                tasks.spawn("scrub", crate::machine::scrub::run(self.clone(), period));
                let given = crate::machine::given::run(self.clone());
                tasks.spawn("scrub of what was given", given);
            }
            tasks.spawn("digests", crate::digests::run(self.clone()));
            tasks.spawn("alert", crate::alert::run(self.clone()));
            if let Some(folder) = self.inner.config.importing.pressure.clone() {
                tasks.spawn("pressure", crate::pressure::run(self.clone(), folder));
            }
        }
    }

    /// What is left to write once the tasks have ended.
    pub fn close(&self) {
        if let Err(error) = self.save(Remember::Everything) {
            warn!(
                error = &error as &dyn std::error::Error,
                "cannot save counters and what was seen of mirrors"
            );
        }
    }

    /// Writes down what is kept in memory between two writes.
    pub(crate) fn save(&self, what: Remember) -> Result<(), crate::error::StoreError> {
        self.inner.counters.save(&self.inner.store)?;
        self.inner.uploads.save(what)?;
        self.inner.receipts.save(&self.inner.store, what)?;
        self.inner.ranking.save(&self.inner.store, what)
    }

    /// What was seen of ordinary mirrors: latency, rate, failures, age.
    pub fn ranking(&self) -> &pacstore_upstream::Mirrors {
        self.inner.ranking.mirrors()
    }

    /// This node's peer id, with a network.
    pub fn peer_id(&self) -> Option<PeerId> {
        self.inner.net.as_ref().map(Net::peer_id)
    }

    /// The addresses it listens on, ports resolved, each with `/p2p/ID`.
    pub async fn addresses(&self) -> Vec<Multiaddr> {
        match &self.inner.net {
            Some(net) => {
                let id = net.peer_id();
                let bound = net.listen_addresses().await;
                bound
                    .into_iter()
                    .map(|address| address.with_p2p(id).unwrap_or_else(|address| address))
                    .collect()
            }
            None => Vec::new(),
        }
    }

    /// All mirrors, in configuration order.
    pub fn mirrors(&self) -> &[Arc<Mirror>] {
        &self.inner.mirrors
    }

    /// The mirror called `name`: its NAME, its inlined DNSLink label, or the KEY of one of
    /// its importers where one suffices.
    pub fn mirror(&self, name: &str) -> Option<Arc<Mirror>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let by_name = |wanted: &str| self.inner.mirrors.iter().find(|m| m.name() == wanted).cloned();
        if let Some(mirror) = by_name(&name) {
            return Some(mirror);
        }
        if let Ok(key) = name.parse::<IpnsName>() {
            let of_key = |m: &&Arc<Mirror>| m.config.quorum <= 1 && m.is_of(&key);
            return self.inner.mirrors.iter().find(of_key).cloned();
        }
        if name.contains('.') {
            return None;
        }
        MirrorName::from_label(&name)
            .ok()
            .and_then(|decoded| by_name(&decoded.to_string()))
    }

    /// The mirror that `/pacman/REPO/ARCH/` is answered from and the repository's folder in
    /// it: the first in configuration order whose current head lists it.
    pub fn repository(&self, repo: &str, arch: &str) -> RepositoryIn {
        for mirror in &self.inner.mirrors {
            let Some(head) = mirror.current() else { continue };
            let limit = mirror.config.folder.trim_matches('/');
            let below = |folder: &str| {
                limit.is_empty() || folder == limit || folder.starts_with(&format!("{limit}/"))
            };
            let folders: Vec<String> = head
                .head
                .repositories
                .iter()
                .filter(|r| r.name == repo && r.is_for(arch) && below(&r.folder))
                .map(|r| r.folder.clone())
                .collect();
            match &folders[..] {
                [] => {}
                [folder] => return RepositoryIn::One(Arc::clone(mirror), folder.clone()),
                _ => return RepositoryIn::Several(mirror.name(), folders),
            }
        }
        RepositoryIn::None
    }

    /// Packages that pacman was sent elsewhere for since this was last asked: it has them in its cache soon.
    pub fn take_redirected(&self) -> Vec<crate::repository::Redirected> {
        self.inner.repositories.redirected.take()
    }

    /// Waits until pacman is sent elsewhere for one more package.
    pub async fn redirected(&self) {
        self.inner.repositories.redirected.more().await;
    }

    /// The fetch engine.
    pub fn fetcher(&self) -> &Fetcher {
        &self.inner.fetch
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The task set the node lives in.
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The network, if joined.
    pub fn net(&self) -> Option<&Net> {
        self.inner.net.as_ref()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Bytes that left the gateway so far.
    pub fn bytes_out(&self) -> BytesOut {
        self.inner.counters.get()
    }

    pub(crate) async fn read_stored(
        &self,
        file: &Arc<pacstore_store::OpenFile>,
        start: u64,
        end: u64,
    ) -> Result<bytes::Bytes, FetchError> {
        let root = file.info.root;
        crate::read::stored(&self.inner.tasks, &self.inner.buffers, file, root, start, end).await
    }
}

/// Which mirror has a repository.
#[derive(Debug)]
pub enum RepositoryIn {
    /// This one, in this folder.
    One(Arc<Mirror>, String),
    /// The first mirror that has it has it in several folders.
    Several(String, Vec<String>),
    /// None.
    None,
}

/// Dials only what the configuration names.
fn http_options(config: &Config) -> HttpOptions {
    let mut urls: Vec<Url> = config
        .mirrors
        .iter()
        .flat_map(|mirror| mirror.upstreams.clone())
        .collect();
    urls.extend(config.repositories.iter().flat_map(|one| one.upstreams.clone()));
    for import in &config.imports {
        urls.extend(import.spec.from.iter().filter_map(|source| match source {
            Source::Http(url) => Some(url.clone()),
            Source::Directory(_) | Source::Rsync(_) => None,
        }));
        let stamps = import
            .spec
            .from
            .iter()
            .filter_map(|source| import.spec.stamp_of(source));
        urls.extend(stamps.filter_map(|stamp| match stamp {
            StampSource::Url(url) => Some(url.clone()),
            StampSource::Path(_) | StampSource::Each(_) => None,
        }));
    }
    HttpOptions {
        user_agent: concat!("pacstore/", env!("CARGO_PKG_VERSION")).to_owned(),
        allow_private: AddressRules::only(&urls),
        ..HttpOptions::default()
    }
}

fn start_net(
    config: &Config,
    keys: &Keys,
    blocks: &Shared,
    shares: mpsc::Sender<ShareRequest>,
    tasks: &Tasks,
    clock: &Clock,
) -> Result<Net, StartError> {
    let blocks = Arc::new(blocks.clone());
    let mut net = NetConfig::new(keys.node()?.seed());
    net.listen.clone_from(&config.swarm.listen);
    net.bootstrap.clone_from(&config.swarm.bootstrap);
    net.peers.clone_from(&config.swarm.peers);
    net.mdns = config.swarm.mdns;
    net.mdns_interfaces.clone_from(&config.swarm.mdns_interfaces);
    net.dht = config.swarm.dht;
    net.strangers = config.swarm.strangers;
    net.shares_back = config.sharing.enable;
    // Who gives nothing does not offer to answer.
    if config.sharing.enable {
        net.lookups = Some(Arc::clone(&blocks) as Arc<dyn pacstore_net::Lookups>);
        net.shares = Some(shares);
    }
    net.upload = config.sharing.rate.map(|rate| RateLimit::new(Some(rate)));
    Net::start(net, blocks, tasks, clock.clone()).map_err(StartError::Net)
}

/// Grace for tasks at a stop.
pub const STOP_GRACE: Duration = Duration::from_secs(3);
