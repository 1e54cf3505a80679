//! `pacstore alert test`: whether alerts arrive.

use std::fmt::Write as _;

use clap::Subcommand;
use pacstore_node::Delivery;

use crate::context::{Context, Exit};

/// Check that alerts arrive
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Send a test message by every channel that is configured
    Test,
}

/// Exits 0 if every channel took the message, 1 if not, 3 if none is configured.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let What::Test = args.what;
    let deliveries: Vec<Delivery> = if let Some(daemon) = ctx.daemon().await {
        daemon.post("/v1/alert/test", &serde_json::json!({})).await?
    } else {
        let own = ctx.offline().await?;
        let deliveries = own.node.test_alerts().await;
        own.close().await;
        deliveries
    };
    ctx.out.data(&deliveries, |deliveries| {
        let mut text = String::new();
        for one in deliveries {
            let went = one
                .error
                .as_deref()
                .map_or_else(|| "delivered".to_owned(), |e| format!("failed: {e}"));
            let _ = writeln!(text, "{:<8} {went}", one.channel);
        }
        text
    })?;
    if deliveries.is_empty() {
        ctx.out
            .note("no channel is configured; alerts go to the log only");
        ctx.out
            .note("hint: set webhook, command or mail in the section [alert]");
        return Ok(Exit::Nothing);
    }
    let all = deliveries.iter().all(|one| one.error.is_none());
    Ok(if all { Exit::Done } else { Exit::Failed })
}
