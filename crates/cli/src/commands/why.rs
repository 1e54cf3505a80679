//! `pacstore why`: the receipts of a file or package.

use std::fmt::Write as _;

use pacstore_node::{Ending, Receipt};

use crate::context::{Context, Exit, Hinted};
use crate::printer::{bytes, seconds};

/// Say where a package or file came from lately, and what was checked
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A package's name, or a file's (`zlib`, `core.db`)
    #[arg(value_name = "PKG|FILE")]
    what: String,
}

/// Exits 1 if nothing is known of it.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let receipts: Vec<Receipt> = if let Some(daemon) = ctx.daemon().await {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("name", &args.what)
            .finish();
        daemon.get(&format!("/v1/why?{query}")).await?
    } else {
        let own = ctx.offline().await?;
        let receipts = own.node.why(&args.what);
        own.close().await;
        receipts
    };
    if receipts.is_empty() {
        return Err(Hinted::new(
            format!("nothing is known of `{}`", args.what),
            "only what was given or fetched ahead lately has a receipt; name a package or a whole file name",
        )
        .into());
    }
    ctx.out.data(&receipts, |receipts| human(receipts))?;
    Ok(Exit::Done)
}

fn human(receipts: &[Receipt]) -> String {
    let receipts: Vec<String> = receipts.iter().map(one).collect();
    receipts.join("\n")
}

fn one(receipt: &Receipt) -> String {
    let mut text = String::new();
    let ended = match receipt.ended {
        Ending::Given => "given",
        Ending::Fetched => "fetched ahead",
        Ending::Redirected => "sent to a mirror",
        Ending::Broken => "broken off",
        Ending::Failed => "not given",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}  {ended}", receipt.name);
    let took = match receipt.took_ms {
        ms @ 0..10_000 => format!("{ms} ms"),
        ms => seconds(ms / 1000),
    };
    let _ = writeln!(text, "  when     {}, in {took}", receipt.at);
    let by = &receipt.bytes;
    let shares: Vec<String> = [
        ("disk", by.disk),
        ("lan", by.lan),
        ("peer", by.peer),
        ("upstream", by.upstream),
    ]
    .into_iter()
    .filter(|(_, share)| *share > 0)
    .map(|(source, share)| format!("{source} {}", bytes(share)))
    .collect();
    if !shares.is_empty() {
        let _ = writeln!(text, "  bytes    {}", shares.join(", "));
    }
    for giver in &receipt.givers {
        let _ = writeln!(
            text,
            "  from     {} {}  {}",
            giver.source,
            giver.who,
            bytes(giver.bytes)
        );
    }
    if let Some(checked) = &receipt.checked {
        let _ = writeln!(text, "  checked  {checked}");
    }
    if let Some(url) = &receipt.url {
        let _ = writeln!(text, "  to       {url}");
    }
    if let Some(why) = &receipt.why {
        let _ = writeln!(text, "  because  {why}");
    }
    text
}
