//! What the file system says of a file, with its time of birth where it knows one.
//!
//! A file system may give the number of a file that went to the next one at once (XFS and Btrfs do). A file that
//! replaces one of equal size and time is then told apart by its birth alone.
//!
//! - Invariant: a link to a file changes nothing here: the store may hold some.
//! - Not here: what follows from it (`crate::scan`).

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, fstat, makedev, statat, statx};
use rustix::io::Errno;
use rustix::path::Arg;

/// A file's number, kind, size and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    /// Last change of its bytes, since 1970.
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
    /// When it was made, in nanoseconds since 1970; 0 where the file system does not say.
    pub(crate) born: u64,
}

/// Of an open file.
pub(crate) fn of_open(file: impl AsFd) -> Result<Stat, Errno> {
    match ask(file.as_fd(), c"", AtFlags::EMPTY_PATH) {
        Err(error) if is_unknown(error) => fstat(file).map(without_birth),
        done => done,
    }
}

/// Of what has this name in a folder; a link itself, not what it leads to.
pub(crate) fn of_name(folder: impl AsFd, name: impl Arg + Copy) -> Result<Stat, Errno> {
    match ask(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(error) if is_unknown(error) => statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(without_birth),
        done => done,
    }
}

fn ask(folder: impl AsFd, name: impl Arg, flags: AtFlags) -> Result<Stat, Errno> {
    let stat = statx(folder, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let has_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let born = has_birth.then(|| nanoseconds(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec));
    Ok(Stat {
        dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        mode: u32::from(stat.stx_mode),
        size: stat.stx_size,
        seconds: stat.stx_mtime.tv_sec,
        nanos: stat.stx_mtime.tv_nsec,
        born: born.unwrap_or_default(),
    })
}

/// Kernels before 4.11 do not have the call; sandboxes of that time forbid what they do not know.
fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::PERM)
}

fn without_birth(stat: rustix::fs::Stat) -> Stat {
    Stat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        seconds: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        born: 0,
    }
}

fn nanoseconds(seconds: i64, nanos: u32) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or_default();
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_by_its_name_and_open_and_stays_so_when_it_is_linked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        fs_err::write(&path, b"bytes").unwrap();
        let (folder, file) = (
            fs_err::File::open(dir.path()).unwrap(),
            fs_err::File::open(&path).unwrap(),
        );
        let stat = of_open(&file).unwrap();
        assert_eq!(of_name(&folder, c"a").unwrap(), stat);
        assert_eq!((stat.size, stat.mode & 0o170_000), (5, 0o100_000));
        fs_err::hard_link(&path, &other).unwrap();
        assert_eq!(of_name(&folder, c"b").unwrap(), stat);
        let by_the_standard_library = file.metadata().unwrap().created().ok().map(|born| {
            let born = born.duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::try_from(born.as_nanos()).unwrap()
        });
        assert_eq!(stat.born, by_the_standard_library.unwrap_or_default());
    }

    #[test]
    fn what_is_known_without_a_birth_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let folder = fs_err::File::open(dir.path()).unwrap();
        let old = without_birth(fstat(&folder).unwrap());
        assert_eq!(
            Stat {
                born: 0,
                ..of_open(&folder).unwrap()
            },
            old
        );
    }
}
