//! `pacstore fsck`: check the store against its index, and mend it.

use pacstore_node::Repair;
use serde_json::{Value, json};

use super::progress;
use crate::context::{Context, Exit};

/// Check the store and name each damage
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Mend what can be mended; what is lost comes again from the network
    #[arg(long)]
    repair: bool,
}

/// Exits 1 if there is damage that was not repaired.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let report: Value = if let Some(daemon) = ctx.daemon().await {
        let bar = ctx.out.bar("checking", 0);
        progress::ordered(&daemon, bar, "fsck", &json!({ "repair": args.repair })).await?
    } else {
        let own = ctx.offline().await?;
        let bar = ctx.out.bar("checking", 0);
        let repair = if args.repair { Repair::Yes } else { Repair::No };
        let report = progress::shown(bar, "fsck", own.node.fsck(repair), async || own.node.work()).await;
        own.close().await;
        let report = report?;
        json!({
            "files": report.files,
            "nodes": report.nodes,
            "damages": report.damages.iter().map(pacstore_node::describe_damage).collect::<Vec<_>>(),
            "repaired": args.repair,
        })
    };
    let damages = report["damages"].as_array().cloned().unwrap_or_default();
    ctx.out.data(&report, |report| {
        let mut lines: Vec<String> = damages
            .iter()
            .filter_map(|d| d.as_str().map(str::to_owned))
            .collect();
        lines.push(format!(
            "{} files, {} nodes, {} damages",
            report["files"],
            report["nodes"],
            damages.len()
        ));
        lines.join("\n")
    })?;
    Ok(if damages.is_empty() || args.repair {
        Exit::Done
    } else {
        Exit::Failed
    })
}
