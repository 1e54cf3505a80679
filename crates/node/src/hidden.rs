//! Files of private repositories: whose blocks no peer gets.
//!
//! A block does not tell which repository it belongs to, so each block of a private file is listed by its digest.
//! A file that was here before a private repository named it stays as it was; one that a public head or a public
//! repository names later is taken off the list, because then it is no secret that it exists.
//!
//! - Invariant: a file is on the list, on disk and in memory, before its first byte can be asked for.
//! - Invariant: costs a want one look into a table in memory.
//! - Not here: private heads, whose blocks go to friends (`crate::blocks`).
//! - Read first: `docs/decisions/`, "Files of private repositories".

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use cid::Cid;
use pacstore_dag as dag;
use pacstore_store::Store;
use tracing::warn;

use crate::error::StoreError;

const PREFIX: &str = "hidden/";

/// The list. How many files hold a block stands beside its digest.
#[derive(Debug)]
pub(crate) struct Hidden {
    store: Store,
    blocks: RwLock<HashMap<Box<[u8]>, u32>>,
    roots: RwLock<HashMap<Cid, Vec<Box<[u8]>>>>,
}

impl Hidden {
    /// The list as the store remembers it. What is not on disk any more is forgotten.
    pub(crate) fn load(store: Store) -> Result<Self, StoreError> {
        let hidden = Self {
            store,
            blocks: RwLock::default(),
            roots: RwLock::default(),
        };
        let mut gone = Vec::new();
        for (key, _) in hidden.store.state_list(PREFIX)? {
            let Some(root) = key.strip_prefix(PREFIX).and_then(|text| Cid::try_from(text).ok()) else {
                gone.push(key);
                continue;
            };
            match hidden.store.dag_of(&root)? {
                Some(file) => hidden.list(&file),
                // A file on its way has blocks, though it is not whole.
                None if hidden.store.block_len(&root)?.is_some() => hidden.list(&leaf(&root)),
                None => gone.push(key),
            }
        }
        let entries: Vec<(&str, Option<&[u8]>)> = gone.iter().map(|key| (&**key, None)).collect();
        if !entries.is_empty() {
            hidden.store.state_put(&entries)?;
        }
        Ok(hidden)
    }

    /// Puts a file on the list, before it comes in. Blocks on the disk.
    pub(crate) fn hide(&self, file: &dag::FileDag) -> Result<(), StoreError> {
        if self.is_listed(&file.root) || self.store.file(&file.root)?.is_some() {
            return Ok(());
        }
        self.list(file);
        Ok(self.store.state_put(&[(&key(&file.root), Some(b""))])?)
    }

    /// The same for a file of one leaf, of which only the root is known.
    pub(crate) fn hide_leaf(&self, root: &Cid) -> Result<(), StoreError> {
        self.hide(&leaf(root))
    }

    /// Takes a file off the list. Blocks on the disk if it is there.
    pub(crate) fn show(&self, root: &Cid) -> Result<(), StoreError> {
        if !self.is_listed(root) {
            return Ok(());
        }
        self.store.state_put(&[(&key(root), None)])?;
        let digests = self
            .roots
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(root)
            .unwrap_or_default();
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        for digest in digests {
            match blocks.get_mut(&digest) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(blocks.remove(&digest)),
            }
        }
        Ok(())
    }

    /// The file with this root is on the list.
    pub(crate) fn is_listed(&self, root: &Cid) -> bool {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.contains_key(root)
    }

    /// No peer may have this block, or learn that it is here.
    pub(crate) fn hides(&self, block: &Cid) -> bool {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        blocks.contains_key(block.hash().digest())
    }

    fn list(&self, file: &dag::FileDag) {
        let mut digests: Vec<Box<[u8]>> = vec![file.root.hash().digest().into()];
        digests.extend(file.leaves.iter().map(|leaf| leaf.cid.hash().digest().into()));
        digests.extend(file.nodes.iter().map(|node| node.cid.hash().digest().into()));
        digests.sort_unstable();
        digests.dedup();
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        if roots.contains_key(&file.root) {
            return;
        }
        for digest in &digests {
            *blocks.entry(digest.clone()).or_default() += 1;
        }
        roots.insert(file.root, digests);
    }
}

/// Shows what a public head or repository names; the log says if that cannot be written down.
pub(crate) fn show(hidden: &Hidden, root: &Cid) {
    if let Err(error) = hidden.show(root) {
        warn!(%root, error = &error as &dyn std::error::Error, "a public file stays hidden from peers");
    }
}

fn key(root: &Cid) -> String {
    format!("{PREFIX}{root}")
}

fn leaf(root: &Cid) -> dag::FileDag {
    crate::fetch::one_leaf(root, 0)
}

#[cfg(test)]
mod tests {
    use pacstore_dag::{FileBuilder, Profile};
    use pacstore_store::{ByOrigin, Intake, NewFile, Options, Origin};

    use super::*;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(&dir.join("store"), Options::new(1 << 30)).expect("a store")
    }

    fn built(data: &[u8]) -> dag::FileDag {
        let mut builder = FileBuilder::new(&Profile::UNIXFS_V1_2025);
        builder.push(data);
        builder.finish()
    }

    fn put(dir: &std::path::Path, store: &Store, data: &[u8]) {
        let path = dir.join("file");
        fs_err::write(&path, data).expect("written");
        let dag = built(data);
        let origin = ByOrigin::all(Origin::Upstream, dag.len);
        let mut batch = store.batch();
        let file = NewFile {
            path: &path,
            how: Intake::Move,
            dag: &dag,
            sha256: None,
            origin,
        };
        batch.add_file(file).expect("taken");
        batch.commit().expect("kept");
    }

    /// Every block is hidden, over a restart too, until something public names the file.
    #[test]
    fn all_blocks_of_a_private_file_are_hidden_until_it_is_public() {
        let dir = tempfile::tempdir().expect("a folder");
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let file = built(&data);
        let hidden = Hidden::load(store(dir.path())).expect("loaded");
        hidden.hide(&file).expect("hidden");
        put(dir.path(), &hidden.store, &data);
        drop(hidden);
        let hidden = Hidden::load(store(dir.path())).expect("loaded");
        assert!(file.leaves.len() > 1 && file.leaves.iter().all(|leaf| hidden.hides(&leaf.cid)));
        assert!(hidden.hides(&file.root) && hidden.is_listed(&file.root));
        hidden.show(&file.root).expect("shown");
        assert!(!file.leaves.iter().any(|leaf| hidden.hides(&leaf.cid)));
        drop(hidden);
        let hidden = Hidden::load(store(dir.path())).expect("loaded");
        assert!(!hidden.hides(&file.root));
    }

    #[test]
    fn what_was_here_before_stays_public_and_what_never_came_is_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let hidden = Hidden::load(store(dir.path())).expect("loaded");
        put(dir.path(), &hidden.store, b"public");
        let (here, never) = (built(b"public").root, built(b"never came").root);
        hidden.hide_leaf(&here).expect("no error");
        hidden.hide_leaf(&never).expect("no error");
        assert!(!hidden.hides(&here) && hidden.hides(&never));
        drop(hidden);
        let hidden = Hidden::load(store(dir.path())).expect("loaded");
        assert!(!hidden.hides(&never));
    }
}
