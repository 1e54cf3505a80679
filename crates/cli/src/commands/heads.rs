//! `pacstore heads NAME`: which trees a mirror had.

use std::fmt::Write as _;

use pacstore_node::Past;

use crate::context::{Context, Exit, Hinted};
use crate::printer::bytes;

/// List the trees that a mirror had, newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A tree that is kept is served under /ipfs/TREE/ by the gateway, so pacman can install from it."
)]
pub(crate) struct Args {
    /// The mirror's NAME or KEY
    name: String,
    /// Only those that are still kept here
    #[arg(long)]
    kept: bool,
}

/// Exits 1 if the mirror is not configured, 3 if it had no tree yet.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let mut heads: Vec<Past> = if let Some(daemon) = ctx.daemon().await {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("name", &args.name)
            .finish();
        daemon.get(&format!("/v1/heads?{query}")).await?
    } else {
        let own = ctx.offline().await?;
        let heads = own.node.mirror(&args.name).map(|mirror| mirror.history());
        own.close().await;
        let unknown = || {
            Hinted::new(
                format!("no mirror `{}` is configured here", args.name),
                "`pacstore config show` lists them",
            )
        };
        heads.ok_or_else(unknown)??
    };
    heads.retain(|one| one.kept || !args.kept);
    ctx.out.data(&heads, |heads| {
        let mut text = String::new();
        for one in heads {
            let state = if one.kept { "kept" } else { "gone" };
            let _ = writeln!(
                text,
                "{}  {state}  {}  {} files, {}  upstream {}",
                one.accepted,
                one.tree,
                one.files,
                bytes(one.bytes),
                one.upstream_time
            );
        }
        text
    })?;
    Ok(if heads.is_empty() {
        Exit::Nothing
    } else {
        Exit::Done
    })
}
