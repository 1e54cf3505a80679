//! The task set: the one place that spawns, and that knows what runs.
//!
//! `node` owns it and hands clones down. Each task has a name, a line in
//! `pacstore status`, and the stop token to listen to.
//!
//! - Invariant: a task never dies unseen; a panic is logged and stays in the report.
//! - Invariant: after [`Tasks::shutdown`] nothing of the set runs and nothing new
//!   starts, save blocking closures that did not end within the grace: nobody can
//!   stop those, so they are named.
//! - Not here: restarting. A task that is to survive its errors loops by itself.
//! - Read first: [`Tasks`].

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::pool::{Pool, PoolLimits, Pools, Stopped, panic_text};

/// Panicked tasks that the report remembers.
const REMEMBERED_PANICS: usize = 32;

/// How long aborted tasks get to be dropped. A task that blocks its thread can
/// outlive even that.
const ABORT_GRACE: Duration = Duration::from_secs(1);

tokio::task_local! {
    static CURRENT: (Tasks, TaskId);
}

/// All tasks of one node. Cheap to clone; clones are the same set.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    stop: CancellationToken,
    pools: Pools,
    table: Mutex<Table>,
    /// Tasks and blocking closures that have not ended.
    live: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    next: u64,
    closed: bool,
    running: BTreeMap<TaskId, Entry>,
    panicked: VecDeque<TaskReport>,
    fault: Option<String>,
}

struct Entry {
    name: Cow<'static, str>,
    since: Instant,
    note: Option<String>,
    abort: Option<AbortHandle>,
    /// Who waits for the end of this task waits for its sender to go away. `None`:
    /// blocking work, which nobody can wait for or abort by a handle.
    ended: Option<watch::Sender<()>>,
}

/// Which task of its set a task is. Later tasks have larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

/// What a task does, as far as the set knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It runs; with what it last said of itself by [`note`].
    Running(Option<String>),
    /// It panicked, with what the panic said.
    Panicked(String),
}

/// One line of `pacstore status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskReport {
    /// The name it was spawned with.
    pub name: String,
    /// What it does.
    pub state: TaskState,
    /// Since when it is in that state.
    pub since: Instant,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("live", &*self.0.live.borrow())
            .field("stopping", &self.0.stop.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Tasks {
    /// An empty set with the default [`PoolLimits`].
    pub fn new() -> Self {
        Self::with_limits(PoolLimits::default())
    }

    /// An empty set whose blocking pools have these limits.
    pub fn with_limits(limits: PoolLimits) -> Self {
        Self(Arc::new(Inner {
            stop: CancellationToken::new(),
            pools: Pools::new(limits),
            table: Mutex::default(),
            live: watch::Sender::new(0),
        }))
    }

    /// Starts a task. It runs on when the handle is dropped.
    ///
    /// A panic in it is logged and reported; the others go on. After the end of
    /// [`Tasks::shutdown`] the future is dropped instead.
    ///
    /// # Panics
    /// If called outside of a tokio runtime.
    pub fn spawn(
        &self,
        name: impl Into<Cow<'static, str>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        self.start(name.into(), Weight::Ordinary, future)
    }

    /// Starts a task without which the node makes no sense: its panic also fires
    /// the stop token, and [`Tasks::fault`] then names it.
    ///
    /// # Panics
    /// If called outside of a tokio runtime.
    pub fn spawn_critical(
        &self,
        name: impl Into<Cow<'static, str>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        self.start(name.into(), Weight::Critical, future)
    }

    /// Runs `work` on a thread where it may block, once the pool has room.
    ///
    /// Nothing happens before the first poll. Dropping the future while it waits for
    /// room cancels it; afterwards `work` runs to its end and its result is dropped.
    ///
    /// # Errors
    /// [`Stopped::Stopping`] after shutdown, [`Stopped::Panicked`] if `work` panicked.
    pub fn blocking<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Stopped>> + Send + 'static {
        let tasks = self.clone();
        async move {
            let turn = tasks
                .0
                .pools
                .of(pool)
                .acquire_owned()
                .await
                .map_err(|_| Stopped::Stopping)?;
            let life = Life::begin(&tasks, pool.work_name(), None).ok_or(Stopped::Stopping)?;
            let work = move || {
                let done = catch_unwind(AssertUnwindSafe(work));
                drop(turn);
                if let Err(payload) = &done {
                    life.panicked(&panic_text(&**payload));
                }
                drop(life);
                done
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "this is the bounded pool that others go through"
            )]
            let handle = tokio::task::spawn_blocking(work);
            match handle.await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(payload)) => Err(Stopped::Panicked(panic_text(&*payload))),
                Err(error) if error.is_panic() => Err(Stopped::Panicked(panic_text(&*error.into_panic()))),
                Err(_cancelled) => Err(Stopped::Stopping),
            }
        }
    }

    /// How many closures of `pool` may run at once.
    pub fn room(&self, pool: Pool) -> usize {
        self.0.pools.room(pool)
    }

    /// Lets at most `wanted` closures of `pool` run at once from now on; 0 counts as 1.
    ///
    /// Those under way are not stopped: as long as more run than that, only the idle part is
    /// taken, and calling it again takes more. Gives the room that the pool has now.
    pub fn set_room(&self, pool: Pool, wanted: usize) -> usize {
        self.0.pools.set_room(pool, wanted)
    }

    /// The token that fires when the node is to stop. Cancelling it asks all tasks
    /// to end; [`Tasks::shutdown`] also waits for them.
    pub fn stop(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// The first critical task that panicked, and what it said.
    pub fn fault(&self) -> Option<String> {
        self.0.table().fault.clone()
    }

    /// Fires the stop token, waits at most `grace` for all to end, and aborts the rest.
    ///
    /// Gives the names of those that did not end by themselves, blocking work among
    /// them as `blocking disk` or `blocking hash`. Tasks may still spawn and use the
    /// pools within the grace, to finish what they hold. Calling it again is harmless.
    pub async fn shutdown(&self, grace: Duration) -> Vec<String> {
        self.0.stop.cancel();
        let mut live = self.0.live.subscribe();
        // Whether all ended in time is told by what `close` still finds.
        drop(tokio::time::timeout(grace, live.wait_for(|live| *live == 0)).await);
        let late = self.0.close();
        if late.is_empty() {
            return late;
        }
        warn!(tasks = ?late, ?grace, "not all tasks ended in time; aborted them");
        // What is left after this is blocking work or a task that blocks its thread.
        drop(tokio::time::timeout(ABORT_GRACE, live.wait_for(|live| *live == 0)).await);
        late
    }

    /// The tasks that run, oldest first, then the last that panicked. Blocking work
    /// is in it only if it panicked: it comes and goes too fast for a status page.
    pub fn report(&self) -> Vec<TaskReport> {
        let table = self.0.table();
        let tasks = table.running.values().filter(|entry| entry.ended.is_some());
        let running = tasks.map(|entry| TaskReport {
            name: entry.name.to_string(),
            state: TaskState::Running(entry.note.clone()),
            since: entry.since,
        });
        running.chain(table.panicked.iter().cloned()).collect()
    }

    /// Tasks and blocking closures that have not ended.
    pub fn live(&self) -> usize {
        *self.0.live.borrow()
    }

    fn start(
        &self,
        name: Cow<'static, str>,
        weight: Weight,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> TaskHandle {
        let (ended, watch_end) = watch::channel(());
        let Some(life) = Life::begin(self, name.clone(), Some(ended)) else {
            return TaskHandle {
                id: TaskId(u64::MAX),
                name,
                abort: None,
                ended: watch_end,
            };
        };
        let id = life.id;
        let set = self.clone();
        let body = async move {
            let caught = CURRENT
                .scope((set, id), AssertUnwindSafe(future).catch_unwind())
                .await;
            if let Err(payload) = caught {
                let text = panic_text(&*payload);
                life.panicked(&text);
                if weight == Weight::Critical {
                    life.fatal(&text);
                }
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
        let abort = tokio::spawn(body).abort_handle();
        let mut table = self.0.table();
        if let Some(entry) = table.running.get_mut(&id) {
            entry.abort = Some(abort.clone());
        }
        let closed = table.closed;
        drop(table);
        if closed {
            // The set was closed between the two locks, so `close` could not abort it.
            abort.abort();
        }
        TaskHandle {
            id,
            name,
            abort: Some(abort),
            ended: watch_end,
        }
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nothing new begin and aborts what runs. Gives the names of the latter.
    fn close(&self) -> Vec<String> {
        self.pools.close();
        let mut table = self.table();
        table.closed = true;
        let (names, aborts): (Vec<_>, Vec<_>) = table
            .running
            .values()
            .map(|entry| (entry.name.to_string(), entry.abort.clone()))
            .unzip();
        // Not under the lock: an abort may drop the task here, which takes the lock.
        drop(table);
        aborts.into_iter().flatten().for_each(|abort| abort.abort());
        names
    }
}

/// What a task says of itself in `pacstore status`, such as its progress or last
/// error. Outside of a task of a [`Tasks`] it does nothing.
pub fn note(text: impl Into<String>) {
    let set = |(tasks, id): &(Tasks, TaskId)| {
        if let Some(entry) = tasks.0.table().running.get_mut(id) {
            entry.note = Some(text.into());
        }
    };
    // An error means that no task of a set is running; then nobody would read it.
    CURRENT.try_with(set).ok();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Ordinary,
    Critical,
}

impl Pool {
    fn work_name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Disk => "blocking disk",
            Self::Hash => "blocking hash",
        })
    }
}

/// The line of one task or closure in the table, from its start to its end or drop.
struct Life {
    set: Tasks,
    id: TaskId,
    name: Cow<'static, str>,
}

impl Life {
    /// `None` once the set is closed.
    fn begin(set: &Tasks, name: Cow<'static, str>, ended: Option<watch::Sender<()>>) -> Option<Self> {
        let mut table = set.0.table();
        if table.closed {
            return None;
        }
        let id = TaskId(table.next);
        table.next += 1;
        let entry = Entry {
            name: name.clone(),
            since: Instant::now(),
            note: None,
            abort: None,
            ended,
        };
        table.running.insert(id, entry);
        drop(table);
        set.0.live.send_modify(|live| *live += 1);
        Some(Self {
            set: set.clone(),
            id,
            name,
        })
    }

    fn panicked(&self, text: &str) {
        error!(task = %self.name, panic = text, "task panicked");
        let mut table = self.set.0.table();
        if table.panicked.len() == REMEMBERED_PANICS {
            table.panicked.pop_front();
        }
        table.panicked.push_back(TaskReport {
            name: self.name.to_string(),
            state: TaskState::Panicked(text.to_owned()),
            since: Instant::now(),
        });
    }

    fn fatal(&self, text: &str) {
        self.set
            .0
            .table()
            .fault
            .get_or_insert_with(|| format!("{}: {text}", self.name));
        self.set.0.stop.cancel();
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let entry = self.set.0.table().running.remove(&self.id);
        self.set.0.live.send_modify(|live| *live -= 1);
        drop(entry);
    }
}

/// A started task. Dropping it changes nothing; the task runs on.
#[derive(Debug, Clone)]
pub struct TaskHandle {
    id: TaskId,
    name: Cow<'static, str>,
    /// `None` if the set was closed already.
    abort: Option<AbortHandle>,
    ended: watch::Receiver<()>,
}

impl TaskHandle {
    /// Which task it is.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The name it was spawned with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drops the task at its next `.await`, without waiting for that.
    pub fn abort(&self) {
        if let Some(abort) = &self.abort {
            abort.abort();
        }
    }

    /// Whether the task has ended, panicked or been dropped.
    pub fn is_finished(&self) -> bool {
        self.ended.has_changed().is_err()
    }

    /// Waits for that.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// A guard that aborts the task when it is dropped.
    pub fn abort_on_drop(self) -> TaskGuard {
        TaskGuard(self)
    }
}

/// Aborts its task when dropped: for work that only makes sense while its owner lives.
#[derive(Debug)]
pub struct TaskGuard(TaskHandle);

impl TaskGuard {
    /// The task's handle.
    pub fn handle(&self) -> &TaskHandle {
        &self.0
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
