//! `[share]` and what `[limits]` says of others: what they get from this node, and how much.
//!
//! - Invariant: hours are hours; a budget of connections fits into what a process may hold.
//! - Not here: what is done with it (`pacstore-node`, `uploads`).

use pacstore_node::config::Sharing;

use super::file::File;
use super::values::{hours, rate, size};
use super::{ConfigError, Lines};

/// A client's upload where nobody says it: 4 MB/s.
const MODEST: u64 = 4_000_000;

/// Connections to strangers, at most: half of those that a process may have in all.
const MOST_STRANGERS: usize = 384;

pub(super) fn build(file: &File, lines: &Lines) -> Result<Sharing, ConfigError> {
    let limits = &file.limits;
    let upload = match &limits.upload {
        Some(text) => Some(rate(text).map_err(|e| lines.bad("limits.upload", e))?).filter(|rate| *rate > 0),
        None if file.import.is_empty() => Some(MODEST),
        None => None,
    };
    let month = size(&limits.upload_month).map_err(|e| lines.bad("limits.upload_month", e))?;
    let hours = match limits.upload_hours.as_str() {
        "" => None,
        text => {
            let bad = || lines.bad("limits.upload_hours", "write hours, such as 1-6 or 22-6");
            Some(hours(text).ok_or_else(bad)?)
        }
    };
    Ok(Sharing {
        enable: file.share.enable,
        announce: file.share.announce,
        rate: upload,
        month: (month > 0).then_some(month),
        hours,
    })
}

pub(super) fn strangers(file: &File, lines: &Lines) -> Result<usize, ConfigError> {
    let most = file.limits.peers;
    if MOST_STRANGERS < most {
        let why = format!("must be at most {MOST_STRANGERS}");
        return Err(lines.bad("limits.peers", why));
    }
    Ok(most)
}
