//! Which trees a mirror had: a line for each, also for those that are gone.
//!
//! - Invariant: a line is written in the same transaction that makes its head current.
//! - Invariant: at most [`MAX`] lines a mirror; the oldest go first.
//! - Not here: what is kept of the trees (`crate::mirror`).

use std::sync::atomic::{AtomicU64, Ordering};

use pacstore_names::{MirrorName, Signed, rfc3339};
use pacstore_store::Store;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::mirror::Mirror;

/// Lines a mirror.
const MAX: u64 = 1000;

/// A head that was current, the first over its tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The head's CID.
    pub head: String,
    /// The tree; `/ipfs/TREE/` serves it while it is kept.
    pub tree: String,
    /// Of its record.
    pub sequence: u64,
    /// How old upstream said its state is, RFC 3339.
    pub upstream_time: String,
    /// When it became current here, RFC 3339.
    pub accepted: String,
    /// Files of the tree.
    pub files: u64,
    /// Bytes of the tree.
    pub bytes: u64,
    /// Whether its tree is still held here.
    #[serde(default)]
    pub kept: bool,
}

/// The lines of one mirror.
#[derive(Debug)]
pub(crate) struct History {
    prefix: String,
    next: AtomicU64,
}

impl History {
    pub(crate) fn load(store: &Store, name: &MirrorName) -> Result<Self, StoreError> {
        let prefix = format!("history/{name}/");
        let last = store
            .state_list(&prefix)?
            .into_iter()
            .map(|(key, _)| key)
            .next_back();
        let last = last.and_then(|key| key.strip_prefix(&prefix)?.parse::<u64>().ok());
        Ok(Self {
            prefix,
            next: AtomicU64::new(last.map_or(0, |last| last + 1)),
        })
    }

    fn key(&self, number: u64) -> String {
        format!("{}{number:010}", self.prefix)
    }

    /// What is to be written when `new` becomes current. A change that then fails leaves a gap
    /// in the numbers and nothing else.
    pub(crate) fn line(&self, new: &Signed, now: u64) -> Vec<(String, Option<Vec<u8>>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let past = Past {
            head: new.head_cid.to_string(),
            tree: new.head.tree.to_string(),
            sequence: new.head.sequence,
            upstream_time: rfc3339(new.head.upstream_time()),
            accepted: rfc3339(now),
            files: new.head.counts.files,
            bytes: new.head.counts.bytes,
            kept: false,
        };
        let mut entries = vec![(
            self.key(number),
            Some(serde_json::to_vec(&past).unwrap_or_default()),
        )];
        if let Some(oldest) = number.checked_sub(MAX) {
            entries.push((self.key(oldest), None));
        }
        entries
    }

    fn read(&self, store: &Store) -> Result<Vec<Past>, StoreError> {
        let lines = store.state_list(&self.prefix)?;
        let parsed = lines
            .iter()
            .filter_map(|(_, line)| serde_json::from_slice(line).ok());
        Ok(parsed.collect())
    }
}

impl Mirror {
    /// The trees that this mirror had here, newest first. Blocking.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn history(&self) -> Result<Vec<Past>, StoreError> {
        let kept: Vec<String> = self
            .heads()
            .iter()
            .map(|head| head.head.tree.to_string())
            .collect();
        let mut past = self.past.read(self.store())?;
        for one in &mut past {
            one.kept = kept.contains(&one.tree);
        }
        past.reverse();
        Ok(past)
    }
}
