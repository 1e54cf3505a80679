//! A peer that does whatever a test tells it to: bare streams of a Bitswap protocol.

use std::sync::Mutex;

use bytes::Bytes;
use cid::Cid;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;
use pacstore_bitswap::wire::{Builder, Entry, Field, Fields, WantKind};
use pacstore_runtime::Tasks;
use tokio::sync::mpsc;

use crate::node::{Host, Transport, soon, swarm};
use crate::streams::{Opener, Streams};

/// The peer.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) host: Host,
    opener: Opener,
    inbound: Mutex<mpsc::Receiver<Stream>>,
    outbound: Mutex<mpsc::Receiver<Stream>>,
}

impl Raw {
    pub(crate) async fn start() -> Self {
        Self::speaking("/ipfs/bitswap/1.2.0").await
    }

    pub(crate) async fn speaking(protocol: &'static str) -> Self {
        let (inbound, streams_in) = mpsc::channel(2048);
        let (outbound, streams_out) = mpsc::channel(2048);
        let (streams, opener) = Streams::new(protocol, inbound, outbound);
        let swarm = swarm(streams);
        let host = Host::start(swarm, Transport::Tcp, Tasks::new(), |event| match event {}).await;
        Self {
            host,
            opener,
            inbound: Mutex::new(streams_in),
            outbound: Mutex::new(streams_out),
        }
    }

    /// Opens a stream to the peer.
    pub(crate) async fn open(&self) -> Stream {
        self.opener.open();
        soon(
            "a stream",
            std::future::poll_fn(|cx| self.outbound.lock().unwrap().poll_recv(cx)),
        )
        .await
        .unwrap()
    }

    /// The next stream that the peer opened.
    pub(crate) async fn accept(&self) -> Stream {
        soon(
            "the peer's stream",
            std::future::poll_fn(|cx| self.inbound.lock().unwrap().poll_recv(cx)),
        )
        .await
        .unwrap()
    }
}

/// Reads one message, that comes soon.
pub(crate) async fn receive(stream: &mut Stream) -> Vec<Field> {
    soon("a message", receive_whenever(stream)).await
}

/// Reads one message, whenever it comes.
pub(crate) async fn receive_whenever(stream: &mut Stream) -> Vec<Field> {
    let mut len = 0usize;
    for shift in (0..).step_by(7) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        len |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.unwrap();
    Fields::new(Bytes::from(body))
        .collect::<Result<Vec<_>, _>>()
        .unwrap()
}

/// Reads messages until `n` wants (cancels not counted) have come, and returns their CIDs.
pub(crate) async fn receive_wants(stream: &mut Stream, n: usize) -> Vec<Cid> {
    let mut cids = Vec::new();
    while cids.len() < n {
        let fields = receive(stream).await;
        cids.extend(fields.into_iter().filter_map(|field| match field {
            Field::Entry(entry) if !entry.cancel => Some(entry.cid),
            _ => None,
        }));
    }
    cids
}

/// A framed message.
pub(crate) fn message(fill: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut out = Builder::new(Vec::new());
    fill(&mut out);
    let (buffer, start) = out.finish();
    buffer[start..].to_vec()
}

pub(crate) fn block_message(cid: &Cid, data: &[u8]) -> Vec<u8> {
    message(|out| {
        let put = |to: &mut Vec<u8>| {
            to.extend_from_slice(data);
            true
        };
        assert!(out.block(cid, data.len() as u64, put));
    })
}

pub(crate) fn want(cid: Cid, kind: WantKind, send_dont_have: bool) -> Entry {
    Entry {
        cid,
        priority: 1,
        cancel: false,
        kind,
        send_dont_have,
    }
}

pub(crate) fn wants_message(entries: &[Entry], full: bool) -> Vec<u8> {
    message(|out| out.wantlist(entries.iter(), full))
}

pub(crate) async fn send(stream: &mut Stream, bytes: &[u8]) {
    soon("sending", async {
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
    })
    .await;
}
