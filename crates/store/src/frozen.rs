//! The index's file where it cannot be written: what opening it would mend there is kept in memory.
//!
//! A database that was not closed in order is mended when it is opened, and wants to write what it mended. On a file
//! system that became read-only it would not open at all then, although all that it says can be read.
//!
//! - Invariant: the file is opened for reading only.
//! - Invariant: no change of ours is made over it (`crate::index` refuses them), so that memory holds only what was mended.
//! - Not here: when it is used (`crate::index`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Bytes of a piece that is kept in memory.
const PAGE: u64 = 4096;

/// The file, and what lies over it.
#[derive(Debug)]
pub(crate) struct Frozen {
    file: File,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    /// Bytes of the whole.
    len: u64,
    /// Of these, so many at the beginning are the file's where no page lies over them; all behind are zeros.
    of_file: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Frozen {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            over: Mutex::new(Over {
                len,
                of_file: len,
                pages: BTreeMap::new(),
            }),
        })
    }

    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at `offset`, with zeros behind the end.
    fn fill(&self, over: &Over, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let of_file = over.of_file.saturating_sub(offset).min(out.len() as u64) as usize;
        let (of_file, behind) = out.split_at_mut(of_file);
        self.file.read_exact_at(of_file, offset)?;
        behind.fill(0);
        let end = offset + out.len() as u64;
        for (number, page) in over.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let (from, to) = ((number * PAGE).max(offset), ((number + 1) * PAGE).min(end));
            let in_page = (from - number * PAGE) as usize..(to - number * PAGE) as usize;
            out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&page[in_page]);
        }
        Ok(())
    }
}

impl StorageBackend for Frozen {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if over.len < offset.saturating_add(out.len() as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.fill(&over, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over();
        over.of_file = over.of_file.min(len);
        over.pages.split_off(&len.div_ceil(PAGE));
        if let Some(last) = over.pages.get_mut(&(len / PAGE)) {
            last[(len % PAGE) as usize..].fill(0);
        }
        over.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        let end = offset + data.len() as u64;
        for number in offset / PAGE..end.div_ceil(PAGE) {
            let (from, to) = ((number * PAGE).max(offset), ((number + 1) * PAGE).min(end));
            let mut page = vec![0; PAGE as usize];
            self.fill(&over, number * PAGE, &mut page)?;
            page[(from - number * PAGE) as usize..(to - number * PAGE) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            over.pages.insert(number, page);
        }
        over.len = over.len.max(end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads and writes of any place and length, as over a file that may be written.
    #[test]
    fn what_is_written_over_it_is_read_again_and_the_file_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut model: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &model).unwrap();
        let frozen = Frozen::open(&path).unwrap();
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 0..2000u32 {
            let len = model.len() as u64;
            match random(10) {
                0 => {
                    let to = random(30_000);
                    frozen.set_len(to).unwrap();
                    model.resize(to as usize, 0);
                }
                1..=4 => {
                    let (at, count) = (random(len + 1) as usize, random(9000) as usize);
                    let data = vec![round as u8; count];
                    frozen.write(at as u64, &data).unwrap();
                    model.resize(model.len().max(at + count), 0);
                    model[at..at + count].copy_from_slice(&data);
                }
                _ => {
                    let at = random(len + 1) as usize;
                    let mut out = vec![1; random(len - at as u64 + 1) as usize];
                    frozen.read(at as u64, &mut out).unwrap();
                    assert!(out == model[at..at + out.len()], "round {round}");
                }
            }
            assert_eq!(frozen.len().unwrap(), model.len() as u64);
        }
        let past = frozen.read(model.len() as u64, &mut [0]).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        let first: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        assert!(std::fs::read(&path).unwrap() == first);
    }
}
