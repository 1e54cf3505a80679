//! `pacstore resolve`: the head of a mirror that is served now.

use std::fmt::Write as _;

use serde_json::Value;

use crate::context::{Context, Exit, Hinted};
use crate::printer::seconds;

/// Print the head of a mirror: its tree, freshness and importers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The mirror's NAME or KEY
    name: String,
    /// Ask the network for a newer one first (needs the daemon)
    #[arg(long)]
    fresh: bool,
}

/// Exits 1 if the mirror is not configured or has no head.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let summary: Value = match ctx.daemon().await {
        Some(daemon) => {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("name", &args.name)
                .append_pair("fresh", if args.fresh { "true" } else { "false" })
                .finish();
            daemon.get(&format!("/v1/resolve?{query}")).await?
        }
        None if args.fresh => {
            return Err(Hinted::new(
                "no daemon answers",
                "--fresh asks the network; start `pacstore daemon`",
            )
            .into());
        }
        None => {
            let own = ctx.offline().await?;
            let summary = own
                .node
                .mirror(&args.name)
                .map(|mirror| serde_json::to_value(own.node.summary(&mirror)));
            own.close().await;
            let unknown = || {
                Hinted::new(
                    format!("no mirror `{}` is configured here", args.name),
                    "`pacstore config show` lists them",
                )
            };
            summary.ok_or_else(unknown)??
        }
    };
    ctx.out.data(&summary, human)?;
    Ok(if summary["tree"].is_null() {
        Exit::Failed
    } else {
        Exit::Done
    })
}

fn human(summary: &Value) -> String {
    let mut text = String::new();
    let field = |key: &str| summary[key].as_str().unwrap_or("-").to_owned();
    let _ = writeln!(text, "{}  {}", field("name"), field("state"));
    let _ = writeln!(text, "tree      {}", field("tree"));
    let _ = writeln!(
        text,
        "head      {}  sequence {}",
        field("head"),
        summary["sequence"]
    );
    let _ = writeln!(text, "upstream  {}", field("upstream_time"));
    let _ = writeln!(
        text,
        "checked   {}  {} ago",
        field("checked"),
        seconds(summary["age_s"].as_u64().unwrap_or(0))
    );
    for repository in summary["repositories"].as_array().into_iter().flatten() {
        let text_of = |key: &str| repository[key].as_str().unwrap_or("-").to_owned();
        let _ = writeln!(
            text,
            "  {}  {}  {}",
            text_of("folder"),
            text_of("name"),
            text_of("state")
        );
    }
    for importer in summary["importers"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "importer  {}  sequence {}",
            importer["key"].as_str().unwrap_or("-"),
            importer["sequence"]
        );
    }
    text
}
