//! The rsync child against a real daemon, a thin or cut line, and false programs.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use pacstore_runtime::{CancellationToken, Tasks};
use pacstore_testkit::{Repo, RepoSpec, RsyncDaemon, TestResult, ThrottledRelay, put_file, random, script};
use pacstore_upstream::{
    Deletion, ExitKind, ListSpec, ListedKind, Outcome, Progress, Rsync, RsyncError, RsyncOptions, Rule,
    TransferSpec,
};

pub(crate) fn rsync() -> Rsync {
    Rsync::new(RsyncOptions::default(), Tasks::new())
}

pub(crate) fn with(program: &Path, silence: Duration) -> Rsync {
    let grace = Duration::from_millis(500);
    Rsync::new(
        RsyncOptions {
            program: program.to_owned(),
            silence,
            grace,
            ..RsyncOptions::default()
        },
        Tasks::new(),
    )
}

/// The time of testkit's first packages.
const BUILT: u64 = 1_744_500_000;

/// Source, destination and scratch folders.
pub(crate) struct Place(pub(crate) tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> std::io::Result<Self> {
        let place = Self(tempfile::tempdir()?);
        fs::create_dir(place.source())?;
        Ok(place)
    }
    pub(crate) fn source(&self) -> std::path::PathBuf {
        self.0.path().join("source")
    }
    fn dest(&self) -> std::path::PathBuf {
        self.0.path().join("dest")
    }
    fn scratch(&self) -> std::path::PathBuf {
        self.0.path().join("scratch")
    }
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(BUILT)
}

#[tokio::test]
async fn a_mirror_is_copied_in_phases_and_cleaned_last() -> TestResult {
    let place = Place::new()?;
    let (source, dest, scratch) = (place.source(), place.dest(), place.scratch());
    let mut repo = Repo::create(
        source.join("core/os/x86_64"),
        RepoSpec::new("core").packages(3, 5_000),
    )?;
    put_file(&source.join("pool/x"), b"x", long_ago())?;
    let Some(daemon) = RsyncDaemon::serve(&source)? else {
        return Ok(());
    };
    let url = daemon.url("");
    let mut spec = TransferSpec::new(&url, &dest, &scratch);
    let databases = ["*.db", "*.db.sig", "*.files", "*.files.sig"].map(Rule::exclude);
    spec.rules = vec![Rule::exclude("/pool")];
    spec.rules.extend(databases.clone());
    let (tx, rx) = tokio::sync::watch::channel(Progress::default());
    spec.progress = Some(tx);
    let report = rsync().transfer(&spec).await?;
    assert_eq!(
        (report.outcome, report.transferred, report.deleted),
        (Outcome::Whole, 6, 0),
        "{report:?}"
    );
    assert_eq!((rx.borrow().percent, rx.borrow().files), (100, 6));
    assert!(0 < spec.pulse.beats(), "each line is a sign of life");
    assert!(dest.join("core/os/x86_64").join(repo.file_name("pkg0")?).exists());
    assert!(!dest.join("core/os/x86_64/core.db").exists() && !dest.join("pool").exists());
    assert_eq!(
        fs::metadata(dest.join("core/os/x86_64").join(repo.file_name("pkg0")?))?.modified()?,
        long_ago()
    );

    spec.rules = vec![Rule::exclude("/pool")];
    assert_eq!(rsync().transfer(&spec).await?.transferred, 4);
    let gone = repo.file_name("pkg0")?;
    repo.update(&["pkg0"])?;
    let report = rsync().transfer(&spec).await?;
    assert_eq!((report.transferred, report.deleted), (6, 0), "{report:?}");
    assert!(dest.join("core/os/x86_64").join(&gone).exists());
    spec.delete = Some(Deletion::default());
    let report = rsync().transfer(&spec).await?;
    assert_eq!((report.transferred, report.deleted), (0, 2), "{report:?}");
    assert!(!dest.join("core/os/x86_64").join(&gone).exists());
    spec.delete = Some(Deletion {
        at_most: Some(1),
        excluded: true,
        ..Deletion::default()
    });
    spec.rules = vec![Rule::exclude("*.db*"), Rule::exclude("/pool")];
    let error = rsync().transfer(&spec).await.expect_err("two would go");
    assert!(
        matches!(
            error,
            RsyncError::Exit {
                kind: ExitKind::MaxDelete,
                ..
            }
        ),
        "{error:?}"
    );
    Ok(())
}

#[tokio::test]
async fn files_are_replaced_by_rename_links_are_resolved_and_dangling_ones_are_partial() -> TestResult {
    let place = Place::new()?;
    let (source, dest, scratch) = (place.source(), place.dest(), place.scratch());
    put_file(&source.join("pool/p.pkg"), b"one", long_ago())?;
    fs::create_dir(source.join("core"))?;
    std::os::unix::fs::symlink("../pool/p.pkg", source.join("core/p.pkg"))?;
    let Some(daemon) = RsyncDaemon::serve(&source)? else {
        return Ok(());
    };
    let url = daemon.url("");
    let mut spec = TransferSpec::new(&url, &dest, &scratch);
    spec.rules = vec![Rule::exclude("/pool")];
    rsync().transfer(&spec).await?;
    let copied = dest.join("core/p.pkg");
    assert!(fs::symlink_metadata(&copied)?.is_file());
    assert!(!dest.join("pool").exists());
    // A hard link beside is what the store may hold: it must keep the old bytes.
    let kept = place.0.path().join("kept");
    fs::hard_link(&copied, &kept)?;
    put_file(&source.join("pool/p.pkg"), b"two, longer", SystemTime::now())?;
    rsync().transfer(&spec).await?;
    assert_eq!(
        (fs::read(&copied)?, fs::read(&kept)?),
        (b"two, longer".to_vec(), b"one".to_vec())
    );

    std::os::unix::fs::symlink("nowhere", source.join("core/dangling"))?;
    fs::write(source.join("core/later"), "x")?;
    fs::write(dest.join("core/stale"), "x")?;
    spec.delete = Some(Deletion::default());
    let report = rsync().transfer(&spec).await?;
    assert_eq!(report.outcome, Outcome::Partial);
    assert!(
        report.stderr.contains("dangling") && dest.join("core/later").exists(),
        "{report:?}"
    );
    assert!(
        dest.join("core/stale").exists(),
        "rsync deletes nothing as long as a link dangles"
    );
    spec.delete = Some(Deletion {
        despite_errors: true,
        ..Deletion::default()
    });
    rsync().transfer(&spec).await?;
    assert!(!dest.join("core/stale").exists());
    Ok(())
}

const ODD: [&[u8]; 12] = [
    b"a b",
    b"WARNING: x",
    b"new\nline",
    b"\xff\xfe",
    "ä".as_bytes(),
    b"back\\slash",
    b"\\#012",
    b"star*[x]?",
    b"-rf",
    b"+ plus",
    b"#hash",
    b";semi",
];

#[tokio::test]
async fn names_of_any_bytes_are_copied_and_listed() -> TestResult {
    let place = Place::new()?;
    let (source, dest, scratch) = (place.source(), place.dest(), place.scratch());
    for name in ODD {
        put_file(
            &source.join("d").join(std::ffi::OsStr::from_bytes(name)),
            name,
            long_ago(),
        )?;
    }
    fs::create_dir(source.join("empty"))?;
    let Some(daemon) = RsyncDaemon::serve(&source)? else {
        return Ok(());
    };
    let url = daemon.url("");
    rsync()
        .transfer(&TransferSpec::new(&url, &dest, &scratch))
        .await?;
    for name in ODD {
        assert_eq!(
            fs::read(dest.join("d").join(std::ffi::OsStr::from_bytes(name)))?,
            name
        );
    }
    assert!(dest.join("empty").is_dir());

    let mut list = ListSpec::new(&url);
    list.recursive = true;
    let mut listed = rsync().list(&list).await?.entries;
    let folders: Vec<_> = listed
        .iter()
        .filter(|e| e.kind == ListedKind::Dir)
        .map(|e| e.path.clone())
        .collect();
    assert_eq!(folders, [b".".to_vec(), b"d".to_vec(), b"empty".to_vec()]);
    listed.retain(|e| e.kind == ListedKind::File);
    assert!(
        listed
            .iter()
            .all(|e| e.mtime == long_ago() && e.len as usize == e.path.len() - 2),
        "{listed:?}"
    );
    let mut got: Vec<_> = listed.iter().map(|e| e.path[2..].to_vec()).collect();
    let mut want = ODD.map(<[u8]>::to_vec).to_vec();
    got.sort();
    want.sort();
    assert_eq!(got, want);
    list.max_entries = 5;
    let error = rsync().list(&list).await.expect_err("there are more");
    assert!(matches!(error, RsyncError::TooMany(5)), "{error:?}");
    list.max_entries = 500;
    list.recursive = false;
    let before = list.pulse.beats();
    assert_eq!(rsync().list(&list).await?.entries.len(), 3);
    assert!(before + 3 <= list.pulse.beats(), "each entry is a sign of life");
    list.rules = vec![Rule::exclude("/e*")];
    assert_eq!(rsync().list(&list).await?.entries.len(), 2);

    // Each name alone, by an exact rule and by a list of names.
    let (by_rule, by_list) = (place.0.path().join("by rule"), place.0.path().join("by list"));
    for name in ODD {
        let path = [b"d/", name].concat();
        let mut spec = TransferSpec::new(&url, &by_rule, &scratch);
        spec.rules = vec![
            Rule::include_exactly(b"d"),
            Rule::include_exactly(&path),
            Rule::exclude("*"),
        ];
        assert_eq!(
            rsync().transfer(&spec).await?.transferred,
            1,
            "{}",
            String::from_utf8_lossy(name)
        );
    }
    let mut spec = TransferSpec::new(&url, &by_list, &scratch);
    spec.only = Some(ODD.iter().map(|name| [b"d/", *name].concat()).collect());
    assert_eq!(rsync().transfer(&spec).await?.transferred, ODD.len() as u64);
    for bad in [&b"/etc/passwd"[..], b"../x", b"", b"a\0b"] {
        spec.only = Some(vec![bad.to_vec()]);
        assert!(matches!(rsync().transfer(&spec).await, Err(RsyncError::Path)));
    }
    Ok(())
}

/// A daemon without chroot, as testkit's, finds nothing of a list below a folder that the source names (rsync 3.5.0).
#[tokio::test]
async fn a_list_of_names_in_a_folder_of_a_module_is_copied_without_that_folder() -> TestResult {
    let place = Place::new()?;
    let (source, dest, scratch) = (place.source(), place.dest(), place.scratch());
    put_file(&source.join("pool/a"), b"pooled", long_ago())?;
    put_file(&source.join("#r s/os/x86_64/b"), b"plain", long_ago())?;
    std::os::unix::fs::symlink("../../../pool/a", source.join("#r s/os/x86_64/a"))?;
    let Some(daemon) = RsyncDaemon::serve(&source)? else {
        return Ok(());
    };
    for (url, names) in [
        (daemon.url("#r s/"), ["os/x86_64/a", "os/x86_64/b"]),
        (daemon.url("#r s/os/x86_64"), ["a", "b"]),
        (daemon.url(""), ["#r s/os/x86_64/a", "#r s/os/x86_64/b"]),
    ] {
        let mut spec = TransferSpec::new(&url, &dest, &scratch);
        spec.only = Some(names.map(|name| name.as_bytes().to_vec()).to_vec());
        let report = rsync().transfer(&spec).await?;
        assert_eq!(
            (report.outcome, report.transferred),
            (Outcome::Whole, 2),
            "{url}: {report:?}"
        );
        for (name, bytes) in names.iter().zip(["pooled", "plain"]) {
            assert_eq!(fs::read_to_string(dest.join(name))?, bytes, "{url}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn links_are_listed_with_their_targets_and_what_leads_back_ends() -> TestResult {
    let place = Place::new()?;
    let (source, dest, scratch) = (place.source(), place.dest(), place.scratch());
    put_file(&source.join("a/f"), b"one", long_ago())?;
    for (name, target) in [
        ("a/up", ".."),
        ("a/again", "../a"),
        ("a/to -> f", "f"),
        ("a/dangling", "no -> where"),
    ] {
        std::os::unix::fs::symlink(target, source.join(name))?;
    }
    let Some(daemon) = RsyncDaemon::serve(&source)? else {
        return Ok(());
    };
    let url = daemon.url("");
    let mut list = ListSpec::new(&url);
    (list.recursive, list.keep_links, list.max_entries) = (true, true, 100);
    let listed = rsync().list(&list).await?.entries;
    let mut links: Vec<_> = listed
        .iter()
        .filter(|e| e.kind == ListedKind::Link)
        .map(|e| {
            (
                String::from_utf8_lossy(&e.path),
                String::from_utf8_lossy(&e.target),
            )
        })
        .collect();
    links.sort();
    let want = [
        ("a/again", "../a"),
        ("a/dangling", "no -> where"),
        ("a/to -> f", "f"),
        ("a/up", ".."),
    ];
    assert_eq!(links, want.map(|(a, b)| (a.into(), b.into())));
    list.keep_links = false;
    let error = rsync().list(&list).await.expect_err("it descends without end");
    assert!(matches!(error, RsyncError::TooMany(100)), "{error:?}");

    // By name nothing is descended into, and a folder that is a link on the way is one of ours.
    let mut spec = TransferSpec::new(&url, &dest, &scratch);
    spec.only = Some(
        ["a/up", "a/again/f", "a/to -> f"]
            .map(|path| path.as_bytes().to_vec())
            .to_vec(),
    );
    let report = rsync().transfer(&spec).await?;
    assert_eq!((report.outcome, report.transferred), (Outcome::Whole, 2));
    assert_eq!(fs::read(dest.join("a/again/f"))?, b"one");
    assert!(fs::symlink_metadata(dest.join("a/again"))?.is_dir());
    assert_eq!(fs::read_dir(dest.join("a/up"))?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_cut_transfer_keeps_what_came_outside_of_the_tree_and_goes_on() -> TestResult {
    cut_transfer(None).await?;
    cut_transfer(Some(vec![b"big.pkg".to_vec()])).await
}

async fn cut_transfer(only: Option<Vec<Vec<u8>>>) -> TestResult {
    let place = Place::new()?;
    let (source, dest, scratch) = (place.source(), place.dest(), place.scratch());
    put_file(&source.join("big.pkg"), &random(1, 4_000_000), long_ago())?;
    let Some(daemon) = RsyncDaemon::serve(&source)? else {
        return Ok(());
    };
    let relay = ThrottledRelay::start(daemon.address(), None)?;
    let url = daemon.url_at(relay.address(), "");
    let mut spec = TransferSpec::new(&url, &dest, &scratch);
    spec.only = only;
    relay.cut_after(3_000_000);
    let error = rsync().transfer(&spec).await.expect_err("cut");
    let RsyncError::Exit { kind, .. } = &error else {
        return Err(error.into());
    };
    assert!(kind.is_transient(), "{error:?}");
    assert_eq!(fs::read_dir(&dest)?.count(), 0, "the tree holds whole files only");
    assert!(fs::metadata(scratch.join("partial/big.pkg"))?.len() > 2_000_000);
    relay.heal();
    let before = relay.down();
    rsync().transfer(&spec).await?;
    assert!(fs::read(dest.join("big.pkg"))? == random(1, 4_000_000));
    assert!(
        relay.down() - before < 2_500_000,
        "{} bytes again",
        relay.down() - before
    );
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_refuses_or_is_not_there_is_told_apart() -> TestResult {
    let place = Place::new()?;
    let (source, dest, scratch) = (place.source(), place.dest(), place.scratch());
    let Some(daemon) = RsyncDaemon::serve_with(&source, &["max connections = -1"])? else {
        return Ok(());
    };
    let kind = async |url: &str| match rsync().transfer(&TransferSpec::new(url, &dest, &scratch)).await {
        Err(RsyncError::Exit { kind, stderr, .. }) => Some((kind, stderr.is_empty())),
        _ => None,
    };
    assert_eq!(kind(&daemon.url("")).await, Some((ExitKind::Refused, false)));
    assert_eq!(
        kind(&format!("rsync://{}/other/", daemon.address())).await,
        Some((ExitKind::Refused, false))
    );
    daemon.stop();
    assert_eq!(kind(&daemon.url("")).await, Some((ExitKind::Network, false)));
    let error = rsync()
        .transfer(&TransferSpec::new("/etc/", &dest, &scratch))
        .await
        .expect_err("no URL");
    assert!(matches!(error, RsyncError::Source(_)), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_told_in_the_words_of_the_child() -> TestResult {
    let place = Place::new()?;
    let (dest, scratch) = (place.dest(), place.scratch());
    let spec = TransferSpec::new("rsync://127.0.0.1:1/mirror/", &dest, &scratch);
    let words = "rsync: [receiver] write failed on \\\"a\\\": No space left on device (28)";
    let program = script(place.0.path(), "full", &format!("echo \"{words}\" >&2; exit 11"))?;
    let error = with(&program, Duration::from_secs(20))
        .transfer(&spec)
        .await
        .expect_err("it fails");
    assert!(error.is_disk_full());
    assert_eq!(error.hint(), Some("make room on the disk"));
    assert!(error.to_string().contains("No space left on device"), "{error}");
    Ok(())
}

#[tokio::test]
async fn exit_codes_of_a_program_are_told_with_its_last_words() -> TestResult {
    let place = Place::new()?;
    let (dest, scratch) = (place.dest(), place.scratch());
    let spec = TransferSpec::new("rsync://127.0.0.1:1/mirror/", &dest, &scratch);
    for (code, want) in [
        (1, ExitKind::Usage),
        (2, ExitKind::Protocol),
        (5, ExitKind::Refused),
        (10, ExitKind::Network),
        (11, ExitKind::Disk),
        (12, ExitKind::Stream),
        (14, ExitKind::Program),
        (20, ExitKind::Killed),
        (22, ExitKind::Program),
        (25, ExitKind::MaxDelete),
        (30, ExitKind::Timeout),
        (35, ExitKind::ConnectTimeout),
        (77, ExitKind::Other),
    ] {
        let program = script(
            place.0.path(),
            &format!("exit{code}"),
            &format!("echo last words >&2; exit {code}"),
        )?;
        let error = with(&program, Duration::from_secs(20))
            .transfer(&spec)
            .await
            .expect_err("it fails");
        let RsyncError::Exit {
            code: got,
            kind,
            stderr,
        } = error
        else {
            return Err(error.into());
        };
        assert_eq!((got, kind, stderr.as_str()), (code, want, "last words\n"));
    }
    for (code, want) in [
        (0, Outcome::Whole),
        (23, Outcome::Partial),
        (24, Outcome::Vanished),
    ] {
        let program = script(place.0.path(), &format!("exit{code}"), &format!("exit {code}"))?;
        assert_eq!(
            with(&program, Duration::from_secs(20))
                .transfer(&spec)
                .await?
                .outcome,
            want
        );
    }
    let loud = script(
        place.0.path(),
        "loud",
        "head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 12",
    )?;
    let error = with(&loud, Duration::from_secs(20))
        .transfer(&spec)
        .await
        .expect_err("it fails");
    let RsyncError::Exit { stderr, .. } = error else {
        return Err(error.into());
    };
    assert_eq!((stderr.len(), stderr.ends_with("xend\n")), (65_536, true));
    let none = with(Path::new("/no/such/rsync"), Duration::from_secs(20));
    assert!(matches!(
        none.transfer(&spec).await,
        Err(RsyncError::NotInstalled(_))
    ));
    assert!(!none.installed().await);
    Ok(())
}

/// The process (its own pid is in `file`) and its child are gone.
fn gone(file: &Path) -> std::io::Result<bool> {
    let pids = fs::read_to_string(file)?;
    let alive = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    Ok(!pids.split_whitespace().any(alive))
}

/// SIGKILL was sent; the kernel needs its moment.
async fn until_gone(file: &Path) -> TestResult {
    let done = async {
        while !gone(file).unwrap_or(false) {
            tokio::task::yield_now().await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(10), done).await?)
}

/// Until the script has written its line, within the test's own patience.
async fn written(file: &Path) {
    while !fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n')) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_child_that_hangs_is_ended_with_all_it_started() -> TestResult {
    let place = Place::new()?;
    let (dest, scratch) = (place.dest(), place.scratch());
    let pids = place.0.path().join("pids");
    // It ignores TERM, and so does what it started.
    let body = format!(
        "trap '' TERM\nsleep 1000 &\necho $$ $! > {}\necho ready\nwait; sleep 1000",
        pids.display()
    );
    let program = script(place.0.path(), "hangs", &body)?;
    let mut spec = TransferSpec::new("rsync://127.0.0.1:1/mirror/", &dest, &scratch);

    let silent = with(&program, Duration::from_secs(1));
    assert!(matches!(silent.transfer(&spec).await, Err(RsyncError::Silent(_))));
    until_gone(&pids).await?;

    let patient = with(&program, Duration::from_secs(100));
    fs::remove_file(&pids)?;
    spec.deadline = Duration::from_secs(1);
    assert!(matches!(
        patient.transfer(&spec).await,
        Err(RsyncError::Deadline(_))
    ));
    until_gone(&pids).await?;

    fs::remove_file(&pids)?;
    spec.deadline = Duration::from_secs(100);
    spec.stop = CancellationToken::new();
    let stop = spec.stop.clone();
    let stopped = async {
        written(&pids).await;
        stop.cancel();
    };
    let (result, ()) = tokio::join!(patient.transfer(&spec), stopped);
    assert!(matches!(result, Err(RsyncError::Stopped)));
    until_gone(&pids).await?;

    spec.stop = CancellationToken::new();
    fs::remove_file(&pids)?;
    tokio::select! {
        _ = patient.transfer(&spec) => return Err("it hangs, so it does not end".into()),
        () = written(&pids) => {}
    }
    until_gone(&pids).await?;
    Ok(())
}
