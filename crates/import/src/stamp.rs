//! The change stamp: a small file by which an upstream says when it last changed.
//!
//! - Invariant: an error page, or no answer, is no stamp; it never counts as a change.
//! - Not here: what follows from a change (`crate::round`).
//! - Read first: facts about mirrors: Arch and ALHP write seconds since 1970, Manjaro `date=2026-01-02T03:04:05Z`,
//!   others anything.

use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use pacstore_runtime::{Pool, Tasks};
use pacstore_upstream::{Get, Http, url_of};
use tracing::warn;

use crate::scan::Root;
use crate::spec::{Limits, Source, StampSource};

/// The longest stamp.
const MAX: u64 = 64 << 10;

/// What a stamp says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangeStamp {
    bytes: Vec<u8>,
    /// Of the file, seconds since 1970.
    modified: Option<u64>,
}

impl ChangeStamp {
    /// The time in it, else the time of it.
    pub(crate) fn time(&self) -> Option<u64> {
        written_time(&self.bytes).or(self.modified)
    }
}

/// Reads the stamp; nothing if there is none now.
pub(crate) async fn read(
    stamp: &StampSource,
    source: &Source,
    root: Option<Root>,
    (http, tasks, limits): (&Http, &Tasks, &Limits),
) -> Option<ChangeStamp> {
    let url = match (stamp, source) {
        (StampSource::Url(url), _) => url.clone(),
        (StampSource::Path(path), Source::Http(base)) => {
            url_of(base, path.trim_start_matches('/').as_bytes()).ok()?
        }
        (StampSource::Path(path), _) => {
            let (root, path) = (root?, path.trim_start_matches('/').as_bytes().to_vec());
            return tasks
                .blocking(Pool::Disk, move || from_disk(&root, &path))
                .await
                .ok()?;
        }
    };
    let mut get = Get::new(&url);
    get.max_len = Some(MAX);
    get.deadline = Some(limits.small);
    let answer = async {
        let mut answer = http.get(&get).await?;
        let bytes = answer.bytes().await?;
        let modified = answer
            .last_modified
            .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Ok::<_, pacstore_upstream::HttpError>((bytes, modified))
    };
    match answer.await {
        Ok((bytes, _))
            if bytes
                .iter()
                .find(|b| !b.is_ascii_whitespace())
                .is_none_or(|b| *b == b'<') =>
        {
            None
        }
        Ok((bytes, modified)) => Some(ChangeStamp {
            bytes: bytes.to_vec(),
            modified: modified.map(|since| since.as_secs()),
        }),
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "the change stamp cannot be read"
            );
            None
        }
    }
}

fn from_disk(root: &Root, path: &[u8]) -> Option<ChangeStamp> {
    let (file, stamp) = root.open_file(path).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX).read_to_end(&mut bytes).ok()?;
    Some(ChangeStamp {
        bytes,
        modified: stamp.seconds().and_then(|s| u64::try_from(s).ok()),
    })
}

/// The time that stands in a stamp: seconds since 1970 as its first word, or `date=` and RFC 3339.
fn written_time(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let first = text.split_ascii_whitespace().next()?;
    if let Ok(seconds) = first.parse::<u64>() {
        // Anything outside of 2001 to 2286 is some other number.
        return (1_000_000_000..10_000_000_000)
            .contains(&seconds)
            .then_some(seconds);
    }
    let date = text.lines().find_map(|line| line.strip_prefix("date="))?;
    let date: Timestamp = date.trim().parse().ok()?;
    SystemTime::from(date)
        .duration_since(UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_stamps_in_use_are_read() {
        assert_eq!(written_time(b"1744500000\n"), Some(1_744_500_000));
        assert_eq!(
            written_time(b"###\nstate=abc\ndate=2025-04-12T23:20:00Z\n"),
            Some(1_744_500_000)
        );
        assert_eq!(written_time(b"Sun Apr 13 2025"), None);
        assert_eq!(written_time(b"7"), None);
        assert_eq!(written_time(b""), None);
    }
}
