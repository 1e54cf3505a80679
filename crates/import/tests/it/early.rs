//! Files are in the store while others of the same transfer are still under way, and nothing else differs for it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pacstore_import::{ImportSpec, Progress, Step};
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, ThrottledRelay, Upstream};
use ring::digest::{SHA256, digest};

use crate::common::{Bench, cid_of, of_url};

/// Bytes a second of a line on which the big package takes many seconds.
const SLOW: u64 = 250_000;
/// Bytes of the big package.
const BIG: u64 = 3_000_000;
/// Small packages.
const SMALL: usize = 20;

/// Many small packages, which come soon, and a big one, which does not.
fn mirror(dir: &Path) -> TestResult {
    let spec = RepoSpec::new("core").packages(SMALL, 4_000);
    Repo::create(dir, spec.package("zz-big", BIG))?;
    Ok(())
}

fn spec(url: &str) -> ImportSpec {
    let mut spec = of_url(url);
    spec.limits.pile = 20_000;
    spec
}

/// Runs a round; as soon as the small packages are in the store, lets the rest come by `hurry`. By then not even the
/// bytes of the big package may have been `sent`.
async fn round_in_two_parts(
    bench: &Bench,
    spec: ImportSpec,
    dir: &Path,
    (sent, hurry): (impl FnOnce() -> u64, impl FnOnce()),
) -> TestResult {
    let mut importer = bench.importer(spec);
    let progress = Progress::default();
    let taken = async {
        while bench.store.stats().files < SMALL as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let round = {
        let mut round = std::pin::pin!(importer.round(&progress));
        tokio::select! {
            early = &mut round => panic!("all came before anything was taken: {early:?}"),
            () = taken => {}
            () = tokio::time::sleep(Duration::from_mins(1)) => panic!("nothing was taken within a minute"),
        }
        let sent = sent();
        assert!(sent < BIG, "all {sent} bytes had come when the first were taken");
        hurry();
        round.await?
    };
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir), false));
    bench.store.gc(Some(0))?;
    assert_eq!(bench.files(&round.tree).len() as u64, round.counts.files);
    assert_eq!(bench.store.stats().evictable, 0, "nothing was taken twice");
    assert!(!importer.round(&Progress::default()).await?.changed);
    Ok(())
}

#[tokio::test]
async fn small_files_of_a_web_mirror_are_taken_while_a_big_one_comes() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let server = Upstream::folder(dir.path())?;
    server.limit(Some(SLOW));
    let line = (|| server.sent(), || server.limit(None));
    round_in_two_parts(&Bench::new(), spec(&server.url("")), dir.path(), line).await
}

#[tokio::test]
async fn small_files_of_an_rsync_module_are_taken_while_a_big_one_comes() -> TestResult {
    let dir = tempfile::tempdir()?;
    mirror(dir.path())?;
    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    let relay = ThrottledRelay::start(daemon.address(), Some(SLOW))?;
    let url = daemon.url_at(relay.address(), "");
    let line = (|| relay.down(), || relay.set_rate(None));
    round_in_two_parts(&Bench::new(), spec(&url), dir.path(), line).await
}

/// What came since the last look at a transfer is not left for the time after it.
#[tokio::test]
async fn nothing_of_an_rsync_transfer_is_left_to_be_read_after_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(SMALL, 4_000))?;
    let Some(daemon) = RsyncDaemon::serve(dir.path())? else {
        return Ok(());
    };
    let bench = Bench::new();
    let mut importer = bench.importer(of_url(&daemon.url("")));
    let progress = Progress::default();
    let mut status = progress.subscribe();
    let mut seen = Vec::new();
    {
        let mut round = std::pin::pin!(importer.round(&progress));
        let round = loop {
            tokio::select! {
                biased;
                Ok(()) = status.changed() => {
                    let now = status.borrow_and_update().clone();
                    seen.push((now.step, now.files_total));
                }
                round = &mut round => break round?,
            }
        };
        assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    }
    let fetched = seen.iter().position(|(step, _)| *step == Step::Fetching);
    let fetched = fetched.expect("packages were fetched");
    let (before, after) = seen.split_at(fetched);
    assert!(
        before
            .iter()
            .any(|(step, files)| *step == Step::Reading && 0 < *files)
    );
    let read = after.iter().filter(|(step, _)| *step == Step::Reading);
    assert_eq!(read.map(|(_, files)| files).max().copied().unwrap_or_default(), 0);
    Ok(())
}

/// The name under which a package of a web mirror waits for the store.
fn waiting(root: &str, path: &str, sha256: &[u8]) -> String {
    let key = [root.as_bytes(), &[0], path.as_bytes(), sha256].concat();
    let hex = |name: String, byte: &u8| name + &format!("{byte:02x}");
    digest(&SHA256, &key).as_ref().iter().fold(String::new(), hex)
}

/// What a power cut leaves of a file that was not synced: its name, its length, and nothing in it.
#[tokio::test]
async fn a_file_that_a_power_cut_emptied_is_fetched_anew_in_the_same_round() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 9_000))?;
    let name = repo.file_name("pkg1")?;
    let bytes = fs_err::read(dir.path().join(&name))?;
    let server = Upstream::folder(dir.path())?;
    let bench = Bench::new();
    let mut importer = bench.importer(of_url(&server.url("")));
    let folder = bench.dir.path().join("work/test.mirror/web");
    fs_err::create_dir_all(&folder)?;
    let file = waiting(&server.url(""), &name, digest(&SHA256, &bytes).as_ref());
    let emptied = folder.join(&file);
    fs_err::write(&emptied, vec![0; bytes.len()])?;
    fs_err::File::open(&emptied)?
        .file()
        .set_modified(SystemTime::UNIX_EPOCH)?;
    let round = importer.round(&Progress::default()).await?;
    assert_eq!((round.tree, round.is_torn()), (cid_of(dir.path()), false));
    assert!(1 < round.passes, "it was found, and found to be wrong");
    assert_eq!(server.requests(&name).len(), 1);
    assert!(!emptied.exists());
    Ok(())
}
