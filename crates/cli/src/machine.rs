//! This machine's pacman: its configuration with all that it includes, and its version.
//!
//! - Invariant: reads only; every file has a bound of [`MAX_FILE`] bytes.
//! - Not here: what the configuration means (`pacstore-pacman`, `conf.rs`), edits (`commands/setup`).

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use globset::GlobBuilder;
use pacstore_pacman::{Conf, Settings};

use crate::config::{ConfigError, pacman_config};
use crate::home::Home;

/// Longest configuration file that is read: 4 MiB, some hundred times a mirror list.
const MAX_FILE: u64 = 4 << 20;

/// Most files that one `Include` may name.
const MAX_MATCHES: usize = 500;

/// One file of pacman's configuration.
#[derive(Clone, Debug)]
pub(crate) struct ConfFile {
    /// As pacman names it, below the root in use.
    pub(crate) path: PathBuf,
    pub(crate) conf: Conf,
}

/// `pacman.conf` and what it includes.
#[derive(Clone, Debug)]
pub(crate) struct PacmanConf {
    /// The main file first, then the included ones in pacman's order, each once.
    pub(crate) files: Vec<ConfFile>,
    pub(crate) settings: Settings,
}

/// Where pacman's configuration is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// `/`, or where a system is mounted.
    pub(crate) root: PathBuf,
    /// The main file, `root` included.
    pub(crate) conf: PathBuf,
}

/// What `[pacman] config` says is not known: the usual place was taken.
#[derive(Debug)]
pub(crate) struct Guess(pub(crate) ConfigError);

impl Place {
    /// `conf` as the user named it, else `etc/pacman.conf` below `root`.
    pub(crate) fn new(root: Option<PathBuf>, conf: Option<PathBuf>) -> Self {
        let root = root.unwrap_or_else(|| "/".into());
        let conf = conf.unwrap_or_else(|| root.join("etc/pacman.conf"));
        Self { root, conf }
    }

    /// As a command names it; of the running system else the file that `[pacman] config` names, which may be
    /// [`Guess`]ed.
    pub(crate) fn or_configured(
        root: &Path,
        named: Option<&Path>,
        home: &Home,
    ) -> std::io::Result<(Self, Option<Guess>)> {
        let root = std::path::absolute(root)?;
        let named = named.map(std::path::absolute).transpose()?;
        if named.is_some() || root != Path::new("/") {
            return Ok((Self::new(Some(root), named), None));
        }
        let (conf, guess) = match pacman_config(home) {
            Ok(conf) => (conf, None),
            Err(error) => (None, Some(Guess(error))),
        };
        Ok((Self::new(Some(root), conf), guess))
    }

    /// A path that pacman's configuration names, below this root.
    pub(crate) fn under(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl PacmanConf {
    /// Reads it; `prepare` may change each file before its meaning is taken.
    pub(crate) fn read(place: &Place, prepare: &dyn Fn(&mut Conf)) -> anyhow::Result<Self> {
        let conf = Conf::parse(&read_file(&place.conf)?);
        let mut files = vec![ConfFile {
            path: place.conf.clone(),
            conf: conf.clone(),
        }];
        let mut prepared = conf;
        prepare(&mut prepared);
        let settings = Settings::read(&prepared, &mut |pattern| {
            let mut found = Vec::new();
            for path in matches(&place.under(pattern)) {
                // Pacman warns of a file that cannot be read, and goes on.
                let Ok(bytes) = read_file(&path) else { continue };
                let mut conf = Conf::parse(&bytes);
                if !files.iter().any(|known| known.path == path) {
                    files.push(ConfFile {
                        path,
                        conf: conf.clone(),
                    });
                }
                prepare(&mut conf);
                found.push(conf);
            }
            found
        });
        let settings = settings.with_context(|| format!("`{}`", place.conf.display()))?;
        Ok(Self { files, settings })
    }
}

/// A file, if it is not absurdly long.
pub(crate) fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    // A pipe would be waited at for ever.
    if !fs_err::metadata(path)?.is_file() {
        bail!("`{}` is no ordinary file", path.display());
    }
    let file = fs_err::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("`{}` is longer than {MAX_FILE} bytes", path.display());
    }
    Ok(bytes)
}

/// The files that a glob of an `Include` names, in order; components match one by one, as glob(3) does it.
fn matches(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for component in pattern.components() {
        let Component::Normal(part) = component else {
            continue;
        };
        let text = part.to_string_lossy();
        if !text.contains(['*', '?', '[', '{']) {
            for path in &mut found {
                path.push(part);
            }
            continue;
        }
        let Ok(glob) = GlobBuilder::new(&text).literal_separator(true).build() else {
            return Vec::new();
        };
        let glob = glob.compile_matcher();
        let mut next = Vec::new();
        for dir in found {
            let Ok(entries) = fs_err::read_dir(&dir) else {
                continue;
            };
            let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
            let shown =
                |name: &std::ffi::OsString| text.starts_with('.') || !name.to_string_lossy().starts_with('.');
            let mut names: Vec<_> = names.filter(|name| shown(name) && glob.is_match(name)).collect();
            names.sort();
            next.extend(names.into_iter().map(|name| dir.join(name)));
        }
        found = next;
        found.truncate(MAX_MATCHES);
    }
    found.retain(|path| path.is_file());
    found
}

/// What the kernel calls this machine's architecture: what pacman's `auto` means.
pub(crate) fn architecture() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/arch");
    told.map_or_else(
        |_| std::env::consts::ARCH.to_owned(),
        |arch| arch.trim().to_owned(),
    )
}

/// The version of the pacman that `program` is, such as (6, 0); `None` if it cannot be started.
pub(crate) fn pacman_version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program)
        .arg("--version")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

/// `Pacman v6.0.2 - libalpm v13.0.2` among pacman's ghost.
fn version_in(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("Pacman v")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_behind_the_ghost() {
        let text = " .--.                  Pacman v7.1.0 - libalpm v16.0.1\n/ _.-' .-.  .-.  .-.   Copyright";
        assert_eq!(version_in(text), Some((7, 1)));
        assert_eq!(version_in("Pacman vX"), None);
    }

    #[test]
    fn globs_match_component_by_component_and_leave_hidden_files_out() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.d/2.conf", "a.d/1.conf", "a.d/.hidden.conf", "a.d/other"] {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs_err::write(path, "").expect("written");
        }
        let found = matches(&folder.path().join("*.d/*.conf"));
        let names: Vec<_> = found
            .iter()
            .map(|path| path.strip_prefix(folder.path()).expect("below").to_owned())
            .collect();
        assert_eq!(names, [Path::new("a.d/1.conf"), Path::new("b.d/2.conf")]);
    }
}
