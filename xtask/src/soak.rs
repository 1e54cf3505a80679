//! `cargo xtask soak`: long tests, in release build, with their own words on the terminal.
//!
//! - Not here: the tests themselves (`crates/cli/tests/it/kill.rs`).

use std::process::Command;

use anyhow::ensure;
use clap::{Subcommand, value_parser};

/// Which long test
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    test: Test,
}

#[derive(Debug, Subcommand)]
enum Test {
    /// Kill nodes with SIGKILL at random points of imports and of fetches
    Kill {
        /// How many times
        #[arg(default_value_t = 200, value_parser = value_parser!(u32).range(1..))]
        times: u32,
        /// Repeat the choices of a run that printed this seed
        #[arg(long)]
        seed: Option<u64>,
    },
}

/// Runs the test; what it prints goes straight to the terminal.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let Test::Kill { times, seed } = &args.test;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["test", "--release", "-p", "pacstore", "--test", "it"])
        .args(["kill::", "--", "--nocapture"])
        .env("PACSTORE_KILLS", times.to_string());
    if let Some(seed) = seed {
        cargo.env("PACSTORE_SEED", seed.to_string());
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = cargo.current_dir(root).status()?;
    ensure!(status.success(), "the test failed; its first lines say the seed");
    Ok(())
}
