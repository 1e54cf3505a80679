//! `pacstore demo`: placeholder until the whole way is in place.

use crate::context::{Context, Exit};

/// Show the whole way in one process
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_args: Args, _ctx: &Context) -> anyhow::Result<Exit> {
    anyhow::bail!("not built yet")
}
