//! `pacstore get`: any file by path, CID or URL, continued where it broke off.

use std::path::Path;

use pacstore_testkit::{Repo, RepoSpec, TestResult};

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
    // What is there is continued, also when all of it is there.
    for have in [1, 1_048_576, 2_000_000, bytes.len()] {
        std::fs::write(&target, &bytes[..have])?;
        get(cid).done();
        assert_eq!(std::fs::read(&target)?, bytes, "{have} bytes were there");
    }
    std::fs::write(&target, [&bytes[..], b"more"].concat())?;
    get(cid).fails_with(&["the file has", "bytes only"]);
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
    get("/pacman/core/x86_64/a").fails_with(&["no configured mirror has `core`"]);
    get("nonsense").fails_with(&["`nonsense` is no CID"]);
    get("/etc/passwd").fails_with(&["write /ipns/NAME/PATH"]);
    assert!(!Path::new(&target).exists());
    daemon.stop();
    home.run(["get", "/ipns/core.example/a"]).exits(2);
    Ok(())
}
