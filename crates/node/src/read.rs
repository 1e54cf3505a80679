//! Reading a stored file for the gateway: at once where the page cache has it.
//!
//! A read that needs no disk is done right here, because handing it to another thread
//! costs more than the read. Only what is not cached goes to the disk pool. Pieces that
//! were sent are read into again: fresh memory costs more than the copy into it.
//!
//! - Invariant: an answer has at least one byte.
//! - Invariant: at most [`MAX_SPARE`] pieces are kept for later.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cid::Cid;
use pacstore_runtime::{Pool, Tasks};
use pacstore_store::OpenFile;
use rustix::io::ReadWriteFlags;

use crate::fetch::FetchError;

/// Bytes read at once: what two copies, in and out, leave in a core's cache.
const PIECE: usize = 256 << 10;

/// Shorter reads get memory of their own size.
const SHORT: usize = 16 << 10;

/// Pieces kept for later: 8 MiB.
const MAX_SPARE: usize = 32;

/// Pieces that nobody uses. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces(Arc<Mutex<Vec<Vec<u8>>>>);

/// A piece of a file on its way out; its memory goes back at the end.
struct Piece {
    memory: Vec<u8>,
    len: usize,
    home: Pieces,
}

impl Pieces {
    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for `len` bytes, at most [`PIECE`].
    fn take(&self, len: usize) -> Piece {
        let kept = if len < SHORT { None } else { self.spare().pop() };
        let memory = kept.unwrap_or_else(|| vec![0; if len < SHORT { len } else { PIECE }]);
        let len = len.min(memory.len());
        let home = self.clone();
        Piece { memory, len, home }
    }
}

impl Piece {
    fn room(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// Its first `read` bytes.
    fn filled(mut self, read: usize) -> Bytes {
        self.len = self.len.min(read);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.memory.len() < PIECE {
            return;
        }
        let mut spare = self.home.spare();
        if spare.len() < MAX_SPARE {
            spare.push(std::mem::take(&mut self.memory));
        }
    }
}

/// An open file, however it is held.
pub(crate) trait Holds: Send + Sync + 'static {
    /// The file.
    fn file(&self) -> &File;
}

impl Holds for File {
    fn file(&self) -> &File {
        self
    }
}

impl Holds for OpenFile {
    fn file(&self) -> &File {
        &self.file
    }
}

/// Bytes `start..end` of `file`, which is that of `root`, or the first part of them.
pub(crate) async fn stored(
    tasks: &Tasks,
    pieces: &Pieces,
    file: &Arc<impl Holds>,
    root: Cid,
    start: u64,
    end: u64,
) -> Result<Bytes, FetchError> {
    let wanted = end.saturating_sub(start).min(PIECE as u64) as usize;
    let mut piece = pieces.take(wanted);
    if let Some(read) = cached(file.file(), piece.room(), start) {
        return Ok(piece.filled(read));
    }
    let file = Arc::clone(file);
    let read = tasks.blocking(Pool::Disk, move || {
        use std::os::unix::fs::FileExt as _;
        let read = file.file().read_at(piece.room(), start)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(piece.filled(read))
    });
    match read.await {
        Ok(Ok(data)) => Ok(data),
        Ok(Err(error)) => Err(FetchError::Read {
            cid: root,
            source: Arc::new(error),
        }),
        Err(_) => Err(FetchError::Stopping),
    }
}

/// What the page cache has of it, if anything.
fn cached(file: &File, room: &mut [u8], start: u64) -> Option<usize> {
    let mut slices = [io::IoSliceMut::new(room)];
    match rustix::io::preadv2(file, &mut slices, start, ReadWriteFlags::NOWAIT) {
        Ok(0) | Err(_) => None,
        Ok(read) => Some(read),
    }
}

/// Opens a whole file. One that somebody else wrote to is no longer in the store: as if it had never been here.
pub(crate) fn open_shared(
    store: &pacstore_store::Store,
    root: &Cid,
) -> Result<Option<Arc<OpenFile>>, pacstore_store::ReadError> {
    match store.open_shared(root) {
        // Perhaps another copy of it is.
        Err(pacstore_store::ReadError::Changed(_)) => store.open_shared(root),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_sent_piece_is_used_again_and_only_so_much_is_kept() {
        let pieces = Pieces::default();
        let mut piece = pieces.take(PIECE);
        piece.room()[..3].copy_from_slice(b"abc");
        let sent = piece.filled(3);
        let (first, rest) = (sent.slice(..1), sent.slice(1..));
        drop(sent);
        assert_eq!((&first[..], &rest[..]), (&b"a"[..], &b"bc"[..]));
        assert_eq!(pieces.spare().len(), 0, "it is still being sent");
        drop((first, rest));
        assert_eq!(pieces.spare().len(), 1);
        let again = pieces.take(SHORT);
        assert_eq!((again.as_ref().len(), pieces.spare().len()), (SHORT, 0));
        drop(again);
        drop(pieces.take(5));
        assert_eq!(pieces.spare().len(), 1, "a short piece is not kept");
        let many: Vec<Piece> = (0..MAX_SPARE + 5).map(|_| pieces.take(PIECE)).collect();
        drop(many);
        assert_eq!(pieces.spare().len(), MAX_SPARE);
    }
}
