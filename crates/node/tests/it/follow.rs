//! Following: heads come, move, and never go back.

use std::time::Duration;

use pacstore_import::Files;
use pacstore_node::Answer;
use pacstore_runtime::CancellationToken;
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::nodes::{Plan, TestNode};

/// Every file below `dir`, as paths from there.
pub(crate) fn names(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

async fn same_files(client: &TestNode, dir: &std::path::Path) -> u64 {
    let mut bytes = 0;
    for name in names(dir) {
        let want = fs_err::read(dir.join(&name)).unwrap();
        let got = client.get(&name).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(got == want, "{name} differs");
        bytes += want.len() as u64;
    }
    bytes
}

/// Files of one leaf and of several, databases, signatures: all over the one peer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_every_file_of_a_repository_from_its_peer_alone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("small", 20_000)
        .package("big", 3_500_000)
        .packages(5, 5_000);
    Repo::create(dir.path().join("core/os/x86_64"), spec)?;
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    client.follows(&importer).await;

    let bytes = same_files(&client, dir.path()).await;
    let counted = client.node.bytes_out();
    assert_eq!(
        (counted.lan, counted.upstream, counted.disk, counted.peer),
        (bytes, 0, 0, 0)
    );

    importer.stop().await;
    assert_eq!(same_files(&client, dir.path()).await, bytes);
    let counted = client.node.bytes_out();
    assert_eq!(
        counted.lan,
        2 * bytes,
        "from its own disk now, counted under where it came from"
    );
    assert_eq!((counted.upstream, counted.disk, counted.peer), (0, 0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_head_reaches_a_connected_client_and_its_files_too() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 10_000))?;
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    client.follows(&importer).await;
    repo.update(&["pkg1"])?;
    repo.add("new", 50_000)?;
    importer.import().await;
    client.follows(&importer).await;
    same_files(&client, dir.path()).await;
    Ok(())
}

/// Nothing that comes with a head is lost to a gc that runs while it comes: it is whole once the look that brought it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_while_garbage_is_collected_is_whole() -> TestResult {
    let dir = tempfile::tempdir()?;
    for n in 0..300 {
        let folder = dir.path().join(format!("folder{n}"));
        fs_err::create_dir(&folder)?;
        fs_err::write(folder.join(format!("file{n}")), format!("{n}"))?;
    }
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    let stop = CancellationToken::new();
    let collecting = {
        let (store, stop) = (client.node.store().clone(), stop.clone());
        std::thread::spawn(move || {
            let mut passes = 0;
            while !stop.is_cancelled() {
                store.gc(Some(0)).expect("garbage is collected");
                passes += 1;
            }
            passes
        })
    };
    client.connected().await;
    let followed = async {
        while client.tree().is_none() {
            client.refresh().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), followed).await?;
    stop.cancel();
    assert!(0 < collecting.join().expect("no panic"));
    importer.stop().await;
    for name in names(dir.path()) {
        client.file(&name).await;
    }
    Ok(())
}

/// Directories that came before the line broke are used, not asked again, and nothing is taken for whole too early.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_whose_directories_came_in_part_becomes_current_when_the_rest_is_here() -> TestResult {
    let dir = tempfile::tempdir()?;
    for n in 0..200 {
        let folder = dir.path().join(format!("folder{n}"));
        fs_err::create_dir(&folder)?;
        fs_err::write(folder.join(format!("file{n}")), format!("{n}"))?;
    }
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let relay = importer.relay(Some(400_000)).await;
    relay.cut_after(20_000);
    let client = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)])
        .start()
        .await;
    client.connected().await;
    client.refresh().await;
    assert_eq!(client.tree(), None, "half a tree is no head");
    relay.heal();
    client.follows(&importer).await;
    assert_eq!(client.get("folder199/file199").await?, b"199");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_head_databases_and_packages_are_an_ordinary_mirrors() -> TestResult {
    let dir = tempfile::tempdir()?;
    let upstream = Upstream::folder(dir.path())?;
    let key = Plan::importer(dir.path(), Files::Listed).key();
    let alone = Plan::client(vec![key], Vec::new()).start().await;
    assert!(matches!(alone.ask(1, "core.db").await, Answer::NotFound(_)));
    let client = Plan::client(vec![key], Vec::new())
        .upstream(&upstream)
        .start()
        .await;
    for name in [
        "core.db",
        "core.db.sig",
        "core.files",
        "pkg-1-1-any.pkg.tar.zst",
        "pkg-1-1-any.pkg.tar.zst.sig",
    ] {
        let answer = client.ask(1, name).await;
        let there = matches!(&answer, Answer::Redirect(url) if url.as_str() == upstream.url(name));
        assert!(there, "{name}: {answer:?}");
    }
    assert!(matches!(client.ask(1, "other").await, Answer::NotFound(_)));
    Ok(())
}
