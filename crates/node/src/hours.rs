//! Hours of the day, as this machine's clock on the wall shows them.
//!
//! - Not here: what is done or left in them.

use std::fmt;

use jiff::Zoned;
use pacstore_runtime::Clock;

/// From one full hour to another; over midnight where the second is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// The first, 0 to 24.
    pub from: u8,
    /// The one that it does not reach, 0 to 24.
    pub to: u8,
}

impl Hours {
    /// Whether the hour `hour` of a day is one of them.
    pub fn holds(self, hour: u8) -> bool {
        if self.from <= self.to {
            (self.from..self.to).contains(&hour)
        } else {
            self.from <= hour || hour < self.to
        }
    }

    pub(crate) fn holds_at(self, clock: &Clock) -> bool {
        self.holds(local(clock).hour().unsigned_abs())
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

/// What the clock on the wall shows.
pub(crate) fn local(clock: &Clock) -> Zoned {
    let now = jiff::Timestamp::try_from(clock.now()).unwrap_or_default();
    now.to_zoned(jiff::tz::TimeZone::system())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_may_go_over_midnight() {
        let (day, night) = (Hours { from: 2, to: 6 }, Hours { from: 22, to: 6 });
        assert!(day.holds(2) && day.holds(5) && !day.holds(6) && !day.holds(23));
        assert!(night.holds(23) && night.holds(0) && !night.holds(6) && !night.holds(12));
        assert_eq!(night.to_string(), "22-6");
    }
}
