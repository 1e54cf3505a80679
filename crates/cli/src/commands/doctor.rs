//! `pacstore doctor`: what is wrong and how to mend it.
//!
//! - Invariant: looks only; works with no daemon, no configuration and no network.

mod judge;
mod probe;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde_json::json;

use self::judge::{Line, Verdict};
use crate::context::{Context, Exit};
use crate::machine::Place;

/// Test every link from pacman to the mirrors and say how to mend what is wrong
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// pacman's configuration [default: `[pacman] config`, with --root ROOT/etc/pacman.conf]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the system is mounted that is looked at
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The pacman whose version counts
    #[arg(long, value_name = "PROGRAM", default_value = "pacman", hide = true)]
    pacman: PathBuf,
}

/// Exits 1 if anything is bad; warnings alone are no failure.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let (place, guess) = Place::or_configured(&args.root, args.config.as_deref(), &ctx.home)?;
    let facts = probe::probe(ctx, &place, guess.as_ref(), &args.pacman).await;
    let lines = judge::judge(&facts);
    let worst = lines.iter().map(|line| line.verdict).max().unwrap_or(Verdict::Ok);
    let data = json!({ "verdict": worst, "links": lines });
    ctx.out.data(&data, |_| text(&lines))?;
    Ok(if worst == Verdict::Bad {
        Exit::Failed
    } else {
        Exit::Done
    })
}

fn text(lines: &[Line]) -> String {
    let mut out = Vec::new();
    for line in lines {
        let verdict = match line.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Bad => "BAD ",
        };
        out.push(format!("{verdict}  {:13}  {}", line.link, line.says));
        out.extend(line.fix.iter().map(|fix| format!("{:21}-> {fix}", "")));
    }
    out.join("\n")
}
