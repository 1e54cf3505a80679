//! From the file as written to what the node is told: every value checked, every
//! feature that is not built yet refused.
//!
//! - Invariant: the result is complete: nothing below reads the file or the environment.
//! - Not here: syntax and unknown keys (`super`).

use std::net::SocketAddr;
use std::path::PathBuf;

use pacstore_http::Network;
use pacstore_import::{Files, ImportSpec, Layout as ImportLayout, Repositories, Source, StampSource};
use pacstore_names::{IpnsName, Layout, MirrorName};
use pacstore_net::{DhtMode, Multiaddr, public_bootstrap};
use pacstore_node::Keys;
use pacstore_node::config::{Config, Every, ImportConfig, Keep, MirrorConfig, Swarm};
use url::Url;

use super::file::{self, File};
use super::service::{build_alert, build_importing, build_metrics};
use super::values::{OneOrMany, size, span};
use super::{ConfigError, Lines};
use crate::home::Home;

/// The gateway's part, which only the command line needs.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) listen: SocketAddr,
    pub(crate) hosts: Vec<String>,
    /// `[lan] allow`, where the LAN is served.
    pub(crate) lan: Option<Vec<Network>>,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) gateway: Gateway,
    /// Where Prometheus may ask, beside the admin socket.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) node: Config,
}

pub(super) fn build(file: File, lines: &Lines, home: &Home) -> Result<Loaded, ConfigError> {
    refuse_later(&file, lines)?;
    let machine = super::machine::build(&file, lines)?;
    let listen = file.gateway.listen.parse();
    let listen =
        listen.map_err(|_| lines.bad("gateway.listen", "write ADDRESS:PORT, such as 127.0.0.1:8080"))?;
    let sharing = super::sharing::build(&file, lines)?;
    let strangers = super::sharing::strangers(&file, lines)?;
    let keys = Keys::new(home.state_dir());
    let mut mirrors = Vec::new();
    for (index, mirror) in file.mirror.into_iter().enumerate() {
        let built = build_mirror(mirror, &format!("mirror.{index}"), lines)?;
        if mirrors
            .iter()
            .any(|known: &MirrorConfig| known.name == built.name)
        {
            return Err(lines.bad(&format!("mirror.{index}.name"), "this mirror stands here twice"));
        }
        mirrors.push(built);
    }
    let repositories = super::repository::build(file.repository, lines)?;
    let mut imports = Vec::new();
    for (index, import) in file.import.into_iter().enumerate() {
        let at = format!("import.{index}");
        let built = build_import(import, &at, lines)?;
        if imports
            .iter()
            .any(|known: &ImportConfig| known.name == built.name)
        {
            return Err(lines.bad(&format!("{at}.mirror"), "this mirror is imported twice"));
        }
        // A KEY's record names one tree: two mirrors would take it from each other with every round.
        if imports.iter().any(|known: &ImportConfig| known.key == built.key) {
            let why = "this key signs another mirror; `pacstore key new LABEL` makes one for this";
            return Err(lines.bad(&format!("{at}.key"), why));
        }
        trust_own(&mut mirrors, &built, &keys);
        imports.push(built);
    }
    let store_dir = match file.store.dir.as_str() {
        "" => home.state_dir().join("store"),
        dir => absolute(dir).ok_or_else(|| lines.bad("store.dir", "write an absolute path"))?,
    };
    let node = Config {
        state_dir: home.state_dir().to_owned(),
        store_dir,
        max_size: size(&file.store.max_size).map_err(|e| lines.bad("store.max_size", e))?,
        swarm: build_swarm(file.swarm, strangers, lines)?,
        mirrors,
        repositories,
        imports,
        sharing,
        open: file.gateway.open,
        machine,
        importing: build_importing(&file.limits, lines)?,
        alert: build_alert(file.alert, lines)?,
        tuning: pacstore_store::Tuning::default(),
    };
    Ok(Loaded {
        gateway: Gateway {
            listen,
            hosts: build_hosts(file.gateway.hosts, lines)?,
            lan: build_lan(file.lan, lines)?,
        },
        metrics: build_metrics(&file.metrics, lines)?,
        node,
    })
}

/// An import implies a mirror that trusts its own key, with the import's layout.
pub(crate) fn trust_own(mirrors: &mut Vec<MirrorConfig>, import: &ImportConfig, keys: &Keys) {
    // A key that cannot be read is reported where it is used, with what to do.
    let own: Vec<IpnsName> = keys
        .load(&import.key)
        .ok()
        .map(|key| key.name())
        .into_iter()
        .collect();
    match mirrors.iter_mut().find(|mirror| mirror.name == import.name) {
        Some(mirror) => {
            mirror.public &= import.public;
            // What its heads will say.
            mirror.layout = import.layout;
            for key in own {
                if !mirror.importers.contains(&key) {
                    mirror.importers.push(key);
                }
            }
        }
        None => mirrors.push(MirrorConfig {
            name: import.name.clone(),
            importers: own,
            quorum: 1,
            upstreams: Vec::new(),
            layout: import.layout,
            folder: String::new(),
            public: import.public,
        }),
    }
}

/// Keys whose feature is not built yet must have their defaults.
fn refuse_later(file: &File, lines: &Lines) -> Result<(), ConfigError> {
    let refuse = |later: bool, key: &str| if later { Err(lines.later(key)) } else { Ok(()) };
    refuse(!file.names.is_empty(), "names")?;
    for (index, mirror) in file.mirror.iter().enumerate() {
        refuse(!mirror.keyring.is_empty(), &format!("mirror.{index}.keyring"))?;
        if mirror.importers == OneOrMany::One("dnslink".into()) {
            return Err(lines.bad(
                &format!("mirror.{index}.importers"),
                "\"dnslink\" is not available yet; list KEYs",
            ));
        }
    }
    Ok(())
}

fn build_hosts(hosts: OneOrMany, lines: &Lines) -> Result<Vec<String>, ConfigError> {
    let hosts = hosts.into_vec();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let odd = hosts
        .iter()
        .find(|name| name.is_empty() || !name.chars().all(plain));
    match odd {
        Some(odd) => {
            let why = format!("`{odd}` is no name of a host; write it alone, such as localhost");
            Err(lines.bad("gateway.hosts", why))
        }
        None => Ok(hosts),
    }
}

fn build_lan(lan: file::Lan, lines: &Lines) -> Result<Option<Vec<Network>>, ConfigError> {
    let mut allow = Vec::new();
    for text in lan.allow.into_vec() {
        allow.push(text.parse().map_err(|error| lines.bad("lan.allow", error))?);
    }
    Ok(lan.serve.then_some(allow))
}

fn build_swarm(swarm: file::Swarm, strangers: usize, lines: &Lines) -> Result<Swarm, ConfigError> {
    let addresses = |list: OneOrMany, key: &str| -> Result<Vec<Multiaddr>, ConfigError> {
        list.into_vec()
            .iter()
            .map(|text| {
                text.parse().map_err(|_| {
                    lines.bad(
                        key,
                        format!("`{text}` is no multiaddr, such as /ip4/127.0.0.1/tcp/4001"),
                    )
                })
            })
            .collect()
    };
    let bootstrap = match swarm.bootstrap {
        OneOrMany::One(word) if word == "public" => public_bootstrap(),
        list => addresses(list, "swarm.bootstrap")?,
    };
    let dht = match swarm.dht.as_str() {
        "auto" => DhtMode::Auto,
        "client" => DhtMode::Client,
        "server" => DhtMode::Server,
        "off" => DhtMode::Off,
        _ => return Err(lines.bad("swarm.dht", "write auto, client, server or off")),
    };
    let listen = swarm.listen.into_vec();
    if let Some(odd) = listen.iter().find(|address| !is_of_a_transport(address)) {
        let why = format!(
            "`{odd}` is nothing to listen on; write it like /ip4/0.0.0.0/tcp/4001 or /ip4/0.0.0.0/udp/4001/quic-v1"
        );
        return Err(lines.bad("swarm.listen", why));
    }
    let peers = addresses(swarm.peers, "swarm.peers")?;
    if let Some(bare) = peers.iter().find(|peer| pacstore_net::peer_of(peer).is_none()) {
        return Err(lines.bad("swarm.peers", format!("`{bare}` does not end in /p2p/PEERID")));
    }
    Ok(Swarm {
        listen: addresses(OneOrMany::Many(listen), "swarm.listen")?,
        bootstrap,
        peers,
        mdns: swarm.mdns,
        mdns_interfaces: swarm.mdns_interfaces.into_vec(),
        dht,
        strangers,
    })
}

/// An address of TCP or QUIC: the transports that there are.
fn is_of_a_transport(address: &str) -> bool {
    let parts: Vec<&str> = address.split('/').collect();
    let of_ip = matches!(parts.get(1), Some(&("ip4" | "ip6" | "ip6zone")));
    of_ip && matches!(parts[..], [.., "tcp", _] | [.., "udp", _, "quic-v1"])
}

fn build_mirror(mirror: file::Mirror, at: &str, lines: &Lines) -> Result<MirrorConfig, ConfigError> {
    let key = |name: &str| format!("{at}.{name}");
    let name = mirror_name(&mirror.name, &key("name"), lines)?;
    let mut importers = Vec::new();
    for text in mirror.importers.into_vec() {
        let parsed = text.parse::<IpnsName>();
        let parsed =
            parsed.map_err(|_| lines.bad(&key("importers"), format!("`{text}` is no KEY (k51...)")))?;
        if importers.contains(&parsed) {
            return Err(lines.bad(&key("importers"), format!("`{text}` stands here twice")));
        }
        importers.push(parsed);
    }
    if mirror.quorum == 0 || mirror.quorum > importers.len().max(1) {
        return Err(lines.bad(
            &key("quorum"),
            "must be at least 1 and at most the number of importers",
        ));
    }
    let mut upstreams = Vec::new();
    for text in mirror.upstreams.into_vec() {
        upstreams.push(upstream(&text).map_err(|why| lines.bad(&key("upstreams"), why))?);
    }
    Ok(MirrorConfig {
        name,
        importers,
        quorum: mirror.quorum,
        upstreams,
        layout: layout(&mirror.layout, &key("layout"), lines)?,
        folder: mirror.folder,
        public: mirror.public,
    })
}

fn build_import(import: file::Import, at: &str, lines: &Lines) -> Result<ImportConfig, ConfigError> {
    let key = |name: &str| format!("{at}.{name}");
    let name = mirror_name(&import.mirror, &key("mirror"), lines)?;
    let mut from = Vec::new();
    for text in import.from.into_vec() {
        if !text.starts_with('/') && has_pacmans_words(&text) {
            return Err(lines.bad(&key("from"), pacmans_words(&text)));
        }
        from.push(Source::parse(&text).map_err(|error| lines.bad(&key("from"), error))?);
    }
    if from.is_empty() {
        return Err(lines.bad(
            &key("from"),
            "name at least one rsync://, http(s):// URL or absolute directory, or a `preset`",
        ));
    }
    if import.key.is_empty() {
        return Err(lines.bad(
            &key("key"),
            "name the key that signs; `pacstore key new LABEL` makes one",
        ));
    }
    let layout = layout(&import.layout, &key("layout"), lines)?;
    let mut spec = ImportSpec::new(name.as_str(), from);
    spec.layout = match layout {
        Layout::Archlinux => ImportLayout::Archlinux,
        Layout::Plain => ImportLayout::Plain,
    };
    spec.repositories = match import.repositories {
        OneOrMany::One(word) if word == "all" => Repositories::All,
        list => Repositories::List(list.into_vec()),
    };
    spec.files = match import.files.as_str() {
        "listed" => Files::Listed,
        "all" => Files::All,
        _ => return Err(lines.bad(&key("files"), "write \"listed\" or \"all\"")),
    };
    spec.also = import.also.into_vec();
    spec.exclude = import.exclude.into_vec();
    spec.hidden = import.hidden;
    spec.stamp = stamp(import.stamp, spec.from.len()).map_err(|why| lines.bad(&key("stamp"), why))?;
    spec.atomic = import.atomic;
    spec.replaced_by_rename = import.replaced_by_rename;
    spec.keyring = (!import.keyring.is_empty()).then(|| PathBuf::from(&import.keyring));
    spec.hold = span(&import.hold).map_err(|e| lines.bad(&key("hold"), e))?;
    spec.check()
        .map_err(|error| lines.bad(&key(error.key()), pacstore_node::chain(&error)))?;
    let every = match import.every.as_str() {
        "manual" => Every::Manual,
        text => Every::Period(
            span(text)
                .ok()
                .filter(|period| !period.is_zero())
                .ok_or_else(|| lines.bad(&key("every"), "write a span of time such as 60s, or \"manual\""))?,
        ),
    };
    let max_age = span(&import.max_age).map_err(|e| lines.bad(&key("max_age"), e))?;
    Ok(ImportConfig {
        name,
        layout,
        spec,
        key: import.key,
        every,
        keep: Keep {
            age: span(&import.keep.age).map_err(|e| lines.bad(&key("keep"), e))?,
            count: import.keep.count,
        },
        max_age: (!max_age.is_zero()).then_some(max_age),
        public: import.public,
        replicas: import.replicas,
    })
}

/// What is no change stamp.
const NO_STAMP: &str =
    "write a path below the upstream's root such as \"lastupdate\", or an http:// or https:// URL";

/// One stamp for all upstreams, or one for each.
fn stamp(texts: OneOrMany, upstreams: usize) -> Result<Option<StampSource>, &'static str> {
    let one = |text: &String| {
        if text.contains("://") {
            let url = Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https"));
            return url.map(StampSource::Url).ok_or(NO_STAMP);
        }
        let path = text.trim_start_matches('/');
        let fine = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        fine.then(|| StampSource::Path(path.to_owned())).ok_or(NO_STAMP)
    };
    let texts = texts.into_vec();
    match &texts[..] {
        [] => Ok(None),
        [text] if text.is_empty() => Ok(None),
        [text] => one(text).map(Some),
        several if several.len() == upstreams => {
            let each: Result<Vec<StampSource>, _> = several.iter().map(one).collect();
            Ok(Some(StampSource::Each(each?)))
        }
        _ => Err("write one for all, or one for each of `from` in its order"),
    }
}

fn mirror_name(text: &str, key: &str, lines: &Lines) -> Result<MirrorName, ConfigError> {
    if text.is_empty() {
        return Err(lines.bad(
            key,
            "is needed: the mirror's NAME, such as x86-64.archlinux.pkg.pacman.store",
        ));
    }
    text.parse().map_err(|error| lines.bad(key, error))
}

fn layout(text: &str, key: &str, lines: &Lines) -> Result<Layout, ConfigError> {
    text.parse().map_err(|error| lines.bad(key, error))
}

/// The URL of an upstream, or what is wrong with it.
pub(super) fn upstream(text: &str) -> Result<Url, String> {
    if has_pacmans_words(text) {
        return Err(pacmans_words(text));
    }
    http_url(text).ok_or_else(|| format!("`{text}` is no http(s) URL"))
}

/// As lines of a mirror list have them; no mirror has a folder of that name.
fn has_pacmans_words(text: &str) -> bool {
    text.contains("$repo") || text.contains("$arch")
}

fn pacmans_words(text: &str) -> String {
    format!("`{text}`: only pacman knows what $repo and $arch stand for; write the folder itself")
}

fn http_url(text: &str) -> Option<Url> {
    let mut url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())?;
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Some(url)
}

pub(super) fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    path.is_absolute().then_some(path)
}
