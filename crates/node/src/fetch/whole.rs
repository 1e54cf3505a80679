//! A file whose DAG no peer tells: fetched whole, checked against its root, then given.
//!
//! That happens when the importer went away before its inner nodes were fetched. The
//! profile of the head says how the file was cut, so the root can be computed from the
//! bytes; nothing leaves before it is equal.
//!
//! - Invariant: a file that takes longer than [`DEADLINE`] is not waited for; the caller
//!   redirects to an upstream instead, and nothing is downloaded twice.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cid::Cid;
use pacstore_dag::{FileBuilder, Profile};
use pacstore_runtime::Pool;
use pacstore_store::{ByOrigin, Intake, NewFile, Origin};
use pacstore_upstream::Get;
use ring::digest::{Context, SHA256};
use tracing::debug;
use url::Url;

use super::{FetchError, Inner, Opened, Sources};

/// pacman gives up after 10 s without a byte; the file must be here well before.
const DEADLINE: Duration = Duration::from_secs(6);

/// Largest file fetched this way: 64 MiB, held nowhere in memory.
const MAX: u64 = 64 << 20;

/// What is said of a mirror whose bytes do not match.
const OTHER_BYTES: &str = " has other bytes than the tree says";

/// Numbers the files under way.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Fetches `root` whole from the first upstream that has the right bytes.
pub(crate) async fn fetch(
    inner: &Arc<Inner>,
    root: &Cid,
    sources: &Sources,
    because: FetchError,
) -> Result<Opened, FetchError> {
    let Some(profile) = sources.profile.as_deref().and_then(Profile::by_name) else {
        return Err(because);
    };
    // One fetch a file, however many ask.
    let cell = inner.whole.cell(root);
    let once = cell.get_or_try_init(|| first_right(inner, root, profile, &sources.upstreams));
    match tokio::time::timeout(DEADLINE, once).await {
        Ok(Ok(())) => {
            let store = inner.store.clone();
            let wanted = *root;
            let file = inner.blocking(*root, move || store.open_shared(&wanted)).await?;
            file.map(Opened::Stored).ok_or(because)
        }
        Ok(Err(why)) if why.ends_with(OTHER_BYTES) => Err(FetchError::Wrong { cid: *root, why }),
        Ok(Err(_)) | Err(_) => Err(because),
    }
}

async fn first_right(
    inner: &Arc<Inner>,
    root: &Cid,
    profile: &'static Profile,
    urls: &[Url],
) -> Result<(), String> {
    let mut last = "no mirror to ask".to_owned();
    for url in urls {
        match one(inner, root, profile, url).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                debug!(%url, error, "cannot take the file whole");
                last = error;
            }
        }
    }
    Err(last)
}

async fn one(inner: &Arc<Inner>, root: &Cid, profile: &'static Profile, url: &Url) -> Result<(), String> {
    let mut get = Get::new(url);
    get.max_len = Some(MAX);
    get.deadline = Some(DEADLINE);
    let mut response = inner.http.get(&get).await.map_err(|e| e.to_string())?;
    // Never the same name twice: one that was given up may still be written to.
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = inner
        .store
        .dir()
        .join(format!("whole-{}-{number}.part", std::process::id()));
    let made = Incoming {
        file: fs_err::File::create(&path).map_err(|e| e.to_string())?,
        path,
    };
    let mut state = (made, FileBuilder::new(profile), Context::new(&SHA256));
    while let Some(chunk) = response.chunk().await.map_err(|e| e.to_string())? {
        let step = inner.tasks.blocking(Pool::Hash, move || {
            let (mut made, mut builder, mut sha256) = state;
            builder.push(&chunk);
            sha256.update(&chunk);
            let written = made.file.write_all(&chunk);
            (made, builder, sha256, written)
        });
        let (made, builder, sha256, written) = step.await.map_err(|e| e.to_string())?;
        written.map_err(|e| e.to_string())?;
        state = (made, builder, sha256);
    }
    let (made, builder, sha256) = state;
    let layout = builder.finish();
    if layout.root != *root {
        inner.bad.note(root, url);
        return Err(format!("{url}{OTHER_BYTES}"));
    }
    inner.givers.mirror(root, url, layout.len);
    let store = inner.store.clone();
    let kept = inner.tasks.blocking(Pool::Disk, move || {
        let mut digest = [0; 32];
        digest.copy_from_slice(sha256.finish().as_ref());
        let origin = ByOrigin::all(Origin::Upstream, layout.len);
        let mut batch = store.batch();
        batch.add_file(NewFile {
            path: &made.path,
            how: Intake::Move,
            dag: &layout,
            sha256: Some(digest),
            origin,
        })?;
        batch.commit()
    });
    kept.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// A file on its way; removed when it is not taken in.
#[derive(Debug)]
struct Incoming {
    file: fs_err::File,
    path: PathBuf,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Moved into the store by then, or not wanted.
        let _ = fs_err::remove_file(&self.path);
    }
}
