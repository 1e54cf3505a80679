//! What a source has at one moment: every name, and how to tell whether its bytes changed.
//!
//! A view costs no reading of files. Two equal views of a source mean (but for what
//! [`Stamp::is_settled`] says) that all files still have the bytes they had.
//!
//! - Invariant: files and folders are sorted by path and unique.
//! - Not here: how a view comes about (`crate::scan`, `crate::web`), which of its names are taken (`crate::work`).
//! - Read first: design.md, "Tree".

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pacstore_upstream::{FetchError, HttpError};
use ring::digest::{Context, SHA256};

use crate::error::SourceError;
use crate::facts::FileFacts;
use crate::globs::Globs;
use crate::scan::MAX_DEPTH;
use crate::spec::to_array;

/// By what a file is known to be unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// A file on disk.
    Disk {
        dev: u64,
        ino: u64,
        size: u64,
        seconds: i64,
        nanos: u32,
        /// When it was made, nanoseconds since 1970; 0 where the file system does not say.
        born: u64,
    },
    /// A file that an HTTP server sent.
    Web {
        /// Which server, as a digest of its URL.
        server: u64,
        size: u64,
        /// `Last-Modified`, seconds since 1970.
        modified: Option<i64>,
        etag: Option<Box<str>>,
    },
    /// A file that an rsync daemon listed and did not send yet.
    Listed {
        size: u64,
        /// Since 1970.
        seconds: i64,
    },
}

/// How old a file must be, so that a change within the clock's grain cannot hide.
const GRAIN: Duration = Duration::from_secs(2);

impl Stamp {
    /// The size that the source says, in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Disk { size, .. } | Self::Web { size, .. } | Self::Listed { size, .. } => *size,
        }
    }

    /// Device and inode of a file on disk: names with the same ones are one file.
    pub(crate) fn inode(&self) -> Option<(u64, u64)> {
        match self {
            Self::Disk { dev, ino, .. } => Some((*dev, *ino)),
            Self::Web { .. } | Self::Listed { .. } => None,
        }
    }

    /// When the upstream last changed it, whole seconds since 1970.
    pub(crate) fn seconds(&self) -> Option<i64> {
        match self {
            Self::Disk { seconds, .. } | Self::Listed { seconds, .. } => Some(*seconds),
            Self::Web { modified, .. } => *modified,
        }
    }

    /// Whether a later write must show in the stamp: not if the file was written at about `now`.
    ///
    /// The same rule as git's for its index: file times have the grain of a clock tick, so a file that is written
    /// twice within one may keep its time and size.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanos) = match self {
            Self::Disk { seconds, nanos, .. } => (*seconds, *nanos),
            Self::Web { etag: Some(_), .. } => return true,
            // HTTP's own times have whole seconds, and so have those of a listing.
            Self::Listed { seconds, .. } => (*seconds, 999_999_999),
            Self::Web { modified, .. } => (modified.unwrap_or_default(), 999_999_999),
        };
        let Ok(seconds) = u64::try_from(seconds) else {
            return true;
        };
        let written = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        written
            .and_then(|written| written.checked_add(GRAIN))
            .is_some_and(|settled| settled < now)
    }

    /// A compact form for the manifest and for digests.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Disk {
                dev,
                ino,
                size,
                seconds,
                nanos,
                born,
            } => {
                out.push(5);
                for number in [dev, ino, size] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                out.extend_from_slice(&seconds.to_be_bytes());
                out.extend_from_slice(&nanos.to_be_bytes());
                out.extend_from_slice(&born.to_be_bytes());
            }
            Self::Web {
                server,
                size,
                modified,
                etag,
            } => {
                let etag = etag.as_deref().unwrap_or_default().as_bytes();
                let etag = etag.get(..etag.len().min(1024)).unwrap_or_default();
                out.push(1);
                out.extend_from_slice(&server.to_be_bytes());
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&modified.unwrap_or(i64::MIN).to_be_bytes());
                out.extend_from_slice(&(etag.len() as u16).to_be_bytes());
                out.extend_from_slice(etag);
            }
            Self::Listed { size, seconds } => {
                out.push(4);
                for number in [size.to_be_bytes(), seconds.to_be_bytes(), [0; 8]] {
                    out.extend_from_slice(&number);
                }
            }
        }
    }

    /// Reads what [`Stamp::encode`] wrote, and gives what stands behind it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (kind, bytes) = bytes.split_first()?;
        let (a, bytes) = bytes.split_first_chunk::<8>()?;
        let (b, bytes) = bytes.split_first_chunk::<8>()?;
        let (c, bytes) = bytes.split_first_chunk::<8>()?;
        match kind {
            5 => {
                let (seconds, bytes) = bytes.split_first_chunk::<8>()?;
                let (nanos, bytes) = bytes.split_first_chunk::<4>()?;
                let (born, bytes) = bytes.split_first_chunk::<8>()?;
                let stamp = Self::Disk {
                    dev: u64::from_be_bytes(*a),
                    ino: u64::from_be_bytes(*b),
                    size: u64::from_be_bytes(*c),
                    seconds: i64::from_be_bytes(*seconds),
                    nanos: u32::from_be_bytes(*nanos),
                    born: u64::from_be_bytes(*born),
                };
                Some((stamp, bytes))
            }
            1 => {
                let (len, bytes) = bytes.split_first_chunk::<2>()?;
                let (etag, bytes) = bytes.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
                let etag = std::str::from_utf8(etag).ok()?;
                let modified = i64::from_be_bytes(*c);
                let stamp = Self::Web {
                    server: u64::from_be_bytes(*a),
                    size: u64::from_be_bytes(*b),
                    modified: (modified != i64::MIN).then_some(modified),
                    etag: (!etag.is_empty()).then(|| etag.into()),
                };
                Some((stamp, bytes))
            }
            4 => {
                let (size, seconds) = (u64::from_be_bytes(*a), i64::from_be_bytes(*b));
                Some((Self::Listed { size, seconds }, bytes))
            }
            _ => None,
        }
    }
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Below the source's root, at its own path.
    Here,
    /// Below the source's root, at this path, to which links led.
    At(Box<[u8]>),
    /// In a file of our own that nobody else writes, which may be moved away.
    Fetched(PathBuf),
    /// In the store already.
    Known(Box<FileFacts>),
    /// With the source: it is named, and comes when it is asked for.
    Later,
}

/// Why a source that has a file did not send all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Cut {
    /// An answer that is not the file.
    #[error("it answered {0}")]
    Answered(u16),
    /// No byte came for too long, or too few.
    #[error("it stalled, or was too slow")]
    Slow,
    /// There was no connection, or it ended.
    #[error("the connection broke off")]
    Broke,
    /// A redirect that is not followed.
    #[error("it leads elsewhere, or nowhere")]
    Led,
    /// Another part than the one that was asked for.
    #[error("it sends other ranges than those that are asked for")]
    Ranges,
    /// Anything else.
    #[error("the transfer failed")]
    Failed,
}

impl Cut {
    pub(crate) fn by(error: &SourceError) -> Self {
        let (SourceError::Http(error) | SourceError::Fetch(FetchError::Http(error))) = error else {
            return Self::Failed;
        };
        match error {
            HttpError::Status { code, .. } => Self::Answered(*code),
            HttpError::NotModified { .. } => Self::Answered(304),
            HttpError::Stalled { .. }
            | HttpError::TooSlow { .. }
            | HttpError::Deadline { .. }
            | HttpError::Busy { .. } => Self::Slow,
            HttpError::Connect { .. } | HttpError::NoAnswer { .. } | HttpError::ShortBody { .. } => {
                Self::Broke
            }
            HttpError::Redirect { .. } | HttpError::Forbidden { .. } => Self::Led,
            HttpError::NoSuchRange { .. } | HttpError::RangeIgnored { .. } | HttpError::WrongRange { .. } => {
                Self::Ranges
            }
            HttpError::TooLong { .. } => Self::Failed,
        }
    }
}

/// Why a name has no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoFile {
    /// A link to something that is not there.
    #[error("a link that leads nowhere")]
    Dangling,
    /// A link to something outside of the source's root.
    #[error("a link that leaves the root")]
    Leaves,
    /// A link to a folder above itself, or too many links in a row.
    #[error("a link that leads back to itself")]
    Loop,
    /// A device, a pipe, a socket.
    #[error("no regular file")]
    Special,
    /// We may not read it.
    #[error("not readable for us")]
    Denied,
    /// The source names it but does not have it.
    #[error("not there")]
    Absent,
    /// The source has it, but does not send all of it.
    #[error("not sent whole by the source: {0}")]
    Cut(Cut),
    /// The source sends more than the database says.
    #[error("longer than the database says")]
    Longer,
    /// A folder within so many others that it has no place in a tree.
    #[error("within more than {} folders", MAX_DEPTH)]
    Deep,
}

impl NoFile {
    /// For digests that are kept: a reason's number never changes.
    fn number(self) -> u8 {
        match self {
            Self::Dangling => 0,
            Self::Leaves => 1,
            Self::Loop => 2,
            Self::Special => 3,
            Self::Denied => 4,
            Self::Absent => 5,
            Self::Cut(_) => 6,
            Self::Longer => 7,
            Self::Deep => 8,
        }
    }
}

/// One name of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    File { stamp: Stamp, place: Place },
    None(NoFile),
}

impl Item {
    /// Whether it is for `also` to take, or a folder that may hold what is and cannot be read.
    pub(crate) fn is_taken_by(&self, also: &Globs, path: &[u8]) -> bool {
        let is_unread = matches!(self, Self::None(NoFile::Denied));
        also.covers_file(path) || (is_unread && also.may_take_below(path))
    }
}

/// All names of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Sorted by path.
    pub(crate) files: Vec<(Box<[u8]>, Item)>,
    /// Sorted; the root is not among them.
    pub(crate) folders: Vec<Box<[u8]>>,
    /// Over HTTP, of folders in which a repository lost its database: the packages, and signatures of such, that
    /// their listings name.
    pub(crate) left: BTreeMap<Box<[u8]>, Vec<Box<[u8]>>>,
}

impl View {
    /// Brings both lists into order.
    pub(crate) fn sort(&mut self) {
        self.files.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        self.files.dedup_by(|b, a| a.0 == b.0);
        self.files.shrink_to_fit();
        self.folders.sort_unstable();
        self.folders.dedup();
    }

    /// The item of a path, if it is a name here.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Item> {
        let at = self.position(path)?;
        self.files.get(at).map(|(_, item)| item)
    }

    /// Where in `files` a path stands.
    /// The name at a place, the file that it stands for, and where that is.
    pub(crate) fn file(&self, at: usize) -> Option<(&[u8], &Stamp, &Place)> {
        match self.files.get(at)? {
            (path, Item::File { stamp, place }) => Some((path, stamp, place)),
            (_, Item::None(_)) => None,
        }
    }

    pub(crate) fn position(&self, path: &[u8]) -> Option<usize> {
        self.files.binary_search_by(|(name, _)| (**name).cmp(path)).ok()
    }

    /// Puts in what some paths have become; nothing stands for a name that is gone.
    pub(crate) fn renew(&mut self, changed: Vec<(Box<[u8]>, Option<Item>)>) {
        let mut gone = BTreeSet::new();
        let mut new = Vec::new();
        for (path, item) in changed {
            let old = self.position(&path).and_then(|at| self.files.get_mut(at));
            match (old, item) {
                (Some((_, old)), Some(item)) => *old = item,
                (Some(_), None) => {
                    gone.insert(path);
                }
                (None, Some(item)) => new.push((path, item)),
                (None, None) => {}
            }
        }
        self.files.retain(|(path, _)| !gone.contains(path));
        self.files.append(&mut new);
        self.sort();
    }

    /// Where in `files` the names below `folder` stand.
    pub(crate) fn below(&self, folder: &[u8]) -> std::ops::Range<usize> {
        if folder.is_empty() {
            return 0..self.files.len();
        }
        let prefix = [folder, b"/"].concat();
        let start = self.files.partition_point(|(name, _)| **name < *prefix);
        let rest = self.files.get(start..).unwrap_or_default();
        start..start + rest.partition_point(|(name, _)| name.starts_with(&prefix))
    }
}

/// Digests names and stamps, to tell whether anything moved.
#[derive(Clone)]
pub(crate) struct Mark {
    context: Context,
    buffer: Vec<u8>,
    settled: bool,
    now: SystemTime,
}

impl Mark {
    /// `now` decides which stamps are settled.
    pub(crate) fn new(now: SystemTime) -> Self {
        Self {
            context: Context::new(&SHA256),
            buffer: Vec::new(),
            settled: true,
            now,
        }
    }

    /// Takes in a file.
    pub(crate) fn file(&mut self, path: &[u8], item: &Item) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&(path.len() as u32).to_be_bytes());
        self.buffer.extend_from_slice(path);
        match item {
            Item::File { stamp, .. } => {
                stamp.encode(&mut self.buffer);
                self.settled &= stamp.is_settled(self.now);
            }
            Item::None(why) => self.buffer.extend_from_slice(&[2, why.number()]),
        }
        self.context.update(&self.buffer);
    }

    /// Takes in a folder.
    pub(crate) fn folder(&mut self, path: &[u8]) {
        self.context.update(&(path.len() as u32).to_be_bytes());
        self.context.update(path);
        self.context.update(&[3]);
    }

    /// The digest, and whether every stamp in it is settled.
    pub(crate) fn finish(self) -> ([u8; 32], bool) {
        (to_array(self.context.finish().as_ref()), self.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_renewed_path_by_path() {
        let none = |path: &str, why| (Box::from(path.as_bytes()), Item::None(why));
        let mut view = View {
            files: vec![
                none("a", NoFile::Absent),
                none("c", NoFile::Absent),
                none("d", NoFile::Absent),
            ],
            ..View::default()
        };
        view.renew(vec![
            (Box::from(*b"d"), None),
            (Box::from(*b"e"), None),
            (Box::from(*b"b"), Some(Item::None(NoFile::Loop))),
            (Box::from(*b"a"), Some(Item::None(NoFile::Denied))),
        ]);
        let expected = vec![
            none("a", NoFile::Denied),
            none("b", NoFile::Loop),
            none("c", NoFile::Absent),
        ];
        assert_eq!(view.files, expected);
    }

    #[test]
    fn stamps_survive_their_compact_form() {
        let disk = Stamp::Disk {
            dev: 1,
            ino: 2,
            size: 3,
            seconds: -4,
            nanos: 5,
            born: 6,
        };
        let web = Stamp::Web {
            server: 9,
            size: 1,
            modified: None,
            etag: Some("\"x\"".into()),
        };
        let listed = Stamp::Listed { size: 5, seconds: -6 };
        for stamp in [disk, web, listed] {
            let mut bytes = Vec::new();
            stamp.encode(&mut bytes);
            bytes.push(77);
            assert_eq!(Stamp::decode(&bytes), Some((stamp, &[77][..])));
            assert_eq!(Stamp::decode(&bytes[..10]), None);
        }
    }

    #[test]
    fn a_file_written_just_now_is_not_settled() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| Stamp::Disk {
            dev: 0,
            ino: 0,
            size: 0,
            seconds,
            nanos: 0,
            born: 0,
        };
        assert!(at(990).is_settled(now));
        assert!(!at(999).is_settled(now));
        assert!(!at(2000).is_settled(now), "nor is one from the future");
    }

    #[test]
    fn the_names_below_a_folder_are_found() {
        let item = || Item::None(NoFile::Absent);
        let mut view = View::default();
        for name in ["a", "a/x", "a/y/z", "a-b", "b/x"] {
            view.files.push((name.as_bytes().into(), item()));
        }
        view.sort();
        let names: Vec<_> = view.files[view.below(b"a")]
            .iter()
            .map(|(n, _)| n.to_vec())
            .collect();
        assert_eq!(names, [b"a/x".to_vec(), b"a/y/z".to_vec()]);
        assert_eq!(view.below(b"").len(), 5);
    }
}
