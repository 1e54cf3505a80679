//! Reading: blocks by CID, whole files by root or SHA-256.
//!
//! A file that somebody else may write to is compared with what it was, at each open and each block. Where it
//! differs it is hashed again: the same bytes get new facts, other bytes leave the index.
//!
//! - Invariant: no byte of a shared file whose facts differ leaves before its SHA-256 was found right again.
//! - Invariant: an open file stays readable whatever gc does.
//! - Not here: partial files (`crate::partial`), which are asked first.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use cid::Cid;
use pacstore_dag as dag;
use ring::digest::{Context, SHA256};
use tracing::{info, warn};

use crate::error::{IndexError, ReadError, WriteError};
use crate::files::{self, At, Lookup};
use crate::index::NODES;
use crate::keys::{self, BlockKey};
use crate::nodes::Node;
use crate::record::{Facts, FileInfo, FileRecord, Place};
use crate::store::{Inner, Store};

const HASH_STEP: usize = 1 << 20;

/// A whole file, open and checked. Readable to its end even if it is evicted meanwhile.
#[derive(Debug)]
pub struct OpenFile {
    /// What the store knows of it.
    pub info: FileInfo,
    /// The file, opened for this caller alone, at its beginning.
    pub file: File,
    /// What it was like when it was hashed, if others may write to it.
    facts: Option<Facts>,
}

impl OpenFile {
    /// False if somebody wrote to it since it was hashed, as far as can be told without reading it. What was read
    /// before is right if this is true afterwards. Removed files are still readable.
    pub fn is_unchanged(&self) -> bool {
        let Some(facts) = &self.facts else { return true };
        self.file.metadata().is_ok_and(|meta| Facts::of(&meta) == *facts)
    }
}

/// A file that is the one that was hashed, and what it was like then if others may write to it.
pub(crate) struct Checked {
    pub(crate) file: File,
    facts: Option<Facts>,
}

/// Where a block was found.
enum Found {
    Range(At, FileRecord),
    Node(Bytes),
    No,
}

impl Store {
    /// The length in bytes of a block, or `None` if it is not here.
    ///
    /// # Errors
    /// [`ReadError::Index`].
    pub fn block_len(&self, cid: &Cid) -> Result<Option<u64>, ReadError> {
        if let Some(data) = keys::inline_bytes(cid) {
            return Ok(Some(data.len() as u64));
        }
        let Some(key) = keys::block_key(cid) else {
            return Ok(None);
        };
        // Partial files first: one that is being finished is in the index before it goes from there.
        if let Some(len) = self.0.partials.block_len(&key) {
            return Ok(Some(len));
        }
        self.0
            .index
            .read(|txn| {
                if let Some(at) = txn.block(&key)? {
                    return Ok(Some(u64::from(at.len)));
                }
                let row = txn.open_table(NODES)?.get(&key)?;
                row.map(|row| Ok(Node::decode(row.value())?.data.len() as u64))
                    .transpose()
            })
            .map_err(ReadError::from)
    }

    /// A block, whatever holds it: a node, a range of a file, a finished leaf of a partial file.
    ///
    /// # Errors
    /// [`ReadError::File`] if its file cannot be read, [`ReadError::Index`].
    pub fn block(&self, cid: &Cid) -> Result<Option<Bytes>, ReadError> {
        if let Some(data) = keys::inline_bytes(cid) {
            return Ok(Some(Bytes::copy_from_slice(data)));
        }
        let Some(key) = keys::block_key(cid) else {
            return Ok(None);
        };
        if let Found::Node(data) = self.0.find_block(&key, Prefer::Node)? {
            return Ok(Some(data));
        }
        let mut out = Vec::new();
        Ok(self.0.block_into(&key, &mut out)?.then(|| out.into()))
    }

    /// Appends a block to `out` with one copy. `false`, and `out` as it was, if it is not here.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn block_into(&self, cid: &Cid, out: &mut Vec<u8>) -> Result<bool, ReadError> {
        if let Some(data) = keys::inline_bytes(cid) {
            out.extend_from_slice(data);
            return Ok(true);
        }
        match keys::block_key(cid) {
            None => Ok(false),
            Some(key) => self.0.block_into(&key, out),
        }
    }

    /// A block that is kept as a node; ranges of files do not count.
    ///
    /// # Errors
    /// [`ReadError::Index`].
    pub fn node(&self, cid: &Cid) -> Result<Option<Bytes>, ReadError> {
        let Some(key) = keys::block_key(cid) else {
            return Ok(None);
        };
        match self.0.find_block(&key, Prefer::Node)? {
            Found::Node(data) => Ok(Some(data)),
            Found::Range(..) | Found::No => Ok(None),
        }
    }

    /// The whole file with this root.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn file(&self, root: &Cid) -> Result<Option<FileInfo>, IndexError> {
        let Some(key) = keys::ref_key(root) else {
            return Ok(None);
        };
        Ok(self
            .0
            .index
            .read(|txn| txn.find_root(&key))?
            .map(|(id, record)| record.info(id, *root)))
    }

    /// The whole file with this SHA-256.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn file_by_sha256(&self, sha256: &[u8; 32]) -> Result<Option<FileInfo>, IndexError> {
        let Some((id, record)) = self.0.index.read(|txn| txn.find_sha256(sha256))? else {
            return Ok(None);
        };
        Ok(Some(record.info(id, record.first_root()?)))
    }

    /// True if the whole file with this SHA-256 is here and its bytes are where they should be. A record whose
    /// bytes turn out to be gone or changed is dropped; a file that was only touched is hashed again.
    ///
    /// # Errors
    /// [`ReadError::File`] if it cannot be told, [`ReadError::Index`].
    pub fn has_sha256(&self, sha256: &[u8; 32]) -> Result<bool, ReadError> {
        let Some((id, record)) = self.0.index.read(|txn| txn.find_sha256(sha256))? else {
            return Ok(false);
        };
        match self.0.open_checked(id, &record) {
            Ok(checked) => Ok(checked.is_some()),
            Err(ReadError::Changed(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens the whole file with this root, and notes that it was used. `None` if it is not here, or no longer.
    ///
    /// # Errors
    /// [`ReadError::Changed`] if it is a shared file whose bytes are others now (asked again: `None`),
    /// [`ReadError::File`] if it cannot be read.
    pub fn open_file(&self, root: &Cid) -> Result<Option<OpenFile>, ReadError> {
        let Some(key) = keys::ref_key(root) else {
            return Ok(None);
        };
        let Some((id, record)) = self.0.index.read(|txn| txn.find_root(&key))? else {
            return Ok(None);
        };
        let Some(Checked { file, facts }) = self.0.open_checked(id, &record)? else {
            return Ok(None);
        };
        self.0.touch(key);
        Ok(Some(OpenFile {
            info: record.info(id, *root),
            file,
            facts,
        }))
    }

    /// As [`Self::open_file`], with a handle that others may have too: read it at offsets only. The store keeps
    /// the last few of its own, for [`Self::opened`].
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_shared(&self, root: &Cid) -> Result<Option<Arc<OpenFile>>, ReadError> {
        if let Some(file) = self.opened(root) {
            return Ok(Some(file));
        }
        let Some(key) = keys::ref_key(root) else {
            return Ok(None);
        };
        let removals = self.0.handles.removals();
        let Some((id, record)) = self.0.index.read(|txn| txn.find_root(&key))? else {
            return Ok(None);
        };
        let Some(Checked { file, facts }) = self.0.open_checked(id, &record)? else {
            return Ok(None);
        };
        self.0.touch(key);
        let info = record.info(id, *root);
        let file = Arc::new(OpenFile { info, file, facts });
        if record.place.may_stay_open() {
            self.0.handles.put_whole(key, &file, removals);
        }
        Ok(Some(file))
    }

    /// The whole file with this root if [`Self::open_shared`] opened it lately, and notes that it was used. Waits
    /// for no disk: for threads that must not. `None` says nothing about whether the file is here.
    pub fn opened(&self, root: &Cid) -> Option<Arc<OpenFile>> {
        let key = keys::ref_key(root)?;
        let file = self.0.handles.whole(&key)?;
        self.0.touch(key);
        Some(file)
    }

    /// The leaves and nodes of the whole file with this root.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn dag_of(&self, root: &Cid) -> Result<Option<dag::FileDag>, IndexError> {
        let Some(key) = keys::ref_key(root) else {
            return Ok(None);
        };
        self.0.index.read(|txn| {
            let Some((id, record)) = txn.find_root(&key)? else {
                return Ok(None);
            };
            let number = record.layouts.iter().position(|layout| layout.root == key);
            let Some(number) = number else { return Ok(None) };
            let layout = &record.layouts[number];
            if layout.single {
                let leaves = vec![dag::Leaf {
                    cid: *root,
                    offset: 0,
                    len: record.len,
                }];
                let (len, tsize) = (record.len, layout.tsize);
                return Ok(Some(dag::FileDag {
                    root: *root,
                    len,
                    tsize,
                    leaves,
                    nodes: Vec::new(),
                }));
            }
            let rows = txn
                .leaves(id, number)?
                .ok_or_else(|| IndexError::malformed("file without leaves"))?;
            let bad = || IndexError::malformed("CID of a leaf");
            let mut leaves = Vec::with_capacity(rows.list.len());
            for leaf in &rows.list {
                let cid = rows.cid(leaf).ok_or_else(bad)?;
                leaves.push(dag::Leaf {
                    cid,
                    offset: leaf.offset,
                    len: u64::from(leaf.len),
                });
            }
            let table = txn.open_table(NODES)?;
            let mut nodes = Vec::with_capacity(rows.nodes.len());
            for key in &rows.nodes {
                let cid =
                    keys::cid_of(&keys::with_codec(key, keys::DAG_PB), layout.version).ok_or_else(bad)?;
                let row = table
                    .get(key)?
                    .ok_or_else(|| IndexError::malformed("file without its nodes"))?;
                nodes.push(dag::Block {
                    cid,
                    data: Bytes::copy_from_slice(Node::decode(row.value())?.data),
                });
            }
            Ok(Some(dag::FileDag {
                root: *root,
                len: record.len,
                tsize: layout.tsize,
                leaves,
                nodes,
            }))
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefer {
    Node,
    Range,
}

impl Inner {
    fn find_block(&self, key: &BlockKey, prefer: Prefer) -> Result<Found, IndexError> {
        self.index.read(|txn| {
            if prefer == Prefer::Range
                && let Some(at) = txn.block(key)?
                && let Some(record) = txn.file(at.id)?
            {
                return Ok(Found::Range(at, record));
            }
            match txn.open_table(NODES)?.get(key)? {
                Some(row) => Ok(Found::Node(Bytes::copy_from_slice(
                    Node::decode(row.value())?.data,
                ))),
                None => Ok(Found::No),
            }
        })
    }

    fn block_into(&self, key: &BlockKey, out: &mut Vec<u8>) -> Result<bool, ReadError> {
        // First, as in `block_len`.
        if self.partials.block_into(key, out) {
            return Ok(true);
        }
        // Twice: the file may turn out to be gone, and its twin take its place.
        for _ in 0..2 {
            match self.find_block(key, Prefer::Range)? {
                Found::Range(at, record) => {
                    if self.range_into(at, &record, out)? {
                        return Ok(true);
                    }
                }
                Found::Node(data) => {
                    out.extend_from_slice(&data);
                    return Ok(true);
                }
                Found::No => break,
            }
        }
        match self.find_block(key, Prefer::Node)? {
            Found::Node(data) => {
                out.extend_from_slice(&data);
                Ok(true)
            }
            Found::Range(..) | Found::No => Ok(false),
        }
    }

    /// Reads a range of a file; `false` if the file turned out to be gone or changed.
    fn range_into(&self, at: At, record: &FileRecord, out: &mut Vec<u8>) -> Result<bool, ReadError> {
        let Some(file) = self.handle(at.id, record)? else {
            return Ok(false);
        };
        let (start, len) = (out.len(), at.len as usize);
        out.resize(start + len, 0);
        match file.read_exact_at(&mut out[start..], at.offset) {
            Ok(()) => Ok(true),
            Err(error) => {
                out.truncate(start);
                self.handles.forget(at.id);
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    self.drop_file(at.id, &record.place, "it is shorter than it was")?;
                    return Ok(false);
                }
                if is_lost(&record.place, &error) {
                    self.drop_file(at.id, &record.place, UNREADABLE)?;
                    return Ok(false);
                }
                Err(ReadError::File(self.path_of(at.id, &record.place), error))
            }
        }
    }

    /// The file for block reads, from those that are open or opened now.
    fn handle(&self, id: u64, record: &FileRecord) -> Result<Option<Arc<File>>, ReadError> {
        let removals = self.handles.removals();
        if let Some(file) = self.handles.get(id) {
            let Some(facts) = record.place.facts() else {
                return Ok(Some(file));
            };
            // The name may point elsewhere by now, but these are the bytes that were hashed if nothing moved.
            if file.metadata().is_ok_and(|meta| Facts::of(&meta) == *facts) {
                return Ok(Some(file));
            }
            self.handles.forget(id);
        }
        let file = match self.open_checked(id, record) {
            Ok(Some(checked)) => Arc::new(checked.file),
            Ok(None) | Err(ReadError::Changed(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if record.place.may_stay_open() {
            self.handles.put(id, &file, removals);
        }
        Ok(Some(file))
    }

    pub(crate) fn path_of(&self, id: u64, place: &Place) -> PathBuf {
        match place {
            Place::Own | Place::Link(_) => self.disk.file(id),
            Place::Reference(path, _) => path.clone(),
        }
    }

    /// True if the file's bytes are where they should be, as far as can be told without reading them.
    pub(crate) fn is_on_disk(&self, id: u64, record: &FileRecord) -> bool {
        let Ok(meta) = fs_err::metadata(self.path_of(id, &record.place)) else {
            return false;
        };
        match record.place.facts() {
            None => meta.is_file() && meta.len() == record.len,
            Some(facts) => Facts::of(&meta) == *facts,
        }
    }

    /// Opens a file and checks that it is the one that was hashed. `None`: it is gone, and no longer in the index.
    pub(crate) fn open_checked(&self, id: u64, record: &FileRecord) -> Result<Option<Checked>, ReadError> {
        let path = self.path_of(id, &record.place);
        let (file, meta) = match open_with_meta(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.drop_file(id, &record.place, "it is gone")?;
                return Ok(None);
            }
            Err(error) if is_lost(&record.place, &error) => {
                self.drop_file(id, &record.place, UNREADABLE)?;
                return Ok(None);
            }
            Err(error) => return Err(ReadError::File(path, error)),
        };
        match record.place.facts() {
            None if meta.len() == record.len => Ok(Some(Checked { file, facts: None })),
            None => {
                self.drop_file(id, &record.place, "it has another length")?;
                Ok(None)
            }
            Some(facts) if meta.is_file() && *facts == Facts::of(&meta) => Ok(Some(Checked {
                file,
                facts: Some(*facts),
            })),
            Some(_) => self.recheck(id),
        }
    }

    /// Hashes a shared file whose facts differ. Its bytes right: the new facts are kept.
    fn recheck(&self, id: u64) -> Result<Option<Checked>, ReadError> {
        let _one_at_a_time = self.recheck.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have done it while we waited.
        let Some(record) = self.index.read(|txn| txn.file(id))? else {
            return Ok(None);
        };
        let path = self.path_of(id, &record.place);
        let (file, meta) = match open_with_meta(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_lost(&record.place, &error) => {
                self.drop_file(id, &record.place, UNREADABLE)?;
                return Ok(None);
            }
            Err(error) => return Err(ReadError::File(path, error)),
        };
        let facts = Facts::of(&meta);
        let checked = |file| {
            Ok(Some(Checked {
                file,
                facts: Some(facts),
            }))
        };
        if record.place.facts() == Some(&facts) {
            return checked(file);
        }
        let same = meta.is_file()
            && facts.len == record.len
            && match has_digest(&file, &record, &path) {
                Err(ReadError::File(_, error)) if is_lost(&record.place, &error) => false,
                read => read?,
            };
        let after = file
            .metadata()
            .map_err(|error| ReadError::File(path.clone(), error))?;
        if !same || Facts::of(&after) != facts {
            self.drop_file(id, &record.place, "it was changed")?;
            return Err(ReadError::Changed(path));
        }
        info!(path = %path.display(), "a shared file was touched; its bytes are still the same");
        let place = match record.place {
            Place::Own => Place::Own,
            Place::Link(_) => Place::Link(facts),
            Place::Reference(path, _) => Place::Reference(path, facts),
        };
        self.index.write(|t| files::set_place(t, id, place))?;
        checked(file)
    }

    /// Takes a file whose bytes are not right out of the index, if it still is the one that was looked at.
    pub(crate) fn drop_file(&self, id: u64, place: &Place, why: &'static str) -> Result<(), IndexError> {
        let dropped = self.index.write(|t| match t.file(id)? {
            Some(record) if record.place == *place => files::remove(t, id),
            _ => Ok(None),
        })?;
        if dropped.is_none() {
            return Ok(());
        }
        let path = self.path_of(id, place);
        if matches!(place, Place::Reference(..)) {
            info!(path = %path.display(), why, "a file that was shared in place is no longer used");
        } else {
            warn!(path = %path.display(), why, "a file of the store is lost; it will be fetched again when needed");
        }
        self.handles.forget(id);
        if !matches!(place, Place::Reference(..)) {
            self.unlink(id);
        }
        Ok(())
    }
}

/// Why a file that is shared in place may be let go of.
const UNREADABLE: &str = "it cannot be read any more";

/// A file that somebody else keeps, and that this process may no longer read: it can come another way. A limit of
/// this process itself says nothing about the file.
fn is_lost(place: &Place, error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];
    matches!(place, Place::Reference(..))
        && !of_ours
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn has_digest(file: &File, record: &FileRecord, path: &Path) -> Result<bool, ReadError> {
    let Some(sha256) = record.sha256 else {
        return Ok(false);
    };
    let found = sha256_of(file).map_err(|error| ReadError::File(path.to_owned(), error))?;
    Ok(found == sha256)
}

/// Opens without waiting: somebody may have put a pipe where the file was.
pub(crate) fn open_with_meta(path: &Path) -> io::Result<(File, std::fs::Metadata)> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// SHA-256 of a whole file, read from its beginning.
pub(crate) fn sha256_of(mut file: &File) -> io::Result<[u8; 32]> {
    use std::io::Seek;
    file.rewind()?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; HASH_STEP];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => context.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.rewind()?;
    Ok(digest(context))
}

pub(crate) fn digest(context: Context) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Index(error) => error.into(),
            ReadError::File(path, error) => Self::File(path, error),
            ReadError::Changed(path) => Self::SourceChanged(path),
        }
    }
}
