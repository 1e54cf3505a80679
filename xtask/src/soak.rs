//! `cargo xtask soak`: long tests.

use anyhow::bail;

/// Which long test
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// kill
    name: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    bail!("there is no long test `{}`", args.name)
}
