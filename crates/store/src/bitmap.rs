//! The file beside a partial file: what it will be, and which leaves it has.
//!
//! One byte a leaf. A leaf is first *claimed* (written, perhaps not yet durable) and after a sync of the data
//! *kept*. After a restart claimed leaves are hashed again, kept ones are believed. So a process that was killed
//! loses nothing, and a machine that lost power is never believed about bytes that did not reach the disk.
//!
//! - Invariant: a leaf is marked kept only after the data was synced.
//! - Not here: the data (`crate::partial`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use fs_err as fs;
use ring::digest::{SHA256, digest};

use crate::disk::Disk;
use crate::keys::CidVersion;
use crate::leaves::{Leaves, Shape};
use crate::record::{Layout, Origin};
use crate::row::{Row, put_bytes, put_varint};

const MAGIC: &[u8] = b"pacstore partial 1\n";
const CLAIMED: u8 = 0x10;
const KEPT: u8 = 0x20;

/// What is known of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Missing,
    /// Written; to be hashed again after a restart.
    Claimed(Origin),
    /// Durable.
    Kept(Origin),
}

impl State {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Claimed(origin) => CLAIMED | origin.index() as u8,
            Self::Kept(origin) => KEPT | origin.index() as u8,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Self {
        let origin = Origin::ALL.get(usize::from(byte & 0x0f));
        match (byte & 0xf0, origin) {
            (CLAIMED, Some(origin)) => Self::Claimed(*origin),
            (KEPT, Some(origin)) => Self::Kept(*origin),
            _ => Self::Missing,
        }
    }

    pub(crate) fn origin(self) -> Option<Origin> {
        match self {
            Self::Missing => None,
            Self::Claimed(origin) | Self::Kept(origin) => Some(origin),
        }
    }
}

/// An open bitmap.
#[derive(Debug)]
pub(crate) struct Bitmap {
    file: File,
    /// Where the first leaf's byte is.
    start: u64,
}

impl Bitmap {
    /// Makes the bitmap of a new partial file, with no leaf. Durable with the first [`Self::sync`]: one that a
    /// power cut took half of has a wrong digest, and costs what was begun.
    pub(crate) fn create(disk: &Disk, id: u64, shape: &Shape) -> io::Result<Self> {
        let mut bytes = header(shape);
        let start = bytes.len() as u64;
        bytes.resize(bytes.len() + shape.leaves.list.len(), 0);
        let path = disk.bitmap(id);
        let new = path.with_extension("new");
        disk.hook.before("write bitmap")?;
        fs::write(&new, &bytes)?;
        let file = File::options().read(true).write(true).open(&new)?;
        disk.hook.before("rename bitmap")?;
        fs::rename(&new, &path)?;
        Ok(Self { file, start })
    }

    /// Reads the bitmap of `id`.
    pub(crate) fn load(disk: &Disk, id: u64) -> io::Result<(Self, Shape, Vec<State>)> {
        let path = disk.bitmap(id);
        let bytes = fs::read(&path)?;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "damaged bitmap");
        let (shape, states) = read_header(&bytes).ok_or_else(bad)?;
        if states.len() != shape.leaves.list.len() {
            return Err(bad());
        }
        let start = (bytes.len() - states.len()) as u64;
        let states = states.iter().map(|byte| State::from_byte(*byte)).collect();
        let file = File::options().read(true).write(true).open(path)?;
        Ok((Self { file, start }, shape, states))
    }

    /// Writes down the state of one leaf.
    pub(crate) fn set(&self, leaf: usize, state: State) -> io::Result<()> {
        self.file.write_all_at(&[state.byte()], self.start + leaf as u64)
    }

    /// Makes the bitmap and its name durable.
    pub(crate) fn sync(&self, disk: &Disk, id: u64) -> io::Result<()> {
        disk.hook.sync_bytes(&self.file, &disk.bitmap(id))?;
        disk.hook.sync_dir(&disk.dir().join("partial"))
    }
}

fn header(shape: &Shape) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&shape.layout.root);
    body.push(u8::from(shape.layout.version == CidVersion::V0) | u8::from(shape.layout.single) << 1);
    put_varint(&mut body, shape.layout.tsize);
    put_varint(&mut body, shape.len);
    put_bytes(&mut body, &shape.leaves.encode());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, &body);
    out.extend_from_slice(digest(&SHA256, &body).as_ref());
    out
}

fn read_header(bytes: &[u8]) -> Option<(Shape, &[u8])> {
    let mut row = Row(bytes.strip_prefix(MAGIC)?);
    let body = row.bytes()?;
    if digest(&SHA256, body).as_ref() != row.array::<32>()? {
        return None;
    }
    let mut fields = Row(body);
    let root = fields.array()?;
    let [flags] = fields.array()?;
    let version = if flags & 1 == 0 {
        CidVersion::V1
    } else {
        CidVersion::V0
    };
    let layout = Layout {
        root,
        version,
        single: flags & 2 != 0,
        tsize: fields.varint()?,
    };
    let len = fields.varint()?;
    let leaves = Leaves::decode(fields.bytes()?).ok()?;
    Some((Shape { layout, leaves, len }, row.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_as_it_was_written_and_garbage_is_missing() {
        for origin in Origin::ALL {
            for state in [State::Missing, State::Claimed(origin), State::Kept(origin)] {
                assert_eq!(State::from_byte(state.byte()), state);
            }
        }
        for byte in [0x01, 0x14, 0x30, 0xff] {
            assert_eq!(State::from_byte(byte), State::Missing);
        }
    }
}
