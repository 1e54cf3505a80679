//! The Range header: which bytes of a file of known length are asked.
//!
//! One range is served (from, from-to, or a suffix). Several ranges, units other than
//! bytes and nonsense are ignored, as RFC 9110 section 14.2 allows: the whole file is sent.
//!
//! - Invariant: a range that is returned lies within the file and is not empty.

/// What a Range header asks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Everything: no header, or one that is ignored.
    Whole,
    /// Bytes `start..end`.
    Part { start: u64, end: u64 },
    /// Nothing of the file: 416.
    Unsatisfiable,
}

/// Reads the value of a Range header for a file of `len` bytes.
pub(crate) fn parse(header: Option<&str>, len: u64) -> Asked {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else {
        return Asked::Whole;
    };
    if spec.contains(',') {
        return Asked::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Asked::Whole;
    };
    match (number(first), number(last)) {
        (Number::Is(start), Number::Is(last)) if start <= last => {
            part(start, last.saturating_add(1).min(len), len)
        }
        (Number::Is(start), Number::Empty) => part(start, len, len),
        (Number::Empty, Number::Is(suffix)) => {
            part(len.saturating_sub(suffix), len, if suffix == 0 { 0 } else { len })
        }
        _ => Asked::Whole,
    }
}

/// One side of a range.
enum Number {
    Is(u64),
    Empty,
    Nonsense,
}

fn number(text: &str) -> Number {
    let text = text.trim();
    if text.is_empty() {
        return Number::Empty;
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Number::Nonsense;
    }
    // More digits than a file can have bytes: past any end.
    Number::Is(text.parse().unwrap_or(u64::MAX))
}

fn part(start: u64, end: u64, len: u64) -> Asked {
    if start < end && start < len {
        Asked::Part { start, end }
    } else {
        Asked::Unsatisfiable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_single_open_and_suffix_ranges() {
        assert_eq!(parse(Some("bytes=0-0"), 10), Asked::Part { start: 0, end: 1 });
        assert_eq!(parse(Some("bytes=4-"), 10), Asked::Part { start: 4, end: 10 });
        assert_eq!(parse(Some("bytes=4-99"), 10), Asked::Part { start: 4, end: 10 });
        assert_eq!(parse(Some("bytes=-3"), 10), Asked::Part { start: 7, end: 10 });
        assert_eq!(parse(Some("bytes=-30"), 10), Asked::Part { start: 0, end: 10 });
    }

    #[test]
    fn what_lies_past_the_end_is_unsatisfiable() {
        for past in [
            "bytes=10-",
            "bytes=10-11",
            "bytes=99999999999999999999-",
            "bytes=-0",
        ] {
            assert_eq!(parse(Some(past), 10), Asked::Unsatisfiable, "{past}");
        }
        assert_eq!(parse(Some("bytes=0-"), 0), Asked::Unsatisfiable);
    }

    #[test]
    fn nonsense_several_ranges_and_other_units_are_ignored() {
        for odd in [
            "bytes=a-b",
            "bytes=5-2",
            "bytes=1-2,4-5",
            "lines=1-2",
            "bytes",
            "bytes=-",
            "bytes=--1",
            "bytes=+1-2",
        ] {
            assert_eq!(parse(Some(odd), 10), Asked::Whole, "{odd}");
        }
        assert_eq!(parse(None, 10), Asked::Whole);
    }
}
