//! Is a package signed by a key of its repository's keyring?
//!
//! A database without signature, as Arch's, is no more than a mirror's word: of such a package it counts who signed it.
//! pacman checks that for itself; here it is checked before a package is given, so that what is fetched ahead and what
//! is given to a whole house is no less sure than what pacman gets without us.
//!
//! - Invariant: where a keyring is configured, no byte of a package leaves whose signature is not good by it.
//! - Invariant: a package that has no signature anywhere is pacman's to judge.
//! - Not here: databases (`super::pair`), where a signature comes from (`super::signature`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use cid::Cid;
use pacstore_dag as dag;
use pacstore_import::ReadKeyring;
use pacstore_pacman::openpgp::Verdict;
use pacstore_runtime::Pool;
use pacstore_store::{Origin, Store};
use tracing::warn;

use super::package::{PackageOf, failed};
use super::signature::{FromStart, Got};
use super::unsound::Unsound;
use crate::config::RepositoryConfig;
use crate::error::StoreError;
use crate::fetch::{FetchError, Opened};
use crate::node::Node;
use crate::serve::FileAnswer;
use crate::status::chain;

/// Good answers that are remembered; then all are forgotten.
const MOST: usize = 50_000;

/// Files of a keyring's folder that are looked at for changes.
const MAX_FILES: usize = 1000;

/// Name, time of change, length.
type Facts = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// What a repository knows of the signatures of its packages.
#[derive(Debug)]
pub(super) struct Judge {
    keyring: Mutex<Option<(Facts, Arc<ReadKeyring>)>>,
    /// Package, signature and keyring in one.
    good: Mutex<HashSet<Cid>>,
    /// Packages that were not good.
    pub(super) unsound: Unsound,
}

impl Judge {
    /// With what the store remembers. Blocks on the disk.
    pub(super) fn load(config: &RepositoryConfig, store: Store) -> Result<Self, StoreError> {
        Ok(Self {
            keyring: Mutex::default(),
            good: Mutex::default(),
            unsound: Unsound::load(config, store)?,
        })
    }

    /// The keyring at `path`, read anew if it changed. Blocks on the disk.
    fn keyring(&self, path: &Path) -> Result<Arc<ReadKeyring>, pacstore_import::KeyringReadError> {
        let now = facts(path);
        let mut held = self.keyring.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, keyring)) = held.as_ref()
            && *of == now
        {
            return Ok(Arc::clone(keyring));
        }
        let keyring = Arc::new(pacstore_import::read_keyring(path)?);
        *held = Some((now, Arc::clone(&keyring)));
        Ok(keyring)
    }

    fn is_known(&self, key: &Cid) -> bool {
        self.good
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(key)
    }

    fn note_good(&self, key: Cid) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= MOST {
            good.clear();
        }
        good.insert(key);
    }
}

/// What tells one state of a keyring from the next.
fn facts(path: &Path) -> Facts {
    let of = |path: PathBuf| {
        let meta = fs_err::metadata(&path).ok()?;
        Some((path, meta.modified().ok(), meta.len()))
    };
    let Ok(entries) = fs_err::read_dir(path) else {
        return of(path.to_owned()).into_iter().collect();
    };
    let mut found: Facts = entries
        .take(MAX_FILES)
        .filter_map(|entry| of(entry.ok()?.path()))
        .collect();
    found.sort();
    found
}

/// Why a signature was not checked.
#[derive(Debug, thiserror::Error)]
enum NotChecked {
    #[error("cannot check its signature")]
    Keyring(#[from] pacstore_import::KeyringReadError),
    #[error("cannot read it")]
    Read(#[from] std::io::Error),
    #[error("the node is stopping")]
    Stopping,
}

impl Node {
    /// `opened`, if the signature of it is good, or there is none to be had.
    pub(super) async fn well_signed(
        &self,
        answer: &FileAnswer,
        package: &Arc<PackageOf>,
        keyring: &Path,
    ) -> Result<Opened, FetchError> {
        // pacman asks for the signature next: it comes meanwhile.
        let (opened, signature) = tokio::join!(
            Box::pin(self.open_known(answer, package)),
            Box::pin(self.any_signature(package))
        );
        let (opened, signature) = (opened?, signature.map_err(|error| failed(&answer.root, error))?);
        let bytes = match signature {
            Got::Bytes(bytes, _) => bytes,
            Got::None | Got::Failed | Got::Away => return Ok(opened),
        };
        let trouble = match self.verdict(package, keyring, &opened, bytes).await {
            Ok(Verdict::Good(_)) => None,
            Ok(verdict) => Some(verdict.to_string()),
            Err(NotChecked::Stopping) => return Err(FetchError::Stopping),
            Err(error) => Some(chain(&error)),
        };
        self.remember(package, trouble.clone()).await;
        match trouble {
            None => Ok(opened),
            Some(why) => Err(self.elsewhere(answer, package, &why)),
        }
    }

    async fn verdict(
        &self,
        package: &Arc<PackageOf>,
        keyring: &Path,
        opened: &Opened,
        signature: Bytes,
    ) -> Result<Verdict, NotChecked> {
        let verdict = self.judge(package, keyring, opened, signature.clone()).await?;
        if verdict.is_good() {
            return Ok(verdict);
        }
        // A newer one may be better: keys are replaced, packages signed anew.
        match self.newer_signature(package, &signature).await {
            Some(newer) => self.judge(package, keyring, opened, newer).await,
            None => Ok(verdict),
        }
    }

    /// Writes down that a package is given, or why not: it counts as missing then, here or not.
    async fn remember(&self, package: &Arc<PackageOf>, trouble: Option<String>) {
        let unsound = &package.repository.judge.unsound;
        if trouble.is_none() && !unsound.has(&package.sha256) {
            return;
        }
        if let Some(why) = &trouble {
            let name = &package.name;
            warn!(name, why, "a package is not given: its signature is not good");
        }
        let package = Arc::clone(package);
        let written = self.disk(move || {
            let unsound = &package.repository.judge.unsound;
            match &trouble {
                None => unsound.forget(&package.sha256),
                Some(why) => unsound.note(package.sha256, &package.name, why),
            }
        });
        if let Err(error) = written.await {
            warn!(
                error = &error as &dyn std::error::Error,
                "which packages are not given is not written down"
            );
        }
        self.inner.machine.look_now();
    }

    async fn judge(
        &self,
        package: &Arc<PackageOf>,
        keyring: &Path,
        opened: &Opened,
        signature: Bytes,
    ) -> Result<Verdict, NotChecked> {
        let (stored, data) = match opened {
            Opened::Stored(file) => (Some(Arc::clone(file)), Bytes::new()),
            Opened::Small(small) => (None, small.data.clone()),
            Opened::Arriving(_) | Opened::Through(_) => {
                return Ok(Verdict::Malformed("the package is not here whole"));
            }
        };
        let (package, keyring) = (Arc::clone(package), keyring.to_owned());
        let now = self.inner.clock.unix_seconds();
        let judged = self.inner.tasks.blocking(Pool::Hash, move || {
            let judge = &package.repository.judge;
            let keyring = judge.keyring(&keyring)?;
            let key = key(&package.sha256, &signature, &keyring.digest);
            if judge.is_known(&key) {
                return Ok(Verdict::Good(pacstore_pacman::openpgp::Signed {
                    key: String::new(),
                    made: 0,
                    key_until: None,
                }));
            }
            let verdict = match stored {
                Some(file) => {
                    let mut bytes = std::io::BufReader::new(FromStart(&file.file, 0));
                    keyring.keys.verify(&signature, &mut bytes, now)?
                }
                None => keyring.keys.verify(&signature, &mut &data[..], now)?,
            };
            if verdict.is_good() {
                judge.note_good(key);
            }
            Ok(verdict)
        });
        judged.await.map_err(|_| NotChecked::Stopping)?
    }

    /// A signature of the package: of the database, or that was kept, whatever state it was for, or from a mirror.
    async fn any_signature(&self, package: &PackageOf) -> Result<Got, StoreError> {
        if let Some(bytes) = &package.entry.signature {
            return Ok(Got::Bytes(bytes.clone(), Origin::Upstream));
        }
        if let Some(kept) = self.kept_signature(&package.entry).await? {
            return Ok(Got::Bytes(kept.bytes, kept.origin));
        }
        let name = format!("{}.sig", package.name);
        self.signature_bytes(&package.repository, &package.state, &name, &package.entry)
            .await
    }

    /// The one of the state now, if it is another than `old`.
    async fn newer_signature(&self, package: &PackageOf, old: &Bytes) -> Option<Bytes> {
        if package.entry.signature.is_some() {
            return None;
        }
        let name = format!("{}.sig", package.name);
        let got = self
            .signature_bytes(&package.repository, &package.state, &name, &package.entry)
            .await;
        match got {
            Ok(Got::Bytes(bytes, _)) if bytes != *old => Some(bytes),
            Ok(_) | Err(_) => None,
        }
    }
}

fn key(package: &[u8; 32], signature: &[u8], keyring: &[u8; 32]) -> Cid {
    dag::raw_cid(dag::HashKind::Sha2_256, &[package, signature, keyring].concat())
}
