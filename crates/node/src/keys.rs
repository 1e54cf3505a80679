//! Keys on disk: the node's own and the importers', one file each, for their owner alone.
//!
//! - Invariant: a key file that others can read is refused, never used; a key that is
//!   missing is never silently made anew where a mirror is signed with it.
//! - Invariant: who writes into the folder holds its lock, shared; under the whole lock what a killed writer left is
//!   told from what is being written, and removed.
//! - Not here: what keys sign (`pacstore-names`).

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pacstore_names::{IpnsName, Record, SigningKey};
use tracing::warn;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no key of that label.
    #[error("there is no key `{label}` in `{}`", dir.display())]
    Missing {
        /// Its label.
        label: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// There is one already.
    #[error("there is a key `{0}` already")]
    Exists(String),
    /// Others can read or write it.
    #[error("`{}` has mode {mode:o}; others must not read it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system keeps no permissions: what is written for its owner alone others can read at once.
    #[error("the file system of `{}` keeps no permissions: a key there has mode {mode:o}", dir.display())]
    NoModes {
        /// The folder of the keys.
        dir: PathBuf,
        /// The permission bits that it gave to a file.
        mode: u32,
    },
    /// The file system has no hard links, by which a key gets its name.
    #[error("the file system of `{}` has no hard links", .0.display())]
    NoLinks(PathBuf, #[source] io::Error),
    /// Not a key.
    #[error("`{}` holds no key", .0.display())]
    Malformed(PathBuf),
    /// Not a label.
    #[error("`{0}` is no label; use letters, digits, `-`, `_` and `.`, at most 64")]
    Label(String),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// The disk failed.
    #[error("cannot read or write `{}`", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

impl KeyError {
    /// One sentence on what to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { label, .. } => Some(format!(
                "restore it from your copy; if nothing was published with it yet, `pacstore key new {label}` makes it (else a new key needs a label of its own, and is a new name for clients)"
            )),
            Self::Mode { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::NoModes { .. } | Self::NoLinks(..) => Some(
                "keep the state directory on a file system of Linux, such as ext4; the files of the store may lie on this one: `store.dir`"
                    .to_owned(),
            ),
            Self::Malformed(_) => Some("restore it from your copy".to_owned()),
            Self::Exists(_) | Self::Label(_) | Self::Random | Self::Io(..) => None,
        }
    }
}

/// The keys of one node.
#[derive(Clone, Debug)]
pub struct Keys {
    dir: PathBuf,
}

/// How the files end in which hand-overs are kept; they begin with the KEY that was handed over.
const HAND_OVER: &str = ".handover";

/// What comes before the number of the process in the name of a file that is being written.
const NEW: &str = ".new-";

/// How long a writer waits for those who look after the folder.
const PATIENCE: Duration = Duration::from_secs(2);

/// File name of the node's own key; not a label, since labels do not begin with a dot.
const NODE: &str = ".node";

impl Keys {
    /// Keys under `state_dir/keys`.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("keys"),
        }
    }

    /// Makes and keeps a new key.
    ///
    /// # Errors
    /// [`KeyError`] if there is one of that label or it cannot be written.
    pub fn create(&self, label: &str) -> Result<SigningKey, KeyError> {
        self.write(check(label)?)
    }

    /// The key `label`.
    ///
    /// # Errors
    /// [`KeyError`] if it is not there, not readable, or readable by others.
    pub fn load(&self, label: &str) -> Result<SigningKey, KeyError> {
        self.read(check(label)?)
    }

    /// The key that is to take the place of `label`'s: made once, the same one after a stop in between.
    pub(crate) fn prepare(&self, label: &str) -> Result<SigningKey, KeyError> {
        let next = next_of(check(label)?);
        match self.read(&next) {
            Err(KeyError::Missing { .. }) => self.write(&next),
            other => other,
        }
    }

    /// Keeps the record by which `from` was handed over; one of an attempt that stopped is replaced.
    pub(crate) fn keep_hand_over(&self, from: &IpnsName, record: &Record) -> Result<(), KeyError> {
        let path = self.dir.join(format!("{from}{HAND_OVER}"));
        let _writing = self.writing()?;
        let temporary = self.write_beside(&from.to_string(), record.bytes())?;
        fs_err::rename(&temporary, &path).map_err(|e| KeyError::Io(path, e))?;
        self.sync()
    }

    /// The records by which keys of this node were handed over. A damaged one is told: others have it.
    pub(crate) fn hand_overs(&self) -> Result<Vec<(IpnsName, Record)>, KeyError> {
        let mut found = Vec::new();
        for name in self.names()? {
            let Some(Ok(key)) = name.strip_suffix(HAND_OVER).map(str::parse::<IpnsName>) else {
                continue;
            };
            let path = self.dir.join(&name);
            let bytes = fs_err::read(&path).map_err(|e| KeyError::Io(path.clone(), e))?;
            match Record::from_bytes(&bytes) {
                Ok(record) => found.push((key, record)),
                Err(error) => {
                    warn!(path = %path.display(), error = &error as &dyn std::error::Error, "a hand-over cannot be read");
                }
            }
        }
        Ok(found)
    }

    /// Puts the key `label`, whose KEY is `key`, aside under that name, beside its label.
    pub(crate) fn retire(&self, label: &str, key: &IpnsName) -> Result<(), KeyError> {
        let aside = self.dir.join(format!("{key}.retired"));
        match fs_err::hard_link(self.path(check(label)?), &aside) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(self.unlinked(aside, error)),
        }
    }

    /// The key that [`Keys::prepare`] made takes the place of `label`'s.
    pub(crate) fn exchange(&self, label: &str) -> Result<(), KeyError> {
        let path = self.path(check(label)?);
        fs_err::rename(self.path(&next_of(label)), &path).map_err(|e| KeyError::Io(path, e))?;
        self.sync()
    }

    /// Labels, sorted.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn labels(&self) -> Result<Vec<String>, KeyError> {
        let names = self.names()?;
        let labels = names.iter().filter_map(|name| name.strip_suffix(".key"));
        let mut labels: Vec<String> = labels
            .filter(|label| check(label).is_ok())
            .map(str::to_owned)
            .collect();
        labels.sort();
        Ok(labels)
    }

    /// The KEYs of all key files that are here, also of the node and of a rotation under way.
    pub(crate) fn names_of_all(&self) -> Result<Vec<IpnsName>, KeyError> {
        let names = self.names()?;
        let keys = names.iter().filter_map(|name| name.strip_suffix(".key"));
        keys.map(|key| Ok(self.read(key)?.name())).collect()
    }

    /// The names in the folder that are text.
    fn names(&self) -> Result<Vec<String>, KeyError> {
        let entries = match fs_err::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(KeyError::Io(self.dir.clone(), error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| KeyError::Io(self.dir.clone(), e))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    /// The node's own key, made at first use: it signs nothing that others rely on.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn node(&self) -> Result<SigningKey, KeyError> {
        match self.read(NODE) {
            Err(KeyError::Missing { .. }) => self.write(NODE),
            other => other,
        }
    }

    fn path(&self, label: &str) -> PathBuf {
        self.dir.join(format!("{label}.key"))
    }

    fn read(&self, label: &str) -> Result<SigningKey, KeyError> {
        let path = self.path(label);
        let meta = match fs_err::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyError::Missing {
                    label: label.to_owned(),
                    dir: self.dir.clone(),
                });
            }
            Err(error) => return Err(KeyError::Io(path, error)),
        };
        let mode = meta.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Mode { path, mode });
        }
        let bytes = fs_err::read(&path).map_err(|e| KeyError::Io(path.clone(), e))?;
        SigningKey::from_bytes(&bytes).map_err(|_| KeyError::Malformed(path))
    }

    fn write(&self, label: &str) -> Result<SigningKey, KeyError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |error| KeyError::Io(path, error)
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io(&self.dir))?;
        let key = SigningKey::generate().map_err(|_| KeyError::Random)?;
        let path = self.path(label);
        self.sweep();
        let _writing = self.writing()?;
        let temporary = self.write_beside(label, &key.to_bytes())?;
        // It would be refused at the next start, when it is a node's or a mirror's name already.
        let fit = fs_err::metadata(&temporary)
            .map_err(io(&temporary))
            .and_then(|meta| self.keeps_modes(meta.mode()));
        // A link, not a rename: an existing key is never replaced.
        let linked = fit.map(|()| fs_err::hard_link(&temporary, &path));
        fs_err::remove_file(&temporary).map_err(io(&temporary))?;
        match linked? {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists(label.to_owned()));
            }
            Err(error) => return Err(self.unlinked(path, error)),
        }
        self.sync()?;
        Ok(key)
    }

    /// Whether a file of this mode, which was made for its owner alone, is that.
    fn keeps_modes(&self, mode: u32) -> Result<(), KeyError> {
        match mode & 0o777 {
            mode if mode & 0o077 != 0 => Err(KeyError::NoModes {
                dir: self.dir.clone(),
                mode,
            }),
            _ => Ok(()),
        }
    }

    /// Why a link at `path` was not made, in a folder in which files can be written.
    fn unlinked(&self, path: PathBuf, error: io::Error) -> KeyError {
        match error.kind() {
            // What Linux says (link(2)), and what file systems in user space do.
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => {
                KeyError::NoLinks(self.dir.clone(), error)
            }
            _ => KeyError::Io(path, error),
        }
    }

    /// Removes what writers that were killed left: it may be a key. Nothing while somebody writes. A failure is told
    /// and harmless: the next start or writer does it again.
    pub(crate) fn sweep(&self) {
        match self.remove_strays() {
            Ok(()) => {}
            Err(KeyError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "what a killed writer left beside the keys stays"
                );
            }
        }
    }

    fn remove_strays(&self) -> Result<(), KeyError> {
        let io = |error| KeyError::Io(self.dir.clone(), error);
        let lock = File::open(&self.dir).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        for name in self.names()?.iter().filter(|name| is_of_writer(name)) {
            let path = self.dir.join(name);
            fs_err::remove_file(&path).map_err(|error| KeyError::Io(path.clone(), error))?;
            warn!(path = %path.display(), "what a killed writer left beside the keys is removed");
        }
        Ok(())
    }

    /// From now on nothing that is being written is taken for a stray, until this is dropped. None where the file
    /// system has no locks: nothing is removed there.
    fn writing(&self) -> Result<Option<File>, KeyError> {
        let io = |error| KeyError::Io(self.dir.clone(), error);
        let lock = File::open(&self.dir).map_err(io)?;
        let begin = Instant::now();
        loop {
            match lock.try_lock_shared() {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error @ TryLockError::WouldBlock) => return Err(io(error.into())),
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }

    /// Writes `bytes` durably into a file beside the others, for their owner alone.
    fn write_beside(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, KeyError> {
        let temporary = self.dir.join(format!(".{name}{NEW}{}", std::process::id()));
        let io = |error| KeyError::Io(temporary.clone(), error);
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary).map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        Ok(temporary)
    }

    /// Makes the names in the folder durable.
    fn sync(&self) -> Result<(), KeyError> {
        let synced = fs_err::File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| KeyError::Io(self.dir.clone(), e))
    }
}

/// Under which name the successor of `label` waits; no label, since those do not begin with a dot.
fn next_of(label: &str) -> String {
    format!(".{label}.next")
}

/// The name of a file that somebody writes, or wrote when he was killed. Keys and hand-overs end otherwise.
fn is_of_writer(name: &str) -> bool {
    let number = name.strip_prefix('.').and_then(|rest| rest.rsplit_once(NEW));
    number.is_some_and(|(_, number)| number.parse::<u32>().is_ok())
}

fn check(label: &str) -> Result<&str, KeyError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if label.is_empty() || label.len() > 64 || label.starts_with('.') || !label.chars().all(allowed) {
        return Err(KeyError::Label(label.to_owned()));
    }
    Ok(label)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_kept_and_never_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keys = Keys::new(dir.path());
        assert!(matches!(keys.load("arch"), Err(KeyError::Missing { .. })));
        let key = keys.create("arch").expect("a new key");
        assert!(matches!(keys.create("arch"), Err(KeyError::Exists(_))));
        assert_eq!(keys.load("arch").expect("the key").name(), key.name());
        assert_eq!(keys.labels().expect("labels"), ["arch"]);
        assert_eq!(
            keys.node().expect("made").name(),
            keys.node().expect("kept").name()
        );
    }

    /// As on NTFS and exFAT, of which none can be mounted here.
    #[test]
    fn where_permissions_or_links_are_not_kept_it_is_said_before_there_is_a_key() {
        let keys = Keys::new(Path::new("/mnt/disk"));
        assert!(keys.keeps_modes(0o100_600).is_ok());
        let open = keys.keeps_modes(0o100_777).expect_err("everybody reads it");
        assert_eq!(
            open.to_string(),
            "the file system of `/mnt/disk/keys` keeps no permissions: a key there has mode 777"
        );
        let refused = |code| keys.unlinked(PathBuf::from("x"), io::Error::from_raw_os_error(code));
        for (code, says) in [(1, true), (95, true), (38, true), (28, false), (5, false)] {
            let told = refused(code).to_string().contains("no hard links");
            assert_eq!(told, says, "{code}");
        }
        assert!(open.hint().is_some_and(|hint| hint.contains("store.dir")));
    }

    #[test]
    fn what_a_killed_writer_left_goes_with_the_next_write_and_nothing_else_does() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keys = Keys::new(dir.path());
        keys.sweep();
        assert!(!dir.path().join("keys").exists(), "nothing is made for it");
        keys.create("arch").expect("a new key");
        let put = |name: &str| std::fs::write(dir.path().join("keys").join(name), "secret").expect("written");
        let strays = [
            ".arch.new-1",
            ".node.new-4194304",
            ".a.new-1.new-2",
            "..arch.next.new-7",
        ];
        let others = [
            "a.new-1.key",
            ".arch.next.key",
            ".arch.new-",
            ".arch.new-1x",
            "arch.new-1",
        ];
        strays.iter().chain(&others).for_each(|name| put(name));
        // While somebody writes nothing is taken for a stray; he may write the same.
        let writing = keys.writing().expect("the folder's lock");
        keys.create("second").expect("a new key beside a writer");
        let here = |name: &str| dir.path().join("keys").join(name).exists();
        assert!(strays.iter().all(|name| here(name)));
        drop(writing);
        keys.create("third").expect("a new key");
        let left: Vec<_> = strays.iter().filter(|name| here(name)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(others.iter().all(|name| here(name)));
        assert!(
            ["arch", "second", "third"]
                .iter()
                .all(|label| keys.load(label).is_ok())
        );
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_broken_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let keys = Keys::new(dir.path());
        keys.create("arch").expect("a new key");
        let path = dir.path().join("keys/arch.key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(
            keys.load("arch"),
            Err(KeyError::Mode { mode: 0o644, .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, b"nonsense").expect("write");
        assert!(matches!(keys.load("arch"), Err(KeyError::Malformed(_))));
        for bad in ["", "..", ".node", "a/b", "a b"] {
            assert!(matches!(keys.create(bad), Err(KeyError::Label(_))), "{bad}");
        }
    }
}
