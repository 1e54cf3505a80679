//! On what a figure was measured: processor, cores, load, commit.

use std::fs;
use std::process::Command;

use super::say;

/// Prints it, one line.
pub(super) fn print() {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1))
            .unwrap_or("?")
            .to_owned()
    };
    let flags = field("flags");
    let flags: Vec<&str> = ["sha_ni", "avx2", "avx512f"]
        .into_iter()
        .filter(|flag| flags.split(' ').any(|has| has == *flag))
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    say(&format!(
        "# {}, {cores} cores, {}; load {}; commit {}",
        field("model name"),
        flags.join(" "),
        load(),
        commit()
    ));
    if fs::exists("/sys/module/page_reporting").unwrap_or(false) {
        say(
            "# free memory goes back to the machine below this one: what writes much pays for getting it again",
        );
    }
}

/// The load averages of 1, 5 and 15 minutes.
pub(super) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git")
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        out.map_or_else(
            |_| String::new(),
            |out| String::from_utf8_lossy(&out.stdout).trim().to_owned(),
        )
    };
    let changed = if git(&["status", "--porcelain", "-uno"]).is_empty() {
        ""
    } else {
        " with changes"
    };
    format!("{}{changed}", git(&["rev-parse", "--short", "HEAD"]))
}
