//! `pacstore config`: check, show and explain the configuration.

use clap::Subcommand;

use crate::config::{ConfigError, reference};
use crate::context::{Context, Exit};

/// Check, show or explain the configuration
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say whether the configuration can be used
    Check,
    /// Print the configuration file
    Show,
    /// Print every key with its default and meaning
    Reference,
}

/// Exits 1 if `check` finds something wrong.
pub(crate) fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    match args.what {
        What::Check => {
            ctx.config()?;
            ctx.out.line(format!("{}: ok", ctx.home.config_file().display()));
        }
        What::Show => {
            ctx.config()?;
            let path = ctx.home.config_file();
            match fs_err::read_to_string(&path) {
                Ok(text) => ctx.out.line(text.trim_end()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    ctx.out.note(format!(
                        "{} does not exist; all defaults hold (`pacstore config reference`)",
                        path.display()
                    ));
                }
                Err(error) => return Err(ConfigError::Read(path, error).into()),
            }
        }
        What::Reference => ctx.out.line(reference().trim_end()),
    }
    Ok(Exit::Done)
}
