//! Look-ups and announcements in the two DHTs, and what strangers put into our part of them.
//!
//! Results stream to the caller through a bounded channel; when the caller has enough it drops the
//! channel, and the walk ends. So a deadline always leaves what was found until then.
//!
//! - Invariant: no foreign value is stored or handed on as a record that did not verify here (trap 7:
//!   libp2p neither validates nor selects).
//! - Not here: what is kept (`crate::dht_store`), when to announce (`crate::announce`).

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryId, QueryResult, Quorum, RecordKey};
use libp2p::{PeerId, Swarm};
use pacstore_names::{IpnsName, Record, better};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, trace};

use crate::address::{Scope, without_peer};
use crate::announce::{Announcer, What};
use crate::behaviour::Behaviour;
use crate::command::{FoundValue, Provider};
use crate::config::{ANNOUNCING, DHT_TTL, MAX_ADDRESSES, MAX_QUERIES, MAX_RECORD, PUTS_PER_MINUTE};
use crate::error::FindError;
use crate::records::Records;

/// Peers that may put values within one minute.
const MAX_PUTTERS: usize = 1024;

/// What a walk through a DHT is for.
enum Walk {
    Value(mpsc::Sender<FoundValue>),
    Providers(mpsc::Sender<Provider>),
    Announcement {
        key: Vec<u8>,
        told: Option<mpsc::Sender<usize>>,
    },
}

impl Walk {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Value(found) => found.is_closed(),
            Self::Providers(found) => found.is_closed(),
            // It goes on without the caller: the announcement stands for itself.
            Self::Announcement { .. } => false,
        }
    }
}

/// A kind of look-up that a caller asks for.
pub(crate) enum Find {
    Value(mpsc::Sender<FoundValue>),
    Providers(mpsc::Sender<Provider>),
}

/// The DHT side of the swarm task.
pub(crate) struct Dht {
    walks: HashMap<(Scope, QueryId), Walk>,
    announcer: Announcer,
    records: Records,
    /// Values that each peer has put within the window.
    puts: HashMap<PeerId, u32>,
    puts_since: Instant,
}

impl Dht {
    pub(crate) fn new(records: Records) -> Self {
        Self {
            walks: HashMap::new(),
            announcer: Announcer::default(),
            records,
            puts: HashMap::new(),
            puts_since: Instant::now(),
        }
    }

    /// Starts a look-up in both DHTs. With both off, or empty, it ends at once with nothing.
    pub(crate) fn find(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        key: &[u8],
        find: &Find,
    ) -> Result<(), FindError> {
        if self.walks.len() >= MAX_QUERIES {
            return Err(FindError::Busy);
        }
        for scope in Scope::BOTH {
            let Some(dht) = swarm.behaviour_mut().dht(scope) else {
                continue;
            };
            let key = RecordKey::new(&key);
            let (id, walk) = match find {
                Find::Value(found) => (dht.kad().get_record(key), Walk::Value(found.clone())),
                Find::Providers(found) => (dht.kad().get_providers(key), Walk::Providers(found.clone())),
            };
            self.walks.insert((scope, id), walk);
        }
        Ok(())
    }

    /// Puts our record of `key` into both DHTs now, and again and again.
    pub(crate) fn publish(&mut self, swarm: &mut Swarm<Behaviour>, key: &[u8], told: &mpsc::Sender<usize>) {
        let now = Instant::now();
        self.announcer.add(key.to_vec(), What::Record, now);
        for scope in Scope::BOTH {
            // A DHT without peers would only fail; the announcer's turn comes when one enters.
            if !has_peers(swarm, scope) {
                continue;
            }
            self.announcer.take_key(key, scope);
            self.announce(swarm, scope, key.to_vec(), What::Record, Some(told.clone()));
        }
    }

    /// Announces from now on that we have `key`; `false` if there is no room.
    pub(crate) fn provide(&mut self, swarm: &mut Swarm<Behaviour>, key: Vec<u8>) -> bool {
        let room = self.announcer.add(key, What::Provider, Instant::now());
        self.send_due(swarm);
        room
    }

    /// Announces `key` no more. What others were told expires with them.
    pub(crate) fn stop(&mut self, swarm: &mut Swarm<Behaviour>, key: &[u8]) {
        self.announcer.remove(key);
        for scope in Scope::BOTH {
            if let Some(dht) = swarm.behaviour_mut().dht(scope) {
                dht.kad().stop_providing(&RecordKey::new(&key));
            }
        }
    }

    /// Sends what is due, a few at a time.
    pub(crate) fn send_due(&mut self, swarm: &mut Swarm<Behaviour>) {
        for scope in Scope::BOTH {
            // Trap 5: libp2p puts only external addresses into ADD_PROVIDER, Kubo silently refuses
            // a record without one, and libp2p still reports success. So wait for an address.
            let dialable = swarm.external_addresses().any(|address| scope.admits(address));
            if !has_peers(swarm, scope) {
                continue;
            }
            let room = ANNOUNCING.saturating_sub(self.announcer.running(scope));
            let wanted = |what| what == What::Record || dialable;
            for (key, what) in self.announcer.take_due(scope, Instant::now(), room, wanted) {
                self.announce(swarm, scope, key, what, None);
            }
        }
    }

    fn announce(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        scope: Scope,
        key: Vec<u8>,
        what: What,
        told: Option<mpsc::Sender<usize>>,
    ) {
        let Some(dht) = swarm.behaviour_mut().dht(scope) else {
            return;
        };
        let started = match what {
            What::Provider => dht.kad().start_providing(RecordKey::new(&key)).ok(),
            // Quorum ALL: only then does libp2p tell how many peers took it, and waits for all.
            What::Record => self.records.to_publish(&key).and_then(|bytes| {
                let record = kad::Record::new(key.clone(), bytes.to_vec());
                dht.kad().put_record(record, Quorum::All).ok()
            }),
        };
        match started {
            Some(id) => {
                self.walks.insert((scope, id), Walk::Announcement { key, told });
            }
            // Withdrawn or expired meanwhile.
            None if what == What::Record => self.announcer.remove(&key),
            None => self.announcer.done(&key, scope, false, Instant::now()),
        }
    }

    /// Whether something is looked for.
    pub(crate) fn is_busy(&self) -> bool {
        !self.walks.is_empty()
    }

    /// Ends look-ups that nobody waits for, and opens a new window for those who put.
    pub(crate) fn tick(&mut self, swarm: &mut Swarm<Behaviour>) {
        self.walks.retain(|(scope, id), walk| {
            if walk.is_abandoned()
                && let Some(dht) = swarm.behaviour_mut().dht(*scope)
                && let Some(mut query) = dht.kad().query_mut(id)
            {
                query.finish();
            }
            !walk.is_abandoned()
        });
        if self.puts_since.elapsed() >= Duration::from_mins(1) {
            self.puts_since = Instant::now();
            self.puts.clear();
        }
        self.send_due(swarm);
    }

    /// Takes in an event of one of the DHTs.
    pub(crate) fn on_event(&mut self, swarm: &mut Swarm<Behaviour>, scope: Scope, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_progress(swarm, scope, id, result, step.last);
            }
            kad::Event::InboundRequest { request } => self.on_request(swarm, scope, request),
            kad::Event::RoutingUpdated {
                is_new_peer: true,
                peer,
                ..
            } => {
                trace!(?scope, %peer, "a peer entered the routing table");
                let few = |dht: &mut crate::scoped::ScopedKad| dht.table_len() < kad::K_VALUE.get();
                if swarm.behaviour_mut().dht(scope).is_some_and(few) {
                    self.announcer.new_peer(scope, Instant::now());
                    self.send_due(swarm);
                }
            }
            kad::Event::ModeChanged { new_mode } => debug!(?scope, %new_mode, "part in the DHT changed"),
            _ => {}
        }
    }

    fn on_progress(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        scope: Scope,
        id: QueryId,
        result: QueryResult,
        last: bool,
    ) {
        let at = (scope, id);
        match (self.walks.get(&at), result) {
            (Some(Walk::Value(found)), QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(one))))
                // What is too large is no IPNS record.
                if one.record.value.len() <= MAX_RECORD =>
            {
                    let from = one.peer.unwrap_or(*swarm.local_peer_id());
                    drop(found.try_send(FoundValue {
                        from,
                        value: one.record.value,
                    }));
            }
            (
                Some(Walk::Providers(found)),
                QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
            ) => {
                let local = *swarm.local_peer_id();
                for peer in providers.into_iter().filter(|peer| *peer != local) {
                    let Some(dht) = swarm.behaviour_mut().dht(scope) else {
                        continue;
                    };
                    let known = dht.addresses_of(peer).into_iter().map(without_peer);
                    let addresses = known.take(MAX_ADDRESSES).collect();
                    if found.try_send(Provider { id: peer, addresses }).is_err() {
                        break;
                    }
                }
            }
            (Some(Walk::Announcement { key, told }), QueryResult::PutRecord(result)) => {
                let took = took(&result);
                self.announcer.done(key, scope, took > 0, Instant::now());
                if let Some(told) = told {
                    // The caller may have stopped waiting.
                    let _ = told.try_send(took);
                }
            }
            (Some(Walk::Announcement { key, .. }), QueryResult::StartProviding(result)) => {
                self.announcer.done(key, scope, result.is_ok(), Instant::now());
            }
            _ => {}
        }
        if last {
            self.walks.remove(&at);
            self.send_due(swarm);
        }
    }

    /// Counts a put of a peer. Peers that come only to put are bounded as well.
    fn may_put(&mut self, peer: PeerId) -> bool {
        if self.puts.len() >= MAX_PUTTERS && !self.puts.contains_key(&peer) {
            return false;
        }
        let puts = self.puts.entry(peer).or_default();
        *puts = puts.saturating_add(1);
        *puts <= PUTS_PER_MINUTE
    }

    fn on_request(&mut self, swarm: &mut Swarm<Behaviour>, scope: Scope, request: kad::InboundRequest) {
        let Some(dht) = swarm.behaviour_mut().dht(scope) else {
            return;
        };
        match request {
            kad::InboundRequest::PutRecord {
                source,
                record: Some(record),
                ..
            } => {
                // Verifying costs time: a peer that puts without end is not listened to.
                if !self.may_put(source) {
                    return;
                }
                let stored = dht
                    .kad()
                    .store_mut()
                    .get(&record.key)
                    .map(|known| known.value.clone());
                match judge(&record, stored.as_deref(), self.records.now()) {
                    Ok(record) => drop(dht.kad().store_mut().put_foreign(record)),
                    Err(why) => debug!(%source, why, "refused a value put into the DHT"),
                }
            }
            // libp2p has checked that the sender announces itself.
            kad::InboundRequest::AddProvider { record: Some(record) } => {
                let peer = record.provider;
                if dht.kad().store_mut().add_foreign_provider(record).is_err() {
                    trace!(%peer, "no room for one more provider record of this peer");
                }
            }
            _ => {}
        }
    }
}

fn has_peers(swarm: &mut Swarm<Behaviour>, scope: Scope) -> bool {
    swarm
        .behaviour_mut()
        .dht(scope)
        .is_some_and(|dht| dht.table_len() > 0)
}

fn took(result: &kad::PutRecordResult) -> usize {
    match result {
        Ok(_) => kad::K_VALUE.get(),
        Err(
            kad::PutRecordError::QuorumFailed { success, .. } | kad::PutRecordError::Timeout { success, .. },
        ) => success.len(),
    }
}

/// Whether a value that a stranger put is worth keeping: an IPNS record that verifies for its key and
/// is better than what is here. It then expires with its own validity.
fn judge(put: &kad::Record, stored: Option<&[u8]>, now: SystemTime) -> Result<kad::Record, &'static str> {
    let name = name_of_key(put.key.as_ref()).ok_or("not a key of IPNS")?;
    if put.value.len() > MAX_RECORD {
        return Err("above the size limit");
    }
    let record = Record::from_bytes(&put.value).map_err(|_| "not an IPNS record")?;
    record
        .verify(&name, now)
        .map_err(|_| "the record does not verify")?;
    if let Some(known) = stored.and_then(|bytes| Record::from_bytes(bytes).ok())
        && known.verify(&name, now).is_ok()
        && better(&record, &known).is_lt()
    {
        return Err("a better one is here");
    }
    let left = record.validity().duration_since(now).unwrap_or_default();
    let expires = std::time::Instant::now() + left.min(DHT_TTL);
    let mut kept = kad::Record::new(put.key.clone(), put.value.clone());
    kept.expires = Some(put.expires.map_or(expires, |at| at.min(expires)));
    Ok(kept)
}

/// The name whose routing key this is ("/ipns/" and the binary multihash).
pub(crate) fn name_of_key(key: &[u8]) -> Option<IpnsName> {
    IpnsName::from_routing_key(key).ok()
}
