//! One importer with a store of its own, and an independent way to a directory's CID.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cid::Cid;
use pacstore_dag::{self as dag, Entry, FileBuilder, Profile};
use pacstore_import::{Files, ImportSpec, Importer, Progress, Round, RoundError, Source};
use pacstore_runtime::{Clock, Tasks};
use pacstore_store::{OpenError, Options, Store, Tuning};
use pacstore_upstream::{Http, HttpOptions};

/// A store and a folder for importers.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) tasks: Tasks,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap(), 1 << 40, &Tuning::default())
    }

    pub(crate) fn with(dir: tempfile::TempDir, max_size: u64, tuning: &Tuning) -> Self {
        // A program that another test starts shares our lock for the moment between fork and exec.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        let store = loop {
            match Store::open_with(&dir.path().join("store"), Options::new(max_size), tuning.clone()) {
                Err(OpenError::Locked { .. }) if std::time::Instant::now() < until => {
                    std::thread::yield_now();
                }
                opened => break opened.unwrap(),
            }
        };
        Self {
            dir,
            store,
            tasks: Tasks::new(),
        }
    }

    /// As after an end of the process.
    pub(crate) fn reopen(self, tuning: &Tuning) -> Self {
        let Self { dir, store, tasks } = self;
        drop(tasks);
        drop(store);
        Self::with(dir, 1 << 40, tuning)
    }

    pub(crate) fn importer(&self, spec: ImportSpec) -> Importer {
        let http = Http::new(HttpOptions::default());
        let work = self.dir.path().join("work").join(&spec.mirror);
        Importer::new(
            spec,
            self.store.clone(),
            http,
            self.tasks.clone(),
            Clock::system(),
            work,
        )
        .unwrap()
    }

    /// One round with an importer that is opened for it alone.
    pub(crate) async fn round(&self, spec: &ImportSpec) -> Result<Round, RoundError> {
        self.importer(spec.clone()).round(&Progress::default()).await
    }

    /// Every file of the tree, read back from the store.
    pub(crate) fn files(&self, tree: &Cid) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        self.walk(tree, b"", &mut found);
        found
    }

    fn walk(&self, folder: &Cid, path: &[u8], found: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        for (name, Entry { cid, .. }) in dag::list(folder, &self.store).unwrap() {
            let path = if path.is_empty() {
                name
            } else {
                [path, b"/", &name].concat()
            };
            let is_folder = cid.codec() == dag::DAG_PB
                && dag::kind(&cid, &self.store.node(&cid).unwrap().unwrap()).unwrap() == dag::Kind::Directory;
            if is_folder {
                self.walk(&cid, &path, found);
            } else {
                let mut open = self
                    .store
                    .open_file(&cid)
                    .unwrap()
                    .expect("every file is in the store");
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut open.file, &mut bytes).unwrap();
                found.push((path, bytes));
            }
        }
    }

    pub(crate) fn names(&self, tree: &Cid) -> Vec<String> {
        self.files(tree)
            .into_iter()
            .map(|(path, _)| String::from_utf8_lossy(&path).into_owned())
            .collect()
    }
}

/// A spec for one directory.
pub(crate) fn of_directory(dir: &Path) -> ImportSpec {
    ImportSpec::new("test.mirror", vec![Source::Directory(dir.to_owned())])
}

pub(crate) fn all(mut spec: ImportSpec) -> ImportSpec {
    spec.files = Files::All;
    spec
}

pub(crate) fn of_url(url: &str) -> ImportSpec {
    ImportSpec::new("test.mirror", vec![Source::parse(url).unwrap()])
}

/// The CID of a directory as `ipfs add -r` gives it (hidden names left out), made without the importer.
pub(crate) fn cid_of(dir: &Path) -> Cid {
    entry_of(dir).cid
}

fn entry_of(path: &Path) -> Entry {
    let profile = Profile::UNIXFS_V1_2025;
    if path.is_dir() {
        let mut entries = Vec::new();
        for entry in fs_err::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().as_bytes().to_vec();
            if !name.starts_with(b".") && !name.starts_with(b"~") {
                entries.push((name, Some(entry_of(&entry.path()))));
            }
        }
        return dag::edit_directory(&profile, None, entries, &(), &mut Vec::new()).unwrap();
    }
    let mut file = FileBuilder::new(&profile);
    file.push(&fs_err::read(path).unwrap());
    let file = file.finish();
    Entry {
        cid: file.root,
        tsize: file.tsize,
    }
}

/// Makes every file of a directory look as if it had lain there for a day, so that stamps are settled.
pub(crate) fn age(dir: &Path) {
    age_by(dir, Duration::from_hours(24));
}

/// Makes every file of a directory look as if it had been written so long ago.
pub(crate) fn age_by(dir: &Path, ago: Duration) {
    let time = SystemTime::now() - ago;
    for path in tree_of(dir) {
        let file = fs_err::File::options().read(true).open(&path).unwrap();
        file.file().set_modified(time).unwrap();
    }
}

fn tree_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(tree_of(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            files.push(entry.path());
        }
    }
    files
}

/// The troubles of all repositories as text.
pub(crate) fn troubles(repositories: &[pacstore_import::RepoFacts]) -> Vec<String> {
    let mut all = Vec::new();
    for repo in repositories {
        if let pacstore_import::RepoState::Torn(troubles) = &repo.state {
            all.extend(troubles.iter().map(ToString::to_string));
        }
    }
    all
}
