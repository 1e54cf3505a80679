//! `cargo xtask bench`: measures, each as a ratio to an anchor of the same run.

use anyhow::bail;

/// Which benchmark
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// import, exchange, serve or tree
    name: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    bail!("there is no benchmark `{}`", args.name)
}
