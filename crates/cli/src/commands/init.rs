//! `pacstore init`: write a commented configuration from a few flags.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use clap::Subcommand;
use pacstore_names::SigningKey;
use pacstore_node::{KeyError, Keys};

use crate::config::{Loaded, load};
use crate::context::{Context, Exit, Hinted};
use crate::files::{replace, sync_folder};

/// Write a commented configuration
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// For a node that turns an ordinary mirror into a published one
    Importer(Importer),
    /// For a node that follows mirrors and serves this machine's pacman
    Client(Client),
}

#[derive(Debug, clap::Args)]
struct Importer {
    /// The mirror's NAME, such as arch.example.org; a preset has one
    #[arg(long, required_unless_present = "preset")]
    name: Option<String>,
    /// Where to read from: rsync://, http(s)://, or an absolute directory; several in order of preference; a preset has some
    #[arg(long, value_name = "URL|DIR", required_unless_present = "preset")]
    from: Vec<String>,
    /// A known distribution: arch, endeavouros, manjaro, manjaro-arm, alhp or chaotic-aur
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Label of the key that signs; made if it is not there
    #[arg(long, value_name = "LABEL", default_value = "importer")]
    key: String,
    /// archlinux or plain [default: the preset's, else plain]
    #[arg(long)]
    layout: Option<String>,
    /// A repository, such as core/os/x86_64/core; several; all that are found without it
    #[arg(long = "repository", value_name = "FOLDER/NAME")]
    repositories: Vec<String>,
    /// Only the peers of `swarm.peers` may have it
    #[arg(long)]
    private: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Client {
    /// A mirror's NAME
    #[arg(long)]
    name: String,
    /// A KEY (k51...) that is trusted for it; several
    #[arg(long = "importer", value_name = "KEY")]
    importers: Vec<String>,
    /// An ordinary mirror of the same files; several
    #[arg(long = "upstream", value_name = "URL")]
    upstreams: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Address and port of the gateway
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    gateway: String,
    /// A multiaddr to listen on; several
    #[arg(long = "listen", value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// A peer that stays connected (multiaddr with /p2p/ID); several
    #[arg(long = "peer", value_name = "MULTIADDR")]
    peers: Vec<String>,
    /// Do not join the public network: no bootstrap peers
    #[arg(long)]
    offline: bool,
}

/// Refuses to change a configuration that says anything; behind comments alone, as the package brings them, it writes.
pub(crate) fn run(args: Args, ctx: &Context) -> anyhow::Result<Exit> {
    let path = ctx.home.config_file();
    let before = read(&path)?;
    let said = before.as_deref().unwrap_or_default().parse::<toml::Table>();
    if !said.is_ok_and(|said| said.is_empty()) {
        let hint = "edit it, or name another home with --home";
        return Err(Hinted::new(format!("`{}` is there already", path.display()), hint).into());
    }
    ctx.home.create()?;
    let text = match &args.role {
        Role::Importer(importer) => importer_text(importer),
        Role::Client(client) => client_text(client),
    };
    let loaded = append(ctx, before, &text)?;
    ctx.out.line(path.display());
    match args.role {
        Role::Importer(importer) => {
            let key = key_of(ctx, &importer.key)?;
            let mirror = loaded.node.imports.first().map(|import| import.name.to_string());
            ctx.out.note(format!(
                "its KEY is {}\nnext: pacstore import {} --once, then pacstore daemon",
                key.name(),
                mirror.unwrap_or_default()
            ));
        }
        Role::Client(_) => ctx.out.note("next: pacstore daemon"),
    }
    Ok(Exit::Done)
}

/// The key `label`, made if it is not there; from here on nothing is done as root on the home of another.
pub(super) fn key_of(ctx: &Context, label: &str) -> anyhow::Result<SigningKey> {
    ctx.home.enter()?;
    let keys = Keys::new(ctx.home.state_dir());
    match keys.load(label) {
        Err(KeyError::Missing { .. }) => keys.create(label).context("cannot make the key"),
        other => other.context("cannot use the key"),
    }
}

fn importer_text(importer: &Importer) -> String {
    let mut text = common_text(&importer.common);
    text.push_str("\n[[import]]\n");
    if let Some(preset) = &importer.preset {
        let _ = writeln!(text, "preset = {}", quote(preset));
    }
    if let Some(name) = &importer.name {
        let _ = writeln!(text, "mirror = {}", quote(name));
    }
    if !importer.from.is_empty() {
        let _ = writeln!(text, "from = {}", list(&importer.from));
    }
    let _ = writeln!(text, "key = {}", quote(&importer.key));
    let layout = importer.layout.as_deref();
    if let Some(layout) = layout.or(importer.preset.is_none().then_some("plain")) {
        let _ = writeln!(text, "layout = {}", quote(layout));
    }
    if !importer.repositories.is_empty() {
        let _ = writeln!(text, "repositories = {}", list(&importer.repositories));
    }
    text.push_str("every = \"60s\"                        # or \"manual\"\n");
    if importer.private {
        text.push_str("public = false\n");
    }
    text
}

fn client_text(client: &Client) -> String {
    let mut text = common_text(&client.common);
    text.push_str("\n[[mirror]]\n");
    let _ = writeln!(text, "name = {}", quote(&client.name));
    let _ = writeln!(text, "importers = {}", list(&client.importers));
    let _ = writeln!(
        text,
        "upstreams = {}           # ordinary mirrors, for what peers do not give",
        list(&client.upstreams)
    );
    text
}

fn common_text(common: &Common) -> String {
    let mut text = String::from("# Every key with its default: pacstore config reference\n\n[gateway]\n");
    let _ = writeln!(text, "listen = {}\n\n[swarm]", quote(&common.gateway));
    if !common.listen.is_empty() {
        let _ = writeln!(text, "listen = {}", list(&common.listen));
    }
    if common.offline {
        text.push_str("bootstrap = []\n");
    }
    let _ = writeln!(
        text,
        "peers = {}                       # multiaddrs with /p2p/ID that stay connected",
        list(&common.peers)
    );
    text
}

/// The configuration's text; nothing if it is not there.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs_err::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Appends to the configuration, which is `before`, whole or not at all. One that cannot be used is not left behind.
pub(super) fn append(ctx: &Context, before: Option<String>, block: &str) -> anyhow::Result<Loaded> {
    let (path, mode) = (ctx.home.config_file(), ctx.home.config_mode());
    // A link to another place stays a link.
    let path = fs_err::canonicalize(&path).unwrap_or(path);
    let text = format!("{}{block}", before.as_deref().unwrap_or_default());
    replace(&path, text.as_bytes(), mode)?;
    match load(&ctx.home) {
        Ok(loaded) => {
            sync_folder(&path)?;
            Ok(loaded)
        }
        Err(error) => {
            match before {
                Some(before) => replace(&path, before.as_bytes(), mode)?,
                None => fs_err::remove_file(&path)?,
            }
            Err(error.into())
        }
    }
}

fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(items: &[String]) -> String {
    format!(
        "[{}]",
        items
            .iter()
            .map(|item| quote(item))
            .collect::<Vec<_>>()
            .join(", ")
    )
}

/// So that the reference and what is written here cannot drift apart unseen.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::reference;

    #[test]
    fn every_key_that_is_written_is_in_the_reference() {
        let common = Common {
            gateway: "127.0.0.1:0".into(),
            listen: vec!["x".into()],
            peers: vec![],
            offline: true,
        };
        let text = client_text(&Client {
            name: "a.b".into(),
            importers: vec![],
            upstreams: vec![],
            common,
        });
        let reference = reference();
        for line in text.lines().filter(|line| line.contains(" = ")) {
            let key = line.split(" = ").next().unwrap_or_default();
            assert!(reference.contains(&format!("# {key} = ")), "{key}");
        }
    }
}
