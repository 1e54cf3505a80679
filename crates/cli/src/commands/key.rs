//! `pacstore key`: the keys that sign mirrors.

use clap::Subcommand;
use pacstore_http::RotateRequest;
use pacstore_node::{KeyError, Keys, RotateError, Rotated};

use super::report;
use crate::context::{Context, Exit, Hinted};

/// Make, list, show or replace the keys that sign mirrors
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
    /// Hand a mirror over to a new key, along with everybody who follows the old one
    ///
    /// The new KEY is printed and its file takes the place of the old one: keep a copy of it. The old KEY's
    /// last record names the new one; clients follow it by themselves, remember that, and take nothing more
    /// from the old KEY. Restart nothing.
    Rotate {
        /// Its label
        label: String,
    },
}

/// Prints KEYs; exits 1 if a key cannot be made, read or replaced, and `list` then shows the others all the same.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let keys = Keys::new(ctx.home.state_dir());
    match args.what {
        What::New { label } => {
            ctx.home.enter()?;
            let key = keys.create(&label).map_err(hinted)?;
            show(ctx, &label, &key.name().to_string())?;
        }
        What::Show { label } => {
            let key = keys.load(&label).map_err(hinted)?;
            show(ctx, &label, &key.name().to_string())?;
        }
        What::Rotate { label } => rotate(ctx, label).await?,
        What::List => return list(ctx, &keys),
    }
    Ok(Exit::Done)
}

/// The good ones on stdout, what is wrong with another one on stderr.
fn list(ctx: &Context, keys: &Keys) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    let mut bad = Vec::new();
    for label in keys.labels().map_err(hinted)? {
        match keys.load(&label) {
            Ok(key) => all.push(serde_json::json!({ "label": label, "key": key.name().to_string() })),
            Err(error) => bad.push(hinted(error)),
        }
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
    for error in &bad {
        report(ctx, error);
    }
    Ok(if bad.is_empty() { Exit::Done } else { Exit::Failed })
}

async fn rotate(ctx: &Context, label: String) -> anyhow::Result<()> {
    let rotated: Rotated = if let Some(daemon) = ctx.daemon().await {
        daemon.post("/v1/key/rotate", &RotateRequest { label }).await?
    } else {
        let own = ctx.offline().await?;
        let rotated = own.node.rotate(&label).await;
        own.close().await;
        rotated.map_err(refused)?
    };
    ctx.out.data(&rotated, |rotated| rotated.key.clone())?;
    ctx.out.note(format!(
        "{} is signed with {} from now on; clients of {} follow by themselves.\n\
         Copy the key file `{}` to a safe place: it is another one now.",
        rotated.mirror,
        rotated.key,
        rotated.old,
        ctx.home
            .state_dir()
            .join(format!("keys/{}.key", rotated.label))
            .display()
    ));
    Ok(())
}

fn refused(error: RotateError) -> anyhow::Error {
    let hint = error.hint();
    anyhow::Error::from(error).context(Hinted {
        message: "the key is not rotated".to_owned(),
        hint,
    })
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
