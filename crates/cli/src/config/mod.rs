//! The one configuration file: read, checked, explained.
//!
//! [`load`] reads `pacstore.toml` and gives a [`Loaded`]: the node's typed configuration
//! and what only the command line needs (the gateway). Every error says which file, line
//! and key, and what to write instead.
//!
//! - Invariant: an unknown key is never ignored, and a key whose feature is not built yet
//!   is refused unless it has its default value.
//! - Not here: where the file lies (`crate::home`).
//! - Read first: `docs/configuration.md`.

mod build;
mod file;
mod machine;
mod origin;
mod preset;
mod repository;
mod schema;
mod service;
mod sharing;
#[cfg(test)]
mod tests;
mod values;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

pub(crate) use build::Loaded;
pub(crate) use origin::{Set, as_text, in_force};
pub(crate) use schema::{KEYS, Key, reference, sections};
pub(crate) use values::size;

use crate::home::Home;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read `{}`", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("{}:{line}: unknown {what} `{key}`{}", path.display(), nearest(.near.as_deref()))]
    Unknown {
        path: PathBuf,
        line: usize,
        what: &'static str,
        key: String,
        near: Option<String>,
    },
    #[error("{}{}: `{key}` is not available yet", path.display(), at(*line))]
    Later {
        path: PathBuf,
        line: Option<usize>,
        key: String,
    },
    #[error("{}{}: {key}: {message}", path.display(), at(*line))]
    Value {
        path: PathBuf,
        line: Option<usize>,
        key: String,
        message: String,
    },
}

fn nearest(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default()
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

/// Reads and checks the configuration of `home`; without a file all defaults hold.
///
/// # Errors
/// [`ConfigError`] names file, line and key.
pub(crate) fn load(home: &Home) -> Result<Loaded, ConfigError> {
    let path = home.config_file();
    let text = read(&path)?;
    parse(&path, &text, home)
}

/// Its text; none where there is no file.
fn read(path: &Path) -> Result<String, ConfigError> {
    match fs_err::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| ConfigError::Read(path.to_owned(), error)),
    }
}

/// What `[pacman] config` names, whatever else is wrong with the file; `None` where it names nothing.
///
/// # Errors
/// If the file cannot be read so far.
pub(crate) fn pacman_config(home: &Home) -> Result<Option<PathBuf>, ConfigError> {
    let path = home.config_file();
    match value(&path, "pacman", "config")? {
        None => Ok(None),
        Some(toml::Value::String(text)) if text.is_empty() => Ok(None),
        Some(toml::Value::String(text)) if text.starts_with('/') => Ok(Some(text.into())),
        Some(_) => Err(ConfigError::Value {
            path,
            line: None,
            key: "pacman.config".to_owned(),
            message: "write an absolute path".to_owned(),
        }),
    }
}

/// `[gateway] listen`, whatever else is wrong with the file; `None` where it cannot be read.
pub(crate) fn gateway_listen(home: &Home) -> Option<SocketAddr> {
    let listen = value(&home.config_file(), "gateway", "listen").ok()??;
    listen.as_str()?.parse().ok()
}

/// One value as it is written.
fn value(path: &Path, section: &str, key: &str) -> Result<Option<toml::Value>, ConfigError> {
    let text = read(path)?;
    let table: toml::Table = text.parse().map_err(|error| syntax(path, &text, &error))?;
    Ok(table.get(section).and_then(|section| section.get(key)).cloned())
}

/// Checks a configuration that is not in its file yet.
pub(crate) fn parse(path: &Path, text: &str, home: &Home) -> Result<Loaded, ConfigError> {
    let lines = Lines::of(path, text)?;
    // As it stands first, so that errors have their lines.
    let mut file: file::File = toml::from_str(text).map_err(|error| lines.other_kind(text, &error))?;
    if file.import.iter().any(|import| !import.preset.is_empty()) {
        let filled = origin::filled(text, &lines)?.try_into();
        file = filled.map_err(|error: toml::de::Error| syntax(path, text, &error))?;
    }
    build::build(file, &lines, home)
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_at(text, span.start)),
        message: error.message().to_owned(),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|b| **b == b'\n')
        .count()
        + 1
}

/// On which line each key stands that was written, e.g. `mirror.0.name`.
#[derive(Debug)]
pub(crate) struct Lines {
    path: PathBuf,
    keys: Vec<(String, usize)>,
    /// Where in the text the value of each key is.
    values: Vec<(String, &'static Key, Range<usize>)>,
}

impl Lines {
    fn of(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| syntax(path, text, &error))?;
        let mut found = Self {
            path: path.to_owned(),
            keys: Vec::new(),
            values: Vec::new(),
        };
        for (section, value) in table.get_ref() {
            let line = line_at(text, section.span().start);
            let name = section.get_ref().to_string();
            match value.get_ref() {
                DeValue::Table(keys) => {
                    found.check_section(&name, &name, line)?;
                    found.check_keys(&name, &name, keys, text)?;
                }
                DeValue::Array(items) => {
                    let listed = format!("[{name}]");
                    found.check_section(&name, &listed, line)?;
                    for (index, item) in items.iter().enumerate() {
                        let DeValue::Table(keys) = item.get_ref() else {
                            return Err(found.bad(&name, format!("write it as `[{listed}]`")));
                        };
                        let table = format!("{name}.{index}");
                        found.keys.push((table.clone(), line_at(text, item.span().start)));
                        found.check_keys(&table, &listed, keys, text)?;
                    }
                }
                _ => {
                    found.check_section(&name, &name, line)?;
                    return Err(found.bad(&name, format!("write it as `[{name}]`")));
                }
            }
        }
        Ok(found)
    }

    fn check_section(&mut self, name: &str, listed: &str, line: usize) -> Result<(), ConfigError> {
        self.keys.push((name.to_owned(), line));
        if sections().contains(&listed) {
            return Ok(());
        }
        if let Some(other) = sections()
            .into_iter()
            .find(|s| s.trim_matches(['[', ']']) == name)
        {
            let message = format!("write it as `[{other}]`");
            return Err(ConfigError::Value {
                path: self.path.clone(),
                line: Some(line),
                key: name.to_owned(),
                message,
            });
        }
        let known = sections().into_iter().map(|s| s.trim_matches(['[', ']']));
        let near = schema::nearest(name, known).map(str::to_owned);
        Err(ConfigError::Unknown {
            path: self.path.clone(),
            line,
            what: "section",
            key: name.to_owned(),
            near,
        })
    }

    fn check_keys(
        &mut self,
        prefix: &str,
        section: &str,
        keys: &DeTable<'_>,
        text: &str,
    ) -> Result<(), ConfigError> {
        for (key, value) in keys {
            let line = line_at(text, key.span().start);
            let name = key.get_ref();
            self.keys.push((format!("{prefix}.{name}"), line));
            let known = || KEYS.iter().filter(|known| known.section == section);
            if let Some(known) = known().find(|known| known.name == name.as_ref() || known.name == "*") {
                self.values
                    .push((format!("{prefix}.{name}"), known, value.span()));
                continue;
            }
            let near = schema::nearest(name, known().map(|known| known.name)).map(str::to_owned);
            let key = format!("{}.{name}", section.trim_matches(['[', ']']));
            return Err(ConfigError::Unknown {
                path: self.path.clone(),
                line,
                what: "key",
                key,
                near,
            });
        }
        Ok(())
    }

    fn line(&self, key: &str) -> Option<usize> {
        self.keys
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, line)| *line)
    }

    /// An error of the reader, which knows neither the key nor what may stand there.
    fn other_kind(&self, text: &str, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map(|span| span.start);
        let mut values = self.values.iter();
        match values.find(|(.., value)| at.is_some_and(|at| value.contains(&at))) {
            Some((path, key, value)) => {
                let raw = text.get(value.clone()).unwrap_or_default();
                self.bad(path, format!("write {}", key.kind(raw)))
            }
            None => syntax(&self.path, text, error),
        }
    }

    /// An error about the value of `key`.
    pub(crate) fn bad(&self, key: &str, message: impl std::fmt::Display) -> ConfigError {
        // Of a key that is missing the table is to be mended.
        let table = || self.line(key.rsplit_once('.')?.0);
        let line = self.line(key).or_else(table);
        ConfigError::Value {
            path: self.path.clone(),
            line,
            key: key.to_owned(),
            message: message.to_string(),
        }
    }

    /// `key` has a value whose feature is not built yet.
    pub(crate) fn later(&self, key: &str) -> ConfigError {
        ConfigError::Later {
            path: self.path.clone(),
            line: self.line(key),
            key: key.to_owned(),
        }
    }
}
