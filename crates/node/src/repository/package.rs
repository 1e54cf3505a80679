//! Opening a package of which the database says the SHA-256.
//!
//! On disk it is found by that. Up to one leaf the SHA-256 is its CID, so peers can be asked for it as for any
//! file. A larger one has no CID that we could know: see `super::whole`.
//!
//! - Invariant: what a repository that is not public names is hidden from peers before it comes in, unless it was
//!   here already.
//! - Not here: which package (`super::ask`).

use std::sync::Arc;
use std::time::Duration;

use pacstore_dag as dag;
use pacstore_store::OpenFile;

use super::Repository;
use super::hold::HOLDS;
use super::index::Package;
use super::line::State;
use crate::error::StoreError;
use crate::fetch::{FetchError, Opened};
use crate::node::Node;
use crate::serve::FileAnswer;

/// Files up to so many bytes are one leaf of the default profile.
pub(super) const ONE_LEAF: u64 = 1 << 20;

/// A package file of a repository without importer.
#[derive(Debug)]
pub(crate) struct PackageOf {
    pub(super) repository: Arc<Repository>,
    pub(super) name: String,
    pub(super) sha256: [u8; 32],
    /// As this state of the repository names it.
    pub(super) entry: Package,
    pub(super) state: Arc<State>,
    /// It is one leaf.
    pub(super) small: bool,
    /// How long who asks waits for it.
    pub(super) patience: Duration,
    /// How often it may be sent back to us, if it can be.
    pub(super) holds: Option<u8>,
}

impl PackageOf {
    /// It is one leaf, found by its CID.
    pub(crate) fn is_small(&self) -> bool {
        self.small
    }

    /// The same, for somebody who waits for so long.
    pub(crate) fn within(&self, patience: Duration) -> Self {
        Self {
            repository: Arc::clone(&self.repository),
            name: self.name.clone(),
            entry: self.entry.clone(),
            state: Arc::clone(&self.state),
            patience,
            ..*self
        }
    }

    /// How many times who asks was sent back to us.
    pub(crate) fn times_held(&self) -> u8 {
        self.holds.map_or(0, |holds| HOLDS.saturating_sub(holds))
    }

    /// The same, for somebody who takes redirects as pacman does, and was sent back to us so many times.
    pub(crate) fn held(&self, times: u8) -> Self {
        Self {
            holds: Some(HOLDS.saturating_sub(times)),
            ..self.within(self.patience)
        }
    }
}

impl Node {
    /// Opens `package`, which `answer` is about.
    pub(crate) async fn open_package(
        &self,
        answer: &FileAnswer,
        package: &Arc<PackageOf>,
    ) -> Result<Opened, FetchError> {
        match &package.repository.config.keyring {
            None => self.open_known(answer, package).await,
            Some(keyring) => Box::pin(self.well_signed(answer, package, keyring)).await,
        }
    }

    /// The same, by what the database says of it alone.
    pub(super) async fn open_known(
        &self,
        answer: &FileAnswer,
        package: &Arc<PackageOf>,
    ) -> Result<Opened, FetchError> {
        let root = answer.root;
        if package.small
            && !self.inner.privacy.hidden.is_listed(&root)
            && let Some(file) = self.inner.store.opened(&root)
        {
            return Ok(Opened::Stored(file));
        }
        if let Some(file) = self.stored_package(package).await.map_err(|e| failed(&root, e))? {
            return Ok(Opened::Stored(file));
        }
        if !package.small {
            return self.open_whole(answer, package).await;
        }
        if !package.repository.config.public {
            let hidden = Arc::clone(&self.inner.privacy.hidden);
            let listed = self.disk(move || hidden.hide_leaf(&root)).await;
            listed.map_err(|error| failed(&root, error))?;
        }
        self.inner.fetch.open(&root, &answer.sources).await
    }

    /// pacman is sent to a mirror for it.
    pub(crate) fn is_in_pacmans_cache_soon(&self, package: &PackageOf) {
        let board = &self.inner.repositories.redirected;
        board.put(&package.name, Some(package.sha256));
    }

    /// The package if it is on disk, whatever its root.
    pub(super) async fn stored_package(
        &self,
        package: &Arc<PackageOf>,
    ) -> Result<Option<Arc<OpenFile>>, StoreError> {
        let (inner, package) = (Arc::clone(&self.inner), Arc::clone(package));
        self.disk(move || {
            let Some(info) = inner.store.file_by_sha256(&package.sha256)? else {
                return Ok(None);
            };
            if package.repository.config.public {
                crate::hidden::show(&inner.privacy.hidden, &info.root);
            }
            Ok(crate::read::open_shared(&inner.store, &info.root)?)
        })
        .await
    }
}

/// The disk failed.
pub(super) fn failed(root: &dag::Cid, error: StoreError) -> FetchError {
    FetchError::Store {
        cid: *root,
        source: Arc::new(error),
    }
}
