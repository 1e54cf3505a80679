//! Room for connections: when there is none, whoever asks for nothing makes way.
//!
//! A client may hold a connection open for its next request, and a hostile one may open thousands and
//! never ask. Up to a bound both cost little; above it, a connection without a request under way is
//! closed for each new one: first those that never asked, the oldest first.
//!
//! - Invariant: at most as many connections as there is room for; one with a request under way is
//!   never closed for another.
//! - Not here: how long one request may take (`crate::server`).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How soon a connection without a request makes way: `false` before `true` (has it been of use?),
/// then in the order in which they fell idle.
type Rank = (bool, u64);

struct Entry {
    close: CancellationToken,
    /// `None` while a request is under way, and once it was told to close.
    idle: Option<Rank>,
    closing: bool,
    address: IpAddr,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u64, Entry>,
    idle: BTreeMap<Rank, u64>,
    by_address: HashMap<IpAddr, usize>,
    /// Told to close, but still here.
    closing: usize,
    next: u64,
}

impl Table {
    /// Tells the first in rank to close.
    fn close_one(&mut self) {
        let Some((_, number)) = self.idle.pop_first() else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.idle = None;
            entry.closing = true;
            entry.close.cancel();
            self.closing += 1;
        }
    }
}

/// All connections of a gateway. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Slots {
    table: Arc<Mutex<Table>>,
    freed: Arc<Notify>,
    room: usize,
    /// Connections of one address that is not this machine's.
    each: usize,
}

/// One connection's room, until it is dropped.
pub(crate) struct Slot {
    slots: Slots,
    number: u64,
    close: CancellationToken,
}

/// A request is under way, until it is dropped.
pub(crate) struct Busy {
    slots: Slots,
    number: u64,
}

impl Slots {
    pub(crate) fn new(room: usize, each: usize) -> Self {
        Self {
            table: Arc::default(),
            freed: Arc::default(),
            room,
            each,
        }
    }

    /// Waits until there is room for one more connection. Where all have a request under way, that
    /// is until one of them ends.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            {
                let mut table = self.lock();
                if table.entries.len() < self.room {
                    return;
                }
                if table.closing == 0 {
                    table.close_one();
                }
            }
            freed.await;
        }
    }

    /// Closes a connection that has no request under way, if there is one: something else is short.
    pub(crate) fn make_way(&self) {
        let mut table = self.lock();
        if table.closing == 0 {
            table.close_one();
        }
    }

    /// Takes the room of a connection; `None` if its address has too many already.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Slot> {
        let address = address.to_canonical();
        let mut table = self.lock();
        let mine = table.by_address.entry(address).or_default();
        if *mine >= self.each && !address.is_loopback() {
            return None;
        }
        *mine += 1;
        let number = table.next;
        table.next += 1;
        let close = CancellationToken::new();
        let rank = (false, number);
        table.idle.insert(rank, number);
        table.entries.insert(
            number,
            Entry {
                close: close.clone(),
                idle: Some(rank),
                closing: false,
                address,
            },
        );
        Some(Slot {
            slots: self.clone(),
            number,
            close,
        })
    }

    fn leave(&self, number: u64) {
        let mut table = self.lock();
        let Some(entry) = table.entries.remove(&number) else {
            return;
        };
        if let Some(rank) = entry.idle {
            table.idle.remove(&rank);
        }
        table.closing -= usize::from(entry.closing);
        if let Some(mine) = table.by_address.get_mut(&entry.address) {
            *mine -= 1;
            if *mine == 0 {
                table.by_address.remove(&entry.address);
            }
        }
        drop(table);
        self.freed.notify_one();
    }

    fn set_busy(&self, number: u64) {
        let mut table = self.lock();
        let rank = table.entries.get_mut(&number).and_then(|entry| entry.idle.take());
        if let Some(rank) = rank {
            table.idle.remove(&rank);
        }
    }

    fn set_idle(&self, number: u64) {
        let mut table = self.lock();
        let rank = (true, table.next);
        table.next += 1;
        let Some(entry) = table.entries.get_mut(&number).filter(|entry| !entry.closing) else {
            return;
        };
        entry.idle = Some(rank);
        table.idle.insert(rank, number);
        drop(table);
        // Somebody may wait for one that can be closed.
        self.freed.notify_one();
    }

    /// Never held across an await.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The connection's number; none is used twice.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Fires when the connection must make way.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.close.clone()
    }

    /// A request begins.
    pub(crate) fn busy(&self) -> Busy {
        self.slots.set_busy(self.number);
        Busy {
            slots: self.slots.clone(),
            number: self.number,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.leave(self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.slots.set_idle(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn local() -> IpAddr {
        [127, 0, 0, 1].into()
    }

    #[tokio::test]
    async fn who_never_asked_makes_way_first_and_who_is_served_never_does() {
        let slots = Slots::new(3, 3);
        let served = slots.enter(local()).unwrap();
        let busy = served.busy();
        let useful = slots.enter(local()).unwrap();
        drop(useful.busy());
        let silent = slots.enter(local()).unwrap();
        assert!(
            slots.room().now_or_never().is_none(),
            "it is full until one has gone"
        );
        assert!(silent.closed().is_cancelled());
        assert!(!useful.closed().is_cancelled() && !served.closed().is_cancelled());
        drop(silent);
        slots.room().now_or_never().expect("there is room");
        let later = slots.enter(local()).unwrap();
        drop(later.busy());
        for _ in 0..3 {
            assert!(slots.room().now_or_never().is_none());
        }
        assert!(useful.closed().is_cancelled(), "it fell idle first");
        assert!(!later.closed().is_cancelled(), "one makes way for one");
        drop(useful);
        let _busy = [slots.enter(local()).unwrap().busy(), later.busy()];
        let filler = slots.enter(local()).unwrap();
        let filling = filler.busy();
        assert!(slots.room().now_or_never().is_none());
        assert!(!served.closed().is_cancelled() && !later.closed().is_cancelled());
        drop(busy);
        assert!(slots.room().now_or_never().is_none());
        assert!(served.closed().is_cancelled(), "its request has ended");
        drop(filling);
    }

    #[tokio::test]
    async fn one_stranger_does_not_take_all_room_and_this_machine_may() {
        let slots = Slots::new(10, 2);
        let other: IpAddr = [192, 168, 1, 1].into();
        let kept = [slots.enter(other), slots.enter(other)];
        assert!(kept.iter().all(Option::is_some) && slots.enter(other).is_none());
        let mapped = "::ffff:192.168.1.1".parse().unwrap();
        assert!(slots.enter(mapped).is_none(), "it is the same machine");
        let more: Vec<_> = (0..5).map(|_| slots.enter(local())).collect();
        assert!(more.iter().all(Option::is_some));
        drop(kept);
        assert!(slots.enter(other).is_some());
    }
}
