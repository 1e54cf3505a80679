//! The daemon put together: node, gateway, admin socket, signals, stop.
//!
//! - Invariant: the `ready` line is printed once, when both sockets serve.
//! - Invariant: a stop takes at most the two seconds in which pacman is let go of, and [`pacstore_node::STOP_GRACE`].

use std::net::SocketAddr;

use anyhow::Context as _;
use pacstore_http::{Admin, Allow, Gateway, Limits, Network, serve_admin, serve_metrics, serve_with};
use pacstore_node::{Node, Online, STOP_GRACE};
use pacstore_runtime::{Clock, Tasks};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::Daemon;
use crate::config::Loaded;
use crate::context::Hinted;
use crate::heap;
use crate::home::Home;
use crate::listeners::HandedOver;

/// Most often it is this home's own daemon that has the port.
async fn cannot_listen(listen: SocketAddr, error: std::io::Error, home: &Home) -> anyhow::Error {
    if let Some(pid) = Daemon::running_at(home.socket()).await {
        let hint = "stop it first; `pacstore status` says what it does";
        return Hinted::new(
            format!("the daemon of this home runs already, as process {pid}"),
            hint,
        )
        .into();
    }
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 are root's to take; start it as root, or set gateway.listen to a higher port"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; set gateway.listen to one it has"
        }
        _ => "another program has this port; set gateway.listen to another, or to port 0",
    };
    anyhow::Error::from(error).context(Hinted::new(
        format!("the gateway cannot listen on {listen}"),
        hint,
    ))
}

/// With fewer open files than this some will be missing: each client, peer and file under way takes one.
const FEW_FILES: u64 = 1024;

/// What clients of the gateway may take; `lan` are the networks that may use it where the LAN is served.
fn limits(lan: Option<Vec<Network>>) -> Limits {
    let usual = Limits::default();
    let files = raise_files();
    if files < FEW_FILES {
        tracing::warn!(
            files,
            "few files may be open at once (`ulimit -n`): clients and peers above that wait or are refused"
        );
    }
    // Half of the files are for the store and for peers.
    let files = usize::try_from(files / 2).unwrap_or(usize::MAX);
    Limits {
        connections: usual.connections.min(files).max(1),
        allow: lan.map_or(Allow::All, Allow::Only),
        ..usual
    }
}

/// As many open files as the system lets us have; how many those are. The usual 1024 are for programs
/// that still use `select`.
fn raise_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    let raised = setrlimit(Resource::Nofile, wanted).is_ok();
    let limit = if raised { now.maximum } else { now.current };
    limit.unwrap_or(u64::MAX)
}

/// SIGTERM and SIGINT. To be made before anything is started: until then either ends the process where it stands.
#[derive(Debug)]
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From now on they are heard; those that come before somebody waits are not lost.
    pub(crate) fn hear() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }
}

/// A node that serves.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) node: Node,
    pub(crate) tasks: Tasks,
    pub(crate) gateway: SocketAddr,
    web: Gateway,
}

impl Serving {
    /// Starts everything that `loaded` switches on, at `home`, on sockets that were handed over or on new ones.
    pub(crate) async fn start(loaded: Loaded, home: &Home, sockets: HandedOver) -> anyhow::Result<Self> {
        home.create()?;
        let tasks = Tasks::new();
        heap::give_back(&tasks);
        let started = Self::start_in(loaded, home, &tasks, sockets).await;
        if started.is_err() {
            tasks.shutdown(STOP_GRACE).await;
        }
        started
    }

    async fn start_in(
        loaded: Loaded,
        home: &Home,
        tasks: &Tasks,
        sockets: HandedOver,
    ) -> anyhow::Result<Self> {
        let listen = loaded.gateway.listen;
        let listeners = match sockets.bind(listen, loaded.gateway.lan.is_some()).await {
            Ok(listeners) => listeners,
            Err(error) => return Err(cannot_listen(listen, error, home).await),
        };
        let first = listeners.first().context("the gateway listens")?;
        let port = first.local_addr().context("the gateway's address")?.port();
        let gateway = SocketAddr::new(listen.ip(), port);
        let limits = limits(loaded.gateway.lan);
        let numbers = match loaded.metrics {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.with_context(|| format!("metrics.listen: cannot listen on {address}"))?)
            }
            None => None,
        };
        // Only now: some ports are root's to take.
        home.enter()?;
        let node = Node::start(loaded.node, Online::Yes, tasks, Clock::system()).await;
        let node = node.map_err(|error| {
            let hint = error.hint();
            anyhow::Error::from(error).context(Hinted {
                message: "cannot start".to_owned(),
                hint,
            })
        })?;
        serve_admin(
            home.socket(),
            Admin::new(node.clone(), format!("http://{gateway}")),
        )?;
        let web = Gateway::new(node.clone(), loaded.gateway.hosts);
        let serving = serve_with(listeners, web.clone(), tasks.clone(), limits);
        tasks.spawn_critical("http/gateway", serving);
        if let Some(listener) = numbers {
            tasks.spawn("http/metrics", serve_metrics(listener, node.clone()));
        }
        crate::watchdog::start(&node, gateway, tasks);
        Ok(Self {
            node,
            tasks: tasks.clone(),
            gateway,
            web,
        })
    }

    /// Waits for SIGTERM, SIGINT or the death of a task that may not die.
    pub(crate) async fn wait(&self, mut signals: Signals) -> anyhow::Result<()> {
        let Signals { term, int } = &mut signals;
        let stop = self.tasks.stop();
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stopping"),
            _ = int.recv() => tracing::info!("SIGINT: stopping"),
            () = stop.cancelled() => {}
        }
        match self.tasks.fault() {
            Some(fault) => anyhow::bail!("a part of the daemon died: {fault}"),
            None => Ok(()),
        }
    }

    /// Stops everything and writes what is left to write.
    pub(crate) async fn stop(self) {
        crate::watchdog::stopping();
        self.web.leave().await;
        if let Some(net) = self.node.net() {
            net.shutdown().await;
        }
        let late = self.tasks.shutdown(STOP_GRACE).await;
        if !late.is_empty() {
            tracing::warn!(?late, "these did not stop in time");
        }
        self.node.close();
    }
}
