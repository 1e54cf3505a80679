//! A disk without room: a clear error, nothing corrupted, on when there is room.

use std::process::Command;

use pacstore_import::Files;
use pacstore_testkit::{TestResult, random};

use crate::nodes::{Plan, read};

const MIB: usize = 1 << 20;

/// A file system of its own with 16 MiB.
pub(crate) struct Small(pub(crate) tempfile::TempDir);

impl Small {
    pub(crate) fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=755", "none"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        assert!(
            std::env::var("PACSTORE_REQUIRE").as_deref() != Ok("all"),
            "cannot mount a tmpfs"
        );
        #[expect(
            clippy::print_stderr,
            reason = "whoever runs the tests must see what was not run"
        )]
        {
            eprintln!("skipped: a tmpfs cannot be mounted here");
        }
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_clear_error_and_the_file_comes_when_there_is_room() -> TestResult {
    let Some(disk) = Small::mount() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let big = random(1, 10 * MIB + 5);
    fs_err::write(dir.path().join("big"), &big)?;
    fs_err::write(dir.path().join("small"), b"small")?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.store_dir = disk.0.path().join("store");
    let client = plan.start().await;
    client.follows(&importer).await;
    let ballast = disk.0.path().join("ballast");
    fs_err::write(&ballast, vec![1; 9 * MIB])?;
    let file = client.file("big").await;
    let taken = client.node.fetcher().take(&file.root, &file.sources).await;
    let text = pacstore_node::chain(&taken.expect_err("there is no room"));
    assert!(
        text.contains("space") || text.contains("room") || text.contains("full"),
        "{text}"
    );
    // Whoever only wants to read it gets it all the same, also from the middle on.
    assert!(client.get("big").await? == big);
    let (start, end) = (3 * MIB - 5, 9 * MIB + 7);
    assert!(client.part(&file, start as u64, end as u64).await? == big[start..end]);
    assert_eq!(client.get("small").await?, b"small");
    fs_err::remove_file(&ballast)?;
    assert!(client.get("big").await? == big);
    assert_eq!(client.get("small").await?, b"small");
    let client = client.stop().await.start().await;
    assert!(client.get("big").await? == big);
    client.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_keeps_to_its_cap_and_goes_on_serving() -> TestResult {
    let dir = tempfile::tempdir()?;
    let files: Vec<Vec<u8>> = (0..6).map(|n| random(n, 4 * MIB + 100).to_vec()).collect();
    for (n, data) in files.iter().enumerate() {
        fs_err::write(dir.path().join(format!("file{n}")), data)?;
    }
    fs_err::write(dir.path().join("small"), b"small")?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.max_size = 10 * MIB as u64;
    let client = plan.start().await;
    client.follows(&importer).await;
    for _ in 0..2 {
        for (n, data) in files.iter().enumerate() {
            assert!(client.get(&format!("file{n}")).await? == *data, "file{n}");
            let store = client.node.status(None).await.store;
            assert!(store.bytes <= store.max_bytes, "{store:?}");
        }
    }
    // More at once than there is room for: they wait for one another.
    let all = files.iter().enumerate().map(|(n, data)| {
        let client = &client;
        async move {
            let got = client.get(&format!("file{n}")).await;
            assert!(got.is_ok_and(|got| got == *data), "file{n}");
        }
    });
    futures::future::join_all(all).await;
    assert_eq!(client.get("small").await?, b"small");
    client.node.gc(Some(0)).await?;
    assert_eq!(client.node.status(None).await.store.files, 0);
    assert!(
        client.get("file0").await? == files[0],
        "its directories are still here"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_beyond_the_cap_is_given_without_being_kept_and_those_below_it_are_kept() -> TestResult {
    let dir = tempfile::tempdir()?;
    let big = random(1, 4 * MIB + 3);
    fs_err::write(dir.path().join("big"), &big)?;
    fs_err::write(dir.path().join("small"), random(2, 5000))?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.max_size = MIB as u64;
    let client = plan.start().await;
    client.follows(&importer).await;
    assert!(client.get("small").await? == random(2, 5000));
    let file = client.file("big").await;
    let taken = client.node.fetcher().take(&file.root, &file.sources).await;
    let refused = taken.expect_err("it does not fit");
    assert!(refused.to_string().contains("cannot keep"), "{refused}");
    for _ in 0..2 {
        assert!(client.get("big").await? == big);
    }
    let (start, end) = (MIB - 1, 3 * MIB + 1);
    assert!(client.part(&file, start as u64, end as u64).await? == big[start..end]);
    let store = client.node.status(None).await.store;
    assert!(store.files == 1 && store.bytes <= store.max_bytes, "{store:?}");
    assert_eq!(
        client.node.bytes_out().lan,
        5000 + 2 * big.len() as u64 + (end - start) as u64
    );
    Ok(())
}

/// A cap smaller than any package, many at once, peers gone: mirrors carry it, memory stays bounded.
#[tokio::test(flavor = "multi_thread")]
async fn many_files_beyond_the_cap_at_once_come_through_or_are_told_to_go_elsewhere() -> TestResult {
    let dir = tempfile::tempdir()?;
    let files: Vec<Vec<u8>> = (0..12).map(|n| random(n, 2 * MIB + 9).to_vec()).collect();
    for (n, data) in files.iter().enumerate() {
        fs_err::write(dir.path().join(format!("file{n}")), data)?;
    }
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mirror = pacstore_testkit::Upstream::folder(dir.path())?;
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    plan.config.max_size = 1000;
    let client = plan.start().await;
    client.follows(&importer).await;
    importer.stop().await;
    // All are opened before the first is read: no more than fit into memory.
    let mut opened = Vec::new();
    for (n, data) in files.iter().enumerate() {
        let file = client.file(&format!("file{n}")).await;
        match client.node.begin(&file, 0, file.len).await {
            Ok((content, first)) => opened.push((content, first, data)),
            Err(error) => {
                assert!(error.to_string().contains("too many"), "{error}");
                assert!(client.node.mirror_instead(&file).is_some(), "the mirror may help");
            }
        }
    }
    assert!((4..12).contains(&opened.len()), "{}", opened.len());
    for (mut content, first, data) in opened {
        let start = first.len() as u64;
        let rest = read(&client.node, &mut content, start, data.len() as u64).await?;
        assert!([first.to_vec(), rest].concat() == *data);
    }
    assert!(client.get("file11").await? == files[11], "there is room again");
    Ok(())
}
