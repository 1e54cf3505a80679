//! Receipts: what is told afterwards of a file that was given.

use pacstore_import::Files;
use pacstore_node::{Answer, Ending, FetchError, FileAnswer, Receipt};
use pacstore_testkit::{Fault, Repo, RepoSpec, TestResult, Upstream, random};

use crate::nodes::{Failure, NAME, Plan, SOON, TestNode};
use crate::solo::{LARGE, solo};

/// Gives all of `file` as the gateway does.
pub(crate) async fn give(node: &TestNode, file: &FileAnswer) -> Result<Vec<u8>, Failure> {
    let all = async {
        let (mut giving, first) = node.node.give(file, 0, file.len).await?;
        let mut data = first.to_vec();
        while (data.len() as u64) < file.len {
            data.extend_from_slice(&giving.read(data.len() as u64, file.len).await?);
        }
        Ok(data)
    };
    tokio::time::timeout(SOON, all).await?
}

/// The only receipt about `what`.
fn only(node: &TestNode, what: &str) -> Receipt {
    let mut told = node.node.why(what);
    assert_eq!(told.len(), 1, "{told:#?}");
    told.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_a_peer_names_the_peer_and_the_head_and_is_told_after_a_restart() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (big, small) = (random(1, 5_000_000), random(2, 200_000));
    fs_err::write(dir.path().join("big-1-1-any.pkg.tar.zst"), &big)?;
    fs_err::write(dir.path().join("small"), &small)?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    client.follows(&importer).await;
    let peer = importer.node.peer_id().unwrap().to_string();
    let head = importer.node.mirror(NAME).unwrap().current().unwrap().cid;
    for (path, what, data) in [
        ("big-1-1-any.pkg.tar.zst", "big", &big),
        ("small", "small", &small),
    ] {
        let file = client.file(path).await;
        assert!(give(&client, &file).await? == *data);
        let receipt = only(&client, what);
        let len = data.len() as u64;
        assert_eq!((&*receipt.name, receipt.ended), (path, Ending::Given));
        assert_eq!((receipt.len, receipt.bytes.lan), (Some(len), len));
        assert_eq!(receipt.root, Some(file.root.to_string()));
        let [giver] = &receipt.givers[..] else {
            panic!("{:?}", receipt.givers)
        };
        assert_eq!((&giver.who, &*giver.source, giver.bytes), (&peer, "lan", len));
        let checked = receipt.checked.unwrap();
        assert!(
            checked.contains(NAME) && checked.contains(&head.to_string()),
            "{checked}"
        );
        assert_eq!((receipt.why, receipt.url), (None, None));
    }
    let before = (client.node.why("big"), client.node.why("small"));
    let client = client.stop().await.start().await;
    assert_eq!((client.node.why("big"), client.node.why("small")), before);
    // From disk, and still it is told who brought it.
    let file = client.file("small").await;
    assert!(give(&client, &file).await? == small);
    let told = client.node.why("small");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert_eq!(told[0].givers, told[1].givers);
    assert_eq!(told[0].bytes, told[1].bytes, "counted under the first source");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_from_a_mirror_names_the_mirror_and_the_database_s_sha256() -> TestResult {
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("small", 30_000)
        .package("large", LARGE);
    let repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    node.pacman_bytes("core.db").await?;
    for package in ["small", "large"] {
        let name = repo.file_name(package)?;
        let file = node.pacman_file(&name).await;
        assert!(give(&node, &file).await? == repo.bytes(package)?, "{package}");
        let receipt = only(&node, package);
        assert_eq!((&receipt.name, receipt.ended), (&name, Ending::Given));
        assert_eq!(receipt.bytes.upstream, file.len);
        let [giver] = &receipt.givers[..] else {
            panic!("{package}: {:?}", receipt.givers)
        };
        let host = mirror.url("").replace("http://", "");
        assert_eq!(giver.who, host.trim_end_matches('/'));
        assert_eq!((&*giver.source, giver.bytes), ("upstream", file.len));
        let checked = receipt.checked.unwrap();
        assert!(
            checked.starts_with("SHA-256 ") && checked.ends_with(" in the database of repository core"),
            "{checked}"
        );
    }
    let database = node.pacman_file("core.db").await;
    give(&node, &database).await?;
    let checked = only(&node, "core.db").checked.unwrap();
    assert!(checked.contains("one mirror of repository core"), "{checked}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_elsewhere_or_leaves_half_way_finds_out_why() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let name = repo.file_name("large")?;
    let mirror = Upstream::folder(dir.path())?;
    let node = solo(&[&mirror]).start().await;
    node.pacman_bytes("core.db").await?;
    // No database names it.
    let other = "other-1-1-any.pkg.tar.zst";
    let Answer::Redirect(redirect) = node.pacman(1, other).await else {
        panic!("it is named like a package")
    };
    node.node.sent_elsewhere(other, &redirect);
    let receipt = only(&node, "other");
    assert_eq!(receipt.ended, Ending::Redirected);
    assert_eq!(receipt.url, Some(mirror.url(other)));
    assert_eq!(
        receipt.why.as_deref(),
        Some("no database here names this package")
    );
    assert_eq!(receipt.checked, None);
    // It does not come in time.
    mirror.fault("*.pkg.tar.zst", Fault::Slow(100_000));
    let file = node.pacman_file(&name).await;
    let error = node.node.give(&file, 0, file.len).await.map(drop).unwrap_err();
    let FetchError::Elsewhere { url, .. } = &error else {
        panic!("{error}")
    };
    node.node.not_given(&file, &error, Some(url));
    let receipt = only(&node, "large");
    assert_eq!(receipt.ended, Ending::Redirected);
    assert_eq!(receipt.url, Some(mirror.url(&name)));
    assert!(
        receipt.why.as_ref().is_some_and(|why| why.contains("too slow")),
        "{receipt:?}"
    );
    assert_eq!((receipt.root, receipt.givers), (None, vec![]));
    // Who asked goes away.
    let database = node.pacman_file("core.db").await;
    drop(node.node.give_slowly(&database, 0, database.len).await?);
    let receipt = only(&node, "core.db");
    assert_eq!(receipt.ended, Ending::Broken);
    assert_eq!(receipt.why.as_deref(), Some("who asked went away"));
    Ok(())
}
