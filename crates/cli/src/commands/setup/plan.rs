//! What `setup` and `setup --undo` would change, without changing anything.
//!
//! - Invariant: setting up is undoing and then adding, so a second run changes nothing and a
//!   repository that is gone from `pacman.conf` goes here too.
//! - Invariant: the configuration that is written is one that the daemon takes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use anyhow::Context as _;
use pacstore_node::Status;
use pacstore_pacman::Conf;

use super::change::Change;
use super::lines::{self, ARCH, Ours, Own, Way};
use super::region::{self, Machine, Ports};
use super::repositories::{LeftAlone, Repository, sort};
use super::signatures;
use crate::client::Daemon;
use crate::config::{self, Loaded};
use crate::context::Hinted;
use crate::home::Home;
use crate::machine::{PacmanConf, Place, architecture, read_file};

/// Ports that are tried where the usual one is taken.
const GATEWAY_PORTS: std::ops::RangeInclusive<u16> = 8080..=8099;
const SWARM_PORTS: std::ops::RangeInclusive<u16> = 4001..=4020;

/// What would be done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order in which they are to be made: every prefix is a state that pacman works with.
    pub(crate) changes: Vec<Change>,
    pub(crate) repositories: Vec<Repository>,
    pub(crate) left: Vec<LeftAlone>,
    /// What setup leaves as it is and the user has to know.
    pub(crate) notes: Vec<String>,
    /// The gateway's port; none when undoing.
    pub(crate) port: Option<u16>,
}

/// What undoing would do: pacman's files first, so that nobody asks us when we go.
pub(crate) fn undo(place: &Place, home: &Home) -> anyhow::Result<Plan> {
    let pacman = PacmanConf::read(place, &lines::take_out)?;
    let mut changes: Vec<Change> = pacman
        .files
        .iter()
        .map(|file| {
            let mut conf = file.conf.clone();
            lines::take_out(&mut conf);
            Change {
                path: file.path.clone(),
                before: Some(file.conf.to_bytes()),
                after: Some(conf.to_bytes()),
                folder: false,
            }
        })
        .collect();
    let before = configuration(home)?;
    let rest =
        region::take_out(before.as_deref()).with_context(|| home.config_file().display().to_string())?;
    changes.push(Change {
        path: home.config_file(),
        before: before.map(String::into_bytes),
        after: rest.text.map(String::into_bytes),
        folder: rest.folder,
    });
    changes.retain(|change| !change.is_empty());
    Ok(Plan {
        changes,
        repositories: Vec::new(),
        left: Vec::new(),
        notes: Vec::new(),
        port: None,
    })
}

/// What setting up would do.
pub(crate) async fn setup(place: &Place, home: &Home, way: Way) -> anyhow::Result<Plan> {
    let pacman = PacmanConf::read(place, &lines::take_out)?;
    let machine_arch = architecture();
    let (mut repositories, left) = sort(&pacman.settings, &machine_arch);
    let before = configuration(home)?;
    let rest =
        region::take_out(before.as_deref()).with_context(|| home.config_file().display().to_string())?;
    let earlier = Said::of(before.as_deref().unwrap_or_default());
    // Keys of a system that is only mounted here cannot be tried.
    let keyring = (place.root == Path::new("/"))
        .then(|| signatures::keyring(&pacman.settings))
        .flatten();
    for one in &mut repositories {
        let mut of_pacman = pacman.settings.repositories.iter();
        let settings = of_pacman.find(|settings| settings.name == one.name);
        one.signatures =
            keyring.is_some() && settings.is_some_and(|of| signatures::count(&pacman.settings, of));
        // Who made one of them private meant it.
        one.public &= !earlier.private.contains(&(one.name.clone(), one.arch.clone()));
    }
    let theirs = Said::of(rest.text.as_deref().unwrap_or_default());
    let mine: Vec<Repository> = repositories
        .iter()
        .filter(|one| {
            !theirs
                .repositories
                .contains(&(one.name.clone(), one.arch.clone()))
        })
        .cloned()
        .collect();
    let ports = ports(place, home, &earlier, &theirs).await?;
    let mut machine = machine(place, &pacman, &theirs);
    machine.keyring = keyring;
    let folder = rest.folder || home.config_file().parent().is_some_and(|dir| !dir.exists());
    let part = region::part(&ports, &machine, &mine);
    let after = region::put_in(rest.text.as_deref(), &part, folder);
    let loaded = config::parse(&home.config_file(), &after, home)?;
    let port = gateway_port(&loaded)?;
    let mut changes = vec![Change {
        path: home.config_file(),
        before: before.map(String::into_bytes),
        after: Some(after.into_bytes()),
        folder,
    }];
    let arch = if pacman.settings.options.architectures.is_empty() {
        machine_arch.as_str()
    } else {
        ARCH
    };
    changes.extend(pacman_changes(&pacman, Ours { way, port, arch }, &repositories));
    changes.retain(|change| !change.is_empty());
    Ok(Plan {
        notes: notes(&pacman, port, &repositories),
        changes,
        repositories,
        left,
        port: Some(port),
    })
}

fn pacman_changes<'a>(
    pacman: &'a PacmanConf,
    ours: Ours<'a>,
    repositories: &'a [Repository],
) -> impl Iterator<Item = Change> + 'a {
    let mut done: Vec<String> = Vec::new();
    pacman.files.iter().map(move |file| {
        let mut conf: Conf = file.conf.clone();
        lines::take_out(&mut conf);
        let wanted = |name: &str| {
            repositories.iter().any(|one| one.name == name) && !done.iter().any(|known| known == name)
        };
        let now = lines::put_in(&mut conf, ours, &wanted);
        done.extend(now);
        Change {
            path: file.path.clone(),
            before: Some(file.conf.to_bytes()),
            after: Some(conf.to_bytes()),
            folder: false,
        }
    })
}

/// Of the user's own lines for us those that are of no use.
fn notes(pacman: &PacmanConf, port: u16, repositories: &[Repository]) -> Vec<String> {
    let files = pacman.files.iter().map(|file| {
        let mut conf = file.conf.clone();
        lines::take_out(&mut conf);
        lines::own(&conf)
    });
    let own = files.flatten();
    let own = own.filter(|own| repositories.iter().any(|one| one.name == own.repository));
    let note = |own: Own| {
        let name = &own.repository;
        let what = if own.port != port {
            format!("asks port {}, but the gateway is on {port}: correct it", own.port)
        } else if own.is_below {
            "stands below servers that pacman asks first: move it above them".to_owned()
        } else {
            return None;
        };
        Some(format!(
            "[{name}] your own line for pacstore {what}, or take it out and run setup again"
        ))
    };
    own.filter_map(note).collect()
}

fn configuration(home: &Home) -> anyhow::Result<Option<String>> {
    let path = home.config_file();
    if !path.exists() {
        return Ok(None);
    }
    let text = String::from_utf8(read_file(&path)?);
    Ok(Some(
        text.with_context(|| format!("`{}` is no text", path.display()))?,
    ))
}

/// The port that pacman is to ask.
fn gateway_port(loaded: &Loaded) -> anyhow::Result<u16> {
    match loaded.gateway.listen {
        SocketAddr::V4(address) if address.port() == 0 => Err(Hinted::new(
            "gateway.listen has port 0, another one at every start",
            "pacman needs a fixed one: write listen = \"127.0.0.1:8080\"",
        )
        .into()),
        address
            if address.ip().is_ipv4() && (address.ip().is_loopback() || address.ip().is_unspecified()) =>
        {
            Ok(address.port())
        }
        address => Err(Hinted::new(
            format!("the gateway listens on {address}, where this machine's pacman is not sent"),
            "let gateway.listen be 127.0.0.1:PORT or 0.0.0.0:PORT",
        )
        .into()),
    }
}

/// What a configuration says, as far as setup asks; one that cannot be read says nothing.
#[derive(Debug, Default)]
struct Said {
    gateway: Option<u16>,
    swarm: Option<u16>,
    has_gateway: bool,
    has_swarm: bool,
    has_pacman: bool,
    has_prefetch: bool,
    /// Name and architecture.
    repositories: Vec<(String, String)>,
    private: Vec<(String, String)>,
}

impl Said {
    fn of(text: &str) -> Self {
        let table: toml::Table = text.parse().unwrap_or_default();
        let get = |section: &str| table.get(section).and_then(|one| one.get("listen"));
        let mut said = Self {
            has_gateway: get("gateway").is_some(),
            has_swarm: get("swarm").is_some(),
            has_pacman: table.contains_key("pacman"),
            has_prefetch: table.contains_key("prefetch"),
            ..Self::default()
        };
        said.gateway = get("gateway").and_then(|one| one.as_str()?.rsplit_once(':')?.1.parse().ok());
        said.swarm = get("swarm").and_then(|one| one.get(1)?.as_str()?.rsplit_once('/')?.1.parse().ok());
        let tables = table.get("repository").and_then(toml::Value::as_array);
        for one in tables.into_iter().flatten() {
            let text = |key: &str| one.get(key).and_then(toml::Value::as_str);
            let name = text("name").unwrap_or_default().to_owned();
            let id = (name, text("arch").unwrap_or("x86_64").to_owned());
            if one.get("public").and_then(toml::Value::as_bool) != Some(true) {
                said.private.push(id.clone());
            }
            said.repositories.push(id);
        }
        said
    }
}

/// What the daemon is to know of pacman. Paths are as they are when the system runs, not as it is mounted here.
fn machine(place: &Place, pacman: &PacmanConf, theirs: &Said) -> Machine {
    let usual = place.root.join("etc/pacman.conf");
    let mut cache = pacman.settings.options.cache_dirs.clone();
    cache.retain(|dir| dir.starts_with('/'));
    if cache.is_empty() {
        cache.push("/var/cache/pacman/pkg/".to_owned());
    }
    Machine {
        conf: (place.conf != usual).then(|| match place.conf.strip_prefix(&place.root) {
            Ok(path) => Path::new("/").join(path),
            Err(_) => place.conf.clone(),
        }),
        cache: (!theirs.has_pacman).then_some(cache),
        prefetch: !theirs.has_prefetch,
        keyring: None,
    }
}

/// Ports to write: those of the last run; else, where nothing is said and the usual ones are taken, others.
async fn ports(place: &Place, home: &Home, earlier: &Said, theirs: &Said) -> anyhow::Result<Ports> {
    let mut ports = Ports::default();
    if !theirs.has_gateway && earlier.has_gateway {
        ports.gateway = earlier.gateway;
    }
    if !theirs.has_swarm && earlier.has_swarm {
        ports.swarm = earlier.swarm;
    }
    // What is taken here says nothing about a system that is only mounted here; and a daemon that
    // runs already has the ports it needs.
    if place.root != Path::new("/") || running_gateway(home).await.is_some() {
        return Ok(ports);
    }
    if !earlier.has_gateway {
        let port = free(GATEWAY_PORTS, |port| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        let port = port.context("no port from 8080 to 8099 is free for the gateway")?;
        ports.gateway = (port != *GATEWAY_PORTS.start()).then_some(port);
    }
    if !earlier.has_swarm {
        let port = free(SWARM_PORTS, |port| {
            let any = (Ipv4Addr::UNSPECIFIED, port);
            TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok()
        });
        let port = port.context("no port from 4001 to 4020 is free for the swarm")?;
        ports.swarm = (port != *SWARM_PORTS.start()).then_some(port);
    }
    Ok(ports)
}

fn free(mut ports: std::ops::RangeInclusive<u16>, is_free: impl Fn(u16) -> bool) -> Option<u16> {
    ports.find(|port| is_free(*port))
}

/// The gateway of the daemon that runs, if one does.
async fn running_gateway(home: &Home) -> Option<String> {
    let status: Status = Daemon::find(home).await?.get("/v1/status").await.ok()?;
    status.gateway
}
