//! The SHA-256 of whole files, learned after the file came in.
//!
//! A file that arrived leaf by leaf under its CID is verified without it, so hashing it a second time can
//! wait until nobody waits for the processor.
//!
//! - Invariant: the table by SHA-256 names a file only after somebody read all of it and vouches for the digest.
//! - Not here: reading and hashing; the caller does it, when it suits.

use cid::Cid;

use crate::error::{IndexError, WriteError};
use crate::files::Lookup;
use crate::index::{FILES, Tables};
use crate::keys;
use crate::record::{FileInfo, FileRecord};
use crate::store::Store;

impl Store {
    /// The files with the id `from` or a higher one whose SHA-256 is not known, in order of their ids; at most
    /// `limit`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn files_without_sha256(&self, from: u64, limit: usize) -> Result<Vec<FileInfo>, IndexError> {
        self.0.index.read(|txn| {
            let mut found = Vec::new();
            let files = txn.open_table(FILES)?;
            for row in files.range(from..)? {
                let (id, row) = row?;
                let record = FileRecord::decode(row.value())?;
                let (None, Some(layout)) = (record.sha256, record.layouts.first()) else {
                    continue;
                };
                found.push(record.info(id.value(), layout.root_cid()?));
                if found.len() == limit {
                    break;
                }
            }
            Ok(found)
        })
    }

    /// The roots of whole files that `wanted` says yes to, those that came last first; at most `limit`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn newest_files(
        &self,
        limit: usize,
        wanted: &mut dyn FnMut(&Cid) -> bool,
    ) -> Result<Vec<Cid>, IndexError> {
        self.0.index.read(|txn| {
            let mut found = Vec::new();
            let files = txn.open_table(FILES)?;
            for row in files.range(0..)?.rev() {
                let record = FileRecord::decode(row?.1.value())?;
                let Some(layout) = record.layouts.first() else {
                    continue;
                };
                if found.len() == limit {
                    break;
                }
                let root = layout.root_cid()?;
                if wanted(&root) {
                    found.push(root);
                }
            }
            Ok(found)
        })
    }

    /// Notes that all bytes of the file `id` with the root `root` have this SHA-256. From now on it is found by it.
    /// `false`, and nothing changes, if the file is gone, if its digest is known, or if another file is found by
    /// this one already.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn learn_sha256(&self, id: u64, root: &Cid, sha256: [u8; 32]) -> Result<bool, WriteError> {
        let root = keys::ref_key(root).ok_or(WriteError::Unsupported(*root))?;
        let learned = self.0.index.write_lazily(|t| {
            let Some((found, mut record)) = t.find_root(&root)? else {
                return Ok(false);
            };
            if found != id || record.sha256.is_some() || t.find_sha256(&sha256)?.is_some() {
                return Ok(false);
            }
            record.sha256 = Some(sha256);
            note(t, id, &record)?;
            Ok(true)
        })?;
        Ok(learned)
    }
}

fn note(t: &mut Tables<'_>, id: u64, record: &FileRecord) -> Result<(), IndexError> {
    t.files.insert(id, record.encode().as_slice())?;
    if let Some(digest) = record.sha256_row() {
        t.sha256.insert(&digest, id)?;
    }
    Ok(())
}
