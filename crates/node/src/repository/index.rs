//! The packages of one state of a repository, by file name.
//!
//! Made from the database on disk when somebody asks, and forgotten when nobody has for a while: Arch's
//! databases together name some 16,000 packages.
//!
//! - Invariant: small; signatures stand in one piece of memory.
//! - Not here: which state a client gets (`super::ask`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pacstore_pacman::{Database, DbError, Limits};

/// Forgotten after so long without use.
const IDLE: Duration = Duration::from_mins(10);

/// What the database says of one package file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// Length in bytes.
    pub(super) len: u64,
    pub(super) sha256: [u8; 32],
    /// Its detached signature, where the database has it.
    pub(super) signature: Option<Bytes>,
}

/// All packages of one database.
#[derive(Debug, Default)]
pub(super) struct Index {
    packages: HashMap<Box<str>, Row>,
    signatures: Bytes,
    /// The newest build date, in seconds since 1970.
    pub(super) built: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    len: u64,
    sha256: [u8; 32],
    signature: (u32, u32),
}

impl Index {
    /// Reads a packed database. A package without size or SHA-256 is left out: nothing could be checked.
    ///
    /// # Errors
    /// [`DbError`] as the database's reader has it.
    pub(super) fn read(packed: &[u8]) -> Result<Self, DbError> {
        let database = Database::read(packed, &Limits::DB)?;
        let mut signatures = Vec::new();
        let mut packages = HashMap::with_capacity(database.entries.len());
        let mut built = None;
        for desc in database.entries {
            built = built.max(desc.build_date);
            let (Some(len), Some(sha256)) = (desc.csize, desc.sha256) else {
                continue;
            };
            let from = u32::try_from(signatures.len()).unwrap_or(u32::MAX);
            signatures.extend_from_slice(desc.pgpsig.as_deref().unwrap_or_default());
            let to = u32::try_from(signatures.len()).unwrap_or(u32::MAX);
            let row = Row {
                len,
                sha256,
                signature: (from, to),
            };
            packages.insert(desc.filename, row);
        }
        Ok(Self {
            packages,
            signatures: signatures.into(),
            built,
        })
    }

    /// The package of this file name.
    pub(super) fn get(&self, name: &str) -> Option<Package> {
        let row = self.packages.get(name)?;
        let (from, to) = (row.signature.0 as usize, row.signature.1 as usize);
        let signature = (from < to && to <= self.signatures.len()).then(|| self.signatures.slice(from..to));
        Some(Package {
            len: row.len,
            sha256: row.sha256,
            signature,
        })
    }
}

/// An index that is there while it is used.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<Option<(Arc<Index>, Instant)>>);

impl Remembered {
    /// What is remembered, used now.
    pub(super) fn get(&self) -> Option<Arc<Index>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, used) = held.as_mut()?;
        *used = Instant::now();
        Some(Arc::clone(index))
    }

    pub(super) fn put(&self, index: Arc<Index>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, Instant::now()));
    }

    /// Lets go of one that nobody used for a while.
    pub(super) fn tidy(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|(_, used)| IDLE < used.elapsed()) {
            *held = None;
        }
    }
}
