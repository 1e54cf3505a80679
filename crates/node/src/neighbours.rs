//! Machines of one LAN that want the same at once share one download.
//!
//! Before a block is asked for outside, the LAN peers are asked whether one of them has it or is
//! bringing it (`/pacstore/share/1`). If so it comes from there. Otherwise it is our turn, and we say
//! so to whoever asks, until the block is here. Of two that ask each other at the same time, the one
//! whose id and the block's digest hash higher has its turn, so that the work spreads over them.
//!
//! - Invariant: a neighbour is waited for until a given time only; one that owes answers, or does not
//!   give what it said it has, is left alone for a while (`crate::manners`): everybody then works for itself.
//! - Invariant: what is asked of neighbours is asked only of those who may know that it is wanted.
//! - Not here: blocks themselves (Bitswap, and verified there), the protocol (`pacstore-net`).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pacstore_bitswap::SessionOptions;
use pacstore_dag::HashKind;
use pacstore_net::{Digest, MAX_SHARE, Net, PeerId, ShareAsk, ShareRequest, ShareState};
use pacstore_runtime::Tasks;
use ring::digest::{Context, SHA256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, trace};

use crate::blocks::Shared;
use crate::fetch::AskPeers;
use crate::manners::{Manner, Manners};
use crate::wanted::Wanted;

/// How long a neighbour that has a block may take to give it.
const GIVE: Duration = Duration::from_secs(4);

/// Neighbours that are asked, at most.
const MAX_NEIGHBOURS: usize = 16;

/// Blocks that are waited for from neighbours at the same time.
const WAITING: usize = 64;

/// Who waits here for one block, at most.
const WAITERS: usize = 64;

/// Blocks that are remembered as brought lately, and as left to neighbours.
const RECENT: usize = 4096;

/// How long a block counts as left to the neighbour that asked for it.
const LEFT: Duration = Duration::from_secs(3);

/// Requests of neighbours that wait.
pub(crate) const REQUESTS: usize = 256;

/// Whose turn it is to bring a block.
#[derive(Debug)]
pub(crate) enum Whose {
    /// Ours; neighbours are told so as long as the ticket is kept.
    Ours(Ticket),
    /// This neighbour has it, or is bringing it.
    Theirs(Theirs),
}

/// Who has or brings a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theirs {
    peer: PeerId,
    here: bool,
}

impl Theirs {
    /// It has it already.
    pub(crate) fn is_here(&self) -> bool {
        self.here
    }
}

/// How far our claim to a block is.
struct Claim {
    /// It is our turn; until then neighbours are still being asked.
    ours: bool,
    /// Who may know of it.
    ask: AskPeers,
    waiters: Vec<oneshot::Sender<Vec<ShareState>>>,
}

/// Our claims, and what we left to neighbours that asked first.
#[derive(Default)]
struct Claims {
    ours: HashMap<Digest, Claim>,
    /// Who was told that a block is free, and when: it is bringing it, and we need not ask.
    left: HashMap<Digest, (PeerId, Instant)>,
}

impl Claims {
    /// Notes that `digest` is left to `peer`.
    fn leave(&mut self, digest: Digest, peer: PeerId) {
        let now = Instant::now();
        if self.left.len() >= RECENT {
            self.left.retain(|_, (_, at)| now < *at + LEFT);
        }
        if self.left.len() < RECENT {
            self.left.insert(digest, (peer, now));
        }
    }

    /// To whom of `peers` it was left just now. Asked once: if that one does not bring it, all are asked.
    fn left_to(&mut self, digest: &Digest, peers: &[PeerId]) -> Option<PeerId> {
        let (peer, at) = self.left.remove(digest)?;
        (Instant::now() < at + LEFT && peers.contains(&peer)).then_some(peer)
    }
}

/// A claim that was to be entered.
enum Entered {
    /// It stands.
    Ticket(Ticket),
    /// It was left to this neighbour.
    Left(Theirs),
}

/// What we brought lately: neighbours that want the same ask about it now, and the disk is busy.
#[derive(Default)]
struct Recent {
    known: HashMap<Digest, AskPeers>,
    order: VecDeque<Digest>,
}

impl Recent {
    fn add(&mut self, digest: Digest, ask: AskPeers) {
        if self.known.insert(digest, ask).is_none() {
            self.order.push_back(digest);
        }
        while self.order.len() > RECENT {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

struct State {
    net: Option<Net>,
    claims: Mutex<Claims>,
    recent: Mutex<Recent>,
    manners: Manners,
    wanted: Wanted,
    waiting: Arc<Semaphore>,
}

/// The neighbours of a node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Neighbours(Arc<State>);

impl fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbours")
            .field("claims", &self.claims().ours.len())
            .finish_non_exhaustive()
    }
}

/// Our turn to bring a block. Given up when it is dropped.
pub(crate) struct Ticket {
    /// `None`: the block has no SHA-256, or another ticket speaks for it.
    of: Option<(Neighbours, Digest)>,
    state: ShareState,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Ticket {
    fn none() -> Self {
        Self {
            of: None,
            state: ShareState::Free,
        }
    }

    /// All neighbours leave it to us.
    fn confirmed(self) -> Self {
        if let Some((neighbours, digest)) = &self.of
            && let Some(claim) = neighbours.claims().ours.get_mut(digest)
        {
            claim.ours = true;
        }
        self
    }

    /// Neighbours are told of it; not where another one stands already.
    pub(crate) fn is_claim(&self) -> bool {
        self.of.is_some()
    }

    /// It is not here yet, and comes: those who wait ask again.
    pub(crate) fn moves(&self) {
        if let Some((neighbours, digest)) = &self.of {
            let mut claims = neighbours.claims();
            let claim = claims.ours.get_mut(digest).filter(|claim| claim.ours);
            let waiters = claim.map(|claim| std::mem::take(&mut claim.waiters));
            drop(claims);
            for waiter in waiters.into_iter().flatten() {
                let _ = waiter.send(vec![ShareState::Coming]);
            }
        }
    }

    /// The block is in the store: those who wait may ask for it.
    pub(crate) fn done(mut self) {
        self.state = ShareState::Here;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((neighbours, digest)) = self.of.take() {
            neighbours.end(&digest, self.state);
        }
    }
}

impl Entered {
    fn digest(&self) -> Option<Digest> {
        match self {
            Self::Ticket(ticket) => ticket.of.as_ref().map(|(_, digest)| *digest),
            Self::Left(_) => None,
        }
    }
}

impl Neighbours {
    pub(crate) fn new(net: Option<Net>) -> Self {
        Self(Arc::new(State {
            net,
            claims: Mutex::default(),
            recent: Mutex::default(),
            manners: Manners::default(),
            wanted: Wanted::default(),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }))
    }

    /// Whether there is anybody to agree with.
    pub(crate) fn any(&self, ask: AskPeers) -> bool {
        !self.to_ask(ask).is_empty()
    }

    /// Asks the neighbours whose turn it is to bring `cid`.
    pub(crate) async fn turn(&self, cid: &Cid, ask: AskPeers) -> Whose {
        let mut turns = self.turns(std::slice::from_ref(cid), ask).await;
        turns.pop().unwrap_or_else(|| Whose::Ours(Ticket::none()))
    }

    /// Asks the neighbours whose turn it is to bring each of `cids`, at most 64: more, and those not
    /// by SHA-256, are ours without a word.
    pub(crate) async fn turns(&self, cids: &[Cid], ask: AskPeers) -> Vec<Whose> {
        let peers = self.to_ask(ask);
        let cids_asked = cids.iter().take(MAX_SHARE);
        let entered: Vec<Entered> = cids_asked.map(|cid| self.claim(cid, ask, &peers)).collect();
        let asked: Vec<Digest> = entered.iter().filter_map(Entered::digest).collect();
        let mut told: HashMap<Digest, Theirs> = HashMap::new();
        if let Some(net) = &self.0.net
            && !asked.is_empty()
        {
            let questions = peers.iter().map(|peer| {
                let (asked, patience) = (&asked, self.patience(peer));
                async move { (*peer, net.share(*peer, ShareAsk::MayI, asked, patience).await) }
            });
            let mut answers: FuturesUnordered<_> = questions.collect();
            while let Some((peer, states)) = answers.next().await {
                if states.is_none() {
                    self.0.manners.note(peer, Manner::Owes);
                }
                for (digest, state) in asked.iter().zip(states.unwrap_or_default()) {
                    Self::heard(peer, digest, state, &mut told);
                }
            }
        }
        let turn = |entered: Entered| match entered {
            Entered::Left(theirs) => Whose::Theirs(theirs),
            Entered::Ticket(ticket) => match ticket.of.as_ref().and_then(|(_, digest)| told.get(digest)) {
                Some(theirs) => Whose::Theirs(*theirs),
                None => Whose::Ours(ticket.confirmed()),
            },
        };
        let mut turns: Vec<Whose> = entered.into_iter().map(turn).collect();
        turns.resize_with(cids.len(), || Whose::Ours(Ticket::none()));
        turns
    }

    fn heard(peer: PeerId, digest: &Digest, state: ShareState, told: &mut HashMap<Digest, Theirs>) {
        let here = match state {
            ShareState::Free => return,
            ShareState::Here => true,
            ShareState::Coming => false,
        };
        // Who has it counts more than who is bringing it.
        if here || !told.contains_key(digest) {
            told.insert(*digest, Theirs { peer, here });
        }
    }

    /// Waits until the neighbour has `cid` and takes it from there, or from another one that has it, verified; `None` if it
    /// does not come from there in time.
    pub(crate) async fn take(
        &self,
        cid: &Cid,
        theirs: Theirs,
        (ask, until): (AskPeers, Instant),
    ) -> Option<Bytes> {
        let net = self.0.net.as_ref()?;
        let peer = theirs.peer;
        if !theirs.here {
            let wait = until.saturating_duration_since(Instant::now());
            match self.wait_for(cid, theirs, wait).await {
                Some(ShareState::Here) => {}
                Some(ShareState::Free | ShareState::Coming) => {
                    debug!(%cid, %peer, "a neighbour gave up bringing it");
                    return None;
                }
                None => {
                    debug!(%cid, %peer, "a neighbour does not bring it in time");
                    self.0.manners.note(peer, Manner::Owes);
                    return None;
                }
            }
        }
        // Where several have it, they share the work.
        let others = self.to_ask(ask).into_iter().filter(|other| *other != peer);
        let options = SessionOptions::with_peers(others.chain([peer])).patience(GIVE);
        let session = net.bitswap().session(options);
        let got = tokio::time::timeout(GIVE, session.get(*cid)).await;
        let given = got.ok().and_then(Result::ok).map(|got| got.data);
        let manner = if given.is_some() {
            Manner::Gives
        } else {
            Manner::Lies
        };
        self.0.manners.note(peer, manner);
        given
    }

    /// Waits until the neighbour says how it stands to `cid`: it has it, it will not come, or it still comes; `None` if it
    /// says nothing within `wait`, at most 8 s.
    pub(crate) async fn wait_for(&self, cid: &Cid, theirs: Theirs, wait: Duration) -> Option<ShareState> {
        let (net, digest) = (self.0.net.as_ref()?, digest_of(cid)?);
        let told = net.share(theirs.peer, ShareAsk::TellMe, &[digest], wait).await?;
        told.first().copied()
    }

    /// Whether a neighbour asked about `cid` within the last minute, or does so before `until`.
    pub(crate) async fn is_wanted_before(&self, cid: &Cid, until: Instant) -> bool {
        match digest_of(cid) {
            Some(digest) => self.0.wanted.before(&digest, until).await,
            None => false,
        }
    }

    /// What a neighbour did that said it has or brings something.
    pub(crate) fn note(&self, theirs: Theirs, manner: Manner) {
        self.0.manners.note(theirs.peer, manner);
    }

    /// Room for one more block that is waited for; `None` when the node stops.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.waiting).acquire_owned().await.ok()
    }

    /// LAN peers that speak the protocol, may know, and answer.
    pub(crate) fn to_ask(&self, ask: AskPeers) -> Vec<PeerId> {
        let Some(net) = &self.0.net else { return Vec::new() };
        let peers = net.peers().into_iter();
        let peers =
            peers.filter(|peer| peer.lan && peer.share == Some(true) && !self.0.manners.rests(&peer.id));
        let peers = peers.filter(|peer| match ask {
            AskPeers::Nobody => false,
            AskPeers::Friends => peer.configured,
            AskPeers::Everyone => true,
        });
        peers.take(MAX_NEIGHBOURS).map(|peer| peer.id).collect()
    }

    /// How long an answer of this neighbour is waited for.
    fn patience(&self, peer: &PeerId) -> Duration {
        let info = self.0.net.as_ref().and_then(|net| net.peer(peer));
        self.0.manners.patience(peer, info.as_ref())
    }

    /// Enters a claim, unless it was left to one of `peers`. Where one stands already, somebody here
    /// brings it: no second is needed.
    fn claim(&self, cid: &Cid, ask: AskPeers, peers: &[PeerId]) -> Entered {
        let Some(digest) = digest_of(cid) else {
            return Entered::Ticket(Ticket::none());
        };
        let mut claims = self.claims();
        if claims.ours.contains_key(&digest) {
            return Entered::Ticket(Ticket::none());
        }
        if let Some(peer) = claims.left_to(&digest, peers) {
            return Entered::Left(Theirs { peer, here: false });
        }
        let claim = Claim {
            ours: false,
            ask,
            waiters: Vec::new(),
        };
        claims.ours.insert(digest, claim);
        drop(claims);
        Entered::Ticket(Ticket {
            of: Some((self.clone(), digest)),
            state: ShareState::Free,
        })
    }

    fn end(&self, digest: &Digest, state: ShareState) {
        let claim = self.claims().ours.remove(digest);
        if let Some(claim) = &claim
            && state == ShareState::Here
        {
            self.recent().add(*digest, claim.ask);
        }
        for waiter in claim.into_iter().flat_map(|claim| claim.waiters) {
            let _ = waiter.send(vec![state]);
        }
    }

    /// How we stand to a block, as `peer` is told. What came long ago counts as free: it is found by Bitswap,
    /// and where mirrors are faster than we are, they may help.
    fn state(&self, ask: ShareAsk, digest: &Digest, peer: &PeerId) -> ShareState {
        let Some(net) = &self.0.net else {
            return ShareState::Free;
        };
        self.0.wanted.note(digest);
        let recent = self.recent().known.get(digest).copied();
        if recent.is_some_and(|ask| may_know(net, ask, peer)) {
            return ShareState::Here;
        }
        let mut claims = self.claims();
        let claim = claims.ours.get(digest);
        match claim.filter(|claim| may_know(net, claim.ask, peer)) {
            Some(claim) if claim.ours => ShareState::Coming,
            Some(_) if rank(&net.peer_id(), digest) > rank(peer, digest) => ShareState::Coming,
            Some(_) => ShareState::Free,
            None => {
                if claim.is_none() && ask == ShareAsk::MayI {
                    claims.leave(*digest, *peer);
                }
                ShareState::Free
            }
        }
    }

    /// Neighbours that ask are told that `cid` is coming.
    #[cfg(test)]
    pub(crate) fn is_bringing(&self, cid: &Cid) -> bool {
        let claims = self.claims();
        digest_of(cid).is_some_and(|digest| claims.ours.get(&digest).is_some_and(|claim| claim.ours))
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never held across an await.
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.0.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what neighbours ask, until the node stops.
    pub(crate) async fn answer(
        self,
        mut requests: mpsc::Receiver<ShareRequest>,
        blocks: Shared,
        tasks: Tasks,
    ) {
        let stop = tasks.stop();
        while let Some(Some(request)) = stop.run_until_cancelled(requests.recv()).await {
            let ShareRequest {
                peer,
                ask,
                digests,
                reply,
            } = request;
            if !blocks.is_open_to(&peer) {
                let _ = reply.send(vec![ShareState::Free; digests.len()]);
                continue;
            }
            trace!(%peer, ?ask, count = digests.len(), "a neighbour asks");
            let states: Vec<_> = digests
                .iter()
                .map(|digest| self.state(ask, digest, &peer))
                .collect();
            match ask {
                ShareAsk::MayI => {
                    let _ = reply.send(states);
                }
                ShareAsk::TellMe => {
                    self.wait(&peer, &digests, states.first() == Some(&ShareState::Here), reply);
                }
            }
        }
    }

    fn wait(&self, peer: &PeerId, digests: &[Digest], here: bool, reply: oneshot::Sender<Vec<ShareState>>) {
        let mut claims = self.claims();
        let claim = digests.first().and_then(|digest| claims.ours.get_mut(digest));
        let may = |claim: &Claim| {
            self.0
                .net
                .as_ref()
                .is_some_and(|net| may_know(net, claim.ask, peer))
        };
        let claim = claim.filter(|claim| may(claim));
        match claim {
            Some(claim) if !here => {
                claim.waiters.retain(|waiter| !waiter.is_closed());
                if claim.waiters.len() < WAITERS {
                    claim.waiters.push(reply);
                }
            }
            _ => {
                let state = if here { ShareState::Here } else { ShareState::Free };
                let _ = reply.send(vec![state]);
            }
        }
    }
}

/// Whether `peer` may know what is asked of those in `ask`.
fn may_know(net: &Net, ask: AskPeers, peer: &PeerId) -> bool {
    match ask {
        AskPeers::Nobody => false,
        AskPeers::Friends => net.peer(peer).is_some_and(|peer| peer.configured),
        AskPeers::Everyone => true,
    }
}

/// The digest that a block is asked by, if it is a SHA-256.
fn digest_of(cid: &Cid) -> Option<Digest> {
    let sha256 = cid.hash().code() == HashKind::Sha2_256.code();
    cid.hash().digest().try_into().ok().filter(|_| sha256)
}

/// Who of two that want the same block at the same time brings it.
fn rank(peer: &PeerId, digest: &Digest) -> [u8; 8] {
    let mut hash = Context::new(&SHA256);
    hash.update(digest);
    hash.update(&peer.to_bytes());
    let mut rank = [0; 8];
    rank.copy_from_slice(&hash.finish().as_ref()[..8]);
    rank
}
