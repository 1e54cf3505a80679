//! What broken, dead and hostile peers do, and what comes of it: nothing wrong, and in bounded memory.

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::future::{join_all, try_join_all};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use pacstore_bitswap::wire::{Field, WantKind};
use pacstore_bitswap::{BanReason, Config, Event, GetError, SessionOptions};
use pacstore_dag::{HashKind, raw_cid};
use tokio::time::Instant;

use crate::node::{Node, Transport, bytes, soon, until};
use crate::raw::{Raw, block_message, message, receive, receive_wants, receive_whenever, send};

/// A client, a peer under the test's control that it is connected to, and that peer's session options.
async fn pair() -> (Node, Raw) {
    let (client, raw) = (Node::start().await, Raw::start().await);
    client.host.connect(&raw.host).await;
    (client, raw)
}

/// A peer that takes a want and says nothing loses it to another within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_loses_its_wants_to_another() {
    let (client, raw) = pair().await;
    loses_its_want(client, raw).await;
}

/// Where a round trip takes a millisecond, silence is known for what it is long before the limit for all.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_near_by_is_not_waited_for_as_one_far_away() {
    let mut config = Config::default();
    config.stall = Duration::from_secs(20);
    let (client, raw) = (Node::with(config, Transport::Tcp).await, Raw::start().await);
    client.host.connect(&raw.host).await;
    let near = Duration::from_millis(1);
    until("the connection", || client.bitswap.is_connected(&raw.host.id)).await;
    client.bitswap.round_trip(&raw.host.id, near);
    loses_its_want(client, raw).await;
}

async fn loses_its_want(client: Node, raw: Raw) {
    let seed = Node::start().await;
    let cid = seed.blocks.put(bytes(1, 300_000));
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let started = Instant::now();
    let get = session.get(cid);
    let meanwhile = async {
        let mut stream = raw.accept().await;
        assert_eq!(receive_wants(&mut stream, 1).await, [cid]);
        client.connect(&seed).await;
        session.add_peer(seed.id());
        // The want is withdrawn when it moves.
        loop {
            let fields = receive(&mut stream).await;
            if fields
                .iter()
                .any(|f| matches!(f, Field::Entry(e) if e.cancel && e.cid == cid))
            {
                return;
            }
        }
    };
    let (got, ()) = soon("the block", async { tokio::join!(get, meanwhile) }).await;
    assert_eq!(got.unwrap().from, seed.id());
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "took {:?}",
        started.elapsed()
    );
}

/// With nobody else to ask, silence ends a get when its patience does.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_alone_ends_a_get_with_patience() {
    let (client, raw) = pair().await;
    let cid = raw_cid(HashKind::Sha2_256, b"x");
    let options = SessionOptions::with_peers([raw.host.id]).patience(Duration::from_secs(1));
    let session = client.bitswap.session(options);
    assert_eq!(
        soon("an answer", session.get(cid)).await,
        Err(GetError::Stalled { cid })
    );
    assert!(session.stats()[0].failures > 0);
}

/// A block that trickles in, slower than the stall limit as a whole but never silent, is not taken away.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_but_steady_peer_keeps_its_want() {
    let (client, raw) = pair().await;
    let data = bytes(1, 100_000);
    let cid = raw_cid(HashKind::Sha2_256, &data);
    let session = client
        .bitswap
        .session(SessionOptions::with_peers([raw.host.id]).patience(Duration::from_secs(2)));
    let meanwhile = async {
        let mut wants = raw.accept().await;
        receive_wants(&mut wants, 1).await;
        let mut stream = raw.open().await;
        let mut pace = tokio::time::interval(Duration::from_millis(400));
        for piece in block_message(&cid, &data).chunks(10_000) {
            pace.tick().await;
            send(&mut stream, piece).await;
            if piece.len() == 10_000 {
                until("progress", || client.bitswap.progress(&cid).is_none_or(|n| n > 0)).await;
            }
            assert!(!session.stats()[0].stalled);
        }
        stream
    };
    let (got, _stream) = soon("the block", async { tokio::join!(session.get(cid), meanwhile) }).await;
    assert_eq!(got.unwrap().data, data);
}

/// Answers every want with what `bytes` says, until it is dropped.
async fn gives(raw: &Raw, bytes: impl Fn(&Cid) -> Bytes) {
    let mut wants = raw.accept().await;
    let mut stream = raw.open().await;
    loop {
        for field in receive_whenever(&mut wants).await {
            if let Field::Entry(entry) = field
                && !entry.cancel
                && entry.kind == WantKind::Block
            {
                send(&mut stream, &block_message(&entry.cid, &bytes(&entry.cid))).await;
            }
        }
    }
}

/// Wrong bytes never arrive; who sends them again and again is banned and reported; the blocks come from another.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_again_and_again_ban_their_sender() {
    let (client, raw) = pair().await;
    let seed = Node::start().await;
    let cids: Vec<Cid> = (1..=12).map(|n| seed.blocks.put(bytes(n, 50_000))).collect();
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let is_banned = || client.bitswap.banned().iter().any(|ban| ban.peer == raw.host.id);
    let gets = join_all(cids.iter().map(|cid| session.get(*cid)));
    let other = async {
        until("the ban", is_banned).await;
        client.connect(&seed).await;
        session.add_peer(seed.id());
    };
    // Nobody else has them: those that are known to be wrong there end at once, all others with the ban.
    let all = async { tokio::join!(gets, other).0 };
    let got = tokio::select! {
        got = soon("the ends of all gets", all) => got,
        () = gives(&raw, |_| bytes(99, 50_000)) => unreachable!(),
    };
    for (got, cid) in got.into_iter().zip(&cids) {
        let (cid, peer) = (*cid, raw.host.id);
        assert_eq!(got, Err(GetError::WrongBytes { cid, peer }));
    }
    assert_eq!(client.bitswap.banned()[0].reason, BanReason::WrongBytes);
    let event = Event::Banned {
        peer: raw.host.id,
        reason: BanReason::WrongBytes,
    };
    until("the event", || client.events.lock().unwrap().contains(&event)).await;
    let ledger = client.bitswap.ledger(&raw.host.id);
    assert_eq!(ledger.received, 0);
    assert!(ledger.unwanted >= 5);
    for (n, cid) in (1..).zip(&cids) {
        let got = soon("a block", session.get(*cid)).await.unwrap();
        assert_eq!((got.data, got.from), (bytes(n, 50_000), seed.id()));
    }
    // A banned peer alone is as good as none, and says why.
    let alone = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let other = raw_cid(HashKind::Sha2_256, b"other");
    let error = GetError::WrongBytes {
        cid: other,
        peer: raw.host.id,
    };
    assert_eq!(soon("an answer", alone.get(other)).await, Err(error));
    client.bitswap.unban(&raw.host.id);
    assert_eq!(client.bitswap.banned(), []);
}

/// A flipped bit on the disk of the only peer that has them costs the one block in which it is, now and at the next
/// try.
#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_block_costs_its_peer_that_block_alone() {
    let (client, raw) = pair().await;
    let all: Vec<Bytes> = (1..=12).map(|n| bytes(n, 50_000)).collect();
    let cids: Vec<Cid> = all.iter().map(|data| raw_cid(HashKind::Sha2_256, data)).collect();
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let given = |cid: &Cid| {
        let at = cids.iter().position(|known| known == cid).unwrap();
        if at == 7 {
            bytes(99, 50_000)
        } else {
            all[at].clone()
        }
    };
    let error = |cid| GetError::WrongBytes {
        cid,
        peer: raw.host.id,
    };
    let gets = join_all(cids.iter().map(|cid| session.get(*cid)));
    let asking = async {
        for (at, got) in gets.await.into_iter().enumerate() {
            let got = got.map(|got| got.data);
            let expected = if at == 7 {
                Err(error(cids[7]))
            } else {
                Ok(all[at].clone())
            };
            assert_eq!(got, expected, "block {at}");
        }
        let again = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
        assert_eq!(again.get(cids[7]).await, Err(error(cids[7])));
        assert_eq!(again.get(cids[3]).await.unwrap().data, all[3]);
    };
    tokio::select! {
        () = soon("the answers", asking) => {},
        () = gives(&raw, given) => unreachable!(),
    }
    assert_eq!(client.bitswap.banned(), []);
    assert!(client.bitswap.ledger(&raw.host.id).unwanted <= 2);
    let others = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let seed = Node::start().await;
    client.connect(&seed).await;
    seed.blocks.put(all[7].clone());
    others.add_peer(seed.id());
    let got = soon("the block of another", others.get(cids[7])).await.unwrap();
    assert_eq!((got.data, got.from), (all[7].clone(), seed.id()));
}

/// Blocks that nobody asked for go nowhere and are counted; too many ban their sender.
#[tokio::test(flavor = "multi_thread")]
async fn unwanted_blocks_are_ignored_and_counted() {
    let (client, raw) = pair().await;
    let mut stream = raw.open().await;
    for n in 0..20 {
        let data = bytes(n, 1000);
        send(
            &mut stream,
            &block_message(&raw_cid(HashKind::Sha2_256, &data), &data),
        )
        .await;
    }
    until("the count", || client.bitswap.ledger(&raw.host.id).unwanted == 20).await;
    assert_eq!(client.bitswap.ledger(&raw.host.id).received, 0);
    assert_eq!(client.bitswap.banned()[0].reason, BanReason::Misbehaved);
}

/// Who goes on breaking the protocol once it is banned is not told of again: else a flood of breaches is one of log lines.
#[tokio::test(flavor = "multi_thread")]
async fn a_banned_peer_that_goes_on_is_told_of_once() {
    let (client, first) = pair().await;
    let last = Raw::start().await;
    client.host.connect(&last.host).await;
    let banned = |raw: &Raw| Event::Banned {
        peer: raw.host.id,
        reason: BanReason::Misbehaved,
    };
    for raw in [&first, &last] {
        let mut stream = raw.open().await;
        for n in 0..100 {
            let data = bytes(n, 10);
            let block = block_message(&raw_cid(HashKind::Sha2_256, &data), &data);
            send(&mut stream, &block).await;
        }
        until("the count", || {
            client.bitswap.ledger(&raw.host.id).unwanted == 100
        })
        .await;
        until("the event", || {
            client.events.lock().unwrap().contains(&banned(raw))
        })
        .await;
    }
    // Events come in their order: what was told of the first is here.
    let told = client.events.lock().unwrap().clone();
    assert_eq!(told, [banned(&first), banned(&last)]);
}

/// A block without a byte takes memory, too: a message of two million of them is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_more_blocks_than_anybody_is_asked_for_is_malformed() {
    let (client, raw) = pair().await;
    let ledger = || client.bitswap.ledger(&raw.host.id);
    for empty in [&[0x12, 0][..], &[0x1a, 6, 0x0a, 4, 1, 0x55, 0x12, 0x20]] {
        let before = ledger().strikes;
        let body = empty.repeat(5000);
        let mut message =
            unsigned_varint::encode::usize(body.len(), &mut unsigned_varint::encode::usize_buffer()).to_vec();
        message.extend(body);
        let mut stream = raw.open().await;
        send(&mut stream, &message).await;
        until("the strike", || before < ledger().strikes).await;
        let end = soon("the reset", async { stream.read(&mut [0]).await }).await;
        assert!(end.is_err() || end.is_ok_and(|n| n == 0));
        assert_eq!((ledger().strikes, ledger().unwanted), (before + 1, 0));
    }
}

/// An oversized message costs its stream and a strike, not the connection, and is never read.
#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_costs_its_stream() {
    let (client, raw) = pair().await;
    let mut stream = raw.open().await;
    // 4 MiB + 1 as a varint.
    send(&mut stream, &[0x81, 0x80, 0x80, 0x02]).await;
    until("the strike", || client.bitswap.ledger(&raw.host.id).strikes == 1).await;
    let end = soon("the reset", async { stream.read(&mut [0]).await }).await;
    assert!(end.is_err() || end.is_ok_and(|n| n == 0));
    let data = bytes(1, 10_000);
    let cid = raw_cid(HashKind::Sha2_256, &data);
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let answer = async {
        let mut wants = raw.accept().await;
        receive_wants(&mut wants, 1).await;
        let mut stream = raw.open().await;
        send(&mut stream, &block_message(&cid, &data)).await;
        (wants, stream)
    };
    let (got, _streams) = soon("the block", async { tokio::join!(session.get(cid), answer) }).await;
    assert_eq!(got.unwrap().data, data);
}

/// Bytes that are no message cost their stream and a strike.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_costs_its_stream() {
    let (client, raw) = pair().await;
    for nonsense in [
        &[5, 0x0a, 0xff, 1, 2, 3][..],
        &[2, 0x0b, 0],
        &[0xff; 10],
        &[4, 0x1a, 2, 0x12, 0],
    ] {
        let before = client.bitswap.ledger(&raw.host.id).strikes;
        let mut stream = raw.open().await;
        send(&mut stream, nonsense).await;
        until("the strike", || {
            client.bitswap.ledger(&raw.host.id).strikes == before + 1
        })
        .await;
    }
}

/// The connection dies in the middle of a block; after reconnecting it comes whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_want_survives_a_connection_that_dies_mid_block() {
    let (client, raw) = pair().await;
    let data = bytes(1, 1_000_000);
    let cid = raw_cid(HashKind::Sha2_256, &data);
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let twice = async {
        let mut wants = raw.accept().await;
        receive_wants(&mut wants, 1).await;
        let mut stream = raw.open().await;
        let whole = block_message(&cid, &data);
        send(&mut stream, &whole[..whole.len() / 2]).await;
        until("progress", || {
            client.bitswap.progress(&cid).is_some_and(|n| n > 1000)
        })
        .await;
        raw.host.disconnect(&client.host).await;
        drop((wants, stream));
        raw.host.connect(&client.host).await;
        let mut wants = raw.accept().await;
        assert_eq!(receive_wants(&mut wants, 1).await, [cid]);
        let mut stream = raw.open().await;
        send(&mut stream, &whole).await;
        (wants, stream)
    };
    let (got, _streams) = soon("the block", async { tokio::join!(session.get(cid), twice) }).await;
    assert_eq!(got.unwrap().data, data);
    until("memory given back", || client.bitswap.held() == (0, 0)).await;
}

/// Our stream is reset: everything unanswered is told again on a new one, as a full wantlist.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stream_has_its_wants_told_again() {
    let (client, raw) = pair().await;
    let blocks: Vec<_> = (0..6).map(|n| bytes(n, 2000)).collect();
    let cids: Vec<_> = blocks
        .iter()
        .map(|data| raw_cid(HashKind::Sha2_256, data))
        .collect();
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let answer = async {
        let mut wants = raw.accept().await;
        assert_eq!(receive_wants(&mut wants, 6).await.len(), 6);
        let mut stream = raw.open().await;
        send(&mut stream, &block_message(&cids[0], &blocks[0])).await;
        until("the first block", || {
            client.bitswap.ledger(&raw.host.id).blocks_received == 1
        })
        .await;
        drop(wants);
        let mut wants = raw.accept().await;
        let again = receive(&mut wants).await;
        assert_eq!(again[0], Field::Full);
        assert_eq!(
            again.len(),
            6,
            "five wants and the word that it is full: {again:?}"
        );
        for (cid, data) in cids.iter().zip(&blocks).skip(1) {
            send(&mut stream, &block_message(cid, data)).await;
        }
        (wants, stream)
    };
    let all = try_join_all(cids.iter().map(|cid| session.get(*cid)));
    let (got, _streams) = soon("all blocks", async { tokio::join!(all, answer) }).await;
    assert_eq!(got.unwrap().len(), 6);
}

/// A get that is dropped withdraws its want, and a block that was already under way does no harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_get_withdraws_its_want() {
    let (client, raw) = pair().await;
    let data = bytes(1, 2000);
    let cid = raw_cid(HashKind::Sha2_256, &data);
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let mut get = Box::pin(session.get(cid));
    assert!((&mut get).now_or_never().is_none());
    let mut wants = raw.accept().await;
    assert_eq!(receive_wants(&mut wants, 1).await, [cid]);
    drop(get);
    let fields = receive(&mut wants).await;
    assert!(
        matches!(&fields[..], [Field::Entry(entry)] if entry.cancel && entry.cid == cid),
        "{fields:?}"
    );
    let mut stream = raw.open().await;
    send(&mut stream, &block_message(&cid, &data)).await;
    until("the late block", || {
        client.bitswap.ledger(&raw.host.id).duplicates == 1
    })
    .await;
    assert_eq!(client.bitswap.ledger(&raw.host.id).strikes, 0);
}

/// A peer that opens a stream for each block, all at once as Kubo may, loses none of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_streams_loses_no_block() {
    let (client, raw) = pair().await;
    let blocks: Vec<Bytes> = (0..400).map(|n| bytes(n, 40_000)).collect();
    let cids: Vec<_> = blocks
        .iter()
        .map(|data| raw_cid(HashKind::Sha2_256, data))
        .collect();
    let (cids, blocks) = (&cids, &blocks);
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let answer = async {
        let mut wants = raw.accept().await;
        let mut streams = Vec::new();
        let mut served = 0;
        while served < blocks.len() {
            let asked = receive_wants(&mut wants, 1).await;
            for cid in asked {
                let at = cids.iter().position(|known| *known == cid).unwrap();
                let mut stream = raw.open().await;
                streams.push(async move {
                    send(&mut stream, &block_message(&cids[at], &blocks[at])).await;
                    stream.close().await.unwrap();
                });
                served += 1;
            }
            if streams.len() >= 8 || served == blocks.len() {
                join_all(streams.drain(..)).await;
            }
        }
        wants
    };
    let all = try_join_all(cids.iter().map(|cid| session.get(*cid)));
    let (got, _wants) = soon("all blocks", async { tokio::join!(all, answer) }).await;
    for (got, data) in got.unwrap().iter().zip(blocks) {
        assert_eq!(got.data, *data);
    }
    assert_eq!(client.bitswap.ledger(&raw.host.id).strikes, 0);
}

/// A hundred streams that stop in the middle hold up neither other streams nor much memory.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_stop_in_the_middle_hold_bounded_memory() {
    let (client, raw) = pair().await;
    let mut stuck = Vec::new();
    for _ in 0..40 {
        let mut stream = raw.open().await;
        // A message of 4 MiB begins, and that is all.
        send(&mut stream, &[0x80, 0x80, 0x80, 0x02, 0x1a]).await;
        stuck.push(stream);
    }
    until("the streams", || client.bitswap.held().0 > 0).await;
    assert!(
        client.bitswap.held().0 <= 12 * 1024 * 1024,
        "{:?}",
        client.bitswap.held()
    );
    // Another peer is not held up.
    let seed = Node::start().await;
    client.connect(&seed).await;
    let cid = seed.blocks.put(bytes(1, 2 << 20));
    let session = client.bitswap.session(SessionOptions::with_peers([seed.id()]));
    assert_eq!(
        soon("the block", session.get(cid)).await.unwrap().data.len(),
        2 << 20
    );
}

/// The format of 1.0.0 is understood: blocks without prefix, named by CID version 0.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_in_the_oldest_format_are_understood() {
    let (client, raw) = pair().await;
    let data = bytes(1, 5000);
    let cid = Cid::new_v0(*raw_cid(HashKind::Sha2_256, &data).hash()).unwrap();
    let session = client.bitswap.session(SessionOptions::with_peers([raw.host.id]));
    let answer = async {
        let mut wants = raw.accept().await;
        assert_eq!(receive_wants(&mut wants, 1).await, [cid]);
        let mut stream = raw.open().await;
        let old = message(|out| {
            let put = |to: &mut Vec<u8>| {
                to.extend_from_slice(&data);
                true
            };
            assert!(out.old_block(data.len() as u64, put));
        });
        send(&mut stream, &old).await;
        (wants, stream)
    };
    let (got, _streams) = soon("the block", async { tokio::join!(session.get(cid), answer) }).await;
    assert_eq!(got.unwrap().data, data);
}
