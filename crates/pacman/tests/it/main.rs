//! Tests of pacman's formats, over bytes of our own making, real snapshots and the real pacman where they are.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what fails here fails the test, and a skipped one says why"
)]

mod builder;
mod coherence;
mod conf;
mod databases;
mod fixture;
mod hostile;
mod names;
mod openpgp;
mod openpgp_gpg;
mod real_pacman;
mod samples;
mod scale;
mod seal;
mod versions;

/// For tests that need something the machine may lack: prints why the test is skipped, or fails under `PACSTORE_REQUIRE=all`.
fn skip(reason: &str) {
    let required = std::env::var("PACSTORE_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!required, "PACSTORE_REQUIRE=all, but {reason}");
    eprintln!("skipped: {reason}");
}

/// Whether a program can be started.
fn installed(program: &str) -> bool {
    let null = std::process::Stdio::null;
    std::process::Command::new(program)
        .arg("--version")
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .status()
        .is_ok()
}
