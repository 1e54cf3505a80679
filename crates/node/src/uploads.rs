//! What we may give to others: the switch, the hours, the bytes of a month.
//!
//! Bytes are taken from the month before a block is read for a peer that is not of the LAN, so that it is never
//! exceeded, however many ask at once. What is on disk runs ahead of what was given by up to [`AHEAD`]: a crash
//! may cost that much of the month, and never gives it twice.
//!
//! Each calendar month has a count of its own, by this machine's clock and time zone. A clock that jumps takes
//! another month's count, and finds the right one again when it jumps back.
//!
//! - Invariant: where a month has a limit, no more block bytes than that leave for peers outside of the LAN in it.
//! - Invariant: our own downloads never ask here.
//! - Not here: bytes a second (`pacstore_runtime::RateLimit`, in Bitswap), who may have a file (`crate::hidden`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pacstore_net::{LanPeers, PeerId};
use pacstore_runtime::Clock;
use pacstore_store::Store;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::config::Sharing;
use crate::error::StoreError;
use crate::ranking::Remember;

/// Where the months are kept.
const KEY: &str = "uploads";

/// What is written down runs ahead of what was given by this much at most, in bytes.
const AHEAD: u64 = 16 << 20;

/// Months that are remembered: a clock that jumps about must not fill the disk.
const MONTHS: usize = 36;

/// A month as people write it, such as `2026-11`.
type Month = String;

/// What we give, as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadStatus {
    /// Peers outside of the LAN get something now.
    pub open: bool,
    /// Why they do not.
    pub why: Option<String>,
    /// Bytes a second to them; none = no limit.
    pub rate: Option<u64>,
    /// Only in these hours; none = always.
    pub hours: Option<String>,
    /// The calendar month, such as `2026-11`.
    pub month: String,
    /// Bytes of blocks that they got in it.
    pub month_bytes: u64,
    /// How many they may get; none = no limit.
    pub month_max: Option<u64>,
    /// Bytes of blocks that peers of the LAN got since the start.
    pub lan_bytes: u64,
    /// Connections to peers outside that are neither configured nor of the LAN, at most.
    pub peers_max: usize,
}

/// The counts.
#[derive(Debug, Default)]
struct Meter {
    given: BTreeMap<Month, u64>,
    /// As it stands on disk.
    saved: BTreeMap<Month, u64>,
}

/// What may leave for others.
pub(crate) struct Uploads {
    rules: Sharing,
    store: Store,
    clock: Clock,
    /// Who is of the LAN; until it is there nobody is.
    peers: OnceLock<LanPeers>,
    lan: AtomicU64,
    meter: Mutex<Meter>,
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Uploads {
    /// With the months that the store remembers. What cannot be read counts as used up where there is a limit:
    /// better to give too little than twice.
    pub(crate) fn load(rules: Sharing, store: Store, clock: Clock) -> Result<Self, StoreError> {
        let saved: BTreeMap<Month, u64> = match store.state_get(KEY)? {
            None => BTreeMap::new(),
            Some(bytes) => match serde_json::from_slice(&bytes) {
                Ok(months) => months,
                Err(error) => {
                    warn!(%error, "what was uploaded cannot be read; this month counts as used up");
                    BTreeMap::from([(month_of(&clock), rules.month.unwrap_or(0))])
                }
            },
        };
        let meter = Meter {
            given: saved.clone(),
            saved,
        };
        Ok(Self {
            rules,
            store,
            clock,
            peers: OnceLock::new(),
            lan: AtomicU64::new(0),
            meter: Mutex::new(meter),
        })
    }

    /// From now on it is known who is of the LAN.
    pub(crate) fn joined(&self, peers: LanPeers) {
        drop(self.peers.set(peers));
    }

    /// Others get something from us at all.
    pub(crate) fn is_on(&self) -> bool {
        self.rules.enable
    }

    /// `peer` may have `len` bytes now. Nothing is taken yet.
    pub(crate) fn has_room(&self, peer: &PeerId, len: u64) -> bool {
        self.rules.enable && ((self.in_hours() && len <= self.left()) || self.is_lan(peer))
    }

    /// Takes `len` bytes for `peer`; `false`, and nothing is taken, if it may not have them. Writes to the disk
    /// now and then.
    pub(crate) fn take(&self, peer: &PeerId, len: u64) -> bool {
        if !self.rules.enable {
            return false;
        }
        if self.is_lan(peer) {
            self.lan.fetch_add(len, Ordering::Relaxed);
            return true;
        }
        self.in_hours() && self.take_of_month(len)
    }

    fn take_of_month(&self, len: u64) -> bool {
        let month = month_of(&self.clock);
        let mut meter = self.meter();
        let given = meter.given.get(&month).copied().unwrap_or(0).saturating_add(len);
        if let Some(most) = self.rules.month {
            if most < given {
                return false;
            }
            if meter.saved.get(&month).copied().unwrap_or(0) < given {
                // Under the lock: whoever comes meanwhile must not be given what is not written down.
                let ahead = given.saturating_add(AHEAD).min(most);
                let mut months = meter.saved.clone();
                months.insert(month.clone(), ahead);
                if let Err(error) = self.write(&mut meter, months) {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "nothing is uploaded: it cannot be counted"
                    );
                    return false;
                }
            }
        }
        meter.given.insert(month, given);
        true
    }

    /// Writes the counts down as they are.
    pub(crate) fn save(&self, what: Remember) -> Result<(), StoreError> {
        // With a limit the disk is ahead already; it is set right when nothing more is given.
        if what == Remember::WhatIsDue && self.rules.month.is_some() {
            return Ok(());
        }
        let mut meter = self.meter();
        if meter.given == meter.saved {
            return Ok(());
        }
        let months = meter.given.clone();
        self.write(&mut meter, months)
    }

    fn write(&self, meter: &mut Meter, mut months: BTreeMap<Month, u64>) -> Result<(), StoreError> {
        let now = month_of(&self.clock);
        while months.len() > MONTHS
            && let Some(oldest) = months.keys().find(|month| **month != now).cloned()
        {
            months.remove(&oldest);
            meter.given.remove(&oldest);
        }
        let bytes = serde_json::to_vec(&months).unwrap_or_default();
        self.store.state_put(&[(KEY, Some(&bytes))])?;
        meter.saved = months;
        Ok(())
    }

    /// What goes on; `peers_max` is the budget of connections.
    pub(crate) fn status(&self, peers_max: usize) -> UploadStatus {
        let left = self.left();
        let why = if !self.rules.enable {
            Some("switched off")
        } else if !self.in_hours() {
            Some("outside of its hours")
        } else if left == 0 {
            Some("the bytes of this month are used up")
        } else {
            None
        };
        let month = month_of(&self.clock);
        UploadStatus {
            open: why.is_none(),
            why: why.map(str::to_owned),
            rate: self.rules.rate,
            hours: self.rules.hours.map(|hours| hours.to_string()),
            month_bytes: self.meter().given.get(&month).copied().unwrap_or(0),
            month_max: self.rules.month,
            month,
            lan_bytes: self.lan.load(Ordering::Relaxed),
            peers_max,
        }
    }

    /// Bytes that are left of this month.
    fn left(&self) -> u64 {
        let Some(most) = self.rules.month else {
            return u64::MAX;
        };
        let given = self.meter().given.get(&month_of(&self.clock)).copied();
        most.saturating_sub(given.unwrap_or(0))
    }

    fn in_hours(&self) -> bool {
        self.rules.hours.is_none_or(|hours| hours.holds_at(&self.clock))
    }

    fn is_lan(&self, peer: &PeerId) -> bool {
        self.peers.get().is_some_and(|peers| peers.holds(peer))
    }

    /// Never held across an await: all here are plain functions.
    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn month_of(clock: &Clock) -> Month {
    let now = crate::hours::local(clock);
    format!("{:04}-{:02}", now.year(), now.month())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use pacstore_runtime::FakeClock;
    use pacstore_store::Options;

    use super::*;
    use crate::hours::Hours;

    const DAY: Duration = Duration::from_hours(24);
    /// Noon of 2026-11-15 UTC: the same month in every time zone.
    const NOON: Duration = Duration::from_hours(498_540);

    struct Bench {
        dir: tempfile::TempDir,
        clock: Clock,
        hand: FakeClock,
        rules: Sharing,
    }

    impl Bench {
        fn new(rules: Sharing) -> Self {
            let (clock, hand) = Clock::fake(UNIX_EPOCH + NOON);
            let dir = tempfile::tempdir().expect("a folder");
            Self {
                dir,
                clock,
                hand,
                rules,
            }
        }

        fn open(&self) -> Uploads {
            let store = Store::open(&self.dir.path().join("store"), Options::new(1 << 30)).expect("a store");
            Uploads::load(self.rules.clone(), store, self.clock.clone()).expect("loaded")
        }

        /// Bytes that strangers get in pieces of 1 MiB until there are no more.
        fn drain(uploads: &Uploads) -> u64 {
            let stranger = PeerId::random();
            let mut got = 0;
            while got < 1 << 30 && uploads.take(&stranger, 1 << 20) {
                got += 1 << 20;
            }
            got
        }
    }

    fn month(most: u64) -> Sharing {
        Sharing {
            month: Some(most),
            ..Sharing::default()
        }
    }

    #[test]
    fn no_more_than_a_month_has_leaves_in_it_over_restarts_too() {
        let bench = Bench::new(month(100 << 20));
        let uploads = bench.open();
        let stranger = PeerId::random();
        for _ in 0..40 {
            assert!(uploads.take(&stranger, 1 << 20));
        }
        uploads.save(Remember::Everything).expect("saved");
        drop(uploads);
        let uploads = bench.open();
        assert_eq!(Bench::drain(&uploads), 60 << 20);
        assert!(!uploads.has_room(&stranger, 1));
        let status = uploads.status(0);
        assert_eq!((status.month_bytes, status.open), (100 << 20, false));
        drop(uploads);
        // Killed, not stopped: what is on disk says at least as much.
        assert_eq!(Bench::drain(&bench.open()), 0);
    }

    #[test]
    fn a_kill_costs_some_of_the_month_and_gives_none_of_it_twice() {
        let bench = Bench::new(month(100 << 20));
        let mut got = 0;
        let mut starts = 0;
        loop {
            let uploads = bench.open();
            let stranger = PeerId::random();
            let before = got;
            // A few blocks, then the power is cut.
            for _ in 0..3 {
                got += if uploads.take(&stranger, 1 << 20) {
                    1 << 20
                } else {
                    0
                };
            }
            starts += 1;
            if got == before {
                break;
            }
        }
        assert!(got <= 100 << 20, "{got}");
        assert!(
            starts >= 100 * (1 << 20) / (AHEAD + (4 << 20)),
            "{starts} starts: too much is lost"
        );
    }

    #[test]
    fn each_month_has_its_own_bytes_and_a_clock_that_jumps_finds_them_again() {
        let bench = Bench::new(month(10 << 20));
        let uploads = bench.open();
        assert_eq!(Bench::drain(&uploads), 10 << 20);
        bench.hand.advance(DAY * 30);
        assert_eq!(uploads.status(0).month_bytes, 0);
        assert_eq!(Bench::drain(&uploads), 10 << 20);
        // A year ahead by mistake, and back.
        bench.hand.advance(DAY * 365);
        assert_eq!(Bench::drain(&uploads), 10 << 20);
        bench.hand.set(UNIX_EPOCH + NOON + DAY * 30);
        assert_eq!(Bench::drain(&uploads), 0);
        bench.hand.set(UNIX_EPOCH + NOON - DAY);
        assert_eq!(Bench::drain(&uploads), 0, "nor does a day back give anything");
    }

    #[test]
    fn a_clock_that_runs_wild_does_not_fill_the_disk() {
        let bench = Bench::new(month(1 << 20));
        let uploads = bench.open();
        for _ in 0..200 {
            bench.hand.advance(DAY * 31);
            assert_eq!(Bench::drain(&uploads), 1 << 20);
        }
        assert!(uploads.meter().saved.len() <= MONTHS + 1);
    }

    #[test]
    fn what_cannot_be_read_counts_as_used_up() {
        let bench = Bench::new(month(10 << 20));
        bench
            .open()
            .store
            .state_put(&[(KEY, Some(b"no json"))])
            .expect("written");
        assert_eq!(Bench::drain(&bench.open()), 0);
    }

    #[test]
    fn outside_of_its_hours_nothing_leaves_and_the_status_says_why() {
        let mut rules = Sharing::default();
        // All hours but the present one, whatever the time zone.
        let (clock, _) = Clock::fake(UNIX_EPOCH + NOON);
        let hour = crate::hours::local(&clock).hour().unsigned_abs();
        rules.hours = Some(Hours {
            from: (hour + 1) % 24,
            to: hour,
        });
        let bench = Bench::new(rules);
        let uploads = bench.open();
        assert_eq!(Bench::drain(&uploads), 0);
        assert_eq!(uploads.status(0).why.as_deref(), Some("outside of its hours"));
        bench.hand.advance(Duration::from_hours(1));
        assert!(uploads.take(&PeerId::random(), 1) && uploads.status(0).open);
    }

    #[test]
    fn switched_off_nobody_gets_anything() {
        let rules = Sharing {
            enable: false,
            ..Sharing::default()
        };
        let uploads = Bench::new(rules).open();
        assert!(!uploads.is_on() && !uploads.has_room(&PeerId::random(), 0));
        assert_eq!(Bench::drain(&uploads), 0);
        assert_eq!(uploads.status(0).why.as_deref(), Some("switched off"));
    }

    #[test]
    fn without_a_limit_the_month_is_counted_all_the_same() {
        let bench = Bench::new(Sharing::default());
        let uploads = bench.open();
        assert!(uploads.take(&PeerId::random(), 5));
        uploads.save(Remember::WhatIsDue).expect("saved");
        drop(uploads);
        let status = bench.open().status(160);
        assert_eq!((status.month_bytes, status.month_max), (5, None));
        assert_eq!((status.peers_max, status.month.as_str()), (160, "2026-11"));
    }
}
