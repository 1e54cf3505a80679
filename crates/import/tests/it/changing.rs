//! Upstreams that change while they are read.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use pacstore_import::Progress;
use pacstore_testkit::{Fault, Repo, RepoSpec, RsyncDaemon, TestResult, Upstream, script};
use pacstore_upstream::RsyncOptions;

use crate::common::{Bench, cid_of, of_directory, of_url};

#[tokio::test]
async fn a_web_mirror_that_is_updated_midway_gives_its_later_state() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(8, 4_000))?;
    let trigger = repo.file_name("pkg5")?;
    let repo = Arc::new(Mutex::new(Some(repo)));
    let server = Upstream::folder(dir.path())?;
    let kept = Arc::clone(&repo);
    server.on_request(&trigger, move |_| {
        if let Some(mut repo) = kept.lock().unwrap().take() {
            repo.update(&["pkg1", "pkg6"]).unwrap();
            repo.resign().unwrap();
        }
    });
    let bench = Bench::new();
    let round = bench.round(&of_url(&server.url(""))).await?;
    assert!(repo.lock().unwrap().is_none(), "the update happened");
    assert_eq!(round.tree, cid_of(dir.path()), "{:?}", round.repositories);
    assert!(1 < round.passes);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> TestResult {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status()?;
    assert!(copied.success());
    Ok(())
}

#[tokio::test]
async fn an_rsync_module_is_listed_once_unless_its_databases_move_midway() -> TestResult {
    let (newer, served) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut repo = Repo::create(newer.path(), RepoSpec::new("core").packages(8, 4_000))?;
    copy(newer.path(), served.path())?;
    let Some(daemon) = RsyncDaemon::serve(served.path())? else {
        return Ok(());
    };
    let bench = Bench::new();
    let (log, trigger) = (bench.dir.path().join("log"), bench.dir.path().join("trigger"));
    // Where there is a trigger, the module moves before packages are asked for: after listing and databases.
    let body = format!(
        "echo \"$*\" >> {log}\n[ $(wc -l < {log}) = 3 ] && [ -e {trigger} ] && cp -a {newer}/. {served}/\nexec rsync \"$@\"",
        log = log.display(),
        trigger = trigger.display(),
        newer = newer.path().display(),
        served = served.path().display(),
    );
    let program = script(bench.dir.path(), "rsync", &body)?;
    let mut importer = bench.importer(of_url(&daemon.url("")));
    importer.set_rsync(RsyncOptions {
        program,
        ..RsyncOptions::default()
    });
    let listings = || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter(|line| line.contains("--list-only")).count()
    };
    let first = importer.round(&Progress::default()).await?;
    assert_eq!(
        (first.tree, first.passes, listings()),
        (cid_of(served.path()), 1, 1)
    );

    repo.update(&["pkg1"])?;
    copy(newer.path(), served.path())?;
    repo.update(&["pkg2", "pkg6"])?;
    std::fs::remove_file(&log)?;
    std::fs::write(&trigger, "")?;
    let round = importer.round(&Progress::default()).await?;
    let fresh = Bench::new().round(&of_url(&daemon.url(""))).await?;
    assert_eq!((round.tree, round.passes, listings()), (fresh.tree, 2, 2));
    assert_ne!(round.tree, first.tree);
    Ok(())
}

#[tokio::test]
async fn a_web_mirror_that_never_holds_still_does_not_go_on_for_ever() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(4, 1_000))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let spec = of_url(&server.url(""));
    let first = bench.round(&spec).await?;
    repo.update(&["pkg0"])?;
    server.on_request("*.db.sig", move |_| repo.update(&["pkg1"]).unwrap());
    let round = bench.round(&spec).await?;
    assert_eq!(round.passes, 3);
    // Either it was caught whole at last, or it kept what it had.
    assert!(round.tree != first.tree || round.is_torn());
    assert_eq!(bench.files(&round.tree).len() as u64, round.counts.files);
    Ok(())
}

#[tokio::test]
async fn a_directory_that_changes_while_it_is_read_is_read_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(40, 300_000))?;
    let bench = Bench::new();
    let progress = Progress::default();
    let mut watch = progress.subscribe();
    let mut importer = bench.importer(of_directory(dir.path()));
    let change = async {
        watch
            .wait_for(|s| s.step == pacstore_import::Step::Reading && 10 < s.files_done)
            .await
            .unwrap();
        repo.update(&["pkg1", "pkg39"]).unwrap();
    };
    let (round, ()) = tokio::join!(importer.round(&progress), change);
    let round = round?;
    let fresh = Bench::new().round(&of_directory(dir.path())).await?;
    assert_eq!(round.tree, fresh.tree);
    assert_eq!(round.tree, cid_of(dir.path()));
    Ok(())
}

#[tokio::test]
async fn one_file_that_does_not_come_tears_its_repository_only() -> TestResult {
    let dir = tempfile::tempdir()?;
    let core = Repo::create(dir.path().join("core"), RepoSpec::new("core").packages(3, 2_000))?;
    let mut extra = Repo::create(
        dir.path().join("extra"),
        RepoSpec::new("extra").packages(3, 2_000),
    )?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let spec = of_url(&server.url(""));
    let first = bench.round(&spec).await?;
    extra.update(&["pkg0"])?;
    server.fault(&format!("extra/{}", extra.file_name("pkg0")?), Fault::Status(500));
    let round = bench.round(&spec).await?;
    assert_eq!(round.tree, first.tree);
    assert!(round.is_torn());
    assert!(round.repositories[0].checked, "core is as it was");
    server.heal();
    assert_eq!(bench.round(&spec).await?.tree, cid_of(dir.path()));
    drop(core);
    Ok(())
}
