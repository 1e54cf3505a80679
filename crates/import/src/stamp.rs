//! The change stamp: a small file by which an upstream says when it last changed.
//!
//! - Invariant: an error page, a portal's page, an empty file or no answer is no stamp; it never counts as a change.
//! - Not here: what follows from a change (`crate::stamped`, `crate::round`).
//! - Read first: facts about mirrors: Arch and ALHP write seconds since 1970, Manjaro `date=2026-01-02T03:04:05Z`,
//!   others anything.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use pacstore_runtime::{Pool, Tasks};
use pacstore_upstream::{Get, Http, HttpError, Rsync, RsyncError, RsyncOptions, TransferSpec, Url, url_of};

use crate::scan::Root;
use crate::spec::{Limits, Source, StampSource};

/// The longest stamp.
const MAX: u64 = 64 << 10;

/// A file time is asked for by a condition only if it was this old when it was told: HTTP's times are whole seconds.
const GRAIN: Duration = Duration::from_secs(2);

/// Times that a stamp may say, 2001 to 2286; anything else is some other number, or a slip.
const TIMES: std::ops::Range<u64> = 1_000_000_000..10_000_000_000;

/// What a stamp says.
#[derive(Debug, Clone)]
pub(crate) struct ChangeStamp {
    bytes: Vec<u8>,
    /// Of the file, seconds since 1970.
    modified: Option<u64>,
    /// As the server gave it.
    etag: Option<String>,
    /// `Last-Modified`, if a later write must show in it.
    settled: Option<SystemTime>,
}

impl ChangeStamp {
    /// The time in it, else the time of it.
    pub(crate) fn time(&self) -> Option<u64> {
        written_time(&self.bytes).or(self.modified)
    }

    /// The time in it, which means the same on each mirror of an upstream; seconds since 1970.
    pub(crate) fn written_time(&self) -> Option<u64> {
        written_time(&self.bytes)
    }

    /// Whether the upstream has not changed between the two, as it says. The file may have been written anew.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes && (written_time(&self.bytes).is_some() || self.modified == other.modified)
    }
}

/// What came of asking for a stamp.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This one.
    Here(ChangeStamp),
    /// The one that is known.
    Same,
    /// The upstream has none.
    Absent,
    /// Something else came in its place, for people: it says nothing of the upstream.
    Odd(String),
    /// It could not be asked, for people.
    Away(String),
}

/// With what stamps are asked for.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) http: &'a Http,
    pub(crate) rsync: &'a RsyncOptions,
    pub(crate) tasks: &'a Tasks,
    pub(crate) limits: &'a Limits,
    /// The importer's folder for rsync.
    pub(crate) folder: &'a Path,
}

impl Asker<'_> {
    /// Asks for a stamp; `known` is the one that this source gave last.
    pub(crate) async fn ask(
        &self,
        stamp: &StampSource,
        source: &Source,
        known: Option<&ChangeStamp>,
    ) -> Answer {
        let path = match stamp {
            StampSource::Url(url) => return self.over_http(url, known).await,
            StampSource::Path(path) => path.trim_start_matches('/').as_bytes(),
            StampSource::Each(_) => return Answer::Absent,
        };
        match source {
            Source::Http(base) => match url_of(base, path) {
                Ok(url) => self.over_http(&url, known).await,
                Err(_) => Answer::Absent,
            },
            Source::Directory(folder) => self.on_disk(folder, path, known).await,
            Source::Rsync(url) => match self.copy(url.as_str(), path).await {
                Ok(()) => self.on_disk(&self.copied(), path, known).await,
                Err(error) => Answer::Away(said(&error)),
            },
        }
    }

    async fn over_http(&self, url: &Url, known: Option<&ChangeStamp>) -> Answer {
        let mut get = Get::new(url);
        get.max_len = Some(MAX);
        get.deadline = Some(self.limits.small);
        get.if_none_match = known.and_then(|stamp| stamp.etag.clone());
        if get.if_none_match.is_none() {
            get.if_modified_since = known.and_then(|stamp| stamp.settled);
        }
        let answer = async {
            let mut answer = self.http.get(&get).await?;
            let bytes = answer.bytes().await?.to_vec();
            Ok::<_, HttpError>((bytes, answer))
        };
        let (bytes, answer) = match answer.await {
            Ok(got) => got,
            Err(HttpError::NotModified { .. }) if known.is_some() => return Answer::Same,
            Err(HttpError::Status {
                code: 401 | 403 | 404 | 410,
                ..
            }) => return Answer::Absent,
            Err(
                error
                @ (HttpError::Redirect { .. } | HttpError::Forbidden { .. } | HttpError::TooLong { .. }),
            ) => return Answer::Odd(said(&error)),
            Err(error) => return Answer::Away(said(&error)),
        };
        let stamp = ChangeStamp {
            bytes,
            modified: answer.last_modified.and_then(seconds),
            etag: answer.etag.clone(),
            settled: answer.last_modified.filter(|modified| {
                let age = answer.date.and_then(|date| date.duration_since(*modified).ok());
                age.is_some_and(|age| GRAIN <= age)
            }),
        };
        let led_away = answer.url.host_str() != url.host_str();
        judge(stamp, known, led_away, &shown(url))
    }

    async fn on_disk(&self, folder: &Path, path: &[u8], known: Option<&ChangeStamp>) -> Answer {
        let (folder, path) = (folder.to_owned(), path.to_vec());
        let name = crate::names::show(&path);
        let read = move || {
            let (file, stamp) = Root::open(&folder).ok()?.open_file(&path).ok()?;
            let mut bytes = Vec::new();
            file.take(MAX).read_to_end(&mut bytes).ok()?;
            Some(ChangeStamp {
                bytes,
                modified: stamp.seconds().and_then(|s| u64::try_from(s).ok()),
                etag: None,
                settled: None,
            })
        };
        match self.tasks.blocking(Pool::Disk, read).await {
            Ok(Some(stamp)) => judge(stamp, known, false, &name),
            Ok(None) | Err(_) => Answer::Absent,
        }
    }

    /// Where the stamp of an rsync module is copied to.
    fn copied(&self) -> std::path::PathBuf {
        self.folder.join("stamp")
    }

    /// The one file, into a folder of its own: the staging tree is left alone.
    async fn copy(&self, source: &str, path: &[u8]) -> Result<(), RsyncError> {
        let (dest, scratch) = (self.copied(), self.folder.join("stamp-scratch"));
        let old = dest.clone();
        // What is not there any more must not be found again.
        let cleared = move || match fs_err::remove_dir_all(&old) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(RsyncError::Prepare { path: old, source: e })
            }
            _ => Ok(()),
        };
        self.tasks.blocking(Pool::Disk, cleared).await??;
        let mut spec = TransferSpec::new(source, &dest, &scratch);
        spec.only = Some(vec![path.to_vec()]);
        spec.max_size = Some(MAX);
        spec.deadline = self.limits.small;
        spec.stop = self.tasks.stop().child_token();
        let rsync = Rsync::new(self.rsync.clone(), self.tasks.clone());
        rsync.transfer(&spec).await.map(drop)
    }
}

/// Whether it is a stamp at all.
fn judge(stamp: ChangeStamp, known: Option<&ChangeStamp>, led_away: bool, name: &str) -> Answer {
    let text = stamp.bytes.trim_ascii_start();
    let odd = |what: &str| Answer::Odd(format!("{name} is {what}, no change stamp"));
    let timed = written_time(&stamp.bytes).is_some();
    if text.is_empty() {
        odd("empty")
    } else if text.starts_with(b"<") || text.starts_with(b"\xef\xbb\xbf<") {
        odd("a web page")
    } else if text.contains(&0) {
        odd("not text")
    } else if !timed && led_away {
        odd("what another host sent")
    } else if !timed && known.is_some_and(|known| written_time(&known.bytes).is_some()) {
        odd("without the time that it had before")
    } else {
        Answer::Here(stamp)
    }
}

/// An error and its sources in one line.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

fn shown(url: &Url) -> String {
    Source::Http(url.clone()).to_string()
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// The time that stands in a stamp: seconds since 1970 as its first word, or `date=` and RFC 3339.
fn written_time(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let first = text.split_ascii_whitespace().next()?;
    if let Ok(seconds) = first.parse::<u64>() {
        return TIMES.contains(&seconds).then_some(seconds);
    }
    let date = text.lines().find_map(|line| line.strip_prefix("date="))?;
    let date: Timestamp = date.trim().parse().ok()?;
    seconds(SystemTime::from(date)).filter(|seconds| TIMES.contains(seconds))
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

    #[test]
    fn a_time_with_other_line_ends_is_read_and_one_that_cannot_be_is_none() {
        for (bytes, time) in [
            (&b"1744500000\r\n"[..], Some(1_744_500_000)),
            (b"\r\n  1744500000\r\n", Some(1_744_500_000)),
            (b"1744500000 UTC\n", Some(1_744_500_000)),
            (b"state=abc\r\ndate=2025-04-12T23:20:00Z\r\n", Some(1_744_500_000)),
            (b"date=2025-04-12T23:20:00Z \n", Some(1_744_500_000)),
            (b"9999999999\n", Some(9_999_999_999)),
            (b"10000000000\n", None),
            (b"date=2300-01-01T00:00:00Z\n", None),
            (b"date=9999-12-30T00:00:00Z\n", None),
            (b"99999999999999999999999999\n", None),
            (b"-1744500000\n", None),
            (b"date=1901-01-01T00:00:00Z\n", None),
            (b"date=-1744500000\n", None),
            (b"date=\n", None),
            (b"1744500000garbage\n", None),
            (b"1744500000\xff\n", None),
            (b"\xef\xbb\xbf1744500000\n", None),
            (b"\xff\xfe\x01", None),
        ] {
            assert_eq!(written_time(bytes), time, "{}", bytes.escape_ascii());
        }
    }

    fn stamp(bytes: &[u8]) -> ChangeStamp {
        ChangeStamp {
            bytes: bytes.to_vec(),
            modified: Some(1_744_500_000),
            etag: None,
            settled: None,
        }
    }

    #[test]
    fn what_is_no_stamp_is_told_apart() {
        let known = stamp(b"1744500000\n");
        let is_odd = |bytes: &[u8], known: Option<&ChangeStamp>, led_away: bool| {
            matches!(judge(stamp(bytes), known, led_away, "lastupdate"), Answer::Odd(_))
        };
        for bytes in [
            &b""[..],
            b" \n",
            b"<html>",
            b"\n <!DOCTYPE html>",
            b"\xef\xbb\xbf<x>",
            b"a\0b",
        ] {
            assert!(is_odd(bytes, None, false), "{bytes:?}");
        }
        assert!(
            !is_odd(b"1744500001", Some(&known), true),
            "a redirect to a real stamp"
        );
        assert!(is_odd(b"please log in", None, true), "a portal");
        assert!(
            is_odd(b"please log in", Some(&known), false),
            "a number was there before"
        );
        assert!(!is_odd(b"any text", None, false));
    }

    #[test]
    fn a_stamp_without_a_time_in_it_is_known_by_the_time_of_its_file() {
        let later = |bytes: &[u8]| ChangeStamp {
            modified: Some(1_744_500_001),
            ..stamp(bytes)
        };
        assert!(!later(b"any text").says_the_same(&stamp(b"any text")));
        assert!(later(b"1744500000").says_the_same(&stamp(b"1744500000")));
        assert!(!later(b"1744500001").says_the_same(&stamp(b"1744500000")));
    }
}
