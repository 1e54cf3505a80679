//! Files from a source into the store: hashed on all cores, committed in batches.
//!
//! A file that somebody else may write to is cloned or copied first and hashed from the copy's bytes, so that what
//! the store holds is what was hashed. A file in a tree of our own (or where `replaced_by_rename` promises it) is
//! hard-linked instead.
//!
//! - Invariant: memory depends on the number of cores and the size of a batch, not on the number or size of files.
//! - Invariant: facts are remembered only after the store has the file for good.
//! - Not here: which files (`crate::work`), what a file hashes to (`crate::hash`).
//! - Read first: design.md, "Store".

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::SystemTime;

use futures::future::{join, join_all};
use pacstore_dag::Profile;
use pacstore_runtime::{Pool, Tasks};
use pacstore_store::{ByOrigin, Facts, Intake, NewFile, Origin, Store, WriteError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{IntakeError, is_full};
use crate::hash::{Digests, Hashed, hash};
use crate::manifest::{Manifest, Update};
use crate::names;
use crate::progress::Progress;
use crate::scan::{self, Root};
use crate::taken::Taken;
use crate::view::{NoFile, Place, Stamp};

/// What one turn on a hashing thread takes at most.
const SLICE_FILES: usize = 512;
const SLICE_BYTES: u64 = 64 << 20;
/// What one transaction of the store takes at most, but for the file that goes beyond.
const BATCH_FILES: usize = 8192;
const BATCH_BYTES: u64 = 1 << 30;

/// Bytes of a copy after which the disk is told to begin with them. Smaller files are better written together.
const WRITE_BACK: u64 = 8 << 20;

/// How files of a directory come into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taking {
    /// By hard link: nobody writes into them.
    Link,
    /// By clone or copy.
    Copy,
}

/// A file to read.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The caller's number for it.
    pub(crate) at: usize,
    /// Its path in the upstream.
    pub(crate) path: Box<[u8]>,
    pub(crate) stamp: Stamp,
    pub(crate) place: Place,
    /// Which digests are needed of it.
    pub(crate) digests: Digests,
}

/// Everything that taking files needs.
#[derive(Debug, Clone)]
pub(crate) struct Intakes {
    pub(crate) profile: Profile,
    pub(crate) store: Store,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) tasks: Tasks,
    pub(crate) progress: Progress,
    /// Of the directory that places are in, if the source is one.
    pub(crate) root: Option<Root>,
    pub(crate) taking: Taking,
    pub(crate) origin: Origin,
    /// For copies; on the store's file system at best.
    pub(crate) scratch: PathBuf,
    /// Under which the store holds files that no tree holds yet.
    pub(crate) label: String,
    /// As [`crate::Limits::pile`].
    pub(crate) pile: u64,
    pub(crate) now: SystemTime,
}

struct Prepared {
    job: Job,
    hashed: Hashed,
    path: PathBuf,
    how: Intake,
}

/// Other names of files, by the number of the name that is read.
type Twins = HashMap<usize, Vec<(usize, Job)>>;

/// The number of a file, and what became of it.
type Outcome = (usize, Taken);

impl Intakes {
    /// Reads `jobs` and gives, in no order, what became of each.
    pub(crate) async fn take(&self, jobs: Vec<Job>) -> Result<Vec<Outcome>, IntakeError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let (jobs, twins) = unite(jobs);
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let queue = Arc::new(Mutex::new(VecDeque::from(jobs)));
        let cores = available_parallelism().map_or(2, usize::from);
        let (send, receive) = mpsc::channel(cores);
        let workers = (0..cores).map(|_| self.work(Arc::clone(&queue), send.clone(), stop.clone()));
        let workers = join_all(workers.collect::<Vec<_>>());
        drop(send);
        let (worked, collected) = join(workers, self.collect(receive)).await;
        // The collector's error is the cause where both have one.
        let mut outcomes = collected?;
        worked.into_iter().collect::<Result<Vec<()>, _>>()?;
        let mut update = Update::default();
        let mut more: Vec<Outcome> = Vec::new();
        for (at, taken) in &outcomes {
            for (other, job) in twins.get(at).into_iter().flatten() {
                if let Taken::Facts(facts) = taken
                    && job.stamp.is_settled(self.now)
                {
                    let fact = (job.path.clone(), job.stamp.clone(), facts.clone());
                    update.facts.push(fact);
                }
                more.push((*other, taken.clone()));
            }
        }
        if !update.facts.is_empty() {
            let manifest = Arc::clone(&self.manifest);
            self.tasks
                .blocking(Pool::Disk, move || manifest.commit(&update))
                .await??;
        }
        outcomes.extend(more);
        Ok(outcomes)
    }

    async fn work(
        &self,
        queue: Arc<Mutex<VecDeque<Job>>>,
        send: mpsc::Sender<Vec<Result<Prepared, Outcome>>>,
        stop: CancellationToken,
    ) -> Result<(), IntakeError> {
        loop {
            let slice = slice(&mut queue.lock().unwrap_or_else(PoisonError::into_inner));
            if slice.is_empty() {
                return Ok(());
            }
            let (this, stop) = (self.clone(), stop.clone());
            let done = self
                .tasks
                .blocking(Pool::Hash, move || this.read(slice, &stop))
                .await??;
            if send.send(done).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Reads one slice, on a hashing thread.
    fn read(
        &self,
        slice: Vec<Job>,
        stop: &CancellationToken,
    ) -> Result<Vec<Result<Prepared, Outcome>>, IntakeError> {
        let mut buffer = Vec::new();
        slice
            .into_iter()
            .map(|job| self.read_one(job, &mut buffer, stop))
            .collect()
    }

    fn read_one(
        &self,
        job: Job,
        buffer: &mut Vec<u8>,
        stop: &CancellationToken,
    ) -> Result<Result<Prepared, Outcome>, IntakeError> {
        self.progress.file(|| names::show(&job.path));
        match self.try_read(&job, buffer, stop) {
            Ok(Some((hashed, path, how))) => Ok(Ok(Prepared {
                job,
                hashed,
                path,
                how,
            })),
            Ok(None) => Ok(Err((job.at, Taken::Moved))),
            Err(Failed::Read(e)) => match e.kind() {
                io::ErrorKind::NotFound => Ok(Err((job.at, Taken::Moved))),
                io::ErrorKind::PermissionDenied => Ok(Err((job.at, Taken::None(NoFile::Denied)))),
                io::ErrorKind::Interrupted => Err(IntakeError::Stopped),
                _ if matches!(e.raw_os_error(), Some(40 | 20)) => Ok(Err((job.at, Taken::Moved))),
                _ => Err(IntakeError::Read(names::show(&job.path), e)),
            },
            Err(Failed::Write(path, e)) if is_full(&e) => Err(IntakeError::DiskFull(path)),
            Err(Failed::Write(path, e)) => Err(IntakeError::Write(path, e)),
        }
    }

    /// Nothing if the file is not what its stamp says.
    fn try_read(
        &self,
        job: &Job,
        buffer: &mut Vec<u8>,
        stop: &CancellationToken,
    ) -> Result<Option<(Hashed, PathBuf, Intake)>, Failed> {
        let mut go_on = |bytes| {
            self.progress.bytes(bytes);
            !stop.is_cancelled()
        };
        let size = job.stamp.size();
        let real = match &job.place {
            Place::Fetched(path) => {
                let mut file = File::open(path).map_err(Failed::Read)?;
                let hashed = hash((&self.profile, job.digests), &mut file, size, None, buffer, go_on)
                    .map_err(Failed::Read)?;
                return Ok(Some((hashed, path.clone(), Intake::Move)));
            }
            Place::Here => &job.path,
            Place::At(real) => real,
            Place::Known(_) | Place::Later => return Ok(None),
        };
        let Some(root) = &self.root else { return Ok(None) };
        let (mut file, before) = root.open_file(real).map_err(Failed::Read)?;
        if before != job.stamp {
            return Ok(None);
        }
        let (hashed, path, how) = if self.taking == Taking::Link {
            let hashed = hash(
                (&self.profile, job.digests),
                &mut file,
                size,
                None,
                buffer,
                &mut go_on,
            )
            .map_err(Failed::Read)?;
            (hashed, root.absolute(real), Intake::Link)
        } else {
            let (hashed, path) = self.copy((&mut file, job.digests), size, buffer, &mut go_on)?;
            (hashed, path, Intake::Move)
        };
        // Whoever renamed another file over it shows at the next look; who wrote into it shows here.
        let after = scan::stamp_of(&file).map_err(Failed::Read)?;
        if after != before || hashed.dag.len != size {
            if how == Intake::Move {
                let _ = fs_err::remove_file(&path);
            }
            return Ok(None);
        }
        Ok(Some((hashed, path, how)))
    }

    /// Clones the file and hashes the clone; where the file system cannot clone, copies while hashing.
    fn copy(
        &self,
        (file, digests): (&mut File, Digests),
        size: u64,
        buffer: &mut Vec<u8>,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Hashed, PathBuf), Failed> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = self.scratch.join(format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let fail = |e| Failed::Write(path.clone(), e);
        let options = || File::options().read(true).write(true).create_new(true).clone();
        let mut copy = options().open(&path).map_err(fail)?;
        let cloned = clone_file(&copy, file);
        let done = if cloned {
            hash((&self.profile, digests), &mut copy, size, None, buffer, go_on).map_err(Failed::Read)
        } else {
            let mut noted = Noted {
                file: &mut copy,
                error: None,
                waiting: 0,
            };
            let done = hash(
                (&self.profile, digests),
                file,
                size,
                Some(&mut noted),
                buffer,
                go_on,
            );
            match noted.error {
                Some(e) => Err(Failed::Write(path.clone(), e)),
                None => done.map_err(Failed::Read),
            }
        };
        if done.is_err() {
            let _ = fs_err::remove_file(&path);
        }
        done.map(|hashed| (hashed, path))
    }

    /// Commits what the workers read, a batch at a time.
    async fn collect(
        &self,
        mut receive: mpsc::Receiver<Vec<Result<Prepared, Outcome>>>,
    ) -> Result<Vec<Outcome>, IntakeError> {
        let mut outcomes = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        loop {
            let slice = receive.recv().await;
            let last = slice.is_none();
            for done in slice.into_iter().flatten() {
                match done {
                    Ok(prepared) => {
                        bytes += prepared.hashed.dag.len;
                        batch.push(prepared);
                    }
                    Err(outcome) => outcomes.push(outcome),
                }
            }
            let full = BATCH_FILES <= batch.len() || BATCH_BYTES <= bytes;
            if !batch.is_empty() && (last || full) {
                let (this, prepared) = (self.clone(), std::mem::take(&mut batch));
                bytes = 0;
                outcomes.extend(
                    self.tasks
                        .blocking(Pool::Disk, move || this.commit(prepared))
                        .await??,
                );
            }
            if last {
                return Ok(outcomes);
            }
        }
    }

    fn commit(&self, batch: Vec<Prepared>) -> Result<Vec<Outcome>, IntakeError> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut update = Update::default();
        let mut files = self.store.batch();
        files.stage(&self.label)?;
        for Prepared {
            job,
            hashed,
            path,
            how,
        } in batch
        {
            let file = NewFile {
                path: &path,
                how,
                dag: &hashed.dag,
                sha256: hashed.sha256,
                origin: ByOrigin::all(self.origin, hashed.dag.len),
            };
            let added = match seen(&job.stamp) {
                Some(seen) if how == Intake::Link => files.add_file_seen(file, &seen),
                _ => files.add_file(file),
            };
            match added {
                Ok(_) => {}
                Err(WriteError::SourceChanged(_) | WriteError::Source(..)) => {
                    outcomes.push((job.at, Taken::Moved));
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            let facts = hashed.facts();
            if job.stamp.is_settled(self.now) || self.taking == Taking::Link {
                update.facts.push((job.path, job.stamp, facts.clone()));
            }
            outcomes.push((job.at, Taken::Facts(facts)));
        }
        files.commit()?;
        self.manifest.commit(&update)?;
        Ok(outcomes)
    }
}

/// The stamp as the store compares it.
fn seen(stamp: &Stamp) -> Option<Facts> {
    match stamp {
        Stamp::Disk {
            ino,
            size,
            seconds,
            nanos,
            ..
        } => Some(Facts {
            len: *size,
            mtime_ns: i128::from(*seconds) * 1_000_000_000 + i128::from(*nanos),
            inode: *ino,
        }),
        Stamp::Web { .. } | Stamp::Listed { .. } => None,
    }
}

enum Failed {
    Read(io::Error),
    Write(PathBuf, io::Error),
}

/// Keeps the error of a write apart from those of reads, and has the disk begin with what was written.
struct Noted<'a> {
    file: &'a mut File,
    error: Option<io::Error>,
    /// Bytes that the disk has not been told of.
    waiting: u64,
}

impl io::Write for Noted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let done = self.file.write(buf).map_err(|e| {
            let kind = e.kind();
            self.error = Some(e);
            io::Error::from(kind)
        })?;
        self.waiting += done as u64;
        if WRITE_BACK <= self.waiting {
            self.waiting = 0;
            begin_to_write(self.file);
        }
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Has the disk begin to write what is dirty, without waiting for it: the sync of the batch then finds little left to do, and
/// the disk does not stand still while files are read and hashed. A file system that cannot do so writes later.
fn begin_to_write(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

fn clone_file(to: &File, from: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

/// Takes the next files off the queue.
fn slice(queue: &mut VecDeque<Job>) -> Vec<Job> {
    let mut slice = Vec::new();
    let mut bytes = 0;
    while let Some(job) = queue.pop_front() {
        bytes += job.stamp.size();
        slice.push(job);
        if SLICE_FILES <= slice.len() || SLICE_BYTES <= bytes {
            break;
        }
    }
    slice
}

/// The largest first, so that no core is left alone with one at the end; files of one inode once.
fn unite(mut jobs: Vec<Job>) -> (Vec<Job>, Twins) {
    let inode = |job: &Job| job.stamp.inode().ok_or(job.at);
    jobs.sort_by_key(inode);
    let mut twins = Twins::new();
    let mut first: Vec<Job> = Vec::with_capacity(jobs.len());
    for job in jobs {
        match first.last() {
            Some(same) if inode(same) == inode(&job) && same.stamp == job.stamp => {
                twins.entry(same.at).or_default().push((job.at, job));
            }
            _ => first.push(job),
        }
    }
    first.sort_by_key(|job| (std::cmp::Reverse(job.stamp.size()), job.at));
    (first, twins)
}

/// Removes what a crash left in the folder for copies.
pub(crate) fn sweep(scratch: &Path) -> io::Result<()> {
    fs_err::create_dir_all(scratch)?;
    for entry in fs_err::read_dir(scratch)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            match fs_err::remove_file(entry.path()) {
                // Work that a dropped round left under way removes its own.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}
