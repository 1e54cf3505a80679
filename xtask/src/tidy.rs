//! The house rules that a compiler does not know: who may import whom, headers, sizes.
//!
//! - Invariant: [`EDGES`] is the table of ARCHITECTURE.md; a dependency that is not in it
//!   (or below an allowed crate) fails the test.
//! - Not here: style that clippy and rustfmt check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Direct edges that are allowed; what lies below an allowed crate is allowed too.
const EDGES: &[(&str, &[&str])] = &[
    ("dag", &[]),
    ("pacman", &[]),
    ("names", &[]),
    ("runtime", &[]),
    ("store", &["dag", "runtime"]),
    ("upstream", &["pacman", "runtime"]),
    ("bitswap", &["dag", "runtime"]),
    ("net", &["bitswap", "names"]),
    ("import", &["pacman", "upstream", "store"]),
    ("node", &["import", "net", "upstream", "store"]),
    ("http", &["node"]),
    ("cli", &["http", "node"]),
];

/// Longest source file without a reason.
const MAX_LINES: usize = 600;

/// What only crate `runtime` may write.
const BANNED: [&str; 3] = ["tokio::spawn(", "task::spawn_blocking(", "unbounded_channel("];

/// Longer files and why.
const LONGER: &[(&str, &str)] = &[];

/// Prints what is wrong, fails if anything is.
pub(crate) fn run() -> anyhow::Result<()> {
    let problems = problems(&root())?;
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{}", problems.join("\n"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Everything that breaks a house rule, one line each.
fn problems(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    edges(root, &mut problems)?;
    let mut files = sources(&root.join("crates"))?;
    files.extend(sources(&root.join("xtask"))?);
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        check_file(&name, &text, &mut problems);
    }
    forgotten_tests(root, &mut problems)?;
    Ok(problems)
}

fn check_file(name: &str, text: &str, problems: &mut Vec<String>) {
    if !text.starts_with("//!") {
        problems.push(format!("{name}: has no `//!` header"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !LONGER.iter().any(|(known, _)| *known == name) {
        problems.push(format!(
            "{name}: {lines} lines; split it or list it with a reason"
        ));
    }
    if name.starts_with("crates/") && !name.starts_with("crates/runtime/") {
        for banned in BANNED {
            let outside_tests = text.lines().take_while(|line| !line.contains("#[cfg(test)]"));
            if name.contains("/src/") && outside_tests.clone().any(|line| line.contains(banned)) {
                problems.push(format!("{name}: `{banned}` belongs to crate runtime"));
            }
        }
    }
}

/// Each `.rs` file in a folder of tests must be a module of its `main.rs`.
fn forgotten_tests(root: &Path, problems: &mut Vec<String>) -> anyhow::Result<()> {
    for krate in fs::read_dir(root.join("crates"))? {
        let Ok(folders) = fs::read_dir(krate?.path().join("tests")) else {
            continue;
        };
        for folder in folders {
            forgotten_in(&folder?.path(), problems)?;
        }
    }
    Ok(())
}

fn forgotten_in(tests: &Path, problems: &mut Vec<String>) -> anyhow::Result<()> {
    let Ok(main) = fs::read_to_string(tests.join("main.rs")) else {
        if tests.is_file() {
            problems.push(format!(
                "{}: a test binary of its own; make it a module of tests/it",
                tests.display()
            ));
        }
        return Ok(());
    };
    for file in fs::read_dir(tests)? {
        let path = file?.path();
        let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else {
            continue;
        };
        let is_module = path.is_dir() || path.extension().is_some_and(|e| e == "rs");
        if is_module && stem != "main" && !main.contains(&format!("mod {stem};")) {
            problems.push(format!(
                "{}: not a module of main.rs, so it never runs",
                path.display()
            ));
        }
    }
    Ok(())
}

fn edges(root: &Path, problems: &mut Vec<String>) -> anyhow::Result<()> {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(krate, _)| (*krate, below(krate))).collect();
    for entry in fs::read_dir(root.join("crates"))? {
        let path = entry?.path();
        let Some(krate) = path.file_name().and_then(|n| n.to_str()).map(str::to_owned) else {
            continue;
        };
        if krate == "testkit" || krate == "fuzz-targets" {
            continue;
        }
        let manifest = fs::read_to_string(path.join("Cargo.toml"))?;
        let Some(allowed) = allowed.get(krate.as_str()) else {
            problems.push(format!("crates/{krate}: not in the table of edges"));
            continue;
        };
        for used in dependencies(&manifest) {
            if used == "testkit" {
                problems.push(format!("crates/{krate}: testkit is for tests only"));
            } else if !allowed.contains(used.as_str()) {
                problems.push(format!("crates/{krate}: may not depend on {used}"));
            }
        }
    }
    Ok(())
}

/// All crates at or below what `krate` may use directly.
fn below(krate: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = vec![krate];
    while let Some(next) = open.pop() {
        let direct = EDGES
            .iter()
            .find(|(name, _)| *name == next)
            .map_or(&[][..], |(_, direct)| direct);
        for below in direct {
            if found.insert(*below) {
                open.push(below);
            }
        }
    }
    found
}

/// The crates of this house in `[dependencies]`, not in `[dev-dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.strip_prefix("pacstore-"))
        .filter_map(|line| line.split([' ', '.', '=']).next())
        .map(str::to_owned)
        .collect()
}

fn sources(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                found.extend(sources(&path)?);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let problems = problems(&root()).expect("a readable checkout");
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn a_forbidden_edge_is_seen() {
        assert!(!below("store").contains("net"));
        assert!(below("cli").contains("dag"));
        let manifest =
            "[dependencies]\npacstore-net = { workspace = true }\n[dev-dependencies]\npacstore-testkit = 1\n";
        assert_eq!(dependencies(manifest), ["net"]);
    }
}
