//! A real repository, taken over HTTP by its listing and over rsync: the same bytes and times.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use fs_err as fs;
use pacstore_runtime::Tasks;
use pacstore_testkit::{Fixture, Materialize, RsyncDaemon, TestResult, Upstream};
use pacstore_upstream::{
    Deletion, Fetch, Get, Http, Outcome, Rsync, RsyncOptions, TransferSpec, Url, parse_listing, url_of,
};

use crate::http::{client, url};

type Tree = BTreeMap<Vec<u8>, (Vec<u8>, SystemTime)>;

fn tree(root: &Path, below: &Path, all: &mut Tree) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        if path.is_dir() {
            tree(root, &path, all)?;
            continue;
        }
        let name = path
            .strip_prefix(root)
            .map_err(std::io::Error::other)?
            .as_os_str()
            .as_bytes();
        if !name.starts_with(b".") {
            all.insert(
                name.to_vec(),
                (fs::read(&path)?, fs::metadata(&path)?.modified()?),
            );
        }
    }
    Ok(())
}

async fn walk(http: &Http, tasks: &Tasks, folder: &Url, dest: &Path) -> TestResult {
    use std::os::unix::ffi::OsStrExt;
    let mut page = http.get(&Get::new(folder)).await?;
    let entries = parse_listing(&page.bytes().await?, &page.url);
    fs::create_dir_all(dest)?;
    for entry in entries {
        let to = dest.join(std::ffi::OsStr::from_bytes(&entry.name));
        if entry.is_dir {
            let below = url_of(folder, &[&entry.name[..], b"/"].concat())?;
            Box::pin(walk(http, tasks, &below, &to)).await?;
        } else {
            http.fetch_to_file(tasks, &Fetch::new(&url_of(folder, &entry.name)?, &to))
                .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_real_repository_is_the_same_by_listing_and_by_rsync_also_after_an_update() -> TestResult {
    let Some(fixture) = Fixture::arcolinux() else {
        return Ok(());
    };
    let place = tempfile::tempdir()?;
    let [upstream, by_http, by_rsync, scratch] =
        ["upstream", "http", "rsync", "scratch"].map(|name| place.path().join(name));
    let (http, tasks) = (client(), Tasks::new());
    for update in [29, 30] {
        fixture.materialize(update, &upstream, Materialize::Copy)?;
        let mut want = Tree::new();
        tree(&upstream, &upstream, &mut want)?;
        let mirror = Upstream::folder(&upstream)?;
        if by_http.exists() {
            fs::remove_dir_all(&by_http)?;
        }
        walk(&http, &tasks, &url(&mirror, ""), &by_http).await?;
        let mut got = Tree::new();
        tree(&by_http, &by_http, &mut got)?;
        assert!(got == want, "update {update} by HTTP");

        let Some(daemon) = RsyncDaemon::serve(&upstream)? else {
            return Ok(());
        };
        let url = daemon.url("");
        let mut spec = TransferSpec::new(&url, &by_rsync, &scratch);
        spec.delete = Some(Deletion::default());
        let report = Rsync::new(RsyncOptions::default(), tasks.clone())
            .transfer(&spec)
            .await?;
        assert_eq!(report.outcome, Outcome::Whole);
        let mut got = Tree::new();
        tree(&by_rsync, &by_rsync, &mut got)?;
        assert!(got == want, "update {update} by rsync");
    }
    Ok(())
}
