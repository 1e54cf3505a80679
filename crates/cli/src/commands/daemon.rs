//! `pacstore daemon`: run the roles that the configuration switches on.

use crate::context::{Context, Exit};
use crate::listeners::{HandedOver, let_go};
use crate::serving::{Serving, Signals};

/// Run the roles that the configuration switches on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs until SIGTERM or SIGINT. Prints one `ready` line when it serves, and goes on where nobody takes it.
pub(crate) async fn run(_args: Args, ctx: &Context, sockets: HandedOver) -> anyhow::Result<Exit> {
    let signals = Signals::hear()?;
    let started = async { Serving::start(ctx.config()?, &ctx.home, sockets).await };
    let serving = started.await.inspect_err(|_| let_go())?;
    let peer = serving
        .node
        .peer_id()
        .map(|id| id.to_string())
        .unwrap_or_default();
    let ready = format!("ready gateway=http://{} peer={peer}", serving.gateway);
    // pacman asks us all the same: who waits for the line is gone, or its disk is full.
    if let Err(error) = ctx.out.try_line(ready) {
        tracing::warn!(%error, "the `ready` line cannot be written to stdout");
    }
    let ended = serving.wait(signals).await;
    serving.stop().await;
    ended.map(|()| Exit::Done)
}
