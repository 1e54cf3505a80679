//! `cargo xtask bench`: measures, each as a ratio to an anchor of the same run.
//!
//! The product is measured as it is shipped: the release binary, its nodes as processes
//! of their own, asked over their sockets. Machines differ and are noisy, so a figure
//! counts only beside its anchor, and both are taken in turn, several times.
//!
//! - Invariant: everything happens in a temporary directory and on the loopback
//!   interface; both are left as they were.
//! - Not here: what the figures should be and why (`docs/design/performance.md`).

mod client;
mod cold;
mod corpus;
mod exchange;
mod given;
mod import;
mod importer;
mod lab;
mod link;
mod machine;
mod serve;
mod table;
mod tree;
mod wire;
mod with_pacman;
mod world;

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;

/// Which benchmark
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is measured
    name: Name,
    /// Size of the corpus, in GB (10^9 bytes); `import` has 4.3, the wire rows of `importer` have 10
    #[arg(long)]
    gb: Option<f64>,
    /// Passes of each measurement; the median counts
    #[arg(long, default_value_t = 3)]
    passes: usize,
    /// Seconds of each pass of `serve`
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Files of the mirrors of `importer`
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// Seconds that the idle node of `client` is watched; what it writes once a start weighs more in a shorter time
    #[arg(long, default_value_t = 400)]
    idle: u64,
    /// Only this row of `importer` or `client`
    #[arg(long)]
    row: Option<String>,
    /// Where the temporary directory is made: a real disk with room for three times the corpus
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// The pacstore binary to measure; built in release mode when it is not given
    #[arg(long)]
    bin: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Name {
    /// What pacman gets through a node, beside what it gets without
    Client,
    /// Bytes a second through `pacstore import`
    Import,
    /// One large file, and 5,000 files, from node to node
    Exchange,
    /// What a round costs beside what changed: processor time, memory
    Importer,
    /// Requests a second of the gateway
    Serve,
    /// Changing 10 of 100,000 entries
    Tree,
}

/// Runs the benchmark, in a release build of this program.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        let again = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
            .args(std::env::args_os().skip(1))
            .status()?;
        ensure!(again.success(), "the benchmark failed");
        return Ok(());
    }
    machine::print();
    match args.name {
        Name::Client => given::run(args),
        Name::Import => import::run(args),
        Name::Exchange => exchange::run(args),
        Name::Importer => importer::run(args),
        Name::Serve => serve::run(args),
        Name::Tree => tree::run(args),
    }
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What people see.
#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn say(line: &str) {
    println!("{line}");
}
