//! Which message a channel is tried with next, where it fails.
//!
//! - Invariant: a message that a channel refuses keeps no other from being delivered by it: what was refused least often goes
//!   first, and what was not tried yet waits for no pause. Messages of one key stay in their order.
//! - Invariant: a channel that fails is tried with one message a look.
//! - Not here: what waits (`super::board`), how it travels (`super::send`).

use std::collections::HashMap;
use std::time::Duration;

use pacstore_runtime::Backoff;
use tokio::time::Instant;

use super::Alert;

/// The pause after a first failure, and the longest.
const PAUSE: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_mins(30);

/// The channels that failed last.
#[derive(Debug, Default)]
pub(super) struct Channels(HashMap<String, Failing>);

#[derive(Debug)]
struct Failing {
    backoff: Backoff,
    /// When what was refused is tried again.
    next: Instant,
    /// How often messages of a key were, since the channel last took one.
    refused: HashMap<String, u32>,
}

impl Channels {
    /// Of the messages that wait, each with its channel, those to be tried at `now`, in this order.
    pub(super) fn due(&mut self, mut waiting: Vec<(Alert, String)>, now: Instant) -> Vec<(Alert, String)> {
        for (channel, failing) in &mut self.0 {
            let waits = |key: &str| waiting.iter().any(|(one, of)| of == channel && one.key == key);
            failing.refused.retain(|key, _| waits(key));
        }
        let refused = |(alert, channel): &(Alert, String)| {
            let failing = self.0.get(channel)?;
            Some((*failing.refused.get(&alert.key)?, failing.next))
        };
        waiting.retain(|one| refused(one).is_none_or(|(_, next)| next <= now));
        waiting.sort_by_key(|one| refused(one).map_or(0, |(times, _)| times));
        waiting
    }

    pub(super) fn took(&mut self, channel: &str) {
        self.0.remove(channel);
    }

    pub(super) fn refused(&mut self, channel: String, key: String, now: Instant) {
        let failing = self.0.entry(channel).or_insert_with(|| Failing {
            backoff: Backoff::new(PAUSE, MAX_PAUSE),
            next: now,
            refused: HashMap::new(),
        });
        *failing.refused.entry(key).or_default() += 1;
        failing.next = now + failing.backoff.next();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn waiting(keys: &[&str]) -> Vec<(Alert, String)> {
        let alert = |(n, key): (usize, &&str)| Alert {
            kind: Kind::Error,
            key: (*key).to_owned(),
            mirror: None,
            text: n.to_string(),
            hint: None,
            since: String::new(),
            at: String::new(),
            node: None,
        };
        let alerts = keys.iter().enumerate().map(alert);
        alerts.map(|alert| (alert, "webhook".to_owned())).collect()
    }

    /// Tries what waits once a look, as long as the channel refuses only `bad`; gives what arrived, in order.
    fn carry(keys: &[&str], looks: u64, bad: impl Fn(&str, u64) -> bool) -> Vec<String> {
        let (mut channels, mut waiting) = (Channels::default(), waiting(keys));
        let (start, mut arrived) = (Instant::now(), Vec::new());
        for look in 0..looks {
            let now = start + Duration::from_secs(5) * u32::try_from(look).expect("few");
            for (alert, channel) in channels.due(waiting.clone(), now) {
                if bad(&alert.key, look) {
                    channels.refused(channel, alert.key, now);
                    break;
                }
                channels.took(&channel);
                waiting.retain(|(one, _)| *one != alert);
                arrived.push(format!("{}{}", alert.key, alert.text));
            }
        }
        arrived
    }

    #[test]
    fn a_message_that_is_refused_holds_up_no_other() {
        let got = carry(&["bad", "a", "b", "bad", "a"], 3, |key, _| key == "bad");
        assert_eq!(got, ["a1", "b2", "a4"]);
        let got = carry(&["bad", "worse", "a"], 3, |key, _| key != "a");
        assert_eq!(got, ["a2"]);
    }

    #[test]
    fn after_an_outage_all_arrive_and_those_of_one_key_in_their_order() {
        let mut got = carry(&["a", "b", "a"], 5000, |_, look| look < 2000);
        let of_a: Vec<String> = got.iter().filter(|one| one.starts_with('a')).cloned().collect();
        assert_eq!(of_a, ["a0", "a2"]);
        got.sort();
        assert_eq!(got, ["a0", "a2", "b1"]);
    }

    #[test]
    fn a_channel_that_is_away_is_tried_ever_more_rarely() {
        let tries = std::cell::Cell::new(0);
        carry(&["a", "b"], 17_280, |_, _| {
            tries.set(tries.get() + 1);
            true
        });
        assert!((40..120).contains(&tries.get()), "{} in a day", tries.get());
    }
}
