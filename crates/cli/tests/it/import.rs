//! `import --once`, `publish`, `resolve`, `verify`: with and without a daemon, whole and torn.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use pacstore_testkit::{Fault, Repo, RepoSpec, TestResult, Upstream};
use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, until};
use crate::home::{Home, LOOPBACK, Ran, signal, wait};

const NAME: &str = "core.example";

struct Mirror {
    repo: Repo,
    upstream: Upstream,
    _folder: tempfile::TempDir,
}

fn mirror() -> Mirror {
    let folder = tempfile::tempdir().unwrap();
    let spec = RepoSpec::new("core").packages(4, 5_000).package("big", 2_500_000);
    let repo = Repo::create(folder.path(), spec).unwrap();
    let upstream = Upstream::folder(folder.path()).unwrap();
    Mirror {
        repo,
        upstream,
        _folder: folder,
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn once(home: &Home) -> Ran {
    home.run(["import", NAME, "--once"])
}

fn tree(home: &Home) -> String {
    let resolved = home.run(["resolve", NAME, "--json"]).done().json();
    resolved["tree"].as_str().expect("a tree").to_owned()
}

/// The tree of upstream's state, by `cid`: every file of the folder is one that the database names.
fn expected(home: &Home, repo: &Repo) -> String {
    let line = home.run(["cid", text(repo.folder())]).done().line();
    line.split('\t').next().unwrap().to_owned()
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn a_round_without_a_daemon_publishes_and_the_next_has_nothing_to_do() -> TestResult {
    let mut mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    let first = once(&home).done();
    // What a client needs is said after a first import.
    let key = home.key();
    for word in [
        "[[mirror]]",
        NAME,
        &key,
        "peers = [",
        "Server = http://127.0.0.1:8080/pacman/$repo/$arch",
    ] {
        assert!(first.err.contains(word), "no `{word}` in: {}", first.err);
    }
    assert_eq!(tree(&home), expected(&home, &mirror.repo));
    // And again to who asks again: a daemon may have been first.
    let again = once(&home).exits(3);
    assert!(
        again.err.contains("[[mirror]]") && again.err.contains(&key),
        "{}",
        again.err
    );
    mirror.repo.update(&["pkg1"])?;
    once(&home).done();
    assert_eq!(tree(&home), expected(&home, &mirror.repo));
    let report = home.run(["import", NAME, "--once", "--json"]).exits(3).json();
    assert_eq!(report["outcome"], "unchanged");
    Ok(())
}

#[test]
fn a_torn_upstream_changes_nothing_and_its_files_are_named() -> TestResult {
    let mut mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    once(&home).done();
    let before = tree(&home);
    mirror.repo.update_database_only(&["pkg1", "pkg2"])?;
    let missing = mirror.repo.file_name("pkg1")?;
    let torn = once(&home).exits(1);
    assert!(torn.err.contains(&missing), "{}", torn.err);
    assert!(torn.err.contains(&mirror.repo.file_name("pkg2")?), "{}", torn.err);
    assert!(
        !torn.err.contains(&mirror.repo.file_name("pkg3")?),
        "{}",
        torn.err
    );
    assert_eq!(tree(&home), before);
    let resolved = home.run(["resolve", NAME, "--json"]).done().json();
    assert_eq!(resolved["state"], "torn");
    assert_eq!(resolved["repositories"][0]["state"], "torn");
    mirror.repo.finish_update()?;
    // The old releases are still in upstream's folder, but no database names them.
    once(&home).done();
    assert_ne!(tree(&home), before);
    Ok(())
}

#[test]
fn an_upstream_that_was_never_whole_publishes_nothing() -> TestResult {
    let mirror = mirror();
    mirror.repo.corrupt_package("pkg0")?;
    mirror.repo.truncate_package("pkg1", 100)?;
    let home = Home::importer(NAME, text(mirror.repo.folder()));
    let torn = once(&home).exits(1);
    for name in ["pkg0", "pkg1"] {
        assert!(torn.err.contains(&mirror.repo.file_name(name)?), "{}", torn.err);
    }
    let resolved = home.run(["resolve", NAME, "--json"]).exits(1).json();
    assert_eq!(resolved["tree"], Value::Null);
    assert_eq!(resolved["state"], "none");
    Ok(())
}

#[test]
fn with_a_daemon_the_round_goes_through_its_socket() -> TestResult {
    let mut mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    let daemon = Daemon::start(&home);
    let first = once(&home).done();
    // With a daemon the lines for the client are complete.
    assert!(
        first.err.contains(&format!("/p2p/{}", daemon.peer)),
        "{}",
        first.err
    );
    assert!(
        first
            .err
            .contains(&format!("Server = http://{}/pacman/$repo/$arch", daemon.gateway))
    );
    once(&home).exits(3);
    mirror.repo.update(&["big"])?;
    once(&home).done();
    assert_eq!(tree(&home), expected(&home, &mirror.repo));
    let name = mirror.repo.file_name("big")?;
    assert_eq!(
        daemon.file(&format!("/ipns/{NAME}/{name}")),
        mirror.repo.bytes("big")?
    );
    daemon.stop();
    Ok(())
}

#[test]
fn resolve_has_exactly_the_fields_that_scripts_rely_on() {
    let mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    once(&home).done();
    let without = home.run(["resolve", NAME, "--json"]).done().json();
    let daemon = Daemon::start(&home);
    let with = home.run(["resolve", NAME, "--json"]).done().json();
    for resolved in [&without, &with] {
        let expected = [
            "age_s",
            "checked",
            "head",
            "importers",
            "name",
            "repositories",
            "sequence",
            "state",
            "tree",
            "upstream_time",
        ];
        assert_eq!(fields(resolved), BTreeSet::from(expected));
        assert_eq!(resolved["name"], NAME);
        assert_eq!(resolved["state"], "current");
        assert!(resolved["sequence"].is_u64() && resolved["age_s"].as_u64() < Some(600));
        // The databases of the test's repository are of 2025-04-12.
        assert_eq!(resolved["upstream_time"], "2025-04-12T23:20:00Z");
        let checked = resolved["checked"].as_str().unwrap();
        assert!(checked.len() == 20 && checked.ends_with('Z'), "{checked}");
        let importer = &resolved["importers"][0];
        assert_eq!(fields(importer), BTreeSet::from(["key", "sequence", "tree"]));
        assert_eq!(importer["key"], home.key().as_str());
        assert_eq!(importer["tree"], resolved["tree"]);
        assert_eq!(importer["sequence"], resolved["sequence"]);
        let repository = &resolved["repositories"][0];
        assert_eq!(
            fields(repository),
            BTreeSet::from(["age_s", "arch", "folder", "name", "state"])
        );
        assert_eq!(repository["name"], "core");
        assert_eq!(repository["folder"], "");
        assert_eq!(repository["arch"], "x86_64");
    }
    assert_eq!(without["tree"], with["tree"]);
    assert_eq!(without["head"], with["head"]);
    // The mirror of a KEY is the one that trusts it.
    let by_key = home.run(["resolve", &home.key(), "--json"]).done().json();
    assert_eq!(by_key["name"], NAME);
    for home in [&home, &Home::with(LOOPBACK)] {
        home.run(["resolve", "other.example"])
            .fails_with(&["no mirror `other.example` is configured here"]);
    }
    daemon.stop();
    home.run(["resolve", NAME, "--fresh"])
        .fails_with(&["no daemon answers"]);
}

#[test]
fn names_that_no_import_has_are_refused_with_what_to_do() {
    let home = Home::importer(NAME, "/nowhere");
    once(&home).fails_with_report();
    for arguments in [
        vec!["import", "other.example", "--once"],
        vec!["import", "other.example"],
    ] {
        home.run(arguments).fails_with(&[
            "no [[import]] of `other.example`",
            "hint: `pacstore init importer",
        ]);
    }
    let daemon = Daemon::start(&home);
    home.run(["import", "other.example", "--once"])
        .fails_with(&["no [[import]] of `other.example`"]);
    daemon.stop();
}

impl Ran {
    /// A round that failed: exit 1, the reason on stderr.
    #[track_caller]
    fn fails_with_report(self) {
        let ran = self.exits(1);
        assert!(
            ran.err.contains("error: ") && ran.err.contains("/nowhere"),
            "{}",
            ran.err
        );
    }
}

#[test]
fn a_folder_is_published_and_served_by_the_next_daemon() -> TestResult {
    let mut mirror = mirror();
    let folder = mirror.repo.folder().to_owned();
    let home = Home::with(LOOPBACK);
    let publish = || home.run(["publish", text(&folder), "--name", NAME]);
    publish().done();
    publish().exits(3);
    home.run(["config", "check"]).done();
    let daemon = Daemon::start(&home);
    let database = std::fs::read(mirror.repo.database_path())?;
    assert_eq!(daemon.file(&format!("/ipns/{NAME}/core.db")), database);
    assert_eq!(daemon.file("/pacman/core/x86_64/core.db"), database);
    let name = mirror.repo.file_name("big")?;
    assert_eq!(
        daemon.file(&format!("/pacman/core/x86_64/{name}")),
        mirror.repo.bytes("big")?
    );
    publish().exits(3);
    mirror.repo.update(&["pkg0"])?;
    publish().done();
    assert_eq!(tree(&home), expected(&home, &mirror.repo));
    let database = std::fs::read(mirror.repo.database_path())?;
    // One state for one pacman run: this address gets the new one when it asks for a database.
    assert_eq!(daemon.file("/pacman/core/x86_64/core.db"), database);
    home.run(["publish", text(&folder), "--name", "second.example"])
        .fails_with(&["the running daemon does not know `second.example` yet"]);
    daemon.stop();
    home.run(["publish", "/nowhere", "--name", NAME])
        .fails_with(&["/nowhere"]);
    Ok(())
}

#[test]
fn another_folder_is_not_published_under_a_name_that_is_taken() -> TestResult {
    let (first, second) = (mirror(), mirror());
    let home = Home::with(LOOPBACK);
    let publish = |mirror: &Mirror| home.run(["publish", text(mirror.repo.folder()), "--name", NAME]);
    publish(&first).done();
    publish(&second).fails_with(&["is imported from", text(first.repo.folder())]);
    // Another way to the same folder is the same folder.
    let link = home.path().join("link");
    std::os::unix::fs::symlink(first.repo.folder(), &link)?;
    home.run(["publish", text(&link), "--name", NAME]).exits(3);
    Ok(())
}

/// What is public does not become private by a flag: nothing is published then, and what to do is said.
#[test]
fn a_flag_that_says_otherwise_than_the_configuration_is_refused() {
    let mirror = mirror();
    let folder = text(mirror.repo.folder());
    let home = Home::with(LOOPBACK);
    home.run(["publish", folder, "--name", NAME]).done();
    home.run(["publish", folder, "--name", NAME, "--private"])
        .fails_with(&["is public", "public = false"]);
    home.run(["publish", folder, "--name", NAME, "--key", "other"])
        .fails_with(&["not by `other`", "pacstore key rotate"]);
    home.run(["publish", folder, "--name", NAME, "--key", NAME])
        .exits(3);
    home.run(["publish", folder, "--name", &NAME.to_uppercase()])
        .exits(3);
    home.run(["import", &NAME.to_uppercase(), "--once"]).exits(3);
    home.run(["publish", folder, "--name", "second.example", "--private"])
        .done();
    home.run(["publish", folder, "--name", "second.example", "--private"])
        .exits(3);
}

#[test]
fn a_publication_that_the_configuration_cannot_hold_leaves_it_as_it_was() -> TestResult {
    let mirror = mirror();
    let folder = text(mirror.repo.folder());
    let home = Home::with(LOOPBACK);
    home.run(["publish", folder, "--name", "no name", "--key", "one"])
        .fails_with(&["import.0.mirror"]);
    assert_eq!(std::fs::read_to_string(home.config_file())?, LOOPBACK);
    home.run(["publish", folder, "--name", NAME, "--key", "one"])
        .done();
    let before = std::fs::read_to_string(home.config_file())?;
    home.run(["publish", folder, "--name", "second.example", "--key", "one"])
        .fails_with(&["this key signs another mirror"]);
    assert_eq!(std::fs::read_to_string(home.config_file())?, before);
    Ok(())
}

/// First the configuration is checked and written beside, then the key is made, then the configuration is put in place.
#[test]
fn no_configuration_names_a_key_that_was_not_made_and_no_key_is_made_for_one_that_cannot_be() -> TestResult {
    let mirror = mirror();
    let folder = text(mirror.repo.folder());
    let publish = ["publish", folder, "--name", NAME];
    let init = [
        "init", "importer", "--name", NAME, "--from", folder, "--key", NAME,
    ];
    for (command, before) in [(&publish[..], LOOPBACK), (&init[..], "# nothing said\n")] {
        let home = Home::with(before);
        let keys = home.path().join("state/keys");
        let config = || std::fs::read_to_string(home.config_file());

        // The key cannot be made.
        std::fs::create_dir_all(home.path().join("state"))?;
        std::fs::write(&keys, "")?;
        home.run(command).fails_with(&["state/keys"]);
        assert_eq!(config()?, before);
        std::fs::remove_file(&keys)?;

        // The configuration cannot be written: nobody makes a file beside this one.
        std::fs::remove_file(home.config_file())?;
        std::os::unix::fs::symlink("/proc/self/timers", home.config_file())?;
        home.run(command).fails_with(&["/proc/"]);
        assert!(!keys.exists(), "no key was made for it");
        std::fs::remove_file(home.config_file())?;
        home.configure(before);

        // A key that was left by a stop before the configuration was there.
        let key = home.run(["key", "new", NAME]).done().line();
        home.run(command).done();
        assert_eq!(home.run(["key", "show", NAME]).done().line(), key);
        home.run(["config", "check"]).done();
        home.run(["import", NAME, "--once"]);
        assert_eq!(tree(&home), expected(&home, &mirror.repo));
    }
    Ok(())
}

#[test]
fn a_round_that_is_told_to_stop_ends_cleanly_and_the_next_one_goes_on() {
    let mirror = mirror();
    mirror.upstream.fault("big*", Fault::StallAfterHeader);
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    for stop in [Signal::TERM, Signal::INT] {
        mirror.upstream.clear_log();
        let mut command = home.command(["import", NAME, "--once"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        until("the stalled file is asked for", || {
            (!mirror.upstream.requests("big*").is_empty()).then_some(())
        });
        let mut said = child.stderr.take().unwrap();
        signal(child.id(), stop);
        let ended = wait(child, Duration::from_secs(20)).expect("it ends");
        let mut words = String::new();
        said.read_to_string(&mut words).unwrap();
        assert_eq!(ended.code(), Some(1), "{words}");
        assert!(words.contains("error: stopped by SIG"), "{words}");
    }
    mirror.upstream.heal();
    once(&home).done();
    assert_eq!(tree(&home), expected(&home, &mirror.repo));
}

#[test]
fn a_folder_without_a_database_is_not_published() -> TestResult {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("file"), "x")?;
    let home = Home::with(LOOPBACK);
    let ran = home
        .run(["publish", text(folder.path()), "--name", NAME])
        .exits(1);
    assert!(
        ran.err.contains("no database") || ran.err.contains("no repository"),
        "{}",
        ran.err
    );
    Ok(())
}

#[test]
fn verify_reads_everything_again_and_names_what_is_wrong() -> TestResult {
    let mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    once(&home).done();
    let report = home.run(["verify", NAME, "--json"]).done().json();
    assert_eq!(report["absent"], 0);
    assert_eq!(report["wrong"].as_array().map(Vec::len), Some(0));
    let files = std::fs::read_dir(mirror.repo.folder())?.count();
    assert_eq!(report["files"], files);
    home.run(["fsck"]).done();
    home.run(["verify", text(mirror.repo.folder())]).done();
    mirror.repo.corrupt_package("pkg2")?;
    let wrong = home.run(["verify", text(mirror.repo.folder())]).exits(1);
    assert!(
        wrong.out.contains(&mirror.repo.file_name("pkg2")?),
        "{}",
        wrong.out
    );
    let length = std::fs::metadata(mirror.repo.package_path("big")?)?.len();
    damage(&home.path().join("state/store"), length);
    let wrong = home.run(["verify", NAME]).exits(1);
    assert!(
        wrong.out.contains(&mirror.repo.file_name("big")?),
        "{}",
        wrong.out
    );
    home.run(["fsck"]).exits(1);
    home.run(["fsck", "--repair"]).done();
    home.run(["fsck"]).done();
    Ok(())
}

#[test]
fn fsck_fails_as_long_as_something_is_left_and_says_what() -> TestResult {
    let mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    once(&home).done();
    let length = std::fs::metadata(mirror.repo.package_path("big")?)?.len();
    damage(&home.path().join("state/store"), length);
    let foreign = home.path().join("state/store/files/notes.txt");
    std::fs::write(&foreign, "mine")?;
    let before = home.run(["fsck", "--json"]).exits(1).json();
    assert_eq!(before["left"], before["damages"]);
    let mended = home.run(["fsck", "--repair"]).exits(1);
    let left = format!("not of the store, left alone: {}", foreign.display());
    assert!(
        mended.out.contains(&left) && mended.out.contains("2 damages, 1 mended, 1 left"),
        "{}",
        mended.out
    );
    assert!(
        mended.err.contains("hint: move what is not of the store"),
        "{}",
        mended.err
    );
    assert_eq!(std::fs::read(&foreign)?, b"mine");
    let daemon = Daemon::start(&home);
    let left = home.run(["fsck", "--repair", "--json"]).exits(1).json()["left"].clone();
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    std::fs::remove_file(&foreign)?;
    home.run(["fsck"]).done();
    daemon.stop();
    Ok(())
}

#[test]
fn verify_waits_at_no_pipe() -> TestResult {
    let mirror = mirror();
    let home = Home::with(LOOPBACK);
    let folder = mirror.repo.folder();
    let made = |name: &str| {
        std::process::Command::new("mkfifo")
            .arg(folder.join(name))
            .status()
    };
    let package = mirror.repo.file_name("big")?;
    std::fs::remove_file(folder.join(&package))?;
    assert!(made(&package)?.success());
    let wrong = home.run(["verify", text(folder)]).exits(1);
    assert!(wrong.out.contains(&package), "{}", wrong.out);
    assert!(made("other.db")?.success());
    home.run(["verify", text(folder)])
        .fails_with(&["other.db` is no ordinary file"]);
    Ok(())
}

/// Changes one byte of the stored file that has this length.
fn damage(folder: &Path, length: u64) {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::metadata(&path).unwrap();
            if meta.is_dir() {
                open.push(path);
            } else if meta.len() == length {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[1_500_000] ^= 1;
                std::fs::remove_file(&path).unwrap();
                return std::fs::write(&path, bytes).unwrap();
            }
        }
    }
    panic!("no stored file of {length} bytes");
}

#[test]
fn gc_frees_what_no_snapshot_needs_and_says_when_it_cannot() {
    let mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    once(&home).done();
    let report = home.run(["gc", "--target", "0", "--json"]).done().json();
    assert_eq!(report["files"], 0, "everything is in the snapshot");
    home.run(["verify", NAME]).done();
    let daemon = Daemon::start(&home);
    home.run(["gc", "--target", "1GB"]).done();
    daemon.stop();
    home.run(["gc", "--target", "much"]).exits(2);
}

/// Nobody follows the mirror, so the second head waits.
#[test]
fn status_says_which_tree_waits_for_replicas_and_for_how_many() -> TestResult {
    let mut mirror = mirror();
    let home = Home::importer(NAME, text(mirror.repo.folder()));
    let config = std::fs::read_to_string(home.config_file())?;
    home.configure(&format!("{config}replicas = 2\n"));
    let daemon = Daemon::start(&home);
    let lines = || -> Vec<String> {
        let out = home.run(["status"]).done().out;
        let lines = out.lines().filter(|line| line.contains("replicas"));
        lines.map(str::to_owned).collect()
    };
    once(&home).done();
    assert_eq!(lines(), [""; 0], "the first head waits for nobody");
    mirror.repo.update(&["pkg0"])?;
    once(&home).done();
    let coming = expected(&home, &mirror.repo);
    assert_ne!(tree(&home), coming);
    let said = lines();
    let [line] = &said[..] else {
        panic!("one line, not {said:?}")
    };
    let waited = line.strip_prefix(&format!("         waiting for 2 of 2 replicas of {coming}, for "));
    let waited = waited
        .and_then(|rest| rest.strip_suffix(" s"))
        .map(str::parse::<u64>);
    assert!(matches!(waited, Some(Ok(_))), "{line}");
    daemon.stop();
    Ok(())
}

#[test]
fn the_schedule_imports_by_itself() -> TestResult {
    let mut mirror = mirror();
    let home = Home::importer(NAME, &mirror.upstream.url(""));
    let scheduled = std::fs::read_to_string(home.config_file())?.replace("\"manual\"", "\"1s\"");
    home.configure(&scheduled);
    let daemon = Daemon::start(&home);
    let published = |repo: &Repo| {
        let wanted = expected(&home, repo);
        until("the tree of upstream's state", || {
            let resolved = home.run(["resolve", NAME, "--json"]).json();
            (resolved["tree"] == wanted.as_str()).then_some(())
        });
    };
    published(&mirror.repo);
    mirror.repo.update(&["pkg3"])?;
    published(&mirror.repo);
    daemon.stop();
    Ok(())
}
