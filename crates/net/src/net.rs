//! The handle: everything that the rest of the node asks of the network.
//!
//! - Invariant: each method ends by its deadline, and soon after the network was shut down.
//! - Not here: the swarm (`crate::task`). Whose blocks go to whom is decided by the caller's
//!   [`Blocks`]; what is announced, only by what the caller asks to announce.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use pacstore_bitswap::{Bitswap, Blocks};
use pacstore_dag::Cid;
use pacstore_names::{IpnsName, Record, RecordError, better};
use pacstore_runtime::{Clock, Tasks};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::behaviour;
use crate::budget::Connections;
use crate::command::{Command, Provider, Target};
use crate::config::{
    COMMANDS, DIAL_DEADLINE, EVENTS, FETCH_DEADLINE, FETCH_PEERS, MAX_FOUND, NetConfig, QUERY_DEADLINE,
};
use crate::dht::Dht;
use crate::dialing::Dialer;
use crate::error::{
    Closed, DialError, FetchError, FindError, LookupError, NetError, ProvideError, RecordRefused,
};
use crate::event::NetEvent;
use crate::fetch::Answer;
use crate::listen::{Listening, listen, update_external};
use crate::lookup::{Digest, LookedUp, MAX_LOOKUP};
use crate::lookups::LookupDesk;
use crate::peers::{LanPeers, PeerInfo, PeerView, Peers};
use crate::reach::Reachability;
use crate::records::{Audience, Keep, Records};
use crate::share::{self, ShareAsk, ShareState};
use crate::shares::ShareDesk;
use crate::task::Task;

/// How long new listeners may take to tell their addresses.
const LISTEN_DEADLINE: Duration = Duration::from_secs(3);

/// A record that somebody gave us, verified for its name and in force.
#[derive(Clone, Debug)]
pub struct FoundRecord {
    /// The record; its bytes are in it, as they came.
    pub record: Record,
    /// Who gave it: a connected peer, a peer of the DHT, or this node itself, which kept it.
    pub from: PeerId,
}

/// How far a published record got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Peers of the DHTs that took it. 0 where there are none; it is put again when some come.
    pub stored: usize,
}

/// The network. Cheap to clone; clones are the same one.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<NetEvent>,
    listening: watch::Receiver<Listening>,
    peers: PeerView,
    records: Records,
    bitswap: Bitswap,
    /// Nothing is announced or put anywhere where this is false.
    shares_back: bool,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("peer_id", &self.0.local)
            .finish_non_exhaustive()
    }
}

impl Net {
    /// Binds the listeners and starts the swarm task `net`, which ends with `tasks` or by
    /// [`Net::shutdown`].
    ///
    /// A port that is taken is replaced by any free one, with a warning; ask
    /// [`Net::listen_addresses`] for what was bound.
    ///
    /// # Errors
    /// [`NetError::Listen`] if listen addresses are given and not one can be bound.
    ///
    /// # Panics
    /// If called outside of a tokio runtime.
    pub fn start(
        config: NetConfig,
        blocks: Arc<dyn Blocks>,
        tasks: &Tasks,
        clock: Clock,
    ) -> Result<Self, NetError> {
        let key = Keypair::ed25519_from_bytes(config.key).map_err(NetError::Key)?;
        let records = Records::new(clock);
        let peers = PeerView::default();
        let parts = behaviour::Parts {
            config: &config,
            key: &key,
            records: &records,
            peers: &peers,
        };
        let (mut swarm, bitswap) = behaviour::build(&parts, blocks, tasks)?;
        let pending = listen(&mut swarm, &config.listen)?;
        update_external(&mut swarm, &[], config.part());
        let dialer = Dialer::new(key.public().to_peer_id(), &config.peers, &config.bootstrap);
        for peer in dialer.configured() {
            swarm.behaviour_mut().limits.bypass_peer_id(&peer);
            swarm.behaviour_mut().budget.exempt(peer);
        }
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let (listening, addresses) = watch::channel(Listening {
            addresses: Vec::new(),
            pending,
        });
        let inner = Inner {
            local: key.public().to_peer_id(),
            commands,
            events: events.clone(),
            listening: addresses,
            peers: peers.clone(),
            records: records.clone(),
            bitswap: bitswap.clone(),
            shares_back: config.shares_back,
        };
        let task = Task {
            swarm,
            bitswap,
            commands: inbox,
            events,
            listening,
            peers: Peers::new(peers, Connections(config.strangers)),
            dialer,
            dht: Dht::new(records.clone()),
            records,
            mode: config.part(),
            shares_back: config.shares_back,
            reach: Reachability::default(),
            fetches: HashMap::new(),
            lookups: LookupDesk::new(config.lookups, tasks),
            shares: ShareDesk::new(config.shares),
            bans: VecDeque::new(),
            refreshed: Instant::now(),
            trimmed: Instant::now(),
        };
        tasks.spawn_critical("net", task.run(tasks.stop()));
        Ok(Self(Arc::new(inner)))
    }

    /// Who we are to others.
    pub fn peer_id(&self) -> PeerId {
        self.0.local
    }

    /// Where we listen, with real ports, each unspecified address as one address an interface
    /// (loopback included). Waits, at most 3 s, until every listener has told its first one.
    pub async fn listen_addresses(&self) -> Vec<Multiaddr> {
        let mut listening = self.0.listening.clone();
        let told = listening.wait_for(|now| now.pending.is_empty());
        // Late or shut down: what is known is known.
        drop(timeout(LISTEN_DEADLINE, told).await);
        self.0.listening.borrow().addresses.clone()
    }

    /// All connected peers, in no order.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.0.peers.all()
    }

    /// A peer, if it is connected.
    pub fn peer(&self, peer: &PeerId) -> Option<PeerInfo> {
        self.0.peers.get(peer)
    }

    /// Who is of the LAN, for those who must not keep the network alive.
    pub fn lan_peers(&self) -> LanPeers {
        LanPeers(self.0.peers.clone())
    }

    /// The block exchange.
    pub fn bitswap(&self) -> &Bitswap {
        &self.0.bitswap
    }

    /// What happens from now on. Bounded: who lags by more than 256 events loses the oldest.
    pub fn subscribe(&self) -> broadcast::Receiver<NetEvent> {
        self.0.events.subscribe()
    }

    /// Connects to `address`, with `/p2p/ID` only to that peer; who it was. At most 20 s.
    pub async fn dial(&self, address: Multiaddr) -> Result<PeerId, DialError> {
        self.dial_target(Target::Address(address)).await
    }

    /// Connects to a peer at one of `addresses`, or at those that the DHT knows if there are none.
    /// A peer that is connected already is not dialled. At most 20 s.
    pub async fn connect(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<(), DialError> {
        self.dial_target(Target::Peer(peer, addresses)).await.map(drop)
    }

    async fn dial_target(&self, target: Target) -> Result<PeerId, DialError> {
        let (reply, answer) = oneshot::channel();
        let dialled = async {
            self.send(Command::Dial { target, reply }).await?;
            answer.await.map_err(|_| self.ended())
        };
        match timeout(DIAL_DEADLINE, dialled).await {
            Ok(Ok(result)) => result,
            Ok(Err(Ended::Closed)) => Err(Closed.into()),
            Ok(Err(Ended::Dropped)) | Err(_) => Err(DialError::Deadline(DIAL_DEADLINE.as_secs())),
        }
    }

    /// Closes all connections to a peer. A configured one is dialled again.
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), Closed> {
        self.tell(Command::Disconnect { peer }).await
    }

    /// Closes all connections to a peer and takes none from or to it for `duration`.
    pub async fn ban(&self, peer: PeerId, duration: Duration) -> Result<(), Closed> {
        self.tell(Command::Ban { peer, duration }).await
    }

    /// Says whether a connected peer is needed: then it is not disconnected to make room for others.
    pub async fn protect(&self, peer: PeerId, protected: bool) -> Result<(), Closed> {
        self.tell(Command::Protect { peer, protected }).await
    }

    /// Takes `record` as what we answer for `name`, to `/libp2p/fetch` and to DHT look-ups: an own
    /// record, or the best one known of a name that we follow. It is not put anywhere.
    ///
    /// # Errors
    /// [`RecordRefused`] if it does not verify, or a better one is here.
    pub fn set_record(&self, name: &IpnsName, record: &[u8]) -> Result<(), RecordRefused> {
        self.0.records.set(name, record, Audience::Everyone, Keep::Answer)
    }

    /// As [`Net::set_record`], but only peers of `[swarm] peers` get it, by `/libp2p/fetch` alone.
    pub fn set_private_record(&self, name: &IpnsName, record: &[u8]) -> Result<(), RecordRefused> {
        self.0
            .records
            .set(name, record, Audience::Configured, Keep::Answer)
    }

    /// Answers for `name` no more, and puts it into the DHT no more.
    pub async fn forget_record(&self, name: &IpnsName) -> Result<(), Closed> {
        self.0.records.remove(name);
        self.tell(Command::Unpublish {
            key: name.routing_key(),
        })
        .await
    }

    /// Takes `record` as [`Net::set_record`] does and puts it into both DHTs, now (at most 60 s) and
    /// every 4 h while we run. Where no DHT peer is near, that is when the first one comes.
    ///
    /// # Errors
    /// [`RecordRefused`] if it does not verify, or a better one is here. That nobody could be told
    /// is no error.
    pub async fn publish_record(&self, name: &IpnsName, record: &[u8]) -> Result<Published, RecordRefused> {
        if !self.0.shares_back {
            self.set_record(name, record)?;
            return Ok(Published { stored: 0 });
        }
        self.0
            .records
            .set(name, record, Audience::Everyone, Keep::Publish)?;
        let (reply, mut told) = mpsc::channel(2);
        self.send(Command::Publish {
            key: name.routing_key(),
            reply,
        })
        .await
        .map_err(|_| Closed)?;
        let mut stored = 0;
        let until = Instant::now() + QUERY_DEADLINE;
        while let Ok(Some(more)) = timeout_at(until, told.recv()).await {
            stored += more;
        }
        Ok(Published { stored })
    }

    /// Asks one connected peer for its record of `name`; `None` if it has none. At most 10 s.
    ///
    /// # Errors
    /// [`FetchError::Invalid`] if what it sent does not verify for `name`, now.
    pub async fn fetch_record(
        &self,
        peer: PeerId,
        name: &IpnsName,
    ) -> Result<Option<FoundRecord>, FetchError> {
        let (reply, answer) = oneshot::channel();
        let fetched = async {
            self.send(Command::Fetch {
                peer,
                key: name.routing_key(),
                reply,
            })
            .await?;
            answer.await.map_err(|_| self.ended())
        };
        let answer = match timeout(FETCH_DEADLINE, fetched).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(Ended::Closed)) => return Err(Closed.into()),
            Ok(Err(Ended::Dropped)) | Err(_) => return Err(FetchError::Deadline(peer)),
        };
        match answer {
            Answer::NotFound => Ok(None),
            Answer::Error => Err(FetchError::Failed(peer)),
            Answer::Found(bytes) => {
                let checked = self.checked(name, &bytes, peer);
                checked
                    .map(Some)
                    .map_err(|error| FetchError::Invalid { peer, error })
            }
        }
    }

    /// Asks one connected peer under which roots it has the files with these SHA-256 digests: an answer
    /// for each, in their order. Whoever is asked learns that we want them. What it answers is a hint
    /// and may be a lie.
    ///
    /// # Errors
    /// [`LookupError::Impossible`] if the answer cannot be true; [`LookupError::Count`] for none or more
    /// than [`MAX_LOOKUP`] digests; others if it does not answer within `deadline`, at most 5 s.
    pub async fn lookup(
        &self,
        peer: PeerId,
        digests: &[Digest],
        deadline: Duration,
    ) -> Result<Vec<Option<LookedUp>>, LookupError> {
        if digests.is_empty() || digests.len() > MAX_LOOKUP {
            return Err(LookupError::Count(digests.len()));
        }
        let (reply, answer) = oneshot::channel();
        let digests = digests.to_vec();
        let asked = async {
            self.send(Command::Lookup { peer, digests, reply }).await?;
            answer.await.map_err(|_| self.ended())
        };
        match timeout(deadline, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Ended::Closed)) => Err(Closed.into()),
            Ok(Err(Ended::Dropped)) | Err(_) => Err(LookupError::Deadline(peer)),
        }
    }

    /// Asks one connected LAN peer how it stands to blocks, 1 to [`MAX_SHARE`](crate::MAX_SHARE) of them;
    /// a state for each, in their order. `None` if it does not answer within `deadline`, at most 8 s.
    pub async fn share(
        &self,
        peer: PeerId,
        ask: ShareAsk,
        digests: &[Digest],
        deadline: Duration,
    ) -> Option<Vec<ShareState>> {
        let (reply, answer) = oneshot::channel();
        let digests = digests.to_vec();
        let request = share::Request { ask, digests };
        let asked = async {
            let command = Command::Share { peer, request, reply };
            self.send(command).await.ok()?;
            answer.await.ok()
        };
        timeout(deadline, asked).await.ok().flatten()
    }

    /// Looks for records of `name`: asks connected peers and both DHTs at the same time, until all
    /// have answered or `deadline` has passed. All that verify, each once, the best first.
    ///
    /// # Errors
    /// [`FindError`] if nothing could be asked at all; nothing found is an empty list.
    pub async fn find_record(
        &self,
        name: &IpnsName,
        deadline: Duration,
    ) -> Result<Vec<FoundRecord>, FindError> {
        let until = Instant::now() + deadline;
        let (found, mut values) = mpsc::channel(MAX_FOUND);
        let (reply, started) = oneshot::channel();
        self.send(Command::FindValue {
            key: name.routing_key(),
            found,
            reply,
        })
        .await
        .map_err(|_| Closed)?;
        started.await.map_err(|_| Closed)??;
        let mut fetches: FuturesUnordered<_> = self
            .to_ask()
            .into_iter()
            .map(|peer| self.fetch_record(peer, name))
            .collect();
        let mut records = Vec::new();
        let mut seen = HashSet::new();
        let mut take = |one: FoundRecord| {
            if records.len() < MAX_FOUND && seen.insert(one.record.bytes().clone()) {
                records.push(one);
            }
        };
        let (mut walking, mut asking) = (true, true);
        while walking || asking {
            let step = async {
                tokio::select! {
                    value = values.recv(), if walking => {
                        walking = value.is_some();
                        value.and_then(|value| self.checked(name, &value.value, value.from).ok())
                    }
                    fetched = fetches.next(), if asking => {
                        asking = fetched.is_some();
                        fetched.and_then(Result::ok).flatten()
                    }
                }
            };
            match timeout_at(until, step).await {
                Ok(Some(one)) => take(one),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        records.sort_by(|a, b| better(&b.record, &a.record));
        Ok(records)
    }

    /// Connected peers that may have records: configured ones first, then LAN peers, then others.
    fn to_ask(&self) -> Vec<PeerId> {
        let mut peers = self.peers();
        peers.retain(|peer| peer.fetch != Some(false));
        peers.sort_by_key(|peer| (!peer.configured, !peer.lan, peer.since));
        peers.into_iter().take(FETCH_PEERS).map(|peer| peer.id).collect()
    }

    fn checked(&self, name: &IpnsName, bytes: &[u8], from: PeerId) -> Result<FoundRecord, RecordError> {
        let record = Record::from_bytes(bytes)?;
        record.verify(name, self.0.records.now())?;
        Ok(FoundRecord { record, from })
    }

    /// Announces in both DHTs that we have `cid`, now and every 22 h until [`Net::stop_providing`].
    /// It is not waited for: each DHT is told as soon as it has peers and we an address in it.
    ///
    /// # Errors
    /// [`ProvideError::Full`] above 4096 CIDs; files go by the sweeping provider of a later time.
    pub async fn provide(&self, cid: &Cid) -> Result<(), ProvideError> {
        if !self.0.shares_back {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::Provide {
            key: cid.hash().to_bytes(),
            reply,
        })
        .await
        .map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)?
    }

    /// Announces `cid` no more. What others were told expires with them, after at most 48 h.
    pub async fn stop_providing(&self, cid: &Cid) -> Result<(), Closed> {
        self.tell(Command::StopProviding {
            key: cid.hash().to_bytes(),
        })
        .await
    }

    /// Looks in both DHTs for peers that have `cid`, until `limit` are found, all were asked, or
    /// `deadline` has passed. Not connected to; [`Net::connect`] does that.
    pub async fn find_providers(
        &self,
        cid: &Cid,
        limit: usize,
        deadline: Duration,
    ) -> Result<Vec<Provider>, FindError> {
        let until = Instant::now() + deadline;
        let (found, mut providers) = mpsc::channel(MAX_FOUND);
        let (reply, started) = oneshot::channel();
        self.send(Command::FindProviders {
            key: cid.hash().to_bytes(),
            found,
            reply,
        })
        .await
        .map_err(|_| Closed)?;
        started.await.map_err(|_| Closed)??;
        let mut known: Vec<Provider> = Vec::new();
        while known.len() < limit {
            let Ok(Some(provider)) = timeout_at(until, providers.recv()).await else {
                break;
            };
            match known.iter_mut().find(|one| one.id == provider.id) {
                Some(one) => {
                    let more = provider
                        .addresses
                        .into_iter()
                        .filter(|address| !one.addresses.contains(address));
                    let more: Vec<_> = more.collect();
                    one.addresses.extend(more);
                }
                None => known.push(provider),
            }
        }
        Ok(known)
    }

    /// Closes all connections and listeners and ends the swarm task; at most a few seconds. Calling
    /// it again is harmless.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Command::Shutdown { reply }).await.is_ok() {
            drop(timeout(LISTEN_DEADLINE, done).await);
        }
    }

    async fn tell(&self, command: Command) -> Result<(), Closed> {
        self.send(command).await.map_err(|_| Closed)
    }

    async fn send(&self, command: Command) -> Result<(), Ended> {
        self.0.commands.send(command).await.map_err(|_| Ended::Closed)
    }

    /// Why a reply channel was dropped.
    fn ended(&self) -> Ended {
        if self.0.commands.is_closed() {
            Ended::Closed
        } else {
            Ended::Dropped
        }
    }
}

/// Why no reply came.
enum Ended {
    Closed,
    Dropped,
}
