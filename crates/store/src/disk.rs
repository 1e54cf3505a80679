//! The store's folder: what lies where, and the steps that change it.
//!
//! ```text
//! format       "pacstore store 1"
//! lock         locked by the one process that has the store open; says who
//! clean        there only after an orderly close
//! ballast      4 MiB that are given up so that gc can work on a full disk
//! index.redb   the index
//! files/00003/0000000000000c1f   file 0xc1f, whole or partial; 1024 to a folder
//! partial/0000000000000c1f       leaves and bitmap of a partial file
//! ```
//!
//! - Invariant: a file that the index names was synced, with its folder, before the index was.
//! - Invariant: ids are never used twice, so a name never means other bytes than before.
//! - Not here: how a file's bytes come in (`crate::intake`).

use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fs_err as fs;
use tracing::{debug, warn};

use crate::error::OpenError;
use crate::steps::Hook;

/// The format that this version reads and writes.
pub(crate) const FORMAT: u32 = 1;
const FORMAT_PREFIX: &str = "pacstore store ";

/// Above this many files one sync of the whole file system is cheaper than one for each file.
const SYNC_EACH: usize = 8;
/// Room for one transaction of gc, in bytes.
const BALLAST: u64 = 4 << 20;

/// What is known of a folder below `files/`.
#[derive(Debug, Default)]
struct Folder {
    /// It is there, and its entry is synced.
    is_there: bool,
    /// How many are about to make a file in it.
    awaited: usize,
}

/// Where a new file may be made: its folder is there, and stays as long as this does.
#[derive(Debug)]
pub(crate) struct Spot<'d> {
    disk: &'d Disk,
    folder: u64,
    pub(crate) path: PathBuf,
}

impl Drop for Spot<'_> {
    fn drop(&mut self) {
        if let Some(folder) = self.disk.folders().get_mut(&self.folder) {
            folder.awaited -= 1;
        }
    }
}

/// Paths and steps of one store.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    pub(crate) hook: Hook,
    _lock: Lock,
    /// Folders below `files/`.
    folders: Mutex<HashMap<u64, Folder>>,
    /// Folders from which names were removed that a power cut may bring back.
    removed: Mutex<HashSet<PathBuf>>,
}

impl Disk {
    /// Locks and checks the folder, making it if it is not there.
    pub(crate) fn open(dir: &Path, hook: Hook) -> Result<Self, OpenError> {
        let failed = |path: &Path, error| OpenError::File(path.to_owned(), error);
        make_durably(dir, &hook).map_err(|error| failed(dir, error))?;
        let dir = fs::canonicalize(dir).map_err(|error| failed(dir, error))?;
        let lock = lock(&dir)?;
        check_format(&dir, &hook)?;
        for sub in ["files", "partial"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(|error| failed(&path, error))?;
        }
        // The format is there before the index is: an index without it is refused.
        hook.sync_dir(&dir).map_err(|error| failed(&dir, error))?;
        Ok(Self {
            dir,
            hook,
            _lock: lock,
            folders: Mutex::default(),
            removed: Mutex::default(),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.dir.join("index.redb")
    }

    /// Where file `id` lies.
    pub(crate) fn file(&self, id: u64) -> PathBuf {
        self.folder(id >> 10).join(format!("{id:016x}"))
    }

    /// Where the bitmap of partial file `id` lies.
    pub(crate) fn bitmap(&self, id: u64) -> PathBuf {
        self.dir.join("partial").join(format!("{id:016x}"))
    }

    fn folder(&self, number: u64) -> PathBuf {
        self.dir.join("files").join(format!("{number:05x}"))
    }

    fn folders(&self) -> MutexGuard<'_, HashMap<u64, Folder>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a new file `id` may be made.
    pub(crate) fn new_file(&self, id: u64) -> io::Result<Spot<'_>> {
        let number = id >> 10;
        let mut folders = self.folders();
        let folder = folders.entry(number).or_default();
        folder.awaited += 1;
        let is_there = folder.is_there;
        drop(folders);
        let spot = Spot {
            disk: self,
            folder: number,
            path: self.file(id),
        };
        if !is_there {
            self.hook.before("make folder")?;
            fs::create_dir_all(self.folder(number))?;
            self.hook.sync_dir(&self.dir.join("files"))?;
            self.folders().entry(number).or_default().is_there = true;
        }
        Ok(spot)
    }

    /// Makes files and their names durable. One sync for many, one each for few.
    pub(crate) fn sync(&self, paths: &[PathBuf]) -> io::Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        self.hook.before("sync files")?;
        if paths.len() > SYNC_EACH {
            return self.hook.sync_below(&self.dir);
        }
        let mut folders = HashSet::new();
        for path in paths {
            self.hook.sync_file(path)?;
            folders.extend(path.parent());
        }
        folders
            .into_iter()
            .try_for_each(|folder| self.hook.sync_dir(folder))
    }

    /// Removes file `id`; it is no error if it is not there.
    pub(crate) fn remove_file(&self, id: u64) -> io::Result<()> {
        self.remove("remove file", &self.file(id))
    }

    /// Removes the bitmap of `id`; it is no error if it is not there.
    pub(crate) fn remove_bitmap(&self, id: u64) -> io::Result<()> {
        self.remove("remove bitmap", &self.bitmap(id))
    }

    fn remove(&self, step: &'static str, path: &Path) -> io::Result<()> {
        self.hook.before(step)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done?,
        }
        if let Some(folder) = path.parent() {
            let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
            if !removed.contains(folder) {
                removed.insert(folder.to_owned());
            }
        }
        Ok(())
    }

    /// Every name below `files/` with its id; `None` for a name that the store did not give.
    pub(crate) fn list_files(&self, mut each: impl FnMut(Option<u64>, PathBuf)) -> io::Result<()> {
        for folder in fs::read_dir(self.dir.join("files"))? {
            let folder = folder?.path();
            if !folder.is_dir() {
                each(None, folder);
                continue;
            }
            let number = hex(&folder);
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let path = entry.path();
                // A folder is nobody's of ours, whatever it is called.
                let is_folder = entry.file_type()?.is_dir();
                let id = hex(&path).filter(|id| Some(id >> 10) == number && self.file(*id) == path);
                each(id.filter(|_| !is_folder), path);
            }
        }
        Ok(())
    }

    /// Every name below `partial/` with its id; `None` for a name that the store did not give.
    pub(crate) fn list_bitmaps(&self) -> io::Result<Vec<(Option<u64>, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.join("partial"))? {
            let path = entry?.path();
            found.push((hex(&path).filter(|id| self.bitmap(*id) == path), path));
        }
        Ok(found)
    }

    /// True if there is a file of the store, whole or partial.
    pub(crate) fn has_files(&self) -> io::Result<bool> {
        let mut found = self.list_bitmaps()?.iter().any(|(id, _)| id.is_some());
        self.list_files(|id, _| found |= id.is_some())?;
        Ok(found)
    }

    /// Removes folders that hold nothing, below the one that new files go to.
    pub(crate) fn remove_empty_folders(&self, next_id: u64) {
        let Ok(folders) = fs::read_dir(self.dir.join("files")) else {
            return;
        };
        for folder in folders.flatten() {
            // A folder with something in it stays: the call fails.
            if hex(&folder.path()).is_some_and(|number| number < next_id >> 10) {
                let _ = fs::remove_dir(folder.path());
            }
        }
    }

    /// Removes folders out of which all files went, below the two that new files go to. Those in which somebody is about
    /// to make a file stay.
    pub(crate) fn remove_emptied(&self, next_id: u64) {
        let files = self.dir.join("files");
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |folder: &PathBuf| hex(folder).filter(|number| number + 1 < next_id >> 10);
        let all: Vec<(u64, PathBuf)> = removed
            .iter()
            .filter_map(|folder| Some((old(folder)?, folder.clone())))
            .collect();
        for (number, folder) in all {
            // Held while it goes: nobody finds it there meanwhile.
            let mut folders = self.folders();
            let is_awaited = folders.get(&number).is_some_and(|folder| folder.awaited > 0);
            // A folder with something in it stays: the call fails.
            if !is_awaited && fs::remove_dir(&folder).is_ok() {
                folders.remove(&number);
                removed.remove(&folder);
                removed.insert(files.clone());
            }
        }
    }

    /// Sets room aside, if there is some.
    pub(crate) fn make_ballast(&self) {
        let path = self.dir.join("ballast");
        let made = || -> io::Result<()> {
            self.hook.before("make ballast")?;
            let file = match File::options().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                opened => opened?,
            };
            let flags = rustix::fs::FallocateFlags::empty();
            Ok(rustix::fs::fallocate(&file, flags, 0, BALLAST)?)
        };
        if let Err(error) = made() {
            debug!(
                error = &error as &dyn std::error::Error,
                "no room can be set aside for gc"
            );
            let _ = fs::remove_file(&path);
        }
    }

    /// Gives up the room that was set aside; `false` if there is none.
    pub(crate) fn use_ballast(&self) -> bool {
        self.hook.before("use ballast").is_ok() && fs::remove_file(self.dir.join("ballast")).is_ok()
    }

    /// Makes the names in the store's own folder durable: the index is there, and the clean mark is not.
    pub(crate) fn sync_root(&self) -> io::Result<()> {
        self.hook.sync_dir(&self.dir)
    }

    /// True if the last owner closed the store in order; from the next [`Self::sync_root`] on it counts as open.
    pub(crate) fn take_clean_mark(&self) -> bool {
        fs::remove_file(self.dir.join("clean")).is_ok()
    }

    /// Says that nothing lies here that the index does not know; true after a power cut, too.
    pub(crate) fn put_clean_mark(&self) -> io::Result<()> {
        self.hook.before("clean mark")?;
        let removed = std::mem::take(&mut *self.removed.lock().unwrap_or_else(PoisonError::into_inner));
        for folder in removed {
            // A folder of its own that is gone was empty; its name went from `files`.
            let folder = if folder.exists() {
                folder
            } else {
                self.dir.join("files")
            };
            self.hook.sync_dir(&folder)?;
        }
        fs::write(self.dir.join("clean"), b"")
    }
}

fn hex(path: &Path) -> Option<u64> {
    u64::from_str_radix(path.file_name()?.to_str()?, 16).ok()
}

/// Makes `dir` and the folders above it that are missing, each with its name.
fn make_durably(dir: &Path, hook: &Hook) -> io::Result<()> {
    let mut above = Vec::new();
    for folder in dir.ancestors() {
        if folder.as_os_str().is_empty() || folder.exists() {
            break;
        }
        above.extend(folder.parent());
    }
    fs::create_dir_all(dir)?;
    above.into_iter().rev().try_for_each(|folder| {
        let here = Path::new(".");
        hook.sync_dir(if folder.as_os_str().is_empty() {
            here
        } else {
            folder
        })
    })
}

/// The file whose lock says that this process has the store.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a child that is being started has the file too, until its program runs.
        if let Err(error) = self.0.unlock() {
            warn!(
                error = &error as &dyn std::error::Error,
                "the store's lock stays until this process ends"
            );
        }
    }
}

fn lock(dir: &Path) -> Result<Lock, OpenError> {
    let path = dir.join("lock");
    let failed = |error| OpenError::File(path.clone(), error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(4096).read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() {
                "another process"
            } else {
                holder.trim()
            };
            return Err(OpenError::Locked {
                dir: dir.to_owned(),
                holder: holder.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let command = fs::read("/proc/self/cmdline").unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "process {} ({})", std::process::id(), command.trim()).map_err(failed)?;
    Ok(Lock(file))
}

fn check_format(dir: &Path, hook: &Hook) -> Result<(), OpenError> {
    let path = dir.join("format");
    let failed = |error| OpenError::File(path.clone(), error);
    let has_index = dir.join("index.redb").exists();
    let found = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => String::from_utf8_lossy(&other.map_err(failed)?).into_owned(),
    };
    // Not there, or a crash right after the file was made: its bytes never came.
    if !has_index && found.trim_matches('\0').is_empty() {
        let mut file = File::create(&path).map_err(failed)?;
        writeln!(file, "{FORMAT_PREFIX}{FORMAT}").map_err(failed)?;
        return hook.sync_bytes(&file, &path).map_err(failed);
    }
    let number = found.trim().strip_prefix(FORMAT_PREFIX);
    if number.and_then(|number| number.parse().ok()) == Some(FORMAT) {
        return Ok(());
    }
    let found = number.unwrap_or(found.trim()).chars().filter(|c| !c.is_control());
    Err(OpenError::Format {
        dir: dir.to_owned(),
        found: found.take(40).collect(),
        known: FORMAT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_folder_goes_unless_a_file_is_about_to_be_made_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("store"), Hook::default()).unwrap();
        let [gone, slow] = [4, 3].map(|id| disk.new_file(id).unwrap());
        fs::write(&gone.path, b"gone").unwrap();
        drop(gone);
        disk.remove_file(4).unwrap();
        // Thousands of files later.
        disk.remove_emptied(9000);
        fs::write(&slow.path, b"slow").unwrap();
        drop(slow);
        disk.remove_emptied(9000);
        assert!(disk.file(3).exists(), "a folder with a file in it stays");
        disk.remove_file(3).unwrap();
        disk.remove_emptied(1023);
        assert!(disk.folder(0).exists(), "new files go there");
        disk.remove_emptied(9000);
        assert!(!disk.folder(0).exists());
        fs::write(&disk.new_file(5).unwrap().path, b"again").unwrap();
    }

    #[test]
    fn the_lock_goes_with_the_store_though_a_child_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        let of_child = first.0.try_clone().unwrap();
        assert!(matches!(lock(dir.path()), Err(OpenError::Locked { .. })));
        drop(first);
        drop(lock(dir.path()).unwrap());
        drop(of_child);
    }
}
