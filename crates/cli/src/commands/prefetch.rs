//! `pacstore prefetch`: what this machine's next `pacman -Syu` needs, now.

use std::time::Duration;

use pacstore_node::{PrefetchStatus, Status};
use serde_json::json;

use crate::context::{Context, Exit};
use crate::printer::bytes;

/// Between two looks at how far the daemon is.
const LOOK: Duration = Duration::from_millis(500);

/// Fetch what the next pacman -Syu of this machine needs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say what is ready and what is missing
    #[arg(long)]
    dry_run: bool,
}

/// Exits 0 if all is ready, 1 if something is missing or nobody knows, 3 if nothing is to be updated.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let ended = if let Some(daemon) = ctx.daemon().await {
        if args.dry_run {
            daemon.get::<Status>("/v1/status").await?.prefetch
        } else {
            let mut status: PrefetchStatus = daemon.post("/v1/prefetch", &json!({})).await?;
            let all = status.missing_bytes;
            let bar = ctx.out.bar("fetching", all);
            // The daemon gives up on a file that does not come; a stop of the daemon ends this too.
            while status.running {
                bar.set_position(all.saturating_sub(status.missing_bytes));
                tokio::time::sleep(LOOK).await;
                status = daemon.get::<Status>("/v1/status").await?.prefetch;
            }
            bar.finish_and_clear();
            status
        }
    } else {
        let own = ctx.offline().await?;
        let ended = if args.dry_run {
            match own.node.look_at_machine().await {
                Ok(()) => Ok(own.node.prefetch_status().await),
                Err(error) => Err(error),
            }
        } else {
            own.node.prefetch().await
        };
        own.close().await;
        ended?
    };
    ctx.out.data(&ended, human)?;
    Ok(match (ended.ready, ended.missing) {
        (0, 0) if ended.waiting.is_none() => Exit::Nothing,
        (0, 0) => Exit::Failed,
        (_, 0) => Exit::Done,
        _ => Exit::Failed,
    })
}

/// In a line: how many are ready, how many are missing and why.
pub(super) fn human(status: &PrefetchStatus) -> String {
    if status.ready + status.missing == 0 {
        return status
            .waiting
            .clone()
            .unwrap_or_else(|| "nothing to update".to_owned());
    }
    let mut text = format!("{} files ready, {} missing", status.ready, status.missing);
    if status.missing > 0 {
        text = format!("{text} ({})", bytes(status.missing_bytes));
    }
    match &status.waiting {
        Some(why) => format!("{text}; {why}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nothing_is_to_be_updated_is_said_only_where_it_is_known() {
        let mut status = PrefetchStatus::default();
        assert_eq!(human(&status), "nothing to update");
        status.waiting = Some("no database is here yet".to_owned());
        assert_eq!(human(&status), "no database is here yet");
    }
}
