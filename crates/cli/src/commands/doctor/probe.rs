//! Finding the facts: sockets, files, pacman's configuration, one request to each mirror.
//!
//! - Invariant: nothing is changed; every wait is bounded by [`PATIENCE`].
//! - Not here: what the facts mean (`super::judge`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use pacstore_pacman::Settings;
use pacstore_upstream::{Get, Http, HttpError, HttpOptions, url_of};
use rustix::fs::{Mode, OFlags, StatVfs, StatVfsMountFlags};
use rustix::io::Errno;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use super::judge::{
    Asked, CacheFacts, DaemonFacts, Facts, PacmanFacts, Reached, RepositoryFacts, Served, UpstreamFacts,
};
use crate::commands::setup::lines::port_of;
use crate::commands::setup::repositories::{Repository, is_gateway, sort};
use crate::config::gateway_listen;
use crate::context::Context;
use crate::machine::{Guess, PacmanConf, Place, architecture, pacman_version};

/// For each single answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Mirrors of one repository that are asked, the first ones.
const MIRRORS: usize = 3;
/// Requests in all, and at once.
const REQUESTS: usize = 30;
const AT_ONCE: usize = 6;
/// Programs that filter packets, and what they are called.
const FIREWALLS: [(&str, &str); 4] = [
    ("/run/firewalld", "firewalld"),
    ("/etc/ufw/ufw.conf", "ufw"),
    ("/etc/nftables.conf", "nftables"),
    ("/etc/iptables/iptables.rules", "iptables"),
];

/// Everything that can be found out.
pub(super) async fn probe(ctx: &Context, place: &Place, guess: Option<&Guess>, program: &Path) -> Facts {
    let loaded = ctx.config();
    let status: Option<Value> = match ctx.daemon().await {
        Some(daemon) => tokio::time::timeout(PATIENCE, daemon.get("/v1/status"))
            .await
            .ok()
            .and_then(Result::ok),
        None => None,
    };
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let listen = loaded.as_ref().map_or_else(
        |_| gateway_listen(&ctx.home).unwrap_or(usual),
        |loaded| loaded.gateway.listen,
    );
    let gateway = status.as_ref().and_then(bound).unwrap_or(listen);
    let pacman = PacmanConf::read(place, &|_| ());
    let repositories = pacman
        .as_ref()
        .map(|pacman| sort(&pacman.settings, &architecture()).0)
        .unwrap_or_default();
    let state_dir = match &loaded {
        Ok(loaded) => loaded.node.store_dir.clone(),
        Err(_) => ctx.home.state_dir().to_owned(),
    };
    let swarm = loaded.as_ref().ok().map(|loaded| loaded.node.swarm.clone());
    let listens = swarm
        .as_ref()
        .map(|swarm| swarm.listen.clone())
        .unwrap_or_default();
    Facts {
        now: SystemTime::now(),
        config: loaded
            .as_ref()
            .map(|_| Some(ctx.home.config_file()).filter(|path| path.exists()))
            .map_err(|error| format!("{error:#}")),
        daemon: status.as_ref().map(daemon_facts),
        gateway: (gateway, reach(gateway).await),
        guessed: guess.is_some(),
        localhost_names: localhost_names().await,
        mdns: swarm.is_none_or(|swarm| swarm.mdns),
        swarm_ports: ports(listens.iter().map(ToString::to_string)),
        upstreams: upstreams(&repositories).await,
        pacman: match &pacman {
            Ok(pacman) => {
                let machine = (place, program, gateway.port());
                Ok(pacman_facts(pacman, &repositories, machine))
            }
            Err(error) => Err(format!("{error:#}")),
        },
        free: free(&state_dir),
        unwritable: unwritable(&state_dir),
        max_size: loaded.as_ref().map_or(0, |loaded| loaded.node.max_size),
        firewalls: FIREWALLS
            .iter()
            .filter(|(path, _)| place.under(path).exists())
            .map(|(_, name)| *name)
            .collect(),
        proxy: proxy_in_the_way(gateway.ip(), |name| std::env::var(name).ok()),
    }
}

/// The variable that sends curl, and so pacman, to a proxy for `http://ADDRESS/`; as curl reads them, `HTTP_PROXY` is none.
pub(super) fn proxy_in_the_way(
    address: IpAddr,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<&'static str> {
    let is_set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let proxy = ["http_proxy", "all_proxy", "ALL_PROXY"]
        .into_iter()
        .find(is_set)?;
    let exempt = variable("no_proxy")
        .or_else(|| variable("NO_PROXY"))
        .unwrap_or_default();
    let covers = |entry: &str| {
        let network = entry
            .split_once('/')
            .and_then(|(net, bits)| Some((net.parse().ok()?, bits.parse().ok()?)));
        match (address, network) {
            (IpAddr::V4(ip), Some((IpAddr::V4(net), bits @ 1..=32_u32))) => {
                (u32::from(ip) ^ u32::from(net)) >> (32 - bits) == 0
            }
            _ => entry == "*" || entry.trim_matches(['[', ']']).parse() == Ok(address),
        }
    };
    let mut entries = exempt.split([',', ' ']).map(str::trim);
    (!entries.any(covers)).then_some(proxy)
}

/// Where the daemon says that its gateway is.
fn bound(status: &Value) -> Option<SocketAddr> {
    status["gateway"].as_str()?.strip_prefix("http://")?.parse().ok()
}

fn daemon_facts(status: &Value) -> DaemonFacts {
    let served = |list: &str| {
        let list = status[list].as_array().cloned().unwrap_or_default();
        list.into_iter().map(|one| Served {
            name: one["name"].as_str().unwrap_or_default().to_owned(),
            state: one["state"].as_str().unwrap_or_default().to_owned(),
            age_s: one["age_s"].as_u64(),
            error: one["error"].as_str().map(str::to_owned),
        })
    };
    let addresses = status["addresses"].as_array().cloned().unwrap_or_default();
    DaemonFacts {
        served: served("mirrors").chain(served("repositories")).collect(),
        peers: status["peers"].as_u64().unwrap_or_default(),
        store: (
            status["store"]["evictable"].as_u64().unwrap_or_default(),
            status["store"]["max_bytes"].as_u64().unwrap_or_default(),
        ),
        addresses: addresses
            .iter()
            .filter_map(|one| Some(one.as_str()?.to_owned()))
            .collect(),
        caches: caches_tried(status),
    }
}

fn caches_tried(status: &Value) -> Vec<(PathBuf, Option<String>)> {
    let caches = status["caches"].as_array().into_iter().flatten();
    let one = |cache: &Value| {
        let path = PathBuf::from(cache["path"].as_str()?);
        Some((path, cache["error"].as_str().map(str::to_owned)))
    };
    caches.filter_map(one).collect()
}

/// What is behind the gateway's address, seen from this machine.
async fn reach(address: SocketAddr) -> Reached {
    let ip = if address.ip().is_unspecified() {
        IpAddr::from(Ipv4Addr::LOCALHOST)
    } else {
        address.ip()
    };
    let asking = async {
        let mut stream = TcpStream::connect((ip, address.port()))
            .await
            .map_err(|_| Reached::Refused)?;
        let request = b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        let mut begin = [0; 5];
        stream.write_all(request).await.map_err(|_| Reached::Silent)?;
        stream.read_exact(&mut begin).await.map_err(|_| Reached::Silent)?;
        Ok(if begin == *b"HTTP/" {
            Reached::Answer
        } else {
            Reached::Silent
        })
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(reached) | Err(reached)) => reached,
        Err(_) => Reached::Silent,
    }
}

async fn localhost_names() -> bool {
    let asking = tokio::net::lookup_host(("pacstore.ipns.localhost", 80));
    let found = tokio::time::timeout(PATIENCE, asking).await;
    let Ok(Ok(mut all)) = found else { return false };
    all.any(|one| one.ip().is_loopback())
}

/// The numbers behind `/tcp/` and `/udp/`, each once.
fn ports(addresses: impl Iterator<Item = String>) -> Vec<u16> {
    let mut found: Vec<u16> = addresses
        .filter_map(|address| {
            let mut parts = address
                .split('/')
                .skip_while(|part| !matches!(*part, "tcp" | "udp"));
            parts.nth(1)?.parse().ok()
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

async fn upstreams(repositories: &[Repository]) -> Vec<UpstreamFacts> {
    let http = Http::new(HttpOptions {
        connect_timeout: PATIENCE,
        stall_timeout: PATIENCE,
        ..HttpOptions::default()
    });
    let wanted = repositories.iter().flat_map(|one| {
        let urls = one.upstreams.iter().take(MIRRORS);
        urls.map(|url| (one.name.clone(), url.clone()))
    });
    futures::stream::iter(wanted.take(REQUESTS))
        .map(|(repository, url)| {
            let http = http.clone();
            async move {
                let answer = ask(&http, &repository, &url).await;
                UpstreamFacts {
                    repository,
                    url,
                    answer,
                }
            }
        })
        .buffered(AT_ONCE)
        .collect()
        .await
}

/// The header of a repository's database; its body is not read.
async fn ask(http: &Http, repository: &str, folder: &str) -> Asked {
    let bad = |error: &dyn std::error::Error| (error.to_string(), None);
    let folder = Url::parse(folder).map_err(|error| bad(&error))?;
    let url = url_of(&folder, format!("{repository}.db").as_bytes()).map_err(|error| bad(&error))?;
    let mut get = Get::new(&url);
    get.deadline = Some(PATIENCE);
    match http.get(&get).await {
        Ok(response) => Ok((response.last_modified, response.date)),
        Err(error) => {
            // What a status means for a whole mirror is not what it means for one repository of it.
            let hint = error
                .hint()
                .filter(|_| !matches!(error, HttpError::Status { .. }));
            Err((format!("{:#}", anyhow::Error::from(error)), hint))
        }
    }
}

fn pacman_facts(
    conf: &PacmanConf,
    ours: &[Repository],
    (place, program, gateway): (&Place, &Path, u16),
) -> PacmanFacts {
    let port = |url: &String| port(url, gateway);
    let settings = &conf.settings;
    let repository = |one: &pacstore_pacman::RepositorySettings| RepositoryFacts {
        name: one.name.clone(),
        ours: one
            .servers
            .iter()
            .enumerate()
            .filter_map(|(place, url)| Some((place, port(url)?)))
            .collect(),
        servers: one.servers.len(),
        cache: one.cache_servers.iter().filter_map(port).collect(),
        ordinary: ours.iter().any(|known| known.name == one.name),
    };
    PacmanFacts {
        conf: place.conf.clone(),
        version: pacman_version(program),
        repositories: settings.repositories.iter().map(repository).collect(),
        caches: caches(settings)
            .iter()
            .map(|path| cache(&place.under(path)))
            .collect(),
        lock: lock(settings, place),
    }
}

/// The port of a server line that asks us: one of the form that `setup` writes, or any other of ours on the port of our `gateway`.
pub(super) fn port(url: &str, gateway: u16) -> Option<u16> {
    let is_ours = |url: &Url| is_gateway(url) && url.port_or_known_default() == Some(gateway);
    if Url::parse(url).is_ok_and(|url| is_ours(&url)) {
        return Some(gateway);
    }
    port_of(&pacstore_pacman::Directive {
        line: 0,
        key: "Server",
        value: Some(url),
    })
}

fn caches(settings: &Settings) -> Vec<String> {
    match settings.options.cache_dirs.as_slice() {
        [] => vec!["/var/cache/pacman/pkg".to_owned()],
        dirs => dirs.to_vec(),
    }
}

fn cache(path: &Path) -> CacheFacts {
    let meta = fs_err::metadata(path).ok().filter(std::fs::Metadata::is_dir);
    let entries = meta.as_ref().and_then(|_| fs_err::read_dir(path).ok());
    let mut ages = Vec::new();
    for entry in entries.into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().as_encoded_bytes().ends_with(b".part") {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            ages.push(
                modified
                    .ok()
                    .and_then(|time| time.elapsed().ok())
                    .unwrap_or_default(),
            );
        }
    }
    CacheFacts {
        path: path.to_owned(),
        exists: meta.is_some(),
        writable: meta.as_ref().is_some_and(|meta| is_writable(path, meta)),
        readable: meta.is_some_and(|meta| meta.permissions().mode() & 0o005 == 0o005),
        parts: ages.iter().max().map(|oldest| (ages.len(), *oldest)),
    }
}

/// As pacman looks at it: it leaves out folders without any `w`, and file systems that are read-only.
fn is_writable(path: &Path, meta: &std::fs::Metadata) -> bool {
    !is_read_only(path) && meta.permissions().mode() & 0o222 != 0
}

fn lock(settings: &Settings, place: &Place) -> Option<(PathBuf, bool)> {
    let db = settings.options.db_path.as_deref().unwrap_or("/var/lib/pacman");
    let path = place.under(db).join("db.lck");
    path.exists().then(|| (path, is_running("pacman")))
}

/// Whether a process of this name runs, by the kernel's list.
fn is_running(name: &str) -> bool {
    let processes = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .any(|comm| comm.trim_end() == name)
}

/// Free bytes where `path` is, or would be.
fn free(path: &Path) -> Option<u64> {
    let stat = file_system(path)?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Why nobody can make a file there. One without a name tells, which is gone at once: ext4 after an error of the disk looks
/// as if it could be written to, and one without inodes as if it had room.
fn unwritable(path: &Path) -> Option<&'static str> {
    let there = path.ancestors().find(|path| path.exists())?;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(there, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::ROFS) => Some("is read-only"),
        Err(Errno::NOSPC | Errno::DQUOT) => Some("takes no file more"),
        // Or this user may not, or there are no such files.
        _ => is_read_only(there).then_some("is read-only"),
    }
}

/// It was mounted so.
fn is_read_only(path: &Path) -> bool {
    file_system(path).is_some_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn file_system(path: &Path) -> Option<StatVfs> {
    let there = path.ancestors().find(|path| path.exists())?;
    rustix::fs::statvfs(there).ok()
}
