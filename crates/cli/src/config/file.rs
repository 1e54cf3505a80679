//! The configuration file as it is written, before anything is checked against anything.
//!
//! - Invariant: defaults here are those of `super::schema` (a test compares them).
//! - Not here: what the values mean together (`super::build`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::values::OneOrMany;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) gateway: Gateway,
    pub(crate) swarm: Swarm,
    pub(crate) store: Store,
    pub(crate) pacman: Pacman,
    pub(crate) prefetch: Prefetch,
    pub(crate) lan: Lan,
    pub(crate) limits: Limits,
    pub(crate) alert: Alert,
    pub(crate) metrics: Metrics,
    pub(crate) share: Share,
    pub(crate) names: BTreeMap<String, String>,
    pub(crate) mirror: Vec<Mirror>,
    pub(crate) repository: Vec<Repository>,
    pub(crate) import: Vec<Import>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gateway {
    pub(crate) listen: String,
    pub(crate) hosts: OneOrMany,
    pub(crate) open: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            hosts: OneOrMany::One("localhost".into()),
            open: false,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Swarm {
    pub(crate) listen: OneOrMany,
    pub(crate) bootstrap: OneOrMany,
    pub(crate) peers: OneOrMany,
    pub(crate) mdns: bool,
    pub(crate) mdns_interfaces: OneOrMany,
    pub(crate) dht: String,
}

impl Default for Swarm {
    fn default() -> Self {
        let listen = [
            "/ip4/0.0.0.0/udp/4001/quic-v1",
            "/ip4/0.0.0.0/tcp/4001",
            "/ip6/::/udp/4001/quic-v1",
            "/ip6/::/tcp/4001",
        ];
        Self {
            listen: OneOrMany::Many(listen.map(String::from).to_vec()),
            bootstrap: OneOrMany::One("public".into()),
            peers: OneOrMany::default(),
            mdns: true,
            mdns_interfaces: OneOrMany::default(),
            dht: "auto".into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    pub(crate) dir: String,
    pub(crate) max_size: String,
    pub(crate) scrub: String,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            dir: String::new(),
            max_size: "10GB".into(),
            scrub: "30d".into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Pacman {
    pub(crate) config: String,
    pub(crate) cache: OneOrMany,
}

impl Default for Pacman {
    fn default() -> Self {
        Self {
            config: "/etc/pacman.conf".into(),
            cache: OneOrMany::default(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Prefetch {
    pub(crate) enable: bool,
    pub(crate) rate: String,
    pub(crate) hours: String,
    pub(crate) metered: bool,
    pub(crate) battery: bool,
}

impl Default for Prefetch {
    fn default() -> Self {
        Self {
            enable: false,
            rate: "0".into(),
            hours: String::new(),
            metered: false,
            battery: false,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Lan {
    pub(crate) serve: bool,
    pub(crate) allow: OneOrMany,
}

impl Default for Lan {
    fn default() -> Self {
        Self {
            serve: false,
            allow: OneOrMany::One("192.168.0.0/16".into()),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    pub(crate) upload: Option<String>,
    pub(crate) upload_month: String,
    pub(crate) upload_hours: String,
    pub(crate) peers: usize,
    pub(crate) import: String,
    pub(crate) rounds: usize,
    pub(crate) pressure: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload: None,
            upload_month: "0".into(),
            upload_hours: String::new(),
            peers: 160,
            import: "0".into(),
            rounds: 2,
            pressure: true,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Alert {
    pub(crate) webhook: String,
    pub(crate) command: OneOrMany,
    pub(crate) mail: String,
    pub(crate) sendmail: String,
    pub(crate) after: String,
    pub(crate) torn: String,
    pub(crate) disk_free: String,
    pub(crate) repeat: String,
}

impl Default for Alert {
    fn default() -> Self {
        Self {
            webhook: String::new(),
            command: OneOrMany::default(),
            mail: String::new(),
            sendmail: "/usr/sbin/sendmail".into(),
            after: "10m".into(),
            torn: "2h".into(),
            disk_free: "2GB".into(),
            repeat: "24h".into(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    pub(crate) listen: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Share {
    pub(crate) enable: bool,
    pub(crate) announce: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            enable: true,
            announce: false,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Mirror {
    pub(crate) name: String,
    pub(crate) importers: OneOrMany,
    pub(crate) quorum: usize,
    pub(crate) upstreams: OneOrMany,
    pub(crate) layout: String,
    pub(crate) folder: String,
    pub(crate) public: bool,
    pub(crate) keyring: String,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            name: String::new(),
            importers: OneOrMany::default(),
            quorum: 1,
            upstreams: OneOrMany::default(),
            layout: "archlinux".into(),
            folder: String::new(),
            public: true,
            keyring: String::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Repository {
    pub(crate) name: String,
    pub(crate) arch: String,
    pub(crate) upstreams: OneOrMany,
    pub(crate) public: bool,
    pub(crate) keyring: String,
}

impl Default for Repository {
    fn default() -> Self {
        Self {
            name: String::new(),
            arch: "x86_64".into(),
            upstreams: OneOrMany::default(),
            public: false,
            keyring: String::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Import {
    pub(crate) mirror: String,
    pub(crate) from: OneOrMany,
    pub(crate) key: String,
    pub(crate) preset: String,
    pub(crate) layout: String,
    pub(crate) repositories: OneOrMany,
    pub(crate) files: String,
    pub(crate) also: OneOrMany,
    pub(crate) exclude: OneOrMany,
    pub(crate) hidden: bool,
    pub(crate) stamp: OneOrMany,
    pub(crate) every: String,
    pub(crate) keep: Keep,
    pub(crate) keyring: String,
    pub(crate) hold: String,
    pub(crate) max_age: String,
    pub(crate) public: bool,
    pub(crate) replicas: usize,
    pub(crate) atomic: Vec<Vec<String>>,
    pub(crate) replaced_by_rename: bool,
}

impl Default for Import {
    fn default() -> Self {
        Self {
            mirror: String::new(),
            from: OneOrMany::default(),
            key: String::new(),
            preset: String::new(),
            layout: "plain".into(),
            repositories: OneOrMany::One("all".into()),
            files: "listed".into(),
            also: OneOrMany::default(),
            exclude: OneOrMany::default(),
            hidden: false,
            stamp: OneOrMany::One(String::new()),
            every: "60s".into(),
            keep: Keep::default(),
            keyring: String::new(),
            hold: "2h".into(),
            max_age: "24h".into(),
            public: true,
            replicas: 0,
            atomic: Vec::new(),
            replaced_by_rename: false,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keep {
    pub(crate) age: String,
    pub(crate) count: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            age: "7d".into(),
            count: 100,
        }
    }
}
