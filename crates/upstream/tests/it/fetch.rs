//! Files onto the disk: whole, resumed, never mixed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use pacstore_runtime::Tasks;
use pacstore_testkit::{At, Fault, TestResult, Upstream, random};
use pacstore_upstream::{Durable, Expected, Fetch, FetchError, HttpError, Resume};
use ring::digest::{SHA256, digest};

use crate::http::{client, url};

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("32 bytes")
}

fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(folder)?
        .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

/// A time long enough ago for `If-Range` by date.
fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_744_500_017)
}

#[tokio::test]
async fn a_file_is_put_down_whole_with_its_time_and_hash() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    let bytes = random(1, 3_000_000);
    mirror.put_at("f", bytes.clone(), long_ago())?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
    let fetch = Fetch::new(&url, &dest);
    let fetched = client().fetch_to_file(&tasks, &fetch).await?;
    assert_eq!(
        (fetched.len, fetched.sha256, fetched.resumed_from),
        (3_000_000, sha256(&bytes), 0)
    );
    assert!(1 < fetch.pulse.beats(), "each piece is a sign of life");
    assert_eq!(fetched.last_modified, Some(long_ago()));
    assert!(fs::read(&dest)? == bytes);
    assert_eq!(fs::metadata(&dest)?.modified()?, long_ago());
    assert_eq!(names(dir.path())?, ["f"]);

    let mut again = Fetch::new(&url, &dest);
    again.if_modified_since = fetched.last_modified;
    let error = client()
        .fetch_to_file(&tasks, &again)
        .await
        .expect_err("nothing new");
    assert!(
        matches!(error, FetchError::Http(HttpError::NotModified { .. })),
        "{error:?}"
    );
    assert!(fs::read(&dest)? == bytes);
    Ok(())
}

#[tokio::test]
async fn a_file_that_its_caller_syncs_is_the_same_and_a_cut_one_is_gone_on_with() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    let bytes = random(9, 600_000);
    mirror.put_at("f", bytes.clone(), long_ago())?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
    let mut fetch = Fetch::new(&url, &dest);
    fetch.durable = Durable::ByCaller;
    mirror.fault_times("f", 1, Fault::Truncate(At::Percent(50)));
    assert!(client().fetch_to_file(&tasks, &fetch).await.is_err());
    let fetched = client().fetch_to_file(&tasks, &fetch).await?;
    assert_eq!((fetched.sha256, fetched.resumed_from), (sha256(&bytes), 300_000));
    assert!(fs::read(&dest)? == bytes);
    assert_eq!(fs::metadata(&dest)?.modified()?, long_ago());
    assert_eq!(names(dir.path())?, ["f"]);
    Ok(())
}

#[tokio::test]
async fn a_file_put_back_to_an_older_one_is_told_without_an_etag() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    mirror.fault("*", Fault::NoEtag);
    mirror.put_at("f", random(1, 5_000), long_ago())?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
    let mut fetch = Fetch::new(&url, &dest);
    fetch.unless_same = Some((long_ago(), 5_000));
    let error = client()
        .fetch_to_file(&tasks, &fetch)
        .await
        .expect_err("nothing new");
    assert!(
        matches!(error, FetchError::Http(HttpError::NotModified { .. })),
        "{error:?}"
    );

    let older = random(2, 5_000);
    mirror.put_at("f", older.clone(), long_ago() - Duration::from_hours(1))?;
    client().fetch_to_file(&tasks, &fetch).await?;
    assert!(fs::read(&dest)? == older);
    Ok(())
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_ended_however_often() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    let bytes = random(2, 1_000_000);
    mirror.put_at("f", bytes.clone(), long_ago())?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
    let mut fetch = Fetch::new(&url, &dest);
    fetch.expected = Expected {
        len: Some(1_000_000),
        sha256: Some(sha256(&bytes)),
    };
    for percent in 1..10 {
        mirror.heal();
        mirror.fault("f", Fault::Truncate(At::Percent(percent * 10)));
        let error = client().fetch_to_file(&tasks, &fetch).await.expect_err("cut");
        assert!(
            matches!(error, FetchError::Http(HttpError::ShortBody { .. })),
            "{error:?}"
        );
        assert!(!dest.exists());
    }
    mirror.heal();
    let fetched = client().fetch_to_file(&tasks, &fetch).await?;
    assert_eq!(fetched.resumed_from, 900_000);
    assert!(fs::read(&dest)? == bytes);
    assert_eq!(mirror.sent(), 1_000_000, "no byte was sent twice");
    Ok(())
}

#[tokio::test]
async fn bytes_of_two_versions_are_never_joined() -> TestResult {
    let tasks = Tasks::new();
    // With ETags, with dates alone, and with servers that ignore If-Range or send nothing to tell versions apart.
    let servers: Vec<Vec<Fault>> = vec![
        vec![],
        vec![Fault::NoEtag],
        vec![Fault::IgnoreIfRange],
        vec![Fault::NoEtag, Fault::IgnoreIfRange],
        vec![Fault::NoValidators, Fault::IgnoreIfRange],
        vec![Fault::NoRanges],
    ];
    for faults in servers {
        let (mirror, dir) = (Upstream::memory()?, tempfile::tempdir()?);
        let (old, new) = (random(3, 500_000), random(4, 500_000));
        mirror.put_at("f", old, long_ago())?;
        let set = || faults.iter().for_each(|f| mirror.fault("f", f.clone()));
        let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
        set();
        mirror.fault("f", Fault::Truncate(At::Percent(50)));
        assert!(
            client()
                .fetch_to_file(&tasks, &Fetch::new(&url, &dest))
                .await
                .is_err()
        );
        mirror.heal();
        set();
        mirror.put_at("f", new.clone(), long_ago() + Duration::from_secs(5))?;
        let fetched = client().fetch_to_file(&tasks, &Fetch::new(&url, &dest)).await?;
        assert_eq!(fetched.resumed_from, 0, "{faults:?}");
        assert!(fs::read(&dest)? == new, "{faults:?}");
        assert_eq!(names(dir.path())?, ["f"], "{faults:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_wrong_is_thrown_away_and_comes_right_the_next_time() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    let bytes = random(5, 100_000);
    mirror.put("f", bytes.clone())?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
    let mut fetch = Fetch::new(&url, &dest);
    fetch.expected = Expected {
        len: Some(100_000),
        sha256: Some(sha256(&bytes)),
    };
    mirror.fault("f", Fault::Flip(99_999));
    let error = client()
        .fetch_to_file(&tasks, &fetch)
        .await
        .expect_err("wrong bytes");
    assert!(matches!(error, FetchError::Checksum { .. }), "{error:?}");
    mirror.heal();
    mirror.fault("f", Fault::WrongLength(-1));
    let error = client()
        .fetch_to_file(&tasks, &fetch)
        .await
        .expect_err("too short");
    assert!(
        matches!(error, FetchError::Length { got: 99_999, .. }),
        "{error:?}"
    );
    mirror.heal();
    mirror.fault("f", Fault::ErrorPage);
    let error = client().fetch_to_file(&tasks, &fetch).await.expect_err("a page");
    assert!(matches!(error, FetchError::Length { .. }), "{error:?}");
    mirror.heal();
    mirror.fault("f", Fault::Endless);
    let error = client().fetch_to_file(&tasks, &fetch).await.expect_err("endless");
    assert!(
        matches!(error, FetchError::Http(HttpError::TooLong { limit: 100_000, .. })),
        "{error:?}"
    );
    mirror.heal();
    assert!(!dest.exists());
    let fetched = client().fetch_to_file(&tasks, &fetch).await?;
    assert_eq!(fetched.sha256, sha256(&bytes));
    assert_eq!(names(dir.path())?, ["f"]);
    Ok(())
}

#[tokio::test]
async fn wrong_bytes_of_an_earlier_try_are_fetched_again_in_the_same_call() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    let bytes = random(7, 100_000);
    mirror.put_at("f", bytes.clone(), long_ago())?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
    let mut fetch = Fetch::new(&url, &dest);
    fetch.expected = Expected {
        len: Some(100_000),
        sha256: Some(sha256(&bytes)),
    };
    mirror.fault("f", Fault::Flip(10));
    mirror.fault("f", Fault::Truncate(At::Percent(50)));
    assert!(client().fetch_to_file(&tasks, &fetch).await.is_err());
    mirror.heal();
    let fetched = client().fetch_to_file(&tasks, &fetch).await?;
    assert_eq!((fetched.resumed_from, fetched.sha256), (0, sha256(&bytes)));
    let ranges: Vec<_> = mirror.log().into_iter().map(|r| r.range).collect();
    assert_eq!(ranges, [None, Some("bytes=50000-".to_owned()), None]);
    Ok(())
}

#[tokio::test]
async fn two_fetches_of_one_file_do_not_mix_and_a_dropped_one_is_gone_on_with() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    let bytes = random(8, 2_000_000);
    mirror.put_at("f", bytes.clone(), long_ago())?;
    let (url, dest, http) = (url(&mirror, "f"), dir.path().join("f"), client());
    let fetch = Fetch::new(&url, &dest);
    let (a, b) = tokio::join!(
        http.fetch_to_file(&tasks, &fetch),
        http.fetch_to_file(&tasks, &fetch)
    );
    assert!(a?.sha256 == sha256(&bytes) && b?.sha256 == sha256(&bytes));
    assert!(fs::read(&dest)? == bytes);
    mirror.fault("f", Fault::Slow(4_000_000));
    for _ in 0..5 {
        let cut = tokio::time::timeout(Duration::from_millis(60), http.fetch_to_file(&tasks, &fetch)).await;
        assert!(cut.is_err());
    }
    mirror.heal();
    assert_eq!(http.fetch_to_file(&tasks, &fetch).await?.sha256, sha256(&bytes));
    assert!(fs::read(&dest)? == bytes);
    assert_eq!(names(dir.path())?, ["f"]);
    Ok(())
}

#[tokio::test]
async fn a_damaged_part_or_note_costs_only_the_transfer() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    let bytes = random(6, 400_000);
    mirror.put_at("f", bytes.clone(), long_ago())?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("f"));
    let note = dir.path().join("f.part.note");
    for damage in [
        &b"garbage"[..],
        b"",
        b"pacstore-part 1\nx\n\n\n\n99999999999\n",
        &vec![0xff; 40_000],
    ] {
        mirror.fault_times("f", 1, Fault::Truncate(At::Percent(50)));
        assert!(
            client()
                .fetch_to_file(&tasks, &Fetch::new(&url, &dest))
                .await
                .is_err()
        );
        assert!(note.exists());
        fs::write(&note, damage)?;
        client().fetch_to_file(&tasks, &Fetch::new(&url, &dest)).await?;
        assert!(fs::read(&dest)? == bytes);
        fs::remove_file(&dest)?;
    }
    mirror.fault_times("f", 1, Fault::Truncate(At::Percent(50)));
    assert!(
        client()
            .fetch_to_file(&tasks, &Fetch::new(&url, &dest))
            .await
            .is_err()
    );
    mirror.clear_log();
    let mut fetch = Fetch::new(&url, &dest);
    fetch.resume = Resume::Never;
    assert_eq!(client().fetch_to_file(&tasks, &fetch).await?.resumed_from, 0);
    assert_eq!(mirror.log()[0].range, None);
    Ok(())
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() -> TestResult {
    let (mirror, dir, tasks) = (Upstream::memory()?, tempfile::tempdir()?, Tasks::new());
    mirror.put("f", "x")?;
    let (url, dest) = (url(&mirror, "f"), dir.path().join("none/f"));
    let error = client()
        .fetch_to_file(&tasks, &Fetch::new(&url, &dest))
        .await
        .expect_err("no folder");
    assert!(error.to_string().contains("none/f.part"), "{error}");
    Ok(())
}
