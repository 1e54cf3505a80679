//! A test in a network of its own: the test binary starts itself again inside `unshare`.
//!
//! - Invariant: inside there is one interface, loopback, and a process tree that the kernel
//!   kills with its first process.
//! - Invariant: the inner run counts only if exactly one test ran and passed.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pacstore_testkit::{TestResult, require};

use crate::process::finish;

/// Set for the inner run.
const INSIDE: &str = "PACSTORE_INTEROP_INSIDE";

/// Longest time of one test.
const DEADLINE: Duration = Duration::from_secs(200);

/// What the kernel must grant: by root, else by a user namespace.
const WAYS: [&[&str]; 2] = [
    &["--net", "--pid", "--fork", "--kill-child"],
    &["--net", "--pid", "--fork", "--kill-child", "--map-root-user"],
];

/// Whether a test may do without a network of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// It runs in the common one: its peer dials nothing but loopback.
    Runs,
    /// It is skipped.
    IsSkipped,
}

/// Runs `body`, which is the test `name` (module and function), in a network of its own.
pub(crate) fn apart(name: &str, without: Without, body: impl FnOnce() -> TestResult) -> TestResult {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(way) = way() else {
        return match without {
            Without::Runs => body(),
            Without::IsSkipped => {
                say(&format!(
                    "skipped: the kernel denies a network namespace (run as root): {name}"
                ));
                Ok(())
            }
        };
    };
    let mut inner = Command::new("unshare");
    inner
        .args(way)
        .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .env("RUST_BACKTRACE", "0");
    let ended = finish(inner, DEADLINE)?;
    let passed = ended.status.success() && ended.out.contains("1 passed");
    assert!(passed, "{}\n{}", ended.out, ended.err);
    Ok(())
}

/// Says that `what` is not there: in one line, or by failing where everything is required.
pub(crate) fn missing(what: &str) {
    assert!(
        std::env::var("PACSTORE_REQUIRE").as_deref() != Ok("all"),
        "PACSTORE_REQUIRE=all, but {what}"
    );
    say(&format!("skipped: {what}"));
}

/// Says `line` once a process.
fn say(line: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.insert(line.to_owned()) {
        eprintln!("{line}");
    }
}

/// How this kernel gives us a namespace, if it does.
fn way() -> Option<&'static [&'static str]> {
    require("unshare")?;
    require("ip")?;
    WAYS.into_iter().find(|way| {
        let mut probe = Command::new("unshare");
        probe.args(*way).args(["sh", "-c", "ip link set lo up"]);
        finish(probe, Duration::from_secs(10)).is_ok_and(|ended| ended.status.success())
    })
}
