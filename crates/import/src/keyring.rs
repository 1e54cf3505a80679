//! A keyring as it lies on the disk: a folder as pacman's (`/etc/pacman.d/gnupg`, `/usr/share/pacman/keyrings`), or one file of keys.
//!
//! - Invariant: nothing is read that the name does not call a part of a keyring, and never more than
//!   [`MAX_KEYRING`] bytes of a file.
//! - Not here: what the files mean (`pacstore_pacman::openpgp`).

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pacstore_pacman::openpgp::{Keyring, KeyringError, KeyringFile, MAX_KEYRING};
use ring::digest::{Context, SHA256};

use crate::spec::to_array;

/// The most files of a keyring's folder that are read.
const MAX_FILES: usize = 1000;

/// Why a keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringReadError {
    /// The disk.
    #[error("cannot read `{}`", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// What stands in it.
    #[error("`{}` is no keyring", .path.display())]
    Keyring {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyringError,
    },
}

impl KeyringReadError {
    /// Whether it may not be read by this user.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Read(_, e) if e.kind() == io::ErrorKind::PermissionDenied)
    }

    /// One sentence on what the user can do, printed after `hint:`.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read(_, e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Some("let the daemon's user read it, or name `/usr/share/pacman/keyrings`")
            }
            Self::Read(..) | Self::Keyring { .. } => {
                Some("name a folder as pacman's: `/etc/pacman.d/gnupg` or `/usr/share/pacman/keyrings`")
            }
        }
    }
}

/// A keyring and a digest of the bytes that it was read from.
#[derive(Debug)]
pub struct ReadKeyring {
    /// The keys.
    pub keys: Keyring,
    /// SHA-256 over all names and bytes, in the order of names.
    pub digest: [u8; 32],
}

/// Reads the keyring at `path`: all files of a folder that belong to one, or the single file of keys.
///
/// # Errors
/// [`KeyringReadError`] if it cannot be read or holds no key that signs.
pub fn read_keyring(path: &Path) -> Result<ReadKeyring, KeyringReadError> {
    let fail = |e| KeyringReadError::Read(path.to_owned(), e);
    let mut files = Vec::new();
    if fs_err::metadata(path).map_err(fail)?.is_dir() {
        for entry in fs_err::read_dir(path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = KeyringFile::of(&name);
            if let Some(kind) = kind.filter(|_| entry.path().is_file() && files.len() < MAX_FILES) {
                files.push((name, kind, entry.path()));
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
    } else {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.push((name.into_owned(), KeyringFile::Keys, path.to_owned()));
    }
    let mut context = Context::new(&SHA256);
    let mut read = Vec::new();
    for (name, kind, file) in files {
        let mut bytes = Vec::new();
        fs_err::File::open(&file)
            .and_then(|open| open.take(MAX_KEYRING as u64 + 1).read_to_end(&mut bytes))
            .map_err(|e| KeyringReadError::Read(file, e))?;
        for part in [name.as_bytes(), &bytes] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        read.push((kind, name, bytes));
    }
    let keys = Keyring::read(read.iter().map(|(kind, name, bytes)| (*kind, &**name, &**bytes))).map_err(
        |source| KeyringReadError::Keyring {
            path: path.to_owned(),
            source,
        },
    )?;
    Ok(ReadKeyring {
        keys,
        digest: to_array(context.finish().as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use pacstore_pacman::build::SigningKey;

    use super::*;

    #[test]
    fn a_folder_and_a_file_give_the_same_keys_and_another_folder_another_digest() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::from_seed([3; 32], "K <k@example.org>", 1_700_000_000).unwrap();
        let file = dir.path().join("own.gpg");
        fs_err::write(&file, key.public_key()).unwrap();
        let (folder, single) = (read_keyring(dir.path()).unwrap(), read_keyring(&file).unwrap());
        assert_eq!((folder.keys.len(), single.keys.len()), (1, 1));
        assert_eq!(folder.digest, single.digest);
        fs_err::write(dir.path().join("own-revoked"), key.fingerprint()).unwrap();
        assert_ne!(read_keyring(dir.path()).unwrap().digest, folder.digest);
    }

    #[test]
    fn a_folder_without_keys_says_so() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("random_seed"), "x").unwrap();
        let error = read_keyring(dir.path()).unwrap_err();
        assert!(
            matches!(
                &error,
                KeyringReadError::Keyring {
                    source: KeyringError::Empty,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(matches!(
            read_keyring(&dir.path().join("none")),
            Err(KeyringReadError::Read(..))
        ));
    }
}
