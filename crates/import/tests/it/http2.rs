//! An upstream that speaks HTTP/2: agreed on within TLS, many files on one connection, which may break or be left.

use std::sync::Arc;

use http::Version;
use pacstore_import::{Importer, Progress};
use pacstore_runtime::Clock;
use pacstore_testkit::{At, Fault, Repo, RepoSpec, Request, TestResult, Upstream};
use pacstore_upstream::{Http, HttpOptions, Url};

use crate::common::{Bench, cid_of, of_url, troubles};

const PACKAGES: usize = 60;

fn trusting(server: &Upstream) -> Http {
    Http::new(HttpOptions {
        roots: server.certificate().map(<[u8]>::to_vec).into_iter().collect(),
        ..HttpOptions::default()
    })
}

fn importer(bench: &Bench, server: &Upstream) -> Importer {
    let spec = of_url(&server.url(""));
    let work = bench.dir.path().join("work");
    let (store, tasks) = (bench.store.clone(), bench.tasks.clone());
    Importer::new(spec, store, trusting(server), tasks, Clock::system(), work).unwrap()
}

#[tokio::test]
async fn many_files_come_over_one_connection_of_http_2() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(PACKAGES, 20_000))?;
    let server = Upstream::folder_over_http2(dir.path())?;
    let bench = Bench::new();
    let mut importer = importer(&bench, &server);
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    let log = server.log();
    assert!(log.len() > 2 * PACKAGES, "packages and signatures");
    assert!(log.iter().all(|request| request.version == Version::HTTP_2));
    // Requests that begin before the first answer may each have made one.
    let first = server.connections();
    assert!(first <= HttpOptions::default().per_host, "{first} connections");

    repo.update(&["pkg1", "pkg2", "pkg3", "pkg4", "pkg5", "pkg6"])?;
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    assert_eq!(server.connections(), first, "no other one for another round");
    Ok(())
}

/// Nobody vouches for it: no request comes through.
#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(2, 600))?;
    let server = Upstream::folder_over_http2(dir.path())?;
    let bench = Bench::new();
    assert!(bench.round(&of_url(&server.url(""))).await.is_err());
    assert_eq!(server.log(), []);
    Ok(())
}

/// RST_STREAM in the middle of files: those are asked for again, what came is gone on with, the connection lives.
#[tokio::test]
async fn streams_that_are_reset_in_the_middle_of_files_are_asked_for_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(PACKAGES, 20_000))?;
    let server = Upstream::folder_over_http2(dir.path())?;
    for name in ["pkg7-*.zst", "pkg8-*.zst", "pkg9-*.zst"] {
        server.fault_times(name, 1, Fault::Truncate(At::Percent(50)));
    }
    let bench = Bench::new();
    let mut importer = importer(&bench, &server);
    let round = importer.round(&Progress::default()).await?;
    let named = troubles(&round.repositories);
    assert_eq!(
        (round.tree, round.is_torn()),
        (cid_of(dir.path()), false),
        "{named:?}"
    );
    let again = server.requests("pkg8-*.zst");
    assert!(again.len() > 1 && !again[0].complete, "{again:#?}");
    let rest = |request: &Request| request.complete && request.from > 0;
    assert!(again.iter().any(rest), "from where it broke off: {again:#?}");
    assert!(server.connections() <= HttpOptions::default().per_host);
    Ok(())
}

/// GOAWAY: the files under way come to their end, the next ones over another connection.
#[tokio::test]
async fn a_connection_that_goes_away_in_the_middle_costs_nothing_but_another_one() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(PACKAGES, 20_000))?;
    let server = Arc::new(Upstream::folder_over_http2(dir.path())?);
    let bench = Bench::new();
    let mut importer = importer(&bench, &server);
    importer.round(&Progress::default()).await?;
    let before = server.connections();
    let names: Vec<String> = (20..50).map(|number| format!("pkg{number}")).collect();
    repo.update(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let leaving = Arc::downgrade(&server);
    server.on_request("pkg3*.zst", move |_| {
        if let Some(server) = leaving.upgrade() {
            server.go_away();
        }
    });
    server.clear_log();
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    assert!(
        before < server.connections(),
        "it was left; without that it is used again"
    );
    let log = server.log();
    assert!(log.iter().all(|request| request.complete), "{log:#?}");
    Ok(())
}

/// What the client offers and takes.
#[tokio::test]
async fn http_2_is_what_is_agreed_on() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::write(dir.path().join("file"), b"it")?;
    let server = Upstream::folder_over_http2(dir.path())?;
    let url = Url::parse(&server.url("file"))?;
    let mut answer = trusting(&server).get(&pacstore_upstream::Get::new(&url)).await?;
    assert_eq!(answer.chunk().await?.as_deref(), Some(&b"it"[..]));
    assert_eq!(server.log()[0].version, Version::HTTP_2);
    Ok(())
}
