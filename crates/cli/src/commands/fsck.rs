//! `pacstore fsck`: check the store against its index, and mend it.

use pacstore_node::{Checked, Repair};
use serde_json::json;

use super::progress;
use crate::context::{Context, Exit};

/// Check the store and name each damage
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Mend what can be mended; what is lost comes again from the network
    #[arg(long)]
    repair: bool,
}

/// Exits 1 if damage is left: what was not to be mended, and files that are not the store's, which are never touched.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let report: Checked = if let Some(daemon) = ctx.daemon().await {
        let bar = ctx.out.bar("checking", 0);
        progress::ordered(&daemon, bar, "fsck", &json!({ "repair": args.repair })).await?
    } else {
        let own = ctx.offline().await?;
        let bar = ctx.out.bar("checking", 0);
        let repair = if args.repair { Repair::Yes } else { Repair::No };
        let report = progress::shown(bar, "fsck", own.node.fsck(repair), async || own.node.work()).await;
        own.close().await;
        Checked::from(&report?)
    };
    ctx.out.data(&report, text)?;
    if args.repair && !report.left.is_empty() {
        ctx.out
            .note("hint: move what is not of the store out of its folder");
    }
    Ok(if report.left.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn text(report: &Checked) -> String {
    let mut lines = report.damages.clone();
    let (damages, left) = (report.damages.len(), report.left.len());
    let mended = if report.repaired && damages > 0 {
        format!(", {} mended, {left} left", damages - left)
    } else {
        String::new()
    };
    lines.push(format!(
        "{} files, {} nodes, {damages} damages{mended}",
        report.files, report.nodes
    ));
    lines.join("\n")
}
