//! The one task that owns the swarm: commands in, events out.
//!
//! - Invariant: nothing here waits for anything but the next event; all answers go through the reply
//!   channels of the commands. When the task ends, all channels close and all handles say so.
//! - Not here: what each part decides (`crate::dialing`, `crate::dht`, `crate::peers`, ...).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::request_response::{self, OutboundFailure, OutboundRequestId};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, mdns, ping};
use pacstore_bitswap::Bitswap;
use pacstore_runtime::CancellationToken;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::address::{Scope, ip_of, is_loopback, without_peer};
use crate::behaviour::{Behaviour, BehaviourEvent, LAN_KAD, PUBLIC_KAD};
use crate::command::Command;
use crate::config::{
    CLOSE_DEADLINE, DhtMode, MAX_ADDRESSES, MAX_BANS, MAX_PROVIDED, MISSED_PINGS, REFRESH_EVERY, TRIM_EVERY,
};
use crate::dht::{Dht, Find};
use crate::dialing::Dialer;
use crate::error::{FetchError, ProvideError};
use crate::event::NetEvent;
use crate::fetch::Answer;
use crate::listen::{self, Listening};
use crate::lookups::{self, LookupDesk};
use crate::peers::Peers;
use crate::reach::Reachability;
use crate::records::{Audience, Records};
use crate::shares::{self, ShareDesk};

/// Fewer connections than this are lonely: bootstrap peers are dialled. Kubo's number.
const LONELY: usize = 4;

/// How often it is looked after dials, walks and bans while some are under way ...
const TICK: Duration = Duration::from_millis(250);
/// ... and while none are: each look wakes the processor.
const IDLE_TICK: Duration = Duration::from_secs(1);

type FetchReply = oneshot::Sender<Result<Answer, FetchError>>;

/// The state of the swarm task.
pub(crate) struct Task {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) bitswap: Bitswap,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: broadcast::Sender<NetEvent>,
    pub(crate) listening: watch::Sender<Listening>,
    pub(crate) peers: Peers,
    pub(crate) dialer: Dialer,
    pub(crate) dht: Dht,
    pub(crate) records: Records,
    pub(crate) mode: DhtMode,
    /// Records are given to whoever asks.
    pub(crate) shares_back: bool,
    pub(crate) reach: Reachability,
    pub(crate) fetches: HashMap<OutboundRequestId, FetchReply>,
    pub(crate) lookups: LookupDesk,
    pub(crate) shares: ShareDesk,
    pub(crate) bans: VecDeque<(PeerId, Instant)>,
    pub(crate) refreshed: Instant,
    pub(crate) trimmed: Instant,
}

impl Task {
    /// Runs until `stop` fires, a handle shuts it down, or all handles are gone. Open connections
    /// are then closed in an orderly way, as far as that takes less than [`CLOSE_DEADLINE`].
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut due = Instant::now();
        let reply = loop {
            due = due.min(Instant::now() + self.pause());
            tokio::select! {
                () = stop.cancelled() => break None,
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                done = self.lookups.next_done() => lookups::send(&mut self.swarm, done),
                done = self.shares.next_done() => shares::send(&mut self.swarm, done),
                () = sleep_until(due) => {
                    self.on_tick();
                    due = Instant::now() + IDLE_TICK;
                }
            }
        };
        self.close().await;
        drop(self);
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    async fn close(&mut self) {
        let connected: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let swarm = &mut self.swarm;
        let drained = async {
            while swarm.network_info().num_peers() > 0 {
                swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(CLOSE_DEADLINE, drained).await.is_err() {
            debug!("not all connections closed in time");
        }
    }

    fn is_lonely(&self) -> bool {
        self.swarm.network_info().num_peers() < LONELY && self.mode != DhtMode::Off
    }

    /// How long nothing needs to be looked after.
    fn pause(&self) -> Duration {
        let busy = self.dialer.is_busy(&self.peers, self.is_lonely()) || self.dht.is_busy();
        if busy { TICK } else { IDLE_TICK }
    }

    fn on_tick(&mut self) {
        let lonely = self.is_lonely();
        self.dialer.tick(&mut self.swarm, &self.peers, lonely);
        self.dht.tick(&mut self.swarm);
        let now = Instant::now();
        while self.bans.front().is_some_and(|(_, until)| *until <= now) {
            self.unban_oldest();
        }
        if now.duration_since(self.trimmed) >= TRIM_EVERY {
            self.trimmed = now;
            for peer in self.peers.surplus() {
                debug!(%peer, "closed: more connections than needed");
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
        if now.duration_since(self.refreshed) >= REFRESH_EVERY {
            self.refreshed = now;
            self.refresh();
        }
    }

    /// Looks for nearer peers in each DHT, and frees what has expired there.
    fn refresh(&mut self) {
        for scope in Scope::BOTH {
            let Some(dht) = self.swarm.behaviour_mut().dht(scope) else {
                continue;
            };
            dht.kad().store_mut().purge(std::time::Instant::now());
            if dht.table_len() > 0 && dht.kad().bootstrap().is_err() {
                debug!(?scope, "the routing table emptied");
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { target, reply } => self.dialer.dial(&mut self.swarm, target, reply),
            Command::Fetch { peer, key, reply } => self.fetch(peer, key, reply),
            Command::Lookup { peer, digests, reply } => {
                self.lookups.ask(&mut self.swarm, peer, digests, reply);
            }
            Command::Share { peer, request, reply } => {
                self.shares.ask(&mut self.swarm, peer, request, reply);
            }
            Command::Publish { key, reply } => self.dht.publish(&mut self.swarm, &key, &reply),
            Command::Unpublish { key } | Command::StopProviding { key } => {
                self.dht.stop(&mut self.swarm, &key);
            }
            Command::FindValue { key, found, reply } => {
                let _ = reply.send(self.dht.find(&mut self.swarm, &key, &Find::Value(found)));
            }
            Command::FindProviders { key, found, reply } => {
                let _ = reply.send(self.dht.find(&mut self.swarm, &key, &Find::Providers(found)));
            }
            Command::Provide { key, reply } => {
                let room = self.dht.provide(&mut self.swarm, key);
                let _ = reply.send(if room {
                    Ok(())
                } else {
                    Err(ProvideError::Full(MAX_PROVIDED))
                });
            }
            Command::Protect { peer, protected } => self.peers.protect(&peer, protected),
            Command::Disconnect { peer } => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Ban { peer, duration } => self.ban(peer, duration),
            Command::Shutdown { .. } => unreachable!("the loop ends on it"),
        }
    }

    fn fetch(&mut self, peer: PeerId, key: Vec<u8>, reply: FetchReply) {
        if !self.swarm.is_connected(&peer) {
            let _ = reply.send(Err(FetchError::NotConnected(peer)));
            return;
        }
        self.fetches.retain(|_, waiting| !waiting.is_closed());
        let id = self.swarm.behaviour_mut().fetch.send_request(&peer, key);
        self.fetches.insert(id, reply);
    }

    fn ban(&mut self, peer: PeerId, duration: Duration) {
        while self.bans.len() >= MAX_BANS {
            self.unban_oldest();
        }
        self.bans.retain(|(banned, _)| *banned != peer);
        let until = Instant::now() + duration;
        let at = self.bans.partition_point(|(_, other)| *other <= until);
        self.bans.insert(at, (peer, until));
        self.swarm.behaviour_mut().bans.block_peer(peer);
        info!(%peer, ?duration, "banned");
    }

    fn unban_oldest(&mut self) {
        if let Some((peer, _)) = self.bans.pop_front() {
            self.swarm.behaviour_mut().bans.unblock_peer(peer);
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => {
                if let Some(lived) = self.peers.closed(&peer_id, connection_id) {
                    self.dialer.disconnected(&peer_id, lived);
                    self.tell(NetEvent::PeerDisconnected(peer_id));
                }
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => {
                self.dialer.failed(&mut self.swarm, connection_id, peer_id, error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                info!(%address, "listening");
                listen::opened(&self.listening, listener_id, &address);
                self.update_external();
                self.tell(NetEvent::Listening(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                listen::closed(&self.listening, None, std::slice::from_ref(&address));
                self.update_external();
                self.tell(NetEvent::ListenExpired(address));
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                if let Err(error) = reason {
                    warn!(
                        ?addresses,
                        error = &error as &dyn std::error::Error,
                        "a listener has ended"
                    );
                }
                listen::closed(&self.listening, Some(listener_id), &addresses);
                self.update_external();
            }
            SwarmEvent::ListenerError { error, .. } => {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "a listener met an error and goes on"
                );
            }
            _ => {}
        }
    }

    fn update_external(&mut self) {
        let addresses = self.listening.borrow().addresses.clone();
        listen::update_external(&mut self.swarm, &addresses, self.mode);
        self.dht.send_due(&mut self.swarm);
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let configured = self.dialer.connected(peer, id);
        if configured {
            self.swarm.behaviour_mut().limits.bypass_peer_id(&peer);
            self.swarm.behaviour_mut().budget.exempt(peer);
        }
        let now = self.records.now();
        if let Some(info) = self.peers.opened(peer, id, endpoint, configured, now) {
            debug!(%peer, address = %info.address, lan = info.lan, "connected");
            self.tell(NetEvent::PeerConnected(info));
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            }) => {
                self.on_identified(peer_id, connection_id, &info);
            }
            BehaviourEvent::Ping(ping::Event {
                peer,
                connection,
                result,
            }) => {
                if let Ok(took) = result {
                    self.bitswap.round_trip(&peer, took);
                    self.peers.measured(&peer, took);
                }
                let missed = matches!(result, Err(ping::Failure::Timeout));
                if self.peers.pinged(&peer, connection, !missed, MISSED_PINGS) {
                    debug!(%peer, "closed: answers no ping");
                    self.swarm.close_connection(connection);
                }
            }
            BehaviourEvent::Fetch(event) => self.on_fetch(event),
            BehaviourEvent::Lookup(event) => self.lookups.on_event(event),
            BehaviourEvent::Share(event) => {
                let peer = *shares::peer_of(&event);
                let lan = self.peers.is_lan(&peer);
                if let Some(took) = self.shares.on_event(event, lan) {
                    self.peers.answered(&peer, took);
                }
            }
            BehaviourEvent::LanDht(event) => self.dht.on_event(&mut self.swarm, Scope::Lan, event),
            BehaviourEvent::PublicDht(event) => self.dht.on_event(&mut self.swarm, Scope::Public, event),
            BehaviourEvent::Bitswap(pacstore_bitswap::Event::Banned { peer, reason }) => {
                info!(%peer, ?reason, "misbehaved");
                self.tell(NetEvent::Misbehaved(peer));
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_discovered(found),
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => {
                for (peer, address) in gone {
                    self.dialer.expired(&peer, &without_peer(address));
                }
            }
            _ => {}
        }
    }

    fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        for (peer, address) in found {
            // Multicast is of this network: nobody sends us out into another one by it.
            if !Scope::Lan.admits(&address) {
                continue;
            }
            let address = without_peer(address);
            if self.dialer.discovered(peer, address.clone()) {
                self.tell(NetEvent::Discovered { peer, address });
            }
        }
    }

    fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: &identify::Info) {
        if let Some((remote, true)) = self.peers.remote_of(&peer, id)
            && let Some(witness) = ip_of(remote)
            && let Some(ours) = self.reach.dialled_by(witness, info.observed_addr.clone())
            && !self.swarm.external_addresses().any(|known| *known == ours)
        {
            info!(address = %ours, "reachable from the internet");
            self.swarm.add_external_address(ours.clone());
            self.tell(NetEvent::Reachable(ours));
        }
        for (scope, protocol) in [(Scope::Lan, LAN_KAD), (Scope::Public, PUBLIC_KAD)] {
            if info.protocols.contains(&protocol) {
                self.add_to_table(scope, peer, &info.listen_addrs);
            }
        }
        if let Some(told) = self.peers.identified(&peer, &info.agent_version, &info.protocols) {
            self.tell(NetEvent::PeerIdentified(told));
        }
    }

    /// Adds a peer that speaks a DHT to its routing table, under those addresses that lie in that
    /// network; to the LAN one only if it is connected by a LAN address.
    fn add_to_table(&mut self, scope: Scope, peer: PeerId, told: &[Multiaddr]) {
        let remotes: Vec<_> = self.peers.remotes(&peer).collect();
        if !remotes.iter().any(|remote| scope.admits(remote)) {
            return;
        }
        // A loopback address of another machine is our own one here.
        let same_machine = remotes.iter().any(|remote| is_loopback(remote));
        let usable = |address: &&Multiaddr| scope.admits(address) && (same_machine || !is_loopback(address));
        let addresses = told
            .iter()
            .filter(usable)
            .take(MAX_ADDRESSES)
            .cloned()
            .map(without_peer);
        let addresses: Vec<_> = addresses.collect();
        if let Some(dht) = self.swarm.behaviour_mut().dht(scope) {
            dht.learn(peer, &addresses);
        }
    }

    fn on_fetch(&mut self, event: crate::wire::Event<crate::fetch::Fetch>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request, channel, .. } => {
                    let trusted = self.peers.is_configured(&peer);
                    let audience = if trusted {
                        Audience::Configured
                    } else {
                        Audience::Everyone
                    };
                    let known = self.records.get(&request, audience).filter(|_| self.shares_back);
                    let answer = known.map_or(Answer::NotFound, |bytes| Answer::Found(bytes.to_vec()));
                    // It fails only if the peer has gone.
                    drop(self.swarm.behaviour_mut().fetch.send_response(channel, answer));
                }
                request_response::Message::Response { request_id, response } => {
                    self.fetched(request_id, Ok(response));
                }
            },
            request_response::Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                let error = match error {
                    OutboundFailure::UnsupportedProtocols => FetchError::Unsupported(peer),
                    OutboundFailure::Timeout => FetchError::Deadline(peer),
                    OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => {
                        FetchError::NotConnected(peer)
                    }
                    OutboundFailure::Io(_) => FetchError::Failed(peer),
                };
                self.fetched(request_id, Err(error));
            }
            _ => {}
        }
    }

    fn fetched(&mut self, id: OutboundRequestId, result: Result<Answer, FetchError>) {
        if let Some(reply) = self.fetches.remove(&id) {
            let _ = reply.send(result);
        }
    }

    /// Nobody need listen.
    fn tell(&self, event: NetEvent) {
        drop(self.events.send(event));
    }
}
