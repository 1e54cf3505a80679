//! How glibc's allocator keeps memory: few heaps, and none that shrinks and grows all the time.
//!
//! - Invariant: called before there is a second thread; what was allocated before stays as it is.
//! - Not here: other allocators (musl's), which have no such settings.
//! - Read first: mallopt(3).

/// What is allocated at once most often, and the most: a leaf of 1 MiB and a page.
#[cfg(target_env = "gnu")]
const LEAF: i32 = (1 << 20) + (4 << 10);

/// Sets it for this process.
///
/// By default there are eight heaps a core, each with holes of its own: an importer's memory grew by 40 MB over 16,500 files
/// that it did not hold. And the end of a heap goes back to the system once 128 KiB there are free, to be faulted in
/// again page by page: a muxer's frames come and go around that bound all the time.
pub(crate) fn settle() {
    #[cfg(target_env = "gnu")]
    {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        set(libc::M_ARENA_MAX, i32::try_from(cores).unwrap_or(8).clamp(2, 8));
        set(libc::M_MMAP_THRESHOLD, LEAF);
        set(libc::M_TRIM_THRESHOLD, 2 * LEAF);
    }
}

/// A setting that is refused stays as it was, which costs memory and nothing else.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "std has no way to tell the allocator")]
fn set(what: libc::c_int, to: libc::c_int) {
    // SAFETY: it takes two numbers and reads nothing of ours.
    unsafe {
        libc::mallopt(what, to);
    }
}
