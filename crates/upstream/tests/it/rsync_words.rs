//! What is made of rsync's last words: what a listing lacks, what a daemon refuses.

use std::time::{Duration, SystemTime};

use pacstore_testkit::{RsyncDaemon, TestResult, put_file, script};
use pacstore_upstream::{ExitKind, ListSpec, RsyncError};

use crate::rsync::{Place, rsync, with};

/// A listing that ends with 23 is whole but for what the sender names; where it names nothing, nobody knows what is missing.
#[tokio::test]
async fn a_listing_that_is_not_whole_for_an_unknown_reason_is_an_error() -> TestResult {
    let place = Place::new()?;
    let entry = "echo '-rw-r--r-- 1 2026/11/21 10:00:00 a'";
    let error = "echo 'rsync error: some files/attrs were not transferred (see previous errors) (code 23)' >&2; exit 23";
    for (name, said, fine) in [
        ("nothing", "", false),
        ("odd", "odd words", false),
        ("dangles", "symlink has no referent: \"/b\" (in mirror)", true),
        (
            "denied",
            "rsync: [sender] opendir \"/b\" (in mirror) failed: Permission denied (13)",
            true,
        ),
    ] {
        let script_text = format!("{entry}; echo '{said}' >&2; {error}");
        let program = script(place.0.path(), name, &script_text)?;
        let rsync = with(&program, Duration::from_secs(20));
        let listed = rsync.list(&ListSpec::new("rsync://127.0.0.1/mirror/")).await;
        match listed {
            Ok(listed) => assert!(
                fine && listed.entries.iter().any(|entry| entry.path == b"a"),
                "{said}: {listed:?}"
            ),
            Err(error) => assert!(
                !fine && matches!(error, RsyncError::Exit { code: 23, .. }),
                "{said}: {error}"
            ),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_refuses_an_option_or_wants_a_password_is_no_broken_network() -> TestResult {
    let place = Place::new()?;
    put_file(&place.source().join("a"), b"a", SystemTime::now())?;
    for (lines, kind, hint) in [
        (
            vec!["refuse options = copy-links"],
            ExitKind::Usage,
            "refuse options",
        ),
        (
            vec!["auth users = bob", "secrets file = /dev/null"],
            ExitKind::Refused,
            "RSYNC_PASSWORD",
        ),
    ] {
        let Some(daemon) = RsyncDaemon::serve_with(&place.source(), &lines)? else {
            return Ok(());
        };
        let error = rsync()
            .list(&ListSpec::new(&daemon.url("")))
            .await
            .expect_err("it refuses");
        let RsyncError::Exit { kind: got, .. } = &error else {
            return Err(error.into());
        };
        assert_eq!(*got, kind, "{error}");
        assert!(error.hint().is_some_and(|told| told.contains(hint)), "{error}");
    }
    Ok(())
}
