//! Taking the files of pacman's cache: reflinked where the file system can, else left where they are.
//!
//! - Invariant: only a file that a database in use names, of the length and SHA-256 that it says; never a `.part`.
//! - Invariant: no second copy of the bytes; the cache itself is never changed.
//! - Not here: noticing later that such a file was changed or removed (`pacstore-store`, at each open).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pacstore_dag::{FileBuilder, FileDag, Profile};
use pacstore_store::{ByOrigin, Facts, Intake, NewFile, Origin, Store};
use ring::digest::{Context, SHA256};
use tracing::{debug, info};

use super::{Listed, Need, Route, local};
use crate::error::StoreError;
use crate::hidden::Hidden;
use crate::node::Node;

/// Bytes read at once.
const STEP: usize = 1 << 20;

impl Node {
    /// Takes what is new in `folders` and known to the databases.
    pub(super) async fn take_from_caches(
        &self,
        need: &Arc<Need>,
        folders: &[PathBuf],
    ) -> Result<(), StoreError> {
        for folder in folders {
            let (need, folder) = (Arc::clone(need), folder.clone());
            let (store, hidden) = (self.inner.store.clone(), Arc::clone(&self.inner.privacy.hidden));
            let taken = self
                .on_disk(move || {
                    let mut taken = 0;
                    for name in local::names(&folder) {
                        let Some(listed) = need.of_name(&name) else {
                            continue;
                        };
                        let private = match &need.databases[listed.database].route {
                            Route::Mirror(..) => None,
                            Route::Repository(one) => (!one.config.public).then_some(&*hidden),
                        };
                        taken += u32::from(take(&store, &folder.join(&name), listed, private)?);
                    }
                    Ok(taken)
                })
                .await?;
            if taken > 0 {
                info!(files = taken, "took files from pacman's cache");
            }
        }
        Ok(())
    }
}

/// Takes one file, if it is what the database says and not here yet. A file that is not is left alone.
fn take(store: &Store, path: &Path, listed: &Listed, private: Option<&Hidden>) -> Result<bool, StoreError> {
    if store.file_by_sha256(&listed.sha256)?.is_some() {
        return Ok(false);
    }
    let Ok((dag, facts)) = read(path, listed) else {
        return Ok(false);
    };
    let Some(dag) = dag else {
        debug!(path = %path.display(), "not what the database says; left alone");
        return Ok(false);
    };
    if let Some(hidden) = private {
        hidden.hide(&dag)?;
    }
    let mut batch = store.batch();
    let file = NewFile {
        path,
        how: Intake::InPlace,
        dag: &dag,
        sha256: Some(listed.sha256),
        origin: ByOrigin::all(Origin::Disk, dag.len),
    };
    match batch.add_file_seen(file, &facts) {
        Ok(_) => {}
        // Changed or removed while it was read: the next look sees.
        Err(pacstore_store::WriteError::SourceChanged(_) | pacstore_store::WriteError::Source(..)) => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    batch.commit()?;
    Ok(true)
}

/// The DAG of a file that has the right length and SHA-256, and its facts before it was read.
fn read(path: &Path, listed: &Listed) -> io::Result<(Option<FileDag>, Facts)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Somebody may have put a pipe there.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    let facts = Facts::of(&meta);
    if !meta.is_file() || meta.len() != listed.len {
        return Ok((None, facts));
    }
    let mut builder = FileBuilder::new(&Profile::UNIXFS_V1_2025);
    let mut sha256 = Context::new(&SHA256);
    let mut buffer = vec![0; STEP];
    let mut limited = file.take(listed.len);
    loop {
        let count = match limited.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sha256.update(&buffer[..count]);
        builder.push(&buffer[..count]);
    }
    let right = sha256.finish().as_ref() == listed.sha256;
    Ok((right.then(|| builder.finish()), facts))
}
