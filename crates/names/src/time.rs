//! Times: whole seconds since 1970 in heads, RFC 3339 in records and for people.
//!
//! - Invariant: nothing panics for any time that fits its type.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// The latest time that RFC 3339 can write, 9999-12-30T22:00:00Z, in unix seconds.
const MAX_SECONDS: i64 = 253_402_207_200;

/// `seconds` since 1970-01-01 UTC as RFC 3339, such as `2027-01-15T08:00:00Z`.
/// What lies beyond the year 9999 is written as the end of that year.
///
/// ```
/// assert_eq!(pacstore_names::rfc3339(1_800_000_000), "2027-01-15T08:00:00Z");
/// ```
pub fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).map_or(MAX_SECONDS, |seconds| seconds.min(MAX_SECONDS));
    Timestamp::from_second(seconds)
        .expect("it lies within the years 1970 to 9999")
        .to_string()
}

/// Whole seconds since 1970-01-01 UTC; 0 for a time before that.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The form of validity that Kubo and Helia write: nanoseconds and `Z`. `None`
/// outside of the years 1970 to 9999.
pub(crate) fn write_validity(time: SystemTime) -> Option<String> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    let nanos = i128::try_from(since.as_nanos()).ok()?;
    let stamp = Timestamp::from_nanosecond(nanos).ok()?;
    Some(format!("{stamp:.9}"))
}

/// Reads RFC 3339 with up to nine digits of a second and any offset.
pub(crate) fn read_validity(text: &[u8]) -> Option<SystemTime> {
    if text.len() > 64 {
        return None;
    }
    let stamp: Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    // Before 1970 there is no validity; years up to 9999 fit.
    let seconds = u64::try_from(stamp.as_second()).ok()?;
    let nanos = u32::try_from(stamp.subsec_nanosecond()).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}
