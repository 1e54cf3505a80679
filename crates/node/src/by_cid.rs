//! What a CID gets that somebody named, with no mirror around it.
//!
//! Blocks of directories, and the root of a file, are asked of peers until the path is known; the file's bytes come
//! like those of any other file.
//!
//! - Invariant: what is not part of a configured mirror is asked of nobody, unless the node is open for it.
//! - Not here: paths of mirrors (`crate::serve`), fetching (`crate::fetch`).

use cid::Cid;
use pacstore_dag as dag;
use pacstore_runtime::Pool;

use crate::fetch::{AskPeers, Sources};
use crate::giving::Against;
use crate::mirror::{Found, FoundKind, look_up};
use crate::node::Node;
use crate::serve::{Answer, AskError, FileAnswer, Known};

impl Node {
    /// What `path` below `root` is, for `/ipfs/`: only what is configured, unless open.
    ///
    /// # Errors
    /// [`AskError`] if what is on disk cannot be read.
    pub async fn ask_cid(&self, root: &Cid, path: &[Vec<u8>]) -> Result<Answer, AskError> {
        self.by_cid(root, path, self.inner.config.open).await
    }

    /// What `path` below `root` is, whatever is configured: for the daemon's own socket.
    ///
    /// # Errors
    /// [`AskError`] if what is on disk cannot be read.
    pub async fn ask_any(&self, root: &Cid, path: &[Vec<u8>]) -> Result<Answer, AskError> {
        self.by_cid(root, path, true).await
    }

    async fn by_cid(&self, root: &Cid, path: &[Vec<u8>], any: bool) -> Result<Answer, AskError> {
        let store = self.inner.store.clone();
        let (wanted, segments) = (*root, path.to_vec());
        let mut met = false;
        for _ in 0..=dag::MAX_TREE_DEPTH * (path.len() + 1) {
            let (store, segments) = (store.clone(), segments.clone());
            let looked = self
                .inner
                .tasks
                .blocking(Pool::Disk, move || look_up(&store, &wanted, &segments));
            let missing = match looked.await.map_err(|_| AskError::Stopping)? {
                Ok(Some(found)) => match self.cid_answer(found, path) {
                    // The shards of a large directory are blocks of their own.
                    Err(AskError::Directory(dag::ReadError::Missing(shards))) => shards,
                    Err(AskError::Directory(error)) if !matches!(error, dag::ReadError::Source(_)) => {
                        return Ok(Answer::NotFound(format!("no folder that can be listed: {error}")));
                    }
                    answer => return answer,
                },
                Ok(None) => return Ok(Answer::NotFound("no such path".to_owned())),
                Err(dag::ReadError::Missing(missing)) => missing,
                Err(error @ dag::ReadError::Source(_)) => return Err(error.into()),
                // Its maker's fault, or it is not UnixFS at all.
                Err(error) => return Ok(Answer::NotFound(format!("no file or folder: {error}"))),
            };
            if !any {
                return Ok(Answer::NotFound("not part of a configured mirror".to_owned()));
            }
            if let Some(other) = missing.iter().find(|cid| !is_known(cid)) {
                let why = format!(
                    "blocks like {other} are not fetched: its hash function is none that is used here"
                );
                return Ok(Answer::NotFound(why));
            }
            let ask = self.strangers(root);
            let found = match missing[..] {
                // The root itself is a file, and only its block tells how long it is.
                [one] if one.codec() == dag::RAW => match self.inner.fetch.raw(&one, ask).await {
                    Ok(small) => {
                        let found = Found {
                            cid: one,
                            roots: vec![one],
                            kind: FoundKind::File(small.data.len() as u64),
                        };
                        return self.cid_answer(found, path);
                    }
                    Err(error) => Err(error),
                },
                _ => self.inner.fetch.nodes(&missing, ask).await.map(drop),
            };
            if let Err(error) = found {
                if error.is_about_keeping() {
                    return Err(AskError::Keep(Box::new(error)));
                }
                // Nobody who is connected has it: somebody may announce it.
                if met || ask != AskPeers::Everyone || self.meet(root).await == 0 {
                    return Ok(Answer::NotFound("no peer has it".to_owned()));
                }
                met = true;
            }
        }
        Ok(Answer::NotFound("too deep".to_owned()))
    }

    fn cid_answer(&self, found: Found, path: &[Vec<u8>]) -> Result<Answer, AskError> {
        let FoundKind::File(len) = found.kind else {
            return Ok(Answer::Directory(self.directory(&found, None)?));
        };
        Ok(Answer::File(Box::new(FileAnswer {
            root: found.cid,
            len,
            name: path.last().cloned().unwrap_or_default(),
            last_modified: None,
            sources: Sources {
                len: (found.cid.codec() == dag::RAW).then_some(len),
                profile: None,
                peers: self.strangers(&found.cid),
                upstreams: Vec::new(),
            },
            roots: found.roots,
            ttl: None,
            known: Known::Tree,
            against: Against::Cid,
        })))
    }

    /// Who may be asked for a CID that somebody named: nobody for what belongs to a private repository, which
    /// does not become public by being asked for, either (`crate::open`).
    fn strangers(&self, cid: &Cid) -> AskPeers {
        if self.inner.privacy.hidden.hides(cid) {
            AskPeers::Nobody
        } else if self.inner.privacy.is_closed() {
            AskPeers::Friends
        } else {
            AskPeers::Everyone
        }
    }
}

/// Blocks of other hash functions are neither asked for nor kept.
fn is_known(cid: &Cid) -> bool {
    dag::HashKind::from_code(cid.hash().code()).is_some() && cid.hash().size() == 32
}
