//! When to tell the DHTs again what we have: records every 4 h, provider records every 22 h.
//!
//! libp2p would do this blindly; it counts an announcement as done that reached nobody. Here each
//! item has a due time in each DHT, retries with growing pauses, and is told again to a small DHT
//! when a new peer enters it: on a LAN that is how the second node learns of the first.
//!
//! - Invariant: pure bookkeeping over given instants; at most `MAX_PROVIDED + MAX_NAMES` items.
//! - Not here: sending (`crate::dht`). A sweeping provider for file roots will be another clockwork.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::address::Scope;
use crate::config::{ANNOUNCE_RETRY, ANNOUNCE_TO_NEW, MAX_PROVIDED, PROVIDE_EVERY, RECORD_EVERY};

/// What kind of thing a DHT key announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Provider,
    Record,
}

impl What {
    fn every(self) -> Duration {
        match self {
            Self::Provider => PROVIDE_EVERY,
            Self::Record => RECORD_EVERY,
        }
    }
}

/// One announcement in one DHT.
#[derive(Clone, Copy)]
struct Turn {
    due: Instant,
    /// When it last reached somebody.
    reached: Option<Instant>,
    running: bool,
    failures: u32,
}

struct Item {
    what: What,
    turns: [Turn; 2],
}

/// All that is announced.
#[derive(Default)]
pub(crate) struct Announcer {
    items: HashMap<Vec<u8>, Item>,
}

impl Announcer {
    /// Announces `key` from now on, at once in both DHTs. `false` if there is no room for more.
    pub(crate) fn add(&mut self, key: Vec<u8>, what: What, now: Instant) -> bool {
        let providers = self.items.values().filter(|item| item.what == What::Provider);
        if what == What::Provider && !self.items.contains_key(&key) && providers.count() >= MAX_PROVIDED {
            return false;
        }
        let turn = Turn {
            due: now,
            reached: None,
            running: false,
            failures: 0,
        };
        self.items.insert(
            key,
            Item {
                what,
                turns: [turn; 2],
            },
        );
        true
    }

    /// Announces `key` no more.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.items.remove(key);
    }

    /// What may be sent now in one DHT, at most `room` items. They count as running from here on.
    pub(crate) fn take_due(
        &mut self,
        scope: Scope,
        now: Instant,
        room: usize,
        wanted: impl Fn(What) -> bool,
    ) -> Vec<(Vec<u8>, What)> {
        let mut due = Vec::new();
        for (key, item) in &mut self.items {
            if due.len() >= room {
                break;
            }
            let turn = &mut item.turns[scope as usize];
            if turn.due <= now && !turn.running && wanted(item.what) {
                turn.running = true;
                due.push((key.clone(), item.what));
            }
        }
        due
    }

    /// Marks one item as running in one DHT: it is being sent out of turn.
    pub(crate) fn take_key(&mut self, key: &[u8], scope: Scope) {
        if let Some(item) = self.items.get_mut(key) {
            item.turns[scope as usize].running = true;
        }
    }

    /// How many are running in one DHT.
    pub(crate) fn running(&self, scope: Scope) -> usize {
        self.items
            .values()
            .filter(|item| item.turns[scope as usize].running)
            .count()
    }

    /// Ends a run: `reached` says whether at least one peer has it now.
    pub(crate) fn done(&mut self, key: &[u8], scope: Scope, reached: bool, now: Instant) {
        let Some(item) = self.items.get_mut(key) else {
            return;
        };
        let every = item.what.every();
        let turn = &mut item.turns[scope as usize];
        turn.running = false;
        if reached {
            *turn = Turn {
                due: now + every,
                reached: Some(now),
                running: false,
                failures: 0,
            };
        } else {
            let pause = ANNOUNCE_RETRY.saturating_mul(1 << turn.failures.min(6));
            turn.due = now + pause.min(every);
            turn.failures += 1;
        }
    }

    /// A peer entered a small DHT: what reached nobody yet is due at once, the rest soon.
    pub(crate) fn new_peer(&mut self, scope: Scope, now: Instant) {
        for item in self.items.values_mut() {
            let turn = &mut item.turns[scope as usize];
            let soon = turn.reached.map_or(now, |at| (at + ANNOUNCE_TO_NEW).max(now));
            turn.due = turn.due.min(soon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(announcer: &mut Announcer, now: Instant) -> usize {
        announcer.take_due(Scope::Lan, now, 8, |_| true).len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_is_told_again_after_22_hours_and_a_record_after_4() {
        for (what, hours) in [(What::Provider, 22), (What::Record, 4)] {
            let mut announcer = Announcer::default();
            let start = Instant::now();
            assert!(announcer.add(vec![1], what, start));
            assert_eq!(due(&mut announcer, start), 1);
            assert_eq!(due(&mut announcer, start), 0, "it is under way");
            announcer.done(&[1], Scope::Lan, true, start);
            assert_eq!(
                due(&mut announcer, start + Duration::from_secs(hours * 3600 - 1)),
                0
            );
            assert_eq!(due(&mut announcer, start + Duration::from_secs(hours * 3600)), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_reached_nobody_is_tried_again_and_at_once_when_a_peer_comes() {
        let mut announcer = Announcer::default();
        let start = Instant::now();
        announcer.add(vec![1], What::Provider, start);
        assert_eq!(due(&mut announcer, start), 1);
        announcer.done(&[1], Scope::Lan, false, start);
        assert_eq!(due(&mut announcer, start), 0);
        announcer.new_peer(Scope::Lan, start);
        assert_eq!(due(&mut announcer, start), 1);
        announcer.done(&[1], Scope::Lan, true, start);
        announcer.new_peer(Scope::Lan, start);
        assert_eq!(due(&mut announcer, start), 0, "not for each of many peers");
        assert_eq!(due(&mut announcer, start + ANNOUNCE_TO_NEW), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn room_for_providers_is_bounded() {
        let mut announcer = Announcer::default();
        let now = Instant::now();
        for number in 0..MAX_PROVIDED {
            assert!(announcer.add(number.to_be_bytes().to_vec(), What::Provider, now));
        }
        assert!(!announcer.add(vec![1], What::Provider, now));
        assert!(announcer.add(vec![1], What::Record, now));
        announcer.remove(&7_usize.to_be_bytes());
        assert!(announcer.add(vec![2], What::Provider, now));
    }
}
