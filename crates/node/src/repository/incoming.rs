//! Bytes that come in from a mirror as a whole: onto the disk, hashed on the way, then into the store.
//!
//! - Invariant: nothing is readable by anybody before [`Arrived::keep`]; until then, and if it never comes to
//!   that, the file is one without meaning, removed when it is dropped or at the next start.
//! - Not here: whether they are the right bytes.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use pacstore_dag::{FileBuilder, FileDag, Profile};
use pacstore_runtime::{Pool, Tasks};
use pacstore_store::{ByOrigin, FileInfo, Intake, NewFile, Origin, Reservation, Store};
use ring::digest::{Context, SHA256};

use crate::error::StoreError;
use crate::hidden::Hidden;

/// Bytes that wait in memory for one write.
const BATCH: usize = 1 << 20;

/// How the files are called in the store's folder.
const PREFIX: &str = "repository-";

/// Never the same name twice: one that was given up may still be written to.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A file on its way.
pub(super) struct Incoming {
    written: Written,
    waiting: Vec<Bytes>,
    waiting_len: usize,
    len: u64,
}

struct Written {
    file: Scratch,
    builder: FileBuilder,
    sha256: Context,
}

/// A file whose bytes are all here, under a name of no meaning.
pub(super) struct Arrived {
    file: Scratch,
    /// Its leaves and nodes by the default profile.
    pub(super) dag: FileDag,
    /// SHA-256 of all of it.
    pub(super) sha256: [u8; 32],
    origin: Origin,
}

/// Removed when it is dropped.
struct Scratch {
    file: fs_err::File,
    path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Moved into the store by then, or not wanted.
        let _ = fs_err::remove_file(&self.path);
    }
}

/// Whether something holds a file that is taken in.
pub(super) enum Held<'a> {
    /// This label does, from the moment on that it is there.
    Under(&'a str),
    /// Nothing, and there is room for it under the cap.
    Within(Reservation),
}

impl Incoming {
    /// An empty file beside the store's own.
    pub(super) async fn new(store: &Store, tasks: &Tasks) -> io::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}.part", std::process::id());
        let path = store.dir().join(name);
        let made = tasks.blocking(Pool::Disk, move || {
            let file = fs_err::File::create(&path)?;
            Ok::<_, io::Error>(Scratch { file, path })
        });
        let file = made.await.map_err(io::Error::other)??;
        Ok(Self {
            written: Written {
                file,
                builder: FileBuilder::new(&Profile::UNIXFS_V1_2025),
                sha256: Context::new(&SHA256),
            },
            waiting: Vec::new(),
            waiting_len: 0,
            len: 0,
        })
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The next bytes.
    pub(super) async fn push(mut self, tasks: &Tasks, piece: Bytes) -> io::Result<Self> {
        self.len += piece.len() as u64;
        self.waiting_len += piece.len();
        self.waiting.push(piece);
        if self.waiting_len < BATCH {
            return Ok(self);
        }
        self.flush(tasks).await
    }

    async fn flush(mut self, tasks: &Tasks) -> io::Result<Self> {
        let pieces = std::mem::take(&mut self.waiting);
        self.waiting_len = 0;
        let mut written = self.written;
        let step = tasks.blocking(Pool::Hash, move || {
            for piece in &pieces {
                written.builder.push(piece);
                written.sha256.update(piece);
                written.file.file.write_all(piece)?;
            }
            Ok::<_, io::Error>(written)
        });
        self.written = step.await.map_err(io::Error::other)??;
        Ok(self)
    }

    /// That was all.
    pub(super) async fn finish(self, tasks: &Tasks) -> io::Result<Arrived> {
        let Written {
            file,
            builder,
            sha256,
        } = self.flush(tasks).await?.written;
        let mut digest = [0; 32];
        digest.copy_from_slice(sha256.finish().as_ref());
        Ok(Arrived {
            file,
            dag: builder.finish(),
            sha256: digest,
            origin: Origin::Upstream,
        })
    }
}

impl Arrived {
    /// It did not come from a mirror.
    pub(super) fn from(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Takes it into the store: hidden from peers first if it is `private`, then durable. Blocks on the disk.
    pub(super) fn keep(
        self,
        store: &Store,
        hidden: Option<&Hidden>,
        held: Held<'_>,
    ) -> Result<FileInfo, StoreError> {
        if let Some(hidden) = hidden {
            hidden.hide(&self.dag)?;
        }
        let mut batch = store.batch();
        match held {
            Held::Under(label) => batch.stage(label)?,
            Held::Within(room) => batch.within(room),
        }
        let info = batch.add_file(NewFile {
            path: self.path(),
            how: Intake::Move,
            dag: &self.dag,
            sha256: Some(self.sha256),
            origin: ByOrigin::all(self.origin, self.dag.len),
        })?;
        batch.commit()?;
        Ok(info)
    }
}

/// A short file that is in memory, as if it had come by [`Incoming`]. Blocks on the disk.
pub(super) fn arrived(store: &Store, data: &[u8]) -> io::Result<Arrived> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = store
        .dir()
        .join(format!("{PREFIX}{}-{number}.part", std::process::id()));
    let mut file = Scratch {
        file: fs_err::File::create(&path)?,
        path,
    };
    file.file.write_all(data)?;
    let mut builder = FileBuilder::new(&Profile::UNIXFS_V1_2025);
    builder.push(data);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(ring::digest::digest(&SHA256, data).as_ref());
    Ok(Arrived {
        file,
        dag: builder.finish(),
        sha256,
        origin: Origin::Upstream,
    })
}

/// Removes what an earlier process left half-way.
pub(super) fn sweep(store: &Store) {
    let Ok(entries) = fs_err::read_dir(store.dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            // What stays is looked at again at the next start.
            let _ = fs_err::remove_file(entry.path());
        }
    }
}
