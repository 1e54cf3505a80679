//! What the kernel says of our own process: memory, processor time, open files.
//!
//! - Invariant: what cannot be read is 0; nothing here fails.
//! - Not here: the whole machine (`crate::pressure`).

use serde::{Deserialize, Serialize};

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Processor time in seconds, user and system.
    pub cpu_s: f64,
    /// Open files and sockets.
    pub open_files: u64,
}

/// Reads it from `/proc/self`.
pub(crate) fn read() -> Process {
    let statm = fs_err::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Process {
        resident_bytes: pages.saturating_mul(rustix::param::page_size() as u64),
        cpu_s: usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9,
        open_files: fs_err::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_uses_something() {
        let before = super::read();
        assert!(
            before.resident_bytes > 100_000 && before.open_files >= 3,
            "{before:?}"
        );
        let mut n = 0_u64;
        while super::read().cpu_s <= before.cpu_s {
            n += 1;
            assert!(n < 1_000_000, "processor time advances");
        }
    }
}
