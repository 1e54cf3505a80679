//! Files of an upstream tree, changed as rsync changes them: put down beside, renamed over.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use std::{ffi::OsString, io};

use fs_err as fs;

/// Seconds since 1970 as a time.
pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Writes `path` (and the folders above) by rename, with this mtime; a reader sees old or new.
pub fn put_file(path: &Path, bytes: &[u8], mtime: SystemTime) -> io::Result<()> {
    write_over(path, mtime, |file| file.write_all(bytes))
}

/// As [`put_file`], the bytes by a closure.
pub(crate) fn write_over<E: From<io::Error>>(
    path: &Path,
    mtime: SystemTime,
    write: impl FnOnce(&mut fs::File) -> Result<(), E>,
) -> Result<(), E> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = OsString::from(".~");
    name.push(path.file_name().unwrap_or_default());
    let beside = folder.join(name);
    let mut file = fs::File::create(&beside)?;
    write(&mut file)?;
    file.file().set_modified(mtime)?;
    drop(file);
    fs::rename(&beside, path)?;
    Ok(())
}

/// Cuts `path` to `len` bytes, by rename, with the mtime it had.
pub fn truncate(path: &Path, len: usize) -> io::Result<()> {
    change(path, |bytes| bytes.truncate(len))
}

/// Changes the byte at `offset` of `path` (from the end if it is shorter), by rename; size and mtime stay.
pub fn corrupt(path: &Path, offset: usize) -> io::Result<()> {
    change(path, |bytes| {
        let last = bytes.len().saturating_sub(1);
        if let Some(byte) = bytes.get_mut(offset.min(last)) {
            *byte ^= 0x55;
        }
    })
}

fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    let mtime = fs::metadata(path)?.modified()?;
    let mut bytes = fs::read(path)?;
    with(&mut bytes);
    put_file(path, &bytes, mtime)
}

/// A shell script `name` in `folder` that can be run: a stand-in for a program.
///
/// It is written by another process: while this one has it open for writing, a fork of
/// another test would keep it from being run ("text file busy").
pub fn script(folder: &Path, name: &str, body: &str) -> io::Result<PathBuf> {
    let path = folder.join(name);
    let mut child = Command::new("sh")
        .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        write!(stdin, "#!/bin/sh\n{body}\n")?;
    }
    if child.wait()?.success() {
        Ok(path)
    } else {
        Err(io::Error::other("the script was not written"))
    }
}
