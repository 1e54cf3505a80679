//! Leaves that just came in, kept in memory for the reader that comes to them next.
//!
//! Without them each byte would be copied once more, from the page cache.
//!
//! - Invariant: all jobs' leaves here, with what of them is still on its way to a client, hold at most
//!   [`ROOM`] bytes.
//! - Invariant: a leaf is here only once it is in the file too: losing it costs a read, nothing else.
//! - Not here: leaves that are asked but have not come (the fetcher's budget).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pacstore_runtime::{ByteBudget, ByteLease};

/// Bytes of leaves of all jobs together: 8 MiB.
pub(crate) const ROOM: u64 = 8 << 20;

/// Leaves of one job.
const MOST: usize = 6;

/// The leaves of one job, those that are needed first.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Mutex<BTreeMap<usize, Bytes>>);

/// A leaf's bytes and the room that they take, until the last slice of them is gone.
struct Held {
    data: Bytes,
    _room: ByteLease,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Fresh {
    /// Keeps `data` of `leaf` if there is room, or if it is needed before another one that is kept.
    pub(crate) fn put(&self, room: &ByteBudget, leaf: usize, data: &Bytes) {
        let mut leaves = self.leaves();
        let few = leaves.len() < MOST;
        let mut lease = few.then(|| room.try_acquire(data.len() as u64)).flatten();
        if lease.is_none() && leaves.last_key_value().is_some_and(|(last, _)| leaf < *last) {
            drop(leaves.pop_last());
            lease = room.try_acquire(data.len() as u64);
        }
        if let Some(room) = lease {
            let data = data.clone();
            leaves.insert(leaf, Bytes::from_owner(Held { data, _room: room }));
        }
    }

    /// The bytes of `leaf`, if they are here.
    pub(crate) fn get(&self, leaf: usize) -> Option<Bytes> {
        self.leaves().get(&leaf).cloned()
    }

    /// The reader is at `leaf`: what lies before it is dropped.
    pub(crate) fn passed(&self, leaf: usize) {
        let mut leaves = self.leaves();
        let behind = {
            let ahead = leaves.split_off(&leaf);
            std::mem::replace(&mut *leaves, ahead)
        };
        drop(leaves);
        drop(behind);
    }

    fn leaves(&self) -> MutexGuard<'_, BTreeMap<usize, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_stay_within_their_room_until_the_last_slice_is_sent() {
        let room = ByteBudget::new(300);
        let fresh = Fresh::default();
        for leaf in [2, 5, 9] {
            fresh.put(&room, leaf, &Bytes::from(vec![leaf as u8; 100]));
        }
        fresh.put(&room, 12, &Bytes::from(vec![12; 100]));
        assert_eq!(
            fresh.get(12),
            None,
            "no room, and the others are needed before it"
        );
        fresh.put(&room, 3, &Bytes::from(vec![3; 100]));
        assert_eq!(
            fresh.get(9),
            None,
            "it made room for one that is needed before it"
        );
        let sent = fresh.get(2).unwrap().slice(50..60);
        assert_eq!(&sent[..], [2; 10]);
        fresh.passed(3);
        assert_eq!((fresh.get(2), room.in_use()), (None, 300), "still on its way");
        drop(sent);
        assert_eq!(room.in_use(), 200);
        assert!(fresh.get(3).is_some() && fresh.get(5).is_some());
        drop(fresh);
        assert_eq!(room.in_use(), 0);
    }
}
