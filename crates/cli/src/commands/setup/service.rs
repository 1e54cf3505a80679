//! The service of systemd: where this machine runs one, or in a system that is mounted.
//!
//! - Invariant: what is done is said before; that it fails is said and is no failure of setup:
//!   pacman goes on to its mirrors while no daemon runs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::context::Context;

const UNIT: &str = "pacstore.service";

/// systemd's own limit for a start is 90 s.
const PATIENCE: Duration = Duration::from_secs(100);

/// Starts it now and at every boot; in a system that is mounted at `root`, when that boots.
pub(crate) async fn enable(ctx: &Context, root: &Path) {
    if is_mounted(root) {
        return of_mounted(ctx, root, "enable").await;
    }
    if !is_there(ctx, "start it with `pacstore daemon`").await {
        return;
    }
    systemctl(ctx, &["enable", UNIT]).await;
    // One that runs already reads its configuration anew.
    systemctl(ctx, &["restart", UNIT]).await;
}

/// Stops it now and for good.
pub(crate) async fn disable(ctx: &Context, root: &Path) {
    if is_mounted(root) {
        return of_mounted(ctx, root, "disable").await;
    }
    if is_there(ctx, "stop the daemon if one runs").await {
        systemctl(ctx, &["disable", "--now", UNIT]).await;
    }
}

fn is_mounted(root: &Path) -> bool {
    root != Path::new("/")
}

/// Needs no running systemd: links are made or removed below `root`.
async fn of_mounted(ctx: &Context, root: &Path, what: &str) {
    let folders = ["usr/lib/systemd/system", "etc/systemd/system"];
    if folders.iter().any(|folder| root.join(folder).join(UNIT).exists()) {
        systemctl(ctx, &["--root", &root.to_string_lossy(), what, UNIT]).await;
    } else {
        ctx.out.note(format!("no {UNIT} below `{}`", root.display()));
    }
}

async fn is_there(ctx: &Context, otherwise: &str) -> bool {
    let booted = Path::new("/run/systemd/system").is_dir();
    if !booted || !run(&["cat", UNIT]).await {
        ctx.out.note(format!("no {UNIT} under systemd here: {otherwise}"));
        return false;
    }
    true
}

async fn systemctl(ctx: &Context, arguments: &[&str]) {
    let command = format!("systemctl {}", arguments.join(" "));
    ctx.out.note(&command);
    if !run(arguments).await {
        ctx.out.note(format!(
            "warning: `{command}` failed; see `systemctl status {UNIT}`"
        ));
    }
}

async fn run(arguments: &[&str]) -> bool {
    let child = tokio::process::Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    matches!(tokio::time::timeout(PATIENCE, child).await, Ok(Ok(status)) if status.success())
}
