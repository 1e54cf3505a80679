//! `store.max_size` on the disk: counted there, by blocks, while everything goes on at once.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use pacstore_import::Files;
use pacstore_node::{Answer, FetchError};
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::machine::{Machine, folder};
use crate::nodes::{Failure, Plan, TestNode};
use crate::solo::{LARGE, on_disk, solo};

/// Bytes of disk of each file below `folder`, by inode: a file with two names takes its blocks once.
fn blocks(folder: &Path, found: &mut HashMap<u64, u64>) {
    let Ok(entries) = fs_err::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = fs_err::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            blocks(&path, found);
        } else if meta.is_file() {
            found.insert(meta.ino(), meta.blocks() * 512);
        }
    }
}

/// What all files of a store take, but for its index and the room kept for gc.
fn files(store: &Path) -> HashMap<u64, u64> {
    let mut found = HashMap::new();
    blocks(store, &mut found);
    for own in ["index.redb", "ballast"] {
        if let Ok(meta) = fs_err::metadata(store.join(own)) {
            found.remove(&meta.ino());
        }
    }
    found
}

/// What the files certainly took at one moment: those that were there before it and after it.
fn taken(store: &Path) -> u64 {
    let (before, after) = (files(store), files(store));
    let both = before.iter().filter(|(inode, _)| after.contains_key(inode));
    both.map(|(_, bytes)| bytes).sum()
}

/// Looks at the disk again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, u64)>,
}

impl Watch {
    fn start(store: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut most, mut looks) = (0, 0);
            while !told.load(Ordering::Relaxed) {
                most = most.max(taken(&store));
                looks += 1;
                std::thread::park_timeout(Duration::from_millis(1));
            }
            (most, looks)
        });
        Self { stop, thread }
    }

    /// The most that was taken at one moment, and how often it was looked.
    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The package, or that pacman was sent to the mirror for it.
async fn fetched(node: &TestNode, repo: &Repo, name: &str) -> Result<bool, Failure> {
    let name = repo.file_name(name)?;
    let file = node.pacman_file(&name).await;
    let got = match node.node.begin(&file, 0, file.len).await {
        Ok((mut content, first)) => {
            let start = first.len() as u64;
            let rest = crate::nodes::read(&node.node, &mut content, start, file.len).await?;
            [first.to_vec(), rest].concat()
        }
        Err(FetchError::Elsewhere { .. }) => return Ok(false),
        Err(_) if node.node.mirror_instead(&file).is_some() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    assert!(got == on_disk(repo, &name), "{name}");
    Ok(true)
}

/// Much more is asked for than there is room for, by many at once, beside updates ahead of time, pacman's cache and gc.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_cap_holds_on_the_disk_at_every_moment() -> TestResult {
    const CAP: u64 = 12_000_000;
    let dir = tempfile::tempdir()?;
    let sizes = [400, 9_000, 150_000, 700_000, 1_500_000, 2_600_000];
    let spec = (0..48).fold(RepoSpec::new("core"), |spec, n| {
        spec.package(format!("p{n}"), sizes[n % sizes.len()])
    });
    let mut repo = Repo::create(dir.path(), spec)?;
    let mirror = Upstream::folder(dir.path())?;
    let machine = Machine::new("");
    for n in 0..12 {
        machine.has(&folder(&repo, &format!("p{n}")));
    }
    let updates: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
    repo.update(&updates.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut plan = machine.under(solo(&[&mirror]));
    plan.config.max_size = CAP;
    plan.config.machine.cache_dirs = vec![machine.cache()];
    let store = plan.config.store_dir.clone();
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    for n in [40, 41, 46, 47] {
        let name = repo.file_name(&format!("p{n}"))?;
        for name in [format!("{name}.sig"), name] {
            fs_err::write(machine.cache().join(&name), on_disk(&repo, &name))?;
        }
    }
    let watch = Watch::start(store.clone());
    let reader = |first: usize| {
        let (node, repo) = (&node, &repo);
        async move {
            let mut given = 0;
            for n in 0..48 {
                // Each in an order of its own.
                let name = format!("p{}", (first * 7 + n * (2 * first + 1)) % 48);
                given += u32::from(fetched(node, repo, &name).await?);
                if n % 5 == first % 5 {
                    let name = format!("{}.sig", repo.file_name(&name)?);
                    node.pacman_bytes(&name).await?;
                }
            }
            Ok::<u32, Failure>(given)
        }
    };
    let beside = async {
        let mut rounds = 0_u64;
        loop {
            let _ = node.node.prefetch().await;
            node.node.gc(None).await.unwrap();
            node.node.gc(Some(CAP / (1 + rounds % 3))).await.unwrap();
            node.node.look_at_machine().await.unwrap();
            rounds += 1;
        }
    };
    let readers = futures::future::try_join_all((0..8).map(reader));
    let given = tokio::select! {
        given = tokio::time::timeout(Duration::from_mins(3), readers) => given??,
        () = beside => unreachable!("it goes on"),
    };
    node.idle().await;
    let (most, looks) = watch.end();
    let stats = node.node.store().stats();
    // Databases in use do not count; they are the only thing that is held here.
    let held = stats.bytes - stats.evictable;
    assert!(held < 100_000, "{stats:?}");
    assert!(looks > 100, "{looks}");
    assert!(
        most <= CAP + CAP / 50 + held,
        "{most} bytes at one moment, in {looks} looks"
    );
    assert!(CAP / 3 < most, "there was something to count: {most}");
    assert!(
        given.iter().sum::<u32>() > 200,
        "most came through this node: {given:?}"
    );
    node.node.gc(None).await?;
    assert!(taken(&store) <= CAP + held);
    assert!(node.node.store().fsck(false, &mut |_| ())?.damages.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_smaller_than_any_package_holds_and_packages_reach_pacman() -> TestResult {
    const CAP: u64 = 10_000;
    let dir = tempfile::tempdir()?;
    let spec = RepoSpec::new("core")
        .package("large", LARGE)
        .package("small", 300_000);
    let repo = Repo::create(dir.path().join("core"), spec)?;
    let mirror = Upstream::folder(repo.folder())?;
    // Without importer.
    let mut plan = solo(&[&mirror]);
    plan.config.max_size = CAP;
    let store = plan.config.store_dir.clone();
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    let watch = Watch::start(store);
    for _ in 0..2 {
        assert!(fetched(&node, &repo, "small").await?, "it fits into memory");
        assert!(
            !fetched(&node, &repo, "large").await?,
            "it would have to be checked whole"
        );
        let name = repo.file_name("large")?;
        assert_eq!(node.sent_to(&name).await, mirror.url(&name));
    }
    let held = node.node.store().stats().bytes - node.node.store().stats().evictable;
    let (most, _) = watch.end();
    assert!(most <= CAP + held, "{most}, {held} of it held");
    node.stop().await;
    // With one: leaf by leaf, through memory.
    let importer = Plan::importer(dir.path(), Files::Listed).start().await;
    importer.import().await;
    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.max_size = CAP;
    let store = plan.config.store_dir.clone();
    let client = plan.start().await;
    client.follows(&importer).await;
    assert!(matches!(client.ask(1, "core/core.db").await, Answer::File(_)));
    let watch = Watch::start(store);
    for _ in 0..2 {
        for package in ["small", "large"] {
            let got = client.get(&format!("core/{}", repo.file_name(package)?)).await?;
            assert!(got == repo.bytes(package)?, "{package}");
        }
    }
    let held = client.node.store().stats().bytes - client.node.store().stats().evictable;
    let (most, _) = watch.end();
    assert!(most <= CAP + held, "{most}, {held} of it held");
    client.stop().await;
    Ok(())
}

/// Signatures and small packages take a block each, however few bytes they have.
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_holds_for_hundreds_of_files_that_are_smaller_than_a_block() -> TestResult {
    const CAP: u64 = 600_000;
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").packages(120, 100))?;
    let mirror = Upstream::folder(dir.path())?;
    let mut plan = solo(&[&mirror]);
    plan.config.max_size = CAP;
    let store = plan.config.store_dir.clone();
    let node = plan.start().await;
    node.pacman_bytes("core.db").await?;
    let watch = Watch::start(store);
    let all = (0..120).map(|n| {
        let (node, repo) = (&node, &repo);
        async move {
            let name = format!("pkg{n}");
            assert!(fetched(node, repo, &name).await?, "{name}");
            node.pacman_bytes(&format!("{}.sig", repo.file_name(&name)?))
                .await?;
            Ok::<(), Failure>(())
        }
    });
    let all: Vec<_> = all.collect();
    futures::stream::iter(all)
        .buffer_unordered(8)
        .try_collect::<()>()
        .await?;
    node.idle().await;
    let (most, looks) = watch.end();
    let stats = node.node.store().stats();
    let held = stats.bytes - stats.evictable;
    assert!(
        most <= CAP + CAP / 50 + held,
        "{most} bytes at one moment, in {looks} looks"
    );
    assert!(CAP / 2 < most && stats.files > 60, "{most}, {stats:?}");
    Ok(())
}
