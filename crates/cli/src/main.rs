//! `pacstore`: a pacman mirror that lives in the IPFS network.
//!
//! This binary reads arguments and the configuration, puts the node together, and
//! prints. Everything that decides lives in the crates below.

mod client;
mod commands;
mod config;
mod context;
mod files;
mod heap;
mod home;
mod listeners;
mod machine;
mod owner;
mod printer;
mod serving;
mod watchdog;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    heap::settle();
    let args = match commands::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to stdout and are no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    commands::run(args)
}
