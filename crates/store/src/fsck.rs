//! Checking everything, and mending it: files against their hashes, nodes against their CIDs, tables against
//! what they follow from, the folder against the index.
//!
//! What cannot be mended (bytes that are gone or wrong) leaves the index, so that it is fetched again.
//!
//! - Invariant: a repair removes nothing but what was named; a second run finds nothing.
//! - Invariant: readers go on meanwhile; writers wait only while the tables are compared.
//! - Not here: what the tables must hold (`crate::derived`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cid::Cid;
use pacstore_dag as dag;

use crate::derived::Derived;
use crate::error::{IndexError, WriteError};
use crate::files::{self, Lookup};
use crate::index::{FILES, NODES};
use crate::keys::{self, BlockKey, CidVersion};
use crate::leaves::{LeafAt, Leaves};
use crate::nodes::Node;
use crate::read::{open_with_meta, sha256_of};
use crate::record::{FileRecord, Place};
use crate::store::{Inner, Store};
use crate::work;

const ROWS_AT_ONCE: usize = 1024;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// Pages of the index had wrong checksums; the index went back to its last whole state.
    Pages,
    /// A file that the index names is not there.
    FileMissing {
        /// Root it came in with.
        root: Cid,
        /// Where it should be.
        path: PathBuf,
    },
    /// A file has another length.
    FileSize {
        /// Root it came in with.
        root: Cid,
        /// Where it is.
        path: PathBuf,
        /// Length in bytes that it should have.
        expected: u64,
        /// Length in bytes that it has.
        found: u64,
    },
    /// A file has other bytes.
    FileBytes {
        /// Root it came in with.
        root: Cid,
        /// Where it is.
        path: PathBuf,
    },
    /// A file cannot be read.
    FileUnreadable {
        /// Root it came in with.
        root: Cid,
        /// Where it is.
        path: PathBuf,
    },
    /// The row of a file makes no sense, or its leaves or nodes are gone.
    FileRow {
        /// Its number.
        id: u64,
    },
    /// A node does not have the bytes of its CID.
    NodeBytes {
        /// Its CID, as a raw block.
        cid: Cid,
    },
    /// Rows of a table are missing, wrong or point nowhere.
    Table {
        /// Which table.
        table: &'static str,
        /// How many rows.
        rows: u64,
    },
    /// A file of the store's that the index does not know.
    Stray {
        /// Where it is.
        path: PathBuf,
    },
    /// A file in the store's folder that is not the store's; it is left alone.
    Foreign {
        /// Where it is.
        path: PathBuf,
    },
}

/// How far fsck is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsckProgress {
    /// Files checked.
    pub files: u64,
    /// Files there are.
    pub of_files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// About how many there are to read: what the files take on the disk.
    pub of_bytes: u64,
}

/// What fsck found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Files checked.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Nodes checked.
    pub nodes: u64,
    /// What is wrong.
    pub damages: Vec<Damage>,
    /// True if it was mended, all but [`Damage::Foreign`].
    pub repaired: bool,
}

impl FsckReport {
    /// What is still wrong now.
    pub fn left(&self) -> impl Iterator<Item = &Damage> {
        let mends = |damage: &&Damage| self.repaired && !matches!(damage, Damage::Foreign { .. });
        self.damages.iter().filter(move |damage| !mends(damage))
    }
}

impl Store {
    /// Reads and checks everything; with `repair` mends it.
    ///
    /// Takes about 150 bytes of memory for each block while it compares the tables.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::File`], [`WriteError::Index`]; what was mended stays mended.
    pub fn fsck(
        &self,
        repair: bool,
        progress: &mut dyn FnMut(FsckProgress),
    ) -> Result<FsckReport, WriteError> {
        let inner = &self.0;
        let mut report = FsckReport::default();
        if !inner.index.check_pages()? {
            report.damages.push(Damage::Pages);
        }
        inner.check_files(repair, &mut report, progress)?;
        inner.check_nodes(repair, &mut report)?;
        inner.settle()?;
        let found = inner.write("compare tables", |t| {
            work::finish(t)?;
            let (derived, mut found) = Derived::of(t)?;
            if !repair {
                found.extend(derived.differences(t)?);
                return Ok(found);
            }
            let lost: Vec<u64> = found
                .iter()
                .filter_map(|damage| {
                    if let Damage::FileRow { id } = damage {
                        Some(*id)
                    } else {
                        None
                    }
                })
                .collect();
            found.extend(derived.differences(t)?);
            if found.is_empty() {
                return Ok(found);
            }
            for id in lost {
                files::forget(t, id)?;
            }
            Derived::of(t)?.0.write(t)?;
            Ok(found)
        })?;
        for damage in &found {
            if let Damage::FileRow { id } = damage
                && repair
            {
                inner.unlink(*id);
            }
        }
        report.damages.extend(found);
        inner.check_folder(repair, &mut report)?;
        report.repaired = repair;
        Ok(report)
    }
}

impl Inner {
    fn check_files(
        &self,
        repair: bool,
        report: &mut FsckReport,
        progress: &mut dyn FnMut(FsckProgress),
    ) -> Result<(), WriteError> {
        let all = self.index.counters();
        let mut from = 0;
        loop {
            let rows = self.index.read(|txn| {
                let mut rows = Vec::new();
                for row in txn.open_table(FILES)?.range(from..)?.take(ROWS_AT_ONCE) {
                    let (id, row) = row?;
                    rows.push((id.value(), FileRecord::decode(row.value()).ok()));
                }
                Ok(rows)
            })?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            from = last + 1;
            for (id, record) in rows {
                // A row that makes no sense is found with the tables.
                let Some(record) = record else { continue };
                report.files += 1;
                if let Some(damage) = self.check_file(id, &record, report)? {
                    report.damages.push(damage);
                    if repair {
                        self.drop_file(id, &record.place, "fsck found it damaged")?;
                    }
                }
                progress(FsckProgress {
                    files: report.files,
                    of_files: all.files,
                    bytes: report.bytes,
                    of_bytes: all.file_bytes,
                });
            }
        }
    }

    pub(crate) fn check_file(
        &self,
        id: u64,
        record: &FileRecord,
        report: &mut FsckReport,
    ) -> Result<Option<Damage>, WriteError> {
        let Ok(root) = record.first_root() else {
            return Ok(None);
        };
        let path = self.path_of(id, &record.place);
        let (file, meta) = match open_with_meta(&path) {
            Ok(opened) => opened,
            // Its owner removed it, as may be: it was never ours.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && matches!(record.place, Place::Reference(..)) =>
            {
                self.drop_file(id, &record.place, "it is gone")?;
                return Ok(None);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Evicted while we came here?
                let gone = self.index.read(|txn| txn.file(id))?.is_none();
                return Ok((!gone).then_some(Damage::FileMissing { root, path }));
            }
            Err(_) => return Ok(Some(Damage::FileUnreadable { root, path })),
        };
        if !meta.is_file() || meta.len() != record.len {
            return Ok(Some(Damage::FileSize {
                root,
                path,
                expected: record.len,
                found: meta.len(),
            }));
        }
        report.bytes += record.len;
        Ok(match self.has_right_bytes(id, record, &file)? {
            None => Some(Damage::FileUnreadable { root, path }),
            Some(false) => Some(Damage::FileBytes { root, path }),
            Some(true) => None,
        })
    }

    /// Compares a file with its SHA-256 or, where that was never computed, with its leaves. `None`: unreadable.
    fn has_right_bytes(&self, id: u64, record: &FileRecord, file: &File) -> Result<Option<bool>, WriteError> {
        if let Some(sha256) = record.sha256 {
            return Ok(sha256_of(file).ok().map(|found| found == sha256));
        }
        let mut data = Vec::new();
        if let Some(root) = record.layouts.first().filter(|layout| layout.single) {
            data.resize(usize::try_from(record.len).unwrap_or(usize::MAX), 0);
            let read = file.read_exact_at(&mut data, 0).ok();
            let root = root.root_cid()?;
            return Ok(read.map(|()| dag::verify(&root, &data).is_ok()));
        }
        // Without leaves the row makes no sense: it is found with the tables.
        let Some(leaves) = self.index.read(|txn| txn.leaves(id, 0))? else {
            return Ok(Some(true));
        };
        for leaf in &leaves.list {
            data.resize(leaf.len as usize, 0);
            if file.read_exact_at(&mut data, leaf.offset).is_err() {
                return Ok(None);
            }
            if !self.is_leaf(&leaves, leaf, &data)? {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    /// Whether `data` is what a leaf holds. A node that is gone or damaged says nothing about the file: it is
    /// found with the nodes.
    fn is_leaf(&self, leaves: &Leaves, leaf: &LeafAt, data: &[u8]) -> Result<bool, IndexError> {
        let Some(cid) = leaves.cid(leaf) else {
            return Ok(false);
        };
        if leaf.is_raw() {
            return Ok(dag::verify(&cid, data).is_ok());
        }
        let node = self.index.read(|txn| {
            let row = txn.open_table(NODES)?.get(&keys::block_of(&leaf.key))?;
            row.map(|row| Ok(Bytes::copy_from_slice(Node::decode(row.value())?.data)))
                .transpose()
        })?;
        let node = node.filter(|node| dag::verify(&cid, node).is_ok());
        Ok(node.is_none_or(|node| dag::leaf_data(&cid, &node).is_ok_and(|held| held == data)))
    }

    fn check_nodes(&self, repair: bool, report: &mut FsckReport) -> Result<(), WriteError> {
        let mut from: BlockKey = [0; 33];
        let mut bad = Vec::new();
        loop {
            let done = self.index.read(|txn| {
                let mut last = None;
                for row in txn
                    .open_table(NODES)?
                    .range::<&BlockKey>(&from..)?
                    .take(ROWS_AT_ONCE)
                {
                    let (key, row) = row?;
                    report.nodes += 1;
                    last = Some(*key.value());
                    let cid = keys::cid_of(&keys::with_codec(key.value(), keys::RAW), CidVersion::V1);
                    let node = Node::decode(row.value()).ok();
                    let good = cid
                        .zip(node)
                        .is_some_and(|(cid, node)| dag::verify(&cid, node.data).is_ok());
                    if !good {
                        bad.push((*key.value(), cid));
                    }
                }
                Ok(last)
            })?;
            let Some(last) = done.and_then(|last| next_key(&last)) else {
                break;
            };
            from = last;
        }
        if repair && !bad.is_empty() {
            self.write("drop nodes", |t| {
                for (key, _) in &bad {
                    t.nodes.remove(key)?;
                }
                Ok(())
            })?;
        }
        report.damages.extend(
            bad.iter()
                .filter_map(|(_, cid)| cid.map(|cid| Damage::NodeBytes { cid })),
        );
        Ok(())
    }

    fn check_folder(&self, repair: bool, report: &mut FsckReport) -> Result<(), WriteError> {
        let failed = |error| WriteError::file(self.disk.dir(), error);
        let next = self.next_id.load(Ordering::Relaxed);
        let mut found = Vec::new();
        self.disk
            .list_files(|id, path| found.push((id, path)))
            .map_err(failed)?;
        for (id, path) in self.disk.list_bitmaps().map_err(failed)? {
            if id.is_none() && path.extension().is_none_or(|extension| extension != "new") {
                report.damages.push(Damage::Foreign { path });
            }
        }
        for (id, path) in found {
            let Some(id) = id else {
                report.damages.push(Damage::Foreign { path });
                continue;
            };
            // Numbers given out since the store was opened may belong to batches that are under way.
            let settled = id < self.opened_at_id || id >= next;
            if !settled || self.partials.contains(id) || self.is_own(id)? {
                continue;
            }
            report.damages.push(Damage::Stray { path });
            if repair {
                self.disk.remove_file(id).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn is_own(&self, id: u64) -> Result<bool, WriteError> {
        let record = self.index.read(|txn| txn.file(id))?;
        Ok(record.is_some_and(|record| !matches!(record.place, Place::Reference(..))))
    }
}

fn next_key(key: &BlockKey) -> Option<BlockKey> {
    let mut next = *key;
    for byte in next.iter_mut().rev() {
        let (sum, overflow) = byte.overflowing_add(1);
        *byte = sum;
        if !overflow {
            return Some(next);
        }
    }
    None
}
