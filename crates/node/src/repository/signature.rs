//! Signatures of packages: out of the database where it has them, else from a mirror, and kept.
//!
//! pacman asks for one beside each package and takes it from nowhere else. A mirror may sign packages anew without
//! changing them, so one that was kept is asked for again when the database changed.
//!
//! - Invariant: what is given is an OpenPGP signature, and not one of other bytes where the package is here.
//! - Invariant: signatures come from configured mirrors only.
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
use tracing::{debug, warn};

use super::incoming::arrived;
use super::index::Package;
use super::line::State;
use super::{Repository, plain, shown};
use crate::error::StoreError;
use crate::fetch::Sources;
use crate::giving::Against;
use crate::node::Node;
use crate::serve::{Answer, AskError, FileAnswer, Known, NAME_TTL, Redirect};
use crate::status::chain;

/// Keys of what the store remembers begin so.
const PREFIX: &str = "signature/";

/// How long one mirror may take.
const ONE: Duration = Duration::from_millis(2500);

/// How long all may take; pacman waits 10 s.
const ALL: Duration = Duration::from_secs(7);

/// What came of asking the mirrors.
#[derive(Clone, Debug)]
pub(super) enum Got {
    /// The signature.
    Bytes(Bytes),
    /// They have none.
    None,
    /// They do not answer.
    Failed,
}

/// What the store remembers of one that was kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    root: String,
    /// The state of the repository in which it was asked for.
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
        Ok(
            match self.signature_bytes(repository, state, name, package).await? {
                Got::Bytes(bytes) => in_memory(name, bytes),
                Got::None => Answer::NotFound("no mirror has this signature".to_owned()),
                Got::Failed => match repository.urls(name).first() {
                    Some(url) => Answer::Redirect(Redirect::new(
                        plain(url),
                        "no mirror gave this signature to this node",
                    )),
                    None => Answer::NotFound("no mirror gives this signature".to_owned()),
                },
            },
        )
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
            return Ok(Got::Bytes(bytes.clone()));
        }
        let kept = self.kept_signature(package).await?;
        if let Some((bytes, _)) = kept.as_ref().filter(|(_, of)| *of == state.id.to_string()) {
            return Ok(Got::Bytes(bytes.clone()));
        }
        // One fetch a signature, however many ask.
        let cell = self.inner.repositories.signatures.cell(&place(repository, name));
        let fetched = cell.get_or_init(|| self.fetch_signature(repository, state, name, package));
        let got = tokio::time::timeout(ALL, fetched)
            .await
            .cloned()
            .unwrap_or(Got::Failed);
        Ok(match (got, kept) {
            // A package that did not change: the signature that was good for it still is.
            (Got::None | Got::Failed, Some((bytes, _))) => Got::Bytes(bytes),
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
        let mut none = false;
        for url in repository.urls(name) {
            match self.signature_from(&url, package).await {
                Ok(bytes) => {
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
                    return Got::Bytes(bytes);
                }
                Err(why) => {
                    none |= matches!(&why, NoSignature::Http(HttpError::Status { code: 404 | 410, .. }));
                    debug!(
                        url = shown(&url),
                        error = chain(&why),
                        "a mirror gives no signature"
                    );
                }
            }
        }
        if none { Got::None } else { Got::Failed }
    }

    async fn signature_from(&self, url: &Url, package: &Package) -> Result<Bytes, NoSignature> {
        let mut get = Get::new(url);
        get.max_len = Some(MAX_SIGNATURE as u64);
        get.deadline = Some(ONE);
        let mut response = self.inner.http.get(&get).await?;
        let bytes = response.bytes().await?;
        let seal = Seal::read(&bytes).ok_or(NoSignature::Garbage)?;
        let (store, sha256) = (self.inner.store.clone(), package.sha256);
        let fit = self.inner.tasks.blocking(Pool::Hash, move || {
            let file = store
                .file_by_sha256(&sha256)?
                .map(|info| store.open_file(&info.root));
            let Some(file) = file.transpose()?.flatten() else {
                return Ok(Fit::Unknown);
            };
            let open = || Ok(std::io::BufReader::new(FromStart(&file.file, 0)));
            Ok::<_, StoreError>(seal.fit(open).unwrap_or(Fit::Unknown))
        });
        match fit.await.map_err(|_| NoSignature::Stopping)?? {
            Fit::Other => Err(NoSignature::Other),
            Fit::Fits | Fit::Unknown => Ok(bytes),
        }
    }

    pub(super) async fn kept_signature(
        &self,
        package: &Package,
    ) -> Result<Option<(Bytes, String)>, StoreError> {
        let (store, key) = (self.inner.store.clone(), key(&package.sha256));
        self.disk(move || {
            let Some(saved) = store.state_get(&key)? else {
                return Ok(None);
            };
            let Ok(kept) = serde_json::from_slice::<Kept>(&saved) else {
                return Ok(None);
            };
            let Ok(root) = Cid::try_from(kept.root.as_str()) else {
                return Ok(None);
            };
            Ok(store.block(&root)?.map(|bytes| (bytes, kept.state)))
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
        let (key, state) = (key(&package.sha256), state.id.to_string());
        self.disk(move || {
            let cid = dag::raw_cid(dag::HashKind::Sha2_256, &bytes);
            let file = arrived(&inner.store, &bytes).map_err(|error| StoreError::Disk(cid, error))?;
            let root = file.dag.root.to_string();
            let hidden = private.then_some(&*inner.privacy.hidden);
            file.keep(&inner.store, hidden, None)?;
            let saved = serde_json::to_vec(&Kept { root, state }).unwrap_or_default();
            Ok(inner.store.state_put(&[(&key, Some(&saved))])?)
        })
        .await
    }
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

/// Where all who want one signature meet.
fn place(repository: &Repository, name: &str) -> Cid {
    let text = format!("{}{name}", super::prefix(&repository.config));
    dag::raw_cid(dag::HashKind::Sha2_256, text.as_bytes())
}

fn in_memory(name: &str, bytes: Bytes) -> Answer {
    let root = dag::raw_cid(dag::HashKind::Sha2_256, &bytes);
    Answer::File(Box::new(FileAnswer {
        root,
        len: bytes.len() as u64,
        name: name.as_bytes().to_vec(),
        last_modified: None,
        roots: vec![root],
        ttl: Some(NAME_TTL),
        sources: Sources::default(),
        known: Known::Bytes(bytes, Origin::Upstream),
        against: Against::Signature,
    }))
}
