//! `pacstore demo`: the whole way in one process, in a throw-away directory.
//!
//! An ordinary mirror with a signed repository, an importer that publishes it, a client
//! that follows and serves it, an update, a dead importer: all real, all on 127.0.0.1,
//! each node with a home and a configuration as a user's.
//!
//! - Invariant: nothing but the directory and ports of 127.0.0.1 is touched; at the end,
//!   also after Ctrl-C, a closed terminal or a closed stdout, everything is stopped and the directory is gone.
//! - Invariant: exit 0 only if every check held.
//! - Read first: `demo/steps.rs`.

mod client;
mod fallback;
mod fetching;
mod line;
mod machine;
mod pacman;
mod report;
mod repository;
mod stage;
mod steps;
mod upstream;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::context::{Context, Exit};
use report::{Lost, Say};
use stage::Stage;

/// Show the whole way in one process: mirror, importer, peer, gateway, pacman
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave the nodes running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Use this repository instead of a made one: the URL or folder that holds NAME.db
    #[arg(long, value_name = "URL|DIR", requires = "repo")]
    upstream: Option<String>,
    /// The repository's name, such as core
    #[arg(long, value_name = "NAME", requires = "upstream")]
    repo: Option<String>,
}

/// Exits 0 if every check held, else 1. With `--json` a summary is printed either way.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    // First of all: what comes before they are heard ends the process where it stands.
    let mut signals = Signals::hear()?;
    let dir = tempfile::Builder::new().prefix("pacstore-demo-").tempdir();
    let dir = dir.context("cannot make a directory for the demo")?;
    let repo = args.repo.as_deref().unwrap_or(repository::NAME);
    let mut stage = Stage::new(dir.path(), repo);
    let mut say = Say::new(ctx);
    let lost = say.lost.clone();
    say.line(&format!(
        "pacstore demo: two nodes and an ordinary mirror on 127.0.0.1, in {}\n",
        dir.path().display()
    ));
    let ended = Box::pin(signals.until_any(steps::play(&args, &mut stage, &mut say), &lost)).await;
    let kept = match &ended {
        Ok(()) => closing(&args, &mut stage, &say).await,
        Err(_) => Ok(()),
    };
    say.end(&ended)?;
    let kept = match stage.client.serving() {
        Ok(serving) if args.keep && ended.is_ok() && kept.is_ok() => {
            tokio::select! {
                kept = serving.wait(crate::serving::Signals::hear()?) => kept,
                () = signals.terminal_closed() => Ok(()),
                () = lost.happens() => Ok(()),
            }
        }
        _ => kept,
    };
    stage.clear().await;
    drop(stage);
    let removed = remove(dir).await;
    removed.context("cannot remove the demo's directory")?;
    if let Some(error) = lost.take() {
        ctx.out.leave(&error);
    }
    ended.and(kept).map(|()| Exit::Done)
}

/// Removes the demo's directory. Work that cannot be interrupted, such as packing the sample, writes there to its end.
async fn remove(dir: tempfile::TempDir) -> std::io::Result<()> {
    let path = dir.keep();
    let mut tries = 0;
    loop {
        let removed = fs_err::remove_dir_all(&path);
        tokio::time::sleep(AGAIN).await;
        tries += 1;
        match removed {
            // It was there again meanwhile, or still is.
            _ if tries < TRIES && path.exists() => {}
            Err(error) if path.exists() => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Between two tries to remove the directory.
const AGAIN: Duration = Duration::from_millis(100);
/// How often that is tried: for 30 s.
const TRIES: u32 = 300;

/// What says that somebody has enough of it.
#[derive(Debug)]
struct Signals {
    int: Signal,
    term: Signal,
    /// None where it is ignored: who says `nohup` means it.
    hangup: Option<Signal>,
}

impl Signals {
    fn hear() -> std::io::Result<Self> {
        let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = (!ignores_hangup(&status)).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hangup: hangup.transpose()?,
        })
    }

    /// Runs `work` until it ends, somebody has enough of it, or nobody is there any more to read what it says.
    async fn until_any(
        &mut self,
        work: impl Future<Output = anyhow::Result<()>>,
        lost: &Lost,
    ) -> anyhow::Result<()> {
        let Self { int, term, hangup } = self;
        tokio::select! {
            ended = work => ended,
            _ = int.recv() => bail!("interrupted"),
            _ = term.recv() => bail!("stopped"),
            () = heard(hangup) => bail!("the terminal was closed"),
            () = lost.happens() => bail!("nobody reads this any more"),
        }
    }

    async fn terminal_closed(&mut self) {
        heard(&mut self.hangup).await;
    }
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}

/// By `/proc/PID/status`: the mask of ignored signals has one bit a signal, SIGHUP's is the lowest.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

/// The lines for pacman.conf; with `--keep` node 1 comes back first.
async fn closing(args: &Args, stage: &mut Stage, say: &Say<'_>) -> anyhow::Result<()> {
    let server = if args.keep {
        if stage.importer.node().is_err() {
            stage.importer.start().await?;
            let address = stage.importer.swarm().await?;
            let line = stage.line()?;
            line.set_target(address);
        }
        stage.line()?.set_rate(None);
        stage.server()?
    } else {
        "Server = http://127.0.0.1:8080/pacman/$repo/$arch".to_owned()
    };
    let mut lines = format!("\nFor pacman.conf:\n\n[{}]\n{server}\n", stage.repo);
    if let (true, Some(stage::From::Sample(sample))) = (args.keep, &stage.from) {
        let path = stage.dir.join("demo.gpg");
        fs_err::write(&path, sample.public_key().0)?;
        let path = path.display();
        let _ = writeln!(
            lines,
            "\nThe key of this repository, for `pacman-key --add`: {path}"
        );
    }
    say.line(&lines);
    say.line(if args.keep {
        "Both nodes run on until Ctrl-C."
    } else {
        "The nodes of the demo are stopped now (--keep leaves them running); `pacstore init importer` and\n\
         `pacstore init client` write the configuration of real ones, whose gateway has port 8080."
    });
    Ok(())
}
