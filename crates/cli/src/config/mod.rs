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
mod values;

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
    let text = match fs_err::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(ConfigError::Read(path, error)),
    };
    parse(&path, &text, home)
}

/// Checks a configuration that is not in its file yet.
pub(crate) fn parse(path: &Path, text: &str, home: &Home) -> Result<Loaded, ConfigError> {
    let lines = Lines::of(path, text)?;
    // As it stands first, so that errors have their lines.
    let mut file: file::File = toml::from_str(text).map_err(|error| lines.syntax(text, &error))?;
    if file.import.iter().any(|import| !import.preset.is_empty()) {
        let filled = origin::filled(text, &lines)?.try_into();
        file = filled.map_err(|error: toml::de::Error| lines.syntax(text, &error))?;
    }
    build::build(file, &lines, home)
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
    lines: Vec<(String, usize)>,
}

impl Lines {
    fn of(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_at(text, span.start)),
            message: error.message().to_owned(),
        })?;
        let mut found = Self {
            path: path.to_owned(),
            lines: Vec::new(),
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
                        if let DeValue::Table(keys) = item.get_ref() {
                            found.check_keys(&format!("{name}.{index}"), &listed, keys, text)?;
                        }
                    }
                }
                _ => found.check_section(&name, &name, line)?,
            }
        }
        Ok(found)
    }

    fn check_section(&mut self, name: &str, listed: &str, line: usize) -> Result<(), ConfigError> {
        self.lines.push((name.to_owned(), line));
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
        for (key, _) in keys {
            let line = line_at(text, key.span().start);
            let name = key.get_ref();
            self.lines.push((format!("{prefix}.{name}"), line));
            let known = || {
                KEYS.iter()
                    .filter(|known| known.section == section)
                    .map(|known| known.name)
            };
            if known().any(|known| known == name.as_ref() || known == "*") {
                continue;
            }
            let near = schema::nearest(name, known()).map(str::to_owned);
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
        self.lines
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, line)| *line)
    }

    fn syntax(&self, text: &str, error: &toml::de::Error) -> ConfigError {
        ConfigError::Syntax {
            path: self.path.clone(),
            line: error.span().map_or(1, |span| line_at(text, span.start)),
            message: error.message().to_owned(),
        }
    }

    /// An error about the value of `key`.
    pub(crate) fn bad(&self, key: &str, message: impl std::fmt::Display) -> ConfigError {
        let line = self.line(key);
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

#[cfg(test)]
mod tests {
    use pacstore_import::StampSource;
    use pacstore_names::Layout;

    use super::*;

    fn loaded(text: &str) -> Result<Loaded, ConfigError> {
        let home = Home::at(PathBuf::from("/nowhere"));
        parse(Path::new("pacstore.toml"), text, &home)
    }

    fn message(text: &str) -> String {
        loaded(text).expect_err("a bad configuration").to_string()
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let loaded = loaded("").expect("defaults");
        assert_eq!(loaded.gateway.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(loaded.node.max_size, 10_000_000_000);
        let sharing = &loaded.node.sharing;
        assert_eq!((sharing.enable, sharing.rate), (true, Some(4_000_000)));
        assert_eq!((sharing.month, sharing.hours), (None, None));
        assert_eq!(loaded.node.swarm.strangers, 160);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
        let text = "[gateway]\nlisten = \"127.0.0.1:0\"\nhost = [\"x\"]\n";
        assert_eq!(
            message(text),
            "pacstore.toml:3: unknown key `gateway.host`; did you mean `hosts`?"
        );
        assert_eq!(
            message("[gatewya]\n"),
            "pacstore.toml:1: unknown section `gatewya`; did you mean `gateway`?"
        );
        assert_eq!(
            message("\n[mirror]\nname = \"a.b\"\n"),
            "pacstore.toml:2: mirror: write it as `[[mirror]]`"
        );
    }

    #[test]
    fn what_is_not_built_yet_is_refused_unless_it_is_the_default() {
        assert_eq!(
            message("[[mirror]]\nname = \"a.b\"\nkeyring = \"/etc/keys\"\n"),
            "pacstore.toml:3: `mirror.0.keyring` is not available yet"
        );
        assert!(loaded("[[mirror]]\nname = \"a.b\"\nkeyring = \"\"\n").is_ok());
    }

    #[test]
    fn each_preset_can_be_imported_with_a_key_alone() {
        for preset in preset::PRESETS {
            let text = format!("[[import]]\npreset = \"{}\"\nkey = \"a\"\n", preset.name);
            let loaded = loaded(&text).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
            let spec = &loaded.node.imports[0].spec;
            assert!(1 < spec.from.len());
            assert!(spec.from.iter().all(|source| spec.stamp_of(source).is_some()));
        }
    }

    #[test]
    fn an_unknown_preset_is_refused_with_its_line_and_the_nearest_one() {
        let text = "[[import]]\nkey = \"a\"\npreset = \"manjro\"\n";
        let message = message(text);
        assert!(
            message.starts_with(
                "pacstore.toml:3: import.0.preset: no preset is called `manjro`; did you mean `manjaro`?"
            ),
            "{message}"
        );
    }

    #[test]
    fn a_stamp_that_is_none_is_refused() {
        let text = |line: &str| {
            format!("[[import]]\nmirror = \"a.b\"\nkey = \"a\"\nfrom = \"http://a.example/\"\n{line}\n")
        };
        for stamp in ["http://", "ftp://a.example/x", "https:///", "../x", "a//b", "/"] {
            let said = message(&text(&format!("stamp = \"{stamp}\"")));
            let want = "pacstore.toml:5: import.0.stamp: write a path below";
            assert!(said.contains(want), "{stamp}: {said}");
        }
        loaded(&text("stamp = \"/a/b\"")).expect("a path");
    }

    #[test]
    fn several_stamps_are_those_of_the_upstreams_in_their_order() {
        let text = |stamps: &str| {
            format!(
                "[[import]]\nmirror = \"a.b\"\nkey = \"a\"\n\
                 from = [\"http://a.example/\", \"http://b.example/\"]\nstamp = {stamps}\n"
            )
        };
        let loaded = loaded(&text("[\"http://c.example/stamp\", \"state\"]")).expect("one each");
        let spec = &loaded.node.imports[0].spec;
        let stamp = |at: usize| spec.stamp_of(&spec.from[at]).cloned();
        assert_eq!(stamp(1), Some(StampSource::Path("state".into())));
        assert!(matches!(stamp(0), Some(StampSource::Url(url)) if url.path() == "/stamp"));
        let three = message(&text("[\"a\", \"b\", \"c\"]"));
        assert!(
            three.contains("pacstore.toml:5: import.0.stamp: write one for all"),
            "{three}"
        );
    }

    #[test]
    fn the_layout_of_an_import_is_its_mirrors_also_before_there_is_a_head() {
        let import = "[[import]]\nmirror = \"a.b\"\nkey = \"a\"\nfrom = \"/srv/a\"\n";
        let mirror = "[[mirror]]\nname = \"a.b\"\nupstreams = [\"http://a.example/\"]\n";
        for (text, layout) in [
            (mirror.to_owned(), Layout::Archlinux),
            (format!("{mirror}{import}"), Layout::Plain),
            (
                format!("{mirror}{import}layout = \"archlinux\"\n"),
                Layout::Archlinux,
            ),
            (format!("{mirror}layout = \"plain\"\n"), Layout::Plain),
        ] {
            let loaded = loaded(&text).expect("a configuration");
            assert_eq!(loaded.node.mirrors[0].layout, layout, "{text}");
        }
    }

    #[test]
    fn an_import_takes_a_keyring_and_how_long_it_holds() {
        let text =
            |more: &str| format!("[[import]]\nmirror = \"a.b\"\nfrom = \"/srv/a\"\nkey = \"a\"\n{more}");
        let import = loaded(&text("keyring = \"/etc/pacman.d/gnupg\"\nhold = \"30m\"\n")).expect("a keyring");
        let spec = &import.node.imports[0].spec;
        assert_eq!(spec.keyring.as_deref(), Some(Path::new("/etc/pacman.d/gnupg")));
        assert_eq!(spec.hold.as_secs(), 1800);
        assert!(
            message(&text("keyring = \"keys\"\n"))
                .contains("pacstore.toml:5: import.0.keyring: `keys` is no absolute path")
        );
        let unknown = "repositories = [\"core\"]\natomic = [[\"core\", \"extra\"]]\n";
        assert!(message(&text(unknown)).contains("import.0.atomic: `extra` is none of the `repositories`"));
    }

    #[test]
    fn what_others_get_has_its_limits() {
        let text = "[limits]\nupload = \"0\"\nupload_month = \"50GB\"\nupload_hours = \"22-6\"\npeers = 0\n\
                    [share]\nenable = false\nannounce = true\n";
        let node = loaded(text).expect("limits").node;
        let sharing = &node.sharing;
        assert_eq!((sharing.rate, sharing.month), (None, Some(50_000_000_000)));
        assert_eq!(sharing.hours.map(|hours| (hours.from, hours.to)), Some((22, 6)));
        assert!(!sharing.enable && sharing.announce && node.swarm.strangers == 0);
        let import = "[[import]]\nmirror = \"a.b\"\nfrom = \"/srv/a\"\nkey = \"a\"\n";
        assert_eq!(loaded(import).expect("an import").node.sharing.rate, None);
        for (bad, why) in [
            (
                "upload_hours = \"9\"",
                "limits.upload_hours: write hours, such as 1-6 or 22-6",
            ),
            (
                "upload_month = \"much\"",
                "limits.upload_month: `much` is no size",
            ),
            ("peers = 100000", "limits.peers: must be at most 384"),
        ] {
            let said = message(&format!("[limits]\n{bad}\n"));
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_bad_value_names_its_key_and_what_to_write() {
        assert!(message("[store]\nmax_size = \"much\"\n").contains("store.max_size: `much` is no size"));
        assert!(
            message("[[mirror]]\nname = \"a.b\"\nimporters = [\"k51nonsense\"]\n")
                .contains("pacstore.toml:3")
        );
    }

    #[test]
    fn an_importer_that_stands_twice_has_no_second_vote() {
        let key = "k51qzi5uqu5dgixyyha6tdj6z8iw4ltp41cstc46ujo2yrc7i4wyy2vk00thlx";
        let text = format!("[[mirror]]\nname = \"a.b\"\nimporters = [\"{key}\", \"{key}\"]\nquorum = 2\n");
        assert!(
            message(&text).contains("pacstore.toml:3: mirror.0.importers:"),
            "{}",
            message(&text)
        );
        assert!(message(&text).contains("stands here twice"));
    }

    #[test]
    fn every_key_of_the_reference_parses_with_its_default() {
        for key in KEYS
            .iter()
            .filter(|key| !key.default.is_empty() && !key.section.starts_with('['))
        {
            let text = format!("[{}]\n{} = {}\n", key.section, key.name, key.default);
            loaded(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for key in KEYS
            .iter()
            .filter(|key| !key.default.is_empty() && key.section == "[import]")
        {
            let text = format!(
                "[[import]]\nmirror = \"a.example\"\nfrom = \"/srv/a\"\nkey = \"a\"\n{} = {}\n",
                key.name, key.default
            );
            loaded(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}
