//! What the fuzz targets reach of this crate's parsers; no part of its interface.
//!
//! - Not here: the parsers (`crate::range`, `crate::host`, `crate::route`).

use std::ops::Range;

use crate::{host, range, route};

/// The part of a file of `len` bytes that a Range header asks for, if it asks for one that is there.
pub fn range(header: &str, len: u64) -> Option<Range<u64>> {
    match range::parse(Some(header), len) {
        range::Asked::Part { start, end } => Some(start..end),
        range::Asked::Whole | range::Asked::Unsatisfiable => None,
    }
}

/// Reads a Host header and a path as a request has them.
pub fn route(host: &str, path: &str) {
    let host = host::parse(Some(host), &["localhost".to_owned(), "mirror.lan".to_owned()]);
    let _ = route::route(&host, path);
}
