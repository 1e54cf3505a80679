//! Receipts: of each file that was given or fetched lately, where its bytes came from and what
//! they were checked against.
//!
//! - Invariant: at most [`MAX`] receipts in memory, each of bounded strings; at most
//!   [`MAX_SAVED`] bytes of them on disk, in one value. The oldest go first.
//! - Invariant: a receipt says nothing about who asked.
//! - Invariant: at most one write in [`EVERY_S`] seconds, and one at the stop; a kill loses what
//!   came since.
//! - Not here: when one is written out (`crate::giving`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pacstore_pacman::PkgFileName;
use pacstore_runtime::Clock;
use pacstore_store::{Origin, Store};
use serde::{Deserialize, Serialize};

use crate::bytes_out::BytesOut;
use crate::error::StoreError;
use crate::ranking::Remember;

/// Receipts kept.
const MAX: usize = 2000;

/// Bytes of them on disk, at most: 1 MiB.
const MAX_SAVED: usize = 1 << 20;

/// Receipts that one question gets, at most.
const TOLD: usize = 20;

/// Seconds between two writes.
const EVERY_S: u64 = 900;

/// Bytes of one text in a receipt, at most.
const TEXT: usize = 400;

/// Where it is kept.
const KEY: &str = "receipts";

/// Who brought bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Giver {
    /// A peer's id, or the host of an ordinary mirror.
    pub who: String,
    /// `lan`, `peer` or `upstream`.
    pub source: String,
    /// Verified bytes from there.
    pub bytes: u64,
}

impl Giver {
    pub(crate) fn new(who: String, origin: Origin, bytes: u64) -> Self {
        let source = match origin {
            Origin::Disk => "disk",
            Origin::Lan => "lan",
            Origin::Peer => "peer",
            Origin::Upstream => "upstream",
        };
        Self {
            who,
            source: source.to_owned(),
            bytes,
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All that was asked for was given.
    Given,
    /// Fetched ahead; given to nobody yet.
    Fetched,
    /// Who asked was sent to an ordinary mirror.
    Redirected,
    /// It broke off half-way.
    Broken,
    /// No byte of it could be given.
    Failed,
}

/// What became of one request for a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The file's name, without its folder.
    pub name: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How it ended.
    pub ended: Ending,
    /// Why it ended so, where that is no matter of course.
    pub why: Option<String>,
    /// Where who asked was sent to.
    pub url: Option<String>,
    /// The root of its DAG, where it is known.
    pub root: Option<String>,
    /// The file's length in bytes, where it is known.
    pub len: Option<u64>,
    /// Bytes given, by the source that this node first got them from.
    pub bytes: BytesOut,
    /// Who brought the file to this node, as far as it is remembered.
    pub givers: Vec<Giver>,
    /// What its bytes were checked against.
    pub checked: Option<String>,
}

impl Receipt {
    /// With texts cut to what a receipt may hold.
    fn bounded(mut self) -> Self {
        let texts = [Some(&mut self.name), self.why.as_mut(), self.url.as_mut()];
        for text in texts.into_iter().flatten().chain(self.checked.as_mut()) {
            text.truncate(text.floor_char_boundary(TEXT));
        }
        self
    }

    /// Whether it is about `what`: a file's name, or a package's (its signatures' too).
    fn is_about(&self, what: &str) -> bool {
        let file = self.name.strip_suffix(".sig").unwrap_or(&self.name);
        self.name == what || PkgFileName::parse(file).is_ok_and(|parsed| parsed.name() == what)
    }
}

/// The receipts, the oldest first.
#[derive(Debug)]
pub(crate) struct Receipts {
    ring: Mutex<VecDeque<Receipt>>,
    clock: Clock,
    /// How many were ever put, and how many of these are on disk.
    put: AtomicU64,
    saved: AtomicU64,
    saved_at: AtomicU64,
}

impl Receipts {
    /// As they were saved last. What cannot be read is left out.
    pub(crate) fn load(store: &Store, clock: Clock) -> Result<Self, StoreError> {
        let saved = store.state_get(KEY)?.unwrap_or_default();
        let mut ring: VecDeque<Receipt> = saved
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .map(Receipt::bounded)
            .collect();
        ring.drain(..ring.len().saturating_sub(MAX));
        let saved_at = clock.unix_seconds().into();
        Ok(Self {
            ring: Mutex::new(ring),
            clock,
            put: AtomicU64::new(0),
            saved: AtomicU64::new(0),
            saved_at,
        })
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Receipt>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(crate) fn put(&self, receipt: Receipt) {
        let mut ring = self.ring();
        if ring.len() >= MAX {
            ring.pop_front();
        }
        ring.push_back(receipt.bounded());
        self.put.fetch_add(1, Ordering::Relaxed);
    }

    /// The newest about `what`, the newest first. Who brought a file that came from this disk
    /// is in the receipt of the time when it came.
    pub(crate) fn about(&self, what: &str) -> Vec<Receipt> {
        let ring = self.ring();
        let about = ring.iter().rev().filter(|receipt| receipt.is_about(what));
        let mut found: Vec<Receipt> = about.take(TOLD).cloned().collect();
        for receipt in &mut found {
            if receipt.givers.is_empty() && receipt.root.is_some() {
                let same = |old: &&Receipt| old.root == receipt.root && !old.givers.is_empty();
                if let Some(old) = ring.iter().rev().find(same) {
                    receipt.givers.clone_from(&old.givers);
                }
            }
        }
        found
    }

    /// Writes them down if that is due and any is new.
    pub(crate) fn save(&self, store: &Store, what: Remember) -> Result<(), StoreError> {
        let now = self.clock.unix_seconds();
        let due = now.abs_diff(self.saved_at.load(Ordering::Relaxed)) >= EVERY_S;
        if what == Remember::WhatIsDue && !due {
            return Ok(());
        }
        let put = self.put.load(Ordering::Relaxed);
        if put != self.saved.load(Ordering::Relaxed) {
            let lines = self.lines();
            store.state_put(&[(KEY, Some(&lines))])?;
            self.saved.store(put, Ordering::Relaxed);
        }
        self.saved_at.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// The newest that fit into [`MAX_SAVED`], one a line, the oldest first.
    fn lines(&self) -> Vec<u8> {
        let ring: Vec<Receipt> = self.ring().iter().cloned().collect();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        for receipt in ring.iter().rev() {
            let line = serde_json::to_vec(receipt).unwrap_or_default();
            bytes += line.len() + 1;
            if MAX_SAVED < bytes {
                break;
            }
            lines.push(line);
        }
        lines.reverse();
        lines.join(&b'\n')
    }
}

#[cfg(test)]
mod tests {
    use pacstore_store::Options;

    use super::*;

    fn receipt(name: &str) -> Receipt {
        Receipt {
            name: name.to_owned(),
            at: String::new(),
            took_ms: 0,
            ended: Ending::Given,
            why: Some("é".repeat(4000)),
            url: None,
            root: Some("root".to_owned()),
            len: Some(1),
            bytes: BytesOut::default(),
            givers: Vec::new(),
            checked: None,
        }
    }

    fn open(dir: &std::path::Path) -> Store {
        let options = Options {
            max_size: 1 << 20,
            clock: Clock::system(),
        };
        Store::open(dir, options).expect("a store")
    }

    #[test]
    fn the_newest_receipts_stay_and_survive_a_restart_in_bounded_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = open(dir.path());
        let receipts = Receipts::load(&store, Clock::system()).expect("none yet");
        for n in 0..MAX + 5 {
            receipts.put(receipt(&format!("a-{n}-1-any.pkg.tar.zst")));
        }
        assert_eq!(receipts.ring().len(), MAX);
        assert_eq!(receipts.about("a-4-1-any.pkg.tar.zst"), [], "the oldest went");
        assert!(
            receipts
                .about("a")
                .iter()
                .all(|r| r.why.as_ref().is_some_and(|w| w.len() <= TEXT))
        );
        let ask = |receipts: &Receipts| -> Vec<String> {
            receipts.about("a").into_iter().map(|r| r.name).collect()
        };
        let newest = ask(&receipts);
        assert_eq!((newest.len(), &*newest[0]), (TOLD, "a-2004-1-any.pkg.tar.zst"));
        receipts.save(&store, Remember::WhatIsDue).expect("not due");
        assert_eq!(store.state_get(KEY).expect("readable"), None);
        receipts.save(&store, Remember::Everything).expect("saved");
        let saved = store.state_get(KEY).expect("readable").expect("there");
        assert!(saved.len() <= MAX_SAVED);
        let again = Receipts::load(&store, Clock::system()).expect("readable");
        assert_eq!(ask(&again), newest);
    }

    #[test]
    fn a_damaged_line_costs_only_its_own_receipt() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = open(dir.path());
        let line = serde_json::to_string(&receipt("core.db")).expect("JSON");
        let text = format!("{line}\n{{\"name\":7}}\n\u{0}\n{line}");
        store.state_put(&[(KEY, Some(text.as_bytes()))]).expect("written");
        let receipts = Receipts::load(&store, Clock::system()).expect("readable");
        assert_eq!(receipts.about("core.db").len(), 2);
    }

    #[test]
    fn who_brought_a_file_is_told_when_it_is_given_from_disk_later() {
        let dir = tempfile::tempdir().expect("a folder");
        let receipts = Receipts::load(&open(dir.path()), Clock::system()).expect("none yet");
        let mut first = receipt("a-1-1-any.pkg.tar.zst");
        first.givers = vec![Giver::new("m.test".to_owned(), Origin::Upstream, 1)];
        receipts.put(first.clone());
        receipts.put(receipt("a-1-1-any.pkg.tar.zst"));
        receipts.put(receipt("ab-1-1-any.pkg.tar.zst"));
        let told = receipts.about("a");
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].givers, first.givers);
    }
}
