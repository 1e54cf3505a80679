//! `cargo xtask soak`: long tests, in release build, with their own words on the terminal.
//!
//! - Not here: the tests themselves (`kill.rs` of `cli`, `day/` of `node`, `year.rs` of `import`, `golden.rs` of `dag`, `many.rs` of `store`).

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
    /// A day of an importer of five mirrors with every fault, in simulated time
    Day {
        /// Repeat the schedule of a run that printed this seed
        #[arg(long)]
        seed: Option<u64>,
    },
    /// What takes minutes in a debug build: a file of 1 GiB against its published CID, 100,000 small files in one store
    Large,
    /// Import update after update, as a year of five-minute rounds would, and measure what that leaves behind
    Year {
        /// How many updates
        #[arg(default_value_t = 105_000, value_parser = value_parser!(u32).range(40..))]
        updates: u32,
        /// How many files the mirror has; each update changes 20 of them
        #[arg(long, default_value_t = 5_000, value_parser = value_parser!(u32).range(100..))]
        files: u32,
        /// Bytes of each file; packages have more, and each costs the index the same
        #[arg(long, default_value_t = 65_536, value_parser = value_parser!(u32).range(64..))]
        bytes: u32,
    },
}

/// Runs the test; what it prints goes straight to the terminal.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--quiet", "--release"]);
    match &args.test {
        Test::Kill { times, seed } => {
            cargo
                .args(["-p", "pacstore", "--test", "it", "kill::", "--", "--nocapture"])
                .env("PACSTORE_KILLS", times.to_string());
            if let Some(seed) = seed {
                cargo.env("PACSTORE_SEED", seed.to_string());
            }
        }
        Test::Day { seed } => {
            cargo.args(["-p", "pacstore-node", "--test", "it", "a_day_of_five_mirrors"]);
            cargo.args(["--", "--ignored", "--nocapture"]);
            if let Some(seed) = seed {
                cargo.env("PACSTORE_SEED", seed.to_string());
            }
        }
        Test::Large => {
            cargo.args(["-p", "pacstore-dag", "-p", "pacstore-store", "--test", "it"]);
            cargo.args(["--", "--ignored", "--nocapture"]);
        }
        Test::Year {
            updates,
            files,
            bytes,
        } => {
            cargo
                .args([
                    "-p",
                    "pacstore-import",
                    "--test",
                    "it",
                    "a_year_of_five_minute_rounds",
                ])
                .args(["--", "--ignored", "--nocapture"])
                .env("PACSTORE_YEAR", updates.to_string())
                .env("PACSTORE_YEAR_FILES", files.to_string())
                .env("PACSTORE_YEAR_BYTES", bytes.to_string())
                // As the program sets them for itself (`heap.rs` of `cli`).
                .env("MALLOC_ARENA_MAX", "2")
                .env("MALLOC_MMAP_THRESHOLD_", "1052672")
                .env("MALLOC_TRIM_THRESHOLD_", "2105344");
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = cargo.current_dir(root).status()?;
    ensure!(status.success(), "the test failed; what it printed says why");
    Ok(())
}
