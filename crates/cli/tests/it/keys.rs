//! `pacstore key` and `pacstore id`: keys are made once, shown, and never used if others can read them.

use std::os::unix::fs::MetadataExt as _;

use pacstore_testkit::{Repo, RepoSpec};

use crate::daemon::Daemon;
use crate::home::{Home, LOOPBACK, import_block};

#[test]
fn a_key_is_made_once_listed_and_shown() {
    let home = Home::empty();
    assert_eq!(home.run(["key", "list"]).done().out, "");
    let key = home.run(["key", "new", "arch"]).done().line();
    assert!(key.starts_with("k51"), "{key}");
    assert_eq!(home.run(["key", "show", "arch"]).done().line(), key);
    assert_eq!(home.run(["key", "list"]).done().line(), format!("arch\t{key}"));
    home.run(["key", "new", "arch"])
        .fails_with(&["there is a key `arch` already"]);
    let other = home.run(["key", "new", "other", "--json"]).done().json();
    assert_eq!(other["label"], "other");
    assert_ne!(other["key"], key.as_str());
    let all = home.run(["key", "list", "--json"]).done().json();
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    let mode = |path: &str| std::fs::metadata(home.path().join(path)).unwrap().mode() & 0o777;
    assert_eq!(mode("state/keys/arch.key"), 0o600);
    assert_eq!(mode("state/keys"), 0o700);
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let home = Home::importer("core.example", "/nowhere");
    home.chmod("state/keys/signs.key", 0o644);
    for arguments in [
        vec!["key", "show", "signs"],
        vec!["key", "list"],
        vec!["import", "core.example", "--once"],
        vec!["daemon"],
    ] {
        home.run(arguments).fails_with(&[
            "signs.key` has mode 644; others must not read it",
            "\nhint: chmod 600 ",
        ]);
    }
    home.chmod("state/keys/signs.key", 0o600);
    home.run(["key", "show", "signs"]).done();
}

#[test]
fn a_bad_key_hides_no_good_one() {
    let home = Home::with(LOOPBACK);
    let key = home.run(["key", "new", "b-good"]).done().line();
    std::fs::write(home.path().join("state/keys/a-bad.key"), "junk").unwrap();
    home.chmod("state/keys/a-bad.key", 0o600);
    home.run(["key", "new", "c-open"]).done();
    home.chmod("state/keys/c-open.key", 0o640);
    let listed = home.run(["key", "list"]).exits(1);
    assert_eq!(listed.line(), format!("b-good\t{key}"));
    for word in [
        "a-bad.key` holds no key",
        "hint: restore it from your copy",
        "c-open.key` has mode 640",
        "hint: chmod 600 ",
    ] {
        assert!(listed.err.contains(word), "{word} is not in: {}", listed.err);
    }
    let listed = home.run(["key", "list", "--json"]).exits(1).json();
    assert_eq!(listed, serde_json::json!([{ "label": "b-good", "key": key }]));
}

/// Without a daemon first, then through one that goes on with the new key.
#[test]
fn a_rotated_key_signs_on_and_the_old_one_is_put_aside() {
    let upstream = tempfile::tempdir().unwrap();
    Repo::create(upstream.path(), RepoSpec::new("core").packages(1, 5_000)).unwrap();
    let home = Home::importer("core.example", &upstream.path().to_string_lossy());
    let first = home.run(["key", "show", "signs"]).done().line();
    home.run(["key", "rotate", "signs"]).fails_with(&[
        "nothing was published with key `signs` yet",
        "hint: publish first",
    ]);
    home.run(["key", "rotate", "nobody"])
        .fails_with(&["no [[import]] signs with a key `nobody`"]);
    home.run(["import", "core.example", "--once"]).done();
    let second = home.run(["key", "rotate", "signs"]).done().line();
    assert_ne!(first, second);
    assert_eq!(
        home.run(["key", "list"]).done().line(),
        format!("signs\t{second}")
    );
    let keys = home.path().join("state/keys");
    assert!(keys.join(format!("{first}.handover")).is_file());
    assert!(keys.join(format!("{first}.retired")).is_file());

    let daemon = Daemon::start(&home);
    let rotated = home.run(["key", "rotate", "signs", "--json"]).done().json();
    assert_eq!(rotated["old"], second.as_str());
    let third = rotated["key"].as_str().unwrap().to_owned();
    let resolved = home.run(["resolve", "core.example", "--json"]).done().json();
    assert_eq!(resolved["importers"][0]["key"], third.as_str());
    // The oldest address is answered, too.
    let old = home.run(["resolve", &first, "--json"]).done().json();
    assert_eq!(old["tree"], resolved["tree"]);
    daemon.stop();
    let after = home.run(["resolve", "core.example", "--json"]).done().json();
    assert_eq!(after["importers"][0]["key"], third.as_str());
}

#[test]
fn labels_that_are_paths_or_missing_are_refused() {
    let home = Home::empty();
    for label in ["..", "a/b", ".node", ""] {
        home.run(["key", "new", label])
            .fails_with(&["is no label; use letters"]);
    }
    home.run(["key", "show", "arch"])
        .fails_with(&["there is no key `arch`", "hint: restore it from your copy"]);
    home.configure(&format!("{LOOPBACK}{}", import_block("core.example", "/nowhere")));
    home.run(["daemon"])
        .fails_with(&["there is no key `signs`", "pacstore key new signs"]);
}

#[test]
fn the_id_stays_the_same_and_has_addresses_only_while_the_daemon_runs() {
    let home = Home::with(LOOPBACK);
    let before = home.run(["id", "--json"]).done().json();
    let mut fields: Vec<&String> = before.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["addresses", "peer_id"]);
    assert_eq!(before["addresses"].as_array().map(Vec::len), Some(0));
    let daemon = Daemon::start(&home);
    let with = home.run(["id", "--json"]).done().json();
    assert_eq!(with["peer_id"], before["peer_id"]);
    assert_eq!(with["peer_id"], daemon.peer.as_str());
    let address = with["addresses"][0].as_str().unwrap();
    let port = address
        .strip_prefix("/ip4/127.0.0.1/tcp/")
        .and_then(|rest| rest.split('/').next());
    assert!(port.is_some_and(|port| port != "0"), "{address}");
    assert!(address.ends_with(&format!("/p2p/{}", daemon.peer)), "{address}");
    daemon.stop();
    assert_eq!(home.run(["id", "--json"]).done().json(), before);
}

/// What a disk or a hand makes of a key file: each is told for what it is, and none is replaced.
#[test]
fn a_key_file_that_is_empty_cut_or_of_something_else_is_refused_and_left_alone() {
    let home = Home::importer("core.example", "/nowhere");
    let file = home.path().join("state/keys/signs.key");
    let right = std::fs::read(&file).unwrap();
    for wrong in [
        &b""[..],
        &right[..right.len() / 2],
        b"-----BEGIN PRIVATE KEY-----\n",
        &[0; 64],
    ] {
        std::fs::write(&file, wrong).unwrap();
        for arguments in [
            vec!["daemon"],
            vec!["import", "core.example", "--once"],
            vec!["key", "show", "signs"],
        ] {
            home.run(arguments)
                .fails_with(&["signs.key` holds no key", "hint: restore it from your copy"]);
        }
        home.run(["key", "new", "signs"])
            .fails_with(&["there is a key `signs` already"]);
        assert_eq!(std::fs::read(&file).unwrap(), wrong, "it is left as it was");
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    home.run(["daemon"]).fails_with(&["signs.key`"]);
    std::fs::remove_dir(&file).unwrap();
    home.run(["daemon"]).fails_with(&["there is no key `signs`"]);
    assert!(!file.exists(), "no new key was made");
    std::fs::write(&file, right).unwrap();
    home.chmod("state/keys/signs.key", 0o600);
    Daemon::start(&home).stop();
}
