//! Reading a stored file for the gateway: at once where the page cache has it.
//!
//! A read that needs no disk is done right here, because handing it to another thread
//! costs more than the read. Only what is not cached goes to the disk pool.
//!
//! - Invariant: an answer has at least one byte.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pacstore_runtime::{Pool, Tasks};
use pacstore_store::OpenFile;
use rustix::io::ReadWriteFlags;

use crate::fetch::FetchError;

/// Bytes read at once.
const PIECE: u64 = 256 << 10;

/// Bytes `start..end` of `file` or the first part of them.
pub(crate) async fn stored(
    tasks: &Tasks,
    file: &Arc<OpenFile>,
    start: u64,
    end: u64,
) -> Result<Bytes, FetchError> {
    let wanted = end.saturating_sub(start).min(PIECE) as usize;
    let mut buffer = BytesMut::zeroed(wanted);
    if let Some(read) = cached(file, &mut buffer, start) {
        buffer.truncate(read);
        return Ok(buffer.freeze());
    }
    let file = Arc::clone(file);
    let root = file.info.root;
    let read = tasks.blocking(Pool::Disk, move || {
        use std::os::unix::fs::FileExt as _;
        let read = file.file.read_at(&mut buffer, start)?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        buffer.truncate(read);
        Ok(buffer.freeze())
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
fn cached(file: &OpenFile, buffer: &mut [u8], start: u64) -> Option<usize> {
    let mut slices = [io::IoSliceMut::new(buffer)];
    match rustix::io::preadv2(&file.file, &mut slices, start, ReadWriteFlags::NOWAIT) {
        Ok(0) | Err(_) => None,
        Ok(read) => Some(read),
    }
}
