//! Who goes first on the line: the rules, without waiting or sockets.
//!
//! Three things decide: what all sources bring together now, what they brought when many
//! leaves were on their way at once (if that was not more, the line is the limit and not
//! its sources), and which readers still wait for their first byte.
//!
//! - Invariant: where more at once brings more, nothing is held back.
//! - Invariant: a flight without bytes for [`LATE`] holds nobody back.
//! - Not here: waiting for one's turn (`super::line`).
//! - Read first: [`State::is_tight`].

use std::time::{Duration, Instant};

use cid::Cid;

use super::plan::LATE;

/// First leaves go alone where they would take longer than this beside the others.
const TIGHT: Duration = Duration::from_secs(1);

/// Later leaves that a mirror is asked for at once where the line is the limit ...
const LATER_AT_ONCE: usize = 4;

/// ... and anybody, if they come within this time: each answer brings the next question, and a fast line
/// would stand idle between the two.
const LATER_WITHIN: Duration = Duration::from_millis(250);

/// So many flights at once show what the line gives.
const WIDE: usize = 3;

/// Bytes a second from which on a first leaf needs no care.
pub(super) const WIDE_RATE: f64 = 8e6;

/// What they showed counts for so long.
const WIDE_FOR: Duration = Duration::from_mins(2);

/// Hosts that are told apart.
const MAX_HOSTS: usize = 32;

/// A rate that was measured longer ago says nothing.
const FRESH: Duration = Duration::from_secs(30);

/// Bytes over the time in which they were waited for; half of the past counts.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: f64,
    busy: f64,
    last: Option<Instant>,
}

impl Meter {
    pub(super) fn add(&mut self, bytes: u64, busy: Duration, now: Instant) {
        if self.busy > 1.0 {
            self.bytes /= 2.0;
            self.busy /= 2.0;
        }
        self.bytes += bytes as f64;
        self.busy += busy.as_secs_f64();
        self.last = Some(now);
    }

    /// Bytes a second, once that is known and as long as it is `fresh`.
    pub(super) fn rate(&self, now: Instant, fresh: Duration) -> Option<f64> {
        let last = self.last?;
        let known = self.busy >= 0.3 || self.bytes >= 4e6;
        (known && now.saturating_duration_since(last) < fresh).then(|| self.bytes / self.busy.max(1e-3))
    }
}

/// Whether a leaf may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Not yet.
    Wait,
    /// Now.
    Now {
        /// The waiting reader whose leaf it carries.
        first: Option<u64>,
    },
}

/// Whose leaves they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// All peers, of whom so many can be asked.
    Peers(usize),
    /// An ordinary mirror.
    Mirror(String),
}

/// A leaf on its way, or one that waits to be asked for.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) id: u64,
    pub(super) root: Cid,
    pub(super) host: Host,
    pub(super) going: bool,
    /// It carries the leaf that this reader waits for.
    pub(super) first: Option<u64>,
    /// When bytes came, or it was asked for.
    pub(super) progress: Instant,
}

/// A reader that waits for its first byte.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) root: Cid,
    pub(super) left: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) now: Meter,
    pub(super) wide: Meter,
    /// When all together last brought [`WIDE_RATE`].
    pub(super) wide_at: Option<Instant>,
    pub(super) until: Option<Instant>,
    /// In the order in which they came.
    pub(super) waiting: Vec<Waiting>,
    /// In the order in which they asked.
    pub(super) flights: Vec<Flight>,
    /// Hosts that bring something, since when, and when last.
    pub(super) active: Vec<(Host, Instant, Instant)>,
}

impl State {
    /// All sources together brought `bytes` in `busy`.
    pub(super) fn brought(&mut self, bytes: u64, busy: Duration, now: Instant) {
        self.now.add(bytes, busy, now);
        if self.flights.iter().filter(|f| f.going).count() >= WIDE {
            self.wide.add(bytes, busy, now);
        }
        if self.rate(now).is_some_and(|rate| rate >= WIDE_RATE) {
            self.wide_at = Some(now);
        }
    }

    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        self.now.rate(now, FRESH)
    }

    /// More at once do not bring more: the line is the limit, not its sources.
    pub(super) fn is_limit(&self, now: Instant) -> bool {
        match (self.rate(now), self.wide.rate(now, WIDE_FOR)) {
            (Some(rate), Some(wide)) => wide < rate * 1.5,
            _ => false,
        }
    }

    /// The line gave [`WIDE_RATE`] a little ago: what comes more slowly now is small files, or slow sources.
    pub(super) fn was_wide(&self, now: Instant) -> bool {
        self.wide_at
            .is_some_and(|at| now.saturating_duration_since(at) < FRESH)
    }

    /// First leaves would come too late if all leaves were brought side by side.
    pub(super) fn is_tight(&self, now: Instant) -> bool {
        if self.waiting.is_empty() || !self.is_limit(now) {
            return false;
        }
        let brought = |w: &&Waiting| self.flights.iter().any(|f| f.root == w.root);
        let first: u64 = self.waiting.iter().filter(brought).map(|w| w.left).sum();
        if first == 0 {
            return false;
        }
        let later = self
            .flights
            .iter()
            .filter(|f| f.going && f.first.is_none())
            .count() as u64;
        let all = first + later * (1 << 20);
        self.rate(now)
            .is_some_and(|rate| all as f64 / rate.max(1.0) > TIGHT.as_secs_f64())
    }

    /// It brought something for long enough to be part of what the rate says.
    pub(super) fn is_part(&self, host: &Host, now: Instant) -> bool {
        let known = self.active.iter().find(|(known, ..)| known.is(host));
        known.is_some_and(|(_, since, last)| {
            now.saturating_duration_since(*last) < FRESH && LATE <= last.saturating_duration_since(*since)
        })
    }

    pub(super) fn note(&mut self, host: &Host, now: Instant) {
        if let Some((_, since, last)) = self.active.iter_mut().find(|(known, ..)| known.is(host)) {
            if now.saturating_duration_since(*last) >= FRESH {
                *since = now;
            }
            *last = now;
            return;
        }
        if self.active.len() == MAX_HOSTS {
            self.active.remove(0);
        }
        self.active.push((host.clone(), now, now));
    }

    /// The reader that waits for `root` and whose leaf nobody brings.
    pub(super) fn uncarried(&self, root: &Cid, now: Instant) -> Option<u64> {
        let carried = |id| {
            let mut flights = self.flights.iter();
            flights.any(|f| f.going && f.first == Some(id) && f.is_moving(now))
        };
        let mut waiting = self.waiting.iter();
        waiting.find(|w| w.root == *root && !carried(w.id)).map(|w| w.id)
    }

    /// Whether a leaf may be asked of `host`, and for which waiting reader.
    pub(super) fn may_start(&self, id: u64, root: &Cid, host: &Host, now: Instant) -> Start {
        let first = self.uncarried(root, now);
        if !self.is_limit(now) {
            return Start::Now { first };
        }
        let same = |f: &&Flight| f.host.is(host) && f.id != id;
        let going = self.flights.iter().filter(same).filter(|f| f.going);
        let at_once = match host {
            Host::Peers(count) => (*count).max(1),
            Host::Mirror(_) => 1,
        };
        if let Some(reader) = first {
            let before = going.filter(|f| f.first.is_some() && f.is_moving(now)).count();
            let older = self.flights.iter().filter(same).any(|f| {
                let theirs = self.uncarried(&f.root, now);
                !f.going && theirs.is_some_and(|theirs| theirs < reader)
            });
            let may = !self.is_tight(now) || (before < at_once && !older);
            return if may { Start::Now { first } } else { Start::Wait };
        }
        // What a newcomer gives is not known yet: it may be far faster.
        let busy = self.flights.iter().filter(same).any(|f| f.going);
        if !busy && !self.is_part(host, now) {
            return Start::Now { first };
        }
        let before = match host {
            Host::Peers(_) => at_once + 1,
            Host::Mirror(_) => LATER_AT_ONCE,
        };
        let soon = self.rate(now).unwrap_or(0.0) * LATER_WITHIN.as_secs_f64();
        let before = before.max(soon as usize >> 20);
        let queue = self.flights.iter().filter(same);
        let ahead = queue
            .filter(|f| f.first.is_none() && (f.going || f.id < id))
            .count();
        if !self.is_tight(now) && ahead < before {
            Start::Now { first }
        } else {
            Start::Wait
        }
    }

    /// Whether the bytes of `flight` may be taken now.
    pub(super) fn may_go(&self, id: u64, now: Instant) -> bool {
        let Some(mine) = self.flights.iter().find(|f| f.id == id) else {
            return true;
        };
        if !self.is_tight(now) || !self.is_part(&mine.host, now) {
            return true;
        }
        !self.flights.iter().any(|f| {
            let before = match (f.first, mine.first) {
                (Some(theirs), Some(mine)) => theirs < mine,
                (Some(_), None) => true,
                (None, _) => false,
            };
            let same = mine.first.is_none() || f.host.is(&mine.host);
            f.id != id && f.going && before && same && f.is_moving(now)
        })
    }
}

impl Flight {
    pub(super) fn is_moving(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.progress) < LATE
    }
}

impl Host {
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Peers(_), Self::Peers(_)) => true,
            (a, b) => a == b,
        }
    }
}
