//! What the tests share: stores in folders of their own, seeded bytes, DAGs over them, stopping hooks.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use cid::Cid;
use pacstore_dag::{
    Block, Change, Chunker, Entry, FileBuilder, FileDag, HashKind, Over, Parameters, Profile, SizeEstimate,
    Threshold, Version, edit_tree,
};
use pacstore_runtime::{Clock, FakeClock};
use pacstore_store::{
    Batch, ByOrigin, FileInfo, Intake, NewFile, Options, Origin, Steps, Store, Tuning, WriteError,
};
use ring::digest::{SHA256, digest};
use tempfile::TempDir;

pub(crate) type TestResult = Result<(), Box<dyn Error>>;

/// Leaves of 1000 bytes, four to a node: small files have everything that large ones have.
pub(crate) const TINY: Profile = match Profile::custom(PARAMETERS) {
    Ok(profile) => profile,
    Err(_) => panic!("the parameters are possible"),
};
const PARAMETERS: Parameters = Parameters {
    cid_version: Version::V1,
    hash: HashKind::Sha2_256,
    chunker: Chunker::Fixed(1000),
    raw_leaves: true,
    width: 4,
    threshold: Threshold {
        bytes: 262_144,
        estimate: SizeEstimate::BlockBytes,
        over: Over::Gt,
    },
    fanout: 256,
};
/// As [`TINY`] with leaves of 400 bytes and BLAKE2b: other roots over the same files.
pub(crate) const OTHER: Profile = match Profile::custom(Parameters {
    hash: HashKind::Blake2b256,
    chunker: Chunker::Fixed(400),
    ..PARAMETERS
}) {
    Ok(profile) => profile,
    Err(_) => panic!("the parameters are possible"),
};
/// As [`TINY`], as Kubo's oldest: CIDv0, leaves wrapped into nodes.
pub(crate) const OLD: Profile = match Profile::custom(Parameters {
    cid_version: Version::V0,
    raw_leaves: false,
    ..PARAMETERS
}) {
    Ok(profile) => profile,
    Err(_) => panic!("the parameters are possible"),
};

/// A store in a folder of its own.
pub(crate) struct Home {
    dir: TempDir,
    pub(crate) clock: Clock,
    pub(crate) hand: FakeClock,
    pub(crate) max_size: u64,
    pub(crate) refs_at_once: usize,
    /// A byte, so that caps and files of tests can be small.
    pub(crate) block: u64,
}

impl Home {
    pub(crate) fn new(max_size: u64) -> Self {
        let (clock, hand) = Clock::fake(UNIX_EPOCH + Duration::from_secs(1_000_000));
        // Hundreds of stores, each synced many times: in memory where there is such a place.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        }
        .unwrap();
        Self {
            dir,
            clock,
            hand,
            max_size,
            refs_at_once: Tuning::default().refs_at_once,
            block: 1,
        }
    }

    /// Where the store's folder is made.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            max_size: self.max_size,
            clock: self.clock.clone(),
        }
    }

    pub(crate) fn open(&self) -> Store {
        let tuning = Tuning {
            refs_at_once: self.refs_at_once,
            block: self.block,
            ..Tuning::default()
        };
        Store::open_with(&self.path(), self.options(), tuning).unwrap()
    }

    pub(crate) fn open_hooked<S: Steps>(&self, steps: &Arc<S>) -> Result<Store, pacstore_store::OpenError> {
        let steps: Arc<dyn Steps> = Arc::clone(steps) as _;
        let tuning = Tuning {
            cache_bytes: 1 << 20,
            refs_at_once: self.refs_at_once,
            block: self.block,
            steps: Some(steps),
            ..Tuning::default()
        };
        Store::open_with(&self.path(), self.options(), tuning)
    }

    /// Writes a file outside of the store.
    pub(crate) fn outside(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, data).unwrap();
        path
    }

    /// Every file below `files/` of the store.
    pub(crate) fn on_disk(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in std::fs::read_dir(self.path().join("files")).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                found.push(file.unwrap().path());
            }
        }
        found.sort();
        found
    }
}

/// Bytes that look random and depend on the seed only (xorshift64*).
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    digest(&SHA256, data).as_ref().try_into().unwrap()
}

pub(crate) fn dag(profile: &Profile, data: &[u8]) -> FileDag {
    let mut builder = FileBuilder::new(profile);
    builder.push(data);
    builder.finish()
}

/// Adds `data` to a batch from a file that is written for it.
pub(crate) fn add(
    batch: &mut Batch,
    home: &Home,
    data: &[u8],
    dag: &FileDag,
    how: Intake,
) -> Result<FileInfo, WriteError> {
    let path = home.outside(&format!("in-{}", dag.root), data);
    let origin = ByOrigin::all(Origin::Disk, data.len() as u64);
    batch.add_file(NewFile {
        path: &path,
        how,
        dag,
        sha256: Some(sha256(data)),
        origin,
    })
}

/// Takes `data` in under [`TINY`] and gives its root.
pub(crate) fn put(store: &Store, home: &Home, data: &[u8]) -> Cid {
    let dag = dag(&TINY, data);
    let mut batch = store.batch();
    add(&mut batch, home, data, &dag, Intake::Copy).unwrap();
    batch.commit().unwrap();
    dag.root
}

/// The nodes of a tree over files, and its root.
pub(crate) fn tree(files: &[(&str, &FileDag)]) -> (Cid, Vec<Block>) {
    let mut nodes = Vec::new();
    let changes = files.iter().map(|(path, dag)| {
        (
            path.as_bytes().to_vec(),
            Change::Set(Entry {
                cid: dag.root,
                tsize: dag.tsize,
            }),
        )
    });
    let nothing: std::collections::BTreeMap<Cid, Bytes> = std::collections::BTreeMap::new();
    let edit = edit_tree(&TINY, None, changes, &nothing, &mut nodes).unwrap();
    (edit.root.cid, nodes)
}

/// The whole file as the store gives it.
pub(crate) fn read(store: &Store, root: &Cid) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut open = store.open_file(root).unwrap()?;
    let mut data = Vec::new();
    open.file.read_to_end(&mut data).unwrap();
    Some(data)
}

/// Nothing is wrong with the store, and no file lies about.
pub(crate) fn assert_sound(store: &Store, home: &Home) {
    let report = store.fsck(false, &mut |_| {}).unwrap();
    assert_eq!(report.damages, vec![]);
    let stats = store.stats();
    assert_eq!(
        home.on_disk().len() as u64,
        stats.files + stats.partials,
        "files on disk"
    );
}

/// Stops at a step: for ever, as a crash does, or once, as a full disk does.
#[derive(Debug)]
pub(crate) struct Hook {
    at: u64,
    for_ever: bool,
    seen: AtomicU64,
    /// From now on every step fails.
    pub(crate) kill: AtomicBool,
    pub(crate) fired: AtomicBool,
    pub(crate) log: Mutex<Vec<&'static str>>,
}

impl Hook {
    pub(crate) fn crash_at(at: u64) -> Arc<Self> {
        Arc::new(Self::at(at, true))
    }

    pub(crate) fn full_at(at: u64) -> Arc<Self> {
        Arc::new(Self::at(at, false))
    }

    pub(crate) fn never() -> Arc<Self> {
        Arc::new(Self::at(u64::MAX, false))
    }

    fn at(at: u64, for_ever: bool) -> Self {
        Self {
            at,
            for_ever,
            seen: AtomicU64::new(0),
            kill: AtomicBool::new(false),
            fired: AtomicBool::new(false),
            log: Mutex::default(),
        }
    }

    pub(crate) fn has_fired(&self) -> bool {
        self.fired.load(Ordering::SeqCst)
    }
}

impl Steps for Hook {
    fn before(&self, step: &'static str) -> io::Result<()> {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst);
        if seen == self.at || (self.for_ever && seen > self.at) || self.kill.load(Ordering::SeqCst) {
            self.fired.store(true, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(28));
        }
        self.log.lock().unwrap().push(step);
        Ok(())
    }
}

/// The only file of the store, where there is one.
pub(crate) fn only_file(home: &Home) -> PathBuf {
    let files = home.on_disk();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

pub(crate) fn set_times(path: &Path, seconds: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds))
        .unwrap();
}
