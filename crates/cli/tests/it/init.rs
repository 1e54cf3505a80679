//! `pacstore init`: from flags to a configuration that works, and nothing overwritten.

use pacstore_testkit::TestResult;

use crate::home::{Home, LOOPBACK};

/// An address as `pacstore id` prints it.
const PEER: &str = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

#[test]
fn an_importer_is_written_with_its_key_and_passes_the_check() -> TestResult {
    let home = Home::empty();
    let ran = home
        .run([
            "init",
            "importer",
            "--name",
            "core.example",
            "--from",
            "/srv/core",
            "--from",
            "https://mirror.example/core/",
            "--gateway",
            "127.0.0.1:0",
            "--offline",
            "--private",
        ])
        .done();
    assert_eq!(ran.line(), home.config_file().to_str().unwrap());
    let key = home.run(["key", "show", "importer"]).done().line();
    assert!(ran.err.contains(&key), "{}", ran.err);
    home.run(["config", "check"]).done();
    let text = std::fs::read_to_string(home.config_file())?;
    for line in [
        "listen = \"127.0.0.1:0\"",
        "bootstrap = []",
        "[[import]]",
        "mirror = \"core.example\"",
        "from = [\"/srv/core\", \"https://mirror.example/core/\"]",
        "key = \"importer\"",
        "public = false",
    ] {
        assert!(
            text.lines().any(|written| written == line),
            "no `{line}` in:\n{text}"
        );
    }
    Ok(())
}

#[test]
fn a_client_is_written_and_passes_the_check() {
    let home = Home::empty();
    let key = home.run(["key", "new", "other"]).done().line();
    home.run([
        "init",
        "client",
        "--name",
        "core.example",
        "--importer",
        &key,
        "--upstream",
        "https://mirror.example/core/",
        "--peer",
        PEER,
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ])
    .done();
    let shown = home.run(["config", "show", "--json"]).done().json();
    assert_eq!(shown["mirror"][0]["importers"][0], key.as_str());
    assert_eq!(shown["mirror"][0]["upstreams"][0], "https://mirror.example/core/");
    assert_eq!(shown["swarm"]["peers"][0], PEER);
    assert_eq!(shown["swarm"]["listen"][0], "/ip4/127.0.0.1/tcp/0");
    home.run(["config", "check"]).done();
}

#[test]
fn what_is_there_is_never_overwritten() -> TestResult {
    let home = Home::with(LOOPBACK);
    home.run(["init", "client", "--name", "core.example"])
        .fails_with(&[
            "pacstore.toml` is there already",
            "hint: edit it, or name another home",
        ]);
    assert_eq!(std::fs::read_to_string(home.config_file())?, LOOPBACK);
    Ok(())
}

/// The package brings a configuration in which every key is a comment.
#[test]
fn a_configuration_of_comments_alone_is_written_on() -> TestResult {
    let home = Home::empty();
    let comments = home.run(["config", "reference"]).done().out;
    home.configure(&comments);
    let flags = [
        "init",
        "importer",
        "--name",
        "core.example",
        "--from",
        "/srv/core",
    ];
    home.run(flags).done();
    let text = std::fs::read_to_string(home.config_file())?;
    assert!(
        text.starts_with(&comments) && text.contains("\n[[import]]\n"),
        "{text}"
    );
    home.run(["config", "check"]).done();
    home.run(flags).fails_with(&["is there already"]);
    // What makes no configuration leaves the comments.
    home.configure(&comments);
    home.run(["init", "importer", "--name", "not a name", "--from", "/srv/core"])
        .exits(1);
    assert_eq!(std::fs::read_to_string(home.config_file())?, comments);
    Ok(())
}

#[test]
fn flags_that_make_no_configuration_leave_none_behind() {
    for (flags, word) in [
        (
            ["--name", "core.example", "--importer", "k51nonsense"],
            "`k51nonsense` is no KEY",
        ),
        (["--name", "not a name", "--peer", PEER], "mirror.0.name"),
        (
            ["--name", "core.example", "--upstream", "ftp://mirror.example/"],
            "is no http(s) URL",
        ),
        (
            ["--name", "core.example", "--gateway", "somewhere"],
            "gateway.listen",
        ),
    ] {
        let home = Home::empty();
        home.run(["init", "client"].iter().chain(&flags))
            .fails_with(&[word]);
        assert!(!home.config_file().exists(), "{flags:?}");
    }
    Home::empty()
        .run(["init", "importer", "--name", "core.example"])
        .exits(2);
    Home::empty().run(["init"]).exits(2);
}
