//! The rsync program as a child: lists a mirror, and copies it into a staging tree.
//!
//! The child is told to resolve links on the sender's side (`-L`), to replace files by
//! rename (never `--inplace`), and to keep what it did not finish in a folder of its own,
//! so the staging tree holds whole files only. Names are never parsed from messages, but
//! for those that a listing could not read.
//!
//! - Invariant: a child never outlives its call: it is stopped on silence, deadline,
//!   stop token and drop, with the whole process group it made.
//! - Invariant: what the child says is kept to a bounded size.
//! - Not here: what to copy in which order, and whether it is coherent (`import`).
//! - Read first: [`TransferSpec`], [`Rsync::transfer`].

mod child;
mod exit;
mod list;
mod rule;
mod source;
mod stats;
mod unread;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use pacstore_runtime::{CancellationToken, Pool, Stopped, Tasks};
use tokio::sync::watch;

pub use exit::{ExitKind, Outcome};
pub use list::{ListSpec, Listed, ListedKind, Listing, parse_line as parse_rsync_line};
pub use rule::Rule;
pub use stats::{Progress, RsyncReport};

use crate::pulse::Pulse;
use child::{Bounds, run};
use source::{checked_source, split_module};
use stats::StatsReader;

/// How the child is started and bounded.
#[derive(Clone, Debug)]
pub struct RsyncOptions {
    /// The program; a bare name is looked for in `PATH`.
    pub program: PathBuf,
    /// `--contimeout`: for connecting, whole seconds.
    pub connect_timeout: Duration,
    /// `--timeout`: the child's own limit without network traffic, whole seconds.
    pub io_timeout: Duration,
    /// Our limit without a word from the child (it reports progress every second).
    ///
    /// Longer than `io_timeout`, so that the child ends by itself where it can. While
    /// a mirror of 100,000 files collects its list, nothing is said for a minute.
    pub silence: Duration,
    /// How long a child that was told to end may take to put its partial file away.
    pub grace: Duration,
    /// Bytes a second of a transfer that names no rate of its own; none = no limit.
    pub rate: Option<u64>,
}

impl Default for RsyncOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::from("rsync"),
            connect_timeout: Duration::from_secs(30),
            io_timeout: Duration::from_mins(2),
            silence: Duration::from_mins(5),
            grace: Duration::from_secs(5),
            rate: None,
        }
    }
}

/// What is removed at the destination because the source has it no more.
///
/// Only on a transfer of everything: files that a rule excludes are protected unless `excluded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Also what the rules exclude (`--delete-excluded`).
    pub excluded: bool,
    /// Also if the source could not read or resolve something (`--ignore-errors`); rsync
    /// else deletes nothing as long as one link dangles there.
    pub despite_errors: bool,
    /// No more than so many files (`--max-delete`).
    pub at_most: Option<u64>,
}

/// One copy from a mirror into a tree; a round calls this several times.
#[derive(Clone, Debug)]
pub struct TransferSpec<'a> {
    /// `rsync://host[:port]/module/path/`; with a final slash the content, else the folder itself.
    pub source: &'a str,
    /// The staging tree; made if it is not there.
    pub dest: &'a Path,
    /// Our own folder on the same file system: partial and temporary files, kept between runs.
    pub scratch: &'a Path,
    /// Which names, first match decides, no match means yes.
    pub rules: Vec<Rule>,
    /// Only these paths (raw bytes, below the source), not the whole tree; a folder among them comes
    /// without what is in it. Excludes `delete`.
    pub only: Option<Vec<Vec<u8>>>,
    /// Whether to remove what is gone, after all else was transferred.
    pub delete: Option<Deletion>,
    /// Bytes a second (`--bwlimit`), rounded up to KiB.
    pub rate: Option<u64>,
    /// Files with more bytes are passed over (`--max-size`).
    pub max_size: Option<u64>,
    /// Compare whole contents instead of size and time (`--checksum`). Both sides read all of
    /// it first and say nothing meanwhile: raise `io_timeout` and `silence`.
    pub compare_contents: bool,
    /// For all of it.
    pub deadline: Duration,
    /// Ends it early.
    pub stop: CancellationToken,
    /// Where progress is told.
    pub progress: Option<watch::Sender<Progress>>,
    /// Beats with each line of the child: while bytes come, that is every second.
    pub pulse: Pulse,
}

impl<'a> TransferSpec<'a> {
    /// Everything from `source` into `dest`, nothing removed, within a day.
    pub fn new(source: &'a str, dest: &'a Path, scratch: &'a Path) -> Self {
        Self {
            source,
            dest,
            scratch,
            rules: Vec::new(),
            only: None,
            delete: None,
            rate: None,
            max_size: None,
            compare_contents: false,
            deadline: Duration::from_hours(24),
            stop: CancellationToken::new(),
            progress: None,
            pulse: Pulse::default(),
        }
    }
}

/// Why the rsync child did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RsyncError {
    /// The source is no rsync URL.
    #[error("`{0}` is not an rsync:// URL with host and module")]
    Source(String),
    /// A path in `only` is absolute, climbs or holds a NUL.
    #[error("a path to transfer is empty, absolute, climbs or holds a NUL")]
    Path,
    /// `only` and `delete` were asked together.
    #[error("deletion needs a transfer of everything")]
    DeleteOnly,
    /// The program is not there.
    #[error("the program `{}` is not installed", .0.display())]
    NotInstalled(PathBuf),
    /// It could not be started or watched.
    #[error("cannot run `{}`", .program.display())]
    Spawn {
        /// Which.
        program: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Our folders for it could not be made.
    #[error("cannot prepare `{}`", .path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("rsync ended with code {code}: {kind}{}", said(stderr))]
    Exit {
        /// Its exit code; -1 if a signal ended it.
        code: i32,
        /// What the code means.
        kind: ExitKind,
        /// The last of what it said, at most 64 KiB.
        stderr: String,
    },
    /// It said nothing for too long and was ended.
    #[error("rsync was silent for {0:?}")]
    Silent(Duration),
    /// It did not end in time and was ended.
    #[error("rsync did not finish within {0:?}")]
    Deadline(Duration),
    /// We were asked to stop.
    #[error("rsync was stopped")]
    Stopped,
    /// The listing has more entries than the caller takes.
    #[error("the listing has more than {0} entries")]
    TooMany(usize),
    /// A line of the listing is none.
    #[error("rsync's listing has a line that cannot be read: `{0}`")]
    Listing(String),
}

impl From<Stopped> for RsyncError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl RsyncError {
    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotInstalled(_) => Some("install the package rsync, or take the mirror by https://"),
            Self::Source(_) => Some("write it as rsync://host/module/path/"),
            Self::Exit { .. } if self.is_disk_full() => Some("make room on the disk"),
            Self::Exit { stderr, .. } if stderr.contains("auth failed on module") => Some(
                "the module wants a password: write rsync://USER@host/module/, and RSYNC_PASSWORD into the daemon's environment",
            ),
            Self::Exit { kind, .. } => kind.hint(),
            _ => None,
        }
    }

    /// Whether it said that our disk is full.
    pub fn is_disk_full(&self) -> bool {
        // The numbers are the child's own, in every language.
        let full = |stderr: &str| stderr.contains("(28)") || stderr.contains("(122)");
        matches!(self, Self::Exit { code: 11, stderr, .. } if full(stderr))
    }
}

/// The first complaint of the child in one line, without control characters.
fn said(stderr: &str) -> String {
    let first = stderr.lines().map(str::trim).find(|line| !line.is_empty());
    first.map_or_else(String::new, |line| {
        let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
        format!(" ({line})")
    })
}

/// The rsync program.
#[derive(Clone, Debug)]
pub struct Rsync {
    options: RsyncOptions,
    tasks: Tasks,
}

impl Rsync {
    /// With these options; `tasks` lends its disk pool.
    pub fn new(options: RsyncOptions, tasks: Tasks) -> Self {
        Self { options, tasks }
    }

    /// The first line of `rsync --version`.
    ///
    /// # Errors
    /// [`RsyncError::NotInstalled`] if there is no such program.
    pub async fn version(&self) -> Result<String, RsyncError> {
        let mut first = Vec::new();
        let bounds = Bounds {
            silence: Duration::from_secs(10),
            ..self.bounds(Duration::from_secs(10))
        };
        run(&self.options.program, vec!["--version".into()], bounds, |line| {
            if first.is_empty() {
                first = line.to_vec();
            }
            Ok(())
        })
        .await?
        .whole()?;
        Ok(String::from_utf8_lossy(&first).into_owned())
    }

    /// Whether the program is there and runs.
    pub async fn installed(&self) -> bool {
        self.version().await.is_ok()
    }

    /// Copies from a mirror. See [`TransferSpec`].
    ///
    /// Exit codes 23 and 24 (something could not be sent, a link dangles, files vanished)
    /// are no error but [`Outcome::Partial`]: what came is whole, what is missing shows
    /// when the tree is checked. Dropping the future kills the child.
    ///
    /// # Errors
    /// [`RsyncError`].
    pub async fn transfer(&self, spec: &TransferSpec<'_>) -> Result<RsyncReport, RsyncError> {
        checked_source(spec.source)?;
        if spec.only.is_some() && spec.delete.is_some() {
            return Err(RsyncError::DeleteOnly);
        }
        // A relative name could be read as `host:path`, or as one folder in each folder.
        let (dest, scratch) = (absolute(spec.dest)?, Scratch::of(&absolute(spec.scratch)?));
        let (_, below) = split_module(spec.source);
        let names = spec.only.as_deref().map(|only| joined_names(below, only));
        scratch.prepare(&self.tasks, &dest, names.transpose()?).await?;
        let arguments = self.transfer_arguments(spec, &dest, &scratch);
        let bounds = Bounds {
            stop: spec.stop.clone(),
            ..self.bounds(spec.deadline)
        };
        let mut stats = StatsReader::new(spec.progress.clone());
        let ended = run(&self.options.program, arguments, bounds, |line| {
            spec.pulse.beat();
            stats.line(line);
            Ok(())
        })
        .await?;
        let outcome = ended.outcome()?;
        Ok(stats.report(outcome, ended.stderr()))
    }

    /// The entries of a folder of a mirror, or of all below it. See [`ListSpec`].
    ///
    /// What the sender could not read is among them as [`ListedKind::Unread`].
    ///
    /// # Errors
    /// [`RsyncError`]; [`RsyncError::TooMany`] above the spec's limit, [`RsyncError::Exit`] also if the source itself could
    /// not be read, or so much below it that not all of it was told.
    pub async fn list(&self, spec: &ListSpec<'_>) -> Result<Listing, RsyncError> {
        checked_source(spec.source)?;
        let mut arguments = self.common_arguments();
        arguments.extend(spec.arguments());
        let bounds = Bounds {
            stop: spec.stop.clone(),
            ..self.bounds(spec.deadline)
        };
        let mut lines = list::ListingReader::new(spec.max_entries);
        let ended = run(&self.options.program, arguments, bounds, |line| {
            spec.pulse.beat();
            lines.line(line)
        })
        .await?;
        let mut found = lines.end();
        let outcome = ended.outcome()?;
        if outcome == Outcome::Partial && !unread::is_explained(&ended.last_words()) {
            // Something was not listed, and nobody says what.
            ended.whole()?;
        }
        if outcome != Outcome::Whole {
            let unread: Option<Vec<Vec<u8>>> = unread::unread(&ended.last_words(), spec.source)
                .into_iter()
                .collect();
            match unread {
                Some(unread) if ended.said_all() => unread::mark(&mut found.entries, unread),
                _ => ended.whole()?,
            }
            found.digest = None;
        }
        Ok(found)
    }

    fn bounds(&self, deadline: Duration) -> Bounds {
        Bounds {
            silence: self.options.silence,
            deadline,
            grace: self.options.grace,
            stop: CancellationToken::new(),
        }
    }

    fn common_arguments(&self) -> Vec<OsString> {
        let seconds = |d: Duration| d.as_secs().max(1);
        vec![
            "--no-motd".into(),
            "--no-human-readable".into(),
            // Questions are small: held back until the last one is acknowledged, each costs 40 ms.
            "--sockopts=TCP_NODELAY".into(),
            format!("--contimeout={}", seconds(self.options.connect_timeout)).into(),
            format!("--timeout={}", seconds(self.options.io_timeout)).into(),
        ]
    }

    fn transfer_arguments(&self, spec: &TransferSpec<'_>, dest: &Path, scratch: &Scratch) -> Vec<OsString> {
        let mut a = self.common_arguments();
        a.extend(["--copy-links", "--times", "--perms", "--chmod=D0755,F0644"].map(OsString::from));
        a.extend(["--partial", "--info=progress2,stats2,flist2", "--outbuf=Line"].map(OsString::from));
        a.push(option("--partial-dir=", scratch.partial.as_os_str().as_bytes()));
        a.push(option("--temp-dir=", scratch.temporary.as_os_str().as_bytes()));
        if spec.only.is_some() {
            a.push("--from0".into());
            a.push(option("--files-from=", scratch.names.as_os_str().as_bytes()));
        } else {
            a.push("--recursive".into());
        }
        if spec.compare_contents {
            a.push("--checksum".into());
        }
        if let Some(rate) = spec.rate.or(self.options.rate) {
            a.push(format!("--bwlimit={}", rate.div_ceil(1024).max(1)).into());
        }
        if let Some(most) = spec.max_size {
            a.push(format!("--max-size={most}").into());
        }
        if let Some(deletion) = spec.delete {
            a.push("--delete-after".into());
            a.extend(deletion.excluded.then(|| OsString::from("--delete-excluded")));
            a.extend(deletion.despite_errors.then(|| OsString::from("--ignore-errors")));
            a.extend(
                deletion
                    .at_most
                    .map(|n| OsString::from(format!("--max-delete={n}"))),
            );
        }
        a.extend(spec.rules.iter().map(Rule::argument));
        let mut dest = dest.as_os_str().to_owned();
        dest.push("/");
        let source = match &spec.only {
            // The names say what lies below the module.
            Some(_) => split_module(spec.source).0,
            None => spec.source,
        };
        a.extend(["--".into(), source.into(), dest]);
        a
    }
}

fn option(name: &str, value: &[u8]) -> OsString {
    OsString::from_vec([name.as_bytes(), value].concat())
}

fn absolute(path: &Path) -> Result<PathBuf, RsyncError> {
    std::path::absolute(path).map_err(|source| RsyncError::Prepare {
        path: path.to_owned(),
        source,
    })
}

/// The child's own folders.
struct Scratch {
    /// What was not finished: found again by the next run.
    partial: PathBuf,
    /// Files under way; what a killed child left is removed before the next.
    temporary: PathBuf,
    /// The names of `only`, NUL-terminated.
    names: PathBuf,
}

impl Scratch {
    fn of(folder: &Path) -> Self {
        Self {
            partial: folder.join("partial"),
            temporary: folder.join("temporary"),
            names: folder.join("names"),
        }
    }

    async fn prepare(&self, tasks: &Tasks, dest: &Path, names: Option<Vec<u8>>) -> Result<(), RsyncError> {
        let (partial, temporary) = (self.partial.clone(), self.temporary.clone());
        let (names_path, dest) = (self.names.clone(), dest.to_owned());
        let prepared = tasks.blocking(Pool::Disk, move || {
            let at = |path: &Path, done: io::Result<()>| {
                done.map_err(|source| RsyncError::Prepare {
                    path: path.to_owned(),
                    source,
                })
            };
            at(&dest, fs::create_dir_all(&dest))?;
            at(&partial, fs::create_dir_all(&partial))?;
            at(&temporary, sweep(&temporary))?;
            names.map_or(Ok(()), |names| at(&names_path, fs::write(&names_path, names)))
        });
        prepared.await?
    }
}

/// Makes an empty folder of files out of `folder`.
fn sweep(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// The names as `--files-from` takes them. `below` is the source's folder in its module: the part of a name before `/./`
/// says where it lies and is not copied. It does not stand in the source, because a daemon of rsync 3.5.0 without chroot
/// takes all files of a list below it for vanished.
fn joined_names(below: &str, only: &[Vec<u8>]) -> Result<Vec<u8>, RsyncError> {
    // A leading `./` keeps names such as `#x` or `;x` from being read as comments.
    let mut before = b"./".to_vec();
    for part in below.split('/').filter(|part| !matches!(*part, "" | ".")) {
        before.extend_from_slice(part.as_bytes());
        before.push(b'/');
    }
    if before.len() > 2 {
        before.extend_from_slice(b"./");
    }
    let mut all = Vec::new();
    for path in only {
        let parts_fine = path
            .split(|&b| b == b'/')
            .all(|part| !part.is_empty() && part != b"." && part != b"..");
        if !parts_fine || path.contains(&0) {
            return Err(RsyncError::Path);
        }
        all.extend_from_slice(&before);
        all.extend_from_slice(path);
        all.push(0);
    }
    Ok(all)
}

/// Seconds since 1970 as a time; rsync prints UTC because we set `TZ`.
pub(crate) fn unix(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH - distance
    } else {
        SystemTime::UNIX_EPOCH + distance
    }
}
