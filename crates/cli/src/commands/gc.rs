//! `pacstore gc`: free space now, without waiting for the daemon's next pass.

use serde_json::{Value, json};

use super::progress;
use crate::config::size;
use crate::context::{Context, Exit};
use crate::printer::bytes;

/// Delete what no kept snapshot needs, least recently used first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave at most this many evictable bytes [default: store.max_size]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    target: Option<u64>,
}

/// Exits 0 if the target was reached, 1 if what is left is all in use.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let target = args.target;
    let report: Value = if let Some(daemon) = ctx.daemon().await {
        let bar = ctx.out.bar("freeing", 0);
        progress::ordered(&daemon, bar, "gc", &json!({ "target": target })).await?
    } else {
        let own = ctx.offline().await?;
        let bar = ctx.out.bar("freeing", 0);
        let report = progress::shown(bar, "gc", own.node.gc(target), async || own.node.work()).await;
        own.close().await;
        let report = report?;
        json!({ "files": report.files, "nodes": report.nodes, "bytes": report.bytes, "evictable": report.evictable })
    };
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    let left = number("evictable");
    ctx.out.data(&report, |_| {
        format!(
            "freed {} files, {}; {} evictable left",
            number("files"),
            bytes(number("bytes")),
            bytes(left)
        )
    })?;
    Ok(if target.is_none_or(|target| left <= target) {
        Exit::Done
    } else {
        Exit::Failed
    })
}
