//! How long a neighbour's answer is waited for, and which neighbours are left alone.
//!
//! An honest neighbour answers within a millisecond; but a machine that updates may be busy, and whoever is not waited
//! for brings everything twice. One that is silent costs its wait at each question. So the wait follows what was
//! measured: the round trip, and how long this neighbour's answers took lately, those that came too late as well.
//!
//! - Invariant: no answer is waited for longer than [`ANSWER`].
//! - Not here: what is asked (`crate::neighbours`), measuring (`pacstore-net`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pacstore_net::{PeerId, PeerInfo};
use tokio::time::Instant;

/// The longest wait.
const ANSWER: Duration = Duration::from_secs(1);

/// The shortest wait for one that owes nothing, or has answered before; the longest for others.
const SHORT_ANSWER: Duration = Duration::from_millis(250);

/// The shortest wait for others: those that owe an answer and never gave one.
const SHORTEST: Duration = Duration::from_millis(100);

/// Round trips that are waited for an answer ...
const ROUND_TRIPS: u32 = 8;

/// ... or as many times what its answers took lately.
const ANSWERS: u32 = 4;

/// Answers that a neighbour may owe in a row ...
const MISSES: u32 = 3;

/// ... before it is left alone for so long.
const REST: Duration = Duration::from_mins(1);

/// The same where pacman was held for it in vain.
const LONG_REST: Duration = Duration::from_mins(10);

/// How a neighbour behaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It gave what it said.
    Gives,
    /// It did not answer in time.
    Owes,
    /// It did not give what it said it has.
    Lies,
    /// It was waited for long, because it said again and again that it comes.
    LetsDown,
}

/// What a neighbour owes lately.
#[derive(Clone, Copy, Debug)]
struct Owed {
    misses: u32,
    until: Instant,
}

/// What all neighbours owe.
#[derive(Debug, Default)]
pub(crate) struct Manners(Mutex<HashMap<PeerId, Owed>>);

impl Manners {
    /// How long an answer of this neighbour is waited for; `info` is what is known of it.
    pub(crate) fn patience(&self, peer: &PeerId, info: Option<&PeerInfo>) -> Duration {
        let within = info.and_then(|info| info.answers_within);
        let (least, most) = if within.is_some() || self.misses(peer) == 0 {
            (SHORT_ANSWER, ANSWER)
        } else {
            (SHORTEST, SHORT_ANSWER)
        };
        let Some(round_trip) = info.and_then(|info| info.round_trip) else {
            return most;
        };
        let own = (round_trip * ROUND_TRIPS).max(within.unwrap_or_default() * ANSWERS);
        own.clamp(least, most)
    }

    /// It is not asked now.
    pub(crate) fn rests(&self, peer: &PeerId) -> bool {
        self.misses(peer) >= MISSES
    }

    /// Notes how it behaved.
    pub(crate) fn note(&self, peer: PeerId, manner: Manner) {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (more, rest) = match manner {
            Manner::Gives => {
                owed.remove(&peer);
                return;
            }
            Manner::Owes => (1, REST),
            Manner::Lies => (2, REST),
            Manner::LetsDown => (MISSES, LONG_REST),
        };
        let now = Instant::now();
        owed.retain(|_, known| now < known.until);
        let until = now + rest;
        let known = owed.entry(peer).or_insert(Owed { misses: 0, until });
        known.misses = known.misses.saturating_add(more);
        known.until = known.until.max(until);
    }

    fn misses(&self, peer: &PeerId) -> u32 {
        let owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = owed.get(peer).filter(|known| Instant::now() < known.until);
        known.map_or(0, |known| known.misses)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::time::advance;

    use super::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn info(id: PeerId, round_trip: Option<u64>, answers: Option<u64>) -> PeerInfo {
        PeerInfo {
            id,
            address: "/ip4/127.0.0.1/tcp/4001".parse().expect("an address"),
            lan: true,
            agent: String::new(),
            since: SystemTime::UNIX_EPOCH,
            configured: false,
            bitswap: Some(true),
            fetch: None,
            lookup: None,
            share: Some(true),
            round_trip: round_trip.map(millis),
            answers_within: answers.map(millis),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_as_long_as_was_measured() {
        let (manners, id) = (Manners::default(), PeerId::random());
        let patience = |round_trip, answers| manners.patience(&id, Some(&info(id, round_trip, answers)));
        assert_eq!(manners.patience(&id, None), ANSWER);
        assert_eq!(patience(None, None), ANSWER, "nothing is known of it");
        assert_eq!(patience(Some(1), None), SHORT_ANSWER);
        assert_eq!(patience(Some(60), None), millis(480), "a busy radio");
        assert_eq!(patience(Some(1), Some(2)), SHORT_ANSWER);
        assert_eq!(patience(Some(1), Some(150)), millis(600), "a busy machine");
        assert_eq!(patience(Some(300), Some(800)), ANSWER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_neighbour_costs_less_than_half_a_second_and_then_has_its_rest() {
        let (manners, id) = (Manners::default(), PeerId::random());
        let mut cost = Duration::ZERO;
        while !manners.rests(&id) {
            cost += manners.patience(&id, Some(&info(id, Some(1), None)));
            manners.note(id, Manner::Owes);
        }
        assert_eq!(cost, millis(450));
        advance(REST).await;
        assert!(!manners.rests(&id), "it is asked again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_waited_for_long_in_vain_has_a_long_rest() {
        let (manners, id) = (Manners::default(), PeerId::random());
        manners.note(id, Manner::LetsDown);
        manners.note(id, Manner::Owes);
        advance(LONG_REST.saturating_sub(millis(1))).await;
        assert!(manners.rests(&id));
        advance(millis(1)).await;
        assert!(!manners.rests(&id));
    }

    /// The first answer came after the wait was over: it was measured, and the next one is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_slow_honest_neighbour_is_waited_for_after_its_first_late_answer() {
        let (manners, id) = (Manners::default(), PeerId::random());
        let took = 300;
        assert!(manners.patience(&id, Some(&info(id, Some(3), None))) < millis(took));
        manners.note(id, Manner::Owes);
        assert!(!manners.rests(&id));
        assert!(millis(took) < manners.patience(&id, Some(&info(id, Some(3), Some(took)))));
        manners.note(id, Manner::Gives);
        assert_eq!(manners.patience(&id, None), ANSWER, "nothing is owed");
    }
}
