//! The change stamp comes first: what it spares, and what it cannot hide.

use std::time::{Duration, SystemTime};

use pacstore_import::{ImportSpec, Importer, Progress, Round, StampSource};
use pacstore_runtime::{Clock, FakeClock};
use pacstore_testkit::{Fault, Repo, RepoSpec, RsyncDaemon, TestResult, Upstream};
use pacstore_upstream::{Http, HttpOptions};

use crate::common::{Bench, age, cid_of, of_directory, of_url};

struct Stamped {
    dir: tempfile::TempDir,
    repo: Repo,
    server: Upstream,
    bench: Bench,
    clock: Clock,
    time: FakeClock,
}

impl Stamped {
    fn new() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let dir = tempfile::tempdir()?;
        let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(3, 2_000))?;
        age(dir.path());
        let server = Upstream::folder(dir.path())?;
        let (clock, time) = Clock::fake(SystemTime::now());
        let bench = Bench::new();
        let stamped = Self {
            dir,
            repo,
            server,
            bench,
            clock,
            time,
        };
        stamped.stamp("1744500000\n")?;
        Ok(stamped)
    }

    /// Beside the repository, so that it is no part of the tree; an hour old, as HTTP's times are coarse.
    fn stamp(&self, text: &str) -> TestResult {
        let hour = SystemTime::now() - Duration::from_hours(1);
        Ok(self.server.put_at("stamps/lastupdate", text.to_owned(), hour)?)
    }

    fn importer(&self, mut spec: ImportSpec) -> Importer {
        spec.stamp = Some(StampSource::Path("stamps/lastupdate".into()));
        let http = Http::new(HttpOptions::default());
        let work = self.bench.dir.path().join("work").join(&spec.mirror);
        let (store, tasks) = (self.bench.store.clone(), self.bench.tasks.clone());
        Importer::new(spec, store, http, tasks, self.clock.clone(), work).unwrap()
    }

    fn web(&self) -> Importer {
        self.importer(of_url(&self.server.url("")))
    }

    /// What the tree should be: the repository alone.
    async fn expected(&self) -> Result<cid::Cid, pacstore_import::RoundError> {
        Ok(Bench::new().round(&of_directory(self.dir.path())).await?.tree)
    }
}

async fn round(importer: &mut Importer) -> Result<Round, pacstore_import::RoundError> {
    importer.round(&Progress::default()).await
}

#[tokio::test]
async fn while_the_stamp_stands_nothing_else_is_asked_for() -> TestResult {
    let mut all = Stamped::new()?;
    let mut importer = all.web();
    let first = round(&mut importer).await?;
    assert_eq!(first.upstream_time, Some(1_744_500_000));
    all.server.clear_log();
    let second = round(&mut importer).await?;
    assert_eq!(
        (second.tree, second.changed, second.passes),
        (first.tree, false, 0)
    );
    assert_eq!(second.upstream_time, Some(1_744_500_000));
    assert!(!second.is_torn() && second.repositories.iter().all(|repo| !repo.checked));
    let asked = all.server.log();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (asked[0].path.as_str(), asked[0].status),
        ("/stamps/lastupdate", 304)
    );
    assert!(asked[0].if_none_match.is_some());

    all.repo.update(&["pkg1"])?;
    all.stamp("1744500060\n")?;
    let third = round(&mut importer).await?;
    assert_eq!((third.tree, third.changed), (all.expected().await?, true));
    assert_eq!(third.upstream_time, Some(1_744_500_060));
    Ok(())
}

#[tokio::test]
async fn a_server_without_etags_is_asked_by_time() -> TestResult {
    let all = Stamped::new()?;
    all.server.fault("*", Fault::NoEtag);
    let mut importer = all.web();
    round(&mut importer).await?;
    all.server.clear_log();
    assert_eq!(round(&mut importer).await?.passes, 0);
    let asked = all.server.log();
    assert!(
        asked.len() == 1 && asked[0].if_modified_since.is_some(),
        "{asked:?}"
    );
    Ok(())
}

/// A stamp that is sent anew with the same content is no change; without any validator it is read each time.
#[tokio::test]
async fn a_stamp_that_is_written_anew_with_the_same_time_in_it_is_no_change() -> TestResult {
    let all = Stamped::new()?;
    all.server.fault("lastupdate", Fault::NoValidators);
    let mut importer = all.web();
    round(&mut importer).await?;
    all.server.clear_log();
    assert_eq!(round(&mut importer).await?.passes, 0);
    assert_eq!(all.server.log().len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_error_page_a_portal_or_an_empty_answer_is_no_change_and_is_told() -> TestResult {
    let elsewhere = Upstream::memory()?;
    elsewhere.put("login", "Welcome to the hotel, please log in")?;
    let portal = elsewhere.url("login").replace("127.0.0.1", "localhost");
    for (what, fault) in [
        ("a web page", Fault::ErrorPage),
        ("redirects for ever", Fault::RedirectLoop),
        ("without the time", Fault::Redirect(elsewhere.url("login"))),
        ("another host", Fault::Redirect(portal)),
        ("empty", Fault::Truncate(pacstore_testkit::At::Byte(0))),
        ("longer than", Fault::Endless),
    ] {
        let all = Stamped::new()?;
        let mut importer = all.web();
        let first = round(&mut importer).await?;
        if what == "empty" {
            all.stamp("")?;
        } else {
            all.stamp("1744500000\n")?;
            all.server.fault("lastupdate", fault);
        }
        all.server.clear_log();
        let odd = round(&mut importer).await?;
        assert_eq!(
            (odd.tree, odd.changed, odd.passes),
            (first.tree, false, 0),
            "{what}"
        );
        assert!(all.server.requests("core.db").is_empty(), "{what}");
        let told = odd.warnings.join("\n");
        assert!(
            told.contains("not taken for a change") && told.contains("portal"),
            "{what}: {told}"
        );
        // It does not hide for long what happens meanwhile, and is still told then.
        let mut looked = round(&mut importer).await?;
        for _ in 0..2 {
            looked = if 0 < looked.passes {
                looked
            } else {
                round(&mut importer).await?
            };
        }
        assert!(0 < looked.passes, "{what}");
        assert!(!looked.warnings.is_empty(), "{what}");
        all.server.heal();
        all.stamp("1744500000\n")?;
        assert!(round(&mut importer).await?.warnings.is_empty(), "{what}");
    }
    Ok(())
}

/// Whatever stands in it: the tree is right, the next round is spared, and another text is a change.
#[tokio::test]
async fn a_stamp_of_any_text_is_a_stamp_and_only_a_possible_time_is_believed() -> TestResult {
    for (text, time) in [
        ("1744500000\r\n", Some(1_744_500_000)),
        ("state=x\r\ndate=2025-04-12T23:20:00Z\r\n", Some(1_744_500_000)),
        ("-1744500000\n", None),
        ("date=9999-12-30T00:00:00Z\n", None),
        ("99999999999999999999999999\n", None),
        ("lorem ipsum\r\n\u{fffd}", None),
    ] {
        let mut all = Stamped::new()?;
        all.stamp(text)?;
        let mut importer = all.web();
        let first = round(&mut importer).await?;
        assert_eq!(first.tree, all.expected().await?, "{text:?}");
        // Without a time in it, that of the file counts, an hour ago.
        let of_file = |at: u64| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.is_ok_and(|now| (3_500..4_500).contains(&now.as_secs().saturating_sub(at)))
        };
        let told = first.upstream_time.expect("a time");
        assert!(
            time.map_or_else(|| of_file(told), |time| time == told),
            "{text:?}: {told}"
        );
        let second = round(&mut importer).await?;
        assert_eq!((second.tree, second.passes), (first.tree, 0), "{text:?}");
        all.repo.update(&["pkg1"])?;
        all.stamp(&format!("{text}more"))?;
        let third = round(&mut importer).await?;
        assert_eq!(third.tree, all.expected().await?, "{text:?}");
    }
    Ok(())
}

/// As where a mirror writes the time of the request: it is no use, and no harm.
#[tokio::test]
async fn a_stamp_that_moves_every_second_makes_each_round_look_and_none_fail() -> TestResult {
    let mut all = Stamped::new()?;
    let mut second = 1_744_500_000;
    let folder = all.dir.path().to_owned();
    all.server.on_request("lastupdate", move |_| {
        second += 1;
        let file = folder.join("stamps/lastupdate");
        fs_err::write(file, format!("{second}\n")).expect("a stamp");
    });
    let mut importer = all.web();
    let mut before = None;
    for _ in 0..3 {
        let now = round(&mut importer).await?;
        assert_eq!((now.tree, now.is_torn()), (all.expected().await?, false));
        assert!(0 < now.passes, "it looks");
        assert_eq!(now.warnings, [""; 0]);
        assert_ne!(before, now.upstream_time);
        before = now.upstream_time;
        all.server.clear_log();
        let same = round(&mut importer).await?;
        assert!(!same.changed && 0 < same.passes);
        let asked = all.server.log().len();
        assert!(asked < 40, "a look without a change is short: {asked} requests");
        all.repo.update(&["pkg1"])?;
    }
    Ok(())
}

/// The original synchronised in full, or not at all, where an error page stood for the stamp.
#[tokio::test]
async fn an_error_page_from_the_first_round_on_does_not_stop_the_import() -> TestResult {
    let mut all = Stamped::new()?;
    all.server.fault("lastupdate", Fault::ErrorPage);
    let mut importer = all.web();
    let first = round(&mut importer).await?;
    assert!(
        first.warnings.iter().any(|w| w.contains("a web page")),
        "{:?}",
        first.warnings
    );
    all.repo.update(&["pkg0"])?;
    assert_eq!(round(&mut importer).await?.tree, all.expected().await?);
    Ok(())
}

#[tokio::test]
async fn a_stamp_that_stands_still_while_databases_change_does_not_freeze_the_import() -> TestResult {
    // By rounds.
    let mut all = Stamped::new()?;
    let mut importer = all.web();
    round(&mut importer).await?;
    all.repo.update(&["pkg2"])?;
    let new = all.expected().await?;
    let mut rounds = 0;
    while round(&mut importer).await?.tree != new {
        rounds += 1;
        assert!(rounds < 10, "a full look is due every tenth round");
    }
    assert!(0 < rounds, "the stamp was believed at first");
    // By time.
    all.repo.update(&["pkg1"])?;
    let newer = all.expected().await?;
    assert_eq!(round(&mut importer).await?.tree, new);
    all.time.advance(Duration::from_mins(31));
    assert_eq!(round(&mut importer).await?.tree, newer);
    // By a person who asks.
    all.repo.update(&["pkg0"])?;
    importer.look();
    assert_eq!(round(&mut importer).await?.tree, all.expected().await?);
    // After a restart.
    drop(importer);
    all.repo.update(&["pkg0"])?;
    assert_eq!(round(&mut all.web()).await?.tree, all.expected().await?);
    Ok(())
}

/// The original's tree was torn for days: the stamp was new, the transfer had failed, and the next run believed it.
#[tokio::test]
async fn a_stamp_that_came_before_its_files_is_not_believed_until_all_is_whole() -> TestResult {
    let mut all = Stamped::new()?;
    let mut importer = all.web();
    let first = round(&mut importer).await?;
    all.stamp("1744500060\n")?;
    all.repo.update_database_only(&["pkg1"])?;
    let torn = round(&mut importer).await?;
    assert!(torn.is_torn() && torn.tree == first.tree);
    all.repo.finish_update()?;
    let whole = round(&mut importer).await?;
    assert_eq!((whole.tree, whole.is_torn()), (all.expected().await?, false));
    Ok(())
}

#[tokio::test]
async fn the_stamp_of_an_rsync_module_and_of_a_directory_spares_the_walk_too() -> TestResult {
    let mut all = Stamped::new()?;
    let daemon = RsyncDaemon::serve(all.dir.path())?;
    let directory = of_directory(all.dir.path());
    let specs = daemon
        .as_ref()
        .map(|daemon| of_url(&daemon.url("")))
        .into_iter()
        .chain([directory]);
    for (number, mut spec) in specs.enumerate() {
        spec.mirror = format!("mirror{number}");
        let mut importer = all.importer(spec.clone());
        let first = round(&mut importer).await?;
        assert_eq!(first.tree, all.expected().await?, "{:?}", spec.from);
        assert_eq!(round(&mut importer).await?.passes, 0, "{:?}", spec.from);
        all.repo.update(&["pkg1"])?;
        assert_eq!(round(&mut importer).await?.passes, 0, "{:?}", spec.from);
        all.stamp(&format!("17445001{number}0\n"))?;
        let second = round(&mut importer).await?;
        assert_eq!(
            (second.tree, second.changed),
            (all.expected().await?, true),
            "{:?}",
            spec.from
        );
    }
    Ok(())
}

#[tokio::test]
async fn where_the_stamp_is_gone_or_cannot_be_asked_each_round_looks() -> TestResult {
    let mut all = Stamped::new()?;
    for fault in [Fault::Status(404), Fault::Status(503), Fault::Hangup] {
        let mut importer = all.web();
        round(&mut importer).await?;
        all.server.fault("lastupdate", fault.clone());
        all.repo.update(&["pkg1"])?;
        assert_eq!(
            round(&mut importer).await?.tree,
            all.expected().await?,
            "{fault:?}"
        );
        all.server.heal();
    }
    // The first look without it is like the tree of the directory itself.
    assert_eq!(round(&mut all.web()).await?.tree, cid_of_repo(&all)?);
    Ok(())
}

fn cid_of_repo(all: &Stamped) -> Result<cid::Cid, Box<dyn std::error::Error + Send + Sync>> {
    let copy = tempfile::tempdir()?;
    for entry in fs_err::read_dir(all.dir.path())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs_err::copy(entry.path(), copy.path().join(entry.file_name()))?;
        }
    }
    Ok(cid_of(copy.path()))
}
