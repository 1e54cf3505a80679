//! The service manager's side: ready, what goes on, still alive, stopping (`sd_notify`).
//!
//! With `WatchdogSec=` systemd restarts the daemon once it has heard nothing for that long. It
//! hears from us only while the node says that it is well and the gateway answers.
//!
//! - Invariant: a look ends within [`LOOK`], so a part that hangs is silence, not a lie.
//! - Invariant: without a service manager nothing happens here.
//! - Not here: what being well means (`pacstore-node`, `health.rs`).

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use pacstore_node::{Node, Status};
use pacstore_runtime::{Tasks, deadline};
use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How often a manager without a watchdog hears what goes on.
const TELL: Duration = Duration::from_secs(15);

/// The longest time that reading one key of the store may take.
const DISK: Duration = Duration::from_secs(20);

/// The longest time of one look.
const LOOK: Duration = Duration::from_secs(30);

/// Tells the manager; a manager that does not listen is not our concern.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// The daemon is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the daemon serves, and from then on that it lives.
pub(crate) fn start(node: &Node, gateway: SocketAddr, tasks: &Tasks) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
    let every = sd_notify::watchdog_enabled().map_or(TELL, |limit| (limit / 4).min(TELL));
    let (node, stop) = (node.clone(), tasks.stop());
    tasks.spawn("watchdog", async move {
        let mut tick = tokio::time::interval(every.max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = String::new();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let look = deadline("a look at the daemon", LOOK, look(&node, gateway));
            let Some(looked) = stop.run_until_cancelled(look).await else {
                return;
            };
            match looked.map_err(anyhow::Error::from).and_then(|looked| looked) {
                Ok(now) => {
                    tell(&[NotifyState::Watchdog]);
                    if now != said {
                        tell(&[NotifyState::Status(&now)]);
                        said = now;
                    }
                }
                Err(error) => {
                    tracing::error!(
                        "the daemon is not well; the service manager is not told otherwise: {error:#}"
                    );
                    tell(&[NotifyState::Status(&format!("not well: {error:#}"))]);
                    said.clear();
                }
            }
        }
    });
}

/// In one line what goes on, if all is well.
async fn look(node: &Node, gateway: SocketAddr) -> anyhow::Result<String> {
    node.health(DISK).await?;
    answers(gateway).await.context("the gateway does not answer")?;
    Ok(line(&node.status(None).await))
}

async fn answers(gateway: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(gateway).await?;
    stream
        .write_all(b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        .await?;
    let mut start = [0; 5];
    stream.read_exact(&mut start).await?;
    if start == *b"HTTP/" {
        Ok(())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

fn line(status: &Status) -> String {
    let running = status.imports.iter().filter(|import| import.running_s.is_some());
    let running: Vec<&str> = running.map(|import| import.name.as_str()).collect();
    let mut parts = vec![format!(
        "{} mirrors, {} peers",
        status.mirrors.len(),
        status.peers
    )];
    if !running.is_empty() {
        parts.push(format!("importing {}", running.join(", ")));
    }
    if let Some(first) = status.alerts.first() {
        parts.push(format!(
            "{} alerts, the oldest: {}",
            status.alerts.len(),
            first.key
        ));
    }
    parts.join("; ")
}
