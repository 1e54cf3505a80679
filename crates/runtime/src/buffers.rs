//! Memory that is used again: fresh memory costs more than the copy into it.
//!
//! - Invariant: as much is kept for later as was said, and next to nothing once nobody uses any.
//! - Not here: how much may be in use (`crate::budget`).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Buffers that stay while nobody uses any.
const IDLE: usize = 2;

/// Buffers of one size that nobody uses. Clones share them.
///
/// ```
/// use pacstore_runtime::{BufferSizes, Buffers};
///
/// let buffers = Buffers::new(BufferSizes { shortest: 16, each: 1024, spare: 4 });
/// let mut buffer = buffers.take(1000);
/// buffer.room()[..3].copy_from_slice(b"abc");
/// assert_eq!(buffer.filled(3), "abc");
/// ```
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Shared>);

/// What is kept for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// Who wants less than this many bytes gets memory of just that length.
    pub shortest: usize,
    /// Bytes of each buffer; who wants more gets memory of just that length.
    pub each: usize,
    /// Buffers kept at most.
    pub spare: usize,
}

#[derive(Debug)]
struct Shared {
    sizes: BufferSizes,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spare: Vec<Vec<u8>>,
    in_use: usize,
}

/// Memory to be filled. It goes back when it, or the last of the bytes made of it, is dropped.
pub struct Buffer {
    memory: Vec<u8>,
    len: usize,
    /// Where it goes back to, if it is kept.
    home: Option<Arc<Shared>>,
}

impl Buffers {
    /// No buffers yet; they are made when they are wanted.
    pub fn new(sizes: BufferSizes) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { sizes, state }))
    }

    /// Room for `len` bytes, with whatever was in it before.
    pub fn take(&self, len: usize) -> Buffer {
        let sizes = &self.0.sizes;
        if len < sizes.shortest || sizes.each < len {
            return Buffer {
                memory: vec![0; len],
                len,
                home: None,
            };
        }
        let spare = {
            let mut state = self.0.state();
            state.in_use += 1;
            state.spare.pop()
        };
        Buffer {
            memory: spare.unwrap_or_else(|| vec![0; sizes.each]),
            len,
            home: Some(Arc::clone(&self.0)),
        }
    }

    /// Buffers kept for later.
    pub fn spare(&self) -> usize {
        self.0.state().spare.len()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// The room that was asked for.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// Its first `filled` bytes.
    pub fn filled(mut self, filled: usize) -> Bytes {
        self.len = self.len.min(filled);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let mut state = home.state();
        state.in_use = state.in_use.saturating_sub(1);
        if state.spare.len() < home.sizes.spare {
            state.spare.push(std::mem::take(&mut self.memory));
        }
        if state.in_use == 0 && IDLE < state.spare.len() {
            let surplus = state.spare.split_off(IDLE);
            drop(state);
            drop(surplus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: BufferSizes = BufferSizes {
        shortest: 16,
        each: 256,
        spare: 8,
    };

    #[test]
    fn memory_of_what_was_sent_is_used_again() {
        let buffers = Buffers::new(SIZES);
        let mut buffer = buffers.take(256);
        buffer.room()[..3].copy_from_slice(b"abc");
        let sent = buffer.filled(3);
        let (first, rest) = (sent.slice(..1), sent.slice(1..));
        drop(sent);
        assert_eq!((&first[..], &rest[..]), (&b"a"[..], &b"bc"[..]));
        assert_eq!(buffers.spare(), 0, "it is still being sent");
        drop((first, rest));
        assert_eq!(buffers.spare(), 1);
        let mut again = buffers.take(16);
        assert_eq!((again.room().len(), buffers.spare()), (16, 0));
    }

    #[test]
    fn short_and_long_ones_are_not_kept_and_of_the_others_only_so_many() {
        let buffers = Buffers::new(SIZES);
        for len in [0, 15, 257, 10_000] {
            let mut buffer = buffers.take(len);
            assert_eq!(buffer.room().len(), len);
        }
        assert_eq!(buffers.spare(), 0);
        let mut many: Vec<Buffer> = (0..20).map(|_| buffers.take(100)).collect();
        many.truncate(1);
        assert_eq!(buffers.spare(), 8);
        drop(many);
        assert_eq!(buffers.spare(), IDLE, "nobody uses any");
    }
}
