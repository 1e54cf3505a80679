//! Both ends of `/pacstore/share/1` in the swarm task.
//!
//! - Invariant: only LAN peers are answered; requests that wait for an answer and digests of one peer
//!   within a minute are bounded, what is above is answered by a closed stream.
//! - Not here: the wire (`crate::share`), what is answered (`node`).

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::request_response::{self, OutboundRequestId, ResponseChannel};
use libp2p::{PeerId, Swarm};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use crate::askers::Askers;
use crate::behaviour::Behaviour;
use crate::config::{SHARE_DEADLINE, SHARES_PER_MINUTE, SHARES_WAITING};
use crate::share::{Request, Share, ShareAsk, ShareRequest, ShareState};
use crate::wire;

/// Peers whose requests are counted within one minute; more are not answered.
const MAX_ASKERS: usize = 256;

type States = Vec<ShareState>;

/// An answer that is to be sent.
pub(crate) struct Done {
    channel: ResponseChannel<States>,
    states: States,
}

/// An answer that is waited for. It is measured even when nobody needs it any more.
struct Waiting {
    count: usize,
    reply: oneshot::Sender<States>,
    /// When it was asked for, if it is one that is given at once.
    asked: Option<Instant>,
}

/// The state of the protocol.
pub(crate) struct ShareDesk {
    /// `None`: we answer nobody.
    requests: Option<mpsc::Sender<ShareRequest>>,
    /// Answers that the node still thinks about.
    pending: FuturesUnordered<BoxFuture<'static, Option<Done>>>,
    waiting: HashMap<OutboundRequestId, Waiting>,
    askers: Askers,
}

impl ShareDesk {
    pub(crate) fn new(requests: Option<mpsc::Sender<ShareRequest>>) -> Self {
        Self {
            requests,
            pending: FuturesUnordered::new(),
            waiting: HashMap::new(),
            askers: Askers::new(MAX_ASKERS, SHARES_PER_MINUTE),
        }
    }

    /// The next answer that is to be sent.
    pub(crate) async fn next_done(&mut self) -> Done {
        loop {
            match self.pending.next().await {
                Some(Some(done)) => return done,
                // Refused: its channel is dropped, and so its stream closed.
                Some(None) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Asks a peer; `reply` is dropped if it does not answer.
    pub(crate) fn ask(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: PeerId,
        request: Request,
        reply: oneshot::Sender<States>,
    ) {
        if !swarm.is_connected(&peer) {
            return;
        }
        let waiting = Waiting {
            count: request.digests.len(),
            reply,
            asked: (request.ask == ShareAsk::MayI).then(Instant::now),
        };
        let id = swarm.behaviour_mut().share.send_request(&peer, request);
        self.waiting.insert(id, waiting);
    }

    /// `lan` says whether the peer of the event is one of the LAN. How long it took to answer, if it just did.
    pub(crate) fn on_event(&mut self, event: wire::Event<Share>, lan: bool) -> Option<Duration> {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    if lan {
                        self.asked_by(peer, request, channel);
                    }
                }
                request_response::Message::Response { request_id, response } => {
                    let waiting = self.waiting.remove(&request_id)?;
                    if response.len() == waiting.count {
                        let _ = waiting.reply.send(response);
                        return waiting.asked.map(|at| at.elapsed());
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, .. } => {
                self.waiting.remove(&request_id);
            }
            _ => {}
        }
        None
    }

    fn asked_by(&mut self, peer: PeerId, request: Request, channel: ResponseChannel<States>) {
        let Some(requests) = self.requests.clone() else {
            return;
        };
        if self.pending.len() >= SHARES_WAITING || !self.askers.may_ask(peer, request.digests.len()) {
            debug!(%peer, "asks more than we answer");
            return;
        }
        let Request { ask, digests } = request;
        let (reply, states) = oneshot::channel();
        let asked = ShareRequest {
            peer,
            ask,
            digests,
            reply,
        };
        if requests.try_send(asked).is_err() {
            debug!(%peer, "too many requests of neighbours wait already");
            return;
        }
        self.pending.push(Box::pin(async move {
            // Its stream has ended by then.
            let states = tokio::time::timeout(SHARE_DEADLINE, states).await.ok()?.ok()?;
            Some(Done { channel, states })
        }));
    }
}

/// Sends an answer. It fails only if the peer has gone.
pub(crate) fn send(swarm: &mut Swarm<Behaviour>, done: Done) {
    drop(
        swarm
            .behaviour_mut()
            .share
            .send_response(done.channel, done.states),
    );
}

/// The peer of an event.
pub(crate) fn peer_of(event: &wire::Event<Share>) -> &PeerId {
    match event {
        request_response::Event::Message { peer, .. }
        | request_response::Event::OutboundFailure { peer, .. }
        | request_response::Event::InboundFailure { peer, .. }
        | request_response::Event::ResponseSent { peer, .. } => peer,
    }
}
