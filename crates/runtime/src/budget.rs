//! A bound on how much is held at once: bytes in flight, connections, requests.
//!
//! - Invariant: the sum of all leases never exceeds the limit.
//! - Invariant: waiters get their turn in the order they asked; a large one is
//!   never starved by small ones.
//! - Not here: bytes a second (`crate::rate`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most permits that one semaphore of ours hands out; larger limits count in
/// units of several bytes.
const MAX_PERMITS: u64 = 1 << 30;

/// A shared budget of bytes, or of anything else that is counted. Cheap to clone.
///
/// ```
/// use pacstore_runtime::ByteBudget;
///
/// let budget = ByteBudget::new(1_000);
/// let lease = budget.try_acquire(700).expect("there is room");
/// assert!(budget.try_acquire(301).is_none());
/// drop(lease);
/// assert_eq!(budget.in_use(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct ByteBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    /// Bytes that one permit stands for.
    unit: u64,
    permits: Arc<Semaphore>,
    in_use: AtomicU64,
}

impl ByteBudget {
    /// A budget of `limit` bytes. A limit of 0 counts as 1, so that nobody waits for ever.
    pub fn new(limit: u64) -> Self {
        let limit = limit.max(1);
        let unit = limit.div_ceil(MAX_PERMITS);
        let permits = usize::try_from(limit / unit).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            limit,
            unit,
            permits: Arc::new(Semaphore::new(permits)),
            in_use: AtomicU64::new(0),
        }))
    }

    /// Waits for room for `n` bytes. More than the limit is clamped to the limit:
    /// such a holder then is alone.
    ///
    /// Dropping the future gives up its place in the queue and loses nothing else.
    /// Who already holds a lease and waits for another can wait for itself: take
    /// what is needed at once.
    pub async fn acquire(&self, n: u64) -> ByteLease {
        let n = n.min(self.0.limit);
        let permit = Arc::clone(&self.0.permits)
            .acquire_many_owned(self.0.permits_for(n))
            .await
            .expect("the semaphore of a budget is never closed");
        self.lease(n, permit)
    }

    /// Takes `n` bytes if there is room now and nobody waits. Clamps as
    /// [`ByteBudget::acquire`] does.
    pub fn try_acquire(&self, n: u64) -> Option<ByteLease> {
        let n = n.min(self.0.limit);
        let permit = Arc::clone(&self.0.permits)
            .try_acquire_many_owned(self.0.permits_for(n))
            .ok()?;
        Some(self.lease(n, permit))
    }

    /// Bytes that leases hold now.
    pub fn in_use(&self) -> u64 {
        self.0.in_use.load(Ordering::Relaxed)
    }

    /// The most that leases hold together.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    fn lease(&self, n: u64, permit: OwnedSemaphorePermit) -> ByteLease {
        self.0.in_use.fetch_add(n, Ordering::Relaxed);
        ByteLease {
            len: n,
            permit: Some(permit),
            budget: Arc::clone(&self.0),
        }
    }
}

impl Inner {
    /// Permits that cover `n` bytes, never more than there are.
    fn permits_for(&self, n: u64) -> u32 {
        let permits = n.div_ceil(self.unit).min(self.limit / self.unit);
        u32::try_from(permits).expect("MAX_PERMITS fits into 32 bits")
    }
}

/// Bytes held from a [`ByteBudget`]; dropping it gives them back.
#[derive(Debug)]
pub struct ByteLease {
    len: u64,
    /// Always there; an `Option` so that it can be shrunk in place.
    permit: Option<OwnedSemaphorePermit>,
    budget: Arc<Inner>,
}

impl ByteLease {
    /// Bytes that this lease holds.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives back all but `len` bytes. A larger `len` changes nothing.
    pub fn shrink_to(&mut self, len: u64) {
        let keep = len.min(self.len);
        drop(self.split_off(self.len - keep));
    }

    /// Takes `n` bytes (at most all) out of this lease into one of its own.
    #[must_use = "dropping the part gives its bytes back"]
    pub fn split_off(&mut self, n: u64) -> Self {
        let n = n.min(self.len);
        let before = self.budget.permits_for(self.len);
        let after = self.budget.permits_for(self.len - n);
        let moved = usize::try_from(before - after).expect("32 bits fit into usize");
        let permit = self.permit.as_mut().and_then(|permit| permit.split(moved));
        self.len -= n;
        Self {
            len: n,
            permit,
            budget: Arc::clone(&self.budget),
        }
    }
}

impl Drop for ByteLease {
    fn drop(&mut self) {
        self.budget.in_use.fetch_sub(self.len, Ordering::Relaxed);
        drop(self.permit.take());
    }
}
