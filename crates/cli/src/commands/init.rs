//! `pacstore init`: write a commented configuration from a few flags.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use pacstore_names::SigningKey;
use pacstore_node::{KeyError, Keys};

use crate::config::{Loaded, parse};
use crate::context::{Context, Exit, Hinted};
use crate::files::{Replacement, sync_folder};
use crate::home::Home;

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
    match args.role {
        Role::Importer(importer) => {
            let (loaded, key) = append_with_key(&ctx.home, before.as_deref(), &text, &importer.key)?;
            ctx.out.line(path.display());
            let mirror = loaded.node.imports.first().map(|import| import.name.to_string());
            ctx.out.note(format!(
                "its KEY is {}\nnext: pacstore import {} --once, then pacstore daemon",
                key.name(),
                mirror.unwrap_or_default()
            ));
        }
        Role::Client(_) => {
            Appended::check(&ctx.home, before.as_deref(), &text)?.put()?;
            ctx.out.line(path.display());
            ctx.out.note("next: pacstore daemon");
        }
    }
    Ok(Exit::Done)
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

/// Appends to the configuration, which is `before`, with the key `label` that it names.
///
/// The key is made, unless it is there, when nothing but the last step can fail: a stop leaves at most a key that
/// no configuration names, and the next run takes it. No configuration names a key that was never made.
pub(super) fn append_with_key(
    home: &Home,
    before: Option<&str>,
    block: &str,
    label: &str,
) -> anyhow::Result<(Loaded, SigningKey)> {
    let appended = Appended::check(home, before, block)?;
    let key = key_of(home, label)?;
    Ok((appended.put()?, key))
}

/// The key `label`, made if it is not there, by the user whose home it is; the configuration may be root's.
fn key_of(home: &Home, label: &str) -> anyhow::Result<SigningKey> {
    let keys = Keys::new(home.state_dir());
    home.as_owner(|| match keys.load(label) {
        Err(KeyError::Missing { .. }) => keys.create(label).context("cannot make the key"),
        other => other.context("cannot use the key"),
    })
}

/// A configuration with more at its end, checked and written beside the one that holds.
#[derive(Debug)]
struct Appended {
    loaded: Loaded,
    path: PathBuf,
    new: Replacement,
}

impl Appended {
    /// One that cannot be used, or not be written, is refused here.
    fn check(home: &Home, before: Option<&str>, block: &str) -> anyhow::Result<Self> {
        let text = format!("{}{block}", before.unwrap_or_default());
        let path = home.config_file();
        let loaded = parse(&path, &text, home)?;
        // A link to another place stays a link.
        let path = fs_err::canonicalize(&path).unwrap_or(path);
        let new = Replacement::write(&path, text.as_bytes(), home.config_mode())?;
        Ok(Self { loaded, path, new })
    }

    /// It holds from here on, whole or not at all.
    fn put(self) -> anyhow::Result<Loaded> {
        self.new.put()?;
        sync_folder(&self.path)?;
        Ok(self.loaded)
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

    /// A kill leaves the file beside the configuration, which nobody removes.
    fn killed(appended: Appended) {
        std::mem::forget(appended);
    }

    #[test]
    fn after_a_stop_at_any_step_the_same_again_succeeds_with_the_same_key() {
        let before = "# mine\n";
        let block = "[[import]]\nmirror = \"a.b\"\nfrom = \"/srv\"\nkey = \"signs\"\n";
        for steps in 1..=3 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let home = Home::at(dir.path().join("home"));
            home.create().expect("a home");
            std::fs::write(home.config_file(), before).expect("a configuration");
            let mut made = None;

            let appended = Appended::check(&home, Some(before), block).expect("a good block");
            if 1 < steps {
                made = Some(key_of(&home, "signs").expect("a key").name());
            }
            if 2 < steps {
                appended.put().expect("a new configuration");
            } else {
                killed(appended);
            }

            let text = read(&home.config_file()).expect("readable").expect("there");
            let loaded = parse(&home.config_file(), &text, &home).expect("usable at every moment");
            let keys = Keys::new(home.state_dir());
            for import in &loaded.node.imports {
                keys.load(&import.key)
                    .expect("no configuration names a key that is missing");
            }
            if steps < 3 {
                assert_eq!(text, before);
                let (_, key) = append_with_key(&home, Some(&text), block, "signs").expect("the same again");
                assert_eq!(
                    made.unwrap_or(key.name()),
                    key.name(),
                    "the key that was made is taken again"
                );
            }
            let text = read(&home.config_file()).expect("readable").expect("there");
            assert_eq!(text, format!("{before}{block}"));
            assert_eq!(keys.labels().expect("labels"), ["signs"]);
        }
    }
}
