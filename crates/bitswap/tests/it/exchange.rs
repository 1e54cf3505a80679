//! What honest peers do with each other.

use std::time::Duration;

use futures::future::{join_all, try_join_all};
use libp2p::PeerId;
use pacstore_bitswap::{Config, GetError, SessionOptions};
use pacstore_dag::{HashKind, cid_of, raw_cid};

use crate::node::{Node, Transport, bytes, soon};

/// Sizes from nothing to the largest block, and many small ones.
fn sizes() -> impl Iterator<Item = usize> {
    [
        0,
        1,
        1023,
        1024,
        1025,
        65_535,
        65_536,
        262_144,
        1 << 20,
        (1 << 20) + 1,
        2 << 20,
    ]
    .into_iter()
    .chain((0..400).map(|n| 100 + n * 37))
}

async fn fetches_everything(transport: Transport) {
    let (seed, client) = (
        Node::with(Config::default(), transport).await,
        Node::with(Config::default(), transport).await,
    );
    let mut expected = Vec::new();
    for (n, len) in sizes().enumerate() {
        let data = bytes(n as u64, len);
        expected.push((seed.blocks.put(data.clone()), data));
    }
    client.connect(&seed).await;
    let session = client.bitswap.session(SessionOptions::with_peers([seed.id()]));
    let from = seed.id();
    let gets = expected.iter().map(|(cid, data)| {
        let session = session.clone();
        async move {
            let got = session.get(*cid).await?;
            assert_eq!(got.data, *data);
            assert_eq!(got.from, from);
            Ok::<_, GetError>(())
        }
    });
    soon("all blocks", try_join_all(gets)).await.unwrap();
    let total: u64 = expected.iter().map(|(_, data)| data.len() as u64).sum();
    let ledger = client.bitswap.ledger(&seed.id());
    assert_eq!(ledger.received, total);
    assert_eq!((ledger.unwanted, ledger.strikes, ledger.duplicates), (0, 0, 0));
    assert_eq!(seed.bitswap.ledger(&client.id()).sent, total);
    assert_eq!(client.bitswap.connected(), [seed.id()]);
    assert_eq!(seed.bitswap.connected(), [client.id()]);
    crate::node::until("all memory given back", || {
        client.bitswap.held() == (0, 0) && seed.bitswap.held() == (0, 0)
    })
    .await;
    assert_eq!(session.stats()[0].outstanding, 0);
    assert_eq!(
        client.host.tasks.shutdown(Duration::from_secs(5)).await,
        Vec::<String>::new()
    );
}

/// Blocks of all sizes come from one peer over TCP.
#[tokio::test(flavor = "multi_thread")]
async fn one_peer_gives_blocks_of_all_sizes_over_tcp() {
    fetches_everything(Transport::Tcp).await;
}

/// The same over QUIC.
#[tokio::test(flavor = "multi_thread")]
async fn one_peer_gives_blocks_of_all_sizes_over_quic() {
    fetches_everything(Transport::Quic).await;
}

/// Three peers that have the same blocks share the work.
#[tokio::test(flavor = "multi_thread")]
async fn several_peers_share_the_work() {
    let client = Node::start().await;
    let mut seeds = Vec::new();
    for _ in 0..3 {
        let seed = Node::start().await;
        client.connect(&seed).await;
        seeds.push(seed);
    }
    let cids: Vec<_> = (0..96)
        .map(|n| {
            let data = bytes(n, 256 * 1024);
            seeds
                .iter()
                .map(|seed| seed.blocks.put(data.clone()))
                .collect::<Vec<_>>()[0]
        })
        .collect();
    let session = client
        .bitswap
        .session(SessionOptions::with_peers(seeds.iter().map(Node::id)));
    soon(
        "all blocks",
        try_join_all(cids.iter().map(|cid| session.get(*cid))),
    )
    .await
    .unwrap();
    for stats in session.stats() {
        assert!(stats.blocks >= 8, "{stats:?} carried too little of 96 blocks");
    }
    let blocks: u64 = session.stats().iter().map(|stats| stats.blocks).sum();
    assert_eq!(blocks, 96);
}

/// Each of two peers has half; what one does not have comes from the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_dont_have_moves_the_want_to_another_peer() {
    let (client, even, odd) = (Node::start().await, Node::start().await, Node::start().await);
    client.connect(&even).await;
    client.connect(&odd).await;
    let cids: Vec<_> = (0..200)
        .map(|n| {
            if n % 2 == 0 {
                even.blocks.put(bytes(n, 3000))
            } else {
                odd.blocks.put(bytes(n, 3000))
            }
        })
        .collect();
    let session = client
        .bitswap
        .session(SessionOptions::with_peers([even.id(), odd.id()]));
    let got = soon(
        "all blocks",
        try_join_all(cids.iter().map(|cid| session.get(*cid))),
    )
    .await
    .unwrap();
    for (n, got) in got.iter().enumerate() {
        assert_eq!(got.from, if n % 2 == 0 { even.id() } else { odd.id() });
    }
}

/// A block that nobody has fails as soon as all peers said so, long before patience ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_no_peer_has_is_not_found_at_once() {
    let (client, a, b) = (Node::start().await, Node::start().await, Node::start().await);
    client.connect(&a).await;
    client.connect(&b).await;
    let cid = raw_cid(HashKind::Sha2_256, b"nowhere");
    let options = SessionOptions::with_peers([a.id(), b.id()]).patience(Duration::from_hours(1));
    let session = client.bitswap.session(options);
    assert_eq!(
        soon("an answer", session.get(cid)).await,
        Err(GetError::NotFound { cid })
    );
}

/// Without any connected peer a get ends with patience.
#[tokio::test]
async fn without_peers_a_get_ends_with_patience() {
    let client = Node::start().await;
    let cid = raw_cid(HashKind::Sha2_256, b"nowhere");
    let options = SessionOptions::with_peers([PeerId::random()]).patience(Duration::from_millis(300));
    let session = client.bitswap.session(options);
    assert_eq!(
        soon("an answer", session.get(cid)).await,
        Err(GetError::NoPeers { cid })
    );
}

/// A peer that connects, or joins the session, while a get waits is asked at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_get_asks_a_peer_that_comes_later() {
    let (client, seed) = (Node::start().await, Node::start().await);
    let first = seed.blocks.put(bytes(1, 5000));
    let second = seed.blocks.put(bytes(2, 5000));
    let session = client.bitswap.session(SessionOptions::with_peers([seed.id()]));
    let get = session.get(first);
    let (got, ()) = soon("the block", async { tokio::join!(get, client.connect(&seed)) }).await;
    assert_eq!(got.unwrap().data, bytes(1, 5000));
    let empty = client.bitswap.session(SessionOptions::default());
    let (got, ()) = soon("the block", async {
        tokio::join!(empty.get(second), async { empty.add_peer(seed.id()) })
    })
    .await;
    assert_eq!(got.unwrap().data, bytes(2, 5000));
    empty.remove_peer(seed.id());
    assert!(empty.peers().is_empty());
}

/// A hundred sessions, some after the same blocks, all are served; one want goes out for one CID.
#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_share_one_peer() {
    let (client, seed) = (Node::start().await, Node::start().await);
    let shared = seed.blocks.put(bytes(0, 100_000));
    let cids: Vec<_> = (1..=100).map(|n| seed.blocks.put(bytes(n, 20_000))).collect();
    let gets = cids.iter().map(|cid| {
        let session = client.bitswap.session(SessionOptions::with_peers([seed.id()]));
        async move { futures::future::try_join(session.get(shared), session.get(*cid)).await }
    });
    // All wait before the first block can come: who asks later than that asks anew.
    let (got, ()) = soon("all blocks", async {
        tokio::join!(try_join_all(gets), client.connect(&seed))
    })
    .await;
    let got = got.unwrap();
    assert!(got.iter().all(|(a, _)| a.data == bytes(0, 100_000)));
    assert!(
        seed.bitswap.ledger(&client.id()).blocks_sent <= 103,
        "one want for one CID, save races"
    );
}

/// `have` tells who has a block and takes none of it.
#[tokio::test(flavor = "multi_thread")]
async fn have_names_the_peers_that_have_a_block() {
    let (client, a, b) = (Node::start().await, Node::start().await, Node::start().await);
    client.connect(&a).await;
    client.connect(&b).await;
    let cid = b.blocks.put(bytes(1, 500_000));
    let tiny = a.blocks.put(bytes(2, 10));
    let session = client
        .bitswap
        .session(SessionOptions::with_peers([a.id(), b.id()]));
    assert_eq!(soon("an answer", session.have(cid)).await, [b.id()]);
    assert_eq!(soon("an answer", session.have(tiny)).await, [a.id()]);
    assert_eq!(client.bitswap.ledger(&b.id()).received, 0);
    assert_eq!(
        soon("an answer", session.have(raw_cid(HashKind::Sha2_256, b"no"))).await,
        []
    );
    assert_eq!(client.bitswap.banned(), []);
}

/// All three hashes verify, under any codec; others and inline ones never go out.
#[tokio::test(flavor = "multi_thread")]
async fn other_hashes_and_codecs_are_served_and_verified() {
    let (client, seed) = (Node::start().await, Node::start().await);
    client.connect(&seed).await;
    let session = client.bitswap.session(SessionOptions::with_peers([seed.id()]));
    let data = bytes(9, 200_000);
    seed.blocks.put(data.clone());
    let cid = cid_of(pacstore_dag::DAG_CBOR, HashKind::Sha2_256, &data);
    assert_eq!(soon("the block", session.get(cid)).await.unwrap().data, data);
    for kind in [HashKind::Blake2b256, HashKind::Blake3] {
        // `Memory` knows SHA-256 only.
        let cid = raw_cid(kind, &data);
        assert_eq!(
            soon("an answer", session.get(cid)).await,
            Err(GetError::NotFound { cid })
        );
    }
    let inline = cid::Cid::new_v1(
        pacstore_dag::RAW,
        cid::multihash::Multihash::wrap(0, b"inline").unwrap(),
    );
    assert_eq!(
        session.get(inline).await,
        Err(GetError::Unsupported { cid: inline })
    );
    let sha1 = cid::Cid::new_v1(
        pacstore_dag::RAW,
        cid::multihash::Multihash::wrap(0x11, &[1; 20]).unwrap(),
    );
    assert_eq!(session.get(sha1).await, Err(GetError::Unsupported { cid: sha1 }));
}

/// Both sides fetch from each other at the same time over the same two streams.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_fetch_from_each_other_at_the_same_time() {
    let (a, b) = (Node::start().await, Node::start().await);
    a.connect(&b).await;
    let of_a: Vec<_> = (0..30).map(|n| a.blocks.put(bytes(n, 600_000))).collect();
    let of_b: Vec<_> = (100..130).map(|n| b.blocks.put(bytes(n, 600_000))).collect();
    let from_a = b.bitswap.session(SessionOptions::with_peers([a.id()]));
    let from_b = a.bitswap.session(SessionOptions::with_peers([b.id()]));
    let both = futures::future::join(
        try_join_all(of_a.iter().map(|cid| from_a.get(*cid))),
        try_join_all(of_b.iter().map(|cid| from_b.get(*cid))),
    );
    let (x, y) = soon("all blocks", both).await;
    assert_eq!((x.unwrap().len(), y.unwrap().len()), (30, 30));
}

/// More gets than the node bears fail at once; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_gets_fail_at_once() {
    let mut config = Config::default();
    config.max_gets = 10;
    let (client, seed) = (Node::with(config, Transport::Tcp).await, Node::start().await);
    let cids: Vec<_> = (0..12).map(|n| seed.blocks.put(bytes(n, 1000))).collect();
    let session = client.bitswap.session(SessionOptions::with_peers([seed.id()]));
    let gets = join_all(cids.iter().map(|cid| session.get(*cid)));
    let (got, ()) = soon("all answers", async { tokio::join!(gets, client.connect(&seed)) }).await;
    assert_eq!(got.iter().filter(|got| got.is_ok()).count(), 10);
    assert_eq!(
        got.iter()
            .filter(|got| **got == Err(GetError::TooMany { limit: 10 }))
            .count(),
        2
    );
}
