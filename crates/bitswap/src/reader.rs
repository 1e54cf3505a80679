//! One connection's reader: all its inbound streams, in one task.
//!
//! Streams are read side by side up to a bound; others wait. A message's blocks are hashed on
//! the hash pool while the next message is read, within the budget of received bytes.
//!
//! - Invariant: a message above 64 KiB is read only with room in its peer's budget and in the
//!   one for all; the room is held until its blocks are verified.
//! - Not here: what happens with verified blocks (`crate::client`), with wants (`crate::server`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cid::multihash::Multihash;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{AsyncWriteExt as _, FutureExt as _, StreamExt as _};
use libp2p::Stream;
use pacstore_dag::HashKind;
use pacstore_runtime::{ByteLease, Pool};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::client::{Key, Verdict};
use crate::config::{MAX_MESSAGE, MAX_OUTSTANDING};
use crate::frame::{FrameError, Frames};
use crate::ledger::Ledger;
use crate::link::{Link, Peer};
use crate::shared::{SMALL_MESSAGE, Shared};
use crate::wire::{Field, Fields, Prefix, WireError};

/// Bytes of blocks that are hashed where they are read; more go to the pool.
const HASH_HERE: usize = 32 * 1024;
/// Messages whose blocks wait for the pool.
const JOBS: usize = 16;
/// How much worse than another breach a message is that stops in the middle.
const STALL_STRIKES: u32 = 4;
/// What a message with wants costs, in entries, beside its entries.
const MESSAGE_COST: usize = 10;

/// Blocks of one message: more than anybody owes us, and than Kubo or we put into one. A block takes some 200 bytes of
/// memory until it is done with, also one that has no byte: a message could be two million of them.
const MAX_BLOCKS: usize = 4 * MAX_OUTSTANDING;

/// Why a stream is reset.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("bad frame")]
    Frame(#[from] FrameError),
    #[error("bad message")]
    Wire(#[from] WireError),
    #[error("message of more than {MAX_BLOCKS} blocks")]
    Blocks,
}

type Job = BoxFuture<'static, ()>;

/// Room held by a message, and the note that the peer waits for us meanwhile.
struct Room {
    _leases: Option<(ByteLease, ByteLease)>,
    _held: Held,
}

/// Counts a message that has arrived and is not done with.
struct Held(Arc<Peer>);

impl Held {
    fn new(peer: &Arc<Peer>) -> Self {
        peer.held.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(peer))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Our own delay must not look like the peer's silence.
        self.0.progress(0);
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs until the connection is gone and its streams are read to their end.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>) {
    let stop = shared.stop.clone();
    let _: Option<()> = stop.run_until_cancelled(read(shared, peer, link)).await;
}

async fn read(shared: Arc<Shared>, peer: Arc<Peer>, link: Arc<Link>) {
    let (jobs, mut todo) = mpsc::channel::<Job>(JOBS);
    let mut streams = FuturesUnordered::new();
    let mut hashing = FuturesUnordered::new();
    loop {
        while streams.len() < shared.config.readers
            && let Some(stream) = link.next_inbound()
        {
            streams.push(read_stream(&shared, &peer, stream, jobs.clone()));
        }
        tokio::select! {
            Some(()) = streams.next(), if !streams.is_empty() => {}
            Some(()) = hashing.next(), if !hashing.is_empty() => {}
            Some(job) = todo.recv() => hashing.push(job),
            () = link.arrived.notified() => {}
            () = link.closed.cancelled(), if streams.is_empty() && hashing.is_empty() => return,
        }
    }
}

/// Reads one stream to its end. Resets it (by dropping it) if it cannot be understood.
async fn read_stream(shared: &Arc<Shared>, peer: &Arc<Peer>, stream: Stream, jobs: mpsc::Sender<Job>) {
    let mut frames = Frames::new(stream, MAX_MESSAGE, shared.config.stream_stall);
    match messages(shared, peer, &mut frames, &jobs).await {
        Ok(()) => drop(frames.into_inner().close().await),
        Err(error) => {
            debug!(peer = %peer.id, error = &error as &dyn std::error::Error, "inbound stream reset");
            match error {
                ReadError::Frame(FrameError::Io(_)) => {}
                ReadError::Frame(FrameError::TooLong(_)) => shared.strike(peer, "oversized message"),
                ReadError::Frame(FrameError::Stalled) => {
                    // It held room that others waited for.
                    for _ in 0..STALL_STRIKES {
                        shared.strike(peer, "message stopped in the middle");
                    }
                }
                ReadError::Frame(FrameError::Length) | ReadError::Wire(_) | ReadError::Blocks => {
                    shared.strike(peer, "malformed message");
                }
            }
        }
    }
}

async fn messages(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    frames: &mut Frames<Stream>,
    jobs: &mpsc::Sender<Job>,
) -> Result<(), ReadError> {
    while let Some(len) = frames.header().await? {
        let leases = if len > SMALL_MESSAGE {
            Some(room(shared, peer, len as u64).await)
        } else {
            None
        };
        peer.partial.store(0, Ordering::Relaxed);
        let progress = |n| {
            peer.progress(n);
            peer.partial.fetch_add(n as u64, Ordering::Relaxed);
        };
        let body = match leases {
            Some(_) => frames.body(shared.messages.take(len), progress).await?,
            None => frames.small_body(len, progress).await?,
        };
        peer.partial.store(0, Ordering::Relaxed);
        let room = Room {
            _leases: leases,
            _held: Held::new(peer),
        };
        let (blocks, entries) = message(shared, peer, body)?;
        if !blocks.is_empty() {
            verify(shared, peer, blocks, room, jobs).await;
        }
        if entries > 0
            && let Some(wait) = peer.throttle(entries + MESSAGE_COST)
        {
            debug!(peer = %peer.id, entries, "peer floods; reading it more slowly");
            sleep(wait).await;
        }
    }
    Ok(())
}

/// Waits for room for a message, while the peer's silence is ours.
async fn room(shared: &Shared, peer: &Arc<Peer>, len: u64) -> (ByteLease, ByteLease) {
    let _held = Held::new(peer);
    let own = peer.receiving.acquire(len).await;
    let all = if shared.client().expects(&peer.id) {
        &shared.receiving
    } else {
        &shared.unasked
    };
    (own, all.acquire(len).await)
}

type Blocks = Vec<(Prefix, Bytes)>;

/// Takes a message apart: wants to the peer's queue, presences to the client. What remains is its
/// blocks and the number of entries and presences.
fn message(shared: &Shared, peer: &Peer, body: Bytes) -> Result<(Blocks, usize), ReadError> {
    let frame = body.len();
    let mut blocks = Blocks::new();
    let mut entries = 0;
    let mut unanswered = 0;
    let mut presences: Vec<(Key, bool)> = Vec::new();
    for field in Fields::new(body) {
        match field? {
            Field::Full => peer.queue().clear(),
            Field::Block(..) | Field::OldBlock(_) if blocks.len() >= MAX_BLOCKS => {
                return Err(ReadError::Blocks);
            }
            Field::Entry(entry) => {
                entries += 1;
                unanswered += usize::from(!peer.queue().take(&entry));
            }
            Field::Block(prefix, data) => blocks.push((prefix, own(data, frame))),
            Field::OldBlock(data) => blocks.push((V0, own(data, frame))),
            Field::Presence(cid, have) => presences.push((*cid.hash(), have)),
            Field::PendingBytes(_) => {}
            Field::Unreadable => entries += 1,
        }
    }
    if entries > 0 {
        peer.busy_server.store(true, Ordering::Relaxed);
        peer.wake.notify_one();
    }
    if unanswered > 0 {
        shared.strike(peer, "flood of wants");
    }
    if !presences.is_empty() {
        // What nobody asked for changes nothing, but counts as entries against floods.
        let now = Instant::now();
        let mut client = shared.client();
        for (key, have) in &presences {
            entries += usize::from(!client.knows(&peer.id, key));
            client.presence(peer.id, key, *have, now);
        }
    }
    // So does a block that nobody asked for.
    if !blocks.is_empty() && !shared.client().expects(&peer.id) {
        entries += blocks.len();
    }
    Ok((blocks, entries))
}

const V0: Prefix = Prefix {
    version: 0,
    codec: pacstore_dag::DAG_PB,
    hash: 0x12,
    len: 32,
};

/// A block that is a small part of its message gets memory of its own, so that it does not keep
/// the whole message.
fn own(data: Bytes, frame: usize) -> Bytes {
    if data.len() < frame / 4 {
        Bytes::copy_from_slice(&data)
    } else {
        data
    }
}

/// Hashes a message's blocks and hands them over, here or on the pool.
async fn verify(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    blocks: Blocks,
    room: Room,
    jobs: &mpsc::Sender<Job>,
) {
    let bytes: usize = blocks.iter().map(|(_, data)| data.len()).sum();
    if bytes <= HASH_HERE {
        deliver(shared, peer, blocks);
        return;
    }
    let work = {
        let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
        move || {
            deliver(&shared, &peer, blocks);
            drop(room);
        }
    };
    let hash = shared.tasks.blocking(Pool::Hash, work);
    // Refused only when the node stops.
    drop(jobs.send(async move { drop(hash.await) }.boxed()).await);
}

fn deliver(shared: &Shared, peer: &Peer, blocks: Blocks) {
    let hashed: Vec<_> = blocks
        .into_iter()
        .map(|(prefix, data)| (key_of(&prefix, &data), data))
        .collect();
    let lens: Vec<_> = hashed.iter().map(|(_, data)| data.len() as u64).collect();
    let verdicts = shared.client().received(peer.id, hashed, Instant::now());
    for (verdict, len) in verdicts.into_iter().zip(lens) {
        match verdict {
            // Counted before its waiters heard of it.
            Verdict::Wanted => {}
            Verdict::Late => Ledger::add(&peer.ledger.duplicates, 1),
            Verdict::Unwanted => {
                Ledger::add(&peer.ledger.unwanted, 1);
                Ledger::add(&peer.ledger.strikes, 1);
                debug!(peer = %peer.id, len, "block that nobody asked for");
            }
        }
    }
    shared.report_bans();
}

/// The multihash that a block's bytes really have; `None` if no hash of ours can tell.
fn key_of(prefix: &Prefix, data: &[u8]) -> Option<Key> {
    let kind = HashKind::from_code(prefix.hash)
        .filter(|_| prefix.len == 32 && data.len() <= pacstore_dag::MAX_BLOCK)?;
    Multihash::wrap(kind.code(), &kind.digest(data)).ok()
}
