//! `/pacstore/lookup/1`: what a node tells of its files, and what hostile ends of it achieve.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::request_response::{self, Message, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, identify};
use pacstore_dag::{DAG_PB, HashKind, cid_from_sha256, cid_of};
use pacstore_net::{Digest, LookedUp, LookupError, Lookups, MAX_LOOKUP, NetConfig};

use crate::support::{DEADLINE, Node, TCP, TestResult, config, drive, join, start};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/pacstore/lookup/1");

/// Files that a node has, and a peer that must not know.
#[derive(Default)]
struct Files {
    files: HashMap<Digest, LookedUp>,
    not_for: Option<PeerId>,
}

impl Lookups for Files {
    fn find(&self, sha256: &Digest, peer: &PeerId) -> Option<LookedUp> {
        (self.not_for != Some(*peer))
            .then(|| self.files.get(sha256).copied())
            .flatten()
    }
}

fn digest(number: u16) -> Digest {
    let mut digest = [9; 32];
    digest[..2].copy_from_slice(&number.to_be_bytes());
    digest
}

fn file(number: u16) -> LookedUp {
    LookedUp {
        root: cid_of(DAG_PB, HashKind::Sha2_256, &number.to_be_bytes()),
        size: 3_000_000 + u64::from(number),
    }
}

/// A node that has the files of all even numbers below 256.
fn with_files(not_for: Option<PeerId>) -> NetConfig {
    let files = (0..256)
        .step_by(2)
        .map(|number| (digest(number), file(number)))
        .collect();
    let mut config = config();
    config.lookups = Some(Arc::new(Files { files, not_for }));
    config
}

#[tokio::test]
async fn a_peer_tells_the_roots_of_what_it_has_in_the_order_asked() -> TestResult {
    let (mut has, mut asks) = (start(with_files(None)), start(config()));
    join(&mut asks, &mut has).await;
    let peer = has.net.peer_id();
    assert_eq!(asks.net.peer(&peer).unwrap().lookup, Some(true));
    let digests: Vec<_> = (0..256).map(digest).collect();
    let told = asks.net.lookup(peer, &digests, DEADLINE).await?;
    let expected: Vec<_> = (0..256).map(|n| (n % 2 == 0).then(|| file(n))).collect();
    assert_eq!(told, expected);
    Ok(())
}

#[tokio::test]
async fn who_has_no_files_to_tell_of_does_not_offer_the_protocol() {
    let (mut silent, mut asks) = (start(config()), start(config()));
    join(&mut asks, &mut silent).await;
    let peer = silent.net.peer_id();
    assert_eq!(asks.net.peer(&peer).unwrap().lookup, Some(false));
    let answer = asks.net.lookup(peer, &[digest(0)], DEADLINE).await;
    assert!(matches!(answer, Err(LookupError::Unsupported(_))), "{answer:?}");
}

#[tokio::test]
async fn a_peer_that_must_not_know_is_told_of_nothing() -> TestResult {
    let mut asks = start(config());
    let mut has = start(with_files(Some(asks.net.peer_id())));
    join(&mut asks, &mut has).await;
    let told = asks.net.lookup(has.net.peer_id(), &[digest(2)], DEADLINE).await?;
    assert_eq!(told, [None]);
    Ok(())
}

#[tokio::test]
async fn no_digest_and_too_many_are_refused_before_anybody_is_asked() {
    let asks = start(config());
    for count in [0, MAX_LOOKUP + 1] {
        let answer = asks
            .net
            .lookup(PeerId::random(), &vec![[1; 32]; count], DEADLINE)
            .await;
        assert!(
            matches!(answer, Err(LookupError::Count(refused)) if refused == count),
            "{answer:?}"
        );
    }
    let answer = asks.net.lookup(PeerId::random(), &[[1; 32]], DEADLINE).await;
    assert!(matches!(answer, Err(LookupError::NotConnected(_))), "{answer:?}");
}

/// Bytes as they are, without the protocol's own framing.
#[derive(Clone, Copy, Default)]
struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> std::io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        // One digest with its length in front is 33 bytes.
        let mut message = vec![0; 33];
        io.read_exact(&mut message).await?;
        Ok(message)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> std::io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut message = Vec::new();
        io.read_to_end(&mut message).await?;
        Ok(message)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        message: Vec<u8>,
    ) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&message).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        message: Vec<u8>,
    ) -> std::io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&message).await
    }
}

#[derive(NetworkBehaviour)]
struct HostileBehaviour {
    identify: identify::Behaviour,
    lookup: request_response::Behaviour<Raw>,
}

type Hostile = Swarm<HostileBehaviour>;

async fn hostile() -> (Hostile, Multiaddr) {
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key| HostileBehaviour {
            identify: identify::Behaviour::new(identify::Config::new("x/1".to_owned(), key.public())),
            lookup: request_response::Behaviour::new(
                [(PROTOCOL, ProtocolSupport::Full)],
                request_response::Config::default().with_request_timeout(DEADLINE),
            ),
        })
        .unwrap()
        .build();
    swarm.listen_on(TCP.parse().unwrap()).unwrap();
    let address = drive(&mut swarm, "a listen address", |event| match event {
        SwarmEvent::NewListenAddr { address, .. } => Some(address.clone()),
        _ => None,
    })
    .await;
    let id = *swarm.local_peer_id();
    (swarm, address.with_p2p(id).unwrap())
}

/// Drives a hostile peer that answers every request with `answer`; `None`: never.
async fn answering<T>(swarm: &mut Hostile, answer: Option<&[u8]>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut kept = Vec::new();
    let driving = async {
        loop {
            let event = tokio::select! {
                done = &mut work => return done,
                event = futures::StreamExt::select_next_some(swarm) => event,
            };
            if let SwarmEvent::Behaviour(HostileBehaviourEvent::Lookup(request_response::Event::Message {
                message: Message::Request { channel, .. },
                ..
            })) = event
            {
                match answer {
                    Some(answer) => {
                        drop(
                            swarm
                                .behaviour_mut()
                                .lookup
                                .send_response(channel, answer.to_vec()),
                        );
                    }
                    None => kept.push(channel),
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, driving)
        .await
        .expect("the work ends in time")
}

async fn asked(answer: Option<&[u8]>, deadline: Duration) -> Result<Vec<Option<LookedUp>>, LookupError> {
    let (mut bad, address) = hostile().await;
    let mut node = start(config());
    let peer = *bad.local_peer_id();
    let work = async {
        node.net.dial(address).await.unwrap();
        node.identified(peer).await;
        node.net.lookup(peer, &[digest(1)], deadline).await
    };
    answering(&mut bad, answer, work).await
}

/// One entry as the protocol has it.
fn entry(told: &LookedUp) -> Vec<u8> {
    let cid = told.root.to_bytes();
    let length = u8::try_from(cid.len()).unwrap();
    [&[length], &cid[..], &told.size.to_be_bytes()].concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&[u8::try_from(body.len()).unwrap()], body].concat()
}

#[tokio::test]
async fn an_answer_in_the_bytes_of_the_protocol_is_understood() {
    let told = asked(Some(&framed(&entry(&file(1)))), DEADLINE).await;
    assert_eq!(told.unwrap(), [Some(file(1))]);
}

#[tokio::test]
async fn answers_that_cannot_be_true_are_told_apart_from_none() {
    let other_leaf = LookedUp {
        root: cid_from_sha256(digest(2)),
        size: 5,
    };
    let endless = LookedUp {
        size: u64::MAX,
        ..file(1)
    };
    let lies = [
        ("more entries than asked", framed(&[0, 0])),
        ("no entry", framed(&[])),
        ("the leaf of another file", framed(&entry(&other_leaf))),
        ("a file without end", framed(&entry(&endless))),
        ("no CID", framed(&[4, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("a message without end", vec![0xff; 1 << 20]),
    ];
    for (what, answer) in lies {
        let told = asked(Some(&answer), DEADLINE).await;
        assert!(
            matches!(told, Err(LookupError::Impossible(_))),
            "{what}: {told:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_no_answer() {
    let told = asked(Some(&framed(&entry(&file(1)))[..20]), DEADLINE).await;
    assert!(matches!(told, Err(LookupError::Refused(_))), "{told:?}");
}

#[tokio::test]
async fn a_peer_that_never_answers_is_waited_for_until_the_deadline_only() {
    let told = asked(None, Duration::from_millis(300)).await;
    assert!(matches!(told, Err(LookupError::Deadline(_))), "{told:?}");
}

/// Sends `request` to a node; what came back, or nothing if the node closed the stream.
async fn request(swarm: &mut Hostile, node: &PeerId, request: Vec<u8>) -> Option<Vec<u8>> {
    let id: OutboundRequestId = swarm.behaviour_mut().lookup.send_request(node, request);
    drive(swarm, "the end of a request", |event| match event {
        SwarmEvent::Behaviour(HostileBehaviourEvent::Lookup(request_response::Event::Message {
            message: Message::Response { request_id, response },
            ..
        })) if *request_id == id => Some(Some(response.clone()).filter(|bytes| !bytes.is_empty())),
        SwarmEvent::Behaviour(HostileBehaviourEvent::Lookup(request_response::Event::OutboundFailure {
            request_id,
            ..
        })) if *request_id == id => Some(None),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn requests_that_are_none_are_not_answered_and_a_good_one_still_is() -> TestResult {
    let (mut bad, _) = hostile().await;
    let has: Node = start(with_files(None));
    let peer = has.net.peer_id();
    bad.dial(has.address().await)?;
    let good = [&[32], &digest(2)[..]].concat();
    let expected = framed(&entry(&file(2)));
    assert_eq!(
        request(&mut bad, &peer, good.clone()).await,
        Some(expected.clone())
    );
    let too_many = {
        let mut length = unsigned_varint_of((MAX_LOOKUP + 1) * 32);
        length.extend(vec![1; (MAX_LOOKUP + 1) * 32]);
        length
    };
    for (what, message) in [
        ("no digest", vec![0]),
        ("half a digest", vec![16; 17]),
        ("too many digests", too_many),
        ("a length without end", vec![0xff; 64]),
    ] {
        assert_eq!(request(&mut bad, &peer, message).await, None, "{what}");
    }
    assert_eq!(request(&mut bad, &peer, good).await, Some(expected));
    Ok(())
}

fn unsigned_varint_of(number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = number;
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

#[tokio::test]
async fn a_peer_that_asks_without_end_is_not_answered_any_more_and_others_are() -> TestResult {
    let mut has = start(with_files(None));
    let (mut greedy, mut modest) = (start(config()), start(config()));
    join(&mut greedy, &mut has).await;
    join(&mut modest, &mut has).await;
    let digests: Vec<_> = (0..256).map(digest).collect();
    let mut answered = 0;
    let refused = loop {
        match greedy.net.lookup(has.net.peer_id(), &digests, DEADLINE).await {
            Ok(_) => answered += 1,
            Err(error) => break error,
        }
        assert!(answered <= 1000, "it is answered without end");
    };
    assert!(matches!(refused, LookupError::Refused(_)), "{refused:?}");
    assert!(answered >= 32, "{answered} requests were answered");
    let told = modest
        .net
        .lookup(has.net.peer_id(), &[digest(2)], DEADLINE)
        .await?;
    assert_eq!(told, [Some(file(2))]);
    Ok(())
}
