//! `pacstore config`: check, show and explain the configuration.

use clap::Subcommand;
use serde_json::json;

use crate::config::{ConfigError, KEYS, Key, reference};
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

/// The reference for scripts; a default is TOML.
fn keys() -> Vec<serde_json::Value> {
    let one = |key: &Key| {
        json!({
            "key": format!("{}.{}", key.section, key.name),
            "default": key.default,
            "meaning": key.doc,
            "available": !key.later,
        })
    };
    KEYS.iter().map(one).collect()
}

/// Exits 1 if `check` finds something wrong.
pub(crate) fn run(args: &Args, ctx: &Context) -> anyhow::Result<Exit> {
    match args.what {
        What::Check => {
            ctx.config()?;
            let path = ctx.home.config_file().display().to_string();
            let data = json!({ "file": path, "ok": true });
            ctx.out.data(&data, |_| format!("{path}: ok"))?;
        }
        What::Show => {
            ctx.config()?;
            let path = ctx.home.config_file();
            match fs_err::read_to_string(&path) {
                Ok(text) => {
                    let table: toml::Table = text.parse()?;
                    ctx.out.data(&table, |_| text.trim_end().to_owned())?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    ctx.out.note(format!(
                        "{} does not exist; all defaults hold (`pacstore config reference`)",
                        path.display()
                    ));
                }
                Err(error) => return Err(ConfigError::Read(path, error).into()),
            }
        }
        What::Reference => ctx.out.data(&keys(), |_| reference())?,
    }
    Ok(Exit::Done)
}
