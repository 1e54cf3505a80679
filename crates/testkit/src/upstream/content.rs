//! What the mirror has: a folder, or files in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fs_err as fs;

use crate::folder::put_file;

#[derive(Debug)]
pub(crate) enum Content {
    Folder(PathBuf),
    Memory {
        files: BTreeMap<Vec<u8>, Item>,
        changes: u64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Item {
    bytes: Bytes,
    mtime: SystemTime,
    change: u64,
}

/// Bytes that can be read at an offset.
#[derive(Debug)]
pub(crate) enum Source {
    Memory(Bytes),
    File(fs::File),
}

impl Source {
    /// At most `n` bytes at `at`; fewer only at the end.
    pub(crate) fn read(&self, at: u64, n: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..(start + n).min(bytes.len())))
            }
            Self::File(file) => {
                let mut buf = vec![0; n];
                let mut got = 0;
                while got < n {
                    match file.file().read_at(&mut buf[got..], at + got as u64)? {
                        0 => break,
                        more => got += more,
                    }
                }
                buf.truncate(got);
                Ok(buf.into())
            }
        }
    }
}

/// One name of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) name: Vec<u8>,
    pub(crate) is_dir: bool,
}

#[derive(Debug)]
pub(crate) enum Found {
    File {
        source: Source,
        len: u64,
        mtime: SystemTime,
        etag: String,
    },
    Folder(Vec<Name>),
    Missing,
}

impl Content {
    pub(crate) fn memory() -> Self {
        Self::Memory {
            files: BTreeMap::new(),
            changes: 0,
        }
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(root) => Some(root),
            Self::Memory { .. } => None,
        }
    }

    pub(crate) fn put(&mut self, path: &[u8], bytes: Bytes, mtime: SystemTime) -> io::Result<()> {
        let path = trimmed(path);
        match self {
            Self::Folder(root) => put_file(&root.join(OsStr::from_bytes(path)), &bytes, mtime),
            Self::Memory { files, changes } => {
                *changes += 1;
                files.insert(
                    path.to_owned(),
                    Item {
                        bytes,
                        mtime,
                        change: *changes,
                    },
                );
                Ok(())
            }
        }
    }

    pub(crate) fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        let path = trimmed(path);
        match self {
            Self::Folder(root) => fs::remove_file(root.join(OsStr::from_bytes(path))),
            Self::Memory { files, .. } => match files.remove(path) {
                Some(_) => Ok(()),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        }
    }

    /// `path` is decoded, without leading slash; a final one asks for a folder.
    pub(crate) fn find(&self, path: &[u8]) -> Found {
        let inner = path.strip_suffix(b"/").unwrap_or(path);
        if inner.split(|b| *b == b'/').any(|part| part == b"..") || inner.contains(&0) {
            return Found::Missing;
        }
        match self {
            Self::Folder(root) => {
                find_on_disk(&root.join(OsStr::from_bytes(inner))).unwrap_or(Found::Missing)
            }
            Self::Memory { files, .. } => find_in_memory(files, inner),
        }
    }
}

fn trimmed(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/").unwrap_or(path)
}

fn find_in_memory(files: &BTreeMap<Vec<u8>, Item>, path: &[u8]) -> Found {
    if let Some(item) = files.get(path) {
        return Found::File {
            source: Source::Memory(item.bytes.clone()),
            len: item.bytes.len() as u64,
            mtime: item.mtime,
            etag: format!("\"m{:x}\"", item.change),
        };
    }
    let prefix = if path.is_empty() {
        Vec::new()
    } else {
        [path, b"/"].concat()
    };
    let below = files.keys().filter_map(|key| key.strip_prefix(&prefix[..]));
    let names: BTreeSet<Name> = below
        .map(|rest| match rest.iter().position(|b| *b == b'/') {
            Some(slash) => Name {
                name: rest[..slash].to_owned(),
                is_dir: true,
            },
            None => Name {
                name: rest.to_owned(),
                is_dir: false,
            },
        })
        .collect();
    if names.is_empty() && !path.is_empty() {
        Found::Missing
    } else {
        Found::Folder(names.into_iter().collect())
    }
}

fn find_on_disk(path: &Path) -> io::Result<Found> {
    if fs::metadata(path)?.is_dir() {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let is_dir = fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
            names.push(Name {
                name: entry.file_name().into_vec(),
                is_dir,
            });
        }
        names.retain(|n| !n.name.starts_with(b"."));
        names.sort();
        return Ok(Found::Folder(names));
    }
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    let mtime = meta.modified()?;
    let nanos = mtime
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_nanos();
    let etag = format!("\"{nanos:x}-{:x}\"", meta.len());
    Ok(Found::File {
        source: Source::File(file),
        len: meta.len(),
        mtime,
        etag,
    })
}
