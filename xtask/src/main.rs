//! `cargo xtask`: the few jobs of this house that are no test and no product.

mod bench;
mod ci;
mod soak;
mod tidy;

use clap::{Parser, Subcommand};

/// Jobs of the pacstore house
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Run exactly what CI runs
    Ci,
    /// Check layer edges, headers, file sizes
    Tidy,
    /// Run a benchmark and print its ratio to an anchor of the same run
    Bench(bench::Args),
    /// Run a long test
    Soak(soak::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().job {
        Job::Ci => ci::run(),
        Job::Tidy => tidy::run(),
        Job::Bench(args) => bench::run(&args),
        Job::Soak(args) => soak::run(&args),
    }
}
