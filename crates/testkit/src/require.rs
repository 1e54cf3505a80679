//! What a test cannot bring itself: programs, and the folder of shared facts.
//!
//! - Invariant: a test that cannot run says so in one line (`skipped: ...`), once a
//!   process for each reason; with `PACSTORE_REQUIRE=all` it fails instead.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What a test returns, so that `?` works on everything.
pub type TestResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The full path of `program`, `None` (and one line on stderr) if it is not installed.
///
/// # Panics
/// If it is not installed and `PACSTORE_REQUIRE=all`.
pub fn require(program: &str) -> Option<PathBuf> {
    let found = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join(program))
        .find(|path| is_program(path));
    if found.is_none() {
        missing(&format!(
            "{program} is not installed (install: {})",
            package_of(program)
        ));
    }
    found
}

/// `path` in the folder `shared` beside the checkout, `None` (and one line) if it is not there.
///
/// # Panics
/// If it is not there and `PACSTORE_REQUIRE=all`.
pub fn shared(path: impl AsRef<Path>) -> Option<PathBuf> {
    let full = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(&path);
    if full.exists() {
        return Some(full);
    }
    missing(&format!("../shared/{} is not there", path.as_ref().display()));
    None
}

/// What was said already.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn missing(what: &str) {
    assert!(
        env::var("PACSTORE_REQUIRE").as_deref() != Ok("all"),
        "PACSTORE_REQUIRE=all, but {what}"
    );
    if SAID
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(what.to_owned())
    {
        #[expect(
            clippy::print_stderr,
            reason = "whoever runs the tests must see what was not run"
        )]
        {
            eprintln!("skipped: {what}");
        }
    }
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// The Debian package that a program comes from, where its name is another.
fn package_of(program: &str) -> &str {
    match program {
        "pacman" | "vercmp" | "repo-add" => "pacman-package-manager",
        "gpg" => "gnupg",
        "tc" | "ip" => "iproute2",
        "systemd-analyze" => "systemd",
        "setpriv" => "util-linux",
        other => other,
    }
}
