//! What we answer to peers that ask, well-behaved or not.

use std::time::Duration;

use futures::AsyncReadExt as _;
use libp2p::Stream;
use pacstore_bitswap::wire::{Entry, Field, Prefix, WantKind};
use pacstore_bitswap::{Config, SessionOptions};
use pacstore_dag::{HashKind, RAW, raw_cid};
use pacstore_runtime::RateLimit;
use tokio::time::Instant;

use crate::node::{Node, Transport, bytes, soon, until};
use crate::raw::{Raw, receive, send, want, wants_message};

const PREFIX: Prefix = Prefix {
    version: 1,
    codec: RAW,
    hash: 0x12,
    len: 32,
};

async fn pair(protocol: &'static str) -> (Node, Raw) {
    let (server, raw) = (Node::start().await, Raw::speaking(protocol).await);
    server.host.connect(&raw.host).await;
    (server, raw)
}

/// Each kind of want gets its answer: HAVE, a small block at once, DONT_HAVE only when asked for.
#[tokio::test(flavor = "multi_thread")]
async fn every_want_is_answered_as_it_asks() {
    let (server, raw) = pair("/ipfs/bitswap/1.2.0").await;
    let (small, large) = (bytes(1, 1024), bytes(2, 1025));
    let (small_cid, large_cid) = (server.blocks.put(small.clone()), server.blocks.put(large.clone()));
    let missing = |n: u8| raw_cid(HashKind::Sha2_256, &[n]);
    let entries = [
        want(large_cid, WantKind::Have, false),
        want(small_cid, WantKind::Have, true),
        want(missing(1), WantKind::Have, true),
        want(missing(2), WantKind::Have, false),
        want(missing(3), WantKind::Block, true),
        want(missing(4), WantKind::Block, false),
        want(large_cid, WantKind::Block, true),
    ];
    let mut stream = raw.open().await;
    send(&mut stream, &wants_message(&entries, false)).await;
    let mut answers = raw.accept().await;
    let mut fields = receive(&mut answers).await;
    let expected = [
        Field::Presence(large_cid, true),
        Field::Block(PREFIX, small),
        Field::Presence(missing(1), false),
        Field::Presence(missing(3), false),
        Field::Block(PREFIX, large.clone()),
    ];
    while fields.len() < expected.len() {
        fields.extend(receive(&mut answers).await);
    }
    assert_eq!(fields, expected);
    // Asking again sends again: a retry is always safe.
    send(
        &mut stream,
        &wants_message(&[want(large_cid, WantKind::Block, true)], true),
    )
    .await;
    assert_eq!(receive(&mut answers).await, [Field::Block(PREFIX, large)]);
}

/// Blocks are packed up to about 1 MiB a message, and never beyond what a peer may read.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_packed_but_never_too_large() {
    let (server, raw) = pair("/ipfs/bitswap/1.2.0").await;
    let mut entries: Vec<Entry> = (0..20)
        .map(|n| want(server.blocks.put(bytes(n, 200_000)), WantKind::Block, true))
        .collect();
    entries.extend((20..22).map(|n| want(server.blocks.put(bytes(n, 2 << 20)), WantKind::Block, true)));
    let mut stream = raw.open().await;
    send(&mut stream, &wants_message(&entries, false)).await;
    let mut answers = raw.accept().await;
    let (mut blocks, mut messages) = (0, 0);
    while blocks < entries.len() {
        let lens: Vec<_> = receive(&mut answers)
            .await
            .iter()
            .map(|field| match field {
                Field::Block(_, data) => data.len(),
                other => panic!("not a block: {other:?}"),
            })
            .collect();
        let total: usize = lens.iter().sum();
        assert!(total <= 1 << 20 || lens.len() == 1, "{lens:?}");
        blocks += lens.len();
        messages += 1;
    }
    assert!((6..=8).contains(&messages), "{messages} messages");
}

/// 80 000 wants at once: a bounded number is answered, nothing grows, and later wants are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_wants_is_answered_in_bounds() {
    let (server, raw) = pair("/ipfs/bitswap/1.2.0").await;
    let cid = server.blocks.put(bytes(1, 3000));
    let entries: Vec<_> = (0..80_000u32)
        .map(|n| {
            want(
                raw_cid(HashKind::Sha2_256, &n.to_be_bytes()),
                WantKind::Block,
                true,
            )
        })
        .collect();
    let mut stream = raw.open().await;
    let flood = wants_message(&entries, false);
    assert!(flood.len() < 4 << 20);
    send(&mut stream, &flood).await;
    let mut answers = raw.accept().await;
    let mut refused = 0;
    'all: loop {
        // It may find the queue full at first; a retry is always safe.
        send(
            &mut stream,
            &wants_message(&[want(cid, WantKind::Block, true)], false),
        )
        .await;
        for field in receive(&mut answers).await {
            match field {
                Field::Presence(_, false) => refused += 1,
                Field::Block(..) => break 'all,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!((1024..=80_000).contains(&refused), "{refused} refusals");
    assert!(server.bitswap.ledger(&raw.host.id).strikes >= 1);
    until("memory given back", || server.bitswap.held() == (0, 0)).await;
}

/// A cancel takes a want out of the queue; a peer that does not read keeps us from sending on.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_takes_wants_out_of_the_queue() {
    let (server, raw) = pair("/ipfs/bitswap/1.2.0").await;
    let cids: Vec<_> = (0..60).map(|n| server.blocks.put(bytes(n, 1 << 20))).collect();
    let entries: Vec<_> = cids.iter().map(|cid| want(*cid, WantKind::Block, true)).collect();
    let mut stream = raw.open().await;
    send(&mut stream, &wants_message(&entries, false)).await;
    let mut answers = raw.accept().await;
    let mut got = vec![receive(&mut answers).await];
    assert!(
        server.bitswap.held().1 <= 4 << 20,
        "credit of one peer: {:?}",
        server.bitswap.held()
    );
    let cancels: Vec<_> = cids
        .iter()
        .map(|cid| Entry {
            cancel: true,
            ..want(*cid, WantKind::Block, false)
        })
        .collect();
    send(&mut stream, &wants_message(&cancels, false)).await;
    let last = server.blocks.put(&b"last"[..]);
    send(
        &mut stream,
        &wants_message(&[want(last, WantKind::Block, true)], false),
    )
    .await;
    let end = Field::Block(PREFIX, bytes::Bytes::from_static(b"last"));
    while got.last().is_some_and(|fields| !fields.contains(&end)) {
        got.push(receive(&mut answers).await);
    }
    assert!(
        got.len() < 50,
        "{} messages came before the cancel worked",
        got.len()
    );
}

/// Peers that ask for `entries` and read nothing, for as long as they are held.
async fn deaf(server: &Node, count: usize, entries: &[Entry]) -> Vec<(Raw, Stream, Stream)> {
    let mut peers = Vec::new();
    for _ in 0..count {
        let raw = Raw::start().await;
        server.host.connect(&raw.host).await;
        let mut stream = raw.open().await;
        send(&mut stream, &wants_message(entries, false)).await;
        let answers = raw.accept().await;
        peers.push((raw, stream, answers));
    }
    peers
}

/// A peer that never reads costs one answer's credit, and others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_do_not_read_hold_up_nobody() {
    let server = Node::start().await;
    let cids: Vec<_> = (0..40).map(|n| server.blocks.put(bytes(n, 1 << 20))).collect();
    let entries: Vec<_> = cids.iter().map(|cid| want(*cid, WantKind::Block, true)).collect();
    let _deaf = deaf(&server, 12, &entries).await;
    let client = Node::start().await;
    client.connect(&server).await;
    let session = client.bitswap.session(SessionOptions::with_peers([server.id()]));
    let got = soon(
        "all blocks",
        futures::future::try_join_all(cids.iter().map(|cid| session.get(*cid))),
    )
    .await;
    assert_eq!(got.unwrap().len(), 40);
    assert!(server.bitswap.held().1 <= 32 << 20);
}

/// Where those that do not read are so many that they hold all credit, they give it back, long before their streams break.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_peers_do_not_read_others_are_served() {
    let mut config = Config::default();
    config.send_bytes = 6 << 20;
    config.stream_stall = Duration::from_mins(5);
    let server = Node::with(config, Transport::Tcp).await;
    let cids: Vec<_> = (0..4).map(|n| server.blocks.put(bytes(n, 1 << 20))).collect();
    let entries: Vec<_> = cids.iter().map(|cid| want(*cid, WantKind::Block, true)).collect();
    let _deaf = deaf(&server, 8, &entries).await;
    let client = Node::start().await;
    client.connect(&server).await;
    let options = SessionOptions::with_peers([server.id()]).patience(Duration::from_secs(25));
    let session = client.bitswap.session(options);
    for cid in &cids {
        let got = soon("a block", session.get(*cid)).await;
        assert_eq!(got.unwrap().data.len(), 1 << 20);
    }
    // What they hold is little, and none that others wait for.
    assert!(server.bitswap.held().1 <= (6 + 8) << 20);
}

/// What a peer may not have is answered as if it were not here.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_peer_is_told_that_the_block_is_not_here() {
    let (server, raw) = pair("/ipfs/bitswap/1.2.0").await;
    let cid = server.blocks.put(bytes(1, 3000));
    server.blocks.refuse(raw.host.id);
    let mut stream = raw.open().await;
    send(
        &mut stream,
        &wants_message(&[want(cid, WantKind::Block, true)], false),
    )
    .await;
    let mut answers = raw.accept().await;
    assert_eq!(receive(&mut answers).await, [Field::Presence(cid, false)]);
}

/// A peer of 1.1.0 gets blocks and no presences.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_1_1_gets_blocks_and_no_presences() {
    let (server, raw) = pair("/ipfs/bitswap/1.1.0").await;
    let data = bytes(1, 3000);
    let cid = server.blocks.put(data.clone());
    let missing = raw_cid(HashKind::Sha2_256, b"no");
    let mut stream = raw.open().await;
    let entries = [
        want(missing, WantKind::Block, true),
        want(cid, WantKind::Block, true),
    ];
    send(&mut stream, &wants_message(&entries, false)).await;
    let mut answers = raw.accept().await;
    assert_eq!(receive(&mut answers).await, [Field::Block(PREFIX, data)]);
}

/// A peer of 1.0.0 gets bare blocks.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_1_0_gets_bare_blocks() {
    let (server, raw) = pair("/ipfs/bitswap/1.0.0").await;
    let data = bytes(1, 3000);
    let cid = server.blocks.put(data.clone());
    let mut stream = raw.open().await;
    send(
        &mut stream,
        &wants_message(&[want(cid, WantKind::Block, false)], false),
    )
    .await;
    let mut answers = raw.accept().await;
    assert_eq!(receive(&mut answers).await, [Field::OldBlock(data)]);
}

/// CIDs above 168 bytes break the stream; identity CIDs are passed over.
#[tokio::test(flavor = "multi_thread")]
async fn long_cids_break_the_stream_and_inline_ones_are_passed_over() {
    let (server, raw) = pair("/ipfs/bitswap/1.2.0").await;
    let cid = server.blocks.put(bytes(1, 3000));
    let inline = cid::Cid::new_v1(RAW, cid::multihash::Multihash::wrap(0, b"inline").unwrap());
    let mut stream = raw.open().await;
    let entries = [
        want(inline, WantKind::Block, true),
        want(cid, WantKind::Have, true),
    ];
    send(&mut stream, &wants_message(&entries, false)).await;
    let mut answers = raw.accept().await;
    assert_eq!(receive(&mut answers).await, [Field::Presence(cid, true)]);
    let mut long = vec![0x0a, 0xae, 0x01, 0x0a, 0xab, 0x01, 0x0a, 169, 0x01];
    long.extend([1; 169]);
    long.insert(0, (long.len() & 0x7f) as u8 | 0x80);
    long.insert(1, (long.len() >> 7) as u8);
    send(&mut stream, &long).await;
    until("the strike", || server.bitswap.ledger(&raw.host.id).strikes == 1).await;
    let end = soon("the reset", async { stream.read(&mut [0]).await }).await;
    assert!(end.is_err() || end.is_ok_and(|n| n == 0));
}

/// Bytes that a stranger gets of a bucket that hardly fills stay within it, whatever it asks; local peers are not
/// held up meanwhile; and what waited comes once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_to_strangers_keep_to_their_rate() {
    // A bucket holds 64 KiB, and one byte a second is all that comes in.
    let limit = RateLimit::new(Some(1));
    let mut config = Config::default();
    config.upload = Some(limit.clone());
    let server = Node::with(config, Transport::Tcp).await;
    let (stranger, neighbour) = (Node::start().await, Node::start().await);
    stranger.connect(&server).await;
    neighbour.connect(&server).await;
    let local = neighbour.id();
    server
        .bitswap
        .set_local(std::sync::Arc::new(move |peer| *peer == local));
    let cids: Vec<_> = (0..40).map(|n| server.blocks.put(bytes(n, 50_000))).collect();
    let begun = Instant::now();
    let session = stranger
        .bitswap
        .session(SessionOptions::with_peers([server.id()]).patience(crate::node::DEADLINE));
    let asked = futures::future::try_join_all(cids.iter().map(|cid| session.get(*cid)));
    let mut asked = std::pin::pin!(asked);
    let near = neighbour
        .bitswap
        .session(SessionOptions::with_peers([server.id()]));
    let all = futures::future::try_join_all(cids.iter().map(|cid| near.get(*cid)));
    tokio::select! {
        _ = &mut asked => panic!("2 MB came through a bucket of 64 KiB"),
        got = soon("all blocks for the neighbour", all) => assert_eq!(got.unwrap().len(), 40),
    }
    let room = 64 * 1024 + begun.elapsed().as_secs() + 1;
    let came = stranger.bitswap.ledger(&server.id()).received;
    assert!(came <= room, "{came} bytes came where {room} may have");
    limit.set_rate(None);
    assert_eq!(soon("all blocks", asked).await.unwrap().len(), 40);
}

/// Answers that wait for the rate of strangers hold no credit that a neighbour waits for, however many strangers ask.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_wait_for_their_rate_hold_up_no_neighbour() {
    let mut config = Config::default();
    config.send_bytes = 6 << 20;
    config.upload = Some(RateLimit::new(Some(1)));
    let server = Node::with(config, Transport::Tcp).await;
    let neighbour = Node::start().await;
    let local = neighbour.id();
    server
        .bitswap
        .set_local(std::sync::Arc::new(move |peer| *peer == local));
    let cid = server.blocks.put(bytes(1, 1 << 20));
    let mut strangers = Vec::new();
    for _ in 0..8 {
        let raw = Raw::start().await;
        server.host.connect(&raw.host).await;
        let mut stream = raw.open().await;
        send(
            &mut stream,
            &wants_message(&[want(cid, WantKind::Block, true)], false),
        )
        .await;
        strangers.push((raw, stream));
    }
    until("strangers that wait", || server.bitswap.held().1 > 0).await;
    neighbour.connect(&server).await;
    let options = SessionOptions::with_peers([server.id()]).patience(Duration::from_secs(25));
    let session = neighbour.bitswap.session(options);
    let got = soon("a block", session.get(cid)).await;
    assert_eq!(got.unwrap().data.len(), 1 << 20);
}
