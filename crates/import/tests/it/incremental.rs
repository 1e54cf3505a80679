//! Round after round: the same tree as from nothing, and work only for what changed.

use std::path::Path;

use pacstore_import::{Progress, StampSource, Status};
use pacstore_store::Tuning;
use pacstore_testkit::{Fixture, Materialize, Repo, RepoSpec, TestResult, Upstream};

use crate::common::{Bench, age, all, cid_of, of_directory};

/// All 45 real updates in a row.
#[tokio::test]
async fn each_of_the_real_updates_gives_the_tree_of_an_import_from_nothing() -> TestResult {
    let Some(fixture) = Fixture::arcolinux() else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let (listed, every) = (Bench::new(), Bench::new());
    let spec = of_directory(dir.path());
    let mut last = None;
    for n in 1..=Fixture::LAST {
        fixture.materialize(n, dir.path(), Materialize::Copy)?;
        let expected = cid_of(dir.path());
        let round = listed.round(&spec).await?;
        assert_eq!(round.tree, expected, "update {n}: {:?}", round.repositories);
        assert_eq!(round.changed, last != Some(expected), "update {n}");
        assert_eq!(
            every.round(&all(spec.clone())).await?.tree,
            expected,
            "update {n}, all"
        );
        if n % 11 == 0 {
            assert_eq!(
                Bench::new().round(&spec).await?.tree,
                expected,
                "update {n} from nothing"
            );
        }
        last = Some(expected);
    }
    assert_eq!(listed.store.retained()?.len(), 1, "one tree is held");
    Ok(())
}

fn bytes_read(status: &Status) -> u64 {
    status.bytes_done
}

#[tokio::test]
async fn unchanged_files_are_not_read_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(
        dir.path().join("core"),
        RepoSpec::new("core").packages(30, 10_000),
    )?;
    age(dir.path());
    let bench = Bench::new();
    let spec = of_directory(dir.path());
    let mut importer = bench.importer(spec.clone());
    importer.round(&Progress::default()).await?;

    // Unreadable: whoever wants to read one fails.
    let untouched = repo.package_path("pkg7")?;
    repo.update(&["pkg3"])?;
    age(dir.path());
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs_err::metadata(path).unwrap());
    let before = inode(&untouched);
    let progress = Progress::default();
    let watch = progress.subscribe();
    let round = importer.round(&progress).await?;
    assert_eq!(round.tree, cid_of(dir.path()));
    assert_eq!(before, inode(&untouched));
    assert_eq!(
        round.counts.new,
        2 + 4,
        "package and signature, two databases and theirs"
    );
    assert!(bytes_read(&watch.borrow()) < 30_000);

    let again = importer.round(&progress).await?;
    assert!(!again.changed && again.repositories[0].checked);
    assert_eq!(again.repositories, round.repositories);
    Ok(())
}

#[tokio::test]
async fn a_file_written_again_within_the_clock_s_grain_is_seen() -> TestResult {
    let dir = tempfile::tempdir()?;
    let bench = Bench::new();
    let spec = all(of_directory(dir.path()));
    for n in 0..20_u8 {
        // In place, same size, as fast as it goes.
        fs_err::write(dir.path().join("a"), [n; 100])?;
        assert_eq!(bench.round(&spec).await?.tree, cid_of(dir.path()), "{n}");
    }
    Ok(())
}

#[tokio::test]
async fn old_trees_stay_while_they_are_held_and_gc_takes_them_after() -> TestResult {
    let dir = tempfile::tempdir()?;
    let mut repo = Repo::create(dir.path(), RepoSpec::new("core").packages(5, 10_000))?;
    let bench = Bench::new();
    let spec = of_directory(dir.path());
    let first = bench.round(&spec).await?;
    bench.store.retain("head/1", &first.tree)?;
    let old = bench.files(&first.tree);
    repo.update(&["pkg0", "pkg1"])?;
    let second = bench.round(&spec).await?;
    bench.store.gc(Some(0))?;
    assert_eq!(bench.files(&first.tree), old);
    assert!(!bench.files(&second.tree).is_empty());
    bench.store.release("head/1")?;
    bench.store.gc(Some(0))?;
    assert_eq!(bench.store.stats().evictable, 0);
    assert_eq!(bench.files(&second.tree).len() as u64, second.counts.files);
    assert!(bench.store.node(&first.tree)?.is_none());
    Ok(())
}

#[tokio::test]
async fn another_profile_or_a_lost_manifest_gives_the_right_tree_too() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(5, 2_000_000))?;
    let bench = Bench::new();
    let spec = of_directory(dir.path());
    let first = bench.round(&spec).await?;
    let mut other = spec.clone();
    other.profile = pacstore_dag::Profile::KUBO_CIDV1;
    let changed = bench.round(&other).await?;
    assert_ne!(changed.tree, first.tree);
    assert_eq!(bench.round(&spec).await?.tree, first.tree);
    fs_err::remove_file(bench.dir.path().join("work/test.mirror/manifest.redb"))?;
    assert_eq!(bench.round(&spec).await?.tree, first.tree);
    fs_err::write(
        bench.dir.path().join("work/test.mirror/manifest.redb"),
        b"no database",
    )?;
    assert_eq!(bench.round(&spec).await?.tree, first.tree);
    assert_eq!(bench.files(&first.tree).len() as u64, first.counts.files);
    Ok(())
}

/// Whether the file system can share the bytes of two files; then no link is needed.
fn has_reflinks(dir: &Path) -> std::io::Result<bool> {
    fs_err::write(dir.join("from"), b"bytes")?;
    let from = fs_err::File::open(dir.join("from"))?;
    let to = fs_err::File::create(dir.join("to"))?;
    Ok(rustix::fs::ioctl_ficlone(&to, &from).is_ok())
}

#[tokio::test]
async fn linked_files_take_no_second_room() -> TestResult {
    let bench = Bench::new();
    let names = if has_reflinks(bench.dir.path())? { 1 } else { 2 };
    let root = bench.dir.path().join("mirror");
    Repo::create(&root, RepoSpec::new("core").packages(3, 2_000_000))?;
    let mut spec = of_directory(&root);
    spec.replaced_by_rename = true;
    let round = bench.round(&spec).await?;
    assert_eq!(round.tree, cid_of(&root));
    for entry in fs_err::read_dir(&root)? {
        let meta = entry?.metadata()?;
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&meta), names);
    }
    Ok(())
}

#[tokio::test]
async fn a_first_import_fits_through_a_small_cap_because_what_it_takes_in_is_held() -> TestResult {
    let dir = tempfile::tempdir()?;
    Repo::create(dir.path(), RepoSpec::new("core").packages(8, 500_000))?;
    let bench = Bench::with(tempfile::tempdir()?, 600_000, &Tuning::default());
    let round = bench.round(&of_directory(dir.path())).await?;
    assert_eq!(round.tree, cid_of(dir.path()));
    bench.store.gc(None)?;
    assert_eq!(bench.files(&round.tree).len() as u64, round.counts.files);
    Ok(())
}

#[tokio::test]
async fn the_change_stamp_says_how_old_the_upstream_is_and_an_error_page_does_not() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(2, 500))?;
    let bench = Bench::new();
    let mut spec = of_directory(dir.path());
    let round = bench.round(&spec).await?;
    assert_eq!(
        round.upstream_time,
        Some(repo.time()),
        "without a stamp the database's time"
    );
    assert_eq!(round.repositories[0].times.newest(), Some(repo.time()));

    fs_err::write(dir.path().join("lastupdate"), "1744600000\n")?;
    spec.stamp = Some(StampSource::Path("lastupdate".into()));
    let round = bench.round(&spec).await?;
    assert_eq!((round.upstream_time, round.changed), (Some(1_744_600_000), false));
    assert_eq!(round.repositories[0].upstream_time, Some(1_744_600_000));

    let server = Upstream::memory()?;
    server.put("state", "###\ndate=2025-04-14T03:06:40Z\n")?;
    spec.stamp = Some(StampSource::Url(server.url("state").parse()?));
    assert_eq!(bench.round(&spec).await?.upstream_time, Some(1_744_600_000));
    server.put("state", "<html>out of order</html>")?;
    assert_eq!(bench.round(&spec).await?.upstream_time, Some(repo.time()));
    Ok(())
}
