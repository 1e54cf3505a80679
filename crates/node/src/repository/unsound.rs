//! Packages that came whole and are not given, because who signed them is not known or not trusted.
//!
//! They stay in the store: their key may be trusted later, or a mirror may have a better signature, and neither is a
//! reason to download them again. But they count as missing, and are the first to go.
//!
//! - Invariant: survives a restart; what is no longer in the store is forgotten.
//! - Not here: the check itself (`super::good`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pacstore_dag as dag;
use pacstore_store::Store;
use serde::{Deserialize, Serialize};

use super::prefix;
use crate::config::RepositoryConfig;
use crate::error::StoreError;

/// Keys of all of them begin so.
const PREFIX: &str = "unsound/";

/// Packages remembered of one repository.
const MOST: usize = 10_000;

/// Why a package is not given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    name: String,
    why: String,
}

/// Those of one repository.
#[derive(Debug)]
pub(super) struct Unsound {
    store: Store,
    prefix: String,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    all: HashMap<[u8; 32], Row>,
    /// The one that was noted last.
    last: Option<[u8; 32]>,
}

impl Unsound {
    /// Those that the store remembers; without a keyring there are none. Blocks on the disk.
    pub(super) fn load(config: &RepositoryConfig, store: Store) -> Result<Self, StoreError> {
        let prefix = format!("{PREFIX}{}", prefix(config));
        let mut rows = Rows::default();
        if config.keyring.is_some() {
            for (key, row) in store.state_list(&prefix)? {
                let digest = key.strip_prefix(&prefix).and_then(digest);
                if let (Some(sha256), Ok(row)) = (digest, serde_json::from_slice(&row)) {
                    rows.all.insert(sha256, row);
                    rows.last = Some(sha256);
                }
            }
        }
        Ok(Self {
            store,
            prefix,
            rows: Mutex::new(rows),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The package is not given.
    pub(super) fn has(&self, sha256: &[u8; 32]) -> bool {
        self.lock().all.contains_key(sha256)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// Notes that a package is not given, and why. Blocks on the disk.
    pub(super) fn note(&self, sha256: [u8; 32], name: &str, why: &str) -> Result<(), StoreError> {
        let row = Row {
            name: name.to_owned(),
            why: why.to_owned(),
        };
        {
            let mut rows = self.lock();
            let known = rows.all.get(&sha256) == Some(&row);
            rows.last = Some(sha256);
            if known || (rows.all.len() >= MOST && !rows.all.contains_key(&sha256)) {
                return Ok(());
            }
            rows.all.insert(sha256, row.clone());
        }
        let saved = serde_json::to_vec(&row).unwrap_or_default();
        Ok(self.store.state_put(&[(&self.key(&sha256), Some(&saved))])?)
    }

    /// It is given. Blocks on the disk if it was not before.
    pub(super) fn forget(&self, sha256: &[u8; 32]) -> Result<(), StoreError> {
        if self.lock().all.remove(sha256).is_none() {
            return Ok(());
        }
        Ok(self.store.state_put(&[(&self.key(sha256), None)])?)
    }

    /// Forgets those that are no longer in the store. Blocks on the disk.
    pub(super) fn prune(&self) -> Result<(), StoreError> {
        let known: Vec<[u8; 32]> = self.lock().all.keys().copied().collect();
        for sha256 in known {
            if self.store.file_by_sha256(&sha256)?.is_none() {
                self.forget(&sha256)?;
            }
        }
        Ok(())
    }

    /// In a line: the last one, and how many others there are.
    pub(super) fn trouble(&self) -> Option<String> {
        let rows = self.lock();
        let last = rows.last.and_then(|sha256| rows.all.get(&sha256));
        let row = last.or_else(|| rows.all.values().next())?;
        let others = match rows.all.len() - 1 {
            0 => String::new(),
            1 => ", nor is 1 other".to_owned(),
            others => format!(", nor are {others} others"),
        };
        Some(format!("{} is not given: {}{others}", row.name, row.why))
    }

    fn key(&self, sha256: &[u8; 32]) -> String {
        format!("{}{}", self.prefix, dag::cid_from_sha256(*sha256))
    }
}

/// Forgets those of repositories that are not configured with a keyring. Blocks on the disk.
pub(super) fn sweep(store: &Store, configured: &[RepositoryConfig]) -> Result<(), StoreError> {
    let checked = configured.iter().filter(|config| config.keyring.is_some());
    let ours: Vec<String> = checked
        .map(|config| format!("{PREFIX}{}", prefix(config)))
        .collect();
    let all = store.state_list(PREFIX)?;
    let others = all
        .iter()
        .filter(|(key, _)| !ours.iter().any(|prefix| key.starts_with(prefix)));
    let entries: Vec<(&str, Option<&[u8]>)> = others.map(|(key, _)| (&**key, None)).collect();
    if entries.is_empty() {
        return Ok(());
    }
    Ok(store.state_put(&entries)?)
}

/// The SHA-256 that a CID says.
fn digest(text: &str) -> Option<[u8; 32]> {
    let cid = dag::Cid::try_from(text).ok()?;
    cid.hash().digest().try_into().ok()
}
