//! One file of a web mirror: asked for as often as makes sense, and what its answer means.
//!
//! - Invariant: a file of a name of the mirror's waits under a name of ours.
//! - Invariant: a web page is never taken for a signature.
//! - Not here: which files are asked for, and what the store has already (`crate::web`).
//! - Read first: `crate::web`.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use pacstore_runtime::{Backoff, Pool};
use pacstore_upstream::{Durable, Fetch, FetchError, HttpError, Url};
use ring::digest::{SHA256, digest};

use crate::error::SourceError;
use crate::facts::FileFacts;
use crate::pace;
use crate::source::Want;
use crate::view::{Item, NoFile, Place, Stamp};
use crate::web::{Got, Web, is_database, seconds};

/// The longest file that a database gives no size of.
const MAX_FILE: u64 = 16 << 30;
/// The longest database of which nothing is known; of a known one, this beside four times its size.
const MAX_DATABASE: u64 = 1 << 30;
const MORE_DATABASE: u64 = 64 << 20;
/// The longest signature.
const MAX_SIGNATURE: u64 = 1 << 20;
/// Tries for one file.
const TRIES: u32 = 3;
/// The pause between two of them, and the longest that a server may ask for.
const PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How much of a file is read to tell a web page.
const BEGINNING: u64 = 1024;

impl Web {
    /// One file over the wire, into a file that waits for the store.
    pub(crate) async fn download(
        &self,
        want: &Want,
        remembered: Option<(Stamp, FileFacts)>,
    ) -> Result<Got, SourceError> {
        let Some(url) = self.url(&want.path) else {
            return Ok(Got::Absent);
        };
        let named = want.expected.is_some();
        let none = |why| Ok(Got::Item(Item::None(why)));
        let dest = self.folder.join(self.file_name(want));
        if let Some((Some(len), Some(sha256))) = want.expected
            && self.is_whole(dest.clone(), len).await?
        {
            // Of a round that was cut short, maybe by a power cut before it was synced; its digest is checked like any
            // other's, and what has a wrong one is fetched anew in the next pass.
            let etag = Some(HEXLOWER.encode(&sha256).into());
            let stamp = Stamp::Web {
                server: self.server(),
                size: len,
                modified: None,
                etag,
            };
            return Ok(Got::Item(Item::File {
                stamp,
                place: Place::Fetched(dest),
            }));
        }
        let mut fetch = Fetch::new(&url, &dest);
        let expected_len = want.expected.and_then(|(len, _)| len);
        let known_len = remembered.as_ref().map(|(stamp, _)| stamp.size());
        let (longest, deadline) = if want.path.ends_with(b".sig") {
            (MAX_SIGNATURE, self.limits.small)
        } else if is_database(&want.path) {
            let more = known_len.map(|len| len.saturating_mul(4) + MORE_DATABASE);
            (
                more.map_or(MAX_DATABASE, |len| len.min(MAX_DATABASE)),
                self.limits.small,
            )
        } else {
            (MAX_FILE, self.limits.source)
        };
        fetch.max_len = Some(expected_len.unwrap_or(longest));
        fetch.deadline = Some(deadline);
        // The store syncs what it takes, many files at a time.
        fetch.durable = Durable::ByCaller;
        fetch.pulse = self.progress.pulse();
        if let Some((
            Stamp::Web {
                modified, etag, size, ..
            },
            _,
        )) = &remembered
            && !named
        {
            fetch.if_none_match = etag
                .as_deref()
                .filter(|etag| etag.contains('"'))
                .map(str::to_owned);
            // Not If-Modified-Since: to many servers a file that was put back to an older one is "not modified".
            if fetch.if_none_match.is_none() {
                fetch.unless_same = modified
                    .and_then(|s| u64::try_from(s).ok())
                    .map(|s| (UNIX_EPOCH + Duration::from_secs(s), *size));
            }
        }
        let (mut tried, mut refused) = (0, 0);
        let mut backoff = Backoff::new(PAUSE, MAX_PAUSE);
        loop {
            let turn = self.pace.turn().await;
            let fetched = self.http.fetch_to_file(&self.tasks, &fetch).await;
            let http = fetched.as_ref().err().and_then(|error| match error {
                FetchError::Http(http) => Some(http),
                _ => None,
            });
            if self.pace.ends(&turn, http, refused + 1) {
                refused += 1;
                continue;
            }
            tried += 1;
            let error = match fetched {
                // Pacman would be given it, and refuse the package; a server without the file may answer so, too.
                Ok(_) if want.path.ends_with(b".sig") && self.is_web_page(dest.clone()).await? => {
                    return Ok(Got::Absent);
                }
                Ok(fetched) => {
                    let modified = fetched.last_modified.map(seconds);
                    let etag = match (fetched.etag, modified) {
                        (Some(etag), _) => Some(etag.into()),
                        (None, Some(_)) => None,
                        (None, None) => Some(HEXLOWER.encode(&fetched.sha256).into()),
                    };
                    let stamp = Stamp::Web {
                        server: self.server(),
                        size: fetched.len,
                        modified,
                        etag,
                    };
                    return Ok(Got::Item(Item::File {
                        stamp,
                        place: Place::Fetched(dest),
                    }));
                }
                Err(error) => error,
            };
            let FetchError::Http(http) = &error else {
                return Err(error.into());
            };
            match http {
                HttpError::NotModified { .. } => {
                    if let Some((stamp, facts)) = remembered {
                        return Ok(Got::Item(Item::File {
                            stamp,
                            place: Place::Known(Box::new(facts)),
                        }));
                    }
                    return Ok(Got::Failed(error.into()));
                }
                HttpError::Status { code: 404 | 410, .. } if named => return none(NoFile::Absent),
                HttpError::Status { code: 401 | 403, .. } if named => return none(NoFile::Denied),
                // Many servers say 403 for what is not there.
                HttpError::Status {
                    code: 401 | 403 | 404 | 410,
                    ..
                } => return Ok(Got::Absent),
                HttpError::TooLong { .. } => return none(NoFile::Longer),
                // The mirror itself is away, not only where it sent us for this file.
                HttpError::Connect { url: at, .. } if TRIES <= tried && is_same_host(at, &url) => {
                    return Err(error.into());
                }
                HttpError::Busy { .. } if TRIES <= tried => return Err(error.into()),
                _ if http.is_transient() && !pace::is_refusal(http) && tried < TRIES => {
                    let asked = match http {
                        HttpError::Status { retry_after, .. } => retry_after.unwrap_or_default(),
                        _ => Duration::ZERO,
                    };
                    tokio::time::sleep(backoff.next().max(asked).min(MAX_PAUSE)).await;
                }
                // One file does not come: its repository is torn.
                _ => return Ok(Got::Failed(error.into())),
            }
        }
    }

    /// Names of the waiting files: no name of the mirror's becomes one of ours.
    fn file_name(&self, want: &Want) -> String {
        let mut key = self.root.as_str().as_bytes().to_vec();
        key.push(0);
        key.extend_from_slice(&want.path);
        if let Some((_, Some(sha256))) = want.expected {
            key.extend_from_slice(&sha256);
        }
        HEXLOWER.encode(digest(&SHA256, &key).as_ref())
    }

    /// Whether the file begins as a web page does, and no signature.
    async fn is_web_page(&self, path: PathBuf) -> Result<bool, SourceError> {
        let work = move || {
            let mut beginning = Vec::new();
            let read = fs_err::File::open(&path)
                .and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning))
                .map_err(|e| SourceError::WorkDir(path, e));
            let first = beginning.iter().find(|byte| !byte.is_ascii_whitespace());
            read.map(|_| first == Some(&b'<'))
        };
        self.tasks.blocking(Pool::Disk, work).await?
    }

    async fn is_whole(&self, path: PathBuf, len: u64) -> Result<bool, SourceError> {
        let work =
            move || std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == len);
        Ok(self.tasks.blocking(Pool::Disk, work).await?)
    }
}

fn is_same_host(at: &str, url: &Url) -> bool {
    let at = Url::parse(at);
    at.is_ok_and(|at| (at.host(), at.port_or_known_default()) == (url.host(), url.port_or_known_default()))
}
