//! The configuration in force, key by key, and where each value comes from.
//!
//! - Invariant: what is shown, read again, is the same configuration.
//! - Not here: what the values mean (`super::build`).
//! - Read first: [`in_force`].

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::preset::{self, Preset};
use super::schema::{KEYS, Key, sections};
use super::{ConfigError, Lines};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody wrote it.
    Default,
    /// The `preset` of the same `[[import]]`.
    Preset(&'static str),
    /// The configuration file.
    Line(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// One value in force.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    /// `[gateway]` or `[[import]]`.
    pub(crate) section: String,
    /// Which table of that section, from 0.
    pub(crate) table: usize,
    /// The key's name.
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

impl Set {
    /// Whether a preset sets it.
    pub(crate) fn is_of_preset(&self) -> bool {
        matches!(self.origin, Origin::Preset(_))
    }

    /// `gateway.listen`, `import.0.from`.
    pub(crate) fn path(&self) -> String {
        let bare = self.section.trim_matches(['[', ']']);
        if self.section.starts_with("[[") {
            format!("{bare}.{}.{}", self.table, self.name)
        } else {
            format!("{bare}.{}", self.name)
        }
    }
}

/// Puts what presets stand for into the file as it was written.
pub(super) fn filled(text: &str, lines: &Lines) -> Result<Table, ConfigError> {
    let mut table = read(text, lines)?;
    for (at, import) in tables(&mut table, "import").enumerate() {
        if let Some(preset) = preset_of(import, at, lines)? {
            preset.fill(import);
        }
    }
    Ok(table)
}

fn read(text: &str, lines: &Lines) -> Result<Table, ConfigError> {
    text.parse()
        .map_err(|error: toml::de::Error| super::syntax(&lines.path, text, &error))
}

fn tables<'a>(table: &'a mut Table, name: &str) -> impl Iterator<Item = &'a mut Table> {
    let all = table.get_mut(name).and_then(Value::as_array_mut);
    all.into_iter().flatten().filter_map(Value::as_table_mut)
}

fn preset_of(import: &Table, at: usize, lines: &Lines) -> Result<Option<&'static Preset>, ConfigError> {
    let name = import.get("preset").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let known = preset::named(name);
    known
        .map(Some)
        .map_err(|message| lines.bad(&format!("import.{at}.preset"), message))
}

/// Every value in force, in the order of the reference; of `[[...]]` those that stand in the file.
pub(crate) fn in_force(path: &Path, text: &str) -> Result<Vec<Set>, ConfigError> {
    let lines = Lines::of(path, text)?;
    let mut table = read(text, &lines)?;
    let imports = tables(&mut table, "import").count();
    let mut found = Vec::new();
    for section in sections() {
        let bare = section.trim_matches(['[', ']']);
        if section == bare {
            let own = table.get(bare).and_then(Value::as_table).cloned();
            let own = own.unwrap_or_default();
            let of = Of {
                section: format!("[{bare}]"),
                table: 0,
                prefix: bare.to_owned(),
                preset: None,
            };
            of.values(section, &own, &own, (&lines, imports), &mut found);
            continue;
        }
        for (at, written) in tables(&mut table, bare).enumerate() {
            let preset = if bare == "import" {
                preset_of(written, at, &lines)?
            } else {
                None
            };
            let mut whole = written.clone();
            if let Some(preset) = preset {
                preset.fill(&mut whole);
            }
            let of = Of {
                section: format!("[{section}]"),
                table: at,
                prefix: format!("{bare}.{at}"),
                preset,
            };
            of.values(section, written, &whole, (&lines, imports), &mut found);
        }
    }
    Ok(found)
}

/// One table that is shown.
struct Of {
    section: String,
    table: usize,
    prefix: String,
    preset: Option<&'static Preset>,
}

impl Of {
    fn values(
        &self,
        section: &str,
        written: &Table,
        whole: &Table,
        (lines, imports): (&Lines, usize),
        found: &mut Vec<Set>,
    ) {
        let mut add = |name: &str, value: Value, origin| {
            found.push(Set {
                section: self.section.clone(),
                table: self.table,
                name: name.to_owned(),
                value,
                origin,
            });
        };
        let line = |name: &str| {
            let line = lines.line(&format!("{}.{name}", self.prefix));
            Origin::Line(lines.path.clone(), line.unwrap_or(1))
        };
        for key in KEYS.iter().filter(|key| key.section == section) {
            if key.name == "*" {
                for (name, value) in written {
                    add(name, value.clone(), line(name));
                }
            } else if let Some(value) = written.get(key.name) {
                add(key.name, value.clone(), line(key.name));
            } else if let (Some(value), Some(preset)) = (whole.get(key.name), self.preset) {
                add(key.name, value.clone(), Origin::Preset(preset.name));
            } else if let Some(value) = default_of(key, imports) {
                add(key.name, value, Origin::Default);
            }
        }
    }
}

/// The value of a key that nobody wrote; nothing for one that is needed.
fn default_of(key: &Key, imports: usize) -> Option<Value> {
    // The one default that depends on another key.
    if (key.section, key.name) == ("limits", "upload") && 0 < imports {
        return Some(Value::from("0"));
    }
    let table: Table = format!("value = {}", key.default).parse().ok()?;
    table.get("value").cloned()
}

/// As TOML, each value with its origin behind it.
pub(crate) fn as_text(all: &[Set]) -> String {
    let mut text = String::new();
    let mut at = None;
    for set in all {
        if at != Some((&set.section, set.table)) {
            let gap = if at.is_some() { "\n" } else { "" };
            let _ = writeln!(text, "{gap}{}", set.section);
            at = Some((&set.section, set.table));
        }
        let name = if set.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            set.name.clone()
        } else {
            Value::from(&*set.name).to_string()
        };
        let _ = writeln!(text, "{name} = {}   # {}", set.value, set.origin);
    }
    text.trim_end().to_owned()
}
