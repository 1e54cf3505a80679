//! Names, hosts and paths: what is ours, what leads elsewhere, what is not there.

use std::time::{Duration, Instant};

use pacstore_import::Files;
use pacstore_names::Layout;
use pacstore_testkit::{Repo, RepoSpec, TestResult};

use crate::client::serve;
use crate::nodes::{NAME, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn all_forms_of_a_path_lead_to_the_same_file() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(
        dir.path().join("core/os/x86_64"),
        RepoSpec::new("core").package("zlib", 9_000),
    )?;
    let mut plan = Plan::importer(dir.path(), Files::Listed);
    plan.config.imports[0].layout = Layout::Archlinux;
    plan.config.imports[0].spec.layout = pacstore_import::Layout::Archlinux;
    let key = plan.key();
    let importer = plan.start().await;
    importer.import().await;
    let served = serve(importer).await;
    let name = repo.file_name("zlib")?;
    let want = repo.bytes("zlib")?;
    let label = NAME.replace('.', "-");
    for (path, host) in [
        (format!("/ipns/{NAME}/core/{name}"), None),
        (format!("/ipns/{NAME}/core/os/x86_64/{name}"), None),
        (format!("/ipns/{key}/core/{name}"), None),
        (format!("/ipns/TEST.mirror/core/{name}"), None),
        (format!("/pacman/core/x86_64/{name}"), None),
        (
            format!("/core/{name}"),
            Some(format!("Host: {NAME}.ipns.localhost:8080")),
        ),
        (
            format!("/core/os/x86_64/{name}"),
            Some(format!("Host: {label}.ipns.localhost")),
        ),
        (
            format!("/core/{name}"),
            Some(format!("Host: {key}.ipns.localhost")),
        ),
        (
            format!("/ipns/{NAME}/core/{name}"),
            Some("Host: LOCALHOST:1".to_owned()),
        ),
        (
            format!("/ipns/{NAME}/core/{name}"),
            Some("Host: [::1]:8080".to_owned()),
        ),
    ] {
        let headers: Vec<&str> = host.iter().map(String::as_str).collect();
        let got = served.get(&path, &headers).await;
        assert!(
            got.status == 200 && got.body == want,
            "{path} {host:?}: {} {}",
            got.status,
            got.text()
        );
    }
    assert_eq!(served.get("/", &[]).await.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_ours_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::write(dir.path().join("file"), b"x")?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let served = serve(importer).await;
    for host in [
        "evil.example",
        "localhost.evil.example",
        "evil.localhost",
        "127.0.0.1.evil.example",
    ] {
        let refused = served
            .get(&format!("/ipns/{NAME}/file"), &[&format!("Host: {host}")])
            .await;
        assert_eq!(refused.status, 403, "{host}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_leads_elsewhere_is_refused_and_one_that_is_not_there_is_404_at_once() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::write(dir.path().join("file"), b"x")?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let served = serve(importer).await;
    let long = "x".repeat(300);
    let longer = format!("{}x", "y/".repeat(5000));
    for path in [
        "../file",
        "a/../file",
        "%2e%2e/file",
        "%2E./file",
        "a%2ffile",
        "a%2Ffile",
        "%00",
        "a%00b",
        "./file",
        "a//b",
        "%zz",
        &long,
        &longer,
    ] {
        let refused = served.get(&format!("/ipns/{NAME}/{path}"), &[]).await;
        assert_eq!(refused.status, 400, "{path}: {}", refused.text());
    }
    for path in [
        format!("/ipns/{NAME}/nothing"),
        format!("/ipns/{NAME}/file/below"),
        format!("/ipns/{NAME}/zlib-1-1-any.pkg.tar.zst"),
        format!("/ipns/{NAME}/core.db"),
        format!("/ipns/{NAME}/%252e%252e"),
        "/ipns/other.mirror/file".to_owned(),
        "/ipns/k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8/file".to_owned(),
        "/pacman/core/x86_64/core.db".to_owned(),
        "/pacman/core".to_owned(),
        "/etc/passwd".to_owned(),
    ] {
        let began = Instant::now();
        let got = served.get(&path, &[]).await;
        assert_eq!(got.status, 404, "{path}");
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{path} took {:?}",
            began.elapsed()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_in_several_folders_is_404_and_the_answer_names_them() -> TestResult {
    let dir = tempfile::tempdir()?;
    for folder in ["stable/x86_64", "testing/x86_64"] {
        Repo::create(
            dir.path().join(folder),
            RepoSpec::new("core").package(folder.replace('/', "-"), 1000),
        )?;
    }
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let served = serve(importer).await;
    let got = served.get("/pacman/core/x86_64/core.db", &[]).await;
    assert_eq!(got.status, 404);
    for folder in ["stable/x86_64", "testing/x86_64"] {
        assert!(
            got.text().contains(&format!("/ipns/{NAME}/{folder}")),
            "{}",
            got.text()
        );
        assert_eq!(
            served
                .get(&format!("/ipns/{NAME}/{folder}/core.db"), &[])
                .await
                .status,
            200
        );
    }
    assert_eq!(served.get("/pacman/core/riscv64/core.db", &[]).await.status, 404);
    Ok(())
}
