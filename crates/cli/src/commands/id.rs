//! `pacstore id`: this node's peer id and addresses.

use pacstore_node::{Keys, Status};

use crate::context::{Context, Exit};

/// Print this node's peer id and addresses
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// With a daemon the addresses it is bound to, without one none.
pub(crate) async fn run(_args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let (peer, addresses) = if let Some(daemon) = ctx.daemon().await {
        let status: Status = daemon.get("/v1/status").await?;
        (status.peer_id.unwrap_or_default(), status.addresses)
    } else {
        ctx.home.enter()?;
        (
            Keys::new(ctx.home.state_dir()).node()?.name().peer_id(),
            Vec::new(),
        )
    };
    let data = serde_json::json!({ "peer_id": peer, "addresses": addresses });
    ctx.out.data(&data, |_| {
        std::iter::once(peer.clone())
            .chain(addresses.clone())
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    Ok(Exit::Done)
}
