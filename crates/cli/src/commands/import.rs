//! `pacstore import NAME`: run an importer, once or for ever.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pacstore_http::NameRequest;
use pacstore_node::{Importing, Node, Outcome, RoundReport, Status};
use tokio::signal::unix::{SignalKind, signal};

use crate::context::{Context, Exit, Hinted};
use crate::listeners::HandedOver;
use crate::printer::{Bar, bytes};
use crate::serving::{Serving, Signals};

/// How often the bar follows the round.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// Import a mirror as the configuration says
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The mirror's NAME
    name: String,
    /// One round that begins now, then return
    #[arg(long)]
    once: bool,
    /// One round that publishes what is held because its signatures do not verify
    #[arg(long)]
    accept: bool,
}

/// With `--once` or `--accept` exits 0 if a new tree was published, 3 if the published one already is
/// upstream's state, 1 if any repository is torn, held or failed.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    if !args.once && !args.accept {
        return forever(&args, ctx).await;
    }
    let request = NameRequest {
        name: args.name.clone(),
        fresh: false,
        accept: args.accept,
    };
    if let Some(daemon) = ctx.daemon().await {
        let report: RoundReport = daemon.post("/v1/import", &request).await?;
        let status: Status = daemon.get("/v1/status").await?;
        show(ctx, &report)?;
        tell_clients(ctx, &report, &status.addresses, status.gateway.as_deref())?;
        return Ok(exit(&report));
    }
    let own = ctx.offline().await?;
    let Some(import) = own.node.import(&args.name) else {
        own.close().await;
        return Err(unknown(&args.name));
    };
    if args.accept {
        import.accept();
    }
    let bar = ctx.out.bar("importing", 0);
    let report = tokio::select! {
        report = round(&own.node, &import) => report,
        never = show_progress(&bar, &import) => match never {},
    };
    bar.finish_and_clear();
    own.close().await;
    let report = report?;
    show(ctx, &report)?;
    tell_clients(ctx, &report, &[], None)?;
    Ok(exit(&report))
}

/// Each of 100,000 small files is a change, and nobody sees them one by one.
async fn show_progress(bar: &Bar, import: &Importing) -> Infallible {
    let watch = import.watch();
    let mut tick = tokio::time::interval(SHOWN_EVERY);
    loop {
        tick.tick().await;
        let now = watch.borrow().clone();
        bar.set_length(now.bytes_total);
        bar.set_position(now.bytes_done);
        bar.set_message(format!(
            "{:?} {}/{} files",
            now.step, now.files_done, now.files_total
        ));
    }
}

/// One round here in this process, ended by SIGTERM and SIGINT as cleanly as the daemon's: an rsync child has a
/// process group of its own and would go on writing without us.
pub(super) async fn round(node: &Node, import: &Arc<Importing>) -> anyhow::Result<RoundReport> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        report = node.import_now(import) => Ok(report),
        _ = term.recv() => anyhow::bail!("stopped by SIGTERM; what came so far is kept"),
        _ = int.recv() => anyhow::bail!("stopped by SIGINT; what came so far is kept"),
    }
}

async fn forever(args: &Args, ctx: &Context) -> anyhow::Result<Exit> {
    let loaded = ctx.config()?;
    if !loaded
        .node
        .imports
        .iter()
        .any(|import| import.name.as_str().eq_ignore_ascii_case(&args.name))
    {
        return Err(unknown(&args.name));
    }
    let signals = Signals::hear()?;
    let serving = Serving::start(loaded, &ctx.home, HandedOver::default()).await?;
    ctx.out.note(format!(
        "importing {} until stopped; `pacstore status` says how it goes",
        args.name
    ));
    let ended = serving.wait(signals).await;
    serving.stop().await;
    ended.map(|()| Exit::Done)
}

fn unknown(name: &str) -> anyhow::Error {
    let hint = format!("`pacstore init importer --name {name} --from URL|DIR` writes one");
    Hinted::new(format!("no [[import]] of `{name}` is configured here"), hint).into()
}

pub(super) fn exit(report: &RoundReport) -> Exit {
    match report.outcome {
        Outcome::Published => Exit::Done,
        Outcome::Unchanged => Exit::Nothing,
        Outcome::Torn | Outcome::Failed => Exit::Failed,
    }
}

/// The report.
pub(super) fn show(ctx: &Context, report: &RoundReport) -> anyhow::Result<()> {
    for repository in &report.repositories {
        for problem in &repository.problems {
            ctx.out
                .note(format!("{} {}: {problem}", repository.name, repository.state));
        }
    }
    for warning in &report.warnings {
        ctx.out.note(format!("warning: {warning}"));
    }
    if let Some(error) = &report.error {
        ctx.out.note(format!("error: {error}"));
    }
    if let Some(hint) = &report.hint {
        ctx.out.note(format!("hint: {hint}"));
    }
    ctx.out.data(report, |report| {
        let tree = report.tree.as_deref().unwrap_or("-");
        let outcome = format!("{:?}", report.outcome).to_lowercase();
        let coming = report.coming.as_ref().map_or_else(String::new, |coming| {
            format!("\ncoming     {coming}  when enough replicas hold it")
        });
        format!(
            "{outcome}  {tree}  {} files, {}{coming}",
            report.files,
            bytes(report.bytes)
        )
    })?;
    Ok(())
}

/// What a client needs, if something is published: also after a round that found nothing new, because a daemon may
/// have published it before anybody could read this.
pub(super) fn tell_clients(
    ctx: &Context,
    report: &RoundReport,
    addresses: &[String],
    gateway: Option<&str>,
) -> anyhow::Result<()> {
    let published = matches!(report.outcome, Outcome::Published | Outcome::Unchanged);
    if !published || ctx.out.json() {
        return Ok(());
    }
    let loaded = ctx.config()?;
    let mut imports = loaded.node.imports.iter();
    let private = imports.any(|import| import.name.as_str() == report.name && !import.public);
    let more = if private { "public = false\n" } else { "" };
    ctx.out
        .note(client_block(report, &reachable(addresses), gateway, more));
    Ok(())
}

/// Those that mean something on another machine; all, where there are none.
fn reachable(addresses: &[String]) -> Vec<&String> {
    let here = ["/ip4/127.", "/ip6/::1/", "/ip6/fe80:"];
    let (local, others): (Vec<_>, Vec<_>) = addresses
        .iter()
        .partition(|address| here.iter().any(|start| address.starts_with(start)));
    if others.is_empty() { local } else { others }
}

/// What to put into a client's configuration; `more` are further keys of its mirror.
fn client_block(report: &RoundReport, addresses: &[&String], gateway: Option<&str>, more: &str) -> String {
    let peers = if addresses.is_empty() {
        "peers = []          # the addresses that `pacstore id` prints while the daemon runs".to_owned()
    } else {
        format!("peers = {}", serde_json::json!(addresses))
    };
    let gateway = gateway.unwrap_or("http://127.0.0.1:8080");
    format!(
        "\nA client follows it with this in its pacstore.toml:\n\n[swarm]\n{peers}\n\n[[mirror]]\nname = \"{}\"\nimporters = [\"{}\"]\n{more}\n\
         and its pacman with this, above the other Server lines:\n\nServer = {gateway}/pacman/$repo/$arch",
        report.name, report.key
    )
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn clients_are_told_no_address_that_is_another_machine_there() {
        let all = [
            "/ip4/127.0.0.1/tcp/4001/p2p/a",
            "/ip6/::1/udp/4001/quic-v1/p2p/a",
            "/ip6/fe80::1/tcp/4001/p2p/a",
            "/ip4/192.168.1.7/tcp/4001/p2p/a",
            "/ip6/2001:db8::7/tcp/4001/p2p/a",
        ]
        .map(str::to_owned);
        assert_eq!(reachable(&all), [&all[3], &all[4]]);
        assert_eq!(reachable(&all[..2]), [&all[0], &all[1]], "better than none");
    }
}
