//! One file from a mirror onto the disk: resumed where that is safe, hashed on the way.
//!
//! - Invariant: `dest` appears by rename, whole, durable (unless the caller sees to that), with the
//!   expected length and SHA-256 if those are known; before that only the part file is touched.
//! - Invariant: bytes of two versions never meet (`crate::part`); where the server gives
//!   nothing to tell versions apart, the file is fetched from its start.
//! - Not here: choice of mirror and retries; each call is one try, and keeps what came.
//! - Read first: `crate::part`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pacstore_runtime::{Pool, Stopped, Tasks};
use url::Url;

use crate::error::HttpError;
use crate::http::{Get, Http, IfRangeIgnored};
use crate::part::{Durable, Part, Version};
use crate::pulse::Pulse;
use crate::response::Response;

/// Bytes that wait in memory for one write.
const BATCH: usize = 1 << 20;

/// What the database says of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its length in bytes (`%CSIZE%`).
    pub len: Option<u64>,
    /// Its SHA-256 (`%SHA256SUM%`).
    pub sha256: Option<[u8; 32]>,
}

/// Whether an earlier part file is gone on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Where the server can prove that the file is still the same.
    #[default]
    IfSame,
    /// Never: start from nothing.
    Never,
}

/// One file to fetch. [`Fetch::new`] and set what differs.
#[derive(Clone, Debug)]
pub struct Fetch<'a> {
    /// From where.
    pub url: &'a Url,
    /// To where; replaced by rename.
    pub dest: &'a Path,
    /// Where unfinished bytes wait, on the same file system (a note lies beside it).
    pub part: PathBuf,
    /// What it must be.
    pub expected: Expected,
    /// Whether to go on with what is in `part`.
    pub resume: Resume,
    /// Only if newer than this; not together with a part file.
    pub if_modified_since: Option<SystemTime>,
    /// Only if its ETag is another.
    pub if_none_match: Option<String>,
    /// Only if the header shows another date or length than these. Where there is no ETag, this tells a file that was
    /// put back to an older state, which `if_modified_since` does not.
    pub unless_same: Option<(SystemTime, u64)>,
    /// The most bytes that are taken where the length is not known.
    pub max_len: Option<u64>,
    /// For all of it.
    pub deadline: Option<Duration>,
    /// Who syncs the file when it is whole.
    pub durable: Durable,
    /// Beats with each piece that comes.
    pub pulse: Pulse,
}

impl<'a> Fetch<'a> {
    /// `url` to `dest`, by way of `dest` + `.part`.
    pub fn new(url: &'a Url, dest: &'a Path) -> Self {
        let mut part = OsString::from(dest);
        part.push(".part");
        Self {
            url,
            dest,
            part: part.into(),
            expected: Expected::default(),
            resume: Resume::IfSame,
            if_modified_since: None,
            if_none_match: None,
            unless_same: None,
            max_len: None,
            deadline: None,
            durable: Durable::Now,
            pulse: Pulse::default(),
        }
    }
}

/// A file that is on disk now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its length in bytes.
    pub len: u64,
    /// Its SHA-256, computed here.
    pub sha256: [u8; 32],
    /// As the server gave it.
    pub etag: Option<String>,
    /// As the server gave it; also the file's mtime then.
    pub last_modified: Option<SystemTime>,
    /// Bytes that were here already from an earlier try.
    pub resumed_from: u64,
    /// Where it came from in the end.
    pub url: Url,
}

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The mirror. What came is kept for the next try.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The disk.
    #[error("cannot write `{}`", .path.display())]
    Disk {
        /// The part file or the destination.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// Whole, but not as long as expected; thrown away.
    #[error("`{url}` has {got} bytes where {expected} are expected")]
    Length {
        /// From where.
        url: String,
        /// What the database says.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// Whole, but other bytes than expected; thrown away.
    #[error("`{url}` has other bytes than its SHA-256 says")]
    Checksum {
        /// From where.
        url: String,
        /// What they hash to.
        got: [u8; 32],
    },
    /// We are stopping.
    #[error("the fetch was not finished")]
    Stopped(#[from] Stopped),
}

impl FetchError {
    /// Whether the disk is full: wait for room, do not try other mirrors.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

impl Http {
    /// Fetches one file. See [`Fetch`].
    ///
    /// Dropping the future ends the transfer; what was made durable so far is used by the next call.
    ///
    /// # Errors
    /// [`FetchError`]; [`HttpError::NotModified`] inside if a condition was set and nothing is new.
    pub async fn fetch_to_file(&self, tasks: &Tasks, fetch: &Fetch<'_>) -> Result<Fetched, FetchError> {
        let mut resumed_from = 0;
        match self.fetch_once(tasks, fetch, &mut resumed_from).await {
            // The earlier bytes may be the wrong ones: they are thrown away now, so once more from nothing.
            Err(FetchError::Checksum { .. } | FetchError::Length { .. }) if resumed_from > 0 => {
                self.fetch_once(tasks, fetch, &mut resumed_from).await
            }
            other => other,
        }
    }

    async fn fetch_once(
        &self,
        tasks: &Tasks,
        fetch: &Fetch<'_>,
        resumed_from: &mut u64,
    ) -> Result<Fetched, FetchError> {
        let disk = Disk {
            tasks,
            path: &fetch.part,
        };
        let conditional =
            fetch.if_modified_since.is_some() || fetch.if_none_match.is_some() || fetch.unless_same.is_some();
        let resume = fetch.resume == Resume::IfSame && !conditional;
        let path = fetch.part.clone();
        let part = disk.run(move || Part::open(&path, resume)).await?;
        let offered = part.version().filter(|v| v.validator().is_some()).cloned();
        if let Some(version) = offered.as_ref().filter(|v| v.total == Some(part.len()))
            && fetch.expected.sha256 == Some(part.digest())
        {
            // All of it came before, and it was never renamed: the server need not send it again.
            let meta = Meta::of_version(version, fetch.url);
            let len = part.len();
            return seal(&disk, part, fetch, meta, len).await;
        }
        let response = self.go_on(fetch, offered.as_ref(), part.len()).await?;
        let shown = response.last_modified.zip(response.len);
        if fetch.unless_same.is_some() && shown == fetch.unless_same {
            let url = crate::error::shown(fetch.url);
            return Err(HttpError::NotModified { url }.into());
        }
        let version = version_of(&response, fetch.url);
        *resumed_from = response.range.map_or(0, |range| range.start);
        let part = if response.range.is_some() {
            part
        } else {
            disk.run(move || part.restart(version)).await?
        };
        transfer(&disk, part, fetch, *resumed_from, response).await
    }

    /// The rest of the version that is here, else the whole.
    async fn go_on(
        &self,
        fetch: &Fetch<'_>,
        offered: Option<&Version>,
        have: u64,
    ) -> Result<Response, HttpError> {
        let Some(old) = offered else {
            return self.ask(fetch, None, 0).await;
        };
        match self.ask(fetch, offered, have).await {
            Ok(response) if response.range.is_none() => Ok(response),
            Ok(response) if same(old, &version_of(&response, fetch.url)) => Ok(response),
            // Some servers ignore If-Range and send the rest of another version; some ranges cannot be served.
            Ok(_) | Err(HttpError::NoSuchRange { .. } | HttpError::WrongRange { .. }) => {
                self.ask(fetch, None, 0).await
            }
            Err(error) => Err(error),
        }
    }

    async fn ask(
        &self,
        fetch: &Fetch<'_>,
        offered: Option<&Version>,
        have: u64,
    ) -> Result<Response, HttpError> {
        let mut get = Get::new(fetch.url);
        get.deadline = fetch.deadline;
        // A range's body is shorter than the file; the length of the whole is checked at the end.
        get.max_len = fetch.expected.len.or(fetch.max_len);
        get.if_modified_since = fetch.if_modified_since;
        get.if_none_match.clone_from(&fetch.if_none_match);
        if let Some(validator) = offered.and_then(Version::validator) {
            get.range = Some(have..u64::MAX);
            get.if_range = Some(validator);
            get.if_range_ignored = IfRangeIgnored::Stream;
        }
        self.get(&get).await
    }
}

/// The disk pool, with the path that errors name.
struct Disk<'a> {
    tasks: &'a Tasks,
    path: &'a Path,
}

impl Disk<'_> {
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, FetchError> {
        let done = self.tasks.blocking(Pool::Disk, step).await?;
        done.map_err(|source| FetchError::Disk {
            path: self.path.to_owned(),
            source,
        })
    }
}

/// What the header said of the file.
struct Meta {
    etag: Option<String>,
    last_modified: Option<SystemTime>,
    url: Url,
}

impl Meta {
    fn of_version(version: &Version, url: &Url) -> Self {
        let last_modified = version
            .modified
            .as_deref()
            .and_then(|m| httpdate::parse_http_date(m).ok());
        Self {
            etag: version.etag.clone(),
            last_modified,
            url: url.clone(),
        }
    }
}

fn version_of(response: &Response, url: &Url) -> Version {
    // A date that is not clearly in the past may stand for two versions of one second.
    let settled = |m: &SystemTime| {
        response.date.is_none_or(|d| {
            d.duration_since(*m)
                .is_ok_and(|age| age >= Duration::from_secs(1))
        })
    };
    Version {
        url: url.as_str().to_owned(),
        etag: response.etag.clone(),
        modified: response
            .last_modified
            .filter(settled)
            .map(httpdate::fmt_http_date),
        total: response.range.map_or(response.len, |r| r.total),
    }
}

/// Whether what the server sends now is of the version whose bytes are here.
fn same(old: &Version, new: &Version) -> bool {
    let fits = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
    let strong = old.etag.as_ref().is_some_and(|e| e.starts_with('"'));
    let proven = if strong {
        old.etag == new.etag
    } else {
        old.modified == new.modified
    };
    let totals = old.total.is_none() || new.total.is_none() || old.total == new.total;
    old.url == new.url && proven && fits(&old.modified, &new.modified) && totals
}

async fn transfer(
    disk: &Disk<'_>,
    part: Part,
    fetch: &Fetch<'_>,
    resumed_from: u64,
    mut response: Response,
) -> Result<Fetched, FetchError> {
    let (mut part, came) = receive(disk, part, &mut response, &fetch.pulse).await?;
    if let Err(error) = came {
        if matches!(error, HttpError::TooLong { .. }) {
            // Not that file, whatever its header said.
            disk.run(move || part.discard()).await?;
            return Err(error.into());
        }
        part = disk.run(move || part.keep()).await?;
        tracing::debug!(url = %fetch.url.path(), kept = part.len(), "transfer ended early");
        return Err(error.into());
    }
    let meta = Meta {
        etag: response.etag.clone(),
        last_modified: response.last_modified,
        url: response.url.clone(),
    };
    drop(response);
    seal(disk, part, fetch, meta, resumed_from).await
}

/// Writes the body in batches; gives the part back also when the body failed.
async fn receive(
    disk: &Disk<'_>,
    mut part: Part,
    response: &mut Response,
    pulse: &Pulse,
) -> Result<(Part, Result<(), HttpError>), FetchError> {
    let mut batch: Vec<Bytes> = Vec::new();
    let mut waiting = 0;
    loop {
        let step = response.chunk().await;
        let more = matches!(step, Ok(Some(_)));
        if let Ok(Some(piece)) = &step {
            pulse.beat();
            waiting += piece.len();
            batch.push(piece.clone());
        }
        if waiting >= BATCH || (!more && waiting > 0) {
            let pieces = std::mem::take(&mut batch);
            waiting = 0;
            part = disk.run(move || part.append(&pieces)).await?;
        }
        match step {
            Ok(Some(_)) => {}
            Ok(None) => return Ok((part, Ok(()))),
            Err(error) => return Ok((part, Err(error))),
        }
    }
}

/// Checks length and hash, then makes it durable under its name.
async fn seal(
    disk: &Disk<'_>,
    part: Part,
    fetch: &Fetch<'_>,
    meta: Meta,
    resumed_from: u64,
) -> Result<Fetched, FetchError> {
    let (len, sha256) = (part.len(), part.digest());
    let url = crate::error::shown(fetch.url);
    let wrong = match fetch.expected {
        Expected {
            len: Some(expected), ..
        } if expected != len => Some(FetchError::Length {
            url,
            expected,
            got: len,
        }),
        Expected {
            sha256: Some(expected),
            ..
        } if expected != sha256 => Some(FetchError::Checksum { url, got: sha256 }),
        _ => None,
    };
    if let Some(wrong) = wrong {
        disk.run(move || part.discard()).await?;
        return Err(wrong);
    }
    let (dest, mtime, durable) = (fetch.dest.to_owned(), meta.last_modified, fetch.durable);
    disk.run(move || part.finish(&dest, mtime, durable)).await?;
    Ok(Fetched {
        len,
        sha256,
        etag: meta.etag,
        last_modified: meta.last_modified,
        resumed_from,
        url: meta.url,
    })
}
