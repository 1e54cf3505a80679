//! Numbers from what rsync prints: progress while it runs, totals at its end.
//!
//! Only lines of rsync's own making are read (`--info=progress2,stats2`): they carry no
//! file names, so no name can pretend to be one.
//!
//! - Not here: exit codes (`super::exit`).

use tokio::sync::watch;

use super::Outcome;

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files that are done or under way.
    pub bytes: u64,
    /// Percent of all bytes known so far.
    pub percent: u8,
    /// Files that were transferred.
    pub files: u64,
}

/// What a transfer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsyncReport {
    /// Whether everything could be sent.
    pub outcome: Outcome,
    /// Files that were transferred.
    pub transferred: u64,
    /// Their bytes.
    pub transferred_bytes: u64,
    /// Bytes that came over the network.
    pub received_bytes: u64,
    /// Entries that were removed here.
    pub deleted: u64,
    /// Entries at the source, folders included.
    pub entries: u64,
    /// What it complained about, at most 64 KiB.
    pub stderr: String,
}

#[derive(Debug)]
pub(crate) struct StatsReader {
    progress: Option<watch::Sender<Progress>>,
    now: Progress,
    transferred: u64,
    transferred_bytes: u64,
    received_bytes: u64,
    deleted: u64,
    entries: u64,
}

impl StatsReader {
    pub(crate) fn new(progress: Option<watch::Sender<Progress>>) -> Self {
        Self {
            progress,
            now: Progress::default(),
            transferred: 0,
            transferred_bytes: 0,
            received_bytes: 0,
            deleted: 0,
            entries: 0,
        }
    }

    pub(crate) fn line(&mut self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else {
            return;
        };
        match line.split_once(": ") {
            Some(("Number of files", n)) => self.entries = number(n),
            Some(("Number of deleted files", n)) => self.deleted = number(n),
            Some(("Number of regular files transferred", n)) => self.transferred = number(n),
            Some(("Total transferred file size", n)) => self.transferred_bytes = number(n),
            Some(("Total bytes received", n)) => self.received_bytes = number(n),
            _ => self.progress(line),
        }
    }

    /// `     1234567  42%   11.53MB/s    0:00:03 (xfr#12, to-chk=80/100)`
    fn progress(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let bytes = words.next().and_then(|w| w.parse().ok());
        let percent = words.next().and_then(|w| w.strip_suffix('%')?.parse().ok());
        let (Some(bytes), Some(percent)) = (bytes, percent) else {
            return;
        };
        self.now.bytes = bytes;
        self.now.percent = percent;
        let files = line
            .split_once("(xfr#")
            .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        self.now.files = files.unwrap_or(self.now.files);
        if let Some(progress) = &self.progress {
            progress.send_replace(self.now);
        }
    }

    pub(crate) fn report(self, outcome: Outcome, stderr: String) -> RsyncReport {
        RsyncReport {
            outcome,
            transferred: self.transferred,
            transferred_bytes: self.transferred_bytes,
            received_bytes: self.received_bytes,
            deleted: self.deleted,
            entries: self.entries,
            stderr,
        }
    }
}

/// The first number of `1,234 (reg: 1,200, dir: 34)` or `5678 bytes`.
fn number(text: &str) -> u64 {
    let digits = text
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == ',')
        .filter(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_progress_are_read() {
        let (tx, rx) = watch::channel(Progress::default());
        let mut s = StatsReader::new(Some(tx));
        for line in [
            "receiving file list ... ",
            "      1234567  42%   11.53MB/s    0:00:03 (xfr#12, to-chk=80/100)",
            "Number of files: 1,101 (reg: 1,000, dir: 101)",
            "Number of deleted files: 3",
            "Number of regular files transferred: 12",
            "Total transferred file size: 99999 bytes",
            "Total bytes received: 100,100",
            "  not 7% a number",
        ] {
            s.line(line.as_bytes());
        }
        assert_eq!(
            *rx.borrow(),
            Progress {
                bytes: 1_234_567,
                percent: 42,
                files: 12
            }
        );
        let r = s.report(Outcome::Whole, String::new());
        assert_eq!((r.entries, r.deleted, r.transferred), (1101, 3, 12));
        assert_eq!((r.transferred_bytes, r.received_bytes), (99_999, 100_100));
    }
}
