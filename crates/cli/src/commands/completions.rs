//! `pacstore completions`: shell completions on stdout.

use clap::CommandFactory as _;

use crate::context::{Context, Exit};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the completion script.
pub(crate) fn run(args: &Args, ctx: &Context) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Args::command(), "pacstore", &mut script);
    ctx.out.line(String::from_utf8_lossy(&script).trim_end());
    Exit::Done
}
