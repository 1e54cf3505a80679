//! `cargo xtask ci`: what CI runs, by the same script.
//!
//! - Not here: the steps themselves (`.ci/run`).

use std::process::Command;

use anyhow::ensure;

/// Runs `.ci/run`.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new("bash").arg(".ci/run").current_dir(root).status()?;
    ensure!(status.success(), "CI failed");
    Ok(())
}
