//! `pacstore publish DIR`: publish a repository of one's own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pacstore_http::NameRequest;
use pacstore_node::config::ImportConfig;
use pacstore_node::{Outcome, RoundReport, Status};

use crate::commands::{import, init};
use crate::context::{Context, Exit, Hinted};

/// Publish the repository in a directory, as it is now
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory that holds REPO.db and its packages
    dir: PathBuf,
    /// The mirror's NAME
    #[arg(long)]
    name: String,
    /// Label of the key that signs; made if it is not there [default: the NAME]
    #[arg(long, value_name = "LABEL")]
    key: Option<String>,
    /// Only the peers of `swarm.peers` may have it
    #[arg(long)]
    private: bool,
}

/// Exits as `import --once`. The first time it adds an [[import]] to the configuration.
pub(crate) async fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let dir = fs_err::canonicalize(&args.dir)?;
    let loaded = ctx.config()?;
    let mut imports = loaded.node.imports.iter();
    let known = imports.find(|import| import.name.as_str().eq_ignore_ascii_case(&args.name));
    let daemon = ctx.daemon().await;
    if let Some(import) = known {
        of_this(import, &dir, ctx)?;
        as_asked(import, &args, ctx)?;
    } else {
        if daemon.is_some() {
            let hint =
                "stop the daemon, publish once, and start it again; from then on publishing goes through it";
            return Err(Hinted::new(
                format!("the running daemon does not know `{}` yet", args.name),
                hint,
            )
            .into());
        }
        let label = args.key.clone().unwrap_or_else(|| args.name.clone());
        add(&args, &dir, &label, ctx)?;
    }
    if let Some(daemon) = daemon {
        let request = NameRequest {
            name: args.name.clone(),
            fresh: false,
            accept: false,
        };
        let report: RoundReport = daemon.post("/v1/import", &request).await?;
        let status: Status = daemon.get("/v1/status").await?;
        import::show(ctx, &report)?;
        if report.outcome == Outcome::Published {
            import::tell_clients(ctx, &report, &status.addresses, status.gateway.as_deref())?;
        }
        return Ok(import::exit(&report));
    }
    let own = ctx.offline().await?;
    let found = own
        .node
        .import(&args.name)
        .context("the import that was just configured")?;
    let report = import::round(&own.node, &found).await;
    own.close().await;
    let report = report?;
    import::show(ctx, &report)?;
    if report.outcome == Outcome::Published {
        import::tell_clients(ctx, &report, &[], None)?;
    }
    Ok(import::exit(&report))
}

/// What is published under the NAME already must come from `dir`.
fn of_this(import: &ImportConfig, dir: &Path, ctx: &Context) -> anyhow::Result<()> {
    let from: Vec<String> = import.spec.from.iter().map(ToString::to_string).collect();
    if from
        .iter()
        .any(|from| fs_err::canonicalize(from).is_ok_and(|from| from == dir))
    {
        return Ok(());
    }
    let message = format!(
        "`{}` is imported from `{}`, not from `{}`",
        import.name,
        from.join("`, `"),
        dir.display()
    );
    let hint = format!(
        "publish it under another NAME, or change `from` in {}",
        ctx.home.config_file().display()
    );
    Err(Hinted::new(message, hint).into())
}

/// What is published under the NAME already stays as the configuration has it, so flags may not ask for something else.
fn as_asked(import: &ImportConfig, args: &Args, ctx: &Context) -> anyhow::Result<()> {
    let file = ctx.home.config_file();
    if args.private && import.public {
        let hint = format!(
            "write `public = false` in its [[import]] in {}; what others have of it already they keep",
            file.display()
        );
        return Err(Hinted::new(format!("`{}` is public", import.name), hint).into());
    }
    if let Some(label) = args.key.as_ref().filter(|label| **label != import.key) {
        let message = format!(
            "`{}` is signed by the key `{}`, not by `{label}`",
            import.name, import.key
        );
        let hint = format!(
            "another key is another name for clients: publish under another NAME, change `key` in {}, or see `pacstore key rotate`",
            file.display()
        );
        return Err(Hinted::new(message, hint).into());
    }
    Ok(())
}

fn add(args: &Args, dir: &Path, label: &str, ctx: &Context) -> anyhow::Result<()> {
    let text = dir
        .to_str()
        .context("the directory's name is no UTF-8, so the configuration cannot hold it")?;
    let quote = |text: &str| toml::Value::from(text).to_string();
    let block = format!(
        "\n[[import]]\nmirror = {}\nfrom = {}\nkey = {}\nevery = \"manual\"\nmax_age = \"0\"\npublic = {}\n",
        quote(&args.name),
        quote(text),
        quote(label),
        !args.private,
    );
    ctx.home.create()?;
    let before = init::read(&ctx.home.config_file())?;
    init::append_with_key(&ctx.home, before.as_deref(), &block, label)?;
    ctx.out.note(format!(
        "added an [[import]] to {}",
        ctx.home.config_file().display()
    ));
    Ok(())
}
