//! `rsync --list-only`: the entries of a mirror, with names of any bytes.
//!
//! rsync writes each control character of a name as `\#ooo` (octal), and a `\#` that would look like that likewise; all
//! other bytes come as they are, so names come back exactly.
//!
//! - Invariant: one line is one entry; an unreadable line is an error, never skipped.
//! - Read first: rsync(1), `--8-bit-output`, `--list-only`.

use std::ffi::OsString;
use std::time::{Duration, SystemTime};

use pacstore_runtime::CancellationToken;
use ring::digest::{Context, SHA256};

use super::{RsyncError, Rule, unix};
use crate::pulse::Pulse;

/// What to list.
#[derive(Clone, Debug)]
pub struct ListSpec<'a> {
    /// As in [`TransferSpec`](super::TransferSpec).
    pub source: &'a str,
    /// All below, or the folder alone.
    pub recursive: bool,
    /// Links as links with their targets, and devices; else links as what they point at, which never
    /// ends where a link leads back to a folder above itself.
    pub keep_links: bool,
    /// Which names.
    pub rules: Vec<Rule>,
    /// More is an error.
    pub max_entries: usize,
    /// For all of it.
    pub deadline: Duration,
    /// Ends it early.
    pub stop: CancellationToken,
    /// Beats with each entry that comes.
    pub pulse: Pulse,
}

impl<'a> ListSpec<'a> {
    /// The folder `source` alone; at most 500,000 entries, ten minutes.
    pub fn new(source: &'a str) -> Self {
        Self {
            source,
            recursive: false,
            keep_links: false,
            rules: Vec::new(),
            max_entries: 500_000,
            deadline: Duration::from_mins(10),
            stop: CancellationToken::new(),
            pulse: Pulse::default(),
        }
    }

    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut a = vec![OsString::from("--list-only"), "--8-bit-output".into()];
        a.push(if self.recursive {
            "--recursive".into()
        } else {
            "--dirs".into()
        });
        if self.keep_links {
            a.extend(["--links", "--devices", "--specials"].map(OsString::from));
        } else {
            a.push("--copy-links".into());
        }
        a.extend(self.rules.iter().map(Rule::argument));
        a.extend(["--".into(), self.source.into()]);
        a
    }
}

/// What a mirror was listed to have.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In rsync's order.
    pub entries: Vec<Listed>,
    /// SHA-256 of all that was said, which is the same while nothing changed; none where not all could be read.
    pub digest: Option<[u8; 32]>,
}

/// A listing as it comes.
pub(crate) struct ListingReader {
    entries: Vec<Listed>,
    said: Context,
    most: usize,
}

impl ListingReader {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: Vec::new(),
            said: Context::new(&SHA256),
            most,
        }
    }

    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), RsyncError> {
        let Some(entry) = parse_line(line)? else {
            return Ok(());
        };
        if self.most <= self.entries.len() {
            return Err(RsyncError::TooMany(self.most));
        }
        self.said.update(line);
        self.said.update(b"\n");
        self.entries.push(entry);
        Ok(())
    }

    pub(crate) fn end(self) -> Listing {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.said.finish().as_ref());
        Listing {
            entries: self.entries,
            digest: Some(digest),
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A link; only where links are kept.
    Link,
    /// A device, socket or pipe.
    Other,
    /// The sender could not read it: a folder may have names below it, of another name not even its kind is known.
    Unread,
}

/// One entry of a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Below the source, raw bytes; `.` for the source itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: ListedKind,
    /// Length in bytes.
    pub len: u64,
    /// Modification time, whole seconds.
    pub mtime: SystemTime,
    /// What a link points at; empty of everything else.
    pub target: Vec<u8>,
}

/// One line of `rsync --list-only`, `-rw-r--r--  1,234 2026/11/21 10:00:00 name`; `None` for rsync's own remarks.
///
/// # Errors
/// [`RsyncError::Listing`] with the line's beginning.
pub fn parse_line(line: &[u8]) -> Result<Option<Listed>, RsyncError> {
    let unreadable =
        || RsyncError::Listing(String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned());
    let (mode, rest) = word(line).ok_or_else(unreadable)?;
    if mode.len() < 10 {
        return Ok(None); // such as `sent 20 bytes  received ...`
    }
    let (len, rest) = word(rest).ok_or_else(unreadable)?;
    let (day, rest) = word(rest).ok_or_else(unreadable)?;
    let (time, rest) = word(rest).ok_or_else(unreadable)?;
    let name = rest
        .strip_prefix(b" ")
        .filter(|n| !n.is_empty())
        .ok_or_else(unreadable)?;
    let digits: String = len
        .iter()
        .filter(|b| **b != b',')
        .map(|b| char::from(*b))
        .collect();
    let kind = match mode[0] {
        b'-' => ListedKind::File,
        b'd' => ListedKind::Dir,
        b'l' => ListedKind::Link,
        _ => ListedKind::Other,
    };
    let len = digits.parse().map_err(|_| unreadable())?;
    let (path, target) = match kind {
        ListedKind::Link => at_arrow(&unescape(name), len).ok_or_else(unreadable)?,
        _ => (unescape(name), Vec::new()),
    };
    Ok(Some(Listed {
        path,
        kind,
        len,
        mtime: moment(day, time).ok_or_else(unreadable)?,
        target,
    }))
}

/// The name and the target of `name -> target`.
///
/// Either may hold an arrow; then the length of the link, which is that of its target, says which one it is.
fn at_arrow(text: &[u8], len: u64) -> Option<(Vec<u8>, Vec<u8>)> {
    const ARROW: &[u8] = b" -> ";
    let arrows = |at: &usize| text.get(*at..*at + ARROW.len()) == Some(ARROW);
    let mut places = (1..text.len()).filter(arrows);
    let (first, second) = (places.next()?, places.next());
    let by_len = || {
        let target = usize::try_from(len).ok()?;
        let at = text.len().checked_sub(target.checked_add(ARROW.len())?)?;
        arrows(&at).then_some(at)
    };
    let at = if second.is_none() { first } else { by_len()? };
    let (name, target) = (text.get(..at)?, text.get(at + ARROW.len()..)?);
    (!name.is_empty()).then(|| (name.to_vec(), target.to_vec()))
}

/// The first word after blanks, and what follows it.
fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = line.iter().position(|b| *b != b' ')?;
    let end = line[start..]
        .iter()
        .position(|b| *b == b' ')
        .map_or(line.len(), |n| start + n);
    Some((&line[start..end], &line[end..]))
}

pub(super) fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        if let [
            b'\\',
            b'#',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            after @ ..,
        ] = rest
        {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

fn moment(day: &[u8], time: &[u8]) -> Option<SystemTime> {
    let numbers = |text: &[u8], by: u8| -> Option<[i64; 3]> {
        let mut parts = text
            .split(|b| *b == by)
            .map(|p| std::str::from_utf8(p).ok()?.parse::<i64>().ok());
        let all = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(all)
    };
    let [year, month, date] = numbers(day, b'/')?;
    let [hour, minute, second] = numbers(time, b':')?;
    let sane = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&date)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    sane.then(|| unix(days(year, month, date) * 86_400 + hour * 3600 + minute * 60 + second))
}

/// Days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_names_of_any_bytes() {
        let line = br"-rw-r--r--      1,234,567 2026/11/21 10:00:01  a b\#012\#303\#244\#134#041";
        let e = parse_line(line).expect("readable").expect("an entry");
        assert_eq!(e.path, b" a b\n\xc3\xa4\\#041");
        assert_eq!((e.kind, e.len), (ListedKind::File, 1_234_567));
        assert_eq!(e.mtime, unix(1_795_255_201));
        let e = parse_line(b"drwxr-xr-x          4096 1969/12/31 23:59:59 .")
            .expect("ok")
            .expect("entry");
        assert_eq!(
            (e.path.as_slice(), e.kind, e.mtime),
            (&b"."[..], ListedKind::Dir, unix(-1))
        );
        assert_eq!(
            parse_line(b"sent 20 bytes  received 99 bytes  238.00 bytes/sec").expect("ok"),
            None
        );
        for (line, name, target) in [
            (
                &b"lrwxrwxrwx 5 2026/11/21 10:00:01 a -> ../b\\#012"[..],
                &b"a"[..],
                &b"../b\n"[..],
            ),
            (b"lrwxrwxrwx 6 2026/11/21 10:00:01 a -> b -> c", b"a", b"b -> c"),
            (b"lrwxrwxrwx 1 2026/11/21 10:00:01 a -> b -> c", b"a -> b", b"c"),
        ] {
            let e = parse_line(line).expect("readable").expect("an entry");
            assert_eq!((e.kind, &*e.path, &*e.target), (ListedKind::Link, name, target));
        }
        for bad in [
            &b"lrwxrwxrwx 3 2026/11/21 10:00:01 a -> b -> c"[..],
            b"lrwxrwxrwx 3 2026/11/21 10:00:01 a",
            b"-rw-r--r-- x 2026/11/21 10:00:01 a",
            b"-rw-r--r-- 1 2026/13/21 10:00:01 a",
            b"-rw-r--r-- 1",
        ] {
            assert!(parse_line(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
