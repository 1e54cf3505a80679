//! Freeing: what may go, in which order, and how writers get room.
//!
//! Evictable is what no label, pin or staged batch refers to. Files and idle partial files go least recently
//! used first; nodes go by their own cap, oldest first. A file is taken out of the index before it is unlinked,
//! so who has it open reads on, and a crash between leaves a stray that the next open sweeps.
//!
//! - Invariant: evictable bytes plus bytes promised to writers never pass `max_size`, save by what is let go of
//!   (a released tree) until the next pass.
//! - Invariant: one transaction takes at most [`FILES_AT_ONCE`] files, so writers wait for milliseconds only.
//! - Not here: what is referenced (`crate::refs`).

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use redb::ReadableTable;
use tracing::debug;

use crate::class;
use crate::error::{IndexError, WriteError};
use crate::files::{self, Lookup};
use crate::index::{LRU, Tables};
use crate::nodes;
use crate::partials::Idle;
use crate::store::{Inner, Store, write_touched};
use crate::work;

const FILES_AT_ONCE: usize = 256;
const NODES_AT_ONCE: u64 = 2048;
/// How often gc writes down which files were used, in seconds: an idle node's disk may sleep meanwhile.
const USES_EVERY: u64 = 900;
/// Uses that lie further ahead than this, in seconds, were written down by a clock that was wrong.
const AHEAD: u64 = 3600;
/// Admission frees up to this many bytes (and 1 % of the cap) more than asked, so that it need not each time.
const SLACK: u64 = 64 << 20;

/// What a pass of gc did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Whole files removed.
    pub files: u64,
    /// Partial files removed.
    pub partials: u64,
    /// Nodes removed.
    pub nodes: u64,
    /// Bytes of disk freed, nodes not counted.
    pub bytes: u64,
    /// Evictable bytes left.
    pub evictable: u64,
}

/// Room promised to a writer, until it is dropped. Drop it after what it was for is committed.
#[derive(Debug)]
pub struct Reservation {
    store: Store,
    len: u64,
}

impl Reservation {
    /// How many bytes are promised.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if nothing is promised.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.store.0.reserved.fetch_sub(self.len, Ordering::AcqRel);
    }
}

impl Store {
    /// Makes room for `len` bytes, in whole blocks of the disk, under the cap, evicting what is least recently used.
    ///
    /// Batches and partial files do this themselves.
    ///
    /// # Errors
    /// [`WriteError::Full`] if what is evictable does not give enough.
    pub fn reserve(&self, len: u64) -> Result<Reservation, WriteError> {
        let inner = &self.0;
        let len = inner.index.on_disk(len);
        let _one_at_a_time = inner.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = GcReport::default();
        if inner.used().saturating_add(len) > inner.max_size {
            inner.settle_to_free()?;
            inner.refresh_partials()?;
        }
        while inner.used().saturating_add(len) > inner.max_size {
            let over = inner.used().saturating_add(len) - inner.max_size;
            let slack = SLACK.min(inner.max_size / 100);
            if len > inner.max_size || inner.evict(over.saturating_add(slack), &mut report)? == 0 {
                return Err(WriteError::Full {
                    needed: len,
                    max: inner.max_size,
                });
            }
        }
        inner.reserved.fetch_add(len, Ordering::AcqRel);
        Ok(Reservation {
            store: self.clone(),
            len,
        })
    }

    /// Room for `len` bytes if there is some under the cap without evicting anything.
    pub(crate) fn reserve_spare(&self, len: u64) -> Option<Reservation> {
        let inner = &self.0;
        let len = inner.index.on_disk(len);
        let _one_at_a_time = inner.admission.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.used().saturating_add(len) > inner.max_size {
            return None;
        }
        inner.reserved.fetch_add(len, Ordering::AcqRel);
        Some(Reservation {
            store: self.clone(),
            len,
        })
    }

    /// Frees until at most `target` evictable bytes are left (by default `max_size`), and nodes that nothing
    /// holds until they are under their own cap and under `target`. Writes down which files were used, now and then.
    ///
    /// Evictable bytes may stay above `target` where readers or writers need them now.
    ///
    /// # Errors
    /// [`WriteError::StorageFull`], [`WriteError::Index`]; what was freed before stays freed.
    pub fn gc(&self, target: Option<u64>) -> Result<GcReport, WriteError> {
        self.gc_told(target, &mut |_| ())
    }

    /// As [`Self::gc`]; `told` hears what was freed so far after each transaction.
    ///
    /// # Errors
    /// As [`Self::gc`].
    pub fn gc_told(
        &self,
        target: Option<u64>,
        told: &mut dyn FnMut(&GcReport),
    ) -> Result<GcReport, WriteError> {
        let inner = &self.0;
        let target = target.unwrap_or(inner.max_size);
        let mut report = GcReport::default();
        inner.write_uses()?;
        inner.settle_to_free()?;
        inner.forget_future_uses()?;
        inner.refresh_partials()?;
        while inner.evictable() > target {
            if inner.evict(inner.evictable() - target, &mut report)? == 0 {
                break;
            }
            told(&report);
        }
        let node_target = inner.max_free_nodes.min(target);
        while inner.index.counters().free_node_bytes > node_target {
            let (nodes, _) = inner.write_to_free("evict nodes", |t| {
                work::finish_raising(t)?;
                nodes::evict(t, node_target, NODES_AT_ONCE)
            })?;
            report.nodes += nodes;
            if nodes == 0 {
                break;
            }
            told(&report);
        }
        inner.disk.remove_emptied(inner.next_id.load(Ordering::Relaxed));
        inner.disk.make_ballast();
        report.evictable = inner.evictable();
        debug!(
            files = report.files,
            bytes = report.bytes,
            nodes = report.nodes,
            "gc"
        );
        Ok(report)
    }
}

impl Inner {
    /// Writes down which files were used, if the last time is [`USES_EVERY`] ago. Who evicts does so by itself, and a crash
    /// costs no more than the order of the files of that time.
    fn write_uses(&self) -> Result<(), WriteError> {
        let now = self.now();
        if now.abs_diff(self.uses_written.load(Ordering::Relaxed)) < USES_EVERY {
            return Ok(());
        }
        self.uses_written.store(now, Ordering::Relaxed);
        let uses = self.take_touched();
        if uses.is_empty() {
            return Ok(());
        }
        self.write_to_free("write uses", |t| write_touched(t, &uses))
    }

    /// Files that were used in the future, by a clock that was wrong, were used now: else they would be the last
    /// to go until then.
    fn forget_future_uses(&self) -> Result<(), WriteError> {
        let now = self.now();
        // Bounded whatever a damaged index says.
        for _ in 0..=self.index.counters().files / FILES_AT_ONCE as u64 {
            let ahead = self.index.read(|txn| {
                let lru = txn.open_table(LRU)?;
                let mut ahead = Vec::new();
                for range in class::uses_after(now + AHEAD) {
                    for row in lru.range(range)?.take(FILES_AT_ONCE) {
                        ahead.push(row?.0.value().1);
                    }
                }
                Ok(ahead)
            })?;
            if ahead.is_empty() {
                return Ok(());
            }
            self.write_to_free("write uses", |t| {
                ahead.iter().try_for_each(|id| files::touch(t, *id, now))
            })?;
        }
        Ok(())
    }

    /// Bytes that gc may free.
    fn evictable(&self) -> u64 {
        self.index.counters().free_file_bytes + self.partials.sums().capped
    }

    /// Bytes that count against the cap.
    fn used(&self) -> u64 {
        self.evictable() + self.reserved.load(Ordering::Acquire)
    }

    /// Frees about `over` bytes in one transaction. Gives how many bytes it freed; 0 if there is nothing to free.
    fn evict(&self, over: u64, report: &mut GcReport) -> Result<u64, WriteError> {
        self.settle_to_free()?;
        let uses = self.take_touched();
        let idle = self.partials.idle();
        // Held over the transaction: a batch that counts on a file either finds it busy here, or finds it gone.
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let picked = self.write_to_free("evict files", |t| {
            // Somebody may have begun to retain a tree since.
            work::finish_raising(t)?;
            write_touched(t, &uses)?;
            let picked = Picked::least_used(t, over, &idle, &busy)?;
            for id in &picked.files {
                files::remove(t, *id)?;
            }
            Ok(picked)
        });
        drop(busy);
        let picked = picked.inspect_err(|_| self.leave_unclean())?;
        for id in &picked.files {
            self.unlink(*id);
        }
        report.files += picked.files.len() as u64;
        report.bytes += picked.file_bytes;
        let (mut gone, mut freed) = (picked.files.len(), picked.file_bytes);
        for partial in picked.partials {
            let discarded = self.discard_idle(&partial.root);
            if discarded.map_err(|error| WriteError::file(self.disk.dir(), error))? {
                gone += 1;
                freed += partial.len;
                report.partials += 1;
                report.bytes += partial.len;
            }
        }
        Ok(if gone == 0 { 0 } else { freed.max(1) })
    }

    /// A transaction that frees. If the disk has no room for it, it gets the room that was kept for this.
    pub(crate) fn write_to_free<T>(
        &self,
        step: &'static str,
        mut change: impl FnMut(&mut Tables<'_>) -> Result<T, IndexError>,
    ) -> Result<T, WriteError> {
        match self.write(step, &mut change) {
            Err(WriteError::StorageFull(_)) if self.disk.use_ballast() => {
                // The first try may have become durable at its very end; what it evicted is a stray then.
                self.leave_unclean();
                self.write(step, change)
            }
            other => other,
        }
    }
}

/// What one transaction evicts.
#[derive(Debug, Default)]
struct Picked {
    files: Vec<u64>,
    file_bytes: u64,
    partials: Vec<Idle>,
}

impl Picked {
    /// The least recently used files and partial files, until they make up `over` bytes.
    fn least_used(
        t: &Tables<'_>,
        over: u64,
        idle: &[Idle],
        busy: &HashMap<u64, u32>,
    ) -> Result<Self, IndexError> {
        let mut picked = Self::default();
        let mut idle = idle.iter().peekable();
        let mut freed = 0;
        for row in t.lru.iter()? {
            if freed >= over || picked.files.len() >= FILES_AT_ONCE {
                return Ok(picked);
            }
            let (used, id) = row?.0.value();
            while let Some(partial) = idle.next_if(|partial| partial.used <= used && freed < over) {
                freed += partial.len;
                picked.partials.push(*partial);
            }
            if freed < over && !busy.contains_key(&id) {
                let len = t.file(id)?.map_or(0, |record| record.disk_len(t.block));
                freed += len;
                picked.file_bytes += len;
                picked.files.push(id);
            }
        }
        while let Some(partial) = idle.next_if(|_| freed < over) {
            freed += partial.len;
            picked.partials.push(*partial);
        }
        Ok(picked)
    }
}
