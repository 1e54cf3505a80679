//! The rsync daemon, asked by the rsync program.

use std::process::Command;

use fs_err as fs;
use pacstore_testkit::{RsyncDaemon, TestResult};

#[test]
fn an_rsync_daemon_serves_its_folder_and_refuses_when_told() -> TestResult {
    let (folder, dest) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::create_dir(folder.path().join("sub"))?;
    fs::write(folder.path().join("sub/f"), "hello")?;
    let Some(daemon) = RsyncDaemon::serve(folder.path())? else {
        return Ok(());
    };
    let copy = |url: String| {
        Command::new("rsync")
            .args(["-rt", &url])
            .arg(dest.path())
            .output()
    };
    let out = copy(daemon.url(""))?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(fs::read(dest.path().join("sub/f"))?, b"hello");
    assert!(daemon.log().contains("sent"), "{}", daemon.log());
    daemon.stop();
    assert_eq!(copy(daemon.url(""))?.status.code(), Some(10));

    let Some(full) = RsyncDaemon::serve_with(folder.path(), &["max connections = -1"])? else {
        return Ok(());
    };
    assert_eq!(copy(full.url(""))?.status.code(), Some(5));
    Ok(())
}
