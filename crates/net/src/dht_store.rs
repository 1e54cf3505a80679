//! What one DHT keeps on this node: our own announcements, and bounded room for those of others.
//!
//! Trap 11: libp2p's `MemoryStore` has one room for both. One Kubo with a few thousand CIDs fills it
//! in 40 ms, and then our own `start_providing` fails with `MaxProvidedKeys`. Here what is ours has a
//! room that no stranger can enter, and each stranger has a share that it cannot exceed.
//!
//! - Invariant: own keys are refused only above `MAX_PROVIDED`; foreign memory is bounded by the
//!   constants below, whatever peers send. Foreign values stand here only after they were validated.
//! - Not here: validation of what comes in (`crate::dht`), our own records (`crate::records`).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{K_VALUE, KBucketDistance, KBucketKey, ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use crate::address::Scope;
use crate::config::{MAX_ADDRESSES, MAX_PROVIDED, MAX_RECORD};
use crate::records::{Audience, Records};

/// Foreign values kept: at most 10 MiB in all.
const MAX_VALUES: usize = 1024;
/// Foreign provider records kept, in all; about 150 bytes each.
const MAX_PROVIDERS: usize = 32_768;
/// Of these, by one peer.
const MAX_PROVIDERS_OF_PEER: usize = 8192;
/// A DHT key is a multihash or "/ipns/" and one.
const MAX_KEY: usize = 160;

/// The record store of one DHT.
pub(crate) struct DhtStore {
    local: PeerId,
    scope: Scope,
    records: Records,
    provided: HashSet<RecordKey>,
    values: HashMap<RecordKey, Record>,
    /// The same values by distance from us: what is farthest gives way first.
    by_distance: BTreeMap<KBucketDistance, RecordKey>,
    providers: HashMap<RecordKey, Vec<Provider>>,
    /// The addresses of each provider stand once here, not in each of its records.
    peers: HashMap<PeerId, ProviderPeer>,
    provider_count: usize,
}

struct Provider {
    peer: PeerId,
    expires: Option<Instant>,
}

struct ProviderPeer {
    addresses: Vec<Multiaddr>,
    keys: usize,
}

impl DhtStore {
    pub(crate) fn new(local: PeerId, scope: Scope, records: Records) -> Self {
        Self {
            local,
            scope,
            records,
            provided: HashSet::new(),
            values: HashMap::new(),
            by_distance: BTreeMap::new(),
            providers: HashMap::new(),
            peers: HashMap::new(),
            provider_count: 0,
        }
    }

    /// Keeps a validated value for others. When full, the one farthest from us gives way to a nearer
    /// one, as Kademlia would place them: names are cheap to make, positions near us are not.
    pub(crate) fn put_foreign(&mut self, record: Record) -> Result<()> {
        if record.value.len() > MAX_RECORD || record.key.as_ref().len() > MAX_KEY {
            return Err(Error::ValueTooLarge);
        }
        if self.values.contains_key(&record.key) {
            self.values.insert(record.key.clone(), record);
            return Ok(());
        }
        let distance = self.distance(&record.key);
        if self.values.len() >= MAX_VALUES {
            let farthest = self
                .by_distance
                .last_entry()
                .filter(|last| distance < *last.key());
            let evicted = farthest.ok_or(Error::MaxRecords)?.remove();
            self.values.remove(&evicted);
        }
        self.by_distance.insert(distance, record.key.clone());
        self.values.insert(record.key.clone(), record);
        Ok(())
    }

    /// Keeps the announcement of a stranger. Its addresses are cut to those of this network.
    pub(crate) fn add_foreign_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.key.as_ref().len() > MAX_KEY {
            return Err(Error::ValueTooLarge);
        }
        let addresses = self.usable(record.addresses);
        let known = self.providers.entry(record.key.clone()).or_default();
        if let Some(old) = known.iter_mut().find(|old| old.peer == record.provider) {
            old.expires = record.expires;
            self.refresh_addresses(&record.provider, addresses);
            return Ok(());
        }
        let of_peer = self.peers.get(&record.provider).map_or(0, |peer| peer.keys);
        let full = self.provider_count >= MAX_PROVIDERS || of_peer >= MAX_PROVIDERS_OF_PEER;
        // A full key ignores newcomers: so a flood of invented peers cannot push real ones out.
        if full || known.len() >= K_VALUE.get() {
            if known.is_empty() {
                self.providers.remove(&record.key);
            }
            return if full { Err(Error::MaxProvidedKeys) } else { Ok(()) };
        }
        known.push(Provider {
            peer: record.provider,
            expires: record.expires,
        });
        self.provider_count += 1;
        self.peers
            .entry(record.provider)
            .or_insert_with(|| ProviderPeer {
                addresses: Vec::new(),
                keys: 0,
            })
            .keys += 1;
        self.refresh_addresses(&record.provider, addresses);
        Ok(())
    }

    /// Drops what has expired. Called now and then; expired records are never handed out anyway.
    pub(crate) fn purge(&mut self, now: Instant) {
        let expired: Vec<_> = self
            .values
            .values()
            .filter(|value| value.is_expired(now))
            .map(|value| value.key.clone())
            .collect();
        for key in expired {
            self.remove(&key);
        }
        let old: Vec<_> = self
            .providers
            .iter()
            .flat_map(|(key, list)| list.iter().map(move |provider| (key, provider)))
            .filter(|(_, provider)| provider.expires.is_some_and(|at| at <= now))
            .map(|(key, provider)| (key.clone(), provider.peer))
            .collect();
        for (key, peer) in old {
            self.remove_foreign_provider(&key, &peer);
        }
    }

    fn usable(&self, mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        addresses.retain(|address| self.scope.admits(address));
        addresses.truncate(MAX_ADDRESSES);
        addresses
    }

    fn refresh_addresses(&mut self, peer: &PeerId, addresses: Vec<Multiaddr>) {
        if let Some(peer) = self.peers.get_mut(peer).filter(|_| !addresses.is_empty()) {
            peer.addresses = addresses;
        }
    }

    fn remove_foreign_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        let Some(list) = self.providers.get_mut(key) else {
            return;
        };
        let before = list.len();
        list.retain(|provider| provider.peer != *peer);
        let removed = before - list.len();
        if list.is_empty() {
            self.providers.remove(key);
        }
        self.provider_count -= removed;
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.keys -= removed.min(entry.keys);
            if entry.keys == 0 {
                self.peers.remove(peer);
            }
        }
    }

    fn distance(&self, key: &RecordKey) -> KBucketDistance {
        KBucketKey::from(self.local).distance(&KBucketKey::new(key.clone()))
    }
}

/// Both have been validated when they came in.
fn is_better(one: &[u8], other: &[u8]) -> bool {
    let parsed = |bytes| pacstore_names::Record::from_bytes(bytes).ok();
    parsed(one)
        .zip(parsed(other))
        .is_some_and(|(one, other)| pacstore_names::better(&one, &other).is_gt())
}

impl RecordStore for DhtStore {
    type RecordsIter<'a> = std::vec::IntoIter<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    /// What we vouch for, unless others stored a better record (also of our own name: the key may
    /// live on two machines).
    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let foreign = self.values.get(key);
        let Some(own) = self.records.get(key.as_ref(), Audience::Everyone) else {
            return foreign.map(Cow::Borrowed);
        };
        match foreign {
            Some(foreign) if is_better(&foreign.value, &own) => Some(Cow::Borrowed(foreign)),
            _ => Some(Cow::Owned(Record::new(key.clone(), own.to_vec()))),
        }
    }

    /// Only libp2p's own `put_record` comes here (inbound values go through [`Self::put_foreign`]):
    /// such a record stands in the table of our records already.
    fn put(&mut self, record: Record) -> Result<()> {
        if record.publisher == Some(self.local) {
            Ok(())
        } else {
            self.put_foreign(record)
        }
    }

    fn remove(&mut self, key: &RecordKey) {
        if self.values.remove(key).is_some() {
            let distance = self.distance(key);
            self.by_distance.remove(&distance);
        }
    }

    /// Empty: re-publication is our own clockwork (`crate::announce`), not libp2p's.
    fn records(&self) -> Self::RecordsIter<'_> {
        Vec::new().into_iter()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider != self.local {
            return self.add_foreign_provider(record);
        }
        if self.provided.len() >= MAX_PROVIDED && !self.provided.contains(&record.key) {
            return Err(Error::MaxProvidedKeys);
        }
        self.provided.insert(record.key);
        Ok(())
    }

    /// Ourselves first, without addresses: libp2p fills in the external ones of the moment.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let own = self
            .provided
            .contains(key)
            .then(|| ProviderRecord::new(key.clone(), self.local, Vec::new()));
        let foreign = self
            .providers
            .get(key)
            .into_iter()
            .flatten()
            .map(|provider| ProviderRecord {
                key: key.clone(),
                provider: provider.peer,
                expires: provider.expires,
                addresses: self
                    .peers
                    .get(&provider.peer)
                    .map_or_else(Vec::new, |peer| peer.addresses.clone()),
            });
        own.into_iter().chain(foreign).collect()
    }

    /// Empty, as [`Self::records`].
    fn provided(&self) -> Self::ProvidedIter<'_> {
        Vec::new().into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.provided.remove(key);
        } else {
            self.remove_foreign_provider(key, provider);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pacstore_runtime::Clock;
    use std::time::Duration;

    fn store() -> (DhtStore, PeerId) {
        let local = PeerId::random();
        (
            DhtStore::new(local, Scope::Lan, Records::new(Clock::system())),
            local,
        )
    }

    fn key(number: usize) -> RecordKey {
        RecordKey::new(&number.to_be_bytes())
    }

    fn announcement(number: usize, peer: PeerId) -> ProviderRecord {
        ProviderRecord::new(key(number), peer, vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()])
    }

    #[test]
    fn a_flood_of_foreign_providers_leaves_our_own_room_alone() {
        let (mut store, local) = store();
        let mut refused = 0;
        for peer in 0..8 {
            let peer_id = PeerId::random();
            for number in 0..MAX_PROVIDERS_OF_PEER + 10 {
                refused += usize::from(
                    store
                        .add_provider(announcement(peer * 100_000 + number, peer_id))
                        .is_err(),
                );
            }
        }
        assert!(refused > 0);
        assert_eq!(store.provider_count, MAX_PROVIDERS);
        for number in 0..MAX_PROVIDED {
            store
                .add_provider(ProviderRecord::new(key(number), local, Vec::new()))
                .unwrap();
        }
        assert_eq!(store.providers(&key(7))[0].provider, local);
        assert!(
            store
                .add_provider(ProviderRecord::new(key(MAX_PROVIDED + 1), local, Vec::new()))
                .is_err()
        );
    }

    #[test]
    fn one_peer_cannot_take_the_room_of_all() {
        let (mut store, _) = store();
        let greedy = PeerId::random();
        for number in 0..MAX_PROVIDERS_OF_PEER {
            store.add_provider(announcement(number, greedy)).unwrap();
        }
        assert!(store.add_provider(announcement(usize::MAX, greedy)).is_err());
        assert!(
            store
                .add_provider(announcement(usize::MAX, PeerId::random()))
                .is_ok()
        );
        assert!(
            store.add_provider(announcement(3, greedy)).is_ok(),
            "a refresh is no new record"
        );
    }

    #[test]
    fn addresses_of_the_other_network_are_not_kept() {
        let (mut store, _) = store();
        let peer = PeerId::random();
        let mut record = announcement(1, peer);
        record.addresses.push("/ip4/8.8.8.8/tcp/1".parse().unwrap());
        store.add_provider(record).unwrap();
        let found = store.providers(&key(1));
        assert_eq!(
            found[0].addresses,
            ["/ip4/10.0.0.1/tcp/1".parse::<Multiaddr>().unwrap()]
        );
    }

    #[test]
    fn values_are_bounded_and_the_farthest_gives_way() {
        let (mut store, _) = store();
        for number in 0..MAX_VALUES * 2 {
            drop(store.put_foreign(Record::new(key(number), vec![1])));
        }
        assert_eq!(store.values.len(), MAX_VALUES);
        assert_eq!(store.by_distance.len(), MAX_VALUES);
        let farthest = *store.by_distance.last_key_value().unwrap().0;
        let kept = (0..MAX_VALUES * 2).filter(|number| store.values.contains_key(&key(*number)));
        assert!(
            kept.map(|number| store.distance(&key(number)))
                .all(|distance| distance <= farthest)
        );
        assert!(
            store
                .put_foreign(Record::new(key(0), vec![0; MAX_RECORD + 1]))
                .is_err()
        );
    }

    #[test]
    fn what_has_expired_frees_its_room() {
        let (mut store, _) = store();
        let now = Instant::now();
        let mut provider = announcement(1, PeerId::random());
        provider.expires = Some(now);
        store.add_provider(provider).unwrap();
        let mut value = Record::new(key(2), vec![1]);
        value.expires = Some(now);
        store.put_foreign(value).unwrap();
        store.purge(now + Duration::from_secs(1));
        assert!(store.providers(&key(1)).is_empty() && store.peers.is_empty());
        assert_eq!(
            (store.provider_count, store.values.len(), store.by_distance.len()),
            (0, 0, 0)
        );
    }
}
