//! What a private repository says to the world: nothing, whatever the node does with it.
//!
//! A recorder is peer, neighbour and server of the DHT at once and writes down every byte that it is sent, while the node
//! follows a mirror, serves a public repository and a private one, fetches ahead, takes files from pacman's cache,
//! frees its disk, starts anew and announces files. Then the log is searched for everything that the private one has.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cid::Cid;
use pacstore_dag::{FileBuilder, Profile};
use pacstore_import::Files;
use pacstore_net::DhtMode;
use pacstore_node::{Answer, AskPeers};
use pacstore_testkit::{Repo, RepoSpec, TestResult, Upstream};

use crate::machine::Machine;
use crate::nodes::{Failure, NAME, Plan, SOON, TestNode, caller};
use crate::recorder::Recorder;
use crate::solo::{LARGE, repository};

/// The private repository: a word that stands nowhere by accident.
const HUSH: &str = "hushhouse";

/// What must not be said: what it is, and its bytes.
#[derive(Default)]
struct Secrets(BTreeMap<Vec<u8>, String>);

impl Secrets {
    fn add(&mut self, what: impl Into<String>, bytes: &[u8]) {
        self.0.insert(bytes.to_vec(), what.into());
    }

    /// Names, digests, CIDs and bytes of all files of a folder as they are now.
    fn learn(&mut self, folder: &Path) -> TestResult {
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap();
            let data = fs_err::read(entry.path())?;
            self.add(format!("name {name}"), name.as_bytes());
            self.digest(&format!("SHA-256 of {name}"), &sha256(&data));
            let mut builder = FileBuilder::new(&Profile::UNIXFS_V1_2025);
            builder.push(&data);
            let file = builder.finish();
            let blocks = file.leaves.iter().map(|leaf| leaf.cid);
            let blocks = blocks.chain(file.nodes.iter().map(|node| node.cid));
            for cid in blocks.chain([file.root]) {
                self.digest(&format!("block {cid} of {name}"), cid.hash().digest());
                self.add(format!("CID {cid} as text"), cid.to_string().as_bytes());
            }
            // Ends of all leaves, and the middle.
            let ends = (0..data.len()).step_by(1 << 20).skip(1);
            for end in ends.chain([data.len(), data.len() / 2]) {
                if let Some(window) = end.checked_sub(32).map(|start| &data[start..end]) {
                    self.add(format!("bytes of {name} before {end}"), window);
                }
            }
        }
        Ok(())
    }

    /// A digest, and its beginning alone.
    fn digest(&mut self, what: &str, digest: &[u8]) {
        self.add(what, digest);
        self.add(format!("{what}, its first 8 bytes"), &digest[..8]);
    }

    fn none_is_in(&self, recorder: &Recorder) {
        for (bytes, what) in &self.0 {
            let said = recorder.log.said(bytes);
            assert!(said.is_empty(), "{what} was said on {said:?}");
        }
    }
}

/// What pacman gets for a file of a repository.
async fn given(node: &TestNode, repo: &str, name: &str) -> Result<Vec<u8>, Failure> {
    let asked = node.node.ask_pacman(caller(1), repo, "x86_64", name.into());
    match tokio::time::timeout(SOON, asked).await?? {
        Answer::File(file) => node.part(&file, 0, file.len).await,
        other => Err(format!("{repo}/{name} is {other:?}").into()),
    }
}

/// Databases, signatures and packages, as pacman asks for them.
async fn update(node: &TestNode, repos: &[&Repo]) -> TestResult {
    for repo in repos {
        let name = repo.name();
        for file in [
            format!("{name}.db"),
            format!("{name}.db.sig"),
            format!("{name}.files"),
        ] {
            assert!(
                given(node, name, &file).await? == fs_err::read(repo.folder().join(&file))?,
                "{file}"
            );
        }
        for package in repo.packages() {
            let file = &package.file_name;
            for file in [format!("{file}.sig"), file.clone()] {
                assert!(
                    given(node, name, &file).await? == fs_err::read(repo.folder().join(&file))?,
                    "{file}"
                );
            }
        }
    }
    node.idle().await;
    Ok(())
}

/// The roots of a repository's packages in the node's store.
fn roots(node: &TestNode, repo: &Repo) -> Result<Vec<Cid>, Failure> {
    let mut roots = Vec::new();
    for package in repo.packages() {
        let data = fs_err::read(repo.folder().join(&package.file_name))?;
        let info = node.node.store().file_by_sha256(&sha256(&data))?;
        roots.push(info.ok_or("it is not here")?.root);
    }
    Ok(roots)
}

fn sha256(data: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    digest.as_ref().try_into().unwrap()
}

/// Of all packages.
fn sha256s(repo: &Repo) -> Result<Vec<[u8; 32]>, Failure> {
    let read = |name: &String| Ok(sha256(&fs_err::read(repo.folder().join(name))?));
    repo.packages()
        .iter()
        .map(|package| read(&package.file_name))
        .collect()
}

/// A machine whose pacman knows both repositories and has their packages.
fn machine(repos: &[&Repo]) -> Machine {
    let machine = Machine::new(&format!("[{HUSH}]\nServer = http://127.0.0.1:1/\n"));
    for package in repos.iter().flat_map(|repo| repo.packages()) {
        let (folder, _) = package.file_name.rsplit_once('-').unwrap();
        machine.has(folder);
    }
    machine
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_private_repository_is_said_to_anybody_whatever_the_node_does_with_it() -> TestResult {
    let (open_dir, hush_dir, head_dir) = (tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?);
    let spec = RepoSpec::new("core")
        .package("open-small", 30_000)
        .package("open-large", LARGE);
    let mut open = Repo::create(open_dir.path(), spec)?;
    let mut spec = RepoSpec::new(HUSH)
        .package("hush-small", 40_000)
        .package("hush-large", LARGE);
    spec.seed = 77;
    let mut hush = Repo::create(hush_dir.path(), spec)?;
    let (open_mirror, hush_mirror) = (
        Upstream::folder(open_dir.path())?,
        Upstream::folder(hush_dir.path())?,
    );
    let mut secrets = Secrets::default();
    secrets.add("the repository's name", HUSH.as_bytes());
    secrets.add(
        "the address of its mirror",
        hush_mirror.address().to_string().as_bytes(),
    );
    secrets.learn(hush_dir.path())?;
    fs_err::write(head_dir.path().join("shown"), vec![7; 5000])?;
    let importer = Plan::importer(head_dir.path(), Files::All).start().await;
    importer.import().await;

    let mut plan = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    plan.config.swarm.dht = DhtMode::Server;
    plan.config.sharing.announce = true;
    plan.config.repositories = vec![
        repository("core", &[&open_mirror]),
        repository(HUSH, &[&hush_mirror]),
    ];
    plan.config.repositories[0].public = true;
    let machine = machine(&[&open, &hush]);
    plan.config.machine.cache_dirs.push(machine.cache());
    plan.config.machine.scrub = Some(Duration::from_hours(1));
    let recorder = Recorder::start();
    let node = machine.under(plan).start().await;
    recorder.meets(&node).await;
    node.follows(&importer).await;
    assert_eq!(node.get("shown").await?.len(), 5000);
    update(&node, &[&open, &hush]).await?;

    // Newer ones: one comes from pacman's cache, the others ahead of time.
    open.update(&["open-small", "open-large"])?;
    hush.update(&["hush-small", "hush-large"])?;
    hush.add("hush-cached", 50_000)?;
    secrets.learn(hush_dir.path())?;
    let cached = hush.file_name("hush-cached")?;
    fs_err::copy(hush_dir.path().join(&cached), machine.cache().join(&cached))?;
    node.rested().await;
    for repo in [&open, &hush] {
        given(&node, repo.name(), &format!("{}.db", repo.name())).await?;
    }
    let ahead = node.node.prefetch().await?;
    assert_eq!((ahead.ready, ahead.missing), (4, 0), "{ahead:?}");
    let before = hush_mirror.requests(&cached).len();
    update(&node, &[&open, &hush]).await?;
    assert_eq!(
        hush_mirror.requests(&cached).len(),
        before,
        "it came from the cache"
    );

    // By hand, here and gone, by a local user who knows its CID.
    let (private, public) = (roots(&node, &hush)?, roots(&node, &open)?);
    for root in &private {
        let Answer::File(file) = node.node.ask_any(root, &[]).await? else {
            return Err("it is here".into());
        };
        node.part(&file, 0, file.len).await?;
    }
    strangers_get_nothing(&node, &hush, &private, &public).await?;
    node.node.gc(Some(0)).await?;
    for root in &private {
        let gone = node.node.ask_any(root, &[]).await?;
        assert!(
            matches!(gone, Answer::NotFound(_)) || node.node.store().file(root)?.is_some(),
            "{gone:?}"
        );
    }
    update(&node, &[&open, &hush]).await?;

    // A start with everything here: files are announced at once.
    let node = node.stop().await.start().await;
    recorder.meets(&node).await;
    update(&node, &[&hush, &open]).await?;
    strangers_get_nothing(&node, &hush, &private, &public).await?;
    let announced = async {
        while !public.iter().all(|root| {
            recorder
                .log
                .said(root.hash().digest())
                .iter()
                .any(|on| on.contains("kad"))
        }) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, announced)
        .await
        .expect("public files are announced");

    // It does hear what is public: by look-ups, wants, questions of a neighbour, names.
    let small = sha256(&open.bytes("open-small")?);
    let large = sha256(&open.bytes("open-large")?);
    let heard = |needle: &[u8], on: &str| {
        let said = recorder.log.said(needle);
        assert!(said.iter().any(|name| name.contains(on)), "{on}: {said:?}");
    };
    heard(&small, "bitswap");
    heard(&large, "lookup");
    heard(&small, "share");
    heard(&importer.plan.key().routing_key(), "fetch");
    assert!(!hush_mirror.log().is_empty());

    secrets.none_is_in(&recorder);
    let asked = format!("{:?}", open_mirror.log());
    assert!(!asked.contains("hush"), "{asked}");
    assert!(node.node.mirror(NAME).unwrap().current().is_some());
    Ok(())
}

/// Whoever knows what to ask for gets nothing of the private repository, and all of the public one.
async fn strangers_get_nothing(node: &TestNode, hush: &Repo, private: &[Cid], public: &[Cid]) -> TestResult {
    let mut plan = Plan::new();
    plan.config.swarm.peers = vec![node.address().await];
    let stranger = plan.start().await;
    stranger.connected().await;
    let told = stranger.node.lookup(&sha256s(hush)?, AskPeers::Everyone).await;
    assert!(told.is_empty(), "{told:?}");
    for (roots, gives) in [(private, false), (public, true)] {
        for root in roots {
            let got = stranger.node.fetcher().block(root, AskPeers::Everyone).await;
            assert_eq!(got.is_ok(), gives, "{root}: {got:?}");
        }
    }
    Ok(())
}
