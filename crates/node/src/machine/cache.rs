//! Taking the files of pacman's caches: packages with the signatures that lie beside them.
//!
//! A package is reflinked where the file system can and the cap has room, else left where it is. A signature of a
//! mirror's tree is taken the same way; that of a repository without importer is kept as one that a mirror gave.
//!
//! - Invariant: only a package that a database in use names, of the length and SHA-256 that it says; never a `.part`.
//! - Invariant: only a signature that is the tree's own or, without a tree, that is not of other bytes.
//! - Invariant: no second copy of a package, nothing is evicted for one; the cache itself is never changed.
//! - Not here: noticing later that such a file was changed or removed (`pacstore-store`, at each open).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use cid::Cid;
use pacstore_dag::{FileBuilder, FileDag, Profile};
use pacstore_pacman::MAX_SIGNATURE;
use pacstore_store::{ByOrigin, Facts, Intake, NewFile, Origin, Store, WriteError};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use super::{Board, Listed, Need, Route, local, path_in};
use crate::error::StoreError;
use crate::hidden::Hidden;
use crate::mirror::{FoundKind, look_up};
use crate::node::{Inner, Node};
use crate::repository::adopt_signature;

/// Bytes read at once.
const STEP: usize = 1 << 20;

/// One of pacman's caches, as scripts see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// The folder.
    pub path: String,
    /// Packages in it that the databases in use name.
    pub packages: u64,
    /// Of these, packages that are right, and so given to whoever asks.
    pub shared: u64,
    /// Signatures beside them that are, too.
    pub signatures: u64,
    /// Why it, or something in it, cannot be used.
    pub error: Option<String>,
}

/// What is known of one folder since it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// As it was then. None: it has to be looked at.
    of: Option<State>,
    /// Files that are not what they should be: not read again before they change.
    wrong: HashMap<String, Facts>,
    pub(crate) status: CacheStatus,
}

/// What a look depends on.
#[derive(Debug)]
struct State {
    need: Weak<Need>,
    /// Files and bytes of the store: what was here may be gone.
    held: (u64, u64),
    folder: Facts,
}

/// What came of looking at one file.
enum Looked {
    /// It is here, and was.
    Here,
    /// It was taken.
    Taken,
    /// It is not what it should be.
    Wrong(Facts),
    /// It may be another thing next time: it is being written, removed, or cannot be read.
    Unsettled(Option<io::Error>),
}

impl Node {
    /// Takes what is new in `folders` and known to the databases.
    pub(super) async fn take_from_caches(
        &self,
        need: &Arc<Need>,
        folders: &[PathBuf],
    ) -> Result<(), StoreError> {
        for folder in folders {
            let seen = Board::lock(&self.inner.machine.caches).remove(folder);
            let (inner, need, path) = (Arc::clone(&self.inner), Arc::clone(need), folder.clone());
            let looked = self.on_disk(move || {
                let mut look = Look {
                    inner: &inner,
                    need: &need,
                    folder: &path,
                    seen: seen.unwrap_or_default(),
                };
                let taken = look.all()?;
                Ok((look.seen, taken))
            });
            let (seen, taken) = looked.await?;
            Board::lock(&self.inner.machine.caches).insert(folder.clone(), seen);
            if taken > 0 {
                info!(files = taken, folder = %folder.display(), "took files from pacman's cache");
            }
        }
        Ok(())
    }

    /// What the last look at each of pacman's caches saw, in the order of the configuration.
    pub(crate) fn cache_status(&self) -> Vec<CacheStatus> {
        let seen = Board::lock(&self.inner.machine.caches);
        let folders = self.inner.config.machine.cache_dirs.iter();
        folders
            .filter_map(|folder| seen.get(folder).map(|one| one.status.clone()))
            .collect()
    }
}

/// A look at one folder. Blocks on the disk.
struct Look<'a> {
    inner: &'a Inner,
    need: &'a Arc<Need>,
    folder: &'a Path,
    seen: Seen,
}

impl Look<'_> {
    /// Gives how many files were taken.
    fn all(&mut self) -> Result<u64, StoreError> {
        let path = self.folder.to_string_lossy().into_owned();
        let listed = fs_err::metadata(self.folder).and_then(|meta| {
            let facts = Facts::of(&meta);
            Ok((facts, local::try_names(self.folder)?))
        });
        let (facts, names) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.seen = Seen::default();
                self.seen.status.path = path;
                self.seen.status.error = Some(plain(&error));
                return Ok(0);
            }
        };
        if self.is_known(&facts) {
            return Ok(0);
        }
        self.seen.status = CacheStatus {
            path,
            ..CacheStatus::default()
        };
        self.seen.wrong.retain(|name, _| names.contains(name));
        let (mut taken, mut settled) = (0, !self.is_fresh(&facts));
        let (signatures, packages): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.strip_suffix(".sig").is_some());
        // Packages first: a signature is compared with its package.
        for name in packages.into_iter().chain(signatures) {
            let package = name.strip_suffix(".sig");
            let Some(listed) = self.need.of_name(package.unwrap_or(name)) else {
                continue;
            };
            let looked = match package {
                None => self.package(name, listed)?,
                Some(_) if listed.signed => continue,
                Some(_) => self.signature(name, listed)?,
            };
            self.count(name, package.is_some(), &looked);
            taken += u64::from(matches!(looked, Looked::Taken));
            settled &= !matches!(looked, Looked::Unsettled(_));
        }
        self.seen.of = settled.then(|| State {
            need: Arc::downgrade(self.need),
            held: held(&self.inner.store),
            folder: facts,
        });
        Ok(taken)
    }

    /// Nothing can have changed since the last look.
    fn is_known(&self, folder: &Facts) -> bool {
        self.seen.of.as_ref().is_some_and(|of| {
            of.folder == *folder
                && of.held == held(&self.inner.store)
                && of.need.ptr_eq(&Arc::downgrade(self.need))
        })
    }

    /// It changed just now: what comes into it in the same moment would not show in its time.
    fn is_fresh(&self, folder: &Facts) -> bool {
        let now = i128::from(self.inner.clock.unix_seconds());
        folder.mtime_ns / 1_000_000_000 + 2 >= now
    }

    fn count(&mut self, name: &str, is_signature: bool, looked: &Looked) {
        let status = &mut self.seen.status;
        let good = u64::from(matches!(looked, Looked::Here | Looked::Taken));
        if is_signature {
            status.signatures += good;
        } else {
            status.packages += 1;
            status.shared += good;
        }
        match looked {
            Looked::Here | Looked::Taken | Looked::Unsettled(None) => {}
            Looked::Wrong(facts) => {
                self.seen.wrong.insert(name.to_owned(), *facts);
            }
            Looked::Unsettled(Some(error)) => {
                let text = || format!("{name}: {}", plain(error));
                status.error.get_or_insert_with(text);
            }
        }
    }

    fn package(&self, name: &str, listed: &Listed) -> Result<Looked, StoreError> {
        let store = &self.inner.store;
        let (profile, root) = self.in_tree(listed, name);
        // A reference that its owner removed may stand in the way.
        let is_here = store.has_sha256(&listed.sha256)?
            && match root {
                Some(root) => store.file(&root)?.is_some(),
                None => true,
            };
        if is_here {
            return Ok(Looked::Here);
        }
        let read = match self.read(name, listed.len, profile) {
            Ok(read) => read,
            Err(looked) => return Ok(looked),
        };
        if read.sha256 != listed.sha256 {
            debug!(name, "not what the database says; left alone");
            return Ok(Looked::Wrong(read.facts));
        }
        if let Some(hidden) = self.hidden(listed) {
            hidden.hide(&read.dag)?;
        }
        self.add(name, &read)
    }

    fn signature(&self, name: &str, listed: &Listed) -> Result<Looked, StoreError> {
        let store = &self.inner.store;
        let (profile, root) = self.in_tree(listed, name);
        let is_here = match (self.route(listed), root) {
            (Route::Mirror(..), None) => return Ok(Looked::Unsettled(None)),
            (Route::Mirror(..), Some(root)) => match store.file(&root)?.and_then(|info| info.sha256) {
                Some(sha256) => store.has_sha256(&sha256)?,
                None => false,
            },
            (Route::Repository(_), _) => crate::repository::has_signature(store, &listed.sha256)?,
        };
        if is_here {
            return Ok(Looked::Here);
        }
        let len = match fs_err::metadata(self.folder.join(name)) {
            Ok(meta) if meta.len() <= MAX_SIGNATURE as u64 => meta.len(),
            Ok(meta) => return Ok(Looked::Wrong(Facts::of(&meta))),
            Err(error) => return Ok(unsettled(error)),
        };
        let read = match self.read(name, len, profile) {
            Ok(read) => read,
            Err(looked) => return Ok(looked),
        };
        match root {
            Some(root) if root == read.dag.root => self.add(name, &read),
            // The tree has another one by now.
            Some(_) => Ok(Looked::Wrong(read.facts)),
            None => {
                let taken = adopt_signature(store, self.hidden(listed), &listed.sha256, &read.start)?;
                Ok(if taken {
                    Looked::Taken
                } else {
                    Looked::Wrong(read.facts)
                })
            }
        }
    }

    fn route(&self, listed: &Listed) -> &Route {
        &self.need.databases[listed.database].route
    }

    /// The list on which a package of a private repository is put.
    fn hidden(&self, listed: &Listed) -> Option<&Hidden> {
        match self.route(listed) {
            Route::Mirror(..) => None,
            Route::Repository(one) => (!one.config.public).then_some(&*self.inner.privacy.hidden),
        }
    }

    /// How the file is cut into leaves, and its root, where a mirror's tree says so.
    fn in_tree(&self, listed: &Listed, name: &str) -> (&'static Profile, Option<Cid>) {
        let default = (&Profile::UNIXFS_V1_2025, None);
        let Route::Mirror(mirror, folder) = self.route(listed) else {
            return default;
        };
        let Some(head) = mirror.current() else {
            return default;
        };
        let Some(profile) = Profile::by_name(&head.head.profile) else {
            return default;
        };
        // Not through the mirror's own memory, which is for what pacman asks.
        let found = look_up(&self.inner.store, &head.head.tree, &path_in(folder, name));
        let found = found.ok().flatten();
        let root = found.filter(|found| matches!(found.kind, FoundKind::File(_)));
        (profile, root.map(|found| found.cid))
    }

    /// Reads a file that must have this length, unless it was found wrong before.
    fn read(&self, name: &str, len: u64, profile: &'static Profile) -> Result<Read, Looked> {
        match read(&self.folder.join(name), len, profile, self.seen.wrong.get(name)) {
            Ok(looked) => looked,
            Err(error) => Err(unsettled(error)),
        }
    }

    fn add(&self, name: &str, read: &Read) -> Result<Looked, StoreError> {
        let mut batch = self.inner.store.batch();
        let path = self.folder.join(name);
        let file = NewFile {
            path: &path,
            how: Intake::InPlace,
            dag: &read.dag,
            sha256: Some(read.sha256),
            origin: ByOrigin::all(Origin::Disk, read.dag.len),
        };
        match batch.add_file_seen(file, &read.facts) {
            Ok(_) => {}
            // Changed or removed while it was read: the next look sees.
            Err(WriteError::SourceChanged(_) | WriteError::Source(..)) => {
                return Ok(Looked::Unsettled(None));
            }
            Err(error) => return Err(error.into()),
        }
        batch.commit()?;
        Ok(Looked::Taken)
    }
}

/// A file that was read.
struct Read {
    dag: FileDag,
    sha256: [u8; 32],
    /// What it was like before it was read.
    facts: Facts,
    /// Its first bytes: all of a signature.
    start: Vec<u8>,
}

fn held(store: &Store) -> (u64, u64) {
    let stats = store.stats();
    (stats.files, stats.bytes)
}

fn unsettled(error: io::Error) -> Looked {
    // Removed since its name was read.
    let gone = error.kind() == io::ErrorKind::NotFound;
    Looked::Unsettled((!gone).then_some(error))
}

/// An error in the words of the system, without the path that stands beside it.
fn plain(error: &io::Error) -> String {
    let source = error.get_ref().and_then(|inner| inner.source());
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Reads the file; `wrong` is what it was like when its bytes were not the right ones.
fn read(
    path: &Path,
    len: u64,
    profile: &'static Profile,
    wrong: Option<&Facts>,
) -> io::Result<Result<Read, Looked>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Somebody may have put a pipe there.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    let facts = Facts::of(&meta);
    if wrong == Some(&facts) {
        return Ok(Err(Looked::Wrong(facts)));
    }
    if !meta.is_file() || meta.len() != len {
        // It may be on its way.
        return Ok(Err(Looked::Unsettled(None)));
    }
    let mut builder = FileBuilder::new(profile);
    let mut sha256 = Context::new(&SHA256);
    let mut buffer = vec![0; STEP];
    let mut start = Vec::new();
    let mut limited = file.take(len);
    loop {
        let count = match limited.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if start.len() < MAX_SIGNATURE {
            start.extend_from_slice(&buffer[..count.min(MAX_SIGNATURE - start.len())]);
        }
        sha256.update(&buffer[..count]);
        builder.push(&buffer[..count]);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(sha256.finish().as_ref());
    Ok(Ok(Read {
        dag: builder.finish(),
        sha256: digest,
        facts,
        start,
    }))
}
