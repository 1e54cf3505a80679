//! A repository's database: every package that pacman may be told to fetch.
//!
//! `.db` and `.files` are the same archive, but that the latter has a list of files beside each `desc`.
//! Both come from machines that we do not trust.
//!
//! - Invariant: a [`Database`] is whole. Cut, damaged or over-sized bytes are an error, never a shorter list.
//! - Invariant: memory grows with the kept fields only, in practice about 1 KiB for each package; the worst that
//!   [`Limits::DB`] lets pass is about [`Limits::unpacked`] and half as much again.
//! - Not here: whether the named files exist and fit (`crate::check`).
//! - Read first: `repo-add(8)`.

use crate::archive::{Wanted, shown, walk};
use crate::desc::{Desc, DescError, Fields};
use std::collections::HashMap;
use std::io;

/// What a foreign database may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after unpacking.
    pub unpacked: u64,
    /// Bytes of one member that is read (`desc`, `depends`, `files`).
    pub member: u64,
    /// Members of the archive, folders and unknown ones included.
    pub members: usize,
    /// Components of a member's path.
    pub depth: usize,
}

impl Limits {
    /// For `.db`: 256 MiB, some ten times the largest repository known.
    pub const DB: Self = Self {
        unpacked: 256 << 20,
        member: 4 << 20,
        members: 300_000,
        depth: 8,
    };
    /// For `.files`: 2 GiB, because Arch's `extra.files` unpacks to several hundred MiB. It is streamed, never held.
    pub const FILES: Self = Self {
        unpacked: 2 << 30,
        member: 64 << 20,
        members: 300_000,
        depth: 8,
    };
}

/// Why bytes are no database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The first bytes are of no archive that pacman's tools make. Often a web page.
    #[error("neither gzip, zstd, xz, bzip2 nor a tar")]
    Format,
    /// The archive is damaged or cut.
    #[error("the archive cannot be unpacked")]
    Unpack(#[source] io::Error),
    /// It unpacks to more than it may, as a decompression bomb does.
    #[error("unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// A member is larger than it may be.
    #[error("`{member}` has {size} bytes, more than {limit}")]
    MemberTooLarge {
        /// Its path.
        member: String,
        /// Its size in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// There are more members than there may be.
    #[error("has more than {limit} members")]
    TooManyMembers {
        /// The limit.
        limit: usize,
    },
    /// A path has more components than it may.
    #[error("`{member}` lies deeper than {limit} folders")]
    TooDeep {
        /// Its path.
        member: String,
        /// The limit.
        limit: usize,
    },
    /// A path (or the header that carries it) that no database has: `..`, NUL, not UTF-8, too long.
    #[error("`{member}` is no path for a database")]
    Path {
        /// What was found.
        member: String,
    },
    /// The description of one package is wrong.
    #[error("the entry `{entry}` is wrong")]
    Entry {
        /// The folder in the archive, `NAME-VERSION`.
        entry: String,
        /// What is wrong with it.
        #[source]
        source: DescError,
    },
}

/// All packages of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// In the order of the archive.
    pub entries: Vec<Desc>,
}

impl Database {
    /// Reads a `.db` or `.files` in any of its packings. Lists of files are passed over.
    ///
    /// # Errors
    /// [`DbError`]; the whole database is refused if one entry is wrong, because pacman would trip over it, too.
    pub fn read(packed: &[u8], limits: &Limits) -> Result<Self, DbError> {
        let mut found: Vec<(Box<str>, Fields)> = Vec::new();
        let mut places: HashMap<Box<str>, usize> = HashMap::new();
        let is_desc = |file: &str| matches!(file, "desc" | "depends");
        walk(
            packed,
            limits,
            |member| {
                if is_desc(member.file) {
                    Wanted::Bytes
                } else {
                    Wanted::Nothing
                }
            },
            |member, bytes| {
                // The files of one package nearly always follow each other.
                let place = match found.last() {
                    Some((folder, _)) if **folder == *member.folder => found.len() - 1,
                    _ => *places.entry(member.folder.into()).or_insert_with(|| {
                        found.push((member.folder.into(), Fields::default()));
                        found.len() - 1
                    }),
                };
                let fields = &mut found[place].1;
                fields.read(bytes).map_err(|source| wrong(member.folder, source))
            },
        )?;
        drop(places);
        let mut entries = Vec::with_capacity(found.len());
        for (folder, fields) in found {
            entries.push(fields.finish(&folder).map_err(|source| wrong(&folder, source))?);
        }
        Ok(Self { entries })
    }

    /// The entry of a package, by its name.
    pub fn get(&self, name: &str) -> Option<&Desc> {
        self.entries.iter().find(|desc| &*desc.name == name)
    }

    /// Every architecture that is named, `any` included, each once, sorted.
    pub fn architectures(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.entries.iter().map(|desc| &*desc.arch).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn wrong(folder: &str, source: DescError) -> DbError {
    DbError::Entry {
        entry: shown(folder.as_bytes()),
        source,
    }
}

/// Reads the lists of files in a `.files` database, one package at a time.
///
/// `each` gets the package's folder (`NAME-VERSION`) and the whole text of its list: a line `%FILES%`, then a path a line;
/// only one such text is held at a time. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// [`DbError`], for the archive only: descriptions are not looked at.
pub fn read_file_lists(
    packed: &[u8],
    limits: &Limits,
    mut each: impl FnMut(&str, &mut dyn Iterator<Item = &str>),
) -> Result<(), DbError> {
    walk(
        packed,
        limits,
        |member| {
            if member.file == "files" {
                Wanted::Bytes
            } else {
                Wanted::Nothing
            }
        },
        |member, bytes| {
            let text = String::from_utf8_lossy(bytes);
            let mut paths = text
                .lines()
                .skip_while(|line| *line != "%FILES%")
                .skip(1)
                .take_while(|line| !line.is_empty());
            each(member.folder, &mut paths);
            Ok(())
        },
    )
}
