//! Re-reading one file after the other, so that silent damage is noticed while there is somebody to mend it.
//!
//! - Invariant: a file whose bytes are wrong leaves the index before the call returns.
//! - Invariant: what the owner of a shared file did to it is no damage.
//! - Not here: how fast, and how what is lost comes back: the caller's. Everything at once (`crate::fsck`).

use cid::Cid;

use crate::error::{ReadError, WriteError};
use crate::files::Lookup;
use crate::fsck::{Damage, FsckReport};
use crate::index::FILES;
use crate::keys;
use crate::record::{FileRecord, Place};
use crate::store::Store;

/// One file that was read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Its number; the next call goes on from the one behind it.
    pub id: u64,
    /// The root it came in with.
    pub root: Cid,
    /// SHA-256 that it should have.
    pub sha256: Option<[u8; 32]>,
    /// Its length in bytes.
    pub len: u64,
    /// What was wrong with it; it is no longer here then.
    pub damage: Option<Damage>,
}

impl Store {
    /// Reads the first whole file with the number `from` or a higher one and compares it with its hash; one that is
    /// damaged is dropped. `None`: there is none.
    ///
    /// # Errors
    /// [`WriteError`] of the index; a file that cannot be read is damage, not an error.
    pub fn scrub_next(&self, from: u64) -> Result<Option<Scrubbed>, WriteError> {
        let inner = &self.0;
        let mut from = from;
        loop {
            let next = inner.index.read(|txn| {
                let table = txn.open_table(FILES)?;
                let row = table.range(from..)?.next().transpose()?;
                Ok(row.map(|(id, row)| (id.value(), FileRecord::decode(row.value()).ok())))
            })?;
            let Some((id, record)) = next else { return Ok(None) };
            from = id + 1;
            // A row that makes no sense is fsck's.
            let Some(record) = record else { continue };
            let Ok(root) = record.first_root() else { continue };
            if matches!(record.place, Place::Reference(..)) && !inner.is_on_disk(id, &record) {
                // Its owner removed, replaced or touched it, as may be: looked at as at each open.
                match inner.open_checked(id, &record) {
                    Ok(_) | Err(ReadError::Changed(_) | ReadError::File(..)) => continue,
                    Err(ReadError::Index(error)) => return Err(error.into()),
                }
            }
            let damage = inner.check_file(id, &record, &mut FsckReport::default())?;
            if damage.is_some() {
                inner.drop_file(id, &record.place, "its bytes are not the right ones any more")?;
            }
            return Ok(Some(Scrubbed {
                id,
                root,
                sha256: record.sha256,
                len: record.len,
                damage,
            }));
        }
    }

    /// Reads the file with this root again, for who found in it what cannot be: a damaged one is dropped, and what was wrong
    /// with it told. `None`: it is right, or not here.
    ///
    /// # Errors
    /// As [`Store::scrub_next`].
    pub fn reread(&self, root: &Cid) -> Result<Option<Damage>, WriteError> {
        let inner = &self.0;
        let Some(key) = keys::ref_key(root) else {
            return Ok(None);
        };
        let Some((id, record)) = inner.index.read(|txn| txn.find_root(&key))? else {
            return Ok(None);
        };
        let damage = inner.check_file(id, &record, &mut FsckReport::default())?;
        if damage.is_some() {
            inner.drop_file(id, &record.place, "its bytes are not the right ones any more")?;
        }
        Ok(damage)
    }
}
