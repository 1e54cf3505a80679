//! The unfinished file on disk: bytes, and a note that says what they are bytes of.
//!
//! Beside `NAME.part` lies `NAME.part.note` with the URL, the validator and how many
//! bytes are known to be on the platter. Only those are used again, only with that
//! validator, and the server must repeat it: so bytes of two versions never meet.
//!
//! - Invariant: one holder at a time writes a part file (a lock on it).
//! - Invariant: a note never says more bytes are durable than an `fdatasync` returned for,
//!   and that of another version is gone from the disk before the first byte. So a file
//!   that comes in one go has none: it would cost a sync and say nothing.
//! - Not here: the transfer (`crate::fetch`).
//! - Read first: [`Part::open`].

use std::ffi::OsString;
use std::fs::TryLockError;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fs_err as fs;
use ring::digest::{Context, SHA256};

/// Bytes after which what came is made durable and noted.
const NOTE_EVERY: u64 = 8 << 20;
/// How long another holder of the part file is waited for.
const HOLDER: Duration = Duration::from_secs(5);
/// A note is a few lines; more is not ours.
const MAX_NOTE: u64 = 16 * 1024;
const MAGIC: &str = "pacstore-part 1";

/// Who makes a whole file durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durable {
    /// It is, with its name, when the fetch returns.
    #[default]
    Now,
    /// The caller, many files at a time: three syncs for each of 20,000 small files take longer than their
    /// transfer. After a power cut a file may have its name and length and other bytes, so who finds one
    /// again must hash it.
    ByCaller,
}

/// What tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) url: String,
    pub(crate) etag: Option<String>,
    /// `Last-Modified` as an HTTP date.
    pub(crate) modified: Option<String>,
    pub(crate) total: Option<u64>,
}

impl Version {
    /// What may stand in `If-Range`: a strong ETag, else a date (RFC 9110, 13.1.5).
    pub(crate) fn validator(&self) -> Option<String> {
        match &self.etag {
            Some(etag) if etag.starts_with('"') => Some(etag.clone()),
            _ => self.modified.clone(),
        }
    }
}

/// A file under way. All methods block; they run on the disk pool.
#[derive(Debug)]
pub(crate) struct Part {
    file: fs::File,
    path: PathBuf,
    version: Option<Version>,
    sha256: Sha256,
    len: u64,
    noted: u64,
}

struct Sha256(Context);

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

impl Part {
    /// Opens or makes `path`. If `resume`, what is durable of it is read and hashed again.
    pub(crate) fn open(path: &Path, resume: bool) -> io::Result<Self> {
        let file = open_alone(path)?;
        let note = if resume {
            read_note(&note_path(path))?
        } else {
            None
        };
        let mut part = Self {
            file,
            path: path.to_owned(),
            version: None,
            sha256: Sha256(Context::new(&SHA256)),
            len: 0,
            noted: 0,
        };
        match note {
            Some((version, durable)) if durable > 0 && durable <= part.file.metadata()?.len() => {
                part.file.set_len(durable)?;
                part.rehash(durable)?;
                part.version = Some(version);
            }
            _ => part.file.set_len(0)?,
        }
        Ok(part)
    }

    fn rehash(&mut self, durable: u64) -> io::Result<()> {
        let mut buf = vec![0; 256 * 1024];
        while self.len < durable {
            let n = self.file.read(&mut buf)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.sha256.0.update(&buf[..n]);
            self.len += n as u64;
        }
        self.noted = durable;
        Ok(())
    }

    /// Bytes that are here.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What they are bytes of, if any are here and can be gone on with.
    pub(crate) fn version(&self) -> Option<&Version> {
        self.version.as_ref().filter(|_| self.len > 0)
    }

    /// Throws away what is here and starts with another version.
    pub(crate) fn restart(mut self, version: Version) -> io::Result<Self> {
        let had_note = remove_note(&self.path)?;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.sha256 = Sha256(Context::new(&SHA256));
        self.len = 0;
        self.noted = 0;
        if had_note {
            // A power cut must not bring the old note back beside new bytes.
            sync_folder(&self.path)?;
        }
        self.version = Some(version);
        Ok(self)
    }

    /// Appends; every few MiB what is here is made durable and noted.
    pub(crate) fn append(mut self, pieces: &[Bytes]) -> io::Result<Self> {
        for piece in pieces {
            self.file.write_all(piece)?;
            self.sha256.0.update(piece);
            self.len += piece.len() as u64;
        }
        if self.len - self.noted >= NOTE_EVERY {
            self.keep()
        } else {
            Ok(self)
        }
    }

    /// Makes what is here durable and notes it, for the next try.
    pub(crate) fn keep(mut self) -> io::Result<Self> {
        if self.len == self.noted {
            return Ok(self);
        }
        self.file.sync_data()?;
        if let Some(version) = &self.version {
            write_note(&self.path, version, self.len)?;
        }
        self.noted = self.len;
        Ok(self)
    }

    /// The SHA-256 of what is here.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.sha256.0.clone().finish().as_ref());
        out
    }

    /// Throws away file and note.
    pub(crate) fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        remove_note(&self.path)?;
        Ok(())
    }

    /// Sets the mtime and renames the file over `dest`, durable if that is asked.
    pub(crate) fn finish(self, dest: &Path, mtime: Option<SystemTime>, durable: Durable) -> io::Result<()> {
        if let Some(mtime) = mtime {
            self.file.file().set_modified(mtime)?;
        }
        if durable == Durable::Now {
            self.file.sync_all()?;
        }
        fs::rename(&self.path, dest)?;
        if durable == Durable::Now {
            sync_folder(dest)?;
        }
        remove_note(&self.path)?;
        Ok(())
    }
}

/// Makes the names in the folder of `path` durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Opens or makes `path` for one holder at a time.
///
/// A fetch that was dropped may still have one write under way on the disk pool; it is
/// waited for. If the holder finished and renamed the file meanwhile, a new one is made.
fn open_alone(path: &Path) -> io::Result<fs::File> {
    let until = Instant::now() + HOLDER;
    loop {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.file().try_lock() {
            Ok(()) if is_at(&file, path)? => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(HOLDER / 500),
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn note_path(part: &Path) -> PathBuf {
    let mut name = OsString::from(part);
    name.push(".note");
    name.into()
}

/// Says whether there was one.
fn remove_note(part: &Path) -> io::Result<bool> {
    match fs::remove_file(note_path(part)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Replaces the note in one step, so that a crash leaves the old or the new one.
fn write_note(part: &Path, version: &Version, durable: u64) -> io::Result<()> {
    let line = |s: Option<&str>| s.unwrap_or("").replace(['\r', '\n'], " ");
    let text = format!(
        "{MAGIC}\n{}\n{}\n{}\n{}\n{durable}\n",
        line(Some(&version.url)),
        line(version.etag.as_deref()),
        line(version.modified.as_deref()),
        version.total.map_or_else(String::new, |t| t.to_string()),
    );
    let note = note_path(part);
    let mut new = OsString::from(&note);
    new.push(".new");
    let mut file = fs::File::create(PathBuf::from(&new))?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(PathBuf::from(&new), note)
}

/// The note, `None` if there is none that we understand.
fn read_note(path: &Path) -> io::Result<Option<(Version, u64)>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut text = String::new();
    if file.take(MAX_NOTE).read_to_string(&mut text).is_err() {
        return Ok(None);
    }
    Ok(parse_note(&text))
}

fn parse_note(text: &str) -> Option<(Version, u64)> {
    let mut lines = text.split('\n');
    if lines.next()? != MAGIC {
        return None;
    }
    let full = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let url = lines.next()?.to_owned();
    let etag = full(lines.next()?);
    let modified = full(lines.next()?);
    let total = match lines.next()? {
        "" => None,
        n => Some(n.parse().ok()?),
    };
    let durable = lines.next()?.parse().ok()?;
    Some((
        Version {
            url,
            etag,
            modified,
            total,
        },
        durable,
    ))
}
