//! The verbs, one file each, and what they have in common.
//!
//! - Invariant: exit 0 done, 1 failed, 2 usage, 3 nothing to do.

mod alert;
mod cid;
mod completions;
mod config;
mod daemon;
mod demo;
mod doctor;
mod fsck;
mod gc;
mod get;
mod heads;
mod id;
mod import;
mod init;
mod key;
mod man;
mod prefetch;
mod progress;
mod publish;
mod resolve;
mod setup;
mod status;
mod verify;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pacstore_upstream::HttpError;

use crate::context::{Context, Exit, Hinted, block_on};
use crate::home::Home;
use crate::listeners::HandedOver;
use crate::printer::Printer;

/// A pacman mirror that lives in the IPFS network
#[derive(Debug, Parser)]
#[command(name = "pacstore", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Put everything of this node under DIR
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Say more; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::Args),
    Daemon(daemon::Args),
    Init(init::Args),
    Import(import::Args),
    Publish(publish::Args),
    Setup(setup::Args),
    Doctor(doctor::Args),
    Status(status::Args),
    Cid(cid::Args),
    Resolve(resolve::Args),
    Get(get::Args),
    Verify(verify::Args),
    Heads(heads::Args),
    Alert(alert::Args),
    Id(id::Args),
    Key(key::Args),
    Config(config::Args),
    Gc(gc::Args),
    Fsck(fsck::Args),
    Prefetch(prefetch::Args),
    Why(why::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs what was asked and says how it ended.
pub(crate) fn run(args: Args) -> ExitCode {
    log_to_stderr(args.verbose, matches!(args.verb, Verb::Daemon(_)));
    let ctx = Context {
        home: Home::find(args.home),
        out: Printer::new(args.json),
    };
    let ended = match args.verb {
        Verb::Demo(args) => block_on(demo::run(args, &ctx)),
        Verb::Daemon(args) => {
            // Before the runtime opens anything.
            let sockets = HandedOver::take();
            block_on(daemon::run(args, &ctx, sockets))
        }
        Verb::Init(args) => init::run(args, &ctx),
        Verb::Import(args) => block_on(import::run(args, &ctx)),
        Verb::Publish(args) => block_on(publish::run(args, &ctx)),
        Verb::Setup(args) => block_on(setup::run(args, &ctx)),
        Verb::Doctor(args) => block_on(doctor::run(args, &ctx)),
        Verb::Status(args) => block_on(status::run(args, &ctx)),
        Verb::Cid(args) => cid::run(&args, &ctx),
        Verb::Resolve(args) => block_on(resolve::run(args, &ctx)),
        Verb::Get(args) => block_on(get::run(args, &ctx)),
        Verb::Verify(args) => block_on(verify::run(args, &ctx)),
        Verb::Heads(args) => block_on(heads::run(args, &ctx)),
        Verb::Alert(args) => block_on(alert::run(args, &ctx)),
        Verb::Id(args) => block_on(id::run(args, &ctx)),
        Verb::Key(args) => block_on(key::run(args, &ctx)),
        Verb::Config(args) => config::run(&args, &ctx),
        Verb::Gc(args) => block_on(gc::run(args, &ctx)),
        Verb::Fsck(args) => block_on(fsck::run(args, &ctx)),
        Verb::Prefetch(args) => block_on(prefetch::run(args, &ctx)),
        Verb::Why(args) => block_on(why::run(args, &ctx)),
        Verb::Completions(args) => Ok(completions::run(&args, &ctx)),
        Verb::Man(args) => man::run(args, &ctx),
    };
    match ended {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            report(&ctx, &error);
            ExitCode::from(Exit::Failed.code())
        }
    }
}

/// `error: what: why`, then `hint: what to do`.
pub(crate) fn report(ctx: &Context, error: &anyhow::Error) {
    let mut parts: Vec<String> = Vec::new();
    for part in error.chain().map(ToString::to_string) {
        if parts.last() != Some(&part) {
            parts.push(part);
        }
    }
    ctx.out.note(format!("error: {}", parts.join(": ")));
    // anyhow finds a context at any depth; what `chain` gives are wrappers of it.
    let hint = error
        .downcast_ref::<Hinted>()
        .and_then(|hinted| hinted.hint.clone())
        .or_else(|| connecting(error).map(str::to_owned));
    if let Some(hint) = hint {
        ctx.out.note(format!("hint: {hint}"));
    }
}

/// What can be done where a mirror cannot be reached, or its certificate is not good.
fn connecting(error: &anyhow::Error) -> Option<&'static str> {
    let mut http = error.chain().filter_map(|part| part.downcast_ref::<HttpError>());
    http.find(|error| matches!(error, HttpError::Connect { .. }))?
        .hint()
}

/// What is logged where `PACSTORE_LOG` does not say it. Of libp2p's crates errors alone: they warn of each stream that a
/// peer opens beyond a bound, and a peer can open thousands a second.
fn default_filter(verbose: u8, daemon: bool) -> &'static str {
    match (verbose, daemon) {
        (0, true) => "info,libp2p=error",
        (0, false) => "error",
        (1, _) => "info,libp2p=error,pacstore=debug,pacstore_node=debug",
        _ => "debug",
    }
}

fn log_to_stderr(verbose: u8, daemon: bool) {
    let default = default_filter(verbose, daemon);
    let filter = std::env::var("PACSTORE_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| default.into());
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written (a full disk, a pager that went away) is lost. To say so on the
        // same stderr would panic, in whatever was about to log: a download, say.
        .log_internal_errors(false)
        .with_ansi(colour);
    // Set once, at the start; a second call cannot happen.
    let _ = logging.try_init();
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn a_peer_cannot_fill_the_log_by_what_libp2p_warns_of() -> std::io::Result<()> {
        for verbose in [0, 1] {
            let mut log = tempfile::tempfile()?;
            let writer = std::sync::Mutex::new(log.try_clone()?);
            let logging = tracing_subscriber::fmt()
                .with_env_filter(default_filter(verbose, true))
                .with_writer(writer)
                .finish();
            tracing::subscriber::with_default(logging, || {
                tracing::warn!(target: "libp2p_request_response::handler", "Dropping inbound stream");
                tracing::info!(target: "libp2p_kad::behaviour", "Provider record not stored");
                tracing::error!(target: "libp2p_swarm::handler", "no handler");
                tracing::info!(target: "pacstore_net::task", "listening");
            });
            let mut text = String::new();
            log.rewind()?;
            log.read_to_string(&mut text)?;
            assert!(
                text.contains("no handler") && text.contains("listening"),
                "{text}"
            );
            assert_eq!(text.lines().count(), 2, "{text}");
        }
        Ok(())
    }
}
