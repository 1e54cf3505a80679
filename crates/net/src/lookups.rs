//! Both ends of `/pacstore/lookup/1` in the swarm task: whom we answer, and whose answers we wait for.
//!
//! Looking up reads the disk, so it is done by a task of its own, one request after the other; what
//! it found comes back to the swarm task, which alone can send.
//!
//! - Invariant: requests that wait, digests of one peer within a minute, and peers counted are
//!   bounded; what is above is answered by a closed stream, which costs us nothing.
//! - Not here: the wire (`crate::lookup`).

use std::collections::HashMap;
use std::sync::Arc;

use libp2p::request_response::{self, OutboundFailure, OutboundRequestId, ResponseChannel};
use libp2p::{PeerId, Swarm};
use pacstore_runtime::{Pool, Tasks};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::askers::Askers;
use crate::behaviour::Behaviour;
use crate::config::{LOOKUPS_PER_MINUTE, LOOKUPS_WAITING};
use crate::error::LookupError;
use crate::lookup::{Answers, Digest, Lookup, Lookups, can_answer};
use crate::wire;

/// Peers whose lookups are counted within one minute; more are not answered.
const MAX_ASKERS: usize = 1024;

pub(crate) type Reply = oneshot::Sender<Result<Answers, LookupError>>;

/// A request that waits for the disk.
struct Job {
    peer: PeerId,
    digests: Vec<Digest>,
    channel: ResponseChannel<Answers>,
}

/// A request of ours that waits for its answer.
struct Waiting {
    digests: Vec<Digest>,
    reply: Reply,
}

/// What was found for a request, and where it goes.
pub(crate) struct Done {
    channel: ResponseChannel<Answers>,
    answers: Answers,
}

/// The state of the protocol.
pub(crate) struct LookupDesk {
    /// `None`: we answer nobody.
    jobs: Option<mpsc::Sender<Job>>,
    done: mpsc::Receiver<Done>,
    waiting: HashMap<OutboundRequestId, Waiting>,
    askers: Askers,
}

impl LookupDesk {
    /// Starts the task that looks up, if there is something to look up in.
    pub(crate) fn new(lookups: Option<Arc<dyn Lookups>>, tasks: &Tasks) -> Self {
        let (found, done) = mpsc::channel(LOOKUPS_WAITING);
        let jobs = lookups.map(|lookups| {
            let (jobs, inbox) = mpsc::channel(LOOKUPS_WAITING);
            tasks.spawn("net/lookup", look_up(lookups, inbox, found, tasks.clone()));
            jobs
        });
        Self {
            jobs,
            done,
            waiting: HashMap::new(),
            askers: Askers::new(MAX_ASKERS, LOOKUPS_PER_MINUTE),
        }
    }

    /// The next answer that is to be sent; never, where we answer nobody.
    pub(crate) async fn next_done(&mut self) -> Done {
        match self.done.recv().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    /// Asks a peer. The reply channel gets its answer or why there is none.
    pub(crate) fn ask(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: PeerId,
        digests: Vec<Digest>,
        reply: Reply,
    ) {
        if !swarm.is_connected(&peer) {
            let _ = reply.send(Err(LookupError::NotConnected(peer)));
            return;
        }
        self.waiting.retain(|_, waiting| !waiting.reply.is_closed());
        let id = swarm.behaviour_mut().lookup.send_request(&peer, digests.clone());
        self.waiting.insert(id, Waiting { digests, reply });
    }

    pub(crate) fn on_event(&mut self, event: wire::Event<Lookup>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    self.asked_by(peer, request, channel);
                }
                request_response::Message::Response { request_id, response } => {
                    self.answered(peer, request_id, response);
                }
            },
            request_response::Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                let error = match error {
                    OutboundFailure::UnsupportedProtocols => LookupError::Unsupported(peer),
                    OutboundFailure::Timeout => LookupError::Deadline(peer),
                    OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => {
                        LookupError::NotConnected(peer)
                    }
                    OutboundFailure::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                        LookupError::Impossible(peer)
                    }
                    OutboundFailure::Io(_) => LookupError::Refused(peer),
                };
                if let Some(waiting) = self.waiting.remove(&request_id) {
                    let _ = waiting.reply.send(Err(error));
                }
            }
            _ => {}
        }
    }

    fn answered(&mut self, peer: PeerId, id: OutboundRequestId, answers: Answers) {
        let Some(waiting) = self.waiting.remove(&id) else {
            return;
        };
        let possible = can_answer(&waiting.digests, &answers);
        let answer = if possible {
            Ok(answers)
        } else {
            Err(LookupError::Impossible(peer))
        };
        let _ = waiting.reply.send(answer);
    }

    /// A channel that is dropped closes its stream: the peer knows at once that it gets no answer.
    fn asked_by(&mut self, peer: PeerId, digests: Vec<Digest>, channel: ResponseChannel<Answers>) {
        let Some(jobs) = self.jobs.clone() else { return };
        if !self.askers.may_ask(peer, digests.len()) {
            debug!(%peer, "looks up more than we answer within a minute");
            return;
        }
        let job = Job {
            peer,
            digests,
            channel,
        };
        if jobs.try_send(job).is_err() {
            debug!(%peer, "too many lookups wait already");
        }
    }
}

/// Sends what was found. It fails only if the peer has gone.
pub(crate) fn send(swarm: &mut Swarm<Behaviour>, done: Done) {
    drop(
        swarm
            .behaviour_mut()
            .lookup
            .send_response(done.channel, done.answers),
    );
}

/// Looks up what is asked until the swarm task has ended.
async fn look_up(
    lookups: Arc<dyn Lookups>,
    mut jobs: mpsc::Receiver<Job>,
    done: mpsc::Sender<Done>,
    tasks: Tasks,
) {
    while let Some(Job {
        peer,
        digests,
        channel,
    }) = jobs.recv().await
    {
        let lookups = Arc::clone(&lookups);
        let work = move || digests.iter().map(|digest| lookups.find(digest, &peer)).collect();
        let Ok(answers) = tasks.blocking(Pool::Disk, work).await else {
            return;
        };
        if done.send(Done { channel, answers }).await.is_err() {
            return;
        }
    }
}
