//! `pacstore key`: the keys that sign mirrors.

use clap::Subcommand;
use pacstore_node::{KeyError, Keys};

use crate::context::{Context, Exit, Hinted};

/// Make, list or show the keys that sign mirrors
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a key and print its KEY
    New {
        /// What to call it here
        label: String,
    },
    /// List labels and KEYs
    List,
    /// Print the KEY of a label
    Show {
        /// Its label
        label: String,
    },
}

/// Prints KEYs; exits 1 if a key cannot be made or read.
pub(crate) fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let keys = Keys::new(ctx.home.state_dir());
    match args.what {
        What::New { label } => {
            ctx.home.create()?;
            let key = keys.create(&label).map_err(hinted)?;
            show(ctx, &label, &key.name().to_string())?;
        }
        What::Show { label } => {
            let key = keys.load(&label).map_err(hinted)?;
            show(ctx, &label, &key.name().to_string())?;
        }
        What::List => {
            let mut all = Vec::new();
            for label in keys.labels().map_err(hinted)? {
                let key = keys.load(&label).map_err(hinted)?.name().to_string();
                all.push(serde_json::json!({ "label": label, "key": key }));
            }
            ctx.out.data(&all, |all| {
                let line = |one: &serde_json::Value| {
                    format!(
                        "{}\t{}",
                        one["label"].as_str().unwrap_or(""),
                        one["key"].as_str().unwrap_or("")
                    )
                };
                all.iter().map(line).collect::<Vec<_>>().join("\n")
            })?;
        }
    }
    Ok(Exit::Done)
}

fn show(ctx: &Context, label: &str, key: &str) -> anyhow::Result<()> {
    ctx.out
        .data(&serde_json::json!({ "label": label, "key": key }), |_| {
            key.to_owned()
        })
}

fn hinted(error: KeyError) -> anyhow::Error {
    let hint = error.hint();
    anyhow::Error::from(error).context(Hinted {
        message: "keys".to_owned(),
        hint,
    })
}
