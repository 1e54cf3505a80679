//! What is news: a condition that lasts is told once, its end once, and never too much at once.
//!
//! - Invariant: the same conditions at the same times give the same messages; nothing here
//!   waits, sends or reads a clock.
//! - Invariant: a clock that jumps never silences a condition for longer than before: times
//!   that lie in the future count as now.
//! - Not here: what the conditions are (`super::watch`), how messages travel (`super::send`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use pacstore_names::rfc3339;
use serde::{Deserialize, Serialize};

use super::{Alert, Kind, OpenAlert};

/// Messages an hour, at most.
pub(crate) const MAX_PER_HOUR: usize = 12;

/// Of these, how many only errors and their ends may be.
const FOR_ERRORS: usize = 4;

/// Conditions that are known at once; events that are over make way for others.
const MAX_OPEN: usize = 1000;

/// Messages that wait for their delivery.
const MAX_PENDING: usize = 64;

/// What happened once is remembered for so long, in seconds, so that it is not told again.
const REMEMBER: u64 = 7 * 86_400;

/// How exactly it is noted when a condition was last seen, in seconds: each note is a write to the disk.
const SEEN: u64 = 3600;

/// How a condition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lasts {
    /// When it does not hold any more; that is told too.
    Until,
    /// It is an event: told once.
    Once,
}

/// Something that holds now.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) key: String,
    pub(crate) kind: Kind,
    pub(crate) mirror: Option<String>,
    pub(crate) text: String,
    pub(crate) hint: Option<String>,
    /// How long it must have held before it is told.
    pub(crate) after: Duration,
    /// For how long it has held already when it is first seen.
    pub(crate) held: Duration,
    pub(crate) lasts: Lasts,
}

/// A condition as it is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    kind: Kind,
    mirror: Option<String>,
    text: String,
    hint: Option<String>,
    lasts: Lasts,
    /// When it was first and last seen to hold.
    since: u64,
    seen: u64,
    told: Option<u64>,
    /// It does not hold any more, and that is not told yet.
    #[serde(default)]
    over: bool,
}

/// A message and the channels that do not have it yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) alert: Alert,
    pub(crate) channels: BTreeSet<String>,
    /// When it was written, seconds since 1970.
    pub(crate) written: u64,
}

/// All that is remembered. Its JSON is what the store keeps.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Board {
    open: BTreeMap<String, Open>,
    /// When messages were written, within the last hour.
    written: VecDeque<u64>,
    pub(crate) pending: VecDeque<Pending>,
}

/// Who receives messages, and how often what still holds is told again.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) channels: BTreeSet<String>,
    pub(crate) repeat: Option<Duration>,
    pub(crate) node: Option<String>,
}

impl Board {
    /// Takes in what holds at `now` and gives what is news. Those messages also stand in
    /// `pending` for each channel of `rules`.
    pub(crate) fn look(&mut self, now: u64, conditions: Vec<Condition>, rules: &Rules) -> Vec<Alert> {
        self.mend_times(now);
        let mut holds = BTreeMap::new();
        for condition in conditions {
            holds.insert(condition.key.clone(), condition);
        }
        for (key, condition) in &holds {
            self.note(now, key, condition, &holds);
        }
        let mut news = Vec::new();
        let mut keys: Vec<(bool, String)> = self
            .open
            .iter()
            .map(|(key, open)| (open.kind != Kind::Error, key.clone()))
            .collect();
        keys.sort();
        for (_, key) in keys {
            if let Some(alert) = self.decide(now, &key, holds.get(&key), rules) {
                self.written.push_back(now);
                self.enqueue(now, &alert, rules);
                news.push(alert);
            }
        }
        news
    }

    fn note(&mut self, now: u64, key: &str, condition: &Condition, holds: &BTreeMap<String, Condition>) {
        if !self.open.contains_key(key) && self.open.len() >= MAX_OPEN && !self.make_way(holds) {
            return;
        }
        let open = self.open.entry(key.to_owned()).or_insert_with(|| Open {
            kind: condition.kind,
            mirror: condition.mirror.clone(),
            text: String::new(),
            hint: None,
            lasts: condition.lasts,
            since: now.saturating_sub(condition.held.as_secs()),
            seen: now,
            told: None,
            over: false,
        });
        open.kind = condition.kind;
        open.text.clone_from(&condition.text);
        open.hint.clone_from(&condition.hint);
        if open.seen + SEEN <= now {
            open.seen = now;
        }
    }

    /// Forgets the event that was seen longest ago, of those that are over; says whether there was one.
    fn make_way(&mut self, holds: &BTreeMap<String, Condition>) -> bool {
        let over = self
            .open
            .iter()
            .filter(|(key, open)| open.lasts == Lasts::Once && !holds.contains_key(*key));
        let first = over.min_by_key(|(_, open)| open.seen).map(|(key, _)| key.clone());
        first.is_some_and(|key| self.open.remove(&key).is_some())
    }

    /// Whether the condition `key` is news, and its end.
    fn decide(&mut self, now: u64, key: &str, holds: Option<&Condition>, rules: &Rules) -> Option<Alert> {
        let open = self.open.get_mut(key)?;
        open.over = holds.is_none();
        let kept_free = if open.kind == Kind::Error { 0 } else { FOR_ERRORS };
        let room = self.written.len() + kept_free < MAX_PER_HOUR;
        match (holds, open.told, open.lasts) {
            (Some(condition), told, lasts) => {
                let due = match told {
                    None => now - open.since >= condition.after.as_secs(),
                    Some(told) => {
                        lasts == Lasts::Until
                            && rules.repeat.is_some_and(|every| now - told >= every.as_secs())
                    }
                };
                if !due || !room {
                    return None;
                }
                open.told = Some(now);
                Some(alert(now, key, open.kind, open, rules))
            }
            (None, _, Lasts::Once) => {
                if now - open.seen >= REMEMBER {
                    self.open.remove(key);
                }
                None
            }
            (None, None, Lasts::Until) => {
                self.open.remove(key);
                None
            }
            (None, Some(_), Lasts::Until) if room => {
                let open = self.open.remove(key)?;
                Some(alert(now, key, Kind::Recovery, &open, rules))
            }
            // Its end is told when there is room.
            (None, Some(_), Lasts::Until) => None,
        }
    }

    fn enqueue(&mut self, now: u64, alert: &Alert, rules: &Rules) {
        if rules.channels.is_empty() {
            return;
        }
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending {
            alert: alert.clone(),
            channels: rules.channels.clone(),
            written: now,
        });
    }

    /// Lets go of messages that are too old to matter, and gives how many.
    pub(crate) fn expire(&mut self, now: u64, after: Duration) -> usize {
        let before = self.pending.len();
        self.pending
            .retain(|one| now.saturating_sub(one.written) < after.as_secs());
        before - self.pending.len()
    }

    /// Notes that `channel` has the message number `at`, and lets go of it once all have it.
    pub(crate) fn delivered(&mut self, alert: &Alert, channel: &str) {
        for one in self.pending.iter_mut().filter(|one| one.alert == *alert) {
            one.channels.remove(channel);
        }
        self.pending.retain(|one| !one.channels.is_empty());
    }

    /// Channels that are not configured any more need not be waited for.
    pub(crate) fn keep_channels(&mut self, known: &BTreeSet<String>) {
        for one in &mut self.pending {
            one.channels.retain(|channel| known.contains(channel));
        }
        self.pending.retain(|one| !one.channels.is_empty());
    }

    /// When `key` was seen to hold last, to the hour; nothing if it is over.
    pub(super) fn seen(&self, key: &str) -> Option<u64> {
        self.open.get(key).filter(|one| !one.over).map(|one| one.seen)
    }

    /// What lasts now, the oldest first.
    pub(crate) fn open(&self) -> Vec<OpenAlert> {
        let mut open: Vec<(u64, OpenAlert)> = self
            .open
            .iter()
            .filter(|(_, one)| one.lasts == Lasts::Until && !one.over)
            .map(|(key, one)| {
                (
                    one.since,
                    OpenAlert {
                        key: key.clone(),
                        kind: one.kind,
                        text: one.text.clone(),
                        hint: one.hint.clone(),
                        since: rfc3339(one.since),
                        told: one.told.is_some(),
                    },
                )
            })
            .collect();
        open.sort_by_key(|(since, _)| *since);
        open.into_iter().map(|(_, one)| one).collect()
    }

    /// The clock jumped by `by` seconds: nothing became older or younger by that.
    pub(crate) fn shift(&mut self, by: i64) {
        let shift = |time: &mut u64| *time = time.saturating_add_signed(by);
        for one in self.open.values_mut() {
            shift(&mut one.since);
            shift(&mut one.seen);
            one.told.iter_mut().for_each(shift);
        }
        self.written.iter_mut().for_each(shift);
        self.pending
            .iter_mut()
            .map(|one| &mut one.written)
            .for_each(shift);
    }

    fn mend_times(&mut self, now: u64) {
        for one in self.open.values_mut() {
            one.since = one.since.min(now);
            one.seen = one.seen.min(now);
            one.told = one.told.map(|told| told.min(now));
        }
        for written in self
            .written
            .iter_mut()
            .chain(self.pending.iter_mut().map(|one| &mut one.written))
        {
            *written = (*written).min(now);
        }
        self.written.retain(|written| now - *written < 3600);
    }
}

fn alert(now: u64, key: &str, kind: Kind, open: &Open, rules: &Rules) -> Alert {
    let text = match kind {
        Kind::Recovery => format!("over: {}", open.text),
        _ => open.text.clone(),
    };
    Alert {
        kind,
        key: key.to_owned(),
        mirror: open.mirror.clone(),
        text,
        hint: open.hint.clone().filter(|_| kind != Kind::Recovery),
        since: rfc3339(open.since),
        at: rfc3339(now),
        node: rules.node.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(name: &str) -> Condition {
        Condition {
            key: format!("round/{name}"),
            kind: Kind::Error,
            mirror: Some(name.to_owned()),
            text: "the mirror does not answer".to_owned(),
            hint: None,
            after: Duration::from_mins(10),
            held: Duration::ZERO,
            lasts: Lasts::Until,
        }
    }

    fn rules() -> Rules {
        Rules {
            channels: BTreeSet::from(["command".to_owned()]),
            repeat: Some(Duration::from_hours(24)),
            node: None,
        }
    }

    fn kinds(alerts: &[Alert]) -> Vec<Kind> {
        alerts.iter().map(|one| one.kind).collect()
    }

    #[test]
    fn an_error_is_told_once_it_lasts_then_daily_and_its_end_once() {
        let mut board = Board::default();
        let mut told = Vec::new();
        for minute in 0..(26 * 60) {
            for alert in board.look(minute * 60, vec![failing("a")], &rules()) {
                told.push((minute, alert.kind));
            }
        }
        assert_eq!(told, [(10, Kind::Error), (10 + 24 * 60, Kind::Error)]);
        let end = 26 * 3600;
        assert_eq!(kinds(&board.look(end, Vec::new(), &rules())), [Kind::Recovery]);
        assert!(board.look(end + 60, Vec::new(), &rules()).is_empty());
        assert!(board.open().is_empty());
    }

    #[test]
    fn what_ends_before_it_was_told_is_not_told_at_all() {
        let mut board = Board::default();
        assert!(board.look(0, vec![failing("a")], &rules()).is_empty());
        assert!(board.look(540, vec![failing("a")], &rules()).is_empty());
        assert!(board.look(570, Vec::new(), &rules()).is_empty());
        assert!(
            board.look(1000, vec![failing("a")], &rules()).is_empty(),
            "it begins anew"
        );
        assert!(board.pending.is_empty());
    }

    #[test]
    fn an_event_is_told_once_for_a_week_and_has_no_end() {
        let mut board = Board::default();
        let event = Condition {
            lasts: Lasts::Once,
            after: Duration::ZERO,
            kind: Kind::Warning,
            ..failing("a")
        };
        assert_eq!(
            kinds(&board.look(5, vec![event.clone()], &rules())),
            [Kind::Warning]
        );
        assert!(board.look(60, Vec::new(), &rules()).is_empty());
        assert!(board.look(86_400 * 3, vec![event.clone()], &rules()).is_empty());
        assert!(board.look(86_400 * 11, Vec::new(), &rules()).is_empty());
        assert_eq!(
            kinds(&board.look(86_400 * 12, vec![event], &rules())),
            [Kind::Warning]
        );
    }

    #[test]
    fn thousands_of_events_keep_no_error_from_being_told() {
        let mut board = Board::default();
        let event = |n: u64| Condition {
            lasts: Lasts::Once,
            after: Duration::ZERO,
            kind: Kind::Warning,
            ..failing(&format!("a{n:05}"))
        };
        let mut last_told = None;
        for n in 0..1500 {
            if !board.look(n * 300, vec![event(n)], &rules()).is_empty() {
                last_told = Some(event(n));
            }
        }
        let later = 1500 * 300;
        assert!(board.look(later, vec![failing("z")], &rules()).is_empty());
        let news = board.look(later + 600, vec![failing("z")], &rules());
        assert_eq!(kinds(&news), [Kind::Error]);
        assert!(board.open.len() <= MAX_OPEN);
        let again = vec![failing("z"), last_told.expect("some were told")];
        assert!(
            board.look(later + 660, again, &rules()).is_empty(),
            "what was told of late is not told again"
        );
    }

    #[test]
    fn what_is_over_does_not_hold_any_more_though_its_end_waits_to_be_told() {
        let mut board = Board::default();
        let all: Vec<Condition> = (0..MAX_PER_HOUR).map(|n| failing(&n.to_string())).collect();
        board.look(0, all.clone(), &rules());
        assert_eq!(board.look(600, all.clone(), &rules()).len(), MAX_PER_HOUR);
        assert!(
            board.look(660, Vec::new(), &rules()).is_empty(),
            "there is no room"
        );
        assert!(board.open().is_empty(), "{:?}", board.open());
        board.look(670, all[..1].to_vec(), &rules());
        assert_eq!(board.open().len(), 1, "it came again");
        let ends = board.look(600 + 3600, all[..1].to_vec(), &rules());
        assert_eq!(kinds(&ends), vec![Kind::Recovery; MAX_PER_HOUR - 1]);
    }

    #[test]
    fn what_only_holds_on_is_not_written_again_at_each_look() {
        let mut board = Board::default();
        board.look(0, vec![failing("a")], &rules());
        board.look(600, vec![failing("a")], &rules());
        let mut written = Vec::new();
        for second in (605..=7800).step_by(5) {
            board.look(second, vec![failing("a")], &rules());
            written.push(serde_json::to_vec(&board).expect("JSON"));
        }
        written.dedup();
        assert!(written.len() <= 4, "{} times in two hours", written.len());
    }

    #[test]
    fn no_more_than_twelve_an_hour_and_the_rest_later() {
        let mut board = Board::default();
        let many: Vec<Condition> = (0..30).map(|n| failing(&format!("m{n:02}"))).collect();
        assert!(board.look(0, many.clone(), &rules()).is_empty());
        let mut told = BTreeSet::new();
        for minute in 10..(4 * 60) {
            let news = board.look(minute * 60, many.clone(), &rules());
            assert!(news.len() <= MAX_PER_HOUR);
            told.extend(news.into_iter().map(|one| one.key));
        }
        assert_eq!(told.len(), 30, "each was told in the end");
        assert_eq!(board.pending.len(), 30);
    }

    #[test]
    fn warnings_leave_room_for_an_error() {
        let mut board = Board::default();
        let odd = |n: u32| Condition {
            kind: Kind::Warning,
            after: Duration::ZERO,
            ..failing(&format!("a{n:02}"))
        };
        let mut holds: Vec<Condition> = (0..30).map(odd).collect();
        let told = board.look(0, holds.clone(), &rules());
        assert_eq!(told.len(), MAX_PER_HOUR - FOR_ERRORS);
        holds.push(failing("z"));
        board.look(60, holds.clone(), &rules());
        let news = board.look(60 + 600, holds.clone(), &rules());
        assert_eq!(kinds(&news), [Kind::Error]);
        let news = board.look(3600, holds.clone(), &rules());
        assert_eq!(news.len(), MAX_PER_HOUR - FOR_ERRORS - 1, "the rest, beside it");
        holds.retain(|one| one.kind == Kind::Warning);
        let news = board.look(3660, holds, &rules());
        assert_eq!(kinds(&news), [Kind::Recovery]);
    }

    #[test]
    fn a_restart_repeats_nothing() {
        let mut board = Board::default();
        board.look(0, vec![failing("a")], &rules());
        assert_eq!(board.look(600, vec![failing("a")], &rules()).len(), 1);
        let kept = serde_json::to_vec(&board).expect("JSON");
        let mut board: Board = serde_json::from_slice(&kept).expect("the same");
        assert!(board.look(660, vec![failing("a")], &rules()).is_empty());
        assert_eq!(board.pending.len(), 1, "what was not delivered yet is not lost");
        assert_eq!(kinds(&board.look(700, Vec::new(), &rules())), [Kind::Recovery]);
    }

    #[test]
    fn a_clock_that_goes_back_a_year_neither_panics_nor_silences() {
        let mut board = Board::default();
        let late = 1_800_000_000;
        board.look(late, vec![failing("a")], &rules());
        assert_eq!(board.look(late + 600, vec![failing("a")], &rules()).len(), 1);
        let early = late - 365 * 86_400;
        assert!(
            board
                .look(early, vec![failing("a"), failing("b")], &rules())
                .is_empty()
        );
        let news = board.look(early + 600, vec![failing("a"), failing("b")], &rules());
        assert_eq!(news.len(), 1, "the new one after its ten minutes");
        let next = board.look(early + 86_400, vec![failing("a"), failing("b")], &rules());
        assert_eq!(next.len(), 1, "the old one is repeated a day after the jump");
    }

    #[test]
    fn a_clock_that_jumps_while_we_look_neither_repeats_nor_hurries_anything() {
        for year in [365 * 86_400_i64, -365 * 86_400] {
            let mut board = Board::default();
            let early = 1_800_000_000;
            board.look(early, vec![failing("a")], &rules());
            assert_eq!(board.look(early + 600, vec![failing("a")], &rules()).len(), 1);
            board.look(early + 660, vec![failing("a"), failing("b")], &rules());
            let at = |seconds: u64| (early + seconds).saturating_add_signed(year);
            board.shift(year);
            let both = vec![failing("a"), failing("b")];
            assert!(board.look(at(720), both.clone(), &rules()).is_empty(), "{year}");
            let news = board.look(at(1260), both.clone(), &rules());
            assert_eq!(news.len(), 1, "the new one after its ten minutes");
            assert_eq!((&*news[0].key, &news[0].since), ("round/b", &rfc3339(at(660))));
            let day = board.look(at(600 + 86_400), both, &rules());
            assert_eq!(day.len(), 1, "the old one is repeated after its day");
        }
    }

    #[test]
    fn what_held_before_it_was_seen_is_told_so_much_sooner() {
        let mut board = Board::default();
        let hung = Condition {
            held: Duration::from_mins(6),
            ..failing("a")
        };
        assert!(board.look(1000, vec![hung.clone()], &rules()).is_empty());
        assert!(board.look(1230, vec![hung.clone()], &rules()).is_empty());
        let news = board.look(1240, vec![hung], &rules());
        assert_eq!(kinds(&news), [Kind::Error]);
        assert_eq!(news[0].since, rfc3339(640));
    }

    #[test]
    fn a_message_waits_until_every_channel_has_it() {
        let mut board = Board::default();
        let rules = Rules {
            channels: BTreeSet::from(["command".to_owned(), "mail".to_owned()]),
            ..rules()
        };
        board.look(0, vec![failing("a")], &rules);
        let news = board.look(600, vec![failing("a")], &rules);
        board.delivered(&news[0], "command");
        assert_eq!(board.pending.len(), 1);
        board.delivered(&news[0], "mail");
        assert!(board.pending.is_empty());
        assert_eq!(board.expire(10_000, Duration::from_hours(1)), 0);
    }
}
