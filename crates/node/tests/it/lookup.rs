//! Roots of files by their SHA-256, from connected peers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cid::Cid;
use pacstore_bitswap::Blocks;
use pacstore_dag::{DAG_PB, FileBuilder, HashKind, Profile, cid_from_sha256, cid_of};
use pacstore_import::Files;
use pacstore_net::{DhtMode, Digest, LookedUp, Lookups, Multiaddr, Net, NetConfig, NetEvent, PeerId};
use pacstore_node::AskPeers;
use pacstore_runtime::{Clock, Tasks};
use pacstore_testkit::{At, Fault, Repo, RepoSpec, TestResult, Upstream, random};

use crate::nodes::{Plan, SOON, TestNode, read};
use crate::solo::{LARGE, solo};

const MIB: usize = 1 << 20;

fn sha256(data: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    digest.as_ref().try_into().unwrap()
}

/// Waits until `node` knows that it may ask `count` peers.
async fn may_ask(node: &TestNode, count: usize) {
    let net = node.node.net().unwrap();
    let mut events = net.subscribe();
    let told = || {
        let peers = net.peers();
        peers.iter().filter(|peer| peer.lookup == Some(true)).count()
    };
    let reached = async {
        while told() < count {
            events.recv().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, reached).await.expect("it connects");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_tells_under_which_roots_it_has_files() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (large, small) = (random(1, 3 * MIB + 5), random(2, 1000));
    fs_err::write(dir.path().join("large"), &large)?;
    fs_err::write(dir.path().join("small"), &small)?;
    let importer = Plan::importer(dir.path(), Files::All).start().await;
    importer.import().await;
    // An importer of a plain folder has no use for the SHA-256 of a large file; who fetched it knows it.
    let has = Plan::client(vec![importer.plan.key()], vec![importer.address().await]);
    let has = has.start().await;
    has.follows(&importer).await;
    for name in ["large", "small"] {
        has.get(name).await?;
    }
    has.idle().await;
    has.learns(&sha256(&large)).await?;
    let mut plan = Plan::new();
    plan.config.swarm.peers.push(has.address().await);
    let client = plan.start().await;
    may_ask(&client, 1).await;
    let digests = [sha256(&large), sha256(b"not there"), sha256(&small)];
    let hints = client.node.lookup(&digests, AskPeers::Everyone).await;
    let from = has.node.peer_id().unwrap();
    assert!(hints.iter().all(|hint| hint.peer == from), "{hints:?}");
    let told: Vec<_> = hints
        .iter()
        .map(|hint| (hint.sha256, hint.root, hint.size))
        .collect();
    let root = importer.file("large").await.root;
    assert_eq!(
        told,
        [
            (digests[0], root, large.len() as u64),
            (digests[2], cid_from_sha256(digests[2]), 1000)
        ]
    );
    assert_eq!(client.node.lookup(&digests, AskPeers::Nobody).await, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_private_content_tells_strangers_of_nothing() -> TestResult {
    let dir = tempfile::tempdir()?;
    let secret = random(1, 1000);
    fs_err::write(dir.path().join("secret"), &secret)?;
    // The friend's peer id is needed before the importer starts: it is made by a first start.
    let friend = Plan::new().start().await;
    let id = friend.node.peer_id().unwrap();
    let mut friend = friend.stop().await;
    let mut plan = Plan::importer(dir.path(), Files::All);
    plan.config.imports[0].public = false;
    let address = format!("/ip4/127.0.0.1/tcp/9/p2p/{id}").parse()?;
    plan.config.swarm.peers.push(address);
    let importer = plan.start().await;
    importer.import().await;
    let mut stranger = Plan::new();
    stranger.config.swarm.peers.push(importer.address().await);
    let stranger = stranger.start().await;
    friend.config.swarm.peers.push(importer.address().await);
    let friend = friend.start().await;
    may_ask(&stranger, 1).await;
    may_ask(&friend, 1).await;
    let digest = [sha256(&secret)];
    assert_eq!(stranger.node.lookup(&digest, AskPeers::Everyone).await, []);
    assert_eq!(friend.node.lookup(&digest, AskPeers::Friends).await.len(), 1);
    Ok(())
}

/// A peer that tells of every file a root that cannot be its own, or one that can.
struct Liar {
    possible: bool,
}

impl Lookups for Liar {
    fn find(&self, sha256: &Digest, _: &PeerId) -> Option<LookedUp> {
        let root = if self.possible {
            cid_of(DAG_PB, HashKind::Sha2_256, sha256)
        } else {
            cid_from_sha256([1; 32])
        };
        Some(LookedUp { root, size: 5 })
    }
}

impl Blocks for Liar {
    fn len(&self, _: &Cid, _: &PeerId) -> Option<u64> {
        None
    }

    fn read(&self, _: &Cid, _: &PeerId, _: &mut Vec<u8>) -> bool {
        false
    }
}

async fn liar(possible: bool, tasks: &Tasks) -> (Net, Multiaddr) {
    let mut config = NetConfig::new([u8::from(possible) + 1; 32]);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.dht = DhtMode::Off;
    config.lookups = Some(Arc::new(Liar { possible }));
    let net = Net::start(config, Arc::new(Liar { possible }), tasks, Clock::system()).unwrap();
    let address = net.listen_addresses().await.remove(0);
    let address = address.with_p2p(net.peer_id()).unwrap();
    (net, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tells_what_cannot_be_true_is_banned_and_others_are_heard() -> TestResult {
    let tasks = Tasks::new();
    let (bad, bad_address) = liar(false, &tasks).await;
    let (fair, fair_address) = liar(true, &tasks).await;
    let mut plan = Plan::new();
    plan.config.swarm.peers = vec![bad_address, fair_address];
    let client = plan.start().await;
    may_ask(&client, 2).await;
    let net = client.node.net().unwrap();
    let mut events = net.subscribe();
    let hints = client.node.lookup(&[[7; 32]], AskPeers::Everyone).await;
    let from: Vec<_> = hints.iter().map(|hint| hint.peer).collect();
    assert_eq!(from, [fair.peer_id()]);
    let gone = async { while events.recv().await.unwrap() != NetEvent::PeerDisconnected(bad.peer_id()) {} };
    tokio::time::timeout(SOON, gone)
        .await
        .expect("who lies is banned");
    client.node.ban(fair.peer_id()).await;
    let gone = async { while events.recv().await.unwrap() != NetEvent::PeerDisconnected(fair.peer_id()) {} };
    tokio::time::timeout(SOON, gone)
        .await
        .expect("who is told to have lied is banned");
    client.stop().await;
    bad.shutdown().await;
    fair.shutdown().await;
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// A peer that tells, for whatever it is asked, the root of a file of its own, of the right length, and gives that.
struct Swapper {
    root: Cid,
    len: u64,
    blocks: HashMap<Cid, Vec<u8>>,
}

impl Swapper {
    fn of(data: &[u8]) -> Self {
        let mut builder = FileBuilder::new(&Profile::UNIXFS_V1_2025);
        builder.push(data);
        let file = builder.finish();
        let leaf = |leaf: &pacstore_dag::Leaf| {
            let (start, len) = (
                usize::try_from(leaf.offset).unwrap(),
                usize::try_from(leaf.len).unwrap(),
            );
            (leaf.cid, data[start..start + len].to_vec())
        };
        let nodes = file.nodes.iter().map(|node| (node.cid, node.data.to_vec()));
        let blocks = file.leaves.iter().map(leaf).chain(nodes).collect();
        Self {
            root: file.root,
            len: file.len,
            blocks,
        }
    }
}

impl Lookups for Swapper {
    fn find(&self, _: &Digest, _: &PeerId) -> Option<LookedUp> {
        Some(LookedUp {
            root: self.root,
            size: self.len,
        })
    }
}

impl Blocks for Swapper {
    fn len(&self, cid: &Cid, _: &PeerId) -> Option<u64> {
        self.blocks.get(cid).map(|data| data.len() as u64)
    }

    fn read(&self, cid: &Cid, _: &PeerId, out: &mut Vec<u8>) -> bool {
        let data = self.blocks.get(cid);
        out.extend(data.into_iter().flatten());
        data.is_some()
    }
}

/// All leaves that such a peer gives are what their CIDs say; only the whole file's SHA-256 tells.
#[tokio::test(flavor = "multi_thread")]
async fn who_tells_the_root_of_another_file_is_banned_and_no_byte_of_that_one_leaves() -> TestResult {
    let dir = tempfile::tempdir()?;
    let repo = Repo::create(dir.path(), RepoSpec::new("core").package("large", LARGE))?;
    let (name, right) = (repo.file_name("large")?, repo.bytes("large")?);
    let mirror = Upstream::folder(dir.path())?;
    let tasks = Tasks::new();
    let mut config = NetConfig::new([9; 32]);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    config.dht = DhtMode::Off;
    let wrong = random(3, right.len());
    let swapper = Arc::new(Swapper::of(&wrong));
    config.lookups = Some(Arc::clone(&swapper) as Arc<dyn Lookups>);
    let liar = Net::start(config, swapper, &tasks, Clock::system())?;
    let address = liar
        .listen_addresses()
        .await
        .remove(0)
        .with_p2p(liar.peer_id())
        .unwrap();
    let mut plan = solo(&[&mirror]);
    plan.config.repositories[0].public = true;
    plan.config.swarm.peers = vec![address];
    let client = plan.start().await;
    may_ask(&client, 1).await;
    client.pacman_bytes("core.db").await?;
    // The mirror gives nothing, so that only the liar could.
    mirror.fault("*.pkg.tar.zst", Fault::StallAt(At::Percent(0)));
    let mut events = client.node.net().unwrap().subscribe();
    let file = client.pacman_file(&name).await;
    if let Ok(mut content) = client.node.open(&file).await {
        let got = read(&client.node, &mut content, 0, file.len).await;
        assert!(got.is_err(), "bytes that nobody vouches for");
    }
    let gone = async { while events.recv().await.unwrap() != NetEvent::PeerDisconnected(liar.peer_id()) {} };
    tokio::time::timeout(SOON, gone)
        .await
        .expect("the liar is banned");
    mirror.heal();
    assert!(client.pacman_bytes(&name).await? == right);
    client.stop().await;
    liar.shutdown().await;
    tasks.shutdown(Duration::from_secs(1)).await;
    Ok(())
}
