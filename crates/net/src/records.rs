//! The IPNS records that this node answers with: its own, and the best known of names it follows.
//!
//! One table, read by the fetch server and by both DHTs, written by the handle. It is what makes
//! trap 7 and trap 11 harmless: what we vouch for never shares its room with what strangers store.
//!
//! - Invariant: every record here verified for its name when it came in, and is never replaced by a
//!   worse one (IPNS Select). At most `MAX_NAMES` names.
//! - Not here: records that the DHT made us keep for others (`crate::dht_store`).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use pacstore_names::{IpnsName, Record, better};
use pacstore_runtime::Clock;

use crate::config::MAX_NAMES;
use crate::error::RecordRefused;

/// Who may have a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Anybody who asks.
    Everyone,
    /// Only peers of `[swarm] peers`, and never a DHT.
    Configured,
}

/// Whether the record was made here or only kept for a name that we follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Answer,
    Publish,
}

struct Entry {
    record: Record,
    bytes: Bytes,
    audience: Audience,
    /// Put into the DHTs again and again.
    published: bool,
}

/// The shared table. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Records {
    table: Arc<Mutex<HashMap<Vec<u8>, Entry>>>,
    clock: Clock,
}

impl Records {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            table: Arc::default(),
            clock,
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Takes `bytes` as the record of `name` if they verify and nothing better is here.
    pub(crate) fn set(
        &self,
        name: &IpnsName,
        bytes: &[u8],
        audience: Audience,
        keep: Keep,
    ) -> Result<(), RecordRefused> {
        let invalid = |error| RecordRefused::Invalid { name: *name, error };
        let record = Record::from_bytes(bytes).map_err(invalid)?;
        record.verify(name, self.now()).map_err(invalid)?;
        let mut table = self.lock();
        let names = table.len();
        let published = match table.get(&name.routing_key()) {
            Some(old) if better(&record, &old.record) == Ordering::Less => {
                return Err(RecordRefused::Older(*name));
            }
            Some(old) => old.published,
            None if names >= MAX_NAMES => return Err(RecordRefused::Full(MAX_NAMES)),
            None => false,
        };
        let published = audience == Audience::Everyone && (published || keep == Keep::Publish);
        let bytes = Bytes::copy_from_slice(bytes);
        table.insert(
            name.routing_key(),
            Entry {
                record,
                bytes,
                audience,
                published,
            },
        );
        Ok(())
    }

    /// Forgets the record of `name`; `false` if there was none.
    pub(crate) fn remove(&self, name: &IpnsName) -> bool {
        self.lock().remove(&name.routing_key()).is_some()
    }

    /// The record of a routing key, for whoever stands in `audience`, if it is still in force.
    pub(crate) fn get(&self, key: &[u8], audience: Audience) -> Option<Bytes> {
        let now = self.now();
        let table = self.lock();
        let entry = table.get(key)?;
        let allowed = entry.audience == Audience::Everyone || audience == Audience::Configured;
        (allowed && now <= entry.record.validity()).then(|| entry.bytes.clone())
    }

    /// The record that is to be put into the DHTs under a routing key, if any.
    pub(crate) fn to_publish(&self, key: &[u8]) -> Option<Bytes> {
        let publish = self.lock().get(key).is_some_and(|entry| entry.published);
        publish.then(|| self.get(key, Audience::Everyone)).flatten()
    }

    /// Never held across an await: all methods are plain functions.
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
