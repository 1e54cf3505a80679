//! `pacstore daemon`: run the roles that the configuration switches on.

use crate::context::{Context, Exit};
use crate::serving::{Serving, Signals};

/// Run the roles that the configuration switches on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs until SIGTERM or SIGINT. Prints one `ready` line when it serves.
pub(crate) async fn run(_args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let signals = Signals::hear()?;
    let serving = Serving::start(ctx.config()?, &ctx.home).await?;
    let peer = serving
        .node
        .peer_id()
        .map(|id| id.to_string())
        .unwrap_or_default();
    ctx.out
        .line(format!("ready gateway=http://{} peer={peer}", serving.gateway));
    let ended = serving.wait(signals).await;
    serving.stop().await;
    ended.map(|()| Exit::Done)
}
