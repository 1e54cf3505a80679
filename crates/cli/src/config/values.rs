//! Values as people write them: sizes, rates, spans of time, one string or several.
//!
//! - Invariant: what is printed by `config show` parses to the same value.
//! - Not here: which key takes which (`super::schema`).

use std::time::Duration;

use pacstore_node::config::Hours;
use serde::Deserialize;

/// A string where a list of one is meant, or a list.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    pub(crate) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// Why a value is not what its key takes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{value}` is no {what}; write it like {example}")]
pub(crate) struct ValueError {
    value: String,
    what: &'static str,
    example: &'static str,
}

/// Bytes: `10GB`, `512MiB`, `4096`.
pub(crate) fn size(text: &str) -> Result<u64, ValueError> {
    let error = || ValueError {
        value: text.to_owned(),
        what: "size",
        example: "10GB, 512MiB or 4096",
    };
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let number: f64 = trimmed[..digits].parse().map_err(|_| error())?;
    let unit = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        "tib" => 1_099_511_627_776.0,
        _ => return Err(error()),
    };
    let bytes = number * unit;
    // Less than a byte is meant in another unit, and would be taken for 0: no limit.
    if bytes == 0.0 || (1.0..=9e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(error())
    }
}

/// Bytes a second: `4MB/s`; `0` means none.
pub(crate) fn rate(text: &str) -> Result<u64, ValueError> {
    let error = || ValueError {
        value: text.to_owned(),
        what: "rate",
        example: "4MB/s or 0",
    };
    let number = text.trim().strip_suffix("/s").unwrap_or(text);
    size(number).map_err(|_| error())
}

/// A span of time: `60s`, `15m`, `24h`, `7d`.
pub(crate) fn span(text: &str) -> Result<Duration, ValueError> {
    let error = || ValueError {
        value: text.to_owned(),
        what: "span of time",
        example: "60s, 15m, 24h or 7d",
    };
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| error())?;
    let unit = match trimmed[digits..].trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        "" if number == 0 => 1,
        _ => return Err(error()),
    };
    number
        .checked_mul(unit)
        .filter(|s| *s <= 86_400 * 36_500)
        .map(Duration::from_secs)
        .ok_or_else(error)
}

/// Hours of a day: `22-6`.
pub(crate) fn hours(text: &str) -> Option<Hours> {
    let (from, to) = text.split_once('-')?;
    let hour = |text: &str| text.trim().parse().ok().filter(|hour: &u8| *hour <= 24);
    // Midnight, as 24 too; `24-0` has no hour in it.
    let (from, to) = (hour(from)? % 24, hour(to)?);
    (from != to).then_some(Hours { from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_rates_and_spans_as_people_write_them() {
        assert_eq!(size("10GB"), Ok(10_000_000_000));
        assert_eq!(size("1.5 MiB"), Ok(1_572_864));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(rate("4MB/s"), Ok(4_000_000));
        assert_eq!(rate("0"), Ok(0));
        assert_eq!(span("7d"), Ok(Duration::from_hours(168)));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn refuses_what_is_no_value_and_says_how_to_write_it() {
        for bad in ["", "GB", "10XB", "-1GB", "1e300TB", "∞", "0.5", "0.0004kB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", "60", "s", "1y", "99999999999999999999s", "999999999w"] {
            assert!(span(bad).is_err(), "{bad}");
        }
        let message = span("soon").expect_err("no span").to_string();
        assert_eq!(
            message,
            "`soon` is no span of time; write it like 60s, 15m, 24h or 7d"
        );
    }

    #[test]
    fn hours_are_two_and_not_the_same() {
        assert_eq!(hours("22-6"), Some(Hours { from: 22, to: 6 }));
        assert_eq!(hours("0 - 24"), Some(Hours { from: 0, to: 24 }));
        assert_eq!(hours("24-6"), Some(Hours { from: 0, to: 6 }));
        for bad in ["", "3", "3-3", "0-0", "24-0", "a-b", "1-25", "-1-4"] {
            assert_eq!(hours(bad), None, "{bad}");
        }
    }
}
