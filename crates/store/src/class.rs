//! Which evictable files go first: a class that the layers above give each file, beside when it was last used.
//!
//! The store knows no packages. Who does says which files are superseded and which are needed; the class is kept
//! with the file, so that it holds over a restart and until somebody says otherwise.
//!
//! - Invariant: a file's class never makes it stay above the cap or go while something refers to it.
//! - Not here: why a file has its class, eviction itself (`crate::gc`).

use std::ops::RangeInclusive;

use crate::error::WriteError;
use crate::files::{self, Lookup};
use crate::index::FILES;
use crate::record::{FileInfo, FileRecord};
use crate::store::Store;

/// How many files one transaction looks at or changes.
const ROWS_AT_ONCE: usize = 1024;

/// What eviction does with a file: [`Spare`](Self::Spare) ones go first, [`Needed`](Self::Needed) ones last, in each
/// class the least recently used first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// Nobody said anything about it.
    #[default]
    Plain,
    /// It has been replaced by a newer one.
    Spare,
    /// As [`Plain`](Self::Plain), and somebody lists it now: who gave the class can tell it from a file that was
    /// never listed.
    Listed,
    /// It is in use, or about to be.
    Needed,
}

impl Class {
    pub(crate) fn to_bits(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Spare => 1,
            Self::Listed => 2,
            Self::Needed => 3,
        }
    }

    pub(crate) fn of_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Plain,
            1 => Self::Spare,
            2 => Self::Listed,
            _ => Self::Needed,
        }
    }
}

/// Added to the time of use of needed files: later than any clock says.
const LAST: u64 = 1 << 40;

impl FileRecord {
    /// The file's place in the order of eviction.
    pub(crate) fn lru_key(&self, id: u64) -> (u64, u64) {
        match self.class {
            Class::Spare => (0, id),
            Class::Plain | Class::Listed => (self.used, id),
            Class::Needed => (self.used | LAST, id),
        }
    }
}

/// The places in the order of eviction of files that were used later than `time`, in seconds since 1970.
pub(crate) fn uses_after(time: u64) -> [RangeInclusive<(u64, u64)>; 2] {
    let last = LAST - 1;
    [
        (time + 1, 0)..=(last, u64::MAX),
        ((time + 1) | LAST, 0)..=(last | LAST, u64::MAX),
    ]
}

impl Store {
    /// Asks `class_of` about every whole file, with the class that it has, and keeps the answers. A thousand files a
    /// transaction; files that come meanwhile are [`Class::Plain`]. Gives how many changed.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::Index`]; what was changed stays changed.
    pub fn classify(&self, class_of: &mut dyn FnMut(&FileInfo, Class) -> Class) -> Result<u64, WriteError> {
        let (mut from, mut changed) = (0, 0);
        loop {
            let rows = self.0.index.read(|txn| {
                let mut rows = Vec::new();
                for row in txn.open_table(FILES)?.range(from..)?.take(ROWS_AT_ONCE) {
                    let (id, row) = row?;
                    rows.push((id.value(), FileRecord::decode(row.value()).ok()));
                }
                Ok(rows)
            })?;
            let Some((last, _)) = rows.last() else {
                return Ok(changed);
            };
            from = last + 1;
            let mut others = Vec::new();
            for (id, record) in rows {
                // A row that makes no sense is fsck's.
                let Some(record) = record else { continue };
                let Ok(root) = record.first_root() else { continue };
                let class = class_of(&record.info(id, root), record.class);
                if class != record.class {
                    others.push((id, class));
                }
            }
            if others.is_empty() {
                continue;
            }
            changed += others.len() as u64;
            self.0.write("classify", |t| {
                for (id, class) in &others {
                    files::set_class(t, *id, *class)?;
                }
                Ok(())
            })?;
        }
    }

    /// The class of the whole file with this SHA-256.
    ///
    /// # Errors
    /// [`crate::IndexError`].
    pub fn class_of_sha256(&self, sha256: &[u8; 32]) -> Result<Option<Class>, crate::IndexError> {
        let found = self.0.index.read(|txn| txn.find_sha256(sha256))?;
        Ok(found.map(|(_, record)| record.class))
    }
}
