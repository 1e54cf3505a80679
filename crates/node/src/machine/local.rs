//! What pacman on this machine has and is set to: its configuration, what is installed, its cache.
//!
//! - Invariant: reads only, and bounded: files of a sane size, folders of at most [`MAX_NAMES`] names.
//! - Invariant: what cannot be read is as if it were not there; nothing here is needed for serving.
//! - Not here: what follows from it (`super::plan`).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use pacstore_pacman::{Conf, Settings};

use super::plan::Installed;

/// Names in a folder that are looked at.
pub(super) const MAX_NAMES: usize = 200_000;

/// Bytes of a configuration file or of an installed package's description.
const MAX_TEXT: u64 = 4 << 20;

/// What `pacman.conf` says, if there is one.
pub(super) fn settings(conf: &Path) -> Option<Settings> {
    let conf = Conf::parse(&text(conf)?);
    Settings::read(&conf, &mut |pattern| {
        included(Path::new(pattern))
            .iter()
            .filter_map(|path| text(path))
            .map(|bytes| Conf::parse(&bytes))
            .collect()
    })
    .ok()
}

/// Files that an `Include` means: a path, or a glob in its last component.
fn included(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if !name.contains(['*', '?', '[']) {
        return vec![pattern.to_owned()];
    }
    let folder = pattern.parent().unwrap_or(Path::new("/"));
    let mut found: Vec<PathBuf> = names(folder)
        .into_iter()
        .filter(|one| super::plan::matches(name, one))
        .map(|one| folder.join(one))
        .collect();
    found.sort();
    found
}

/// Where pacman keeps its databases.
pub(super) fn db_path(settings: &Settings) -> PathBuf {
    PathBuf::from(settings.options.db_path.as_deref().unwrap_or("/var/lib/pacman/"))
}

/// The folders `NAME-VERSION` of what is installed, in pacman's order.
pub(super) fn folders(db_path: &Path) -> Vec<String> {
    let mut found = names(&db_path.join("local"));
    found.retain(|name| split(name).is_some());
    found.sort_unstable();
    found
}

/// What is installed.
pub(super) fn installed(db_path: &Path) -> Vec<Installed> {
    let mut found = BTreeMap::new();
    for folder in folders(db_path) {
        let Some((name, version)) = split(&folder) else {
            continue;
        };
        let desc = text(&db_path.join("local").join(&folder).join("desc")).unwrap_or_default();
        let one = Installed {
            name: name.to_owned(),
            version: version.to_owned(),
            provides: provides(&String::from_utf8_lossy(&desc)),
        };
        found.insert(one.name.clone(), one);
    }
    found.into_values().collect()
}

/// `NAME-VERSION-RELEASE` in two.
fn split(folder: &str) -> Option<(&str, &str)> {
    let (release, _) = folder.rmatch_indices('-').next()?;
    let (version, _) = folder[..release].rmatch_indices('-').next()?;
    (version > 0).then(|| (&folder[..version], &folder[version + 1..]))
}

/// The list below `%PROVIDES%`.
fn provides(desc: &str) -> Vec<String> {
    let lines = desc.lines().skip_while(|line| *line != "%PROVIDES%").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Names in a folder; none if it cannot be read.
pub(super) fn names(folder: &Path) -> Vec<String> {
    try_names(folder).unwrap_or_default()
}

/// Names in a folder.
pub(super) fn try_names(folder: &Path) -> std::io::Result<Vec<String>> {
    let entries = fs_err::read_dir(folder)?;
    let names = entries.take(MAX_NAMES);
    Ok(names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

fn text(path: &Path) -> Option<Vec<u8>> {
    let file = fs_err::File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_with_what_they_provide() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, desc) in [
            (
                "a-b-1:2-3",
                "%NAME%\na-b\n\n%PROVIDES%\nlibx.so=1-64\nsh\n\n%DEPENDS%\nno\n",
            ),
            ("plain-1-1", ""),
            ("odd", ""),
        ] {
            let folder = dir.path().join("local").join(folder);
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(folder.join("desc"), desc).unwrap();
        }
        fs_err::write(dir.path().join("local/ALPM_DB_VERSION"), "9\n").unwrap();
        let found = installed(dir.path());
        let short: Vec<_> = found
            .iter()
            .map(|one| (&*one.name, &*one.version, one.provides.len()))
            .collect();
        assert_eq!(short, [("a-b", "1:2-3", 2), ("plain", "1-1", 0)]);
    }

    #[test]
    fn includes_with_a_glob_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(dir.path().join(name), text).unwrap();
        write("list1", "Server = http://127.0.0.1/1\n");
        write("list2", "Server = http://127.0.0.1/2\n");
        write("other", "Server = http://127.0.0.1/3\n");
        let path = dir.path().display();
        write(
            "pacman.conf",
            &format!("[options]\nIgnorePkg = linux*\nDBPath = {path}/db\n[core]\nInclude = {path}/list*\n"),
        );
        let settings = settings(&dir.path().join("pacman.conf")).unwrap();
        assert_eq!(
            settings.repositories[0].servers,
            ["http://127.0.0.1/1", "http://127.0.0.1/2"]
        );
        assert_eq!(settings.options.ignore_pkg, ["linux*"]);
        assert_eq!(db_path(&settings), dir.path().join("db"));
        assert_eq!(super::settings(&dir.path().join("none")), None);
    }
}
