//! How glibc's allocator keeps memory: few heaps, none that shrinks and grows all the time, and no more that is free than
//! will be used again soon.
//!
//! - Invariant: settings are made before there is a second thread; what was allocated before stays as it is.
//! - Not here: other allocators (musl's), which have no such settings.
//! - Read first: mallopt(3), malloc_trim(3).

use std::time::Duration;

use pacstore_runtime::{Pool, Tasks};

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

/// How much memory may be free within the heaps. The end of a heap goes back by itself; holes do not, and after a flood of
/// requests or the batches of an import most of a heap is holes.
const HOLES: u64 = 8 << 20;

/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Gives back what is free, time and again until `tasks` end.
pub(crate) fn give_back(tasks: &Tasks) {
    if cfg!(not(target_env = "gnu")) {
        return;
    }
    let (pools, stop) = (tasks.clone(), tasks.stop());
    tasks.spawn("heap", async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        let look = async {
            loop {
                tick.tick().await;
                if HOLES < holes() && pools.blocking(Pool::Disk, trim).await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(look).await;
    });
}

/// Bytes of memory that are ours and hold nothing; 0 where the system does not say.
fn holes() -> u64 {
    let anonymous = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| anonymous_pages(&text))
        .unwrap_or_default();
    let page = u64::try_from(rustix::param::page_size()).unwrap_or_default();
    (anonymous * page).saturating_sub(used())
}

/// From "size resident shared ...", in pages.
fn anonymous_pages(statm: &str) -> Option<u64> {
    let mut fields = statm.split_ascii_whitespace().skip(1);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (resident, shared) = (next()?, next()?);
    resident.checked_sub(shared)
}

/// Bytes that are allocated.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "std has no way to ask the allocator")]
fn used() -> u64 {
    // SAFETY: it takes nothing and gives numbers.
    let info = unsafe { libc::mallinfo() };
    // They are of 32 bits, with a sign that means nothing.
    u64::from(info.uordblks.cast_unsigned()) + u64::from(info.hblkhd.cast_unsigned())
}

#[cfg(not(target_env = "gnu"))]
fn used() -> u64 {
    u64::MAX
}

/// Gives the pages of all holes back.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "std has no way to tell the allocator")]
fn trim() {
    // SAFETY: it takes a number; what is allocated stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// A setting that is refused stays as it was, which costs memory and nothing else.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "std has no way to tell the allocator")]
fn set(what: libc::c_int, to: libc::c_int) {
    // SAFETY: it takes two numbers and reads nothing of ours.
    unsafe {
        libc::mallopt(what, to);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_between_what_is_held_is_given_back() {
        // Every second of 40,000 goes: holes that no heap's end can give back.
        let mut held: Vec<Option<Vec<u8>>> = (0..40_000).map(|_| Some(vec![1; 1 << 12])).collect();
        let full = holes();
        for slot in held.chunks_mut(64).step_by(2) {
            slot.fill(None);
        }
        let before = holes();
        assert!(full + HOLES < before, "{full} {before}");
        trim();
        let after = holes();
        assert!(after + HOLES < before, "{before} {after}");
        assert_eq!(held.iter().flatten().count(), 20_000 - 40_000 % 128 / 2);
    }

    #[test]
    fn pages_of_files_are_not_ours_to_give() {
        assert_eq!(anonymous_pages("9000 700 200 1 0 300 0\n"), Some(500));
        assert_eq!(anonymous_pages("9000 700"), None);
        assert_eq!(anonymous_pages("9000 2 700 1"), None);
    }
}
