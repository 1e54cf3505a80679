//! Which of two states of a repository is the older one.
//!
//! Nobody numbers them. What there is, best first: we had this one before another; the times that signatures
//! say; the times that the mirror says; the newest package in it. A time that lies a day and more ahead of
//! this machine's clock says nothing.
//!
//! - Invariant: pure.
//! - Invariant: what cannot be told apart is not older, so a mirror that tells nothing can still be followed.

use std::time::Duration;

/// Clocks differ by less than this.
const AHEAD: Duration = Duration::from_hours(24);

/// What is known of a state's age, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Age {
    /// When its signature was made.
    pub(super) signed: Option<u64>,
    /// `Last-Modified` of the mirror.
    pub(super) told: Option<u64>,
    /// The newest build date of its packages.
    pub(super) built: Option<u64>,
}

/// Why a state is taken to be older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Older {
    /// It was served before the present one.
    ServedBefore,
    /// Its signature was made earlier.
    Signed,
    /// The mirror says an earlier time.
    Told,
    /// Its newest package was built earlier.
    Built,
}

impl Older {
    /// As a sentence goes on after "the database of MIRROR".
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::ServedBefore => "is one that a newer one had replaced",
            Self::Signed => "was signed before the one that is here",
            Self::Told => "has an earlier time than the one that is here",
            Self::Built => "has older packages than the one that is here",
        }
    }
}

/// A clock that was wrong wrote this time down.
pub(super) fn is_ahead(time: u64, now: u64) -> bool {
    now.saturating_add(AHEAD.as_secs()) < time
}

/// Whether `new` is older than `held`; `had` says that it was served before `held` was.
pub(super) fn older(new: &Age, held: &Age, had: bool, now: u64) -> Option<Older> {
    if had {
        return Some(Older::ServedBefore);
    }
    let sane = |time: Option<u64>| time.filter(|time| *time < now.saturating_add(AHEAD.as_secs()));
    let facts = [
        (new.signed, held.signed, Older::Signed),
        (new.told, held.told, Older::Told),
        (new.built, held.built, Older::Built),
    ];
    for (new, held, why) in facts {
        if let (Some(new), Some(held)) = (sane(new), sane(held))
            && new != held
        {
            return (new < held).then_some(why);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(signed: u64, told: u64, built: u64) -> Age {
        let some = |time| (time > 0).then_some(time);
        Age {
            signed: some(signed),
            told: some(told),
            built: some(built),
        }
    }

    #[test]
    fn the_best_fact_that_both_have_decides() {
        let now = 1_000_000;
        let held = age(500, 600, 700);
        let is = |new| older(&new, &held, false, now);
        assert_eq!(is(held), None);
        assert_eq!(is(age(499, 900, 900)), Some(Older::Signed));
        assert_eq!(
            is(age(501, 1, 1)),
            None,
            "packages may go, mirrors may touch files"
        );
        assert_eq!(is(age(500, 599, 900)), Some(Older::Told));
        assert_eq!(is(age(0, 599, 900)), Some(Older::Told), "not signed any more");
        assert_eq!(is(age(0, 0, 699)), Some(Older::Built));
        assert_eq!(is(age(0, 0, 0)), None);
        assert_eq!(
            older(&age(900, 900, 900), &held, true, now),
            Some(Older::ServedBefore)
        );
    }

    #[test]
    fn a_time_far_ahead_says_nothing() {
        let now = 1_000_000;
        let ahead = now + 2 * 86_400;
        // Somebody signed with a wrong clock: that must not lock the repository for ever.
        assert_eq!(older(&age(600, 610, 0), &age(ahead, 600, 0), false, now), None);
        assert_eq!(
            older(&age(600, 590, 0), &age(ahead, 600, 0), false, now),
            Some(Older::Told)
        );
        // Our own clock is a day late: the facts still order each other as far as they are sane.
        assert_eq!(
            older(&age(1_000_100, 0, 0), &age(1_000_000, 0, 0), false, now - 40_000),
            None
        );
    }
}
