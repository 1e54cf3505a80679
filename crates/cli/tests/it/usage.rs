//! Help, version, completions, manual pages, and how usage errors end.

use std::process::Command;

use pacstore_testkit::{TestResult, require};

use crate::home::{Home, run};

/// The verbs of this version; each has help, completions and a manual page.
const VERBS: [&str; 21] = [
    "demo",
    "daemon",
    "init",
    "import",
    "publish",
    "setup",
    "doctor",
    "status",
    "cid",
    "resolve",
    "get",
    "verify",
    "id",
    "key",
    "config",
    "gc",
    "fsck",
    "prefetch",
    "why",
    "completions",
    "man",
];

#[test]
fn help_and_version_go_to_stdout_and_a_wrong_usage_ends_with_2() {
    let home = Home::empty();
    let help = home.run(["--help"]).done().out;
    for verb in VERBS {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(verb)),
            "{verb} is not in: {help}"
        );
        assert!(
            home.run([verb, "--help"]).done().out.contains("Usage: "),
            "{verb}"
        );
    }
    assert!(home.run(["--version"]).done().line().starts_with("pacstore "));
    for wrong in [
        &["frobnicate"][..],
        &["cid"],
        &["get", "x"],
        &["import"],
        &["gc", "--target"],
        &["key"],
        &[],
    ] {
        let ran = home.run(wrong).exits(2);
        assert_eq!(ran.out, "", "{wrong:?}");
        let said = ran.err.contains("Usage: ") || ran.err.contains("try '--help'");
        assert!(said, "{wrong:?}: {}", ran.err);
    }
}

#[test]
fn completions_are_scripts_that_their_shells_take() -> TestResult {
    let home = Home::empty();
    let place = tempfile::tempdir()?;
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(["completions", shell]).done().out;
        for verb in VERBS {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
        if shell == "bash" {
            let file = place.path().join("pacstore.bash");
            std::fs::write(&file, script)?;
            let Some(bash) = require("bash") else {
                return Ok(());
            };
            let mut check = Command::new(bash);
            check.arg("-n").arg(file);
            run(check).done();
        }
    }
    home.run(["completions", "cmd.exe"]).exits(2);
    Ok(())
}

#[test]
fn there_is_a_manual_page_for_each_verb() -> TestResult {
    let home = Home::empty();
    let page = home.run(["man"]).done().out;
    assert!(page.contains(".TH pacstore 1"), "{page}");
    let place = tempfile::tempdir()?;
    let folder = place.path().join("man1");
    home.run(["man", "--dir", folder.to_str().unwrap()]).done();
    for verb in VERBS {
        let page = std::fs::read_to_string(folder.join(format!("pacstore-{verb}.1")))?;
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
    }
    for page in [
        "pacstore.1",
        "pacstore-key-new.1",
        "pacstore-init-client.1",
        "pacstore-config-check.1",
    ] {
        assert!(folder.join(page).is_file(), "{page}");
    }
    Ok(())
}

#[test]
fn a_disk_that_takes_no_more_output_is_a_failure() -> TestResult {
    let home = Home::empty();
    for arguments in [&["config", "reference"][..], &["man"], &["id", "--json"]] {
        let mut command = home.command(arguments);
        let full = std::fs::File::options().write(true).open("/dev/full")?;
        let ended = command.stdout(full).output()?;
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        assert!(
            String::from_utf8_lossy(&ended.stderr).contains("error: "),
            "{ended:?}"
        );
    }
    Ok(())
}

#[test]
fn a_reader_that_goes_away_is_no_error() -> TestResult {
    let home = Home::empty();
    let mut command = home.command(["config", "reference"]);
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut child = command.stdout(writer).spawn()?;
    assert!(child.wait()?.success());
    Ok(())
}
