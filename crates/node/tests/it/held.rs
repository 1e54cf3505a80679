//! Packages that take longer than pacman waits for one request, where neighbours want them, too.
//!
//! - Not here: the redirect by which pacman is held (`crates/http/tests/it/solo.rs`), the real pacman
//!   (`crates/cli/tests/lab`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pacstore_net::{Multiaddr, Net, ShareAsk, ShareRequest, ShareState};
use pacstore_node::FetchError;
use pacstore_node::config::MachineConfig;
use pacstore_runtime::Tasks;
use pacstore_testkit::{Repo, RepoSpec, Request, TestResult, Upstream};
use tokio::sync::mpsc;

use crate::nodes::{SOON, TestNode, read};
use crate::share::{neighbours, stranger};
use crate::solo::{on_disk, solo};

const LEN: u64 = 4_500_000;

/// Bytes a second: about eleven seconds for one package.
const RATE: u64 = 400_000;

/// As long as pacman waits for one request.
const SILENCE: Duration = Duration::from_secs(10);

/// What pacman got.
#[derive(Debug)]
enum Got {
    Bytes(Vec<u8>),
    /// There, for this reason.
    SentTo(String, String),
}

/// Asks as pacman does: again when it is told so. What it got, and how many times it was held.
async fn ask(client: &TestNode, name: &str) -> (Got, u8) {
    let mut times = 0;
    loop {
        let mut file = client.pacman_file(name).await;
        file.was_held(times);
        let opened = tokio::time::timeout(SILENCE, client.node.open(&file)).await;
        match opened.expect("pacman gives up") {
            Ok(mut content) => {
                let bytes = read(&client.node, &mut content, 0, file.len).await.unwrap();
                return (Got::Bytes(bytes), times);
            }
            Err(FetchError::NotYet { held, .. }) => {
                assert_eq!(held, times + 1);
                times = held;
            }
            Err(FetchError::Elsewhere { url, why, .. }) => {
                return (Got::SentTo(url.to_string(), why.into()), times);
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// Machines of one LAN that know each other and the database. Each has a mirror of its own.
async fn house(mirrors: &[Upstream], more: Vec<Multiaddr>) -> Vec<TestNode> {
    house_with(mirrors, more, MachineConfig::default()).await
}

/// The same; this is what the first one knows of its pacman.
async fn house_with(mirrors: &[Upstream], more: Vec<Multiaddr>, pacman: MachineConfig) -> Vec<TestNode> {
    let mut clients: Vec<TestNode> = Vec::new();
    let others = mirrors.len() - 1 + more.len();
    for mirror in mirrors {
        let mut plan = solo(&[mirror]);
        plan.config.repositories[0].public = true;
        let mut peers = more.clone();
        for other in &clients {
            peers.push(other.address().await);
        }
        plan.config.swarm.peers = peers;
        if clients.is_empty() {
            plan.config.machine = pacman.clone();
        }
        clients.push(plan.start().await);
    }
    for (client, mirror) in clients.iter().zip(mirrors) {
        neighbours(client, others).await;
        client.pacman_bytes("core.db").await.unwrap();
        mirror.clear_log();
        mirror.limit(Some(RATE));
    }
    clients
}

fn cache_at(folder: &Path) -> MachineConfig {
    MachineConfig {
        cache_dirs: vec![folder.to_owned()],
        ..MachineConfig::default()
    }
}

fn mirrors(count: usize, dir: &Path) -> Vec<Upstream> {
    let all = (0..count).map(|_| Upstream::folder(dir));
    all.collect::<Result<_, _>>().unwrap()
}

/// How many times a file of this length came from outside.
fn times(mirrors: &[Upstream], len: usize) -> f64 {
    mirrors.iter().map(Upstream::sent).sum::<u64>() as f64 / len as f64
}

fn repo(dir: &Path) -> Repo {
    let spec = RepoSpec::new("core")
        .package("first", LEN)
        .package("second", LEN + 1);
    Repo::create(dir, spec).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_machines_bring_a_package_once_that_takes_longer_than_pacman_waits() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = repo(dir.path());
    let mirrors = mirrors(3, dir.path());
    let clients = house(&mirrors, Vec::new()).await;
    // For the second one who brought the first knows the rate before it asks.
    for package in ["first", "second"] {
        mirrors.iter().for_each(Upstream::clear_log);
        let name = repo.file_name(package)?;
        let wanted = on_disk(&repo, &name);
        let all = clients.iter().map(|client| ask(client, &name));
        for (got, held) in futures::future::join_all(all).await {
            match got {
                Got::Bytes(bytes) => assert!(bytes == wanted && 0 < held, "{package}: held {held} times"),
                Got::SentTo(url, why) => panic!("sent to {url} after {held} holds: {why}"),
            }
        }
        let ratio = times(&mirrors, wanted.len());
        assert!(ratio <= 1.1, "{ratio:.2} times {package} came from outside");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_wants_it_alone_is_sent_to_the_mirror_though_neighbours_are_there() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = repo(dir.path());
    let mirrors = mirrors(2, dir.path());
    let clients = house(&mirrors, Vec::new()).await;
    for package in ["first", "second"] {
        let name = repo.file_name(package)?;
        let (got, held) = ask(&clients[0], &name).await;
        assert!(
            matches!(&got, Got::SentTo(url, _) if *url == mirrors[0].url(&name)),
            "{package}"
        );
        assert_eq!(held, 0, "{package}");
    }
    Ok(())
}

/// Who comes later waits for the pacman that is at it, and takes it out of its cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_pacman_loads_from_the_mirror_elsewhere_in_the_house_is_waited_for() -> TestResult {
    let (dir, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let repo = repo(dir.path());
    let mirrors = mirrors(3, dir.path());
    let clients = house_with(&mirrors, Vec::new(), cache_at(cache.path())).await;
    let name = repo.file_name("first")?;
    let wanted = on_disk(&repo, &name);
    assert!(matches!(ask(&clients[0], &name).await, (Got::SentTo(..), 0)));
    mirrors.iter().for_each(Upstream::clear_log);
    let (part, whole) = (
        cache.path().join(format!("{name}.part")),
        cache.path().join(&name),
    );
    let pacman = async {
        let mut file = fs_err::File::create(&part).unwrap();
        for piece in wanted.chunks(RATE as usize / 5) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            std::io::Write::write_all(&mut file, piece).unwrap();
        }
        fs_err::rename(&part, &whole).unwrap();
    };
    let others = clients[1..].iter().map(|client| ask(client, &name));
    let ((), got) = futures::future::join(pacman, futures::future::join_all(others)).await;
    for (got, held) in got {
        assert!(
            matches!(&got, Got::Bytes(bytes) if *bytes == wanted),
            "held {held} times"
        );
    }
    assert!(mirrors.iter().all(|mirror| mirror.sent() == 0));
    Ok(())
}

/// By its `pacman.conf` the first one does not use that repository, so it takes no package of it from the cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_pacman_loads_and_its_node_does_not_take_from_there_keeps_nobody_waiting() -> TestResult {
    let (dir, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let repo = repo(dir.path());
    let mirrors = mirrors(2, dir.path());
    let mut pacman = cache_at(cache.path());
    let conf = cache.path().join("pacman.conf");
    fs_err::write(&conf, "[options]\n[other]\nServer = http://127.0.0.1:9/\n")?;
    pacman.pacman_conf = Some(conf);
    let clients = house_with(&mirrors, Vec::new(), pacman).await;
    let name = repo.file_name("first")?;
    assert!(matches!(ask(&clients[0], &name).await, (Got::SentTo(..), 0)));
    let part = cache.path().join(format!("{name}.part"));
    let loads = async {
        let mut file = fs_err::File::create(&part).unwrap();
        // For longer than all holds together.
        for _ in 0..500 {
            std::io::Write::write_all(&mut file, &vec![0; RATE as usize / 5]).unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (got, held) = tokio::select! {
        () = loads => panic!("nobody lets it go"),
        got = ask(&clients[1], &name) => got,
    };
    match got {
        Got::Bytes(bytes) => assert!(bytes == on_disk(&repo, &name)),
        Got::SentTo(url, why) => panic!("sent to {url} after {held} holds: {why}"),
    }
    Ok(())
}

/// Another one begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_machine_that_brings_it_dies_and_another_one_does() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = repo(dir.path());
    let mirrors = mirrors(3, dir.path());
    let clients = house(&mirrors, Vec::new()).await;
    let name = repo.file_name("first")?;
    let wanted = on_disk(&repo, &name);
    let is_dead = AtomicBool::new(false);
    let all = clients.into_iter().zip(&mirrors).map(async |(client, mirror)| {
        let brings = async {
            let half = |log: &[Request]| log.iter().any(|one| LEN / 2 < one.sent);
            let brings = mirror.wait_for(SOON, half).await.is_ok();
            if !brings || is_dead.swap(true, Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // It stays: the other one takes the package from it.
            got = ask(&client, &name) => Some((got, client)),
            () = brings => {
                client.stop().await;
                None
            }
        }
    });
    let got = futures::future::join_all(all).await;
    assert_eq!(got.iter().flatten().count(), 2);
    for ((got, _), _) in got.iter().flatten() {
        assert!(matches!(got, Got::Bytes(bytes) if *bytes == wanted), "{got:?}");
    }
    let ratio = times(&mirrors, wanted.len());
    assert!(ratio <= 1.8, "{ratio:.2} times came from outside");
    Ok(())
}

/// A neighbour that says that it brings everything, and that it still comes.
#[derive(Clone, Copy, Debug)]
enum Says {
    /// Once; then it is silent.
    Once,
    /// At once, whenever it is asked.
    WithoutEnd,
}

async fn answer(says: Says, mut requests: mpsc::Receiver<ShareRequest>) {
    let (mut said, mut kept) = (false, Vec::new());
    while let Some(request) = requests.recv().await {
        let tells = request.ask == ShareAsk::TellMe;
        if tells && said && matches!(says, Says::Once) {
            kept.push(request);
            continue;
        }
        said |= tells;
        let states = vec![ShareState::Coming; request.digests.len()];
        let _ = request.reply.send(states);
    }
}

async fn liar(says: Says, tasks: &Tasks) -> (Net, Multiaddr) {
    let (net, address, requests) = stranger(says as u8 + 90, tasks).await;
    tasks.spawn("liar", answer(says, requests));
    (net, address)
}

/// It is believed once, for two requests at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_says_in_vain_that_it_comes_costs_little_and_nothing_the_next_time() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = repo(dir.path());
    for says in [Says::Once, Says::WithoutEnd] {
        let tasks = Tasks::new();
        let (net, address) = liar(says, &tasks).await;
        let mirrors = mirrors(1, dir.path());
        let clients = house(&mirrors, vec![address]).await;
        for (package, most) in [("first", 1), ("second", 0)] {
            let name = repo.file_name(package)?;
            let (got, held) = ask(&clients[0], &name).await;
            assert!(
                matches!(&got, Got::SentTo(url, _) if *url == mirrors[0].url(&name)),
                "{says:?}"
            );
            assert!(held <= most, "{says:?}: held {held} times for {package}");
        }
        net.shutdown().await;
        tasks.shutdown(Duration::from_secs(1)).await;
    }
    Ok(())
}
