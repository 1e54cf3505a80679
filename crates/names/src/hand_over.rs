//! Hand-overs: the last record of a KEY names the KEY that signs from then on.
//!
//! The successor goes on counting where the old KEY stopped, so heads of both stand in one order and
//! [`Seen::hand_over`](crate::Seen::hand_over) moves what was seen. Readers that know nothing of this
//! see a record like any other, of the old KEY's last tree.
//!
//! - Invariant: the first hand-over of a KEY that was taken in stands; whoever has that KEY later cannot
//!   take it back, and none leads back to where it came from.
//! - Invariant: every chain ends.
//! - Not here: keeping them on disk, telling others (`node`, `hand_over.rs`).
//! - Read first: `docs/decisions/0015-a-key-is-handed-over-by-its-last-record.md`.

use std::collections::BTreeMap;

use crate::name::IpnsName;
use crate::record::{Record, RecordError, better};

/// The most hand-overs of one mirror.
pub const MAX_HAND_OVERS: usize = 64;

/// Why a hand-over is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The record names no successor.
    #[error("record of {0} names no successor")]
    None(IpnsName),
    /// The record is not by the KEY.
    #[error("hand-over does not verify")]
    Record(#[from] RecordError),
    /// Another one was taken in first.
    #[error("{key} was handed over to {known} before; {other} comes too late")]
    Other {
        /// The old KEY.
        key: IpnsName,
        /// Whom it was handed over to first.
        known: IpnsName,
        /// Whom this one names.
        other: IpnsName,
    },
    /// It leads back to the KEY itself.
    #[error("{0} was itself handed over before")]
    Back(IpnsName),
    /// There are [`MAX_HAND_OVERS`] already.
    #[error("more than {MAX_HAND_OVERS} hand-overs")]
    TooMany,
}

/// The hand-overs of one mirror.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HandOvers(BTreeMap<IpnsName, (IpnsName, Record)>);

impl HandOvers {
    /// Takes in `record`, by which `key` was handed over. True if that is news.
    ///
    /// Its expiry is not looked at: what came in while it was in force stands for ever.
    ///
    /// # Errors
    /// [`HandOverError`]; nothing has changed then.
    pub fn add(&mut self, key: IpnsName, record: Record) -> Result<bool, HandOverError> {
        let to = record.successor().ok_or(HandOverError::None(key))?;
        record.verify_signature(&key)?;
        if let Some((known, old)) = self.0.get_mut(&key) {
            if *known != to {
                let (known, other) = (*known, to);
                return Err(HandOverError::Other { key, known, other });
            }
            if better(&record, old).is_gt() {
                *old = record;
            }
            return Ok(false);
        }
        if self.heir(&to) == key {
            return Err(HandOverError::Back(to));
        }
        if self.0.len() >= MAX_HAND_OVERS {
            return Err(HandOverError::TooMany);
        }
        self.0.insert(key, (to, record));
        Ok(true)
    }

    /// The KEY that signs today for what `key` signed once; itself where it was not handed over.
    pub fn heir(&self, key: &IpnsName) -> IpnsName {
        let mut heir = *key;
        // Each step goes on to another entry: chains have no rings, by how they are made.
        for _ in 0..self.0.len() {
            match self.0.get(&heir) {
                Some((next, _)) => heir = *next,
                None => break,
            }
        }
        heir
    }

    /// Whether `key` was handed over.
    pub fn is_over(&self, key: &IpnsName) -> bool {
        self.0.contains_key(key)
    }

    /// The KEYs that sign today where the configuration lists `keys`, each once.
    pub fn heirs(&self, keys: &[IpnsName]) -> Vec<IpnsName> {
        let mut heirs = Vec::new();
        for key in keys {
            let heir = self.heir(key);
            if !heirs.contains(&heir) {
                heirs.push(heir);
            }
        }
        heirs
    }

    /// Each KEY that was handed over, with the record that says so.
    pub fn iter(&self) -> impl Iterator<Item = (&IpnsName, &Record)> {
        self.0.iter().map(|(key, (_, record))| (key, record))
    }
}
