//! A directory whose files are opened, and that is walked, without ever leaving it.
//!
//! Links are followed as the tree wants them (it stores what they point at), but only within the root: each part
//! of a path is opened by itself and without following links, so that nobody who can write into the directory can
//! make us read a file outside of it, not even by swapping a folder for a link at the right moment.
//!
//! - Invariant: every file opened here lies below the root.
//! - Not here: the walk itself (`crate::walk`), reading bytes (`crate::intake`), what is taken (`crate::work`).
//! - Read first: design.md, "Tree"; openat(2).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, open, openat, readlinkat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::globs::Globs;
use crate::names;
use crate::stat::{self, Stat};
use crate::view::{Item, NoFile, Place, Stamp, View};
use crate::walk::{Names, Same, Walk};

/// Links in a row that are followed; Linux's own limit.
pub(crate) const MAX_LINKS: usize = 40;
/// Folders in folders, over each transport: a file in the deepest has as many names in its path as a tree takes.
pub(crate) const MAX_DEPTH: usize = pacstore_dag::MAX_TREE_DEPTH - 1;

pub(crate) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// Why a directory could not be walked.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The disk, or a missing root.
    #[error("cannot read `{}`", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// More names than the limit.
    #[error("`{}` has more than {limit} names", .path.display())]
    TooMany {
        /// Which directory.
        path: PathBuf,
        /// How many are allowed.
        limit: usize,
    },
    /// The node is stopping.
    #[error("stopped while reading `{}`", .0.display())]
    Stopped(PathBuf),
}

/// An open directory that nothing leaves.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) path: PathBuf,
}

/// Which names a walk takes.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// Names that are not there for us.
    pub(crate) exclude: Globs,
    /// Whether hidden names count.
    pub(crate) hidden: bool,
    /// At most so many names.
    pub(crate) limit: usize,
}

impl Root {
    /// Opens a directory; links on the way to it are followed.
    pub(crate) fn open(path: &Path) -> Result<Self, ScanError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fail = |e: Errno| ScanError::Read(path.to_owned(), e.into());
        let path = path
            .canonicalize()
            .map_err(|e| ScanError::Read(path.to_owned(), e))?;
        let fd = open(&path, flags, Mode::empty()).map_err(fail)?;
        Ok(Self {
            fd: Arc::new(fd),
            path,
        })
    }

    /// The path of a name below it, for those who can only take paths.
    pub(crate) fn absolute(&self, path: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Opens a regular file; no part of `path` may be a link.
    pub(crate) fn open_file(&self, path: &[u8]) -> io::Result<(File, Stamp)> {
        let (folder, name) = names::split(path);
        let folder = self.open_folder(folder)?;
        let at = folder.as_ref().map_or_else(|| self.fd.as_fd(), AsFd::as_fd);
        let fd = openat(at, name, READ, Mode::empty())?;
        let stat = stat::of_open(&fd)?;
        if FileType::from_raw_mode(stat.mode) != FileType::RegularFile {
            return Err(io::Error::other("no regular file"));
        }
        Ok((File::from(fd), stamp(&stat)))
    }

    /// What a walk would say of a regular file; nothing if none lies there. No part of `path` may be a link.
    pub(crate) fn file(&self, path: &[u8]) -> io::Result<Option<Item>> {
        let (folder, name) = names::split(path);
        let stat = self.open_folder(folder).and_then(|folder| {
            let at = folder.as_ref().map_or_else(|| self.fd.as_fd(), AsFd::as_fd);
            Ok(stat::of_name(at, name)?)
        });
        let stat = match stat {
            Ok(stat) => stat,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let is_file = FileType::from_raw_mode(stat.mode) == FileType::RegularFile;
        Ok(is_file.then(|| Item::File {
            stamp: stamp(&stat),
            place: Place::Here,
        }))
    }

    /// `None` is the root itself.
    pub(crate) fn open_folder(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        let mut at: Option<OwnedFd> = None;
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
            let next = openat(
                at.as_ref().map_or_else(|| self.fd.as_fd(), AsFd::as_fd),
                part,
                FOLDER,
                Mode::empty(),
            )?;
            at = Some(next);
        }
        Ok(at)
    }

    /// Says everything that lies below.
    pub(crate) fn scan(&self, filter: &Filter, stop: &CancellationToken) -> Result<View, ScanError> {
        let mut view = View::default();
        self.walk(filter, stop, &mut view)?;
        view.sort();
        Ok(view)
    }

    /// Whether everything that lies below is what `view` says. No second view is held for that.
    pub(crate) fn is_still(
        &self,
        view: &View,
        filter: &Filter,
        stop: &CancellationToken,
    ) -> Result<bool, ScanError> {
        let mut same = Same::new(view);
        self.walk(filter, stop, &mut same)?;
        Ok(same.is_all())
    }

    fn walk(&self, filter: &Filter, stop: &CancellationToken, out: &mut dyn Names) -> Result<(), ScanError> {
        Walk::new(self, filter, stop, out).all()
    }

    /// Follows the link `target` that lies in `folder` (a path without links).
    pub(crate) fn resolve(&self, folder: &[u8], target: &[u8]) -> Result<(Vec<u8>, Stat), NoFile> {
        let mut here: Vec<Vec<u8>> = parts(folder).collect();
        let mut todo: Vec<Vec<u8>> = Vec::new();
        self.turn(target, &mut here, &mut todo)?;
        let mut links = 1;
        let mut last = None;
        while let Some(part) = todo.pop() {
            if part == b".." {
                here.pop().ok_or(NoFile::Leaves)?;
                last = None;
                continue;
            }
            here.push(part);
            let path = here.join(&b'/');
            let stat = match stat::of_name(self.fd.as_fd(), c_path(&path)?.as_c_str()) {
                Ok(stat) => stat,
                Err(Errno::ACCESS) => return Err(NoFile::Denied),
                Err(_) => return Err(NoFile::Dangling),
            };
            if FileType::from_raw_mode(stat.mode) == FileType::Symlink {
                links += 1;
                if MAX_LINKS < links {
                    return Err(NoFile::Loop);
                }
                let target = readlinkat(self.fd.as_fd(), c_path(&path)?.as_c_str(), Vec::new());
                let target = target.map_err(|_| NoFile::Dangling)?;
                here.pop();
                self.turn(target.as_bytes(), &mut here, &mut todo)?;
                last = None;
            } else {
                last = Some(stat);
            }
        }
        let path = here.join(&b'/');
        match last {
            Some(stat) => Ok((path, stat)),
            None if path.is_empty() => stat::of_open(self.fd.as_fd())
                .map(|stat| (path, stat))
                .map_err(|_| NoFile::Dangling),
            None => match stat::of_name(self.fd.as_fd(), c_path(&path)?.as_c_str()) {
                Ok(stat) => Ok((path, stat)),
                Err(_) => Err(NoFile::Dangling),
            },
        }
    }

    /// Puts the parts of a link's target before what is still to be walked.
    fn turn(&self, target: &[u8], here: &mut Vec<Vec<u8>>, todo: &mut Vec<Vec<u8>>) -> Result<(), NoFile> {
        let target = if target.first() == Some(&b'/') {
            let root = self.path.as_os_str().as_bytes();
            let below = target
                .strip_prefix(root)
                .filter(|rest| matches!(rest.first(), None | Some(b'/')));
            here.clear();
            below.ok_or(NoFile::Leaves)?
        } else {
            target
        };
        if 4096 < todo.len() + target.len() {
            return Err(NoFile::Loop);
        }
        let new: Vec<_> = parts(target).filter(|part| part != b".").collect();
        todo.extend(new.into_iter().rev());
        Ok(())
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty())
        .map(<[u8]>::to_vec)
}

fn c_path(path: &[u8]) -> Result<CString, NoFile> {
    CString::new(path).map_err(|_| NoFile::Dangling)
}

/// The stamp of an open file as it is now.
pub(crate) fn stamp_of(file: &File) -> io::Result<Stamp> {
    Ok(stamp(&stat::of_open(file)?))
}

pub(crate) fn stamp(stat: &Stat) -> Stamp {
    Stamp::Disk {
        dev: stat.dev,
        ino: stat.ino,
        size: stat.size,
        seconds: stat.seconds,
        nanos: stat.nanos,
        born: stat.born,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scan(dir: &Path, exclude: &[&str], hidden: bool) -> View {
        let exclude = Globs::new(&exclude.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>()).unwrap();
        let filter = Filter {
            exclude,
            hidden,
            limit: 1000,
        };
        Root::open(dir)
            .unwrap()
            .scan(&filter, &CancellationToken::new())
            .unwrap()
    }

    fn show(view: &View) -> Vec<String> {
        let files = view.files.iter().map(|(path, item)| match item {
            Item::File {
                place: Place::At(real),
                ..
            } => format!("{} -> {}", names::show(path), names::show(real)),
            Item::File { .. } => names::show(path),
            Item::None(why) => format!("{}: {why}", names::show(path)),
        });
        files
            .chain(view.folders.iter().map(|path| format!("{}/", names::show(path))))
            .collect()
    }

    #[test]
    fn links_are_followed_within_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs_err::create_dir_all(root.join("pool")).unwrap();
        fs_err::create_dir_all(root.join("core")).unwrap();
        fs_err::write(root.join("pool/a"), b"1").unwrap();
        fs_err::write(dir.path().join("secret"), b"1").unwrap();
        let link = |target: &Path, name: &str| symlink(target, root.join("core").join(name)).unwrap();
        link(Path::new("../pool/a"), "a");
        link(Path::new("a"), "b");
        link(&root.canonicalize().unwrap().join("pool/a"), "c");
        link(Path::new("../../secret"), "d");
        link(Path::new("/etc/passwd"), "e");
        link(Path::new("../pool/none"), "f");
        link(Path::new("g"), "g");
        link(Path::new("../pool"), "h");
        link(Path::new(".."), "i");
        link(Path::new("../../tree/pool/a"), "j");
        assert_eq!(
            show(&scan(&root, &["/pool"], false)),
            [
                "core/a -> pool/a",
                "core/b -> pool/a",
                "core/c -> pool/a",
                "core/d: a link that leaves the root",
                "core/e: a link that leaves the root",
                "core/f: a link that leads nowhere",
                "core/g: a link that leads back to itself",
                "core/h/a -> pool/a",
                "core/i: a link that leads back to itself",
                "core/j: a link that leaves the root",
                "core/",
                "core/h/",
            ]
        );
    }

    #[test]
    fn hidden_and_excluded_names_are_left_out_and_odd_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a b", "new\nline", "-x", "WARNING: y", ".h", "~t", "z.lck"] {
            fs_err::write(dir.path().join(name), b"").unwrap();
        }
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
        fs_err::write(odd, b"").unwrap();
        fs_err::create_dir(dir.path().join("empty")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let all = show(&scan(dir.path(), &["*.lck"], false));
        let want = [
            "-x",
            "WARNING: y",
            "a b",
            "new\\nline",
            "pipe: no regular file",
            "\\xff\\xfe",
            "empty/",
        ];
        assert_eq!(all, want);
        assert_eq!(scan(dir.path(), &[], true).files.len(), 9);
    }

    #[test]
    fn a_file_behind_a_link_is_not_opened_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("real")).unwrap();
        fs_err::write(dir.path().join("real/a"), b"1").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(root.open_file(b"real/a").is_ok());
        assert!(root.open_file(b"link/a").is_err());
        assert!(root.open_file(b"real").is_err());
    }

    #[test]
    fn whatever_moves_is_another_state() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs_err::create_dir_all(at("core/empty")).unwrap();
        for name in ["core/a", "core/b", "c"] {
            fs_err::write(at(name), name).unwrap();
        }
        symlink("core/a", at("link")).unwrap();
        let filter = Filter {
            exclude: Globs::default(),
            hidden: false,
            limit: 100,
        };
        let (root, stop) = (Root::open(dir.path()).unwrap(), CancellationToken::new());
        let mut view = root.scan(&filter, &stop).unwrap();
        let moves: [&dyn Fn(); 7] = [
            &|| fs_err::write(at("core/b"), "longer").unwrap(),
            &|| fs_err::remove_file(at("c")).unwrap(),
            &|| fs_err::write(at("d"), "new").unwrap(),
            &|| fs_err::remove_dir(at("core/empty")).unwrap(),
            &|| fs_err::create_dir(at("empty")).unwrap(),
            &|| fs_err::remove_file(at("core/a")).unwrap(),
            &|| {
                fs_err::remove_file(at("link")).unwrap();
                symlink("core/b", at("link")).unwrap();
            },
        ];
        for (number, moves) in moves.into_iter().enumerate() {
            assert!(root.is_still(&view, &filter, &stop).unwrap(), "{number}");
            moves();
            assert!(!root.is_still(&view, &filter, &stop).unwrap(), "{number}");
            view = root.scan(&filter, &stop).unwrap();
        }
    }
}
