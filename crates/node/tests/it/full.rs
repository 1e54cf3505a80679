//! A disk without room: a clear error, nothing corrupted, on when there is room.

use std::process::Command;

use pacstore_import::Files;
use pacstore_testkit::{TestResult, random};

use crate::nodes::Plan;

const MIB: usize = 1 << 20;

/// A file system of its own with 16 MiB.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
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
    let error = client.get("big").await.expect_err("there is no room");
    let text = pacstore_node::chain(&*error);
    assert!(
        text.contains("space") || text.contains("room") || text.contains("full"),
        "{text}"
    );
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
async fn a_file_beyond_the_cap_is_refused_and_those_below_it_are_given() -> TestResult {
    let dir = tempfile::tempdir()?;
    fs_err::write(dir.path().join("big"), random(1, 4 * MIB))?;
    fs_err::write(dir.path().join("small"), random(2, 5000))?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.max_size = MIB as u64;
    let client = plan.start().await;
    client.follows(&importer).await;
    assert!(client.get("small").await? == random(2, 5000));
    let refused = client.get("big").await.expect_err("it does not fit");
    assert!(refused.to_string().contains("cannot keep"), "{refused}");
    Ok(())
}
