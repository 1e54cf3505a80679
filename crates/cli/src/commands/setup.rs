//! `pacstore setup`: pacman asks us first, reversibly.
//!
//! Two files change: `pacstore.toml` learns the repositories and mirrors of this machine, and
//! pacman's configuration gets one server line for each repository, before its mirrors, which
//! stay: a pacman that does not reach us goes on to them.
//!
//! - Invariant: `--undo` leaves every byte as it was, save what others changed meanwhile.
//! - Read first: `docs/client.md`; `lines.rs` for where our lines stand and why.

mod change;
pub(crate) mod lines;
mod plan;
mod region;
pub(crate) mod repositories;
mod service;
mod signatures;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::json;

use self::lines::Way;
use self::plan::Plan;
use crate::context::{Context, Exit, Hinted};
use crate::machine::{Guess, Place, pacman_version};

/// Let this machine's pacman ask pacstore first, reversibly
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show what would change, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Take out what setup put in, and nothing else
    #[arg(long)]
    undo: bool,
    /// Be asked for packages only, databases come from the mirrors (pacman 6.1 and later)
    #[arg(long, conflicts_with = "undo")]
    cache_server: bool,
    /// pacman's configuration [default: `[pacman] config`, with --root ROOT/etc/pacman.conf]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the system is mounted that is to be set up
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Leave the service alone
    #[arg(long)]
    no_service: bool,
    /// The pacman whose version counts
    #[arg(long, value_name = "PROGRAM", default_value = "pacman", hide = true)]
    pacman: PathBuf,
}

/// Exits 0 also where there is nothing to change.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let (place, guess) = Place::or_configured(&args.root, args.config.as_deref(), &ctx.home)?;
    if let Some(Guess(error)) = guess {
        let hint = "mend the line, or name pacman's configuration: --config /etc/pacman.conf";
        let what = "which pacman.conf this machine uses is not known";
        return Err(anyhow::Error::from(error).context(Hinted::new(what, hint)));
    }
    let home = ctx.home.of_system(&place.root);
    if !place.conf.exists() {
        let hint = "name it with --config FILE, or the system with --root DIR";
        return Err(Hinted::new(format!("`{}` is not there", place.conf.display()), hint).into());
    }
    let way = if args.cache_server {
        Way::CacheServer
    } else {
        Way::Server
    };
    if way == Way::CacheServer {
        check_version(&args)?;
    }
    let made = async {
        let plan = if args.undo {
            plan::undo(&place, &home)?
        } else {
            plan::setup(&place, &home, way).await?
        };
        if !args.dry_run {
            make(&args, ctx, &plan, &place.root).await?;
        }
        Ok(plan)
    };
    let plan = made.await.map_err(with_remedy)?;
    say(&args, ctx, &plan)?;
    Ok(Exit::Done)
}

/// What to do where the system lets us not read or write.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    let causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    let hint = causes.map(io::Error::kind).find_map(|kind| match kind {
        ErrorKind::PermissionDenied if rustix::process::geteuid().is_root() => {
            Some("even root may not: `lsattr` shows whether it is immutable")
        }
        ErrorKind::PermissionDenied => Some("run it as root: sudo pacstore setup"),
        ErrorKind::ReadOnlyFilesystem => Some("mount that file system writable, then run it again"),
        ErrorKind::StorageFull => Some("make room there, then run it again"),
        _ => None,
    });
    match hint {
        Some(hint) => error.context(Hinted::new("setup stopped", hint)),
        None => error,
    }
}

/// Our configuration, then the service, then pacman's; the other way round when undoing.
async fn make(args: &Args, ctx: &Context, plan: &Plan, root: &Path) -> anyhow::Result<()> {
    if args.undo {
        plan.changes.iter().try_for_each(change::Change::make)?;
        if !args.no_service {
            service::disable(ctx, root).await;
        }
        return Ok(());
    }
    let (ours, pacmans): (Vec<_>, Vec<_>) = plan
        .changes
        .iter()
        .partition(|change| change.path.ends_with("pacstore.toml"));
    ours.iter().try_for_each(|change| change.make())?;
    if !args.no_service {
        service::enable(ctx, root).await;
    }
    pacmans.iter().try_for_each(|change| change.make())
}

fn check_version(args: &Args) -> anyhow::Result<()> {
    match pacman_version(&args.pacman) {
        Some(version) if version >= (6, 1) => Ok(()),
        Some((major, minor)) => Err(Hinted::new(
            format!("pacman {major}.{minor} does not know CacheServer"),
            "leave --cache-server out: as Server pacstore works with every version",
        )
        .into()),
        None => Err(Hinted::new(
            format!("`{}` does not tell its version", args.pacman.display()),
            "CacheServer needs pacman 6.1; leave --cache-server out",
        )
        .into()),
    }
}

fn say(args: &Args, ctx: &Context, plan: &Plan) -> anyhow::Result<()> {
    let files: Vec<_> = plan
        .changes
        .iter()
        .map(|change| json!({ "file": change.path, "what": change.what() }))
        .collect();
    let data = json!({
        "dry_run": args.dry_run,
        "changes": files,
        "repositories": plan.repositories,
        "left_alone": plan.left,
        "notes": plan.notes,
        "gateway": plan.port.map(|port| format!("http://127.0.0.1:{port}")),
    });
    ctx.out.data(&data, |_| text(args, plan))
}

fn text(args: &Args, plan: &Plan) -> String {
    let mut lines: Vec<String> = Vec::new();
    if args.dry_run {
        lines.extend(plan.changes.iter().map(change::Change::diff));
    }
    let width = plan.repositories.iter().map(|one| one.name.len());
    let width = width
        .chain(plan.left.iter().map(|one| one.name.len()))
        .max()
        .unwrap_or(0);
    for one in &plan.repositories {
        let who = if one.public {
            "public, peers are asked too"
        } else {
            "private, never leaves this machine"
        };
        let keys = if one.signatures {
            ", signatures checked"
        } else {
            ""
        };
        let mirrors = match one.upstreams.len() {
            1 => "1 mirror ".to_owned(),
            many => format!("{many} mirrors"),
        };
        lines.push(format!(
            "{:width$}  {}  {mirrors}  {who}{keys}",
            one.name, one.arch
        ));
    }
    for one in &plan.left {
        lines.push(format!("{:width$}  left alone: {}", one.name, one.why));
    }
    lines.extend(plan.notes.iter().cloned());
    for change in &plan.changes {
        let will = if args.dry_run { "would be " } else { "" };
        lines.push(format!("{} {will}{}", change.path.display(), change.what()));
    }
    if plan.changes.is_empty() {
        lines.push("nothing to change".to_owned());
    }
    lines.join("\n")
}
