//! Time, tasks, budgets and back-off: what every crate with a daemon in it shares.
//!
//! A daemon that runs for months dies of small things: a task that panicked
//! unseen, a queue without bound, a wait without end, a retry without pause.
//! Each has its one answer here, so that no other crate invents another.
//!
//! - Invariant: nothing in this crate waits without a bound that the caller chose,
//!   except for room in a [`ByteBudget`] or a turn at a [`RateLimit`], which other
//!   holders give back.
//! - Invariant: only [`Tasks`] spawns (a clippy ban holds everywhere else).
//! - Not here: what the tasks do, configuration, signals (`cli`).
//! - Read first: [`Tasks`].
//!
//! ```
//! use std::time::Duration;
//! use pacstore_runtime::{Pool, Tasks};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let tasks = Tasks::new();
//! let stop = tasks.stop();
//! tasks.spawn("ticker", async move { stop.cancelled().await });
//! assert_eq!(tasks.blocking(Pool::Hash, || 6 * 7).await, Ok(42));
//! let late = tasks.shutdown(Duration::from_secs(5)).await;
//! assert!(late.is_empty(), "every task ended by itself");
//! # }
//! ```

mod backoff;
mod budget;
mod buffers;
mod clock;
mod deadline;
mod pool;
mod rate;
mod tasks;

pub use backoff::{Backoff, jittered};
pub use budget::{ByteBudget, ByteLease};
pub use buffers::{Buffer, BufferSizes, Buffers};
pub use clock::{Clock, FakeClock};
pub use deadline::{DeadlineExceeded, deadline};
pub use pool::{Pool, PoolLimits, Stopped};
pub use rate::RateLimit;
pub use tasks::{TaskGuard, TaskHandle, TaskId, TaskReport, TaskState, Tasks, note};
/// The stop token, re-exported so that all crates mean the same type.
pub use tokio_util::sync::CancellationToken;
