//! A folder that loses what was not synced, as a machine does whose power fails.
//!
//! The folder itself is what is *live*. What is *durable* is kept in memory, and only what a sync was reported for
//! gets there: a file's bytes, length and mtime by its own sync, a name by the sync of the folder that it is in.
//! A name is bound to its inode, so a file renamed after its sync keeps its bytes.
//!
//! - Invariant: after the cut no step is done and no sync counts.
//! - Not here: symbolic links, permissions, hard links to the outside; a restored file has another inode.
//! - Read first: [`pacstore_store::Steps`], which [`Power`] is.
//!
//! ```
//! use pacstore_store::Steps as _;
//! use pacstore_testkit::{Loss, Power, TestResult};
//!
//! # fn main() -> TestResult {
//! let dir = tempfile::tempdir()?;
//! let power = Power::watch(dir.path())?;
//! fs_err::write(dir.path().join("lost"), b"its folder was not synced")?;
//! power.cut();
//! power.restore(Loss::Unsynced)?;
//! assert!(!dir.path().join("lost").exists());
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fs_err as fs;
use pacstore_pacman::build::Random;
use pacstore_store::Steps;

/// Bytes that reach the disk together or not at all.
const PAGE: usize = 4096;

/// What of the changes that were not synced is gone after the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// None: only the process ended.
    Nothing,
    /// All of them.
    Unsynced,
    /// Each changed name, each changed page of 4 KiB and each changed length by a coin of this seed: the system
    /// writes back what it likes, in any order.
    Some(u64),
}

/// The power of one folder.
#[derive(Debug)]
pub struct Power {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    durable: Image,
    /// As it was when the power was cut.
    cut: Option<Image>,
    /// Steps until the cut.
    left: Option<u64>,
    by_step: bool,
    /// An inode that is open is not given to another file, so its number stays a name for it.
    held: HashMap<u64, fs::File>,
}

/// Files and folders by inode.
#[derive(Clone, Debug, Default)]
struct Image {
    files: HashMap<u64, Content>,
    folders: HashMap<u64, BTreeMap<OsString, Node>>,
}

#[derive(Clone, Debug)]
struct Content {
    bytes: Vec<u8>,
    modified: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    inode: u64,
    is_folder: bool,
}

impl Power {
    /// Watches the folder `root`; all that is in it now is durable, and so is its own name.
    ///
    /// # Errors
    /// What lies there cannot be read.
    pub fn watch(root: &Path) -> io::Result<Arc<Self>> {
        let mut state = State::default();
        state.durable = state.image(root)?;
        Ok(Arc::new(Self {
            root: root.to_owned(),
            state: Mutex::new(state),
        }))
    }

    /// Cuts the power before the step that comes after `steps` further ones.
    pub fn cut_after(&self, steps: u64) {
        self.state().left = Some(steps);
    }

    /// Cuts the power now, if it is not cut yet.
    pub fn cut(&self) {
        self.state().cut(&self.root);
    }

    /// True if it was a step that met the cut, and not [`Self::cut`].
    pub fn was_cut_by_step(&self) -> bool {
        self.state().by_step
    }

    /// Makes the folder what a machine finds there that is started again. It can be called again, with another
    /// loss: each call begins at the cut.
    ///
    /// # Errors
    /// The folder cannot be written, or the power is on.
    pub fn restore(&self, loss: Loss) -> io::Result<()> {
        let state = self.state();
        let cut = state
            .cut
            .as_ref()
            .ok_or_else(|| io::Error::other("the power is on"))?;
        let mut fall = match loss {
            Loss::Nothing => Fall::Live,
            Loss::Unsynced => Fall::Durable,
            Loss::Some(seed) => Fall::Coin(Random::new(seed)),
        };
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        let mut made = HashMap::new();
        let mut open = vec![(inode(&self.root)?, self.root.clone())];
        while let Some((folder, path)) = open.pop() {
            for (name, node) in names(&state.durable, cut, folder, &mut fall) {
                let path = path.join(name);
                if node.is_folder {
                    fs::create_dir(&path)?;
                    open.push((node.inode, path));
                } else if let Some(first) = made.get(&node.inode) {
                    fs::hard_link(first, &path)?;
                } else {
                    let content = content(&state.durable, cut, node.inode, &mut fall);
                    fs::write(&path, &content.bytes)?;
                    fs::File::options()
                        .write(true)
                        .open(&path)?
                        .file()
                        .set_modified(content.modified)?;
                    made.insert(node.inode, path);
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Steps for Power {
    fn before(&self, _: &'static str) -> io::Result<()> {
        let mut state = self.state();
        match state.left {
            Some(0) if state.cut.is_none() => {
                state.by_step = true;
                state.cut(&self.root);
            }
            Some(left) => state.left = Some(left.saturating_sub(1)),
            None => {}
        }
        if state.cut.is_some() {
            return Err(io::Error::other("the power is cut"));
        }
        Ok(())
    }

    fn synced(&self, path: &Path) {
        let mut state = self.state();
        if state.cut.is_none() {
            present(state.sync(path));
        }
    }

    fn synced_below(&self, folder: &Path) {
        let mut state = self.state();
        if state.cut.is_none()
            && let Some(image) = present(state.image(folder))
        {
            state.durable.files.extend(image.files);
            state.durable.folders.extend(image.folders);
        }
    }
}

impl State {
    fn cut(&mut self, root: &Path) {
        if self.cut.is_none() {
            self.cut = Some(
                self.image(root)
                    .expect("what lies in a watched folder can be read"),
            );
        }
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.hold(path)?;
        if path.is_dir() {
            let names = self.list(path)?;
            self.durable.folders.insert(inode, names);
        } else {
            self.durable.files.insert(inode, read(path)?);
        }
        Ok(())
    }

    /// Everything below `root`.
    fn image(&mut self, root: &Path) -> io::Result<Image> {
        let mut image = Image::default();
        let mut open = vec![root.to_owned()];
        while let Some(folder) = open.pop() {
            let names = self.list(&folder)?;
            for (name, node) in &names {
                let path = folder.join(name);
                if node.is_folder {
                    open.push(path);
                } else {
                    image.files.insert(node.inode, read(&path)?);
                }
            }
            image.folders.insert(inode(&folder)?, names);
        }
        Ok(image)
    }

    fn list(&mut self, folder: &Path) -> io::Result<BTreeMap<OsString, Node>> {
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_file() || kind.is_dir() {
                let node = Node {
                    inode: self.hold(&entry.path())?,
                    is_folder: kind.is_dir(),
                };
                names.insert(entry.file_name(), node);
            }
        }
        Ok(names)
    }

    fn hold(&mut self, path: &Path) -> io::Result<u64> {
        let file = fs::File::open(path)?;
        let inode = file.metadata()?.ino();
        self.held.entry(inode).or_insert(file);
        Ok(inode)
    }
}

/// Which side of an unsynced change the disk has.
enum Fall {
    Live,
    Durable,
    Coin(Random),
}

impl Fall {
    fn is_durable(&mut self) -> bool {
        match self {
            Self::Live => false,
            Self::Durable => true,
            Self::Coin(random) => {
                let mut byte = [0];
                random.read_exact(&mut byte).expect("the stream has no end");
                byte[0] & 1 == 0
            }
        }
    }
}

fn names(durable: &Image, cut: &Image, folder: u64, fall: &mut Fall) -> Vec<(OsString, Node)> {
    let nothing = BTreeMap::new();
    let kept = durable.folders.get(&folder).unwrap_or(&nothing);
    let live = cut.folders.get(&folder).unwrap_or(kept);
    let all: BTreeSet<_> = kept.keys().chain(live.keys()).collect();
    all.into_iter()
        .filter_map(|name| {
            let (kept, live) = (kept.get(name), live.get(name));
            let node = if kept == live || fall.is_durable() {
                kept
            } else {
                live
            };
            node.map(|node| (name.clone(), *node))
        })
        .collect()
}

fn content(durable: &Image, cut: &Image, inode: u64, fall: &mut Fall) -> Content {
    let nothing = Content {
        bytes: Vec::new(),
        modified: SystemTime::UNIX_EPOCH,
    };
    let kept = durable.files.get(&inode).unwrap_or(&nothing);
    let live = cut.files.get(&inode).unwrap_or(kept);
    let same = kept.bytes.len() == live.bytes.len() && kept.modified == live.modified;
    let shape = if same || fall.is_durable() { kept } else { live };
    let mut bytes = Vec::with_capacity(shape.bytes.len());
    while bytes.len() < shape.bytes.len() {
        let at = bytes.len();
        let len = PAGE.min(shape.bytes.len() - at);
        let (old, new) = (page(&kept.bytes, at), page(&live.bytes, at));
        let page = if old == new || fall.is_durable() { old } else { new };
        bytes.extend_from_slice(&page[..len.min(page.len())]);
        // What never reached the disk below its length reads as zeros.
        bytes.resize(at + len, 0);
    }
    Content {
        bytes,
        modified: shape.modified,
    }
}

fn page(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..bytes.len().min(at + PAGE)).unwrap_or_default()
}

fn read(path: &Path) -> io::Result<Content> {
    Ok(Content {
        bytes: fs::read(path)?,
        modified: fs::metadata(path)?.modified()?,
    })
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// What was removed meanwhile is nothing; any other failure is the test's.
fn present<T>(done: io::Result<T>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("the durable bytes cannot be kept: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestResult;

    /// Syncs for real, then says so.
    fn sync(power: &Power, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()?;
        power.synced(path);
        Ok(())
    }

    #[test]
    fn bytes_need_their_own_sync_and_names_that_of_their_folder() -> TestResult {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        fs::write(at("old"), b"was here")?;
        let power = Power::watch(dir.path())?;
        fs::write(at("both"), b"bytes and name")?;
        fs::write(at("name"), b"name only")?;
        sync(&power, &at("both"))?;
        sync(&power, dir.path())?;
        fs::write(at("bytes"), b"bytes only")?;
        sync(&power, &at("bytes"))?;
        fs::write(at("old"), b"written over, not synced")?;
        fs::rename(at("both"), at("renamed"))?;
        power.cut();
        sync(&power, dir.path())?;
        power.restore(Loss::Nothing)?;
        assert_eq!(fs::read(at("old"))?, b"written over, not synced");
        assert_eq!(fs::read_dir(dir.path())?.count(), 4);
        power.restore(Loss::Unsynced)?;
        assert_eq!(fs::read(at("both"))?, b"bytes and name");
        assert_eq!(fs::read(at("name"))?, b"");
        assert_eq!(fs::read(at("old"))?, b"was here");
        assert_eq!(fs::read_dir(dir.path())?.count(), 3);
        Ok(())
    }

    #[test]
    fn a_rename_is_kept_by_the_sync_of_the_folder_and_a_removal_too() -> TestResult {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        fs::write(at("gone"), b"gone")?;
        let power = Power::watch(dir.path())?;
        fs::write(at("new"), b"bytes")?;
        sync(&power, &at("new"))?;
        fs::rename(at("new"), at("here"))?;
        fs::remove_file(at("gone"))?;
        sync(&power, dir.path())?;
        power.cut();
        for loss in [Loss::Nothing, Loss::Unsynced, Loss::Some(1), Loss::Some(2)] {
            power.restore(loss)?;
            assert_eq!(fs::read(at("here"))?, b"bytes", "{loss:?}");
            assert_eq!(fs::read_dir(dir.path())?.count(), 1, "{loss:?}");
        }
        Ok(())
    }

    #[test]
    fn a_coin_gives_old_and_new_pages_and_names_and_no_others() -> TestResult {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), vec![1; 4 * PAGE])?;
        let power = Power::watch(dir.path())?;
        fs::write(at("file"), vec![2; 4 * PAGE])?;
        fs::write(at("new"), b"")?;
        power.cut();
        let mut seen = BTreeSet::new();
        for seed in 0..40 {
            power.restore(Loss::Some(seed))?;
            let bytes = fs::read(at("file"))?;
            assert_eq!(bytes.len(), 4 * PAGE);
            for page in bytes.chunks(PAGE) {
                assert!(page.iter().all(|byte| *byte == page[0]), "a page is never cut");
                seen.insert(page[0]);
            }
            seen.insert(10 + u8::from(at("new").exists()));
        }
        assert_eq!(seen, BTreeSet::from([1, 2, 10, 11]));
        Ok(())
    }

    #[test]
    fn steps_end_at_the_cut() -> TestResult {
        let dir = tempfile::tempdir()?;
        let power = Power::watch(dir.path())?;
        assert!(power.restore(Loss::Unsynced).is_err(), "the power is on");
        power.cut_after(2);
        assert!(power.before("one").is_ok() && power.before("two").is_ok());
        assert!(!power.was_cut_by_step());
        assert!(power.before("three").is_err() && power.before("four").is_err());
        assert!(power.was_cut_by_step());
        Ok(())
    }
}
