//! What a node is told to do, typed and checked; the command line makes it from the file.
//!
//! - Invariant: nothing here reads a file, the environment or the home directory.
//! - Not here: TOML, defaults of presets and their explanation (`pacstore`, `config/`).

use std::path::PathBuf;
use std::time::Duration;

use pacstore_import::ImportSpec;
use pacstore_names::{IpnsName, Layout, MirrorName};
use pacstore_net::{DhtMode, Multiaddr};
use url::Url;

pub use crate::alert::AlertConfig;
pub use crate::hours::Hours;

/// Everything a node needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Keys, heads, import state.
    pub state_dir: PathBuf,
    /// All files.
    pub store_dir: PathBuf,
    /// Cap of evictable bytes.
    pub max_size: u64,
    /// The network.
    pub swarm: Swarm,
    /// What this node serves, in configuration order.
    pub mirrors: Vec<MirrorConfig>,
    /// Repositories without importer.
    pub repositories: Vec<RepositoryConfig>,
    /// What this node imports.
    pub imports: Vec<ImportConfig>,
    /// What others get from us.
    pub sharing: Sharing,
    /// Any CID is served, not only what is configured.
    pub open: bool,
    /// The machine that it stands on.
    pub machine: MachineConfig,
    /// How much importing may take.
    pub importing: Importing,
    /// Whom to tell when something is wrong.
    pub alert: AlertConfig,
    /// How the store is opened; its crash seam is for tests.
    pub tuning: pacstore_store::Tuning,
}

/// What others get from us, and how much of it.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// Others get something at all; without it nothing is announced either.
    pub enable: bool,
    /// Roots of single files are announced, too.
    pub announce: bool,
    /// Bytes a second to addresses that are not local; none = no limit.
    pub rate: Option<u64>,
    /// Bytes that such addresses get in a calendar month; none = no limit.
    pub month: Option<u64>,
    /// When they get something; none = always.
    pub hours: Option<Hours>,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            enable: true,
            announce: false,
            rate: None,
            month: None,
            hours: None,
        }
    }
}

/// How much all imports together may take.
#[derive(Clone, Debug)]
pub struct Importing {
    /// Rounds of different mirrors at once.
    pub rounds: usize,
    /// Bytes a second from upstreams; none = no limit.
    pub rate: Option<u64>,
    /// Where the kernel says how busy the machine is; none = never slow down for it.
    pub pressure: Option<PathBuf>,
}

impl Default for Importing {
    fn default() -> Self {
        Self {
            rounds: 2,
            rate: None,
            pressure: Some(PathBuf::from("/proc/pressure")),
        }
    }
}

/// What the node looks at and does for the machine that it stands on. By default nothing.
#[derive(Clone, Debug, Default)]
pub struct MachineConfig {
    /// pacman's configuration: which repositories this machine uses, where it keeps what is installed.
    pub pacman_conf: Option<PathBuf>,
    /// pacman's caches: files are taken from there.
    pub cache_dirs: Vec<PathBuf>,
    /// The whole store is read again once in this time.
    pub scrub: Option<Duration>,
    /// The machine's next updates are fetched ahead of time.
    pub prefetch: Option<PrefetchConfig>,
}

/// When and how updates are fetched ahead of time.
#[derive(Clone, Debug, Default)]
pub struct PrefetchConfig {
    /// Bytes a second on average.
    pub rate: Option<u64>,
    /// Only then; none = always.
    pub hours: Option<Hours>,
    /// On metered lines too.
    pub metered: bool,
    /// On battery too.
    pub battery: bool,
}

/// The network part.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Where to learn of other peers.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers that stay connected.
    pub peers: Vec<Multiaddr>,
    /// Find peers of the local network.
    pub mdns: bool,
    /// On these interfaces; none = on all.
    pub mdns_interfaces: Vec<String>,
    /// Our part in the DHTs.
    pub dht: DhtMode,
    /// Connections to peers that are neither configured nor of the LAN.
    pub strangers: usize,
}

/// One mirror that is served.
#[derive(Clone, Debug)]
pub struct MirrorConfig {
    /// Its NAME.
    pub name: MirrorName,
    /// Whose records are trusted for it.
    pub importers: Vec<IpnsName>,
    /// How many of them must have signed one tree.
    pub quorum: usize,
    /// Ordinary mirrors of the same files, each ending in `/`.
    pub upstreams: Vec<Url>,
    /// Where no head says it.
    pub layout: Layout,
    /// Limits `/pacman/` to repositories below this folder.
    pub folder: String,
    /// Anyone may know that it is followed here, if its head is public.
    pub public: bool,
}

/// A repository without importer.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Its name, such as `extra`.
    pub name: String,
    /// Its architecture, such as `x86_64`.
    pub arch: String,
    /// Its folder on ordinary mirrors, each ending in `/`, in order of preference.
    pub upstreams: Vec<Url>,
    /// Peers may be asked for its packages, and get them.
    pub public: bool,
    /// Keys that its database must be signed with, if it is signed: a folder as pacman's, or one file.
    pub keyring: Option<PathBuf>,
}

/// When an importer looks upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// Again and again.
    Period(Duration),
    /// Only when told to.
    Manual,
}

/// Which snapshots an importer keeps beside those served in the last 24 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Younger than this.
    pub age: Duration,
    /// The newest so many, whatever their age.
    pub count: usize,
}

/// One mirror that is imported.
#[derive(Clone, Debug)]
pub struct ImportConfig {
    /// Its NAME.
    pub name: MirrorName,
    /// How upstream's paths map to ours.
    pub layout: Layout,
    /// What and from where.
    pub spec: ImportSpec,
    /// Label of the key that signs.
    pub key: String,
    /// When.
    pub every: Every,
    /// What stays.
    pub keep: Keep,
    /// Beyond this age clients refuse its databases; none = never.
    pub max_age: Option<Duration>,
    /// Anyone may have it.
    pub public: bool,
    /// Other nodes that must hold a head's directories and databases before it is preferred.
    pub replicas: usize,
}
