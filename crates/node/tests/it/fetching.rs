//! Files of many leaves from several sources, good and bad.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use futures::future::try_join_all;
use pacstore_import::Files;
use pacstore_store::{Steps, Tuning};
use pacstore_testkit::{At, Fault, Request, TestResult, Upstream, random};

use crate::nodes::{Plan, SOON, TestNode};

const MIB: u64 = 1 << 20;

/// So long a peer is waited for where none is connected.
const LONELY: Duration = Duration::from_secs(3);

/// A folder with one file `big` of `mib` MiB and a little.
fn folder(mib: u64) -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let bytes = random(mib, (mib * MIB + 12_345) as usize).to_vec();
    fs_err::write(dir.path().join("big"), &bytes).unwrap();
    (dir, bytes)
}

async fn importer(dir: &Path) -> TestNode {
    let importer = Plan::importer(dir, Files::All).start().await;
    importer.import().await;
    importer
}

/// Waits until `client` is on the importer's head, then takes the importer from it for good.
async fn follow_then_stop(importer: TestNode, plan: Plan) -> TestNode {
    let client = plan.start().await;
    client.follows(&importer).await;
    importer.stop().await;
    client
}

/// Bytes of the file that the mirror gave.
fn given(mirror: &Upstream) -> u64 {
    mirror.requests("big").iter().map(|r| r.sent).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_and_a_mirror_share_the_work() -> TestResult {
    let (dir, bytes) = folder(24);
    let mirror = Upstream::folder(dir.path())?;
    mirror.limit(Some(8_000_000));
    let importer = importer(dir.path()).await;
    let relay = importer.relay(Some(8_000_000)).await;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)]).upstream(&mirror);
    let client = plan.start().await;
    client.follows(&importer).await;
    assert!(client.get("big").await? == bytes);
    let counted = client.node.bytes_out();
    assert!(counted.lan > 4 * MIB && counted.upstream > 4 * MIB, "{counted:?}");
    assert_eq!(counted.lan + counted.upstream, bytes.len() as u64);
    assert!(
        given(&mirror) <= counted.upstream + 6 * MIB,
        "{} asked for {counted:?}",
        given(&mirror)
    );
    Ok(())
}

/// What is asked of a mirror that is busy waits there, while the peers bring it sooner.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_others_under_way_leaves_the_next_file_to_sooner_peers_at_first() -> TestResult {
    let (dir, bytes) = folder(48);
    // More leaves than peers are asked for at first, so the mirror gets one.
    for (name, mib) in [("busy", 8), ("next", 24)] {
        fs_err::write(dir.path().join(name), random(100 + mib, (mib * MIB) as usize))?;
    }
    let mirror = Upstream::folder(dir.path())?;
    mirror.limit(Some(1_000_000));
    let importer = importer(dir.path()).await;
    let relay = importer.relay(Some(20_000_000)).await;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)]).upstream(&mirror);
    let client = plan.start().await;
    client.follows(&importer).await;
    assert!(client.get("big").await? == bytes, "both are measured by it");
    mirror.fault("busy", Fault::StallAfterHeader);
    let next = async {
        let asked = |log: &[Request]| log.iter().any(|one| one.path.ends_with("/busy"));
        mirror.wait_for(SOON, asked).await?;
        let began = SystemTime::now();
        client.get("next").await?;
        let first = mirror.requests("next").first().map(|one| one.at);
        let left = first.map(|first| first.duration_since(began).unwrap_or_default());
        assert!(
            left.is_none_or(|left| left >= Duration::from_millis(250)),
            "asked of the mirror after {left:?}"
        );
        TestResult::Ok(())
    };
    let (busy, next) = tokio::join!(client.get("busy"), next);
    busy?;
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_completes_from_the_mirror_when_the_peer_dies_in_its_middle() -> TestResult {
    let (dir, bytes) = folder(24);
    let mirror = Upstream::folder(dir.path())?;
    mirror.limit(Some(4_000_000));
    let importer = importer(dir.path()).await;
    let relay = importer.relay(Some(10_000_000)).await;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)]).upstream(&mirror);
    let client = plan.start().await;
    client.follows(&importer).await;
    relay.cut_after(8 * MIB);
    assert!(client.get("big").await? == bytes);
    let counted = client.node.bytes_out();
    assert!(counted.lan >= 3 * MIB, "{counted:?}");
    assert!(
        given(&mirror) + counted.lan <= bytes.len() as u64 + 8 * MIB,
        "{counted:?}"
    );
    Ok(())
}

/// Peers that are always sooner are no reason to give the mirror up: it is there when the last of them goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_peers_overtake_is_still_there_when_they_die() -> TestResult {
    let (dir, bytes) = folder(48);
    let mirror = Upstream::folder(dir.path())?;
    // No leaf of it ever comes before the peer's.
    mirror.fault("big", Fault::Drip(Duration::from_millis(500)));
    let importer = importer(dir.path()).await;
    let relay = importer.relay(Some(3_000_000)).await;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)]).upstream(&mirror);
    let client = plan.start().await;
    client.follows(&importer).await;
    let before = relay.down();
    let asked = async |times| {
        while mirror.requests("big").len() < times {
            let passed = relay.down() - before;
            assert!(passed < 40 * MIB, "the mirror was given up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let peers_die = async {
        // The third leaf in a row is overtaken, too; then the mirror is as good as any.
        asked(3).await;
        mirror.heal();
        asked(4).await;
        relay.cut_after(MIB);
    };
    let (got, ()) = tokio::join!(client.get("big"), peers_die);
    assert!(got? == bytes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_fails_when_the_only_peer_dies_and_goes_on_later_where_it_was() -> TestResult {
    let (dir, bytes) = folder(24);
    let importer = importer(dir.path()).await;
    let relay = importer.relay(Some(12_000_000)).await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.behind(&relay)])
        .start()
        .await;
    client.follows(&importer).await;
    let before = relay.down();
    relay.cut_after(10 * MIB);
    let error = client.get("big").await.expect_err("nobody has the rest");
    assert!(error.to_string().contains("no source gives"), "{error}");
    relay.heal();
    client.connected().await;
    let cut = relay.down() - before;
    assert!(client.get("big").await? == bytes);
    let after = relay.down() - before - cut;
    // What was verified before the cut is not asked again; one window may have been under way.
    assert!(
        after <= bytes.len() as u64 - 5 * MIB,
        "{after} bytes after a cut at {cut}"
    );
    Ok(())
}

/// Wrong in one way or another: the mirror is left aside and the peer gives the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_mirror_does_not_keep_a_file_from_coming_from_the_peer() -> TestResult {
    let (dir, bytes) = folder(6);
    let importer = importer(dir.path()).await;
    let elsewhere = Upstream::folder(dir.path())?;
    let faults = [
        Fault::Flip(MIB / 2),
        Fault::Flip(5 * MIB),
        Fault::Truncate(At::Byte(MIB / 2)),
        Fault::StallAt(At::Byte(MIB / 2)),
        Fault::NoAnswer,
        Fault::NoRanges,
        Fault::Redirect(elsewhere.url("big")),
        Fault::RedirectLoop,
        Fault::Status(404),
        Fault::Status(503),
        Fault::ErrorPage,
        Fault::WrongRange(10),
        Fault::Endless,
        Fault::WrongLength(1000),
    ];
    for fault in faults {
        let mirror = Upstream::folder(dir.path())?;
        mirror.fault("big", fault.clone());
        let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
        let client = plan.start().await;
        client.follows(&importer).await;
        let began = std::time::Instant::now();
        let got = client
            .get("big")
            .await
            .unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert!(got == bytes, "{fault:?}");
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{fault:?} took {:?}",
            began.elapsed()
        );
        client.stop().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_alone_gives_the_file_and_with_wrong_bytes_nothing_of_the_wrong_leaf() -> TestResult {
    let (dir, bytes) = folder(6);
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = follow_then_stop(importer, plan).await;
    mirror.fault("big", Fault::Flip(3 * MIB + 5));
    let began = std::time::Instant::now();
    client.get("big").await.expect_err("leaf 3 is wrong everywhere");
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "took {:?}",
        began.elapsed()
    );
    mirror.heal();
    mirror.clear_log();
    assert!(client.get("big").await? == bytes);
    assert!(
        given(&mirror) <= 5 * MIB,
        "leaves that were right are not asked again"
    );
    assert_eq!(client.node.bytes_out().lan, 0);
    Ok(())
}

/// Whether it came, and how long that took.
async fn timed(client: &TestNode, name: &str) -> (Option<Vec<u8>>, Duration) {
    let began = std::time::Instant::now();
    let got = client.get(name).await.ok();
    (got, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_alone_that_ignores_ranges_gives_files_in_one_piece_and_at_once() -> TestResult {
    let (dir, bytes) = folder(6);
    let next = random(7, 3 * MIB as usize).to_vec();
    fs_err::write(dir.path().join("next"), &next)?;
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    for name in ["big", "next"] {
        mirror.fault(name, Fault::NoRanges);
    }
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = follow_then_stop(importer, plan).await;
    let (got, took) = timed(&client, "big").await;
    assert!(got.is_some_and(|got| got == bytes) && took < LONELY, "{took:?}");
    let asked = |name: &str| {
        mirror
            .requests(name)
            .iter()
            .map(|r| r.range.is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(asked("big"), [true, false]);
    let (got, _) = timed(&client, "next").await;
    assert!(got.is_some_and(|got| got == next));
    assert_eq!(asked("next"), [false], "it is known");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_gives_ranges_goes_before_one_that_does_not() -> TestResult {
    let (dir, bytes) = folder(6);
    fs_err::write(dir.path().join("next"), random(7, 3 * MIB as usize))?;
    let importer = importer(dir.path()).await;
    let (whole, ranges) = (Upstream::folder(dir.path())?, Upstream::folder(dir.path())?);
    whole.fault("*", Fault::NoRanges);
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    let client = follow_then_stop(importer, plan.upstream(&whole).upstream(&ranges)).await;
    assert!(client.get("big").await? == bytes);
    assert!(
        given(&ranges) >= bytes.len() as u64,
        "the other may help in one piece only"
    );
    client.get("next").await?;
    assert_eq!(whole.requests("next").len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_one_piece_is_not_given_and_its_beginning_is_not_read_for_a_little_at_its_end()
-> TestResult {
    let (dir, _) = folder(6);
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = follow_then_stop(importer, plan).await;
    mirror.fault("big", Fault::NoRanges);
    mirror.fault("big", Fault::Flip(5 * MIB + 5));
    client.get("big").await.expect_err("leaf 5 is wrong");
    mirror.heal();
    mirror.fault("big", Fault::NoRanges);
    mirror.clear_log();
    // Five of its leaves are here: the reader is sent to the mirror instead.
    let (got, took) = timed(&client, "big").await;
    assert!(got.is_none() && took < LONELY, "{took:?}");
    assert_eq!(given(&mirror), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_readers_at_once_ask_the_mirror_once_for_each_leaf() -> TestResult {
    let (dir, bytes) = folder(8);
    fs_err::write(dir.path().join("small"), b"one leaf")?;
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = follow_then_stop(importer, plan).await;
    for (name, want) in [("big", &bytes[..]), ("small", &b"one leaf"[..])] {
        mirror.clear_log();
        let all = futures::future::join_all((0..20).map(|_| client.get(name))).await;
        for got in all {
            assert!(got? == want, "{name}");
        }
        assert_eq!(mirror.sent(), want.len() as u64, "{:#?}", mirror.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_in_the_middle_comes_first_and_what_came_is_not_asked_again() -> TestResult {
    let (dir, bytes) = folder(24);
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    mirror.limit(Some(6_000_000));
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = follow_then_stop(importer, plan).await;
    let file = client.file("big").await;
    let (start, end) = (15 * MIB + 7, 16 * MIB + 9);
    let part = client.part(&file, start, end).await?;
    assert!(part == bytes[start as usize..end as usize]);
    assert!(
        given(&mirror) < 8 * MIB,
        "{} bytes before the middle came",
        given(&mirror)
    );
    // Its only reader is gone: the job ends, and the next one goes on from what is here.
    client.idle().await;
    let before = given(&mirror);
    assert!(before < 20 * MIB, "it goes on with nobody to read");
    mirror.clear_log();
    assert!(client.get("big").await? == bytes);
    assert!(
        given(&mirror) <= bytes.len() as u64 - 2 * MIB,
        "the middle was here"
    );
    Ok(())
}

/// Two readers far apart: neither waits until the other has all.
#[tokio::test(flavor = "multi_thread")]
async fn readers_in_different_places_of_one_file_both_get_on() -> TestResult {
    let (dir, bytes) = folder(24);
    let importer = importer(dir.path()).await;
    let mirror = Upstream::folder(dir.path())?;
    mirror.limit(Some(8_000_000));
    let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]).upstream(&mirror);
    let client = follow_then_stop(importer, plan).await;
    let file = client.file("big").await;
    let (first, second) = tokio::join!(
        client.part(&file, 0, 3 * MIB),
        client.part(&file, 20 * MIB, 23 * MIB)
    );
    assert!(first? == bytes[..3 << 20]);
    assert!(second? == bytes[20 << 20..23 << 20]);
    assert!(given(&mirror) < 14 * MIB, "{} bytes for 6 MiB", given(&mirror));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_came_by_its_cid_is_found_by_its_sha256_soon_after() -> TestResult {
    let (dir, bytes) = folder(3);
    let importer = importer(dir.path()).await;
    let client = Plan::client(vec![importer.plan.key()], vec![importer.address().await])
        .start()
        .await;
    client.follows(&importer).await;
    assert!(client.get("big").await? == bytes);
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let digest: [u8; 32] = digest.as_ref().try_into()?;
    let root = client.file("big").await.root;
    assert_eq!(client.learns(&digest).await?, root);
    Ok(())
}

/// Mirrors that take the request and say nothing use up neither pacman's ten seconds nor the next mirror's chance.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_comes_although_mirror_after_mirror_is_silent() -> TestResult {
    for fault in [
        Fault::NoAnswer,
        Fault::StallAfterHeader,
        Fault::StallAt(At::Percent(50)),
    ] {
        let dir = tempfile::tempdir()?;
        let bytes = random(9, 300_000).to_vec();
        fs_err::write(dir.path().join("small"), &bytes)?;
        let importer = importer(dir.path()).await;
        let mirrors: Vec<Upstream> = (0..4)
            .map(|_| Upstream::folder(dir.path()))
            .collect::<Result<_, _>>()?;
        let plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
        let plan = mirrors.iter().fold(plan, Plan::upstream);
        let client = follow_then_stop(importer, plan).await;
        for silent in &mirrors[..3] {
            silent.fault("small", fault.clone());
        }
        let pacman = Duration::from_secs(10);
        let got = tokio::time::timeout(pacman, client.get("small")).await;
        let got = got.unwrap_or_else(|_| panic!("{fault:?}: pacman would be gone"))?;
        assert!(got == bytes, "{fault:?}");
        client.stop().await;
    }
    Ok(())
}

/// A disk that makes nothing durable until it is told to.
#[derive(Debug, Default)]
struct SlowDisk {
    is_free: Mutex<bool>,
    freed: Condvar,
}

impl SlowDisk {
    fn free(&self) {
        *self.is_free.lock().unwrap() = true;
        self.freed.notify_all();
    }
}

impl Steps for SlowDisk {
    fn before(&self, step: &'static str) -> io::Result<()> {
        if step == "finish" {
            let is_free = self.is_free.lock().unwrap();
            drop(
                self.freed
                    .wait_timeout_while(is_free, 2 * SOON, |is_free| !*is_free),
            );
        }
        Ok(())
    }
}

/// More than all downloads may hold in memory; what is written and not yet durable can be read again.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_go_out_while_the_disk_is_slow_to_make_others_durable() -> TestResult {
    let dir = tempfile::tempdir()?;
    let names: Vec<String> = (0..40).map(|n| format!("small{n}")).collect();
    for (seed, name) in (0..).zip(&names) {
        fs_err::write(dir.path().join(name), random(seed, MIB as usize))?;
    }
    let importer = importer(dir.path()).await;
    let disk = Arc::new(SlowDisk::default());
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.tuning = Tuning {
        steps: Some(Arc::<SlowDisk>::clone(&disk)),
        ..Tuning::default()
    };
    let client = plan.start().await;
    client.follows(&importer).await;
    let all = try_join_all(names.iter().map(|name| client.get(name)));
    let all = tokio::time::timeout(SOON, all)
        .await
        .expect("nobody waits for the disk")?;
    for (seed, got) in (0..).zip(&all) {
        assert!(*got == random(seed, MIB as usize), "file {seed}");
    }
    let (_, before) = (importer.stop().await, client.node.bytes_out());
    assert!(client.get("small7").await? == all[7]);
    let after = client.node.bytes_out();
    // It is told under its source, and comes from none of them again.
    assert_eq!(
        (after.lan, after.disk),
        (before.lan + MIB, before.disk),
        "{after:?}"
    );
    disk.free();
    client.idle().await;
    Ok(())
}
