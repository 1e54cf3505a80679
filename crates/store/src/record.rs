//! What the index keeps about one file, and how it is written down.
//!
//! A file of one raw leaf, which most package signatures and databases are, needs one short row; its CID
//! and SHA-256 are not repeated. The leaves of larger files stand in a row of their own: 32 bytes each,
//! without offsets where all have one length.
//!
//! - Invariant: `decode(encode(x)) == x`; a row that is cut short or has bytes left over is an error.
//! - Not here: which tables hold the rows (`crate::index`).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cid::Cid;

use crate::class::Class;
use crate::error::IndexError;
use crate::keys::{self, CidVersion, RefKey, TAG_SHA2_256};
use crate::row::{Row, put_bytes, put_varint};

/// Where this node first got bytes of a file from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Imported here, or taken from pacman's cache.
    Disk,
    /// A peer with a loopback, private or link-local address.
    Lan,
    /// Any other peer.
    Peer,
    /// An ordinary mirror.
    Upstream,
}

impl Origin {
    pub(crate) const ALL: [Self; 4] = [Self::Disk, Self::Lan, Self::Peer, Self::Upstream];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Disk => 0,
            Self::Lan => 1,
            Self::Peer => 2,
            Self::Upstream => 3,
        }
    }
}

/// Bytes of one file by where this node first got them. The four add up to the file's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByOrigin {
    /// Bytes from this machine's disk.
    pub disk: u64,
    /// Bytes from LAN peers.
    pub lan: u64,
    /// Bytes from internet peers.
    pub peer: u64,
    /// Bytes from upstreams.
    pub upstream: u64,
}

impl ByOrigin {
    /// All `len` bytes from one place.
    pub fn all(origin: Origin, len: u64) -> Self {
        let mut counts = [0; 4];
        counts[origin.index()] = len;
        Self::from_counts(counts)
    }

    /// The sum of the four.
    pub fn total(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Bytes from `origin`.
    pub fn of(&self, origin: Origin) -> u64 {
        self.counts()[origin.index()]
    }

    pub(crate) fn from_counts([disk, lan, peer, upstream]: [u64; 4]) -> Self {
        Self {
            disk,
            lan,
            peer,
            upstream,
        }
    }

    pub(crate) fn counts(&self) -> [u64; 4] {
        [self.disk, self.lan, self.peer, self.upstream]
    }
}

/// What tells that a file is still the one that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Length in bytes.
    pub len: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Inode number.
    pub inode: u64,
}

impl Facts {
    /// Reads the facts out of a file's metadata.
    pub fn of(meta: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self {
            len: meta.len(),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            inode: meta.ino(),
        }
    }
}

/// What the store says about one of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Internal number of the file; never used twice.
    pub id: u64,
    /// The root that was asked for, or the first one the file came in with.
    pub root: Cid,
    /// SHA-256 of the whole file; `None` if it was finished without computing it.
    pub sha256: Option<[u8; 32]>,
    /// Length in bytes.
    pub len: u64,
    /// Where its bytes came from.
    pub by_origin: ByOrigin,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the store's folder, and nobody else writes there.
    Own,
    /// In the store's folder, as a second name of a file that somebody else may have open.
    Link(Facts),
    /// Where it was.
    Reference(PathBuf, Facts),
}

impl Place {
    /// What somebody else removes is to be gone from the disk, and their file system is to be unmounted.
    pub(crate) fn may_stay_open(&self) -> bool {
        !matches!(self, Self::Reference(..))
    }

    pub(crate) fn facts(&self) -> Option<&Facts> {
        match self {
            Self::Own => None,
            Self::Link(facts) | Self::Reference(_, facts) => Some(facts),
        }
    }

    /// How many bytes of the store's disk a file of `len` bytes takes there; the disk gives whole blocks of `block`.
    pub(crate) fn disk_len(&self, len: u64, block: u64) -> u64 {
        if matches!(self, Self::Reference(..)) {
            0
        } else {
            in_blocks(len, block)
        }
    }
}

/// One root over a file. Two profiles give one file two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) root: RefKey,
    pub(crate) version: CidVersion,
    pub(crate) tsize: u64,
    /// True if the root is a raw block that is the whole file: then there is no leaf row.
    pub(crate) single: bool,
}

impl Layout {
    pub(crate) fn root_cid(&self) -> Result<Cid, IndexError> {
        keys::cid_of(&self.root, self.version).ok_or_else(|| IndexError::malformed("root of a file"))
    }
}

/// One row of the file table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRecord {
    /// Last use, in seconds since 1970.
    pub(crate) used: u64,
    pub(crate) len: u64,
    pub(crate) by_origin: ByOrigin,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) place: Place,
    pub(crate) class: Class,
    pub(crate) layouts: Vec<Layout>,
}

const PLACE_MASK: u8 = 0b0000_0011;
const HAS_SHA256: u8 = 0b0000_0100;
const SHA256_IS_ROOT: u8 = 0b0000_1000;
/// Where the two bits of the class begin.
const CLASS_AT: u8 = 4;

impl Row<'_> {
    fn facts(&mut self) -> Option<Facts> {
        let len = self.varint()?;
        let mtime_ns = i128::from_le_bytes(self.array()?);
        Some(Facts {
            len,
            mtime_ns,
            inode: self.varint()?,
        })
    }
}

impl FileRecord {
    pub(crate) fn info(&self, id: u64, root: Cid) -> FileInfo {
        FileInfo {
            id,
            root,
            sha256: self.sha256,
            len: self.len,
            by_origin: self.by_origin,
        }
    }

    /// The root it came in with first.
    pub(crate) fn first_root(&self) -> Result<Cid, IndexError> {
        self.layouts
            .first()
            .ok_or_else(|| IndexError::malformed("file without root"))?
            .root_cid()
    }

    /// Bytes of the store's disk, which gives whole blocks of `block` bytes.
    pub(crate) fn disk_len(&self, block: u64) -> u64 {
        self.place.disk_len(self.len, block)
    }

    /// The SHA-256 that a root of the file already says.
    fn sha256_of_root(&self) -> Option<[u8; 32]> {
        let layout = self
            .layouts
            .iter()
            .find(|layout| layout.single && layout.root[0] == TAG_SHA2_256)?;
        layout.root[1..33].try_into().ok()
    }

    /// The SHA-256, if it needs a row in the table by SHA-256.
    pub(crate) fn sha256_row(&self) -> Option<[u8; 32]> {
        self.sha256
            .filter(|sha256| self.sha256_of_root() != Some(*sha256))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(&self.used.to_le_bytes());
        let place = match self.place {
            Place::Own => 0,
            Place::Link(_) => 1,
            Place::Reference(..) => 2,
        };
        let sha256 = match self.sha256 {
            None => 0,
            Some(_) if self.sha256_row().is_none() => SHA256_IS_ROOT,
            Some(_) => HAS_SHA256,
        };
        out.push(place | sha256 | self.class.to_bits() << CLASS_AT);
        put_varint(&mut out, self.len);
        self.by_origin
            .counts()
            .iter()
            .for_each(|count| put_varint(&mut out, *count));
        if sha256 == HAS_SHA256 {
            out.extend_from_slice(&self.sha256.unwrap_or_default());
        }
        if let Some(facts) = self.place.facts() {
            put_varint(&mut out, facts.len);
            out.extend_from_slice(&facts.mtime_ns.to_le_bytes());
            put_varint(&mut out, facts.inode);
        }
        if let Place::Reference(path, _) = &self.place {
            put_bytes(&mut out, path.as_os_str().as_bytes());
        }
        put_varint(&mut out, self.layouts.len() as u64);
        for layout in &self.layouts {
            out.extend_from_slice(&layout.root);
            out.push(u8::from(layout.version == CidVersion::V0) | u8::from(layout.single) << 1);
            put_varint(&mut out, layout.tsize);
        }
        out
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, IndexError> {
        Self::read(&mut Row(row)).ok_or_else(|| IndexError::malformed("row of a file"))
    }

    fn read(row: &mut Row<'_>) -> Option<Self> {
        let used = u64::from_le_bytes(row.array()?);
        let [flags] = row.array()?;
        let len = row.varint()?;
        let by_origin = ByOrigin::from_counts([row.varint()?, row.varint()?, row.varint()?, row.varint()?]);
        let sha256 = if flags & HAS_SHA256 == 0 {
            None
        } else {
            Some(row.array()?)
        };
        let place = match flags & PLACE_MASK {
            0 => Place::Own,
            1 => Place::Link(row.facts()?),
            2 => {
                let facts = row.facts()?;
                Place::Reference(PathBuf::from(OsString::from_vec(row.bytes()?.to_vec())), facts)
            }
            _ => return None,
        };
        let count = row.varint()?;
        let mut layouts = Vec::new();
        for _ in 0..count {
            let root = row.array()?;
            let [flags] = row.array()?;
            let version = if flags & 1 == 0 {
                CidVersion::V1
            } else {
                CidVersion::V0
            };
            layouts.push(Layout {
                root,
                version,
                single: flags & 2 != 0,
                tsize: row.varint()?,
            });
        }
        let mut record = Self {
            used,
            len,
            by_origin,
            sha256,
            place,
            class: Class::of_bits(flags >> CLASS_AT),
            layouts,
        };
        if flags & SHA256_IS_ROOT != 0 {
            record.sha256 = Some(record.sha256_of_root()?);
        }
        row.0.is_empty().then_some(record)
    }
}

/// The disk that `len` bytes take where it gives whole blocks of `block` bytes.
pub(crate) fn in_blocks(len: u64, block: u64) -> u64 {
    len.checked_next_multiple_of(block).unwrap_or(len)
}

/// The path as it is kept: absolute, not resolved.
pub(crate) fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(place: Place, sha256: Option<[u8; 32]>) -> FileRecord {
        let mut root = [9; 34];
        root[0] = TAG_SHA2_256;
        root[33] = keys::RAW;
        let layout = Layout {
            root,
            version: CidVersion::V1,
            tsize: 300,
            single: true,
        };
        FileRecord {
            used: 5,
            len: 300,
            by_origin: ByOrigin::all(Origin::Lan, 300),
            sha256,
            place,
            class: Class::Needed,
            layouts: vec![layout],
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let facts = Facts {
            len: 300,
            mtime_ns: -5,
            inode: u64::MAX,
        };
        for place in [
            Place::Own,
            Place::Link(facts),
            Place::Reference(PathBuf::from("/a/\u{e9}"), facts),
        ] {
            for sha256 in [None, Some([9; 32]), Some([8; 32])] {
                let record = record(place.clone(), sha256);
                assert_eq!(FileRecord::decode(&record.encode()).unwrap(), record);
            }
        }
    }

    #[test]
    fn a_small_file_needs_less_than_64_bytes_and_a_cut_row_is_an_error() {
        let row = record(Place::Own, Some([9; 32])).encode();
        assert!(row.len() < 64, "{} bytes", row.len());
        for cut in 0..row.len() {
            assert!(FileRecord::decode(&row[..cut]).is_err(), "cut at {cut}");
        }
    }
}
