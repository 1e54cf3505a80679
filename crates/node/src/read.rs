//! Reading a stored file for the gateway: at once where the page cache has it.
//!
//! A read that needs no disk is done right here, because handing it to another thread
//! costs more than the read. Only what is not cached goes to the disk pool.
//!
//! - Invariant: an answer has at least one byte.
//! - Invariant: nothing is given of a shared file that was written to before it was read.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use pacstore_runtime::{BufferSizes, Buffers, Pool, Tasks};
use pacstore_store::OpenFile;
use rustix::io::ReadWriteFlags;

use crate::fetch::FetchError;

/// Bytes read at once: what two copies, in and out, leave in a core's cache.
const PIECE: usize = 256 << 10;

/// Shorter reads get memory of their own size.
const SHORT: usize = 16 << 10;

/// Pieces kept for later: 8 MiB.
const MAX_SPARE: usize = 32;

/// The memory of pieces on their way out.
pub(crate) fn buffers() -> Buffers {
    Buffers::new(BufferSizes {
        shortest: SHORT,
        each: PIECE,
        spare: MAX_SPARE,
    })
}

/// An open file, however it is held.
pub(crate) trait Holds: Send + Sync + 'static {
    /// The file.
    fn file(&self) -> &File;

    /// Nobody else wrote to it, so that what was read of it until now is right.
    fn is_unchanged(&self) -> bool;
}

impl Holds for File {
    fn file(&self) -> &File {
        self
    }

    fn is_unchanged(&self) -> bool {
        true
    }
}

impl Holds for OpenFile {
    fn file(&self) -> &File {
        &self.file
    }

    fn is_unchanged(&self) -> bool {
        Self::is_unchanged(self)
    }
}

/// Bytes `start..end` of `file`, which is that of `root`, or the first part of them.
pub(crate) async fn stored(
    tasks: &Tasks,
    buffers: &Buffers,
    file: &Arc<impl Holds>,
    root: Cid,
    start: u64,
    end: u64,
) -> Result<Bytes, FetchError> {
    let wanted = end.saturating_sub(start).min(PIECE as u64) as usize;
    let mut piece = buffers.take(wanted);
    let failed = |error: io::Error| FetchError::Read {
        cid: root,
        source: Arc::new(error),
    };
    if let Some(read) = cached(file.file(), piece.room(), start) {
        if !file.is_unchanged() {
            return Err(failed(changed()));
        }
        return Ok(piece.filled(read));
    }
    let file = Arc::clone(file);
    let read = tasks.blocking(Pool::Disk, move || {
        use std::os::unix::fs::FileExt as _;
        let read = file.file().read_at(piece.room(), start)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        if !file.is_unchanged() {
            return Err(changed());
        }
        Ok(piece.filled(read))
    });
    match read.await {
        Ok(Ok(data)) => Ok(data),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(FetchError::Stopping),
    }
}

fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "somebody wrote to the file while it was read",
    )
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
