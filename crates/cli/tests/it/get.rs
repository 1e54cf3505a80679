//! `pacstore get`: any file by path, CID or URL, continued where it broke off.

use std::path::Path;
use std::process::Command;

use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream, random};

use crate::daemon::Daemon;
use crate::home::{Home, LOOPBACK};

const NAME: &str = "core.example";

#[test]
fn a_file_comes_by_each_kind_of_name_and_is_continued() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("big", 3_000_000))?;
    let home = Home::importer(NAME, repo.folder().to_str().unwrap());
    home.run(["import", NAME, "--once"]).done();
    let daemon = Daemon::start(&home);
    let (file, bytes) = (repo.file_name("big")?, repo.bytes("big")?);
    let cid = home
        .run(["cid", repo.package_path("big")?.to_str().unwrap()])
        .done()
        .line();
    let cid = cid.split('\t').next().unwrap();
    let place = tempfile::tempdir()?;
    let target = place.path().join("file");
    let get = |name: &str| home.run(["get", name, "-o", target.to_str().unwrap()]);
    for name in [
        format!("/ipns/{NAME}/{file}"),
        format!("/ipns/{}/{file}", home.key()),
        format!("/pacman/core/x86_64/{file}"),
        format!("/ipfs/{cid}"),
        cid.to_owned(),
        format!("ipfs://{cid}"),
        format!("ipns://{NAME}/{file}"),
        format!("http://{}/ipns/{NAME}/{file}", daemon.gateway),
    ] {
        let ran = get(&name).done();
        assert_eq!(ran.out, "", "the file goes to its place, not to stdout");
        assert_eq!(std::fs::read(&target)?, bytes, "{name}");
        std::fs::remove_file(&target)?;
    }
    let said = home
        .run(["--json", "get", cid, "-o", target.to_str().unwrap()])
        .done();
    let expected = serde_json::json!({ "path": cid, "output": target.to_str(), "bytes": bytes.len() });
    assert_eq!(said.json(), expected);
    // What is there is continued, also when all of it is there.
    for have in [1, 1_048_576, 2_000_000, bytes.len()] {
        std::fs::write(&target, &bytes[..have])?;
        get(cid).done();
        assert_eq!(std::fs::read(&target)?, bytes, "{have} bytes were there");
    }
    // What is no beginning of it goes: another file's bytes, one bit of a leaf in its middle, bytes behind its end.
    let mut flipped = bytes[..2_500_000].to_vec();
    flipped[1_200_000] ^= 1;
    for there in [
        [&bytes[..], b"more"].concat(),
        flipped,
        vec![b'x'; 10],
        vec![b'x'; 4_000_000],
    ] {
        std::fs::write(&target, there)?;
        get(cid).done();
        assert!(
            std::fs::read(&target)? == bytes,
            "it has the bytes that were asked for"
        );
    }
    // A new state of a database is not joined to what was there of the old one.
    let mut repo = repo;
    let database = format!("/ipns/{NAME}/core.db");
    std::fs::remove_file(&target)?;
    get(&database).done();
    let old = std::fs::read(&target)?;
    repo.add("other", 5_000)?;
    home.run(["import", NAME, "--once"]).done();
    get(&database).done();
    let new = std::fs::read(&target)?;
    assert!(new == std::fs::read(repo.database_path())? && new != old);
    for arguments in [&["get"][..], &["--json", "get"]] {
        let rest = [database.as_str(), "-o", "/dev/stdout"];
        let mut piped = home.command(arguments.iter().chain(&rest));
        let piped = piped.output()?;
        assert!(piped.status.success() && piped.stdout == new, "{piped:?}");
    }
    daemon.stop();
    Ok(())
}

#[test]
fn what_cannot_be_had_fails_and_leaves_no_file() -> TestResult {
    let place = tempfile::tempdir()?;
    let target = place.path().join("file");
    let home = Home::with(LOOPBACK);
    let get = |name: &str| home.run(["get", name, "-o", target.to_str().unwrap()]);
    get("/ipns/core.example/a").fails_with(&["no daemon answers"]);
    let daemon = Daemon::start(&home);
    get("/ipns/core.example/a").fails_with(&["no mirror `core.example` is configured here"]);
    get("/ipns/core.example/../a").fails_with(&["error: "]);
    get("/pacman/core/x86_64/a").fails_with(&["no configured mirror has"]);
    get("nonsense").fails_with(&["`nonsense` is no CID"]);
    get("/etc/passwd").fails_with(&["write /ipns/NAME/PATH"]);
    let json = ["--json", "get", "nonsense", "-o", target.to_str().unwrap()];
    assert_eq!(home.run(json).fails_with(&["`nonsense` is no CID"]).out, "");
    assert!(!Path::new(&target).exists());
    daemon.stop();
    home.run(["get", "/ipns/core.example/a"]).exits(2);
    Ok(())
}

/// As XferCommand of a repository in a folder of this machine.
#[test]
fn a_file_of_this_machine_is_copied_and_what_is_no_file_refused() -> TestResult {
    let place = tempfile::tempdir()?;
    let home = Home::with(LOOPBACK);
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let bytes = random(7, 3_000_000);
    std::fs::write(path("a b.db"), &bytes)?;
    let target = path("target.part");
    for there in [
        &b""[..],
        b"another one",
        &bytes[..1000],
        &[&bytes[..], b"more"].concat(),
    ] {
        std::fs::write(&target, there)?;
        let url = format!("file://{}", path("a%20b.db"));
        home.run(["get", &url, "-o", &target]).done();
        assert!(
            std::fs::read(&target)? == bytes,
            "{} bytes were there",
            there.len()
        );
    }
    std::fs::remove_file(&target)?;
    let pipe = path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status()?.success());
    for (url, word) in [
        (format!("file://{pipe}"), "is no ordinary file"),
        (format!("file://{}", path("nothing")), "No such file"),
        ("file://host/path".to_owned(), "is of another machine"),
        ("ftp://127.0.0.1/core.db".to_owned(), "`ftp` URLs are not fetched"),
        (
            "rsync://127.0.0.1/core.db".to_owned(),
            "hint: write an http, https or file URL",
        ),
    ] {
        home.run(["get", &url, "-o", &target]).fails_with(&[word]);
        assert!(!Path::new(&target).exists(), "{url}");
    }
    let folder = place.path().to_str().unwrap();
    home.run(["get", "file:///etc/hostname", "-o", folder])
        .fails_with(&["is a folder", "hint: name the file in it"]);
    for arguments in [
        ["get", "--output=%o", "file:///etc/hostname"],
        ["get", "%u", "--output=file"],
    ] {
        home.run(arguments)
            .fails_with(&["as it is", "hint: pacman replaces `%o`"]);
    }
    assert!(!Path::new("%o").exists());
    Ok(())
}

/// As XferCommand without a daemon: exactly the URL, going on with what is there.
#[test]
fn a_url_is_fetched_straight_where_no_daemon_runs() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("big", 3_000_000))?;
    let upstream = Upstream::folder(folder.path())?;
    let base = upstream.url("/");
    let (file, bytes) = (repo.file_name("big")?, repo.bytes("big")?);
    let home = Home::with(LOOPBACK);
    let place = tempfile::tempdir()?;
    let target = place.path().join("file.part");
    let get = |name: &str| home.run(["get", &format!("{base}{name}"), "-o", target.to_str().unwrap()]);
    for have in [0, 1, 2_000_000, bytes.len()] {
        std::fs::write(&target, &bytes[..have])?;
        let ran = get(&file).done();
        assert_eq!(
            (ran.out.as_str(), ran.err.as_str()),
            ("", ""),
            "pacman shows what we say"
        );
        assert_eq!(std::fs::read(&target)?, bytes, "{have} bytes were there");
    }
    let url = format!("{base}{file}");
    for have in [0, 1, bytes.len()] {
        std::fs::write(&target, &bytes[..have])?;
        let said = home
            .run(["--json", "get", &url, "-o", target.to_str().unwrap()])
            .done();
        let expected = serde_json::json!({ "path": url, "output": target.to_str(), "bytes": bytes.len() });
        assert_eq!(said.json(), expected, "{have} bytes were there");
    }
    // Bytes behind its end, other bytes, and as many other bytes.
    let longer = [&bytes[..], b"more"].concat();
    for there in [
        longer,
        vec![b'x'; 900],
        vec![b'x'; 200_000],
        vec![b'x'; bytes.len()],
    ] {
        std::fs::write(&target, &there)?;
        get(&file).done();
        assert!(
            std::fs::read(&target)? == bytes,
            "what was no beginning of it is gone, {} bytes of it",
            there.len()
        );
    }
    let piped = home.command(["get", &url, "-o", "-"]).output()?;
    assert!(piped.status.success() && piped.stdout == bytes, "`-` is stdout");
    // Two versions of a database are never joined.
    let db = std::fs::read(repo.folder().join("core.db"))?;
    std::fs::write(&target, b"an older one")?;
    get("core.db").done();
    assert_eq!(std::fs::read(&target)?, db);
    std::fs::remove_file(&target)?;
    get("core.nothing").fails_with(&["answered 404"]);
    assert!(!target.exists());
    Ok(())
}

/// As XferCommand beside a daemon: a package of a configured upstream comes through it, all else straight.
#[test]
fn a_package_of_a_configured_upstream_comes_through_the_daemon_and_without_it_straight() -> TestResult {
    let folder = tempfile::tempdir()?;
    let repo = Repo::create(folder.path(), RepoSpec::new("core").package("big", 900_000))?;
    let upstream = Upstream::folder(folder.path())?;
    let base = upstream.url("/");
    let (file, bytes) = (repo.file_name("big")?, repo.bytes("big")?);
    let home = Home::with(&format!(
        "{LOOPBACK}\n[[repository]]\nname = \"core\"\nupstreams = \"{base}\"\n"
    ));
    let daemon = Daemon::start(&home);
    daemon.file("/pacman/core/x86_64/core.db");
    let place = tempfile::tempdir()?;
    let target = place.path().join("file.part");
    let get = || {
        home.run(["get", &format!("{base}{file}"), "-o", target.to_str().unwrap()])
            .done();
        let got = std::fs::read(&target);
        std::fs::remove_file(&target).and(got)
    };
    assert_eq!(get()?, bytes);
    upstream.clear_log();
    assert_eq!(get()?, bytes);
    assert_eq!(upstream.requests(&file).len(), 0, "the daemon has it");
    daemon.stop();
    assert_eq!(get()?, bytes);
    assert_eq!(upstream.requests(&file).len(), 1, "nobody but the mirror");
    Ok(())
}
