//! `pacstore demo` holds what it claims: everything checked, bytes from the peer, and
//! from the ordinary mirror once the peer is dead.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::home::{Home, signal};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn the_whole_way_holds_and_leaves_nothing_behind() {
    let home = Home::empty();
    let temporary = tempfile::tempdir().expect("a folder");
    let mut command = home.command(["demo", "--json"]);
    command.env("TMPDIR", temporary.path());
    let ran = crate::home::run(command).done();
    let summary = ran.json();
    assert_eq!(summary["ok"], true, "{summary}");
    assert_eq!(summary["error"], Value::Null);
    assert!(
        summary["key"].as_str().is_some_and(|key| key.starts_with("k51")),
        "{summary}"
    );

    // Each byte that came was checked, and each has a source.
    let by = |source: &str| number(&summary["bytes"][source]);
    let peer = by("lan") + by("peer");
    assert!(peer > 40_000_000, "{summary}");
    assert_eq!(by("disk"), 0, "nothing was on node 2's disk: {summary}");
    assert_eq!(
        number(&summary["bytes_verified"]),
        peer + by("upstream"),
        "{summary}"
    );
    assert!(number(&summary["files_verified"]) > 25, "{summary}");

    let fallback = &summary["fallback"];
    assert_eq!(fallback["verified"], true, "{summary}");
    let [from_peer, from_upstream] = ["from_peer", "from_upstream"].map(|key| number(&fallback[key]));
    assert!(from_peer > 0 && from_upstream > 0, "{summary}");
    assert_eq!(from_peer + from_upstream, number(&fallback["bytes"]), "{summary}");
    assert!(
        number(&fallback["killed_at"]) < number(&fallback["bytes"]),
        "{summary}"
    );

    // pacman ran, or it is said why not.
    let skipped = summary["skipped"].as_array().expect("a list");
    match summary["pacman"].as_str() {
        Some(did) => assert!(did.contains("demo-hello 1.1-1"), "{summary}"),
        None => assert!(
            skipped
                .iter()
                .any(|why| why.as_str().is_some_and(|why| why.contains("pacman")))
        ),
    }
    let left = std::fs::read_dir(temporary.path()).expect("the folder").count();
    assert_eq!(left, 0, "the demo's directory is gone");
}

#[test]
fn a_folder_without_the_repository_is_refused() {
    let home = Home::empty();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let ran = home.run(["demo", "--upstream", path, "--repo", "core"]).exits(1);
    assert!(ran.err.contains("there is no core.db"), "{}", ran.err);
    home.run(["demo", "--repo", "core"]).exits(2);
}

/// What ends a demo before its end: the terminal goes, or nobody reads on. Its 100 MB do not stay.
#[test]
fn who_goes_away_in_the_middle_leaves_nothing_behind() {
    let home = Home::empty();
    for goes in ["the terminal", "the reader"] {
        let temporary = tempfile::tempdir().expect("a folder");
        let mut command = home.command(["demo"]);
        command.env("TMPDIR", temporary.path());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the binary starts");
        let mut said = BufReader::new(child.stdout.take().expect("its stdout"));
        let mut line = String::new();
        said.read_line(&mut line).expect("its first line");
        assert!(line.starts_with("pacstore demo: "), "{line}");
        if goes == "the terminal" {
            signal(child.id(), Signal::HUP);
            said.read_to_string(&mut line).expect("the rest");
        } else {
            drop(said);
        }
        let code = child.wait().expect("its end").code();
        assert_eq!(code, Some(i32::from(goes == "the terminal")), "{goes}");
        let left = std::fs::read_dir(temporary.path()).expect("the folder").count();
        assert_eq!(left, 0, "{goes} went away");
    }
}
