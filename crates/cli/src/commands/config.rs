//! `pacstore config`: check, show and explain the configuration.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Subcommand;
use pacstore_node::config::Every;
use pacstore_node::{KeyError, Keys};
use serde_json::json;

use crate::config::{ConfigError, KEYS, Key, Set, as_text, in_force, reference};
use crate::context::{Context, Exit};

/// What may lie between two heads over the same tree beside `every`: half an hour, and the time that a round takes.
const CONFIRMED_WITHIN: Duration = Duration::from_mins(45);

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
    /// Print the configuration file, and what its presets stand for
    Show {
        /// Print every value in force with where it comes from: file and line, preset, or default
        #[arg(long)]
        origin: bool,
    },
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
            let loaded = ctx.config()?;
            let file = ctx.home.config_file();
            let exists = file.exists();
            let path = file.display().to_string();
            let warnings = odd(&loaded.node, ctx);
            for warning in &warnings {
                ctx.out.note(format!("warning: {warning}"));
            }
            let data = json!({ "file": path, "exists": exists, "ok": true, "warnings": warnings });
            let how = if exists {
                ": ok"
            } else {
                " does not exist; all defaults hold"
            };
            ctx.out.data(&data, |_| format!("{path}{how}"))?;
        }
        What::Show { origin } => show(origin, ctx)?,
        What::Reference => ctx.out.data(&keys(), |_| reference())?,
    }
    Ok(Exit::Done)
}

/// What can be used and is hardly meant.
fn odd(node: &pacstore_node::Config, ctx: &Context) -> Vec<String> {
    let keys = Keys::new(ctx.home.state_dir());
    let keyless = node.imports.iter().filter_map(|import| {
        // What this user may not read, the service's may.
        match keys.load(&import.key) {
            Err(error @ (KeyError::Missing { .. } | KeyError::Label(_))) => {
                let hint = error.hint().map_or_else(String::new, |hint| format!(": {hint}"));
                Some(format!("the daemon will not start: {error}{hint}"))
            }
            _ => None,
        }
    });
    let silent = node.imports.iter().filter(|_| !node.sharing.enable);
    let silent = silent.map(|import| {
        format!(
            "nobody can follow {}: with share.enable = false others get nothing from this node",
            import.name
        )
    });
    let refused = node.imports.iter().filter_map(|import| {
        let (Every::Period(every), Some(max_age)) = (import.every, import.max_age) else {
            return None;
        };
        (max_age < CONFIRMED_WITHIN + every + every / 10).then(|| {
            format!(
                "clients will refuse the databases of {} again and again: max_age is over before the next round says that they are still \
                 those of the source; write at least twice `every` and an hour, or \"0\" for never",
                import.name
            )
        })
    });
    let unread = node.imports.iter().filter_map(|import| {
        let error = pacstore_import::read_keyring(import.spec.keyring.as_ref()?).err()?;
        // What this user may not read, the service's may.
        (!error.is_denied()).then(|| {
            let (name, hint) = (
                &import.name,
                error.hint().map_or_else(String::new, |hint| format!(": {hint}")),
            );
            format!(
                "no round of {name} will end well: {}{hint}",
                pacstore_node::chain(&error)
            )
        })
    });
    keyless.chain(silent).chain(refused).chain(unread).collect()
}

fn show(origin: bool, ctx: &Context) -> anyhow::Result<()> {
    ctx.config()?;
    let path = ctx.home.config_file();
    let text = match fs_err::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            ctx.out.note(format!(
                "{} does not exist; all defaults hold (`pacstore config reference`)",
                path.display()
            ));
            if !origin {
                return Ok(());
            }
            String::new()
        }
        Err(error) => return Err(ConfigError::Read(path, error).into()),
    };
    let all = in_force(&path, &text)?;
    if origin {
        let one =
            |set: &Set| json!({ "key": set.path(), "value": set.value, "origin": set.origin.to_string() });
        let data: Vec<serde_json::Value> = all.iter().map(one).collect();
        return ctx.out.data(&data, |_| as_text(&all));
    }
    let table: toml::Table = text.parse()?;
    let preset: Vec<Set> = all.into_iter().filter(Set::is_of_preset).collect();
    let table = with(table, &preset);
    ctx.out.data(&table, |_| with_comments(&text, &preset))
}

/// The file's own table, with what its presets stand for.
fn with(mut table: toml::Table, preset: &[Set]) -> toml::Table {
    for set in preset {
        let imports = table.get_mut("import").and_then(toml::Value::as_array_mut);
        let import = imports.and_then(|all| all.get_mut(set.table)?.as_table_mut());
        if let Some(import) = import {
            import.insert(set.name.clone(), set.value.clone());
        }
    }
    table
}

/// The file's own text; what presets stand for follows as comments.
fn with_comments(text: &str, preset: &[Set]) -> String {
    let mut shown = text.trim_end().to_owned();
    for set in preset {
        let _ = write!(shown, "\n# {} = {}   # {}", set.path(), set.value, set.origin);
    }
    shown
}
