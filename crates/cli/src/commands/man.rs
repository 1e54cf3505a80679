//! `pacstore man`: the manual pages, made from the help.

use std::path::PathBuf;

use clap::CommandFactory as _;

use crate::context::{Context, Exit};

/// Print the manual page, or write all pages into a directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write pacstore.1 and one page a verb into DIR
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints roff on stdout, or writes files.
pub(crate) fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let command = super::Args::command();
    if let Some(dir) = args.dir {
        fs_err::create_dir_all(&dir)?;
        clap_mangen::generate_to(command, &dir)?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        ctx.out.line(String::from_utf8_lossy(&page));
    }
    Ok(Exit::Done)
}
