//! Signatures of packages: out of the database where it has them, else from a mirror, and kept.
//!
//! pacman asks for one beside each package and takes it from nowhere else. A mirror may sign packages anew without
//! changing them, so one that was kept is asked for again when the database changed.
//!
//! - Invariant: what is given is an OpenPGP signature, and not one of other bytes where the package is here.
//! - Invariant: signatures come from configured mirrors only, and from this machine's own pacman.
//! - Not here: checking them with keys (`super::good`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use pacstore_dag as dag;
use pacstore_pacman::{Fit, MAX_SIGNATURE, Seal};
use pacstore_runtime::Pool;
use pacstore_store::{Origin, Store};
use pacstore_upstream::{Get, HttpError, Url};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::away::{AGAIN, ALL};
use super::incoming::{Held, arrived};
use super::index::Package;
use super::line::State;
use super::{Repository, plain, shown};
use crate::error::StoreError;
use crate::fetch::Sources;
use crate::giving::Against;
use crate::hidden::Hidden;
use crate::node::Node;
use crate::serve::{Answer, AskError, FileAnswer, Known, NAME_TTL, Redirect};
use crate::status::chain;

/// Keys of what the store remembers begin so.
const PREFIX: &str = "signature/";

/// How long one mirror may take.
const ONE: Duration = Duration::from_millis(2500);

/// What came of asking the mirrors.
#[derive(Clone, Debug)]
pub(super) enum Got {
    /// The signature, and where it came from.
    Bytes(Bytes, Origin),
    /// They have none.
    None,
    /// They do not answer.
    Failed,
    /// None can be reached now.
    Away,
}

/// What the store remembers of one that was kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    root: String,
    /// The state of the repository in which it was asked for; empty for one of pacman's cache.
    state: String,
}

/// One that was kept.
pub(super) struct KeptSignature {
    pub(super) bytes: Bytes,
    pub(super) origin: Origin,
    state: String,
}

impl Node {
    /// The signature `name` of `package`, which `state` names.
    pub(super) async fn signature_answer(
        &self,
        repository: &Arc<Repository>,
        state: &State,
        name: &str,
        package: &Package,
    ) -> Result<Answer, AskError> {
        let until = Instant::now() + ALL;
        let mut got = self.signature_bytes(repository, state, name, package).await?;
        while matches!(got, Got::Away)
            && Instant::now() + AGAIN < until
            && self.inner.repositories.away.may_pass()
        {
            tokio::time::sleep(AGAIN).await;
            let again = self.signature_bytes(repository, state, name, package);
            got = tokio::time::timeout_at(until, again)
                .await
                .unwrap_or(Ok(Got::Failed))?;
        }
        Ok(match got {
            Got::Bytes(bytes, origin) => in_memory(name, bytes, origin),
            Got::None => Answer::NotFound("no mirror has this signature".to_owned()),
            Got::Failed | Got::Away => match repository.urls(name).first() {
                Some(url) => Answer::Redirect(Redirect::new(
                    plain(url),
                    "no mirror gave this signature to this node",
                )),
                None => Answer::NotFound("no mirror gives this signature".to_owned()),
            },
        })
    }

    /// Its bytes: out of the database, kept for this state, from a mirror, or kept for another state.
    pub(super) async fn signature_bytes(
        &self,
        repository: &Arc<Repository>,
        state: &State,
        name: &str,
        package: &Package,
    ) -> Result<Got, StoreError> {
        if let Some(bytes) = &package.signature {
            return Ok(Got::Bytes(bytes.clone(), Origin::Upstream));
        }
        let kept = self.kept_signature(package).await?;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.state == state.id.to_string()) {
            return Ok(Got::Bytes(kept.bytes.clone(), kept.origin));
        }
        // One fetch a signature, however many ask.
        let cell = self
            .inner
            .repositories
            .signatures
            .cell(&place(repository, name, package));
        let fetched = cell.get_or_init(|| self.fetch_signature(repository, state, name, package));
        let got = tokio::time::timeout(ALL, fetched)
            .await
            .cloned()
            .unwrap_or(Got::Failed);
        Ok(match (got, kept) {
            // A package that did not change: the signature that was good for it still is.
            (Got::None | Got::Failed | Got::Away, Some(kept)) => Got::Bytes(kept.bytes, kept.origin),
            (got, _) => got,
        })
    }

    async fn fetch_signature(
        &self,
        repository: &Arc<Repository>,
        state: &State,
        name: &str,
        package: &Package,
    ) -> Got {
        let (mut none, mut away) = (false, false);
        for url in repository.urls(name) {
            match self.signature_from(&url, package).await {
                Ok(bytes) => {
                    self.inner.repositories.away.is_over();
                    if let Err(error) = self
                        .keep_signature(repository, state, package, bytes.clone())
                        .await
                    {
                        warn!(
                            name,
                            error = &error as &dyn std::error::Error,
                            "a signature is given but not kept"
                        );
                    }
                    return Got::Bytes(bytes, Origin::Upstream);
                }
                Err(why) => {
                    none |= matches!(&why, NoSignature::Http(HttpError::Status { code: 404 | 410, .. }));
                    away |= matches!(
                        &why,
                        NoSignature::Http(HttpError::Connect { .. } | HttpError::NoAnswer { .. })
                    );
                    debug!(
                        url = shown(&url),
                        error = chain(&why),
                        "a mirror gives no signature"
                    );
                }
            }
        }
        match (none, away) {
            (true, _) => Got::None,
            (false, true) => Got::Away,
            (false, false) => Got::Failed,
        }
    }

    async fn signature_from(&self, url: &Url, package: &Package) -> Result<Bytes, NoSignature> {
        let mut get = Get::new(url);
        get.max_len = Some(MAX_SIGNATURE as u64);
        get.deadline = Some(ONE);
        let mut response = self.inner.http.get(&get).await?;
        let bytes = response.bytes().await?;
        let seal = Seal::read(&bytes).ok_or(NoSignature::Garbage)?;
        let (store, sha256) = (self.inner.store.clone(), package.sha256);
        let fit = self
            .inner
            .tasks
            .blocking(Pool::Hash, move || fit(&store, &seal, &sha256));
        match fit.await.map_err(|_| NoSignature::Stopping)?? {
            Fit::Other => Err(NoSignature::Other),
            Fit::Fits | Fit::Unknown => Ok(bytes),
        }
    }

    pub(super) async fn kept_signature(
        &self,
        package: &Package,
    ) -> Result<Option<KeptSignature>, StoreError> {
        let (store, sha256) = (self.inner.store.clone(), package.sha256);
        self.disk(move || {
            let Some((root, state)) = kept(&store, &sha256)? else {
                return Ok(None);
            };
            let Some(bytes) = store.block(&root)? else {
                return Ok(None);
            };
            let ours = store.file(&root)?.is_some_and(|info| info.by_origin.disk > 0);
            let origin = if ours { Origin::Disk } else { Origin::Upstream };
            Ok(Some(KeptSignature { bytes, origin, state }))
        })
        .await
    }

    async fn keep_signature(
        &self,
        repository: &Repository,
        state: &State,
        package: &Package,
        bytes: Bytes,
    ) -> Result<(), StoreError> {
        let (inner, private) = (Arc::clone(&self.inner), !repository.config.public);
        let (sha256, state) = (package.sha256, state.id.to_string());
        self.disk(move || {
            let hidden = private.then_some(&*inner.privacy.hidden);
            keep(&inner.store, hidden, &sha256, &bytes, (Origin::Upstream, state))
        })
        .await
    }
}

/// The signature of this package is kept. Blocks on the disk.
pub(crate) fn has_signature(store: &Store, package: &[u8; 32]) -> Result<bool, StoreError> {
    match kept(store, package)? {
        Some((root, _)) => Ok(store.file(&root)?.is_some()),
        None => Ok(false),
    }
}

/// Keeps a signature that lies beside the package in pacman's cache; `false` if it is none, or of other bytes. It may
/// be older than the one that mirrors have, so those are asked first. Blocks on the disk.
pub(crate) fn adopt_signature(
    store: &Store,
    private: Option<&Hidden>,
    package: &[u8; 32],
    bytes: &[u8],
) -> Result<bool, StoreError> {
    let Some(seal) = Seal::read(bytes) else {
        return Ok(false);
    };
    if fit(store, &seal, package)? == Fit::Other {
        return Ok(false);
    }
    keep(store, private, package, bytes, (Origin::Disk, String::new()))?;
    Ok(true)
}

/// Whether the signature can be of the package, as far as that is here.
fn fit(store: &Store, seal: &Seal, package: &[u8; 32]) -> Result<Fit, StoreError> {
    let file = store
        .file_by_sha256(package)?
        .map(|info| crate::read::open_shared(store, &info.root));
    let Some(file) = file.transpose()?.flatten() else {
        return Ok(Fit::Unknown);
    };
    let open = || Ok(std::io::BufReader::new(FromStart(&file.file, 0)));
    Ok(seal.fit(open).unwrap_or(Fit::Unknown))
}

/// The root of the signature that was kept, and its state.
fn kept(store: &Store, package: &[u8; 32]) -> Result<Option<(Cid, String)>, StoreError> {
    let Some(saved) = store.state_get(&key(package))? else {
        return Ok(None);
    };
    let Ok(kept) = serde_json::from_slice::<Kept>(&saved) else {
        return Ok(None);
    };
    let root = Cid::try_from(kept.root.as_str()).ok();
    Ok(root.map(|root| (root, kept.state)))
}

fn keep(
    store: &Store,
    private: Option<&Hidden>,
    package: &[u8; 32],
    bytes: &[u8],
    (origin, state): (Origin, String),
) -> Result<(), StoreError> {
    let cid = dag::raw_cid(dag::HashKind::Sha2_256, bytes);
    // Before anything is on the disk.
    let room = store.reserve(bytes.len() as u64)?;
    let file = arrived(store, bytes).map_err(|error| StoreError::Disk(cid, error))?;
    let root = file.dag.root.to_string();
    file.from(origin).keep(store, private, Held::Within(room))?;
    let saved = serde_json::to_vec(&Kept { root, state }).unwrap_or_default();
    Ok(store.state_put(&[(&key(package), Some(&saved))])?)
}

/// Why a mirror gave no signature.
#[derive(Debug, thiserror::Error)]
enum NoSignature {
    #[error("no answer of use")]
    Http(#[from] HttpError),
    #[error("what came is no signature")]
    Garbage,
    #[error("it is of other bytes than the package that is here")]
    Other,
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    #[error("the node is stopping")]
    Stopping,
}

/// Reads a shared file from its start, without moving anybody else's place in it.
pub(super) struct FromStart<'a>(pub(super) &'a std::fs::File, pub(super) u64);

impl std::io::Read for FromStart<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.0, out, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// Forgets signatures that were evicted. Blocks on the disk.
pub(super) fn prune(store: &Store) -> Result<(), StoreError> {
    let mut gone = Vec::new();
    for (key, saved) in store.state_list(PREFIX)? {
        let kept: Option<Kept> = serde_json::from_slice(&saved).ok();
        let root = kept.and_then(|kept| Cid::try_from(kept.root.as_str()).ok());
        let here = match root {
            Some(root) => store.file(&root)?.is_some(),
            None => false,
        };
        if !here {
            gone.push(key);
        }
    }
    let entries: Vec<(&str, Option<&[u8]>)> = gone.iter().map(|key| (&**key, None)).collect();
    if entries.is_empty() {
        return Ok(());
    }
    Ok(store.state_put(&entries)?)
}

fn key(package: &[u8; 32]) -> String {
    format!("{PREFIX}{}", dag::cid_from_sha256(*package))
}

/// Where all who want one signature meet: that of these bytes, which another database may have others of under the same name.
fn place(repository: &Repository, name: &str, package: &Package) -> Cid {
    let (prefix, sha256) = (
        super::prefix(&repository.config),
        dag::cid_from_sha256(package.sha256),
    );
    let text = format!("{prefix}{name} {sha256}");
    dag::raw_cid(dag::HashKind::Sha2_256, text.as_bytes())
}

fn in_memory(name: &str, bytes: Bytes, origin: Origin) -> Answer {
    let root = dag::raw_cid(dag::HashKind::Sha2_256, &bytes);
    Answer::File(Box::new(FileAnswer {
        root,
        len: bytes.len() as u64,
        name: name.as_bytes().to_vec(),
        last_modified: None,
        roots: vec![root],
        ttl: Some(NAME_TTL),
        sources: Sources::default(),
        known: Known::Bytes(bytes, origin),
        against: Against::Signature,
    }))
}
